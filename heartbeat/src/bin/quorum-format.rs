//! `quorum-format`: writes an empty quorum area on the quorum disks, once in the life of an array.
//!
//! It refuses unless every quorum disk is blank where the area goes: an area that holds anything at all may be all
//! that remembers who owns what.

use pollux_heartbeat::{disks::Disks, quorum};
use pollux_heartbeat_core::{
    QuorumSet,
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
    let set = QuorumSet::first(&config.quorum.disks).ok_or_else(|| {
        format!(
            "{:?}: an array has 1, 3 or 5 different quorum disks",
            config.quorum.disks
        )
    })?;
    let (mut disks, mut outcomes) = Disks::new(config.clone());
    disks.use_set(&set);
    let mut left: BTreeSet<_> = set.all().collect();
    while !left.is_empty() {
        for seat in &left {
            disks.read(*seat, (ReadId(0), config.controller));
        }
        for _ in 0..left.len() {
            let Some((seat, quorum::Outcome::Read { result, .. })) = outcomes.recv().await else {
                continue;
            };
            let Ok(bytes) = result else { continue };
            let disk = seat.disk;
            match layout::decode_area(&disks.place(seat), config.controller, &bytes).slot {
                Err(Unread::Blank) if bytes.iter().all(|byte| *byte == 0) => drop(left.remove(&seat)),
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
    for seat in set.all() {
        let write = quorum::Command::Write {
            token: WriteId(0),
            block: 0,
            data: layout::first(&disks.place(seat), &set),
        };
        disks.ask(seat, write);
    }
    for _ in set.all() {
        match outcomes.recv().await {
            Some((_, quorum::Outcome::Written { result: Ok(()), .. })) => {}
            Some((seat, quorum::Outcome::Written { result: Err(why), .. })) => {
                return Err(format!(
                    "{}: {why}; wipe the quorum disks and format them again",
                    seat.disk
                ));
            }
            other => {
                return Err(format!(
                    "unexpected outcome {:?}",
                    other.map(|(seat, _)| seat.disk)
                ));
            }
        }
    }
    tracing::info!(disks = %set, array = %config.array, "quorum area formatted");
    Ok(())
}
