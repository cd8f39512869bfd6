//! The end of a daemon that panics, whichever thread that comes from: what is left of it would look alive, and decide, send or
//! switch power no more. So it says that it ends, and ends: on the wire at once; where the wire is silent, in its slot as well; and
//! after a tenth of a second, whatever a disk or the journal takes.
//!
//! The slot is written by a session of the name under which the daemon itself writes. The port of a disk ends the earlier session
//! of a name, and everything of it, before it lets a new one in: so nothing that was under way lands later, and the next daemon's
//! session does the same to this one. Who decides stands still meanwhile: its next word would take the last one back.
//!
//! Not covered: what is killed, runs out of memory or out of its stack, and a kernel that panics. They say nothing.

use crate::quorum::{self, Path};
use crate::wire::LastWord;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime;

/// From the panic to the end. Tests run on machines that may have no processor for longer.
const WITHIN: Duration = Duration::from_millis(if cfg!(test) { 5_000 } else { 100 });
/// The part of it that a disk has.
const WRITE_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 4_000 } else { 80 });

static DYING: AtomicBool = AtomicBool::new(false);

/// Never returns once the daemon ends. Stands wherever something would be said.
pub fn stand_still() {
    while DYING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// What would be written to one quorum disk.
#[derive(Debug)]
pub struct LastSlot {
    /// The way there.
    pub path: Path,
    /// Number of the block.
    pub block: u64,
    /// The block.
    pub data: Vec<u8>,
}

/// What would be written now, kept ready by whoever decides.
#[derive(Clone, Debug, Default)]
pub struct LastSlots(Arc<Mutex<Vec<LastSlot>>>);

impl LastSlots {
    /// From now on these, should it come to that.
    pub fn prepare(&self, slots: Vec<LastSlot>) {
        if let Ok(mut kept) = self.0.lock() {
            *kept = slots;
        }
    }

    async fn write(&self) {
        // Whoever panicked may have had it in hand: then the wire has to do.
        let slots = self.0.try_lock().map(|mut slots| std::mem::take(&mut *slots));
        let mut writes = tokio::task::JoinSet::new();
        for LastSlot { path, block, data } in slots.unwrap_or_default() {
            writes.spawn(async move { quorum::write_last(&path, block, data).await });
        }
        // Nobody is left who could do anything about one that fails.
        while writes.join_next().await.is_some() {}
    }
}

/// From now on a panic is the end of the daemon, told by these words.
///
/// # Errors
/// No thread can be started.
pub fn install(word: LastWord, slots: LastSlots) -> std::io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let printed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&printed);
    let last = std::thread::Builder::new().name("gasp".into()).spawn(move || {
        while !DYING.load(Ordering::SeqCst) {
            std::thread::park();
        }
        let end = Instant::now() + WITHIN;
        // In vain or not: the end comes.
        let _ = runtime.block_on(async { tokio::time::timeout(WRITE_WITHIN, slots.write()).await });
        while !seen.load(Ordering::SeqCst) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        std::process::abort();
    })?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if DYING.swap(true, Ordering::SeqCst) {
            // The first one ends the process.
            stand_still();
        }
        word.say();
        last.thread().unpark();
        before(panic);
        printed.store(true, Ordering::SeqCst);
        // Where the last thread is the one that panicked, nobody else ends it.
        let end = Instant::now() + WITHIN;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        std::process::abort();
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;
    use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
    use pollux_block_frame::{
        EndpointInfo, Handler, Hello, Operation, Purpose, Reply, Request, Server, ServerOptions, Status,
    };
    use pollux_heartbeat_core::QuorumSet;
    use std::net::SocketAddr;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path as File;
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    const ARRAY: ArrayId = ArrayId::from_bytes([7; 16]);
    const KEY: [u8; 32] = [5; 32];
    const FOLDER: &str = "POLLUX_GASP_TEST";
    /// As `abort` ends a process (signal(7)).
    const SIGABRT: i32 = 6;
    const LONG: Duration = Duration::from_secs(60);

    /// A port of a disk that tells what is written.
    struct Disk(mpsc::UnboundedSender<(String, u64, Vec<u8>)>);

    impl Handler for Disk {
        type Session = Hello;

        async fn log_in(&self, hello: &Hello) -> Result<Hello, Status> {
            Ok(hello.clone())
        }

        async fn handle(&self, session: &Arc<Hello>, request: Request) -> Reply {
            match request.operation {
                Operation::Info => Reply::info(&EndpointInfo {
                    block_size: 512,
                    physical_block_size: 4096,
                    blocks: 64,
                    id: request.volume,
                    volatile_cache: false,
                    serial: String::new(),
                }),
                Operation::Write { lba, data, .. } => {
                    let _ = self.0.send((session.client.clone(), lba, data.to_vec()));
                    Reply::status(Status::Ok)
                }
                _ => Reply::status(Status::Unsupported),
            }
        }

        fn ended(&self, _: &Arc<Hello>) {}
    }

    fn path(folder: &File, socket: &str) -> Path {
        let set = QuorumSet::first(&[DiskIndex::new(7)]).unwrap();
        Path {
            seat: set.all().next().unwrap(),
            socket: folder.join(socket),
            array: ARRAY,
            controller: ControllerId::A,
        }
    }

    /// Not a test by itself: the process that the test below starts, and that ends in a panic.
    #[tokio::test]
    async fn a_daemon_that_panics() {
        let Some(folder) = std::env::var_os(FOLDER) else {
            return;
        };
        let folder = File::new(&folder);
        let partner: SocketAddr = std::fs::read_to_string(folder.join("partner"))
            .unwrap()
            .parse()
            .unwrap();
        let local = SocketAddr::new(partner.ip(), 0);
        let wire = Wire::open(ControllerId::A, local, partner, &KEY).await.unwrap();
        wire.last_word().prepare(b"it ends");
        let slots = LastSlots::default();
        let slot = |socket, byte| LastSlot {
            path: path(folder, socket),
            block: 3,
            data: vec![byte; 4096],
        };
        // One of its disks does not answer.
        slots.prepare(vec![slot("silent", 1), slot("disk", 2)]);
        install(wire.last_word().clone(), slots).unwrap();
        std::thread::spawn(|| panic!("as it is meant"));
        let began = Instant::now();
        while began.elapsed() < LONG {
            stand_still();
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_on_the_wire_and_in_the_slot_and_ends_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let partner = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        std::fs::write(
            dir.path().join("partner"),
            partner.local_addr().unwrap().to_string(),
        )
        .unwrap();
        let (told, mut writes) = mpsc::unbounded_channel();
        let array = uuid::Uuid::from_bytes(*ARRAY.as_bytes());
        let server = Server::new(
            Arc::new(Disk(told)),
            ServerOptions::new(array, Purpose::Disk, None),
        );
        let listener = UnixListener::bind(dir.path().join("disk")).unwrap();
        let serving = tokio::spawn(async move { server.serve_unix(listener).await });
        let _silent = UnixListener::bind(dir.path().join("silent")).unwrap();
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gasp::tests::a_daemon_that_panics", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = tokio::time::timeout(LONG, child.wait_with_output());
        let output = output.await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(SIGABRT), "{said}");
        assert!(said.contains("as it is meant"), "{said}");
        let mut buffer = [0; 256];
        let (length, _) = partner.try_recv_from(&mut buffer).expect("said on the wire");
        assert!(buffer[..length].starts_with(b"it ends"));
        let written = tokio::time::timeout(LONG, writes.recv())
            .await
            .expect("in the slot");
        assert_eq!(written, Some(("heartbeat".to_owned(), 24, vec![2; 4096])));
        serving.abort();
    }
}
