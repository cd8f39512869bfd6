//! A daemon that is killed with SIGKILL at each command of an activation: the next one goes on from what stands there.
//!
//! The daemon is a process of its own. Its programs are none: this process has the kernel and the disks ([`FakeTools`]), is asked
//! for each command over a socket, and answers one of them never. Killed there, the daemon may have had the command carried out,
//! or not: a program that it has started outlives it.

use pollux_api::config::Hex;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::{
    ACTIVATE, APPLY, Activate, Apply, DEACTIVATE, Disk, Group, Health, SOCKET, Volume, Which,
};
use pollux_lvm::fake::FakeTools;
use pollux_lvm::groups::Groups;
use pollux_lvm::names;
use pollux_lvm::plan::Systems;
use pollux_lvm::programs::{Beginning, Found, Mount, Program, ToolError, Tools};
use pollux_lvm::service::{Door, bind};
use pollux_platform::lines::LineClient;
use pollux_platform::lines::server::{self, Handler, Reply};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Set for the process that is to be killed: where its sockets are.
const CHILD: &str = "POLLUX_TEST_LVMD_DIRECTORY";
/// Where it asks for its programs.
const PROGRAMS: &str = "programs.sock";
const LONG: Duration = Duration::from_secs(60);
const POOL: PoolId = PoolId::from_bytes([0xab; 16]);
const MIB: u64 = 1 << 20;

/// Programs that another process has.
struct Elsewhere(PathBuf);

impl Elsewhere {
    async fn ask(&self, method: &str, params: Value) -> Result<Value, String> {
        let answer = LineClient::new(&self.0).call(method, Some(params), LONG).await;
        answer.map_err(|error| error.to_string())
    }
}

impl Tools for Elsewhere {
    async fn run(&self, program: Program, args: &[String]) -> Result<String, ToolError> {
        let asked = json!([program == Program::Lvm, args]);
        let answer = self.ask("run", asked).await;
        let failed = |said| ToolError::Failed {
            program: program.path(),
            words: args.join(" "),
            status: "exit status: 5".to_owned(),
            said,
        };
        let answer = answer.map_err(failed)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    async fn disk(&self, id: [u8; 16]) -> Result<Found, String> {
        let found = self.ask("disk", json!(id)).await?;
        let (number, bytes) = serde_json::from_value(found).map_err(|error| error.to_string())?;
        Ok(Found { number, bytes })
    }

    async fn beginning(&self, node: &str) -> Result<Beginning, String> {
        Err(format!("nobody looks at {node} here"))
    }

    async fn mounts(&self) -> Result<Vec<Mount>, String> {
        Ok(Vec::new())
    }

    async fn erase(&self, node: &str) -> Result<(), String> {
        self.ask("erase", json!(node)).await.map(drop)
    }

    async fn share(&self, _node: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Not a test of its own: the body of the process that gets killed.
#[tokio::test]
async fn daemon_that_is_killed() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let programs = Elsewhere(directory.join(PROGRAMS));
    let listener = bind(&directory.join(SOCKET)).expect("a socket");
    let (own, partner) = ("pollux-x-a".to_owned(), "pollux-x-b".to_owned());
    programs.ask("ready", json!(null)).await.expect("heard");
    server::serve(
        listener,
        Door::new(Groups::new(programs, Systems { own, partner })),
    )
    .await;
}

/// What the process that has the programs sees of the daemon.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It listens.
    Ready,
    /// It waits for a command that is never answered.
    Waits,
}

/// The programs of the daemon.
struct Programs {
    machine: FakeTools,
    /// How many commands that change something were asked for.
    count: AtomicUsize,
    /// Which of them is never answered, and whether it is carried out all the same.
    silent: Mutex<Option<(usize, bool)>>,
    seen: UnboundedSender<Seen>,
}

impl Programs {
    async fn answer(&self, method: &str, given: Value) -> Result<Option<Value>, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        match method {
            "ready" => {
                // The test may have ended.
                let _ = self.seen.send(Seen::Ready);
                Ok(Some(json!(true)))
            }
            "run" => {
                let (is_lvm, args): (bool, Vec<String>) = serde_json::from_value(given).map_err(wrong)?;
                let program = match is_lvm {
                    true => Program::Lvm,
                    false => Program::Dmsetup,
                };
                let reads = ["info", "table", "status", "fullreport"].contains(&&*args[0]);
                let number = match reads {
                    true => None,
                    false => Some(self.count.fetch_add(1, Ordering::SeqCst)),
                };
                let silent = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
                let silent = silent.filter(|(at, _)| number == Some(*at));
                if silent.is_none_or(|(_, done)| done) {
                    let done = self.machine.run(program, &args).await;
                    if silent.is_none() {
                        return done
                            .map(|said| Some(json!(said)))
                            .map_err(|error| error.to_string());
                    }
                }
                let _ = self.seen.send(Seen::Waits);
                Ok(None)
            }
            "disk" => {
                let found = self
                    .machine
                    .disk(serde_json::from_value(given).map_err(wrong)?)
                    .await?;
                Ok(Some(json!([found.number, found.bytes])))
            }
            other => Err(format!("nobody asks for {other} here")),
        }
    }
}

impl Handler for Programs {
    async fn call(&self, method: &str, given: Value) -> Reply {
        match self.answer(method, given).await {
            Ok(Some(value)) => Reply::Answer(Ok(value)),
            Ok(None) => Reply::Silence,
            Err(why) => Reply::Answer(Err(RpcError::new(Code::Failed, method, why))),
        }
    }
}

