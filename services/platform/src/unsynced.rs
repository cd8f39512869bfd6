//! A disk that forgets what was not flushed, under a SQLite database: killing the process is a power cut.
//!
//! Think of a clerk who keeps what he is told in his head, and writes it down when he is asked to: by then it is on
//! paper, but in between he has jotted down this and that, in any order. When he drops dead, what was only in his head is gone,
//! and some of the jottings are there.
//!
//! | in a machine | here |
//! |---|---|
//! | page cache | sectors of 512 bytes in the memory of the process ([`Memory`]) |
//! | writeback | after a write, now and then, some of those sectors go to the file, in any order |
//! | flush | `xSync`: all of them go to the file, in any order, then the file is flushed |
//! | power cut | SIGKILL |
//!
//! Invariants: whoever reads through this layer reads what was written through it last. A sector is written whole or
//! not at all. After a flush has returned, nothing of what came before it can be lost.
//!
//! What is not played: the loss of a name (a file that was made or removed) and of what was written before a file was
//! closed; a second handle on the same file sees only what has reached the file.
//!
//! It must never run under a database on a real boot disk: it only adds risk. The software enclosure asks for it, by
//! [`SEED_VARIABLE`].

use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Set for a daemon of the software enclosure: its databases forget what is not flushed, as chosen by this seed.
pub const SEED_VARIABLE: &str = "POLLUX_UNSYNCED_SEED";
/// What reaches a disk whole.
const SECTOR: u64 = 512;

/// What is underneath: the file itself.
pub trait Below {
    /// Fills the buffer from `offset`; what lies beyond the end is zero.
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts it.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
    /// Flushes it.
    fn sync(&mut self) -> io::Result<()>;
    /// Its size.
    fn size(&mut self) -> io::Result<u64>;
}

/// Chance, from a seed.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// How the layer behaves.
pub struct Habits {
    dice: Dice,
    lies: bool,
    flushing: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Habits {
    /// A disk that forgets as chosen by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice(AtomicU64::new(seed)),
            lies: false,
            flushing: None,
        }
    }

    /// A disk that says that it has flushed, and has not: what tests of the loss must be able to find.
    #[must_use]
    pub fn lying(mut self) -> Self {
        self.lies = true;
        self
    }

    /// `flushing` is called in the middle of each flush.
    #[must_use]
    pub fn flushing(mut self, flushing: impl Fn() + Send + Sync + 'static) -> Self {
        self.flushing = Some(Box::new(flushing));
        self
    }
}

/// What was written to one file and has not been flushed.
#[derive(Debug, Default)]
pub struct Memory {
    sectors: BTreeMap<u64, [u8; SECTOR as usize]>,
    /// The file was cut to this size, and has not been told yet.
    cut: Option<u64>,
    /// The file is at least so long.
    end: u64,
}

impl Memory {
    /// Size as whoever writes here knows it.
    pub fn size(&self, below: &mut impl Below) -> io::Result<u64> {
        Ok(self.kept(below)?.max(self.end))
    }

    /// So much of the file below is still what it seems.
    fn kept(&self, below: &mut impl Below) -> io::Result<u64> {
        let size = below.size()?;
        Ok(self.cut.map_or(size, |cut| cut.min(size)))
    }

    /// Fills the buffer; what lies beyond the end is zero. True: all of it lies before the end.
    pub fn read(&self, below: &mut impl Below, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let kept = self.kept(below)?;
        buffer.fill(0);
        let real = kept.saturating_sub(offset).min(buffer.len() as u64);
        below.read(&mut buffer[..real as usize], offset)?;
        let end = offset + buffer.len() as u64;
        for (&number, sector) in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            let (from, to) = (offset.max(start), end.min(start + SECTOR));
            let part = &sector[(from - start) as usize..(to - start) as usize];
            buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(end <= kept.max(self.end))
    }

    /// Takes it to mind, and sometimes jots something down.
    pub fn write(
        &mut self,
        below: &mut impl Below,
        bytes: &[u8],
        offset: u64,
        habits: &Habits,
    ) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        for number in offset / SECTOR..end.div_ceil(SECTOR) {
            let start = number * SECTOR;
            let mut sector = [0; SECTOR as usize];
            self.read(below, &mut sector, start)?;
            let (from, to) = (offset.max(start), end.min(start + SECTOR));
            sector[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            self.sectors.insert(number, sector);
        }
        self.end = self.end.max(end);
        if habits.dice.next().is_multiple_of(4) {
            self.jot(below, habits)?;
        }
        Ok(())
    }

