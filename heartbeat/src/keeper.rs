//! The config keeper's end of heartbeat: epochs, freezes and catching up, in the order in which the core asked.
//!
//! The keeper may be away for a moment (it restarts). What the core asked last is told again until it is known to be
//! there; where the log stands is looked at all the while and told to the core when it changes.

use crate::{array::Array, incarnation};
use pollux_api::action::ActionId;
use pollux_api::config::{self, Hex};
use pollux_api::id::{Epoch, Hash32, LogLength};
use pollux_heartbeat_core::{
    Event,
    effect::Lock,
    event::ConfigStatus,
    record::{Base, Mode, Record},
};
use pollux_runtime::Ctx;
use std::{path::PathBuf, time::Duration};
use tokio::sync::mpsc;

/// Bound of a short call.
const CALL: Duration = Duration::from_secs(2);
/// Bound of one attempt to become equal to the partner.
const CATCH_UP: Duration = Duration::from_secs(20);
/// How often the keeper's status is looked at when nothing else happens.
const LOOK: Duration = Duration::from_millis(250);

/// What the core asks of the keeper.
#[derive(Debug)]
pub enum Ask {
    /// This is the highest record; under the action of the incident that brought it, if there is one.
    Epoch(Record, Option<Lock>, Option<ActionId>),
    /// Freeze the log for this epoch.
    Freeze(Epoch),
    /// The freeze for this epoch is over without a record.
    Unfreeze(Epoch),
    /// Does the log contain this point?
    Probe(Base),
    /// Become equal to the partner.
    CatchUp,
    /// The keeper said that something changed.
    Look,
}

/// Serves the core until it is gone.
///
/// `run` is the directory where the incarnation of this boot stands; an epoch is told only after it was fixed.
pub async fn serve(
    array: Array,
    run: PathBuf,
    mut asks: mpsc::UnboundedReceiver<Ask>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut wanted: Option<config::SetEpoch> = None;
    // The epoch for which the log has to be frozen. A keeper that restarts knows of no freeze, and must not be told the
    // record before it is frozen again: between the two it would acknowledge changes that the epoch being decided
    // lacks (K13).
    let mut frozen_for: Option<Epoch> = None;
    // A freeze that has to end and is not known to have ended.
    let mut thawing: Option<Epoch> = None;
    let mut told: Option<ConfigStatus> = None;
    let mut catching_up: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        let ask = match tokio::time::timeout(LOOK, asks.recv()).await {
            Ok(Some(ask)) => ask,
            Ok(None) => return,
            Err(_) => Ask::Look,
        };
        match ask {
            Ask::Epoch(record, lock, action) => {
                let next = config::SetEpoch {
                    record: to_record(&record),
                    lock: lock.map(lock_words),
                    incarnation: incarnation::running(&run).ok().flatten(),
                };
                if frozen_for.is_some_and(|epoch| record.epoch >= epoch) {
                    frozen_for = None;
                }
                if thawing.is_some_and(|epoch| record.epoch >= epoch) {
                    thawing = None;
                }
                tell_epoch(&array, &next, action).await;
                wanted = Some(next);
            }
            Ask::Freeze(epoch) => {
                frozen_for = Some(epoch);
                thawing = None;
                if let Some(status) = freeze(&array, epoch).await {
                    drop(events.send(Event::ConfigFrozen {
                        epoch,
                        status: to_status(&status),
                    }));
                }
            }
            Ask::Unfreeze(epoch) => {
                frozen_for = None;
                thawing = thaw(&array, epoch).await;
            }
            Ask::Probe(base) => match contains(&array, base).await {
                Ok(contained) => drop(events.send(Event::ConfigProbed { base, contained })),
                Err(error) => tracing::debug!(%error, "the log cannot be probed now"),
            },
            Ask::CatchUp => {
                if catching_up
                    .as_ref()
                    .is_none_or(tokio::task::JoinHandle::is_finished)
                {
                    catching_up = Some(tokio::spawn(catch_up(array.clone(), events.clone())));
                }
            }
            Ask::Look => match array.config::<_, config::Status>(config::STATUS, &(), CALL).await {
                Ok(status) => {
                    if let Some(epoch) = thawing {
                        thawing = match status.frozen {
                            Some(frozen) if frozen == epoch => thaw(&array, epoch).await,
                            _ => None,
                        };
                    }
                    // A keeper that restarted has neither freeze nor epoch: it is told again, the freeze first.
                    if let Some(epoch) = frozen_for.filter(|_| status.frozen.is_none())
                        && freeze(&array, epoch).await.is_none()
                    {
                        continue;
                    }
                    if let Some(wanted) = &wanted
                        && status.epoch.as_ref() != Some(&wanted.record)
                    {
                        tell_epoch(&array, wanted, None).await;
                    }
                    let seen = to_status(&status);
                    if told.replace(seen) != Some(seen) {
                        drop(events.send(Event::Config(seen)));
                    }
                }
                Err(error) => tracing::debug!(%error, "the config keeper does not answer now"),
            },
        }
    }
}

