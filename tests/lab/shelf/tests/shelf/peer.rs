//! The same reservation commands to tgtd, which nobody here wrote: where it knows a command, both answer alike.

use crate::support::*;
use pollux_host::scsi::Status;
use pollux_host::single::Login;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const TGTD: &str = "/usr/sbin/tgtd";
const TGTADM: &str = "/usr/sbin/tgtadm";
const TARGET: &str = "iqn.2026-01.pollux.lab:peer";
/// Number of the unit; 0 is tgtd's own.
const LUN: u16 = 1;

/// A tgtd of ours, with one unit on a file.
struct Tgtd {
    child: Child,
    socket: PathBuf,
    portal: String,
}

impl Tgtd {
    fn start(folder: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let portal = free.local_addr().expect("bound").to_string();
        drop(free);
        let socket = folder.join("tgtd");
        let child = Command::new(TGTD)
            .args([
                "--foreground",
                "--control-port",
                "1",
                "--iscsi",
                &format!("portal={portal}"),
            ])
            .env("TGT_IPC_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tgtd starts");
        let tgtd = Tgtd {
            child,
            socket,
            portal,
        };
        let until = Instant::now() + SOON;
        while !tgtd.admin("--op show --mode target") {
            assert!(Instant::now() < until, "tgtd takes no orders");
            std::thread::yield_now();
        }
        let file = folder.join("unit");
        let made = std::fs::File::create(&file).and_then(|file| file.set_len(16 << 20));
        made.expect("a file");
        let unit = format!(
            "--op new --mode logicalunit --tid 1 --lun 1 --backing-store {}",
            file.display()
        );
        for order in [
            &format!("--op new --mode target --tid 1 --targetname {TARGET}"),
            &unit,
            "--op bind --mode target --tid 1 --initiator-address ALL",
        ] {
            assert!(tgtd.admin(order), "{order}");
        }
        tgtd
    }

    fn admin(&self, order: &str) -> bool {
        Command::new(TGTADM)
            .args(["--control-port", "1", "--lld", "iscsi"])
            .args(order.split(' '))
            .env("TGT_IPC_SOCKET", &self.socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn host(&self, initiator: &str) -> Host {
        let login = Login {
            initiator: initiator.to_owned(),
            isid: 1,
            target: TARGET.to_owned(),
            portal: self.portal.clone(),
        };
        Host::log_in(&login).expect("logged in")
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        // It takes no notice of being asked to end, and may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hears unit attentions until there are none.
fn settled(host: &mut Host, lun: u16) {
    for _ in 0..8 {
        if host.ready(lun) == Status::Good {
            return;
        }
    }
    panic!("unit attentions without an end");
}

type Told = Vec<(&'static str, String)>;

/// Two nexuses and one unit: who may write, who is registered, who holds, after each step.
fn story(a: &mut Host, b: &mut Host, lun: u16) -> Told {
    let mut told = Told::new();
    for host in [&mut *a, &mut *b] {
        settled(host, lun);
    }
    let steps: [(&str, bool, u8, u8, Keys); 12] = [
        ("register a", true, REGISTER, 0, (0, 1)),
        ("register a under a wrong key", true, REGISTER, 0, (9, 2)),
        ("reserve a", true, RESERVE, WERO, (1, 0)),
        (
            "reserve by b, which is not registered",
            false,
            RESERVE,
            WERO,
            (2, 0),
        ),
        ("register b", false, REGISTER_AND_IGNORE, 0, (0, 2)),
        ("preempt a", false, PREEMPT, WERO, (2, 1)),
        (
            "reserve by a, which is not registered any more",
            true,
            RESERVE,
            WERO,
            (1, 0),
        ),
        ("register a again", true, REGISTER, 0, (0, 3)),
        ("release by who does not hold it", true, RELEASE, WERO, (3, 0)),
        ("release b", false, RELEASE, WERO, (2, 0)),
        ("reserve a again, for itself alone", true, RESERVE, 1, (3, 0)),
        ("clear", false, CLEAR, 0, (2, 0)),
    ];
    for (step, by_a, action, kind, keys) in steps {
        let status = if by_a {
            a.reserve(lun, action, kind, keys)
        } else {
            b.reserve(lun, action, kind, keys)
        };
        for host in [&mut *a, &mut *b] {
            settled(host, lun);
        }
        let mut registered = b.keys(lun);
        registered.sort_unstable();
        let writes = [&mut *a, &mut *b].map(|host| host.write(lun, 0, 1, 1, false));
        let reads = [&mut *a, &mut *b].map(|host| host.read(lun, 0).0);
        let holder = a.holder(lun);
        told.push((
            step,
            format!("{status}; keys {registered:?}; holder {holder:?}; writes {writes:?}; reads {reads:?}"),
        ));
    }
    told
}

#[test]
fn tgtd_and_the_shelf_tell_one_story() {
    if no_library() {
        return;
    }
    let lab = Lab::start();
    let (mut a, mut b) = (lab.host(A), lab.host(B));
    let ours = story(&mut a, &mut b, 0);
    // The end of it is known without a peer: nobody is registered, and everybody writes.
    let end = &ours.last().expect("twelve steps").1;
    assert_eq!(
        *end,
        "GOOD; keys []; holder None; writes [Good, Good]; reads [Good, Good]"
    );
    if ![TGTD, TGTADM].iter().all(|program| Path::new(program).is_file()) {
        println!("SKIPPED: tgtd is missing (Debian package tgt)");
        return;
    }
    let folder = tempfile::tempdir().expect("scratch");
    let tgtd = Tgtd::start(folder.path());
    let (mut a, mut b) = (tgtd.host(&name(A)), tgtd.host(&name(B)));
    let theirs = story(&mut a, &mut b, LUN);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    // What tgtd has none of.
    assert_eq!(a.reserve(LUN, REGISTER, 0, (0, 1)), Status::Good);
    for (what, status) in [
        (
            "PREEMPT AND ABORT",
            a.reserve(LUN, PREEMPT_AND_ABORT, WERO, (1, 1)),
        ),
        ("READ FULL STATUS", a.reservations(LUN, READ_FULL_STATUS).0),
    ] {
        match status {
            Status::CheckCondition(sense) if sense.key == pollux_host::scsi::ILLEGAL_REQUEST => {
                println!("SKIPPED at tgtd: it does not know {what} ({sense})");
            }
            status => panic!("{what}: {status}: tgtd knows it by now, compare it"),
        }
    }
}
