//! One disk with two ports.
//!
//! A command passes a gate and then the medium. The gate is where faults make it wait; the medium is where it takes
//! effect, in one critical section: still permitted? reservation? log, then do. Whoever aborts a port's commands only
//! has to count up the port's abort number inside that critical section: nothing that passed the gate before can take
//! effect afterwards. That is what makes PREEMPT AND ABORT, a pulled cable and a power cut *drain* rather than hope.

use super::cache::Cache;
use super::format::{self, BLOCK_SIZE, DATA_OFFSET, DiskSpec, PHYSICAL_BLOCK_SIZE, ShelfError};
use super::log::{Appender, Event, FLAG_FUA, FLAG_LOST, FLAG_MISDIRECTED, FLAG_TORN, Record, port_of};
use super::random::Random;
use super::reservation::{Access, Reservations};
use pollux_api::chassis::DiskFault;
use pollux_api::id::{ArrayId, ControllerId};
use pollux_block_frame::{
    EndpointInfo, Handler, Hello, Operation, Purpose, Reply, Request, ReservationOut, Status,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

/// What is wrong with a disk as seen through one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Faults {
    slow: Option<(u64, u64)>,
    fail_reads: bool,
    fail_writes: bool,
    read_only: bool,
    stuck: bool,
    torn: bool,
    misdirected: bool,
    lost: bool,
}

impl Faults {
    fn add(&mut self, fault: DiskFault) {
        match fault {
            DiskFault::None => *self = Faults::default(),
            DiskFault::Slow { min_ms, max_ms } => self.slow = Some((min_ms, max_ms)),
            DiskFault::Failing { reads, writes } => {
                self.fail_reads |= reads;
                self.fail_writes |= writes;
            }
            DiskFault::ReadOnly => self.read_only = true,
            DiskFault::Stuck => self.stuck = true,
            DiskFault::TornWrite => self.torn = true,
            DiskFault::MisdirectedWrite => self.misdirected = true,
            DiskFault::LostWrite => self.lost = true,
        }
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some((min, max)) = self.slow {
            words.push(format!("slow ({min}-{max} ms)"));
        }
        for (set, word) in [
            (self.fail_reads, "reads fail"),
            (self.fail_writes, "writes fail"),
            (self.read_only, "write-protected"),
            (self.stuck, "stuck"),
            (self.torn, "next write torn"),
            (self.misdirected, "next write misdirected"),
            (self.lost, "next write lost"),
        ] {
            if set {
                words.push(word.to_owned());
            }
        }
        words
    }
}

#[derive(Debug)]
struct State {
    powered: bool,
    paths: [bool; 2],
    /// Counts up when the commands of a port are aborted.
    aborts: [u64; 2],
    faults: [Faults; 2],
    cache: Cache,
    reservations: Reservations,
    random: Random,
}

/// A disk of the shelf.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) spec: DiskSpec,
    image: File,
    reservations_path: PathBuf,
    log: Arc<Appender>,
    state: Mutex<State>,
    /// PERSISTENT RESERVE OUT and power, one after the other: what is persisted is what is in force.
    order: tokio::sync::Mutex<()>,
    /// Ticks whenever a command that waits at the gate has to look again.
    changed: watch::Sender<()>,
}

/// A command that wants to change the medium.
struct Change<'a> {
    port: ControllerId,
    event: Event,
    lba: u64,
    blocks: u64,
    data: &'a [u8],
    fua: bool,
}

/// What the gate says to a command.
enum Gate {
    Go,
    Wait,
    Answer(Status),
}

