//! One port of one disk, as the target's code wants it: SCSI in, the disk's own commands out.
//!
//! | what comes | what becomes of it |
//! |---|---|
//! | read, write, flush, compare-and-write | the disk's command of the same name; FUA is passed on |
//! | PERSISTENT RESERVE OUT | the disk's own reservation command, under the port as nexus |
//! | PERSISTENT RESERVE IN | the disk's full status, as the parameter data that was asked for |
//! | a command that only has to be let in | waits as long as the disk does, then the disk's reservation decides |
//! | resets, REQUEST SENSE | answered here; the other port's sessions are told |
//!
//! Unit attentions are the target's: they are put into the queues of the other port's sessions before the command that
//! causes them is answered.
//!
//! What such a disk does not have: the all registrants types, SPEC_I_PT, ALL_TG_PT, REGISTER AND MOVE (REPORT
//! CAPABILITIES says so). Registrations are always kept over a loss of power.

use crate::names::Names;
use bytes::Bytes;
use pollux_api::id::{ControllerId, VolumeId};
use pollux_api::target::UnitReset;
use pollux_block_frame::{
    Behalf, FullStatus, Key, Nexus, Operation, Port, Reply, ReservationOut, ReservationType, Status as Disk,
};
use pollux_block_target::backend::{BoxFuture, Failure, VolumeBackend};
use pollux_block_target::scsi::cdb::Command;
use pollux_block_target::scsi::reservation::{Access, Held, In, Kind, Out, Parameters, State, access_of};
use pollux_block_target::scsi::sense::Sense;
use pollux_block_target::scsi::{Outcome, Status};
use pollux_block_target::target::Target;
use pollux_block_target::volume::Question;
use pollux_chassis::shelf::Plug;
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// What both ports of a disk share.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) id: VolumeId,
    pub(crate) names: Arc<Names>,
    pub(crate) targets: [Weak<Target>; 2],
    /// PERSISTENT RESERVE OUT of both ports, one after the other: who is to be told shows in the difference.
    order: tokio::sync::Mutex<()>,
}

impl Unit {
    pub(crate) fn new(id: VolumeId, names: Arc<Names>, targets: [Weak<Target>; 2]) -> Self {
        Unit {
            id,
            names,
            targets,
            order: tokio::sync::Mutex::default(),
        }
    }
}

/// One port of one disk.
#[derive(Debug)]
pub(crate) struct DiskPort {
    port: ControllerId,
    plug: Plug,
    unit: Arc<Unit>,
}

impl DiskPort {
    pub(crate) fn new(port: ControllerId, plug: Plug, unit: Arc<Unit>) -> Self {
        DiskPort { port, plug, unit }
    }

    async fn carry_out(&self, behalf: Option<Behalf>, operation: Operation) -> Result<Bytes, Failure> {
        match operation {
            Operation::Scsi { cdb, data, .. } => {
                let nexus = behalf.map(|behalf| behalf.nexus);
                self.question(nexus.as_deref(), cdb, data).await
            }
            operation => done(self.plug.submit(operation).await),
        }
    }

    async fn status(&self) -> Result<FullStatus, Failure> {
        let reply = self.plug.submit(Operation::ReservationIn).await;
        let status = reply.to_full_status();
        done(reply)?;
        status.map_err(|error| Failure::Gone(error.to_string()))
    }

    /// What only the disk can say.
    async fn question(&self, by: Option<&Nexus>, cdb: [u8; 16], data: Bytes) -> Result<Bytes, Failure> {
        let question = Question {
            cdb,
            id: [0; 16],
            data,
            begins: false,
        };
        if let Some(reach) = question.is_reset() {
            if let Some(other) = self.unit.targets[other(self.port).index()].upgrade() {
                let volume = self.unit.id;
                other.reset_by_partner(&UnitReset { volume, reach }).await;
            }
            return Ok(Bytes::new());
        }
        match Command::decode(&cdb) {
            Err(sense) => Err(Failure::Answered(sense.into())),
            // The target has asked its own queue before.
            Ok(Command::RequestSense { .. }) => Ok(Bytes::new()),
            Ok(Command::PersistentReserveIn { what, allocation }) => {
                let mut report = report(&self.status().await?, &self.unit.names, what);
                report.truncate(allocation as usize);
                Ok(report.into())
            }
            Ok(Command::PersistentReserveOut(parameters)) => {
                let nexus = by.ok_or(Failure::Unsupported)?;
                self.reserve(nexus, parameters, &question.data).await
            }
            Ok(_) => {
                let state = state(&self.status().await?, &self.unit.names);
                let access = access_of(&cdb);
                match access != Access::Free && state.conflicts(&self.unit.names.nexus(self.port), access) {
                    true => Err(Failure::Answered(Outcome::status(Status::ReservationConflict))),
                    false => Ok(Bytes::new()),
                }
            }
        }
    }

