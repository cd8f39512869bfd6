//! The config keeper's end of heartbeat: epochs, freezes and catching up, in the order in which the core asked.
//!
//! The keeper may be away for a moment (it restarts). What the core asked last is told again until it is known to be
//! there; where the log stands is looked at all the while and told to the core when it changes. What is told when is
//! decided in [`pollux_heartbeat_core::liaison`]; here are the calls.

use crate::{array::Array, incarnation};
use pollux_api::action::ActionId;
use pollux_api::config::{self, Hex};
use pollux_api::id::{Hash32, LogLength};
pub use pollux_heartbeat_core::liaison::Ask;
use pollux_heartbeat_core::{
    Event,
    event::ConfigStatus,
    liaison::{Call, Liaison, epoch_record, lock_words},
    record::Base,
};
use pollux_runtime::Ctx;
use std::{path::Path, path::PathBuf, time::Duration};
use tokio::sync::mpsc;

/// Bound of a short call.
const CALL: Duration = Duration::from_secs(2);
/// Bound of one attempt to become equal to the partner.
const CATCH_UP: Duration = Duration::from_secs(20);
/// How often the keeper's status is looked at when nothing else happens.
const LOOK: Duration = Duration::from_millis(250);

/// What the core asks of the keeper, under the action of the incident that brought it, if there is one.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub ask: Ask,
    /// Under which action.
    pub action: Option<ActionId>,
}

impl From<Ask> for Asked {
    fn from(ask: Ask) -> Self {
        Self { ask, action: None }
    }
}

/// Serves the core until it is gone.
///
/// `run` is the directory where the incarnation of this boot stands; an epoch is told only after it was fixed.
pub async fn serve(
    array: Array,
    run: PathBuf,
    mut asks: mpsc::UnboundedReceiver<Asked>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut liaison = Liaison::default();
    let mut catching_up: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        let Asked { ask, action } = match tokio::time::timeout(LOOK, asks.recv()).await {
            Ok(Some(asked)) => asked,
            Ok(None) => return,
            Err(_) => Ask::Look.into(),
        };
        let mut call = Some(liaison.ask(ask));
        while let Some(present) = call.take() {
            match &present {
                Call::Probe(base) => match contains(&array, *base).await {
                    Ok(contained) => drop(events.send(Event::ConfigProbed {
                        base: *base,
                        contained,
                    })),
                    Err(error) => tracing::debug!(%error, "the log cannot be probed now"),
                },
                Call::CatchUp => {
                    if catching_up
                        .as_ref()
                        .is_none_or(tokio::task::JoinHandle::is_finished)
                    {
                        catching_up = Some(tokio::spawn(catch_up(array.clone(), events.clone())));
                    }
                }
                Call::SetEpoch(..) | Call::Freeze(_) | Call::Unfreeze(_) | Call::Status => {
                    let answer = carry_out(&array, &run, &present, action).await;
                    let next = liaison.answered(&present, answer);
                    if let Some(event) = next.event {
                        drop(events.send(event));
                    }
                    call = next.call;
                }
            }
        }
    }
}

/// A call that is answered by a status; none: refused, failed, or no answer in time.
async fn carry_out(array: &Array, run: &Path, call: &Call, action: Option<ActionId>) -> Option<ConfigStatus> {
    let answer: Result<config::Status, _> = match call {
        Call::SetEpoch(record, lock) => {
            let set = config::SetEpoch {
                record: epoch_record(record),
                lock: lock.map(lock_words),
                incarnation: incarnation::running(run).ok().flatten(),
            };
            let ctx = action.map_or_else(|| Ctx::new(CALL), |action| Ctx::of(action, CALL));
            array.config_under(config::SET_EPOCH, &set, &ctx).await
        }
        Call::Freeze(epoch) => {
            let freeze = config::Freeze {
                epoch: *epoch,
                reason: format!("epoch {epoch} is being decided"),
            };
            array.config(config::FREEZE, &freeze, CALL).await
        }
        Call::Unfreeze(epoch) => {
            let unfreeze = config::Unfreeze { epoch: *epoch };
            array.config(config::UNFREEZE, &unfreeze, CALL).await
        }
        Call::Status | Call::Probe(_) | Call::CatchUp => array.config(config::STATUS, &(), CALL).await,
    };
    match answer {
        Ok(status) => {
            let seen = to_status(&status);
            match call {
                Call::Freeze(epoch) if seen.frozen != Some(*epoch) => {
                    tracing::warn!(%epoch, frozen = ?seen.frozen, "the log did not freeze for this epoch");
                }
                _ => {}
            }
            Some(seen)
        }
        Err(error) => {
            match call {
                Call::Status => tracing::debug!(%error, "the config keeper does not answer now"),
                _ => tracing::warn!(?call, %error, "the config keeper did not do it yet; it is told again"),
            }
            None
        }
    }
}

async fn catch_up(array: Array, events: mpsc::UnboundedSender<Event>) {
    match array
        .config::<_, config::CaughtUp>(config::CATCH_UP, &(), CATCH_UP)
        .await
    {
        Ok(done) => {
            let log = Base {
                length: LogLength::new(done.length),
                hash: Hash32::from_bytes(done.hash.0),
            };
            drop(events.send(Event::ConfigCaughtUp {
                log,
                equal: done.equal,
            }));
        }
        Err(error) => tracing::debug!(%error, "not caught up with the partner's log yet"),
    }
}

async fn contains(array: &Array, base: Base) -> Result<bool, pollux_api::error::RpcError> {
    let length = base.length.get();
    if length == 0 {
        return Ok(base.hash == Hash32::ZERO);
    }
    let request = config::HashAt { length };
    let hash: Option<Hex<32>> = array.config(config::HASH_AT, &request, CALL).await?;
    Ok(hash.is_some_and(|hash| hash.0 == *base.hash.as_bytes()))
}

fn to_status(status: &config::Status) -> ConfigStatus {
    let base = |length, hash: Hex<32>| Base {
        length: LogLength::new(length),
        hash: Hash32::from_bytes(hash.0),
    };
    ConfigStatus {
        log: base(status.length, status.hash),
        acknowledged: base(status.acknowledged_length, status.acknowledged_hash),
        acknowledging: status.acknowledging,
        in_sync: status.in_sync_as_of == Some(status.length),
        diverged: status.diverged.is_some(),
        lost: status.lost.is_some(),
        frozen: status.frozen,
        epoch: status.epoch.as_ref().map(|record| record.epoch),
    }
}