impl Disk {
    pub(super) fn open(
        dir: &Path,
        array: ArrayId,
        spec: DiskSpec,
        seed: u64,
        log: Arc<Appender>,
    ) -> Result<Self, ShelfError> {
        let image = format::open_image(dir, array, &spec)?;
        let reservations_path = format::reservations_path(dir, spec.index);
        let reservations = Reservations::from_status(&format::read_reservations(&reservations_path)?);
        let slot = u64::from(spec.index.get());
        Ok(Disk {
            spec,
            image,
            reservations_path,
            log,
            state: Mutex::new(State {
                powered: true,
                paths: [true; 2],
                aborts: [0; 2],
                faults: [Faults::default(); 2],
                cache: Cache::default(),
                reservations,
                random: Random::new(seed ^ slot.wrapping_mul(0x0100_0000_01b3)),
            }),
            order: tokio::sync::Mutex::new(()),
            changed: watch::Sender::new(()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands that wait at the gate.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.changed.receiver_count()
    }

    /// Changes something that commands at the gate depend on.
    fn change<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        let result = what(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    pub(super) fn set_path(&self, port: ControllerId, connected: bool) -> bool {
        self.change(|state| {
            let was = std::mem::replace(&mut state.paths[port.index()], connected);
            if !connected {
                state.aborts[port.index()] += 1;
            }
            was != connected
        })
    }

    pub(super) fn paths(&self) -> Vec<ControllerId> {
        let state = self.lock();
        ControllerId::ALL
            .into_iter()
            .filter(|port| state.paths[port.index()])
            .collect()
    }

    pub(super) fn add_fault(&self, port: Option<ControllerId>, fault: DiskFault) -> bool {
        self.change(|state| {
            let before = state.faults;
            for each in ControllerId::ALL {
                if port.is_none_or(|port| port == each) {
                    state.faults[each.index()].add(fault);
                }
            }
            before != state.faults
        })
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let [a, b] = self.lock().faults;
        if a == b {
            return a.words();
        }
        let at = |port: &str, faults: Faults| {
            faults
                .words()
                .into_iter()
                .map(|word| format!("{word} through port {port}"))
                .collect::<Vec<_>>()
        };
        [at("a", a), at("b", b)].concat()
    }

    fn shelf_record(&self, state: &State, event: Event, blocks: u32) -> Record {
        Record {
            sequence: 0,
            at_ns: 0,
            lba: 0,
            blocks,
            data_crc: 0,
            key: Default::default(),
            holder: state.reservations.holder(),
            disk: self.spec.index,
            port: None,
            event,
            status: Status::Ok as u8,
            flags: 0,
        }
    }

    /// The shelf's power goes or comes. Reservations persist; what was in the cache is lost, page by page, by a coin.
    pub(super) fn set_power(&self, on: bool) -> Result<bool, ShelfError> {
        let path = &self.reservations_path;
        self.change(|state| {
            if state.powered == on {
                return Ok(false);
            }
            let lost = match on {
                true => {
                    state.reservations = Reservations::from_status(&format::read_reservations(path)?);
                    0
                }
                false => {
                    state.aborts.iter_mut().for_each(|count| *count += 1);
                    let State { cache, random, .. } = state;
                    cache
                        .power_cut(&self.image, random)
                        .map_err(ShelfError::io(path))?
                }
            };
            state.powered = on;
            let event = if on { Event::PowerOn } else { Event::PowerOff };
            self.log.append(self.shelf_record(state, event, lost as u32))?;
            Ok(true)
        })
    }

    /// The disk forgets registrations and reservation, as one does that was never told to keep them.
    pub(super) async fn forget_reservations(&self) -> Result<(), ShelfError> {
        let _in_order = self.order.lock().await;
        let path = &self.reservations_path;
        self.change(|state| {
            self.log
                .append(self.shelf_record(state, Event::ReservationsLost, 0))?;
            state.reservations = Reservations::default();
            format::write_reservations(path, &state.reservations.status()).map_err(ShelfError::io(path))
        })
    }

    /// Waits until the command may touch the medium, or must not any more.
    async fn gate(&self, session: &Session, aborts: u64) -> Result<(), Status> {
        let mut changed = self.changed.subscribe();
        let port = session.port.index();
        let due = {
            let mut state = self.lock();
            let slow = state.faults[port].slow;
            slow.map(|(min, max)| Instant::now() + Duration::from_millis(state.random.between(min, max)))
        };
        loop {
            changed.mark_unchanged();
            let verdict = {
                let state = self.lock();
                match self.still_permitted(&state, session, aborts) {
                    Err(status) => Gate::Answer(status),
                    // A disk that has recovered does not owe the delay any more.
                    Ok(()) if state.faults[port].stuck => Gate::Wait,
                    Ok(())
                        if state.faults[port].slow.is_some()
                            && due.is_some_and(|due| due > Instant::now()) =>
                    {
                        Gate::Wait
                    }
                    Ok(()) => Gate::Go,
                }
            };
            match verdict {
                Gate::Go => return Ok(()),
                Gate::Answer(status) => return Err(status),
                Gate::Wait => {
                    let elapsed = async {
                        match due {
                            Some(due) if due > Instant::now() => tokio::time::sleep_until(due).await,
                            _ => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        // The sender lives as long as the disk.
                        _ = changed.changed() => {}
                        () = elapsed => {}
                    }
                }
            }
        }
    }

    fn still_permitted(&self, state: &State, session: &Session, aborts: u64) -> Result<(), Status> {
        if !state.powered {
            return Err(Status::NotReady);
        }
        if !state.paths[session.port.index()] {
            return Err(Status::NoPath);
        }
        if session.ended.load(Ordering::SeqCst) || state.aborts[session.port.index()] != aborts {
            return Err(Status::Aborted);
        }
        Ok(())
    }

    fn info(&self) -> EndpointInfo {
        EndpointInfo {
            block_size: BLOCK_SIZE,
            physical_block_size: PHYSICAL_BLOCK_SIZE,
            blocks: self.spec.bytes / u64::from(BLOCK_SIZE),
            id: self.spec.id,
            volatile_cache: true,
            serial: self.spec.serial.clone(),
        }
    }

    /// Offset in the image and length in bytes of a range of blocks.
    fn range(&self, lba: u64, blocks: u64) -> Result<(u64, usize), Status> {
        let total = self.spec.bytes / u64::from(BLOCK_SIZE);
        match lba.checked_add(blocks) {
            Some(end) if end <= total => {
                let length = blocks * u64::from(BLOCK_SIZE);
                Ok((DATA_OFFSET + lba * u64::from(BLOCK_SIZE), length as usize))
            }
            _ => Err(Status::OutOfRange),
        }
    }

    /// The critical section of reads, writes and flushes.
    fn medium(&self, session: &Session, aborts: u64, operation: &Operation) -> Result<Reply, Status> {
        let mut state = self.lock();
        self.still_permitted(&state, session, aborts)?;
        let port = session.port;
        let faults = state.faults[port.index()];
        let permits = |state: &State, access| match state.reservations.permits(port_of(port), access) {
            true => Ok(()),
            false => Err(Status::ReservationConflict),
        };
        match operation {
            Operation::Info => Ok(Reply::info(&self.info())),
            Operation::ReservationIn => Ok(Reply::full_status(&state.reservations.status())),
            // What hosts reserve is no disk's business, nor is what a volume has of the pool.
            Operation::ReservationOut(_)
            | Operation::LbaStatus { .. }
            | Operation::Scsi { .. }
            | Operation::RecordLoad
            | Operation::RecordStore { .. } => Err(Status::Unsupported),
            Operation::Flush => {
                permits(&state, Access::Write)?;
                if faults.fail_writes {
                    return Err(Status::MediumError);
                }
                state.cache.flush();
                Ok(Reply::ok())
            }
            Operation::Read { lba, blocks } => {
                let (at, length) = self.range(*lba, u64::from(*blocks))?;
                if length > pollux_block_frame::MAX_PAYLOAD as usize {
                    return Err(Status::BadRequest);
                }
                permits(&state, Access::Read)?;
                if faults.fail_reads {
                    return Err(Status::MediumError);
                }
                let mut data = vec![0; length];
                self.image
                    .read_exact_at(&mut data, at)
                    .map_err(|error| self.image_failed(&error))?;
                Ok(Reply::data(data.into()))
            }
            Operation::Write { lba, data, fua } => {
                self.write(&mut state, port, Event::Write, *lba, data, *fua)
            }
            Operation::Unmap { lba, blocks } => {
                let (at, length) = self.range(*lba, u64::from(*blocks))?;
                let blocks = u64::from(*blocks);
                let change = Change {
                    port,
                    event: Event::Unmap,
                    lba: *lba,
                    blocks,
                    data: &[],
                    fua: false,
                };
                self.admit(&mut state, &change)?;
                self.zero(&mut state, at, length)
                    .map_err(|error| self.image_failed(&error))?;
                Ok(Reply::ok())
            }
            Operation::CompareAndWrite {
                lba,
                compare,
                data,
                fua,
            } => {
                let (at, length) = self.whole_blocks(*lba, compare)?;
                permits(&state, Access::Write)?;
                if faults.fail_reads {
                    return Err(Status::MediumError);
                }
                let mut found = vec![0; length];
                self.image
                    .read_exact_at(&mut found, at)
                    .map_err(|error| self.image_failed(&error))?;
                if let Some(differs) = found.iter().zip(compare).position(|(a, b)| a != b) {
                    return Ok(Reply::with_detail(Status::Miscompare, differs as u64));
                }
                self.write(&mut state, port, Event::CompareAndWrite, *lba, data, *fua)
            }
        }
    }

    fn whole_blocks(&self, lba: u64, data: &[u8]) -> Result<(u64, usize), Status> {
        if !data.len().is_multiple_of(BLOCK_SIZE as usize) {
            return Err(Status::BadRequest);
        }
        self.range(lba, (data.len() / BLOCK_SIZE as usize) as u64)
    }

    /// May this change the medium? Whatever the answer, it is in the log before it is given. Returns the flags under
    /// which it was logged: the faults that apply to it.
    fn admit(&self, state: &mut State, change: &Change<'_>) -> Result<u8, Status> {
        let &Change {
            port,
            event,
            lba,
            blocks,
            data,
            fua,
        } = change;
        let faults = state.faults[port.index()];
        let verdict = if !state.reservations.permits(port_of(port), Access::Write) {
            Err(Status::ReservationConflict)
        } else if faults.read_only {
            Err(Status::WriteProtected)
        } else if faults.fail_writes {
            Err(Status::MediumError)
        } else {
            let mut flags = if fua { FLAG_FUA } else { 0 };
            // "The next write" is one write, whichever port it comes through.
            let mut once = |flag: u8, clear: fn(&mut Faults)| {
                state.faults.iter_mut().for_each(clear);
                flags |= flag;
            };
            match event {
                Event::Write if faults.lost => once(FLAG_LOST, |faults| faults.lost = false),
                Event::Write if faults.torn && blocks > 1 => once(FLAG_TORN, |faults| faults.torn = false),
                Event::Write if faults.misdirected => {
                    once(FLAG_MISDIRECTED, |faults| faults.misdirected = false);
                }
                _ => {}
            }
            Ok(flags)
        };
        let record = Record {
            lba,
            blocks: blocks as u32,
            data_crc: crc32c::crc32c(data),
            key: state.reservations.key_of(port_of(port)),
            port: Some(port),
            status: verdict.err().unwrap_or(Status::Ok) as u8,
            flags: verdict.unwrap_or(0),
            ..self.shelf_record(state, event, 0)
        };
        if let Err(error) = self.log.append(record) {
            error!(%error, "refusing to write without evidence");
            return Err(Status::NoResources);
        }
        verdict
    }

    fn write(
        &self,
        state: &mut State,
        port: ControllerId,
        event: Event,
        lba: u64,
        data: &[u8],
        fua: bool,
    ) -> Result<Reply, Status> {
        let (mut at, length) = self.whole_blocks(lba, data)?;
        let block = BLOCK_SIZE as usize;
        let blocks = (length / block) as u64;
        let flags = self.admit(
            state,
            &Change {
                port,
                event,
                lba,
                blocks,
                data,
                fua,
            },
        )?;
        let mut data = data;
        if flags & FLAG_LOST != 0 {
            return Ok(Reply::ok());
        }
        if flags & FLAG_MISDIRECTED != 0 {
            let last = (self.spec.bytes - length as u64) / u64::from(BLOCK_SIZE);
            at = DATA_OFFSET + state.random.between(0, last) * u64::from(BLOCK_SIZE);
        }
        if flags & FLAG_TORN != 0 {
            let kept = state.random.between(1, blocks - 1) as usize;
            data = &data[..kept * block];
        }
        let io = |error: io::Error| self.image_failed(&error);
        if !fua {
            state
                .cache
                .before_write(&self.image, at, data.len())
                .map_err(io)?;
        }
        self.image.write_all_at(data, at).map_err(io)?;
        if fua {
            state.cache.made_durable(at, data);
        }
        if flags & FLAG_TORN != 0 {
            Err(Status::MediumError)
        } else {
            Ok(Reply::ok())
        }
    }

    /// Zeros a range; what is a hole stays one.
    fn zero(&self, state: &mut State, at: u64, length: usize) -> io::Result<()> {
        const CHUNK: usize = 64 * 1024;
        let (mut buffer, zeros) = (vec![0; CHUNK.min(length)], vec![0; CHUNK.min(length)]);
        for start in (0..length).step_by(CHUNK) {
            let size = CHUNK.min(length - start);
            let at = at + start as u64;
            self.image.read_exact_at(&mut buffer[..size], at)?;
            if buffer[..size] != zeros[..size] {
                state.cache.before_write(&self.image, at, size)?;
                self.image.write_all_at(&zeros[..size], at)?;
            }
        }
        Ok(())
    }

    /// The file under the disk failed: to its controllers that is the medium, to the operator it is this line.
    fn image_failed(&self, error: &io::Error) -> Status {
        error!(disk = %self.spec.index, %error, "disk image");
        Status::MediumError
    }

    /// PERSISTENT RESERVE OUT: decide, persist, then put in force and abort in one step, then answer.
    async fn reservation_out(
        self: &Arc<Self>,
        session: &Session,
        aborts: u64,
        out: ReservationOut,
    ) -> Result<Reply, Status> {
        if self.spec.quorum {
            // Both controllers write there at all times; a reservation would end the votes of one of them.
            return Err(Status::Unsupported);
        }
        let _in_order = self.order.lock().await;
        let port = port_of(session.port);
        let applied = {
            let state = self.lock();
            self.still_permitted(&state, session, aborts)?;
            state.reservations.apply(port, out)
        };
        if let Ok((next, _)) = &applied {
            let (path, status) = (self.reservations_path.clone(), next.status());
            let written =
                tokio::task::spawn_blocking(move || format::write_reservations(&path, &status)).await;
            if !matches!(written, Ok(Ok(()))) {
                error!(disk = %self.spec.index, ?written, "reservations were not persisted");
                return Err(Status::NoResources);
            }
        }
        self.change(|state| {
            if let Err(status) = self.still_permitted(state, session, aborts) {
                // Aborted while it was being persisted: what is in force goes back on to the file.
                format::write_reservations(&self.reservations_path, &state.reservations.status())
                    .map_err(|error| self.image_failed(&error))?;
                return Err(status);
            }
            let (event, argument) = match out {
                ReservationOut::Register { new, .. } | ReservationOut::RegisterAndIgnore { new } => {
                    (Event::Register, new.0)
                }
                ReservationOut::Reserve { .. } => (Event::Reserve, 0),
                ReservationOut::Release { .. } => (Event::Release, 0),
                ReservationOut::Clear { .. } => (Event::Clear, 0),
                ReservationOut::Preempt {
                    victim, abort: false, ..
                } => (Event::Preempt, victim.0),
                ReservationOut::Preempt {
                    victim, abort: true, ..
                } => (Event::PreemptAndAbort, victim.0),
            };
            let record = Record {
                lba: argument,
                key: state.reservations.key_of(port),
                port: Some(session.port),
                status: applied.as_ref().err().copied().unwrap_or(Status::Ok) as u8,
                ..self.shelf_record(state, event, 0)
            };
            if let Err(error) = self.log.append(record) {
                error!(%error, "a change of reservations is missing in the evidence");
            }
            let (next, outcome) = applied?;
            for victim in outcome.abort {
                if let Some(count) = ControllerId::ALL
                    .into_iter()
                    .find(|each| port_of(*each) == victim)
                {
                    state.aborts[count.index()] += 1;
                }
            }
            state.reservations = next;
            Ok(Reply::ok())
        })
    }
}

/// One port of one disk, as the server of a socket.
#[derive(Debug)]
pub(super) struct DiskPort {
    pub(super) disk: Arc<Disk>,
    pub(super) port: ControllerId,
}

/// A port of a disk as somebody in this process has it, without a socket: whatever is plugged in there.
#[derive(Debug)]
pub struct Plug {
    port: DiskPort,
    session: Arc<Session>,
}

impl Plug {
    pub(super) fn new(port: DiskPort) -> Self {
        let session = Arc::new(Session {
            port: port.port,
            ended: AtomicBool::new(false),
        });
        Plug { port, session }
    }

    /// The disk, as built.
    pub fn spec(&self) -> &DiskSpec {
        &self.port.disk.spec
    }

    /// Carries out one command. Dropping the future ends it: it takes no effect any more, unless it has. What has to do
    /// with reservations is carried through once it has passed the gate.
    pub async fn submit(&self, operation: Operation) -> Reply {
        self.port.handle(&self.session, Request::new(operation)).await
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.port.ended(&self.session);
    }
}

/// A session at a port.
#[derive(Debug)]
pub(super) struct Session {
    port: ControllerId,
    ended: AtomicBool,
}

impl Handler for DiskPort {
    type Session = Session;

    async fn log_in(&self, hello: &Hello) -> Result<Session, Status> {
        if hello.purpose != Purpose::Disk || hello.port != port_of(self.port) {
            return Err(Status::Unauthorized);
        }
        let session = Session {
            port: self.port,
            ended: AtomicBool::new(false),
        };
        let state = self.disk.lock();
        self.disk
            .still_permitted(&state, &session, state.aborts[self.port.index()])?;
        Ok(session)
    }

    async fn handle(&self, session: &Arc<Session>, request: Request) -> Reply {
        let disk = &self.disk;
        if !request.volume.is_nil() {
            return Reply::status(Status::UnknownVolume);
        }
        let aborts = disk.lock().aborts[session.port.index()];
        let result = match disk.gate(session, aborts).await {
            Err(status) => Err(status),
            Ok(()) => match request.operation {
                Operation::ReservationOut(out) => {
                    let (disk, session) = (disk.clone(), session.clone());
                    // Whoever asked may be gone before the file and what is in force agree.
                    let done = async move { disk.reservation_out(&session, aborts, out).await };
                    tokio::spawn(done).await.unwrap_or(Err(Status::NoResources))
                }
                operation => disk.medium(session, aborts, &operation),
            },
        };
        result.unwrap_or_else(Reply::status)
    }

    fn ended(&self, session: &Arc<Session>) {
        // Inside the critical section: whatever is not yet done when this returns is never done.
        self.disk.change(|_| session.ended.store(true, Ordering::SeqCst));
    }
}
