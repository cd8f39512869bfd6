//! The owner's end of forwarding: carries out what hosts asked of the partner's port.
//!
//! The same volumes, the same turns of overlapping writes and the same gate as for hosts of this port. A session
//! belongs to one pool under one claim; when the claim is another here, it is refused command by command, and the
//! partner asks again under the claim that it learns.

use super::link::{BY_ANOTHER_HOST, port_of};
use super::world::{World, pool_of_session};
use crate::backend::Failure;
use crate::gate::ReplyGate;
use crate::paths::{Cancel, HOLD_LIMIT, Paths, Refused, Scope};
use crate::scsi::inquiry::port_number;
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status as ScsiStatus};
use crate::volume::{Question, Undone, Volume};
use bytes::Bytes;
use pollux_api::id::{ControllerId, Generation, PoolId, VolumeId};
use pollux_api::target::Backing;
use pollux_block_frame::{Handler, Hello, Operation, Reply, Request, Status};
use std::sync::Arc;
use tokio::time::Instant;

/// Serves the partner.
#[derive(Debug)]
pub struct Forwarded {
    world: Arc<World>,
    own: ControllerId,
    gate: Arc<dyn ReplyGate>,
}

/// One pool under one claim.
#[derive(Debug)]
pub struct Session {
    pool: PoolId,
    paths: Arc<Paths>,
    /// The claim under which the partner speaks. It grows with every change of owner, so it alone tells claims apart.
    generation: Generation,
    /// Set when the partner has gone or has begun a newer session.
    cancel: Arc<Cancel>,
}

impl Session {
    fn stands(&self) -> bool {
        let route = self.paths.route();
        route.backing == Backing::Local && route.generation == self.generation
    }
}

impl Handler for Forwarded {
    type Session = Session;

    async fn log_in(&self, hello: &Hello) -> Result<Session, Status> {
        if hello.port != port_of(self.own.partner()) {
            return Err(Status::Unauthorized);
        }
        let pool = pool_of_session(&hello.client).ok_or(Status::BadRequest)?;
        let generation = Generation::new(hello.generation);
        let session = Session {
            pool,
            paths: self.world.paths(pool),
            generation,
            cancel: Arc::default(),
        };
        match session.stands() {
            true => Ok(session),
            false => Err(Status::NotOwner),
        }
    }

    async fn handle(&self, session: &Arc<Session>, request: Request) -> Reply {
        let reply = self.carry_out(session, request).await;
        // The partner must not hear from an owner that has lost its lease: it would tell its hosts.
        while !self.gate.is_open() {
            tokio::select! {
                () = self.gate.opened() => {}
                () = session.cancel.cancelled() => return Reply::status(Status::Aborted),
            }
        }
        reply
    }

    fn ended(&self, session: &Arc<Session>) {
        tracing::debug!(pool = %session.pool, "forwarding session ended");
        session.cancel.cancel();
    }
}

impl Forwarded {
    /// Serves what `own` has of `world`; replies pass `gate`.
    #[must_use]
    pub fn new(world: Arc<World>, own: ControllerId, gate: Arc<dyn ReplyGate>) -> Self {
        Self { world, own, gate }
    }

    async fn carry_out(&self, session: &Session, request: Request) -> Reply {
        let id = VolumeId::from_bytes(*request.volume.as_bytes());
        let Some(volume) = self
            .world
            .volume(id)
            .filter(|volume| Arc::ptr_eq(volume.paths(), &session.paths))
        else {
            return Reply::status(Status::UnknownVolume);
        };
        if !session.stands() {
            return Reply::status(Status::NotOwner);
        }
        let reply = self.of_volume(session, &volume, request).await;
        volume.tidy();
        reply
    }

    async fn of_volume(&self, session: &Session, volume: &Arc<Volume>, request: Request) -> Reply {
        let (nexus, begins) = match request.behalf {
            // The partner speaks for its own port's hosts only.
            Some(behalf) if behalf.nexus.port != port_number(self.own.partner()) => {
                return Reply::status(Status::BadRequest);
            }
            Some(behalf) => (Some(behalf.nexus), behalf.begins),
            None => (None, false),
        };
        let now = Instant::now();
        // The partner has told its host by then that it was given up: it is not begun any more.
        if request.begin_by.is_some_and(|begin_by| begin_by <= now) {
            return Reply::status(Status::Aborted);
        }
        let deadline = now + HOLD_LIMIT;
        let scope = Scope {
            deadline: request
                .begin_by
                .map_or(deadline, |begin_by| begin_by.min(deadline)),
            cancel: session.cancel.clone(),
            nexus,
            // The port on which the host has asked has let it in.
            in_standby: true,
        };
        let operation = match request.operation {
            Operation::Scsi { cdb, id, data } => {
                let question = Question {
                    cdb,
                    id: id.into_bytes(),
                    data,
                    begins,
                };
                return match self
                    .world
                    .target()
                    .answer_forwarded(volume, &question, &scope)
                    .await
                {
                    Ok(_) if !session.stands() => Reply::status(Status::Held),
                    Ok(outcome) => reply(&outcome),
                    Err(None) => Reply::status(Status::NotOwner),
                    Err(Some(undone)) => refusal(&undone),
                };
            }
            // The record is the owner's.
            Operation::RecordLoad | Operation::RecordStore { .. } => {
                return Reply::status(Status::Unsupported);
            }
            operation => operation,
        };
        match volume.submit_forwarded(operation, &scope, begins).await {
            // The claim may have changed on the way; then the answer is not this session's to give.
            Ok(_) if !session.stands() => Reply::status(Status::Held),
            Ok(data) if data.is_empty() => Reply::ok(),
            Ok(data) => Reply::data(data),
            Err(None) => Reply::status(Status::NotOwner),
            Err(Some(undone)) => refusal(&undone),
        }
    }
}

/// What the host hears, as a reply.
fn reply(outcome: &Outcome) -> Reply {
    match (outcome.status, &outcome.sense) {
        (ScsiStatus::Good, _) => Reply::data(outcome.data.clone()),
        (status, None) => Reply::scsi(status as u8, Bytes::new()),
        (status, Some(sense)) => Reply::scsi(status as u8, Bytes::copy_from_slice(&sense.to_fixed())),
    }
}

fn refusal(undone: &Undone) -> Reply {
    let status = match undone {
        Undone::Answered(outcome) => return reply(outcome),
        Undone::Aborted => return Reply::with_detail(Status::Aborted, BY_ANOTHER_HOST),
        Undone::Refused(Refused::Cancelled) => Status::Aborted,
        Undone::Refused(Refused::Busy | Refused::Unavailable | Refused::Standby) => Status::Held,
        Undone::Failed(failure) => match failure {
            Failure::Conflict | Failure::InDoubt => Status::Held,
            Failure::Medium => Status::MediumError,
            Failure::OutOfRange => Status::OutOfRange,
            Failure::Miscompare(offset) => return Reply::with_detail(Status::Miscompare, *offset),
            Failure::Unsupported => Status::Unsupported,
            Failure::Gone(why) => {
                tracing::warn!(%why, "a forwarded command failed");
                return reply(&Sense::TARGET_FAILURE.into());
            }
            Failure::Answered(outcome) => return reply(outcome),
            Failure::Aborted => return Reply::with_detail(Status::Aborted, BY_ANOTHER_HOST),
            Failure::NoRoom => return reply(&Sense::SPACE_ALLOCATION_FAILED.into()),
        },
    };
    Reply::status(status)
}