/// A machine whose daemon is started and killed.
struct Rig {
    directory: tempfile::TempDir,
    programs: Arc<Programs>,
    seen: UnboundedReceiver<Seen>,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [machine, _] = FakeTools::pair(2);
        let (send, seen) = mpsc::unbounded_channel();
        let programs = Arc::new(Programs {
            machine,
            count: AtomicUsize::new(0),
            silent: Mutex::new(None),
            seen: send,
        });
        let listener = bind(&directory.path().join(PROGRAMS)).expect("a socket");
        tokio::spawn(server::serve(listener, programs.clone()));
        Rig {
            directory,
            programs,
            seen,
        }
    }

    async fn sees(&mut self, what: Seen) {
        let seen = tokio::time::timeout(LONG, self.seen.recv()).await;
        assert_eq!(seen.expect("in time"), Some(what));
    }

    /// A new daemon, which listens.
    async fn start(&mut self) -> Child {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "daemon_that_is_killed", "--nocapture"])
            .env(CHILD, self.directory.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        self.sees(Seen::Ready).await;
        child
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    /// Has the command of that number never answered, counted from now on.
    fn silence(&self, silent: Option<(usize, bool)>) {
        self.programs.count.store(0, Ordering::SeqCst);
        *self
            .programs
            .silent
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = silent;
    }

    /// How often a command was carried out.
    fn times(calls: &[String], command: &str) -> usize {
        let of = |call: &&String| call.split_whitespace().next() == Some(command);
        calls.iter().filter(of).count()
    }
}

async fn activate(socket: &Path, create: bool) -> Result<Group, String> {
    let disk = |number: u8| Disk {
        slot: DiskIndex::new(number.into()),
        id: Hex([number; 16]),
    };
    let request = Activate {
        pool: POOL,
        disks: vec![disk(0), disk(1)],
        create,
    };
    let answer = LineClient::new(socket).call(ACTIVATE, Some(request), LONG).await;
    answer.map_err(|error| error.to_string())
}

async fn deactivate(socket: &Path) {
    let which = Some(Which { pool: POOL });
    let mut client = LineClient::new(socket);
    let down: bool = client.call(DEACTIVATE, which, LONG).await.expect("given up");
    assert!(down, "it was active");
}

/// Kills a daemon in the middle of an activation, and has the next one carry it out.
async fn kill_and_go_on(rig: &mut Rig, create: bool, silent: (usize, bool)) {
    let mut first = rig.start().await;
    rig.silence(Some(silent));
    let socket = rig.socket();
    let asked = tokio::spawn(async move { activate(&socket, create).await });
    rig.sees(Seen::Waits).await;
    first.kill().await.expect("killed");
    asked.await.expect("no panic").expect_err("who was asked is dead");
    rig.silence(None);
    let mut second = rig.start().await;
    let group = activate(&rig.socket(), create).await;
    let group = group.unwrap_or_else(|error| panic!("after command {silent:?}: {error}"));
    assert!(group.state.writable, "{silent:?}");
    let healths: Vec<_> = group.state.legs.iter().map(|leg| leg.health).collect();
    assert_eq!(healths, [Health::InSync; 2], "{silent:?}");
    second.kill().await.expect("killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_at_each_command_that_makes_a_group_leaves_what_the_next_one_goes_on_with() {
    let mut rig = Rig::new();
    let mut whole = rig.start().await;
    rig.silence(None);
    activate(&rig.socket(), true).await.expect("made");
    whole.kill().await.expect("killed");
    let commands = rig.programs.count.load(Ordering::SeqCst);
    assert!(
        commands >= 7,
        "gates, a group, its parts, its activation: {commands}"
    );
    for at in 0..commands {
        for done in [false, true] {
            let mut rig = Rig::new();
            kill_and_go_on(&mut rig, true, (at, done)).await;
            let calls = rig.programs.machine.calls();
            // Nothing is made twice, and nothing is taken down for it.
            for (command, times) in [("vgcreate", 1), ("lvcreate", 2), ("lvconvert", 1), ("remove", 0)] {
                assert_eq!(
                    Rig::times(&calls, command),
                    times,
                    "{at} {done}: {command} in {calls:?}"
                );
            }
            let owner = rig.programs.machine.owner(&names::group(POOL));
            assert_eq!(owner.as_deref(), Some("pollux-x-a"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_at_each_command_that_takes_a_group_leaves_its_volumes_to_the_next_one() {
    let mut commands = 1;
    let mut at = 0;
    while at < commands {
        for done in [false, true] {
            let mut rig = Rig::new();
            let mut maker = rig.start().await;
            activate(&rig.socket(), true).await.expect("made");
            let volume = Volume {
                id: VolumeId::from_bytes([1; 16]),
                size_bytes: 10 * MIB,
            };
            let wanted = Apply {
                pool: POOL,
                volumes: vec![volume],
                snapshots: Vec::new(),
                file_systems: Vec::new(),
                file_system_snapshots: Vec::new(),
            };
            let mut client = LineClient::new(&rig.socket());
            let applied: Group = client.call(APPLY, Some(wanted), LONG).await.expect("a volume");
            assert_eq!(applied.volumes.len(), 1);
            deactivate(&rig.socket()).await;
            maker.kill().await.expect("killed");
            // How many there are, the first one counts that nobody kills.
            if at == 0 && !done {
                let mut whole = rig.start().await;
                rig.silence(None);
                activate(&rig.socket(), false).await.expect("taken");
                commands = rig.programs.count.load(Ordering::SeqCst);
                assert!(commands >= 3, "two gates and the group: {commands}");
                deactivate(&rig.socket()).await;
                whole.kill().await.expect("killed");
            }
            kill_and_go_on(&mut rig, false, (at, done)).await;
            let mut last = rig.start().await;
            let group = activate(&rig.socket(), false).await.expect("active already");
            assert_eq!(group.volumes[0].size_bytes, 10 * MIB, "{at} {done}");
            last.kill().await.expect("killed");
        }
        at += 1;
    }
}
