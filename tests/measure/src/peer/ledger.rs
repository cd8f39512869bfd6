//! The floor of the keeper: two processes that write down what they are told, and nothing else.
//!
//! ```text
//! writer  -- length u32 | value -->  first  -- length u32 | many values -->  second
//!                                      |  writes, fdatasync                    |  writes, fdatasync
//! writer  <------ one byte --------  both are done   <------ one byte --------
//! ```
//!
//! It does what everybody has to do who promises that two disks hold a change before it is answered: what has come
//! while the disks were busy goes into the next write, both disks work at the same time, and the file has its size
//! beforehand, so that a write changes no metadata. No names, no rules, no hash, no index, no TLS, no third process
//! in between; one thread each, which waits for one thing at a time.

use crate::error::{Context, Result};
use crate::load::{Found, Stream};
use crate::writers::{Speech, VALUE, Writer, fresh};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Its name.
pub const NAME: &str = "floor";
/// Size of the file, which is overwritten from its start when its end is reached.
const BYTES: u64 = 16 << 20;
const HEAD: usize = 4;
const READ: usize = 64 << 10;
/// The second process may not listen yet.
const DIAL: Duration = Duration::from_secs(10);

/// A file that has its size, and the place where the next write goes.
struct Book {
    file: File,
    place: u64,
}

impl Book {
    fn open(path: &Path) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .context(path.display())?;
        let zeros = vec![0; usize::try_from(BYTES).unwrap_or(0)];
        file.write_all_at(&zeros, 0).context(path.display())?;
        file.sync_all().context(path.display())?;
        Ok(Self { file, place: 0 })
    }

    /// Durable when it returns.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        if self.place + length > BYTES {
            self.place = 0;
        }
        self.file.write_all_at(bytes, self.place).context("write")?;
        self.file.sync_data().context("make durable")?;
        self.place += length;
        Ok(())
    }
}

fn frame(value: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(value);
}

/// The length of the first frame, with its head, if all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() >= HEAD + length).then_some(HEAD + length)
}

/// The second process: writes down what the first one sends, until that hangs up.
///
/// # Errors
/// What the system says.
pub fn follow(address: SocketAddr, file: &Path) -> Result<()> {
    let mut book = Book::open(file)?;
    let listener = TcpListener::bind(address).context(address)?;
    let (mut stream, _) = listener.accept().context(address)?;
    stream.set_nodelay(true).context(address)?;
    let (mut input, mut end) = (vec![0; READ], 0);
    loop {
        let read = stream.read(&mut input[end..]).context("the first process")?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let mut used = 0;
        while let Some(length) = whole(&input[used..end]) {
            book.write(&input[used..used + length])?;
            stream.write_all(&[1]).context("the first process")?;
            used += length;
        }
        input.copy_within(used..end, 0);
        end -= used;
        if end == input.len() {
            input.resize(2 * end, 0);
        }
    }
}

/// What a writer has sent, and how many answers it is owed.
struct Caller {
    stream: UnixStream,
    input: Vec<u8>,
    owed: usize,
}

impl Caller {
    /// Reads once and hands every whole value on; false: it has hung up.
    fn read(&mut self, batch: &mut Vec<u8>) -> bool {
        let before = self.input.len();
        self.input.resize(before + READ, 0);
        let read = self.stream.read(&mut self.input[before..]).unwrap_or(0);
        self.input.truncate(before + read);
        let mut used = 0;
        while let Some(length) = whole(&self.input[used..]) {
            batch.extend_from_slice(&self.input[used..used + length]);
            used += length;
            self.owed += 1;
        }
        self.input.drain(..used);
        read > 0
    }
}