    /// Some sectors go to the file; they stay in mind until a flush.
    fn jot(&self, below: &mut impl Below, habits: &Habits) -> io::Result<()> {
        for number in self.shuffled(habits) {
            if habits.dice.next().is_multiple_of(2) {
                self.put(below, number)?;
            }
        }
        Ok(())
    }

    fn shuffled(&self, habits: &Habits) -> Vec<u64> {
        let mut order: Vec<(u64, u64)> = self
            .sectors
            .keys()
            .map(|number| (habits.dice.next(), *number))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    }

    fn put(&self, below: &mut impl Below, number: u64) -> io::Result<()> {
        let start = number * SECTOR;
        // The last sector of a file is as long as the file.
        let length = self.size(below)?.saturating_sub(start).min(SECTOR);
        match self.sectors.get(&number) {
            Some(sector) => below.write(&sector[..length as usize], start),
            None => Ok(()),
        }
    }

    /// Cuts the file, in mind.
    pub fn truncate(&mut self, below: &mut impl Below, size: u64, habits: &Habits) -> io::Result<()> {
        if size > self.size(below)? {
            self.end = size;
            return Ok(());
        }
        self.sectors.retain(|number, _| number * SECTOR < size);
        if let Some(sector) = self.sectors.get_mut(&(size / SECTOR)) {
            sector[(size % SECTOR) as usize..].fill(0);
        }
        self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
        self.end = self.end.min(size);
        if habits.dice.next().is_multiple_of(2) {
            below.truncate(size)?;
        }
        Ok(())
    }

    /// Everything goes to the file and to the disk.
    pub fn sync(&mut self, below: &mut impl Below, habits: &Habits) -> io::Result<()> {
        if habits.lies {
            return Ok(());
        }
        self.settle(below, habits)?;
        below.sync()
    }

    /// Everything goes to the file.
    pub fn settle(&mut self, below: &mut impl Below, habits: &Habits) -> io::Result<()> {
        let size = self.size(below)?;
        if let Some(cut) = self.cut {
            below.truncate(cut)?;
        }
        let order = self.shuffled(habits);
        let half = order.len() / 2;
        for (at, number) in order.into_iter().enumerate() {
            if at == half
                && let Some(flushing) = &habits.flushing
            {
                flushing();
            }
            self.put(below, number)?;
        }
        if below.size()? < size {
            below.truncate(size)?;
        }
        *self = Self::default();
        Ok(())
    }
}

// The same, as SQLite wants it.

/// A file of SQLite: this head, and behind it the file of the layer below.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    state: *mut State,
}

struct State {
    /// None: a file without a name, which nobody misses.
    memory: Option<Memory>,
    layer: &'static Layer,
}

struct Layer {
    real: *mut ffi::sqlite3_vfs,
    habits: Habits,
}

/// The file of SQLite's own layer.
struct Real(*mut ffi::sqlite3_file);

/// Why an operation of the layer below failed: SQLite's code, which goes up unchanged.
#[derive(Debug)]
struct Refused(c_int);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SQLite's own layer answered {}", self.0)
    }
}

impl std::error::Error for Refused {}

fn checked(code: c_int) -> io::Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(io::Error::other(Refused(code))),
    }
}

fn code(outcome: io::Result<()>, otherwise: c_int) -> c_int {
    match outcome {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) => error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Refused>())
            .map_or(otherwise, |refused| refused.0),
    }
}

