//! I/O on the quorum disks.
//!
//! One task per disk, so that a disk that stalls delays nobody else. A task does what the core asks, in 4 KiB blocks,
//! and reports with the instants at which each command was *submitted*: the lease counts from there.
//!
//! A write whose fate is unknown (the connection broke) is reported as failed only after a new session stands: the
//! disk port ends everything of the older session before it lets the new one in, so from then on nothing of the old
//! write can land late. Until then it is outstanding, and the core will not write that block again.

use crate::gasp;
use bytes::Bytes;
use pollux_api::id::{ArrayId, ControllerId};
use pollux_block_frame::{Client, Hello, Port, Purpose};
use pollux_heartbeat_core::Seat;
use pollux_heartbeat_core::area::Area;
use pollux_heartbeat_core::layout::{self, AREA_BLOCKS, BLOCK_BYTES as BLOCK, Place};
use std::{path::PathBuf, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};

/// How long a login may take before it is tried again. Not a promise: only how often a dead path is knocked at.
const LOGIN_WITHIN: Duration = Duration::from_secs(2);
/// How long a path to a disk that is to be formatted is waited for.
const FORMAT_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach a disk.
const RETRY: Duration = Duration::from_millis(50);

/// What a disk is asked to do.
#[derive(Debug)]
pub enum Command<W, R> {
    /// Write blocks durably.
    Write {
        /// Given back with the result.
        token: W,
        /// Number of the first block.
        block: u64,
        /// Whole blocks.
        data: Vec<u8>,
    },
    /// Read blocks.
    Read {
        /// Given back with the result.
        token: R,
        /// Number of the first block.
        block: u64,
        /// How many.
        count: u32,
    },
}

/// How it went. Instants are nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug)]
pub enum Outcome<W, R> {
    /// A write has ended; nothing of it can still take effect.
    Written {
        /// From the command.
        token: W,
        /// When it was handed to the disk.
        submitted_ns: u64,
        /// Durable, or why not.
        result: Result<(), String>,
    },
    /// A read has ended.
    Read {
        /// From the command.
        token: R,
        /// When it was handed to the disk.
        issued_ns: u64,
        /// The blocks, or why not.
        result: Result<Vec<u8>, String>,
    },
}

/// Where a quorum disk is, and who asks.
#[derive(Clone, Debug)]
pub struct Path {
    /// The disk, and as which quorum disk.
    pub seat: Seat,
    /// Its port on this controller.
    pub socket: PathBuf,
    /// The array.
    pub array: ArrayId,
    /// This controller.
    pub controller: ControllerId,
}

/// Serves one disk until the command channel is closed.
pub async fn serve<W, R>(
    path: Path,
    mut commands: mpsc::UnboundedReceiver<Command<W, R>>,
    outcomes: mpsc::UnboundedSender<(Seat, Outcome<W, R>)>,
) where
    W: Send + 'static,
    R: Send + 'static,
{
    // Writes whose connection broke: they have ended once the next session stands.
    let mut unknown: Vec<(W, u64, String)> = Vec::new();
    let mut ended = false;
    while !ended {
        let session = {
            let mut connecting = std::pin::pin!(connect(&path));
            loop {
                tokio::select! {
                    session = &mut connecting => break session,
                    // While there is no path commands fail at once: they were never handed to the disk, so nothing
                    // of them can be under way.
                    command = commands.recv() => match command {
                        Some(command) => refuse(&path, command, &outcomes),
                        None => return,
                    },
                }
            }
        };
        for (token, submitted_ns, why) in unknown.drain(..) {
            let _ = outcomes.send((
                path.seat,
                Outcome::Written {
                    token,
                    submitted_ns,
                    result: Err(why),
                },
            ));
        }
        let mut running: JoinSet<Done<W, R>> = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => drop(running.spawn(perform(session.clone(), command))),
                    None => { ended = true; break; }
                },
                Some(done) = running.join_next() => report(&path, done, &mut unknown, &outcomes),
                () = session.client.closed() => break,
            }
        }
        while let Some(done) = running.join_next().await {
            report(&path, done, &mut unknown, &outcomes);
        }
    }
}

/// Makes a disk a quorum disk: looks at what stands there, writes the whole area, reads it back.
///
/// # Errors
/// What stands against it, in words. Nothing of the write is under way any more then.
pub async fn format(path: &Path, place: &Place, parts: &[Area; 2]) -> Result<(), String> {
    let session = tokio::time::timeout(FORMAT_WITHIN, connect(path))
        .await
        .map_err(|_| {
            format!(
                "no path ({}) within {} s",
                path.socket.display(),
                FORMAT_WITHIN.as_secs()
            )
        })?;
    let count = u32::try_from(AREA_BLOCKS).unwrap_or(u32::MAX);
    let before = read_area(&session, count).await?;
    layout::may_lay_out(place, parts, &before)?;
    let data = layout::lay_out(place, parts);
    let write = Command::<(), ()>::Write {
        token: (),
        block: 0,
        data: data.clone(),
    };
    match perform(session.clone(), write).await {
        Done::Ended(Outcome::Written { result, .. }) => result?,
        Done::Ended(Outcome::Read { .. }) => {}
        Done::Unknown { why, .. } => {
            // The next session is let in when everything of this one has ended.
            connect(path).await;
            return Err(why);
        }
    }
    if read_area(&session, count).await? == data {
        Ok(())
    } else {
        Err("what was written is not what is read back".to_owned())
    }
}

