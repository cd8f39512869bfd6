//! Persistent reservations as the array speaks of them, on disks as they are.
//!
//! The array knows two initiator ports, a and b; a disk knows nexuses. The bridge is the key: a key of the array says in its
//! own bits whose it is (pool-manager writes them so), whatever the fabric calls the port.
//!
//! ```text
//! 63..60 0xa   59..56 controller (1 a, 2 b)   55..48 array   47..0 epoch and claim generation
//! ```
//!
//! A key of somebody else gets a number above 255 that stands for its nexus, so that it is equal to no port of ours and the
//! same at every look.
//!
//! Reading is one command (READ FULL STATUS), or, on disks that do not have it, READ KEYS twice around READ RESERVATION: a
//! reservation that was read between two equal lists of keys of one generation was there with them.

use pollux_api::id::ArrayId;
use pollux_block_frame::{
    FullStatus, Key, Port, Registrant, Reservation, ReservationOut, ReservationType, Status,
};
use pollux_platform::scsi::command::{self, ReserveIn, ReserveOut};
use pollux_platform::scsi::decode::{self, Keys, Registration, Reserved};
use pollux_platform::scsi::sense::key;
use pollux_platform::scsi::{ScsiDisk, ScsiError, run, status};
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for an answer: some hundred registrants.
const ROOM: u16 = 8192;
/// Attempts to read keys and reservation of one moment.
const ATTEMPTS: usize = 5;

/// The mark of a key of an array, in its upper four bits.
const MARK: u64 = 0xa;

/// The port of the controller that registered this key, if it is one of this array.
fn owner(array: ArrayId, key: u64) -> Option<Port> {
    let tag = array
        .as_bytes()
        .iter()
        .fold(0, |tag, byte| tag ^ u64::from(*byte));
    match (key >> 60, key >> 56 & 0xf, key >> 48 & 0xff) {
        (MARK, 1, found) if found == tag => Some(Port::A),
        (MARK, 2, found) if found == tag => Some(Port::B),
        _ => None,
    }
}