    async fn reserve(&self, by: &Nexus, parameters: Parameters, list: &[u8]) -> Result<Bytes, Failure> {
        let sense = |sense: Sense| Failure::Answered(sense.into());
        let out = Out::decode(parameters, list, by.port).map_err(sense)?;
        let _in_order = self.unit.order.lock().await;
        let before = self.status().await?;
        let order = translate(&out, &before).map_err(sense)?;
        if matches!(out, Out::Register { .. } | Out::RegisterAndIgnore { .. }) {
            let kept = self.unit.names.registers(self.port, by);
            kept.map_err(|error| Failure::Gone(format!("the initiator's name is not kept: {error}")))?;
        }
        let reply = self.plug.submit(Operation::ReservationOut(order)).await;
        match (reply.status, &out) {
            (Disk::BadRequest, Out::Release { .. }) => return Err(sense(Sense::INVALID_RELEASE)),
            (Disk::BadRequest, _) => return Err(sense(Sense::invalid_parameter(8))),
            _ => done(reply)?,
        };
        let after = self.status().await?;
        let other = other(self.port);
        if let (Some(told), Some(target)) = (
            told(&out, other, &before, &after),
            self.unit.targets[other.index()].upgrade(),
        ) {
            target.attend(self.unit.id, told);
        }
        Ok(Bytes::new())
    }
}

impl VolumeBackend for DiskPort {
    fn submit(&self, operation: Operation) -> BoxFuture<'_, Result<Bytes, Failure>> {
        Box::pin(self.carry_out(None, operation))
    }

    fn submit_for(
        &self,
        behalf: Option<Behalf>,
        _begin_by: Instant,
        operation: Operation,
    ) -> BoxFuture<'_, Result<Bytes, Failure>> {
        Box::pin(self.carry_out(behalf, operation))
    }

    fn ends_when_dropped(&self) -> bool {
        true
    }
}

fn other(port: ControllerId) -> ControllerId {
    match port {
        ControllerId::A => ControllerId::B,
        ControllerId::B => ControllerId::A,
    }
}

fn port_of(controller: ControllerId) -> Port {
    match controller {
        ControllerId::A => Port::A,
        ControllerId::B => Port::B,
    }
}

/// What a disk has answered, as a host hears it.
fn done(reply: Reply) -> Result<Bytes, Failure> {
    let sense = |sense: Sense| Err(Failure::Answered(sense.into()));
    match reply.status {
        Disk::Ok => Ok(reply.payload),
        Disk::ReservationConflict => Err(Failure::Answered(Outcome::status(Status::ReservationConflict))),
        Disk::MediumError => Err(Failure::Medium),
        Disk::WriteProtected => sense(Sense::WRITE_PROTECTED),
        Disk::NotReady => sense(Sense::NOT_READY),
        Disk::Aborted => Err(Failure::Aborted),
        Disk::OutOfRange => Err(Failure::OutOfRange),
        Disk::NoPath => Err(Failure::InDoubt),
        Disk::Miscompare => Err(Failure::Miscompare(reply.detail)),
        Disk::Unsupported => Err(Failure::Unsupported),
        status => Err(Failure::Gone(format!("the disk answered {status:?}"))),
    }
}

/// The disk's command for a host's.
fn translate(out: &Out, before: &FullStatus) -> Result<ReservationOut, Sense> {
    let kind_of = |kind: Kind| ReservationType::from_u8(kind as u8).ok_or(Sense::invalid_field(2));
    Ok(match *out {
        Out::Register {
            ref others,
            all_ports,
            ..
        } if all_ports || !others.is_empty() => {
            return Err(Sense::invalid_parameter(20));
        }
        Out::RegisterAndIgnore { all_ports: true, .. } => return Err(Sense::invalid_parameter(20)),
        Out::Register { key, new, .. } => ReservationOut::Register {
            current: Key(key),
            new: Key(new),
        },
        Out::RegisterAndIgnore { new, .. } => ReservationOut::RegisterAndIgnore { new: Key(new) },
        Out::Reserve { key, kind } => ReservationOut::Reserve {
            key: Key(key),
            kind: kind_of(kind)?,
        },
        Out::Release { key, kind } => ReservationOut::Release {
            key: Key(key),
            kind: kind_of(kind)?,
        },
        Out::Clear { key } => ReservationOut::Clear { key: Key(key) },
        Out::Preempt {
            key,
            victim,
            kind,
            abort,
        } => {
            // The type only counts where the reservation is taken over (SPC-4, 5.13.11.4).
            let takes_over = before.reservation.is_some_and(|held| held.key == Key(victim));
            let kind = match kind {
                Some(kind) => kind_of(kind),
                None => Err(Sense::invalid_field(2)),
            };
            ReservationOut::Preempt {
                key: Key(key),
                victim: Key(victim),
                kind: match kind {
                    Err(_) if !takes_over => ReservationType::WriteExclusive,
                    kind => kind?,
                },
                abort,
            }
        }
        Out::RegisterAndMove { .. } => return Err(Sense::invalid_field(1)),
    })
}