async fn read_area(session: &Session, count: u32) -> Result<Vec<u8>, String> {
    let read = Command::<(), ()>::Read {
        token: (),
        block: 0,
        count,
    };
    match perform(session.clone(), read).await {
        Done::Ended(Outcome::Read { result, .. }) => result,
        Done::Ended(Outcome::Written { .. }) | Done::Unknown { .. } => Err("no answer to a read".to_owned()),
    }
}

#[derive(Clone)]
struct Session {
    client: Client,
    /// Logical blocks of the disk in one block of the area.
    factor: u64,
}

enum Done<W, R> {
    Ended(Outcome<W, R>),
    Unknown {
        token: W,
        submitted_ns: u64,
        why: String,
    },
}

/// Who says so at a disk's port. A later session of the same name ends the earlier one.
fn hello(path: &Path, name: &str) -> Hello {
    Hello {
        array: uuid::Uuid::from_bytes(*path.array.as_bytes()),
        port: match path.controller {
            ControllerId::A => Port::A,
            ControllerId::B => Port::B,
        },
        purpose: Purpose::Disk,
        client: name.to_owned(),
        epoch: 0,
        generation: 0,
    }
}

/// A session of another name than that in which blocks are written.
pub(crate) async fn client(path: &Path, name: &str) -> Result<Client, String> {
    Client::connect_unix(&path.socket, &hello(path, name), None, LOGIN_WITHIN)
        .await
        .map_err(|error| error.to_string())
}

async fn connect(path: &Path) -> Session {
    let hello = hello(path, "heartbeat");
    let mut last = String::new();
    loop {
        gasp::stand_still();
        match try_connect(path, &hello).await {
            Ok(session) => return session,
            Err(why) => {
                if why != last {
                    tracing::warn!(disk = %path.seat.disk, why, "quorum disk cannot be reached");
                    last = why;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Writes a block in the place of the daemon's own session, which it ends.
pub(crate) async fn write_last(path: &Path, block: u64, data: Vec<u8>) -> Result<(), String> {
    let session = try_connect(path, &hello(path, "heartbeat")).await?;
    let written = session
        .client
        .write(block * session.factor, Bytes::from(data), true, None);
    written.await.map_err(|error| error.to_string())
}

async fn try_connect(path: &Path, hello: &Hello) -> Result<Session, String> {
    let client = Client::connect_unix(&path.socket, hello, None, LOGIN_WITHIN)
        .await
        .map_err(|error| error.to_string())?;
    let deadline = tokio::time::Instant::now() + LOGIN_WITHIN;
    let info = client
        .info(Some(deadline))
        .await
        .map_err(|error| error.to_string())?;
    let size = u64::from(info.block_size);
    if size == 0 || !(BLOCK as u64).is_multiple_of(size) {
        return Err(format!(
            "{}: logical blocks of {size} bytes do not divide {BLOCK}",
            path.seat.disk
        ));
    }
    Ok(Session {
        client,
        factor: BLOCK as u64 / size,
    })
}

async fn perform<W, R>(session: Session, command: Command<W, R>) -> Done<W, R> {
    let issued_ns = pollux_platform::clock::monotonic_ns();
    match command {
        Command::Write { token, block, data } => {
            match session
                .client
                .write(block * session.factor, Bytes::from(data), true, None)
                .await
            {
                Ok(()) => Done::Ended(Outcome::Written {
                    token,
                    submitted_ns: issued_ns,
                    result: Ok(()),
                }),
                Err(error) if error.nothing_was_done() || error.status().is_some() => {
                    Done::Ended(Outcome::Written {
                        token,
                        submitted_ns: issued_ns,
                        result: Err(error.to_string()),
                    })
                }
                Err(error) => Done::Unknown {
                    token,
                    submitted_ns: issued_ns,
                    why: error.to_string(),
                },
            }
        }
        Command::Read { token, block, count } => {
            let blocks = u32::try_from(u64::from(count) * session.factor).unwrap_or(u32::MAX);
            let result = match session.client.read(block * session.factor, blocks, None).await {
                Ok(data) if data.len() == BLOCK * count as usize => Ok(data.to_vec()),
                Ok(data) => Err(format!(
                    "{} bytes where {} were asked",
                    data.len(),
                    BLOCK * count as usize
                )),
                Err(error) => Err(error.to_string()),
            };
            Done::Ended(Outcome::Read {
                token,
                issued_ns,
                result,
            })
        }
    }
}

fn report<W, R>(
    path: &Path,
    done: Result<Done<W, R>, tokio::task::JoinError>,
    unknown: &mut Vec<(W, u64, String)>,
    outcomes: &mpsc::UnboundedSender<(Seat, Outcome<W, R>)>,
) {
    match done {
        Ok(Done::Ended(outcome)) => drop(outcomes.send((path.seat, outcome))),
        Ok(Done::Unknown {
            token,
            submitted_ns,
            why,
        }) => unknown.push((token, submitted_ns, why)),
        // A command that panicked has lost its token: the core will see a write that never ends, which is safe.
        Err(error) => tracing::error!(disk = %path.seat.disk, %error, "command on a quorum disk was lost"),
    }
}

fn refuse<W, R>(
    path: &Path,
    command: Command<W, R>,
    outcomes: &mpsc::UnboundedSender<(Seat, Outcome<W, R>)>,
) {
    let now = pollux_platform::clock::monotonic_ns();
    let why = format!("{}: no path ({})", path.seat.disk, path.socket.display());
    let outcome = match command {
        Command::Write { token, .. } => Outcome::Written {
            token,
            submitted_ns: now,
            result: Err(why),
        },
        Command::Read { token, .. } => Outcome::Read {
            token,
            issued_ns: now,
            result: Err(why),
        },
    };
    drop(outcomes.send((path.seat, outcome)));
}