/// Calls a method of the file below.
macro_rules! real {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let file: *mut ffi::sqlite3_file = $file;
        // SAFETY: the file was opened by the layer below, which has set its table of methods; it is closed only in
        // `close`, and SQLite calls nothing after that. Arguments have the types that the table states.
        unsafe {
            match (*(*file).pMethods).$method {
                Some(method) => method(file $(, $argument)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

impl Below for Real {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let (length, offset) = (buffer.len() as c_int, offset.cast_signed());
        match real!(self.0, xRead, buffer.as_mut_ptr().cast(), length, offset) {
            ffi::SQLITE_IOERR_SHORT_READ => Ok(()), // It has filled the rest with zeros.
            code => checked(code),
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (length, offset) = (bytes.len() as c_int, offset.cast_signed());
        checked(real!(self.0, xWrite, bytes.as_ptr().cast(), length, offset))
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        checked(real!(self.0, xTruncate, size.cast_signed()))
    }

    fn sync(&mut self) -> io::Result<()> {
        checked(real!(self.0, xSync, ffi::SQLITE_SYNC_NORMAL))
    }

    fn size(&mut self) -> io::Result<u64> {
        let mut size = 0;
        checked(real!(self.0, xFileSize, &raw mut size))?;
        Ok(size.cast_unsigned())
    }
}

fn behind(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: `szOsFile` of this layer is the head and the file below, so the memory goes on for that one; the head's
    // size is a multiple of the alignment of both.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// What belongs to an open file.
fn parts<'f>(file: *mut ffi::sqlite3_file) -> (&'f mut State, Real) {
    // SAFETY: SQLite passes a file that `open` has made and `close` has not ended, and uses a file from one thread at
    // a time; so the state is there, and nobody else holds a reference to it during the call.
    let state = unsafe { &mut *(*file.cast::<File>()).state };
    (state, Real(behind(file)))
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let (state, mut real) = parts(file);
    let settled = match &mut state.memory {
        Some(memory) if !state.layer.habits.lies => memory.settle(&mut real, &state.layer.habits),
        _ => Ok(()),
    };
    let closed = real!(behind(file), xClose);
    // SAFETY: made by `Box::into_raw` in `open`, and not used again: SQLite forgets a file that it has closed.
    drop(unsafe { Box::from_raw(state) });
    match closed {
        ffi::SQLITE_OK => code(settled, ffi::SQLITE_IOERR_CLOSE),
        failed => failed,
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    let (state, mut real) = parts(file);
    let Some(memory) = &state.memory else {
        return real!(behind(file), xRead, to, length, offset);
    };
    // SAFETY: SQLite's contract of xRead: `to` has `length` bytes, for this call alone.
    let buffer = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), length as usize) };
    match memory.read(&mut real, buffer, offset.cast_unsigned()) {
        Ok(true) => ffi::SQLITE_OK,
        Ok(false) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(error) => code(Err(error), ffi::SQLITE_IOERR_READ),
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    let (state, mut real) = parts(file);
    let Some(memory) = &mut state.memory else {
        return real!(behind(file), xWrite, from, length, offset);
    };
    // SAFETY: SQLite's contract of xWrite: `from` has `length` bytes, unchanged during this call.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length as usize) };
    let written = memory.write(&mut real, bytes, offset.cast_unsigned(), &state.layer.habits);
    code(written, ffi::SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let (state, mut real) = parts(file);
    match &mut state.memory {
        None => real!(behind(file), xTruncate, size),
        Some(memory) => {
            let cut = memory.truncate(&mut real, size.cast_unsigned(), &state.layer.habits);
            code(cut, ffi::SQLITE_IOERR_TRUNCATE)
        }
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let (state, mut real) = parts(file);
    match &mut state.memory {
        None => real!(behind(file), xSync, flags),
        Some(memory) => code(
            memory.sync(&mut real, &state.layer.habits),
            ffi::SQLITE_IOERR_FSYNC,
        ),
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    let (state, mut real) = parts(file);
    let Some(memory) = &state.memory else {
        return real!(behind(file), xFileSize, size);
    };
    match memory.size(&mut real) {
        Ok(found) => {
            // SAFETY: SQLite's contract of xFileSize: a place for one number.
            unsafe { *size = found.cast_signed() };
            ffi::SQLITE_OK
        }
        Err(error) => code(Err(error), ffi::SQLITE_IOERR_FSTAT),
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    real!(behind(file), xLock, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    real!(behind(file), xUnlock, level)
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    real!(behind(file), xCheckReservedLock, out)
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    match op {
        // It would make the file longer behind the back of what is in mind.
        ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE => ffi::SQLITE_OK,
        _ => real!(behind(file), xFileControl, op, argument),
    }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    real!(behind(file), xSectorSize)
}

unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    real!(behind(file), xDeviceCharacteristics)
}

/// Version 1: no shared memory and no mapping, both of which would go past this layer. A write-ahead log needs
/// `locking_mode = EXCLUSIVE` then.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

fn layer(vfs: *mut ffi::sqlite3_vfs) -> &'static Layer {
    // SAFETY: SQLite passes the structure that `register` has given it, whose data is a leaked `Layer`.
    unsafe { &*(*vfs).pAppData.cast::<Layer>() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let layer = layer(vfs);
    let mut taken = 0;
    // SAFETY: the memory behind the head is as long as the layer below asked for, and the other arguments are those
    // that SQLite gave for exactly this call.
    let opened = unsafe {
        (*file).pMethods = std::ptr::null();
        match (*layer.real).xOpen {
            Some(open) => open(layer.real, name, behind(file), flags, &raw mut taken),
            None => ffi::SQLITE_CANTOPEN,
        }
    };
    if opened != ffi::SQLITE_OK {
        return opened;
    }
    let state = State {
        memory: (!name.is_null()).then(Memory::default),
        layer,
    };
    // SAFETY: `file` is memory for a `File`, and `out` is null or a place for flags.
    unsafe {
        (*file.cast::<File>()).state = Box::into_raw(Box::new(state));
        (*file).pMethods = &raw const METHODS;
        if !out.is_null() {
            *out = taken;
        }
    }
    ffi::SQLITE_OK
}

/// Passes a call about names, time or chance on to the layer below.
macro_rules! pass_on {
    ($name:ident, $method:ident, ($($argument:ident: $kind:ty),*) -> $result:ty, $otherwise:expr) => {
        unsafe extern "C" fn $name(vfs: *mut ffi::sqlite3_vfs $(, $argument: $kind)*) -> $result {
            let real = layer(vfs).real;
            // SAFETY: the arguments are those that SQLite gave for this very call; only the layer is another.
            unsafe {
                match (*real).$method {
                    Some(method) => method(real $(, $argument)*),
                    None => $otherwise,
                }
            }
        }
    };
}

pass_on!(delete, xDelete, (name: *const c_char, sync: c_int) -> c_int, ffi::SQLITE_IOERR_DELETE);
pass_on!(access, xAccess, (name: *const c_char, flags: c_int, out: *mut c_int) -> c_int, ffi::SQLITE_IOERR_ACCESS);
pass_on!(full_pathname, xFullPathname, (name: *const c_char, length: c_int, out: *mut c_char) -> c_int, ffi::SQLITE_CANTOPEN);
pass_on!(randomness, xRandomness, (length: c_int, out: *mut c_char) -> c_int, 0);
pass_on!(sleep, xSleep, (microseconds: c_int) -> c_int, 0);
pass_on!(current_time, xCurrentTime, (out: *mut f64) -> c_int, ffi::SQLITE_ERROR);
pass_on!(last_error, xGetLastError, (length: c_int, out: *mut c_char) -> c_int, 0);
pass_on!(current_time_int64, xCurrentTimeInt64, (out: *mut i64) -> c_int, ffi::SQLITE_ERROR);

/// Makes the layer known to SQLite under this name, until the process ends.
///
/// # Errors
/// The name holds a zero byte, or SQLite refuses.
pub fn register(name: &str, habits: Habits) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: initializes SQLite at most once, and answers its own layer, which lives as long as the process.
    let real = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    if real.is_null() {
        return Err(io::Error::other("SQLite has no file system layer of its own"));
    }
    // SAFETY: not null, and never changed after its registration.
    let (below, longest) = unsafe { ((*real).szOsFile, (*real).mxPathname) };
    let layer = Box::leak(Box::new(Layer { real, habits }));
    let vfs = ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: size_of::<File>() as c_int + below,
        mxPathname: longest,
        pNext: std::ptr::null_mut(),
        zName: name.into_raw(),
        pAppData: std::ptr::from_mut(layer).cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    };
    // SAFETY: the structure is leaked, so it outlives SQLite; every method in it follows SQLite's contract, and it is
    // not made the default.
    checked(unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) })
}

#[cfg(test)]
mod tests;
