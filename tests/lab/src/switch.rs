//! The cables: every frame that an interface sends reaches all others of its segment.
//!
//! A small process that lives as long as the lab, because machines come and go. An interface is a datagram socket of its
//! QEMU; the switch has one for each interface too. What a receiver does not take is dropped once its queue is full, as a
//! switch of metal does: a machine that hangs must not hold up the others.
//!
//! Must never: deliver a frame to who sent it.

use crate::error::{Error, Result};
use crate::topology::{Node, Segment, machine_end, switch_end};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Frames that wait for one receiver.
const QUEUE: usize = 256;
/// Longest frame; QEMU's own limit is 68 KiB.
const FRAME: usize = 70 << 10;

type Frame = Box<[u8]>;

/// Carries frames between the sockets in `folder` until the process is ended.
///
/// # Errors
/// A socket cannot be made.
pub fn run(folder: &Path) -> Result<()> {
    let mut carriers = vec![];
    for segment in Segment::ALL {
        let mut ports = vec![];
        for node in segment.nodes() {
            let path = folder.join(switch_end(segment, node));
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).map_err(Error::file("bind", &path))?;
            let (queue, waiting) = sync_channel(QUEUE);
            let to = folder.join(machine_end(segment, node));
            thread::spawn(move || deliver(&waiting, &to));
            ports.push((node, socket, queue));
        }
        let queues: Vec<(Node, SyncSender<Frame>)> = ports
            .iter()
            .map(|(node, _, queue)| (*node, queue.clone()))
            .collect();
        for (node, socket, _) in ports {
            let others = queues
                .iter()
                .filter(|(other, _)| *other != node)
                .map(|(_, queue)| queue.clone())
                .collect();
            carriers.push(thread::spawn(move || carry(&socket, others)));
        }
    }
    for carrier in carriers {
        carrier
            .join()
            .map_err(|_| Error::step("carry frames", "a thread died"))?
            .map_err(|error| Error::step("carry frames", error))?;
    }
    Ok(())
}

fn carry(from: &UnixDatagram, others: Vec<SyncSender<Frame>>) -> std::io::Result<()> {
    let mut frame = vec![0; FRAME];
    loop {
        let length = from.recv(&mut frame)?;
        for queue in &others {
            // Full, or its thread is gone: the frame is lost, as frames are.
            let _ = queue.try_send(frame[..length].into());
        }
    }
}

/// Waits for a receiver that reads slowly; one that is not there loses the frame at once.
fn deliver(waiting: &Receiver<Frame>, to: &Path) {
    let Ok(socket) = UnixDatagram::unbound() else {
        return;
    };
    for frame in waiting {
        let _ = socket.send_to(&frame, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_frame_reaches_all_others_and_not_its_sender() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().to_owned();
        let machine = |node| {
            let socket =
                UnixDatagram::bind(folder.join(machine_end(Segment::Front, node))).expect("a socket");
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("a bound");
            socket
        };
        let machines = Node::ALL.map(machine);
        let switch = folder.clone();
        thread::spawn(move || run(&switch));
        let port = folder.join(switch_end(Segment::Front, Node::A));
        crate::wait::wait_for("the switch is there", Duration::from_secs(10), || {
            machines[0]
                .send_to(b"frame", &port)
                .map_err(|error| error.to_string())
        })
        .expect("it comes");
        let mut buffer = [0; 64];
        for other in &machines[1..] {
            let length = other.recv(&mut buffer).expect("it arrives");
            assert_eq!(&buffer[..length], b"frame");
        }
        machines[0].set_nonblocking(true).expect("no wait");
        assert!(
            machines[0].recv(&mut buffer).is_err(),
            "it came back to its sender"
        );
    }
}