/// The first process: takes values on `socket`, for ever.
///
/// # Errors
/// What the system says; the second process has ended.
pub fn lead(socket: &Path, address: SocketAddr, file: &Path) -> Result<()> {
    let mut book = Book::open(file)?;
    let mut partner = dial(address)?;
    let listener = UnixListener::bind(socket).context(socket.display())?;
    let mut callers: Vec<Caller> = Vec::new();
    let (mut batch, mut sent) = (Vec::new(), Vec::new());
    loop {
        let ready: Vec<bool> = {
            let mut places = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            let of_caller = |caller| PollFd::new(AsFd::as_fd(caller), PollFlags::POLLIN);
            places.extend(callers.iter().map(|caller| of_caller(&caller.stream)));
            poll(&mut places, PollTimeout::NONE).context("wait for writers")?;
            places.iter().map(|place| place.any() == Some(true)).collect()
        };
        let mut place = 0;
        callers.retain_mut(|caller| {
            place += 1;
            !ready[place] || caller.read(&mut batch)
        });
        if ready[0] {
            let (stream, _) = listener.accept().context(socket.display())?;
            callers.push(Caller {
                stream,
                input: Vec::new(),
                owed: 0,
            });
        }
        if batch.is_empty() {
            continue;
        }
        sent.clear();
        frame(&batch, &mut sent);
        batch.clear();
        partner.write_all(&sent).context("the second process")?;
        book.write(&sent)?;
        partner.read_exact(&mut [0]).context("the second process")?;
        callers.retain_mut(|caller| {
            let owed = std::mem::take(&mut caller.owed);
            owed == 0 || caller.stream.write_all(&vec![1; owed]).is_ok()
        });
    }
}

fn dial(address: SocketAddr) -> Result<TcpStream> {
    let end = Instant::now() + DIAL;
    loop {
        match TcpStream::connect(address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < end => {
                std::thread::yield_now();
            }
            dialled => {
                let stream = dialled.context(address)?;
                stream.set_nodelay(true).context(address)?;
                return Ok(stream);
            }
        }
    }
}

struct Values;

impl Speech for Values {
    /// It knows no objects: there is nothing to be made but one value for all of them.
    fn make(&mut self, _: Range<usize>, out: &mut Vec<u8>) {
        self.change(0, out);
    }

    fn change(&mut self, _: usize, out: &mut Vec<u8>) {
        frame(fresh(VALUE).as_bytes(), out);
    }

    fn hear(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Found, String> {
        if input.iter().any(|byte| *byte != 1) {
            return Err(format!("an answer that is none: {}", input.escape_ascii()));
        }
        Ok(Found {
            used: input.len(),
            answers: input.len(),
        })
    }
}

/// A writer to the first process.
///
/// # Errors
/// What the system says.
pub fn writer(socket: &Path) -> Result<Writer> {
    let stream = UnixStream::connect(socket).context(socket.display())?;
    Writer::new(NAME, Stream::Unix(stream), Values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writers::{ANSWER, exactly};

    #[test]
    fn every_value_stands_in_both_books() {
        let folder = tempfile::tempdir().unwrap();
        let [address] = crate::stage::free_ports().unwrap();
        let (socket, one, other) = (
            folder.path().join("socket"),
            folder.path().join("one"),
            folder.path().join("other"),
        );
        let second = {
            let other = other.clone();
            std::thread::spawn(move || follow(address, &other))
        };
        let (first_socket, first_file) = (socket.clone(), one.clone());
        // It ends with the test's process.
        std::thread::spawn(move || lead(&first_socket, address, &first_file));
        let end = Instant::now() + DIAL;
        while UnixStream::connect(&socket).is_err() {
            assert!(!second.is_finished() && Instant::now() < end, "nobody listens");
            std::thread::yield_now();
        }
        let mut writers: Vec<Writer> = (0..4).map(|_| writer(&socket).unwrap()).collect();
        exactly(&mut writers, 1, 100, ANSWER).unwrap();
        let books = [one, other].map(|path| std::fs::read(path).unwrap());
        assert!(books[0] == books[1], "the books differ");
        let (mut rest, mut values) = (&books[0][..], 0);
        while let Some(length) = whole(rest).filter(|length| *length > HEAD) {
            let (batch, after) = rest.split_at(length);
            values += batch[HEAD..].chunks(HEAD + VALUE).count();
            rest = after;
        }
        assert_eq!(values, 100);
    }

    #[test]
    fn a_book_is_overwritten_from_its_start_when_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("book");
        let mut book = Book::open(&path).unwrap();
        book.place = BYTES - 2;
        book.write(b"abc").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len() as u64, &bytes[..4]), (BYTES, &b"abc\0"[..]));
    }
}
