//! The enclosure as a process, with toy daemons: buttons, cables, supervision, and what is left behind.
//!
//! Needs nothing but a kernel that lets this user make namespaces; otherwise each test says SKIPPED and why.

use pollux_api::{
    chassis::{Cable, DaemonAction, DiskFault, PowerAction, PowerState, Status},
    id::{ControllerId, DiskIndex},
};
use pollux_chassis::{Client, Enclosure, EnclosureError, Options, program_dir};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;

struct Fixture {
    enclosure: Enclosure,
    dir: TempDir,
}

/// An enclosure whose daemons are all the toy, under the names given.
fn options(dir: &Path, daemons: &[&str]) -> Options {
    let programs = dir.join("bin");
    let toy = program_dir().unwrap().join("examples/toy");
    assert!(
        toy.is_file(),
        "{} is made by cargo build --package pollux-chassis --examples",
        toy.display()
    );
    std::fs::create_dir_all(&programs).unwrap();
    for daemon in daemons {
        // Two enclosures on one directory in turn find the links there.
        let _ = std::os::unix::fs::symlink(&toy, programs.join(daemon));
    }
    Options {
        programs: Some(programs),
        daemons: daemons.iter().map(|name| (*name).to_owned()).collect(),
        disks: 2,
        disk_size: 16 << 20,
        ..Options::new(&dir.join("x"))
    }
}

