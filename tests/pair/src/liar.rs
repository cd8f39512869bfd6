//! A part that lies, slipped between two honest ones: proof that the suite would notice.
//!
//! It takes the place of a block-frame socket (of a disk's port, or of a volume), passes everything
//! on, and lies in one way: as a build with one fsync removed would, or as a target that answers
//! before it has written. What it does is what such a build does on the wire, so the shipped
//! programs can stay as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pollux_block_frame::{
    Client, Handler, Hello, Operation, Purpose, Reply, Request, Server, ServerOptions, Status,
};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::error::{Error, Result};

/// The one way in which it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Writes lose their FUA, and a flush is answered without flushing.
    ForgetsToFlush,
    /// A write is answered at once and carried out after this delay.
    AnswersFirst(Duration),
}

/// A lying part in place. Dropping it gives the honest socket its place back.
pub struct Liar {
    place: PathBuf,
    honest: PathBuf,
    server: Arc<Server<Liaison>>,
    task: tokio::task::JoinHandle<()>,
    told: Arc<AtomicU64>,
}

impl Liar {
    /// Takes the place of the socket at `place`. Whoever is connected there stays connected to the
    /// honest one until it connects again.
    pub fn insert(runtime: &Runtime, place: &Path, array: Uuid, purpose: Purpose, lie: Lie) -> Result<Self> {
        let honest = place.with_extension("honest");
        let step = |what: &str| format!("{what} {}", place.display());
        std::fs::rename(place, &honest).map_err(|err| Error::step(step("take the place of"), err))?;
        let _context = runtime.enter();
        let listener = UnixListener::bind(place).map_err(|err| Error::step(step("listen on"), err))?;
        let told = Arc::new(AtomicU64::new(0));
        let liaison = Liaison {
            honest: honest.clone(),
            lie,
            told: Arc::clone(&told),
        };
        let server = Server::new(Arc::new(liaison), ServerOptions::new(array, purpose, None));
        let serving = Arc::clone(&server);
        let task = runtime.spawn(async move { serving.serve_unix(listener).await });
        Ok(Liar {
            place: place.to_owned(),
            honest,
            server,
            task,
            told,
        })
    }

    /// How often it has lied: a test that shows nothing because nobody asked shows nothing.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.server.close();
        self.task.abort();
        // If the honest part has gone meanwhile, there is no place to give back.
        let _ = std::fs::rename(&self.honest, &self.place);
    }
}

struct Liaison {
    honest: PathBuf,
    lie: Lie,
    told: Arc<AtomicU64>,
}

impl Handler for Liaison {
    type Session = Client;

    async fn log_in(&self, hello: &Hello) -> std::result::Result<Client, Status> {
        Client::connect_unix(&self.honest, hello, None, Duration::from_secs(5))
            .await
            .map_err(|err| err.status().unwrap_or(Status::NotReady))
    }

    async fn handle(&self, session: &Arc<Client>, mut request: Request) -> Reply {
        match (self.lie, &mut request.operation) {
            (Lie::ForgetsToFlush, Operation::Write { fua, .. } | Operation::CompareAndWrite { fua, .. })
                if *fua =>
            {
                *fua = false;
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            (Lie::ForgetsToFlush, Operation::Flush) => {
                self.told.fetch_add(1, Ordering::Relaxed);
                return Reply::ok();
            }
            (Lie::AnswersFirst(delay), Operation::Write { .. }) => {
                self.told.fetch_add(1, Ordering::Relaxed);
                let session = Arc::clone(session);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    // Nobody waits for it any more; that is the lie.
                    let _ = session.call(request, None).await;
                });
                return Reply::ok();
            }
            _ => {}
        }
        session
            .call(request, None)
            .await
            .unwrap_or_else(|err| Reply::status(err.status().unwrap_or(Status::NotReady)))
    }

    fn ended(&self, _session: &Arc<Client>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A disk that notes what it is asked.
    struct Note(Mutex<Vec<Operation>>);

    impl Handler for Note {
        type Session = ();
        async fn log_in(&self, _hello: &Hello) -> std::result::Result<(), Status> {
            Ok(())
        }
        async fn handle(&self, _session: &Arc<()>, request: Request) -> Reply {
            self.0.lock().expect("test").push(request.operation);
            Reply::ok()
        }
        fn ended(&self, _session: &Arc<()>) {}
    }

    fn ask(lie: Lie) -> (Vec<Operation>, u64) {
        let runtime = Runtime::new().expect("runtime");
        let directory = tempfile::tempdir().expect("scratch directory");
        let place = directory.path().join("disk.sock");
        let array = Uuid::from_u128(5);
        let disk = Arc::new(Note(Mutex::default()));
        let server = Server::new(Arc::clone(&disk), ServerOptions::new(array, Purpose::Disk, None));
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&place).expect("socket")
        };
        let serving = Arc::clone(&server);
        runtime.spawn(async move { serving.serve_unix(listener).await });
        let liar = Liar::insert(&runtime, &place, array, Purpose::Disk, lie).expect("inserted");
        let hello = Hello {
            array,
            port: pollux_block_frame::Port::A,
            purpose: Purpose::Disk,
            client: "test".into(),
            epoch: 0,
            generation: 0,
        };
        runtime.block_on(async {
            let client = Client::connect_unix(&place, &hello, None, Duration::from_secs(5))
                .await
                .expect("logged in");
            client
                .write(0, vec![1; 4096].into(), true, None)
                .await
                .expect("written");
            client.flush(None).await.expect("flushed");
        });
        let told = liar.told();
        drop(liar);
        let asked = std::mem::take(&mut *disk.0.lock().expect("test"));
        assert!(place.exists() && !place.with_extension("honest").exists());
        (asked, told)
    }

    #[test]
    fn a_forgotten_flush_never_arrives() {
        let (asked, told) = ask(Lie::ForgetsToFlush);
        assert_eq!(told, 2);
        assert!(
            matches!(asked[..], [Operation::Write { fua: false, .. }]),
            "{asked:?}"
        );
    }

    #[test]
    fn an_early_answer_comes_before_the_write() {
        let (asked, told) = ask(Lie::AnswersFirst(Duration::from_secs(60)));
        assert_eq!(told, 1);
        assert!(matches!(asked[..], [Operation::Flush]), "{asked:?}");
    }
}