async fn tell_epoch(array: &Array, wanted: &config::SetEpoch, action: Option<ActionId>) {
    let ctx = action.map_or_else(|| Ctx::new(CALL), |action| Ctx::of(action, CALL));
    if let Err(error) = array
        .config_under::<_, config::Status>(config::SET_EPOCH, wanted, &ctx)
        .await
    {
        tracing::warn!(epoch = %wanted.record.epoch, %error, "the config keeper did not take the epoch yet");
    }
}

/// None: it is not known to be frozen.
async fn freeze(array: &Array, epoch: Epoch) -> Option<config::Status> {
    let request = config::Freeze {
        epoch,
        reason: format!("epoch {epoch} is being decided"),
    };
    match array
        .config::<_, config::Status>(config::FREEZE, &request, CALL)
        .await
    {
        Ok(status) if status.frozen == Some(epoch) => Some(status),
        Ok(status) => {
            tracing::warn!(%epoch, frozen = ?status.frozen, "the log did not freeze for this epoch");
            None
        }
        Err(error) => {
            tracing::warn!(%epoch, %error, "the log cannot be frozen now");
            None
        }
    }
}

/// What is still to be ended: nothing, if the keeper has confirmed it.
async fn thaw(array: &Array, epoch: Epoch) -> Option<Epoch> {
    match array
        .config::<_, config::Status>(config::UNFREEZE, &config::Unfreeze { epoch }, CALL)
        .await
    {
        Ok(status) if status.frozen != Some(epoch) => None,
        Ok(_) => Some(epoch),
        Err(error) => {
            tracing::warn!(%epoch, %error, "the log cannot be unfrozen now; tried again");
            Some(epoch)
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
    let Some(before) = length.checked_sub(1) else {
        return Ok(base.hash == Hash32::ZERO);
    };
    let request = config::LogQuery {
        after: before,
        limit: 1,
    };
    let entries: Vec<config::LogEntry> = array.config(config::LOG, &request, CALL).await?;
    Ok(entries
        .first()
        .is_some_and(|entry| entry.index == length && entry.hash.0 == *base.hash.as_bytes()))
}

fn to_record(record: &Record) -> config::EpochRecord {
    let member = |c| record.members.get(c).map(|incarnation| (c, incarnation));
    config::EpochRecord {
        epoch: record.epoch,
        members: pollux_api::id::ControllerId::ALL
            .into_iter()
            .filter_map(member)
            .collect(),
        open: record.mode == Mode::Open,
        base_length: record.base.length.get(),
        base_hash: Hex(*record.base.hash.as_bytes()),
    }
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
    }
}

fn lock_words(lock: Lock) -> String {
    match lock {
        Lock::PartnerUnreachable => {
            "the partner lives on the disks but does not answer on the wire: a change cannot be made durable on both".to_owned()
        }
        Lock::PartnerUnknown => "the partner is a member and nothing is known of it yet".to_owned(),
        Lock::QuorumUnreadable => {
            "the partner is silent and too few quorum disks can be read to know whether it lives".to_owned()
        }
    }
}