async fn start_with(change: impl FnOnce(&mut Options), daemons: &[&str]) -> Option<Fixture> {
    let dir = TempDir::new_in("/tmp").unwrap();
    let mut options = options(dir.path(), daemons);
    change(&mut options);
    match Enclosure::start(options).await {
        Ok(enclosure) => {
            enclosure.wait_ready(LIMIT).await.unwrap();
            Some(Fixture { enclosure, dir })
        }
        Err(EnclosureError::Ended { status, message }) if status.code() == Some(5) => {
            println!("SKIPPED: {message}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn start(daemons: &[&str]) -> Option<Fixture> {
    start_with(|_| {}, daemons).await
}

/// Waits until the enclosure is so.
async fn until(client: &Client, what: &str, so: impl Fn(&Status) -> bool) -> Status {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let status = client.status().await.unwrap();
        if so(&status) {
            return status;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "never: {what}; now {status:#?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pid(status: &Status, controller: ControllerId, daemon: &str) -> Option<u32> {
    status.controllers[&controller].daemons.get(daemon)?.pid
}

fn pids(status: &Status) -> Vec<u32> {
    status
        .controllers
        .values()
        .flat_map(|c| c.daemons.values().filter_map(|d| d.pid))
        .collect()
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn gone(pids: &[u32]) {
    let deadline = std::time::Instant::now() + LIMIT;
    while let Some(left) = pids.iter().find(|pid| runs(**pid)) {
        assert!(
            std::time::Instant::now() < deadline,
            "process {left} outlives the enclosure"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Datagrams that a controller has heard from its partner.
fn heard(status: &Status, controller: ControllerId) -> u64 {
    let text = &status.controllers[&controller].daemons["wired"].status;
    text.strip_prefix("heard ")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

async fn hears(client: &Client, controller: ControllerId) {
    let before = heard(&client.status().await.unwrap(), controller);
    until(client, &format!("{controller} hears its partner"), |status| {
        heard(status, controller) > before + 3
    })
    .await;
}

/// What is on the way when a cable is cut may still arrive; after that, nothing.
async fn deaf(client: &Client, controller: ControllerId) {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = heard(&client.status().await.unwrap(), controller);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        heard(&client.status().await.unwrap(), controller),
        before,
        "{controller} must hear nothing"
    );
}

/// A TCP or ARP answer tells from the hosts' network whether a controller's portal address can be reached.
async fn portal_answers(enclosure: &Enclosure, address: &str) -> bool {
    // Nobody listens there: "refused" comes from the controller's kernel, silence from a cut cable.
    let script = format!("exec 2>&1; exec 3<>/dev/tcp/{address}/3260");
    let command = enclosure
        .host_command("timeout")
        .args(["0.5", "bash", "-c", &script])
        .output();
    String::from_utf8_lossy(&command.await.unwrap().stdout).contains("refused")
}

async fn until_portal(enclosure: &Enclosure, address: &str, answers: bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while portal_answers(enclosure, address).await != answers {
        assert!(
            std::time::Instant::now() < deadline,
            "{address}: answers must become {answers}"
        );
    }
}

#[tokio::test]
async fn power_takes_everything_and_gives_it_back() {
    let Some(f) = start(&["rpc-routerd", "wired"]).await else {
        return;
    };
    let client = f.enclosure.client();
    let run = f.enclosure.dir().join("a/run");
    let port = f.enclosure.dir().join("a/port/disk-00.sock");
    std::fs::write(run.join("lease"), "of an earlier life").unwrap();
    let before = client.status().await.unwrap();
    assert!(
        before.disks.iter().all(|disk| disk.paths == [A, B]),
        "{:?}",
        before.disks
    );
    assert!(std::os::unix::net::UnixStream::connect(&port).is_ok());
    let environment = std::fs::read(format!("/proc/{}/environ", pid(&before, A, "wired").unwrap())).unwrap();
    assert!(
        environment
            .split(|byte| *byte == 0)
            .any(|set| set.starts_with(b"POLLUX_UNSYNCED_SEED=")),
        "its disk forgets nothing when the power goes"
    );
    hears(client, B).await;

    let done = client.power(A, PowerAction::Off).await.unwrap();
    assert!(done.changed && done.done_ns > done.began_ns);
    let off = client.status().await.unwrap();
    assert_eq!(off.controllers[&A].power, PowerState::Off);
    assert!(off.controllers[&A].daemons.is_empty());
    for daemon in ["rpc-routerd", "wired"] {
        assert!(
            !runs(pid(&before, A, daemon).unwrap()),
            "{daemon} runs without power"
        );
        assert_eq!(
            pid(&off, B, daemon),
            pid(&before, B, daemon),
            "the partner's {daemon} must not notice"
        );
    }
    assert!(off.disks.iter().all(|disk| disk.paths == [B]), "{:?}", off.disks);
    assert!(
        off.legs.iter().all(|leg| !leg.carrier),
        "the partner's cables end in a dead card"
    );
    deaf(client, B).await;
    assert!(!client.power(A, PowerAction::Off).await.unwrap().changed);

    client.power(A, PowerAction::On).await.unwrap();
    f.enclosure.wait_ready(LIMIT).await.unwrap();
    let on = client.status().await.unwrap();
    assert_eq!((on.controllers[&A].boots, on.controllers[&B].boots), (2, 1));
    assert!(!run.join("lease").exists(), "run/ must not survive a boot");
    hears(client, A).await;
    hears(client, B).await;
    client.power(B, PowerAction::Reset).await.unwrap();
    let reset = client.status().await.unwrap();
    assert_eq!(reset.controllers[&B].boots, 2);
    hears(client, A).await;

    let kinds: Vec<String> = client
        .events(0)
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect();
    for kind in [
        "start",
        "power_on",
        "daemon_start",
        "daemon_ready",
        "power_off_begin",
        "power_off",
    ] {
        assert!(
            kinds.iter().any(|k| k == kind),
            "{kind} is not in the journal: {kinds:?}"
        );
    }
    f.enclosure.end().await.unwrap();
}

#[tokio::test]
async fn crashed_daemons_are_started_again_and_a_crasher_is_slowed_down() {
    let Some(f) = start_with(|_| {}, &["rpc-routerd", "wired"]).await else {
        return;
    };
    let client = f.enclosure.client();
    for round in 1..=10 {
        let before = client.status().await.unwrap();
        assert!(
            client
                .daemon(A, "wired", DaemonAction::Kill)
                .await
                .unwrap()
                .changed
        );
        until(client, "wired is back", |status| {
            let wired = &status.controllers[&A].daemons["wired"];
            wired.ready && wired.crashes == round && wired.pid != pid(&before, A, "wired")
        })
        .await;
    }
    let status = client.status().await.unwrap();
    assert_eq!(
        status.controllers[&A].daemons["wired"].last_exit.as_deref(),
        Some("signal 9")
    );
    assert_eq!(status.controllers[&A].daemons["rpc-routerd"].crashes, 0);

    let pid_before = pid(&status, A, "wired");
    client.daemon(A, "wired", DaemonAction::Stop).await.unwrap();
    let stopped = client.status().await.unwrap();
    assert!(stopped.controllers[&A].daemons["wired"].stopped);
    deaf(client, B).await;
    client.daemon(A, "wired", DaemonAction::Continue).await.unwrap();
    hears(client, B).await;
    let after = client.status().await.unwrap();
    assert_eq!(
        pid(&after, A, "wired"),
        pid_before,
        "{:?}",
        after.controllers[&A].daemons
    );

    let unknown = client
        .daemon(A, "nosuchd", DaemonAction::Kill)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        unknown.contains("nosuchd") && unknown.contains("wired"),
        "{unknown}"
    );

    client.reboot(A, LIMIT).await.unwrap();
    f.enclosure.wait_ready(LIMIT).await.unwrap();
    let exits: Vec<_> = client
        .events(0)
        .await
        .unwrap()
        .into_iter()
        .filter(|e| e.kind == "daemon_exit")
        .collect();
    assert_eq!(
        exits.iter().filter(|e| e.detail == "exit code 0").count(),
        2,
        "a reboot lets daemons end in order: {exits:?}"
    );
    f.enclosure.end().await.unwrap();

    let dir = TempDir::new_in("/tmp").unwrap();
    let enclosure = Enclosure::start(options(dir.path(), &["rpc-routerd", "crasher"]))
        .await
        .unwrap();
    until(enclosure.client(), "the crasher is slowed down", |status| {
        let crasher = &status.controllers[&A].daemons["crasher"];
        crasher.throttled && crasher.crashes > 10 && crasher.last_exit.as_deref() == Some("exit code 1")
    })
    .await;
    let log = std::fs::read_to_string(enclosure.dir().join("a/log/crasher.log")).unwrap();
    assert!(log.contains("this is what it is for"), "{log}");
    let waiting = enclosure.wait_ready(Duration::ZERO).await.unwrap_err();
    assert!(
        waiting.contains("a/crasher (crashed") && !waiting.contains("routerd"),
        "{waiting}"
    );
    enclosure.end().await.unwrap();
}

#[tokio::test]
async fn a_hung_controller_is_reset_by_its_watchdog_unless_that_is_off() {
    let Some(f) = start(&["rpc-routerd", "watched"]).await else {
        return;
    };
    let client = f.enclosure.client();
    assert_eq!(
        client.status().await.unwrap().controllers[&A].watchdog.armed_ms,
        Some(400)
    );

    client.hang(A, true).await.unwrap();
    let hung = client.status().await.unwrap();
    assert!(hung.controllers[&A].hung && hung.controllers[&A].daemons.values().all(|daemon| daemon.stopped));
    until(client, "the watchdog resets a", |status| {
        status.controllers[&A].watchdog.fired == 1 && status.controllers[&A].boots == 2
    })
    .await;
    f.enclosure.wait_ready(LIMIT).await.unwrap();
    assert!(!client.status().await.unwrap().controllers[&A].hung);
    assert_eq!(client.status().await.unwrap().controllers[&B].boots, 1);

    client.watchdog(A, false).await.unwrap();
    client.hang(A, true).await.unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    while !client
        .events(0)
        .await
        .unwrap()
        .iter()
        .any(|e| e.kind == "watchdog_fired" && e.detail.contains("disabled"))
    {
        assert!(
            std::time::Instant::now() < deadline,
            "a watchdog that is off still tells the journal"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = client.status().await.unwrap();
    assert_eq!(before.controllers[&A].boots, 2);
    client.hang(A, false).await.unwrap();
    until(client, "a goes on", |status| {
        let a = &status.controllers[&A];
        !a.hung
            && a.daemons
                .values()
                .all(|daemon| !daemon.stopped && daemon.pid.is_some())
    })
    .await;
    assert_eq!(
        pid(&before, A, "rpc-routerd"),
        pid(&client.status().await.unwrap(), A, "rpc-routerd")
    );
    f.enclosure.end().await.unwrap();
}

#[tokio::test]
async fn cables_and_the_bond() {
    let Some(f) = start(&["rpc-routerd", "wired"]).await else {
        return;
    };
    let client = f.enclosure.client();
    hears(client, A).await;
    hears(client, B).await;

    // The active leg: traffic moves to the other, and stays there.
    client.leg(0, Cable::Cut).await.unwrap();
    until(client, "the bond moves to leg 1", |status| status.active_leg == 1).await;
    hears(client, A).await;
    hears(client, B).await;
    client.leg(0, Cable::Whole).await.unwrap();
    hears(client, A).await;
    assert_eq!(client.status().await.unwrap().active_leg, 1);

    client.interconnect(Cable::Cut).await.unwrap();
    deaf(client, A).await;
    deaf(client, B).await;
    client.interconnect(Cable::Whole).await.unwrap();
    hears(client, A).await;
    hears(client, B).await;

    client.interconnect(Cable::OnlyAToB).await.unwrap();
    deaf(client, A).await;
    hears(client, B).await;
    assert!(
        client.status().await.unwrap().legs.iter().all(|leg| leg.carrier),
        "nothing is seen at the cards"
    );
    client.interconnect(Cable::OnlyBToA).await.unwrap();
    deaf(client, B).await;
    hears(client, A).await;
    let healed = client.heal().await.unwrap();
    assert!(healed.changed);
    hears(client, B).await;
    assert!(!client.heal().await.unwrap().changed);

    let wrong = client.leg(2, Cable::Cut).await.unwrap_err().to_string();
    assert!(wrong.contains("no leg 2") && wrong.contains("0 and 1"), "{wrong}");

    // A reboot while the bond uses leg 1 must join that leg, not the first.
    client.leg(0, Cable::Cut).await.unwrap();
    client.power(A, PowerAction::Reset).await.unwrap();
    f.enclosure.wait_ready(LIMIT).await.unwrap();
    hears(client, A).await;
    hears(client, B).await;

    until_portal(&f.enclosure, "10.78.0.1", true).await;
    client.host_port(A, false).await.unwrap();
    until_portal(&f.enclosure, "10.78.0.1", false).await;
    assert!(
        portal_answers(&f.enclosure, "10.78.0.2").await,
        "the other controller's cable is another"
    );
    hears(client, A).await;
    client.host_port(A, true).await.unwrap();
    until_portal(&f.enclosure, "10.78.0.1", true).await;
    f.enclosure.end().await.unwrap();
}

#[tokio::test]
async fn disk_paths_and_faults_outlast_a_power_cycle() {
    let Some(f) = start(&["rpc-routerd"]).await else {
        return;
    };
    let client = f.enclosure.client();
    let (first, second) = (DiskIndex::new(0), DiskIndex::new(1));
    client.disk_path(A, Some(first), false).await.unwrap();
    client
        .disk_fault(second, None, DiskFault::ReadOnly)
        .await
        .unwrap();
    client.power(A, PowerAction::Reset).await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!(
        (&status.disks[0].paths[..], &status.disks[1].paths[..]),
        (&[B][..], &[A, B][..])
    );
    assert_eq!(status.disks[1].faults.len(), 1, "{:?}", status.disks[1]);
    client.heal().await.unwrap();
    let status = client.status().await.unwrap();
    assert!(
        status
            .disks
            .iter()
            .all(|disk| disk.paths == [A, B] && disk.faults.is_empty()),
        "{:?}",
        status.disks
    );

    client.power(A, PowerAction::Off).await.unwrap();
    client.heal().await.unwrap();
    let status = client.status().await.unwrap();
    assert!(
        status.disks.iter().all(|disk| disk.paths == [B]),
        "healing must not plug a dead controller in"
    );

    client.shelf_power(PowerAction::Off).await.unwrap();
    assert!(!client.status().await.unwrap().shelf_powered);
    client.shelf_power(PowerAction::On).await.unwrap();
    assert!(client.status().await.unwrap().shelf_powered);

    let nowhere = client
        .disk_path(B, Some(DiskIndex::new(99)), false)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        nowhere.contains("disk-99") && nowhere.contains("disk-00"),
        "{nowhere}"
    );
    f.enclosure.end().await.unwrap();
}

#[tokio::test]
async fn power_control_reaches_the_partner_or_says_nothing() {
    use pollux_platform::{
        lines::CallError,
        power::{ChassisBmc, PowerControl, Watchdog},
    };
    let Some(f) = start(&["rpc-routerd"]).await else {
        return;
    };
    let client = f.enclosure.client();
    let mut bmc = ChassisBmc::new(&f.enclosure.dir().join("b/bmc.sock"));
    let partner = bmc.partner(LIMIT).await.unwrap();
    assert_eq!((partner.power, partner.boots), (PowerState::On, 1));
    let off = bmc.partner_off(LIMIT).await.unwrap();
    assert_eq!((off.power, off.boots), (PowerState::Off, 1));
    assert_eq!(
        client.status().await.unwrap().controllers[&A].power,
        PowerState::Off
    );
    assert_eq!(bmc.partner_on(LIMIT).await.unwrap().boots, 2);

    client.bmc(B, false).await.unwrap();
    let silent = bmc.partner_off(Duration::from_millis(100)).await;
    assert!(matches!(silent, Err(CallError::Timeout { .. })), "{silent:?}");
    assert_eq!(
        client.status().await.unwrap().controllers[&A].power,
        PowerState::On
    );
    client.bmc(B, true).await.unwrap();
    assert_eq!(bmc.partner(LIMIT).await.unwrap().power, PowerState::On);

    let unarmed = bmc.pet(LIMIT).await.unwrap_err().to_string();
    assert!(unarmed.contains("not armed"), "{unarmed}");
    let absurd = bmc
        .arm(Duration::from_millis(1), LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert!(absurd.contains("100 to 600000 ms"), "{absurd}");
    let reset = bmc.reset_self(Duration::from_millis(500)).await;
    assert!(
        matches!(reset, CallError::Timeout { .. }),
        "nobody is left to hear an answer: {reset}"
    );
    assert_eq!(client.status().await.unwrap().controllers[&B].boots, 2);
    f.enclosure.end().await.unwrap();
}

#[tokio::test]
async fn nothing_stays_whatever_ends_the_enclosure() {
    let Some(f) = start(&["rpc-routerd", "watched"]).await else {
        return;
    };
    let status = f.enclosure.client().status().await.unwrap();
    let processes = pids(&status);
    assert_eq!(processes.len(), 4);
    let dir = f.enclosure.dir().to_owned();

    // Killed: the kernel takes the children.
    let killed = std::process::Command::new("kill")
        .args(["-9", &status.pid.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    gone(&processes).await;
    assert!(matches!(
        f.enclosure.end().await,
        Err(EnclosureError::Ended { .. })
    ));

    // A second life on what it left behind, ended by a signal.
    let enclosure = Enclosure::start(options(f.dir.path(), &["rpc-routerd", "watched"]))
        .await
        .unwrap();
    let status = enclosure.client().status().await.unwrap();
    let processes = pids(&status);
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &status.pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    gone(&processes).await;
    // Also waits for its last thread, and so for its locks.
    enclosure.end().await.unwrap();
    let sockets: Vec<PathBuf> = sockets(&dir);
    assert!(sockets.is_empty(), "{sockets:?}");

    // A third, ended through the panel.
    let enclosure = Enclosure::start(options(f.dir.path(), &["rpc-routerd", "watched"]))
        .await
        .unwrap();
    let status = enclosure.client().status().await.unwrap();
    enclosure.client().shutdown().await.unwrap();
    gone(&[&pids(&status)[..], &[status.pid]].concat()).await;
    enclosure.end().await.unwrap();
}

fn sockets(dir: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(
            |path| match std::fs::symlink_metadata(&path).unwrap().file_type() {
                kind if kind.is_dir() => sockets(&path),
                kind if kind.is_socket() => vec![path],
                _ => Vec::new(),
            },
        )
        .collect()
}

#[tokio::test]
async fn bad_beginnings_are_named_and_change_nothing() {
    let Some(f) = start(&["rpc-routerd"]).await else {
        return;
    };
    let refusal = async |options: Options| match Enclosure::start(options).await {
        Err(EnclosureError::Ended { status, message }) => (status.code().unwrap(), message),
        other => panic!("must be refused: {other:?}"),
    };
    let same = || options(f.dir.path(), &["rpc-routerd"]);

    // Two on one directory.
    let (code, message) = refusal(same()).await;
    let holder = f.enclosure.pid().unwrap();
    assert!(
        code == 3 && message.contains(&format!("process {holder}")),
        "{code}: {message}"
    );
    assert!(
        f.enclosure.client().status().await.is_ok(),
        "the first must not notice"
    );
    f.enclosure.end().await.unwrap();

    // A program that is missing.
    let mut missing = same();
    missing.daemons.push("heartbeatd".into());
    let (code, message) = refusal(missing).await;
    assert!(
        code == 6 && message.contains("bin/heartbeatd") && message.contains("pollux-heartbeat"),
        "{message}"
    );

    // A path too long for sockets.
    let long = Options {
        dir: f.dir.path().join("y".repeat(80)),
        ..same()
    };
    let (code, message) = refusal(long).await;
    assert!(code == 2 && message.contains("too long"), "{code}: {message}");

    // A disk that was cut short.
    let image = f.dir.path().join("x/shelf/disk-00.img");
    let length = std::fs::metadata(&image).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(length / 2).unwrap();
    let (code, message) = refusal(same()).await;
    assert!(code == 4 && message.contains("disk-00.img"), "{code}: {message}");
    file.set_len(length).unwrap();

    // The shelf of another array.
    let keys = f.dir.path().join("x/keys");
    let own = std::fs::read(keys.join("array-id")).unwrap();
    std::fs::write(keys.join("array-id"), "01234567-89ab-4def-8123-456789abcdef\n").unwrap();
    let (code, message) = refusal(same()).await;
    assert!(
        code == 4 && message.contains("01234567-89ab"),
        "{code}: {message}"
    );
    std::fs::write(keys.join("array-id"), "rubbish").unwrap();
    let (code, message) = refusal(same()).await;
    assert!(code == 4 && message.contains("rubbish"), "{code}: {message}");
    std::fs::write(keys.join("array-id"), own).unwrap();

    let enclosure = Enclosure::start(same()).await.unwrap();
    enclosure.wait_ready(LIMIT).await.unwrap();
    enclosure.end().await.unwrap();
}
