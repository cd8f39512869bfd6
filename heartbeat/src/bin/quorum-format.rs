//! `quorum-format`: writes an empty quorum area on the quorum disks, once in the life of an array.
//!
//! It refuses unless every quorum disk is blank where the area goes: an area that holds anything at all may be all
//! that remembers who owns what.

use pollux_heartbeat::{quorum, start};
use pollux_heartbeat_core::{
    area::Unread,
    effect::{ReadId, WriteId},
    layout,
};
use pollux_runtime::ControllerConfig;
use std::{collections::BTreeSet, process::ExitCode, time::Duration};

/// Bound of the whole.
const WITHIN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    pollux_runtime::daemon::run(1, |config| async move {
        match tokio::time::timeout(WITHIN, format(&config)).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "not every quorum disk answered within {} s; every one of {:?} has to be there when an array is made",
                WITHIN.as_secs(),
                config.quorum.disks
            )),
        }
    })
}

async fn format(config: &ControllerConfig) -> Result<(), String> {
    let places = start::places(config);
    let (disks, mut outcomes) = start::open_disks(config);
    let count = u32::try_from(layout::AREA_BLOCKS).unwrap_or(u32::MAX);
    let mut left: BTreeSet<_> = disks.keys().copied().collect();
    while !left.is_empty() {
        for disk in &left {
            drop(disks[disk].send(quorum::Command::Read {
                token: (ReadId(0), config.controller),
                block: 0,
                count,
            }));
        }
        for _ in 0..left.len() {
            let Some((disk, quorum::Outcome::Read { result, .. })) = outcomes.recv().await else {
                continue;
            };
            let Ok(bytes) = result else { continue };
            let place = places
                .get(&disk)
                .ok_or_else(|| format!("{disk} is not a quorum disk"))?;
            match layout::decode_area(place, config.controller, &bytes).slot {
                Err(Unread::Blank) if bytes.iter().all(|byte| *byte == 0) => drop(left.remove(&disk)),
                found => {
                    return Err(format!(
                        "{disk} is not blank where the quorum area goes ({found:?}): nothing was written; \
                         an array that exists is not formatted again, and a used disk has to be wiped first"
                    ));
                }
            }
        }
        if !left.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for (disk, place) in &places {
        let write = quorum::Command::Write {
            token: WriteId(0),
            block: 0,
            data: layout::format(place),
        };
        drop(disks[disk].send(write));
    }
    for _ in &places {
        match outcomes.recv().await {
            Some((_, quorum::Outcome::Written { result: Ok(()), .. })) => {}
            Some((disk, quorum::Outcome::Written { result: Err(why), .. })) => {
                return Err(format!(
                    "{disk}: {why}; wipe the quorum disks and format them again"
                ));
            }
            other => return Err(format!("unexpected outcome {:?}", other.map(|(disk, _)| disk))),
        }
    }
    let names: Vec<_> = places.keys().map(ToString::to_string).collect();
    tracing::info!(disks = names.join(", "), array = %config.array, "quorum area formatted");
    Ok(())
}