/// Which unit attention the other port's hosts get (SPC-4, 5.13.11).
fn told(out: &Out, other: ControllerId, before: &FullStatus, after: &FullStatus) -> Option<Sense> {
    let registered = |status: &FullStatus| {
        let port = port_of(other);
        status.registrants.iter().any(|entry| entry.port == port)
    };
    if !registered(before) {
        return None;
    }
    let shared = before.reservation.filter(|held| {
        matches!(
            held.kind,
            ReservationType::WriteExclusiveRegistrantsOnly | ReservationType::ExclusiveAccessRegistrantsOnly
        )
    });
    let kind = after.reservation.map(|held| held.kind);
    match out {
        Out::Clear { .. } => Some(Sense::RESERVATIONS_PREEMPTED),
        Out::Preempt { .. } if !registered(after) => Some(Sense::REGISTRATIONS_PREEMPTED),
        Out::Preempt { .. } => {
            let changed = before.reservation.is_some_and(|held| Some(held.kind) != kind);
            changed.then_some(Sense::RESERVATIONS_RELEASED)
        }
        _ => (shared.is_some() && kind.is_none()).then_some(Sense::RESERVATIONS_RELEASED),
    }
}

/// The disk's reservations with initiators in the place of ports.
fn state(status: &FullStatus, names: &Names) -> State {
    let nexus = |port: Port| {
        let controller = ControllerId::ALL.into_iter().find(|each| port_of(*each) == port);
        names.nexus(controller.unwrap_or(ControllerId::A))
    };
    let registrations = status
        .registrants
        .iter()
        .map(|entry| (nexus(entry.port), entry.key.0));
    let held = status.reservation.and_then(|held| {
        Some(Held {
            kind: Kind::from_code(held.kind as u8)?,
            holder: Some(nexus(held.port)),
        })
    });
    State::kept_elsewhere(status.generation, registrations.collect(), held)
}

/// Parameter data of PERSISTENT RESERVE IN (SPC-4, 6.15).
fn report(status: &FullStatus, names: &Names, what: In) -> Vec<u8> {
    match what {
        // PTPL_C; TMV and PTPL_A; the four types that have one holder.
        In::Capabilities => vec![0, 8, 0x01, 0x81, 0x6a, 0, 0, 0],
        what => state(status, names).report(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_block_frame::{Registrant, Reservation};

    const A: ControllerId = ControllerId::A;
    const B: ControllerId = ControllerId::B;

    fn status(registrants: &[(Port, u64)], held: Option<(Port, u64, ReservationType)>) -> FullStatus {
        FullStatus {
            generation: 1,
            registrants: registrants
                .iter()
                .map(|(port, key)| Registrant {
                    port: *port,
                    key: Key(*key),
                })
                .collect(),
            reservation: held.map(|(port, key, kind)| Reservation {
                key: Key(key),
                port,
                kind,
            }),
        }
    }

    #[test]
    fn the_other_port_is_told_what_the_standard_says_and_nothing_else() {
        const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
        let both = [(Port::A, 1), (Port::B, 2)];
        let held = status(&both, Some((Port::A, 1, WERO)));
        let free = status(&both, None);
        let only_b = status(&both[1..], Some((Port::B, 2, WERO)));
        let none = status(&[], None);
        let preempt = Out::Preempt {
            key: 2,
            victim: 1,
            kind: Some(Kind::WriteExclusiveRegistrantsOnly),
            abort: true,
        };
        let release = Out::Release {
            key: 1,
            kind: Kind::WriteExclusiveRegistrantsOnly,
        };
        let clear = Out::Clear { key: 1 };
        let register = Out::RegisterAndIgnore {
            new: 3,
            all_ports: false,
            aptpl: true,
        };
        for (out, other, before, after, expected) in [
            (&preempt, A, &held, &only_b, Some(Sense::REGISTRATIONS_PREEMPTED)),
            (&release, B, &held, &free, Some(Sense::RESERVATIONS_RELEASED)),
            (&clear, B, &held, &none, Some(Sense::RESERVATIONS_PREEMPTED)),
            (&clear, A, &only_b, &none, None),
            (&register, B, &held, &held, None),
            (&release, B, &free, &free, None),
        ] {
            assert_eq!(told(out, other, before, after), expected, "{out:?}");
        }
    }

    #[test]
    fn what_the_disk_does_not_have_is_refused_and_a_type_only_where_it_counts() {
        let before = status(
            &[(Port::A, 1)],
            Some((Port::A, 1, ReservationType::WriteExclusive)),
        );
        let reserve = |kind| translate(&Out::Reserve { key: 1, kind }, &before);
        assert!(reserve(Kind::ExclusiveAccess).is_ok());
        assert_eq!(
            reserve(Kind::WriteExclusiveAllRegistrants),
            Err(Sense::invalid_field(2))
        );
        let preempt = |victim| {
            let out = Out::Preempt {
                key: 2,
                victim,
                kind: None,
                abort: false,
            };
            translate(&out, &before)
        };
        assert_eq!(preempt(1), Err(Sense::invalid_field(2)));
        assert!(preempt(9).is_ok());
        let register = Out::RegisterAndIgnore {
            new: 1,
            all_ports: true,
            aptpl: false,
        };
        assert_eq!(translate(&register, &before), Err(Sense::invalid_parameter(20)));
    }
}
