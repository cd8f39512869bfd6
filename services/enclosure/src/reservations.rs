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
//! same at every look. A controller has a nexus for each of its paths to a disk, and is told as one registrant all the same.
//!
//! # Several paths
//!
//! A registration belongs to the path over which it was made. When another path of the controller takes over, it
//! [inherits](Reservations::inherit): if the disk still says that the controller's key holds it alone, the path registers
//! the same key and *looks again* before anybody writes over it. That renews nothing that was lost:
//!
//! ```text
//! partner preempts ...   before the first look     the key is not there: nothing is registered
//!                        between the two looks     the second look shows it: unregistered, nothing was written
//!                        after the second look     PREEMPT removes the key from every path that has it
//! ```
//!
//! Then the path that took over *preempts and aborts* its own key, which SPC-4 (5.13.11.3) takes to mean every other path that
//! has it: what the disk still holds of the path before is not executed any more, and what arrives late over it meets a
//! conflict. The pool manager sends what had no answer again, and may write the same blocks anew afterwards: an old write that
//! the disk executed then would stand in the place of the new one. (A path that is lost and comes back as itself is one nexus:
//! its fabric ends what it had when it logs in again.)
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

/// TYPE of the reservation that guards a pool.
const GUARD: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// The port of the controller that registered this key, if it is one of this array.
fn owner(array: ArrayId, key: u64) -> Option<Port> {
    pollux_block_frame::key::owner(array, Key(key)).map(pollux_block_frame::key::port_of)
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
                reservation = Some(held(kind, one.key, port(one))?);
            }
        }
        let registrants = full.registrations.iter().map(|one| Registrant {
            port: port(one),
            key: Key(one.key),
        });
        Ok(FullStatus {
            generation: full.generation,
            registrants: each_once(registrants),
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
                    Some(one) => Some(held(one.kind, one.key, port(one.key))?),
                };
                let registrants = after.keys.iter().map(|&key| Registrant {
                    port: port(key),
                    key: Key(key),
                });
                return Ok(FullStatus {
                    generation: after.generation,
                    registrants: each_once(registrants),
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

    /// The key with which a controller holds a disk alone, if it does.
    fn sole(status: &FullStatus, port: Port) -> Option<Key> {
        let held = status
            .reservation
            .filter(|held| held.port == port && held.kind == GUARD)?;
        let alone = status.registrants.iter().all(|one| one.key == held.key);
        alone.then_some(held.key)
    }

    /// What another path of this controller was registered with goes for this one, too, if exclusion still stands: answers
    /// the key. `alone`: the other paths are the controller's no longer, and nothing that was sent over them is done from now
    /// on. Nothing else may be sent over the path before this has ended.
    ///
    /// # Errors
    /// What the disk says. The path may be registered then, and the ones before not be ended.
    pub(crate) fn inherit(
        &self,
        disk: &dyn ScsiDisk,
        port: Port,
        alone: bool,
    ) -> Result<Option<Key>, Refusal> {
        let before = match self.read(disk) {
            // Held in a way that the array does not have: by somebody else.
            Err(Refusal {
                status: Status::Unsupported,
                why,
            }) => {
                tracing::warn!(why, "nothing is inherited");
                return Ok(None);
            }
            read => read?,
        };
        let Some(key) = Self::sole(&before, port) else {
            return Ok(None);
        };
        let register = |current: u64, new: u64| {
            let command = command::reserve_out(ReserveOut::Register, 0, current, new, self.persists);
            conflict_is_no(run(disk, &command))
        };
        // Refused where this path is registered already: then it has the same key, since no other one is there.
        let new = register(0, key.0)?;
        let still = self
            .read(disk)
            .map(|status| Self::sole(&status, port) == Some(key));
        if new && !matches!(still, Ok(true)) {
            register(key.0, 0)?;
        }
        if !still? {
            return Ok(None);
        }
        // A conflict: the partner has preempted the key since.
        let kept =
            !alone || conflict_is_no(self.forget_other_paths(disk, key.0, ReserveOut::PreemptAndAbort))?;
        Ok(kept.then_some(key))
    }

    /// A key may stand on other paths of this controller, which may be dead: PREEMPT by the same key takes it from all but
    /// this one.
    fn forget_other_paths(
        &self,
        disk: &dyn ScsiDisk,
        key: u64,
        preempt: ReserveOut,
    ) -> Result<(), ScsiError> {
        let keys = Keys::decode(&list(disk, ReserveIn::ReadKeys)?)?.keys;
        if key == 0 || keys.iter().filter(|other| **other == key).count() < 2 {
            return Ok(());
        }
        run(disk, &command::reserve_out(preempt, GUARD as u8, key, key, false)).map(drop)
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
            // Victim zero means every registrant, where they all hold the reservation; else the disk refuses it.
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
        let gives_back = action == ReserveOut::Register && argument == 0;
        if gives_back && let Err(error) = self.forget_other_paths(disk, key, ReserveOut::Preempt) {
            tracing::warn!(%error, "the key may stay on another path of this controller: the next owner preempts it");
        }
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

/// A reservation as the array speaks of it. One that every registrant holds (types 7 and 8) is told as the type that lets
/// the same initiators in and out (5 and 6), held under no key, as READ RESERVATION has it.
fn held(kind: u8, key: u64, port: Port) -> Result<Reservation, Refusal> {
    let (kind, key) = match kind {
        7 => (5, 0),
        8 => (6, 0),
        kind => (kind, key),
    };
    let known = ReservationType::from_u8(kind).ok_or_else(|| Refusal {
        status: Status::Unsupported,
        why: format!("somebody holds a reservation of type {kind}, which SPC-4 does not have"),
    })?;
    Ok(Reservation {
        key: Key(key),
        port,
        kind: known,
    })
}

/// Whether a command was done, where a conflict means that it must not be.
fn conflict_is_no<T>(result: Result<T, ScsiError>) -> Result<bool, Refusal> {
    match result {
        Ok(_) => Ok(true),
        Err(ScsiError::ReservationConflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Registrants without repetition, in their order: a controller with two paths is one.
fn each_once(registrants: impl Iterator<Item = Registrant>) -> Vec<Registrant> {
    let mut once: Vec<Registrant> = Vec::new();
    for registrant in registrants {
        if !once.contains(&registrant) {
            once.push(registrant);
        }
    }
    once
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
    }

    #[test]
    fn what_every_registrant_holds_is_held_under_no_key_and_can_be_preempted() {
        for rejects in [vec![], vec![3]] {
            let (_, [a, b]) = shelf(|model| model.rejects_in = rejects.into_iter().collect());
            let reservations = Reservations::new(ARRAY, false);
            let (stranger, ours) = (Key(0x1234), Key(ours(1, 5)));
            do_all(
                &reservations,
                &[
                    (&b, ReservationOut::RegisterAndIgnore { new: stranger }),
                    (&a, ReservationOut::RegisterAndIgnore { new: ours }),
                ],
            );
            run(
                &b,
                &command::reserve_out(ReserveOut::Reserve, 7, stranger.0, 0, false),
            )
            .expect("all registrants");
            let held = reservations.read(&a).expect("read").reservation.expect("held");
            assert_eq!((held.key, held.kind), (Key(0), WERO));
            let preempt = |victim| ReservationOut::Preempt {
                key: ours,
                victim,
                kind: WERO,
                abort: true,
            };
            do_all(&reservations, &[(&a, preempt(Key(0)))]);
            let status = reservations.read(&a).expect("read");
            assert_eq!(Reservations::sole(&status, Port::A), Some(ours), "{status:?}");
        }
    }

    #[test]
    fn a_second_path_inherits_what_still_stands_and_nothing_else() {
        let (disk, [first, partner]) = shelf(|_| ());
        let second = disk.port(8);
        let reservations = Reservations::new(ARRAY, true);
        let inherit = || reservations.inherit(&second, Port::A, false).expect("asked");
        assert_eq!(inherit(), None, "a blank disk");
        let (old, new) = (Key(ours(1, 5)), Key(ours(2, 6)));
        let out = |port: &FakePort, out| do_all(&reservations, &[(port, out)]);
        out(&first, ReservationOut::RegisterAndIgnore { new: old });
        assert_eq!(inherit(), None, "registered, and nothing held");
        out(&first, ReservationOut::Reserve { key: old, kind: WERO });
        assert!(second.write(0, &[1; 512], true).is_err(), "a path of its own");
        assert_eq!(
            reservations.inherit(&second, Port::B, true).expect("asked"),
            None,
            "what the partner holds"
        );
        for _ in 0..2 {
            assert_eq!(inherit(), Some(old));
            second.write(0, &[2; 512], true).expect("registered");
        }
        let status = reservations.read(&partner).expect("read");
        assert_eq!(
            status.registrants.len(),
            1,
            "one registrant, by two paths: {status:?}"
        );
        // PREEMPT means the key, on whatever path.
        out(&partner, ReservationOut::RegisterAndIgnore { new });
        let preempt = ReservationOut::Preempt {
            key: new,
            victim: old,
            kind: WERO,
            abort: true,
        };
        out(&partner, preempt);
        for path in [&first, &second] {
            assert!(path.write(0, &[3; 512], true).is_err());
        }
        assert_eq!(inherit(), None, "exclusion is gone");
        let status = reservations.read(&second).expect("read");
        assert_eq!(
            Reservations::sole(&status, Port::B),
            Some(new),
            "and nothing was registered"
        );
        assert_eq!(disk.peek(0, 512), [2; 512]);
    }

    #[test]
    fn what_a_disk_still_holds_of_the_path_before_is_not_done_any_more() {
        let (disk, [first, partner]) = shelf(|_| ());
        let second = disk.port(8);
        let reservations = Reservations::new(ARRAY, true);
        let key = Key(ours(1, 5));
        do_all(
            &reservations,
            &[
                (&first, ReservationOut::RegisterAndIgnore { new: key }),
                (&first, ReservationOut::Reserve { key, kind: WERO }),
            ],
        );
        disk.stall(true);
        let late = {
            let first = first.clone();
            std::thread::spawn(move || first.write(0, &[1; 512], true))
        };
        disk.wait_for_stalled(1);
        for inherited in 0..2 {
            let inherit = reservations.inherit(&second, Port::A, true);
            assert_eq!(inherit.expect("asked"), Some(key), "the same key, {inherited}");
        }
        assert_eq!(disk.received(0x5f, 5), 1, "once: no other path has the key then");
        // The disk holds writes still, and this one no more.
        let late = late.join().expect("it ends");
        assert_eq!(
            late.expect_err("refused").raw_os_error(),
            Some(52),
            "EBADE: a conflict"
        );
        disk.stall(false);
        second.write(0, &[2; 512], true).expect("registered");
        assert_eq!(disk.peek(0, 512), [2; 512]);
        let status = reservations.read(&partner).expect("read");
        assert_eq!(Reservations::sole(&status, Port::A), Some(key), "{status:?}");
    }

    /// A path at which the partner fences just before our first PERSISTENT RESERVE OUT arrives.
    struct Fenced {
        path: FakePort,
        partner: FakePort,
        keys: std::sync::Mutex<Option<(Key, Key)>>,
    }

    impl ScsiDisk for Fenced {
        fn volatile_cache(&self) -> bool {
            self.path.volatile_cache()
        }

        fn execute(&self, command: &command::Command) -> Result<Vec<u8>, ScsiError> {
            let keys = match command.cdb()[0] {
                0x5f => self.keys.lock().expect("one thread").take(),
                _ => None,
            };
            if let Some((new, victim)) = keys {
                let out = |action, kind, key, argument| {
                    run(
                        &self.partner,
                        &command::reserve_out(action, kind, key, argument, true),
                    )
                    .expect("done")
                };
                out(ReserveOut::RegisterAndIgnore, 0, 0, new.0);
                out(ReserveOut::PreemptAndAbort, 5, new.0, victim.0);
            }
            self.path.execute(command)
        }

        fn read(&self, offset: u64, length: usize) -> std::io::Result<pollux_platform::scsi::Buffer> {
            self.path.read(offset, length)
        }

        fn write(&self, offset: u64, data: &[u8], durable: bool) -> std::io::Result<()> {
            self.path.write(offset, data, durable)
        }

        fn flush(&self) -> std::io::Result<()> {
            self.path.flush()
        }

        fn zero(&self, offset: u64, length: u64) -> std::io::Result<()> {
            self.path.zero(offset, length)
        }
    }

    #[test]
    fn a_fence_between_the_two_looks_leaves_the_partner_alone() {
        let (disk, [first, partner]) = shelf(|_| ());
        let reservations = Reservations::new(ARRAY, true);
        let (old, new) = (Key(ours(1, 5)), Key(ours(2, 6)));
        do_all(
            &reservations,
            &[
                (&first, ReservationOut::RegisterAndIgnore { new: old }),
                (&first, ReservationOut::Reserve { key: old, kind: WERO }),
            ],
        );
        let path = Fenced {
            path: disk.port(8),
            partner: partner.clone(),
            keys: std::sync::Mutex::new(Some((new, old))),
        };
        assert_eq!(reservations.inherit(&path, Port::A, true).expect("asked"), None);
        assert_eq!(
            disk.received(0x5f, 0),
            2,
            "registered after the fence, and unregistered"
        );
        let status = reservations.read(&partner).expect("read");
        assert_eq!(Reservations::sole(&status, Port::B), Some(new), "{status:?}");
        assert!(path.write(0, &[1; 512], true).is_err());
    }

    #[test]
    fn a_key_that_is_given_back_stands_on_no_path() {
        let (disk, [first, _]) = shelf(|_| ());
        let second = disk.port(8);
        let reservations = Reservations::new(ARRAY, true);
        let key = Key(ours(1, 5));
        do_all(
            &reservations,
            &[
                (&first, ReservationOut::RegisterAndIgnore { new: key }),
                (&first, ReservationOut::Reserve { key, kind: WERO }),
            ],
        );
        assert_eq!(
            reservations.inherit(&second, Port::A, false).expect("asked"),
            Some(key)
        );
        disk.cut(7, true);
        let give_back = ReservationOut::Register {
            current: key,
            new: Key(0),
        };
        do_all(&reservations, &[(&second, give_back)]);
        let status = reservations.read(&second).expect("read");
        assert_eq!((status.registrants, status.reservation), (Vec::new(), None));
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