/// A number for a nexus that is none of ours: FNV-1a of its names, above 255.
fn stranger(names: &[&[u8]]) -> Port {
    let hash = names.concat().iter().fold(0x811c_9dc5u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    Port((hash ^ hash >> 16) as u16 | 0x100)
}

/// How an error of a disk is told to the daemons.
pub(crate) fn status_of(error: &ScsiError) -> Status {
    match error {
        ScsiError::ReservationConflict { .. } => Status::ReservationConflict,
        ScsiError::Io { .. } | ScsiError::Transport { .. } => Status::NoPath,
        ScsiError::Malformed { .. } => Status::MediumError,
        ScsiError::Status { status, .. } => match *status {
            status::BUSY | status::TASK_SET_FULL => Status::NoResources,
            // TASK ABORTED among them: what of it was done is not known.
            _ => Status::NoPath,
        },
        ScsiError::Check { sense, .. } => match (sense.key, sense.code) {
            (key::NOT_READY, _) => Status::NotReady,
            (key::MEDIUM_ERROR | key::HARDWARE_ERROR, _) => Status::MediumError,
            (key::DATA_PROTECT, _) => Status::WriteProtected,
            (key::MISCOMPARE, _) => Status::Miscompare,
            (key::ILLEGAL_REQUEST, 0x20 | 0x24) => Status::Unsupported,
            (key::ILLEGAL_REQUEST, 0x21) => Status::OutOfRange,
            // INSUFFICIENT REGISTRATION RESOURCES.
            (key::ILLEGAL_REQUEST, 0x55) => Status::NoResources,
            (key::ILLEGAL_REQUEST, _) => Status::BadRequest,
            // A unit attention that does not end, an aborted command, a deferred error: its end is not known.
            _ => Status::NoPath,
        },
    }
}

/// The reservations of one disk.
#[derive(Debug)]
pub(crate) struct Reservations {
    array: ArrayId,
    /// Registrations are to persist through a loss of power (APTPL).
    persists: bool,
    /// The disk has rejected READ FULL STATUS.
    in_parts: AtomicBool,
}

impl Reservations {
    pub(crate) fn new(array: ArrayId, persists: bool) -> Self {
        Reservations {
            array,
            persists,
            in_parts: AtomicBool::new(false),
        }
    }

    /// Everything that the disk knows about reservations at one instant.
    ///
    /// # Errors
    /// What the disk says; [`Status::Unsupported`] for a reservation of a type that the array does not know.
    pub(crate) fn read(&self, disk: &dyn ScsiDisk) -> Result<FullStatus, Refusal> {
        if !self.in_parts.load(Ordering::Relaxed) {
            match list(disk, ReserveIn::ReadFullStatus).and_then(|bytes| decode::FullStatus::decode(&bytes)) {
                Ok(full) => return self.of_full(&full),
                Err(error) if error.is_unsupported() => {
                    tracing::warn!(
                        %error,
                        "this disk has no READ FULL STATUS: keys and reservation are read one after the other"
                    );
                    self.in_parts.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.read_in_parts(disk)
    }

    fn port_of(&self, key: u64, names: &[&[u8]]) -> Port {
        owner(self.array, key).unwrap_or_else(|| stranger(names))
    }

    fn of_full(&self, full: &decode::FullStatus) -> Result<FullStatus, Refusal> {
        let port =
            |one: &Registration| self.port_of(one.key, &[&one.target_port.to_be_bytes(), &one.transport_id]);
        let mut reservation = None;
        for one in &full.registrations {
            if let Some(kind) = one.holds {
                reservation = Some(Reservation {
                    key: Key(one.key),
                    port: port(one),
                    kind: known(kind)?,
                });
            }
        }
        let registrants = full.registrations.iter().map(|one| Registrant {
            port: port(one),
            key: Key(one.key),
        });
        Ok(FullStatus {
            generation: full.generation,
            registrants: registrants.collect(),
            reservation,
        })
    }

    fn read_in_parts(&self, disk: &dyn ScsiDisk) -> Result<FullStatus, Refusal> {
        let keys = || Keys::decode(&list(disk, ReserveIn::ReadKeys)?);
        let mut before = keys()?;
        for _ in 0..ATTEMPTS {
            let reserved = Reserved::decode(&list(disk, ReserveIn::ReadReservation)?)?;
            let after = keys()?;
            if before == after && reserved.generation == after.generation {
                let port = |key: u64| self.port_of(key, &[&key.to_be_bytes()]);
                let reservation = match reserved.held {
                    None => None,
                    Some(held) => Some(Reservation {
                        key: Key(held.key),
                        port: port(held.key),
                        kind: known(held.kind)?,
                    }),
                };
                let registrants = after.keys.iter().map(|&key| Registrant {
                    port: port(key),
                    key: Key(key),
                });
                return Ok(FullStatus {
                    generation: after.generation,
                    registrants: registrants.collect(),
                    reservation,
                });
            }
            before = after;
        }
        Err(Refusal {
            status: Status::NoResources,
            why: format!("registrations changed while they were read, {ATTEMPTS} times in a row"),
        })
    }

    /// PERSISTENT RESERVE OUT.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn change(&self, disk: &dyn ScsiDisk, out: ReservationOut) -> Result<(), Refusal> {
        let (action, kind, key, argument) = match out {
            ReservationOut::Register { current, new } => (ReserveOut::Register, 0, current.0, new.0),
            ReservationOut::RegisterAndIgnore { new } => (ReserveOut::RegisterAndIgnore, 0, 0, new.0),
            ReservationOut::Reserve { key, kind } => (ReserveOut::Reserve, kind as u8, key.0, 0),
            ReservationOut::Release { key, kind } => (ReserveOut::Release, kind as u8, key.0, 0),
            ReservationOut::Clear { key } => (ReserveOut::Clear, 0, key.0, 0),
            ReservationOut::Preempt { victim: Key(0), .. } => {
                // It would mean every registrant, on a disk whose reservation they all hold.
                return Err(Refusal {
                    status: Status::BadRequest,
                    why: "a preempt names the key of its victim, and zero is none".to_owned(),
                });
            }
            ReservationOut::Preempt {
                key,
                victim,
                kind,
                abort,
            } => {
                let action = match abort {
                    true => ReserveOut::PreemptAndAbort,
                    false => ReserveOut::Preempt,
                };
                (action, kind as u8, key.0, victim.0)
            }
        };
        let registers = matches!(action, ReserveOut::Register | ReserveOut::RegisterAndIgnore);
        let persist = registers && self.persists;
        run(disk, &command::reserve_out(action, kind, key, argument, persist))?;
        Ok(())
    }
}

/// Why a command was not done: what the daemons are told, and what the journal is.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) why: String,
}

impl From<ScsiError> for Refusal {
    fn from(error: ScsiError) -> Self {
        Refusal {
            status: status_of(&error),
            why: error.to_string(),
        }
    }
}

fn known(kind: u8) -> Result<ReservationType, Refusal> {
    ReservationType::from_u8(kind).ok_or_else(|| Refusal {
        status: Status::Unsupported,
        why: format!("somebody holds a reservation of type {kind}; the array knows 1, 3, 5 and 6: clear it (sg_persist)"),
    })
}

/// Reads a list, again with as much room as it says that it needs.
fn list(disk: &dyn ScsiDisk, action: ReserveIn) -> Result<Vec<u8>, ScsiError> {
    let bytes = run(disk, &command::reserve_in(action, ROOM))?;
    match decode::whole_list(&bytes) {
        Some(whole) if whole > bytes.len() as u64 && whole > u64::from(ROOM) => {
            let room = u16::try_from(whole).unwrap_or(u16::MAX);
            run(disk, &command::reserve_in(action, room))
        }
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_platform::fake::scsi::{FakeDisk, FakePort, Model};
    use pollux_platform::scsi::Sense;
    use pollux_platform::scsi::decode::Wwn;
    use std::sync::Arc;

    const ARRAY: ArrayId = ArrayId::from_bytes(*b"enclosure-tests!");
    const WERO: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

    /// A key as pool-manager writes it.
    fn ours(controller: u64, rest: u64) -> u64 {
        let tag = ARRAY
            .as_bytes()
            .iter()
            .fold(0, |tag, byte| tag ^ u64::from(*byte));
        0xa << 60 | controller << 56 | tag << 48 | rest
    }

    fn shelf(change: impl FnOnce(&mut Model)) -> (Arc<FakeDisk>, [FakePort; 2]) {
        let mut model = Model::new(Wwn::Naa(0x5000_c500_a1b2_c3d7));
        change(&mut model);
        let disk = FakeDisk::new(model);
        let ports = [disk.port(7), disk.port(9)];
        (disk, ports)
    }

    fn do_all(reservations: &Reservations, steps: &[(&FakePort, ReservationOut)]) {
        for (port, out) in steps {
            reservations
                .change(*port, *out)
                .unwrap_or_else(|refusal| panic!("{out:?}: {}", refusal.why));
        }
    }

    #[test]
    fn the_owner_of_a_key_stands_in_it() {
        assert_eq!(owner(ARRAY, ours(1, 77)), Some(Port::A));
        assert_eq!(owner(ARRAY, ours(2, 0)), Some(Port::B));
        for foreign in [
            0,
            1,
            ours(3, 1),
            ours(0, 1),
            ours(1, 1) ^ 1 << 48,
            ours(1, 1) ^ 1 << 63,
        ] {
            assert_eq!(owner(ARRAY, foreign), None, "{foreign:#x}");
        }
        let known = owner(ArrayId::from_bytes([0; 16]), 0xa100_0000_0500_0003);
        assert_eq!(known, Some(Port::A), "as written on paper");
        assert!(stranger(&[b"x"]).0 > 255 && stranger(&[b"x"]) == stranger(&[b"x"]));
    }

    #[test]
    fn both_ways_to_read_say_the_same() {
        let (_, whole) = shelf(|_| ());
        let (_, parts) = shelf(|model| model.rejects_in = [3].into());
        for [a, b] in [whole, parts] {
            let reservations = Reservations::new(ARRAY, true);
            assert_eq!(reservations.read(&a).expect("blank"), FullStatus::default());
            let (ka, kb) = (Key(ours(1, 5)), Key(ours(2, 6)));
            do_all(
                &reservations,
                &[
                    (&a, ReservationOut::RegisterAndIgnore { new: ka }),
                    (&b, ReservationOut::RegisterAndIgnore { new: kb }),
                    (&a, ReservationOut::Reserve { key: ka, kind: WERO }),
                ],
            );
            let status = reservations.read(&b).expect("read");
            let mut registrants = status.registrants.clone();
            registrants.sort_unstable_by_key(|one| one.port);
            let registered = |port, key| Registrant { port, key };
            assert_eq!(registrants, [registered(Port::A, ka), registered(Port::B, kb)]);
            let held = Reservation {
                key: ka,
                port: Port::A,
                kind: WERO,
            };
            assert_eq!((status.generation, status.reservation), (2, Some(held)));
        }
    }

    #[test]
    fn a_stranger_is_neither_a_nor_b() {
        let (_, [a, _]) = shelf(|_| ());
        let reservations = Reservations::new(ARRAY, false);
        do_all(
            &reservations,
            &[(&a, ReservationOut::RegisterAndIgnore { new: Key(0x1234) })],
        );
        let status = reservations.read(&a).expect("read");
        assert!(status.registrants[0].port.0 > 255, "{status:?}");
        run(
            &a,
            &command::reserve_out(ReserveOut::Reserve, 7, 0x1234, 0, false),
        )
        .expect("all registrants");
        let refusal = reservations
            .read(&a)
            .expect_err("a type that the array does not know");
        assert_eq!(refusal.status, Status::Unsupported);
        assert!(refusal.why.contains("type 7"), "{}", refusal.why);
    }

    #[test]
    fn a_list_that_is_longer_than_the_room_is_read_whole() {
        let (disk, [a, _]) = shelf(|_| ());
        let reservations = Reservations::new(ARRAY, false);
        for nexus in 100..400 {
            do_all(
                &reservations,
                &[(
                    &disk.port(nexus),
                    ReservationOut::RegisterAndIgnore {
                        new: Key(nexus.into()),
                    },
                )],
            );
        }
        assert_eq!(reservations.read(&a).expect("read").registrants.len(), 300);
    }

    #[test]
    fn registrations_persist_where_the_disk_can() {
        for persists in [true, false] {
            let (disk, [a, _]) = shelf(|model| model.persists = persists);
            let reservations = Reservations::new(ARRAY, persists);
            do_all(
                &reservations,
                &[(&a, ReservationOut::RegisterAndIgnore { new: Key(ours(1, 1)) })],
            );
            disk.cycle_power();
            let left = reservations.read(&a).expect("read").registrants.len();
            assert_eq!(left, usize::from(persists));
        }
    }

    #[test]
    fn what_a_disk_says_is_told_as_what_it_means() {
        let sense = |key, code| ScsiError::Check {
            command: "X",
            sense: Sense {
                key,
                code,
                ..Sense::default()
            },
        };
        for (error, status) in [
            (sense(2, 4), Status::NotReady),
            (sense(3, 0x11), Status::MediumError),
            (sense(5, 0x20), Status::Unsupported),
            (sense(5, 0x21), Status::OutOfRange),
            (sense(5, 0x26), Status::BadRequest),
            (sense(5, 0x55), Status::NoResources),
            (sense(6, 0x29), Status::NoPath),
            (sense(7, 0x27), Status::WriteProtected),
            (sense(0xb, 0), Status::NoPath),
            (
                ScsiError::Status {
                    command: "X",
                    status: 0x40,
                },
                Status::NoPath,
            ),
            (
                ScsiError::Status {
                    command: "X",
                    status: 0x28,
                },
                Status::NoResources,
            ),
            (
                ScsiError::Transport {
                    command: "X",
                    host: 3,
                    driver: 0,
                },
                Status::NoPath,
            ),
            (
                ScsiError::ReservationConflict { command: "X" },
                Status::ReservationConflict,
            ),
        ] {
            assert_eq!(status_of(&error), status, "{error}");
        }
    }
}
