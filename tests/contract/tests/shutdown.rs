//! `pollux shutdown` and `pollux leave` against heartbeat's service behind a real router, on loopback: the command waits for
//! news, and heartbeat, once asked, does not need the command any more.
//!
//! In the place of the decision loop stands this test: it says what heartbeat says of itself, and sees what it is asked.

mod common;

use common::{BOUND, Router, client, config};
use pollux_api::heartbeat::{Accepted, EVENTS, Event, Machine, SHUTDOWN, Shutdown, Status, Wire};
use pollux_api::id::{ControllerId, Generation, Incarnation};
use pollux_heartbeat::driver::Input;
use pollux_heartbeat::service::{Doors, build};
use pollux_heartbeat::timeline::Timeline;
use pollux_heartbeat_core::effect::{Plan, Refusal};
use pollux_heartbeat_core::event::Request;
use pollux_runtime::{ControllerConfig, Ctx, Service};
use pollux_shell::array::Place;
use pollux_shell::cli::Care;
use pollux_shell::error::Error;
use pollux_shell::resources::Shown;
use pollux_shell::shutdown::{self, Wanted};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

/// How long a command does not look without news.
const AGAIN: Duration = Duration::from_secs(2);

/// What heartbeat was asked.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Status,
    Shutdown { unserved: bool },
}

/// heartbeat's service, and the other ends of its doors.
struct Heartbeat {
    service: Service,
    state: watch::Sender<&'static str>,
    refuses: watch::Sender<bool>,
    asked: mpsc::UnboundedReceiver<Asked>,
    machine: Arc<Mutex<Machine>>,
    config: ControllerConfig,
    _router: Router,
}

impl Heartbeat {
    async fn start(dir: &Path) -> Self {
        let config = config(dir);
        let router = Router::start(&config);
        let (inputs, asked_of_it) = mpsc::unbounded_channel();
        let (events, _) = mpsc::unbounded_channel();
        let (asks, _) = mpsc::unbounded_channel();
        let machine = Arc::default();
        let doors = Doors {
            place: "a/heartbeat".into(),
            inputs,
            events,
            asks,
            timeline: Arc::new(Mutex::new(Timeline::open(&dir.join("timeline")).unwrap())),
            machine: Arc::clone(&machine),
            client: Arc::default(),
        };
        let service = build(&doors).start(&config);
        timeout(BOUND, service.registered()).await.unwrap();
        let (told, asked) = mpsc::unbounded_channel();
        let (state, refuses) = (watch::Sender::new("serving"), watch::Sender::new(false));
        tokio::spawn(answer(asked_of_it, state.subscribe(), refuses.subscribe(), told));
        Self {
            service,
            state,
            refuses,
            asked,
            machine,
            config,
            _router: router,
        }
    }

    async fn next(&mut self) -> Asked {
        let asked = timeout(BOUND, self.asked.recv()).await;
        asked.expect("heartbeat is asked nothing").unwrap()
    }

    /// It is asked this, in this order.
    async fn expect(&mut self, asked: &[Asked]) {
        for wanted in asked {
            assert_eq!(self.next().await, *wanted);
        }
    }

    /// Whatever it is asked before that.
    async fn until(&mut self, wanted: &Asked) {
        while self.next().await != *wanted {}
    }

    fn tell(&self, name: &str) {
        let event = Event {
            at_ns: 1,
            controller: ControllerId::A,
            name: name.into(),
            text: String::new(),
        };
        let told = self.service.client().publish(EVENTS, &event, &Ctx::new(BOUND));
        told.unwrap();
    }

    fn is(&self, state: &'static str) {
        self.state.send_replace(state);
        self.tell("state");
    }

    fn machine(&self) -> Machine {
        *self.machine.lock().unwrap()
    }
}

/// The decision loop: never more than is said of it here.
async fn answer(
    mut inputs: mpsc::UnboundedReceiver<Input>,
    state: watch::Receiver<&'static str>,
    refuses: watch::Receiver<bool>,
    told: mpsc::UnboundedSender<Asked>,
) {
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Status(reply) => {
                let _ = told.send(Asked::Status);
                let _ = reply.send(status(*state.borrow()));
            }
            Input::Why(reply) => drop(reply.send(Vec::new())),
            Input::StandsIn(reply) => drop(reply.send(None)),
            Input::QuorumDisk(_, reply) => drop(reply.send(None)),
            Input::Plan(_, reply) => drop(reply.send(Ok(Plan::default()))),
            Input::Request(Request::Shutdown { unserved }, _, _, reply) => {
                let _ = told.send(Asked::Shutdown { unserved });
                let refusal = Refusal {
                    reason: "not now".into(),
                    remedy: "later".into(),
                };
                let refused = *refuses.borrow();
                drop(reply.send(if refused {
                    Err(refusal)
                } else {
                    Ok(Plan::default())
                }));
            }
            Input::Request(other, ..) => panic!("nobody asks for {other:?} here"),
        }
    }
}

fn status(state: &str) -> Status {
    Status {
        controller: ControllerId::A,
        incarnation: Incarnation::new(1),
        profile: "ci".into(),
        state: state.into(),
        epoch: None,
        wire: Wire {
            state: "unknown".into(),
            for_ms: None,
            legs: Vec::new(),
            round_trip_us: None,
        },
        partner_disk: "unknown".into(),
        partner_disk_for_ms: None,
        partner_power: "unknown".into(),
        partner_incarnation: None,
        lease_fresh: true,
        watchdog_armed: false,
        realtime: Ok(()),
        quorum: Vec::new(),
        quorum_generation: Generation::default(),
        pools: Vec::new(),
        config_lock: None,
        alarms: Vec::new(),
    }
}

/// A command as a process of its own, as far as its connection goes: dropped, it is a command that was killed.
struct Typed {
    runtime: Option<Runtime>,
    end: oneshot::Receiver<Result<Shown, Error>>,
}

impl Typed {
    /// `pollux leave`, or `pollux shutdown --on a --yes`.
    fn new(dir: &Path, machine: Option<Machine>) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let place = Place {
            dir: Some(dir.to_owned()),
            ..Place::default()
        };
        let (done, end) = oneshot::channel();
        runtime.spawn(async move {
            let array = place.connect().await.unwrap();
            let outcome = match machine {
                None => shutdown::leave(&array).await,
                Some(machine) => {
                    let wanted = Wanted {
                        on: Some(ControllerId::A),
                        machine,
                        reason: "test".into(),
                        care: Care {
                            dry_run: false,
                            yes: true,
                            wait: BOUND.as_secs(),
                        },
                    };
                    shutdown::run(&array, wanted, None).await
                }
            };
            let _ = done.send(outcome);
        });
        Self {
            runtime: Some(runtime),
            end,
        }
    }

    async fn end(mut self) -> Result<Shown, Error> {
        timeout(BOUND, &mut self.end)
            .await
            .expect("the command ends")
            .expect("and was not killed")
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Of `pollux leave`.
const LEAVE: Asked = Asked::Shutdown { unserved: true };
/// Of `pollux shutdown --on`.
const ONE: Asked = Asked::Shutdown { unserved: false };

#[tokio::test]
async fn who_waits_for_a_good_bye_looks_when_there_is_news_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut heartbeat = Heartbeat::start(dir.path()).await;
    let leave = Typed::new(dir.path(), None);
    heartbeat.expect(&[Asked::Status, LEAVE, Asked::Status]).await;
    // Without news it would look each time after a while: all of them together would take longer than they may.
    let (rounds, began) = (20, Instant::now());
    for _ in 0..rounds {
        heartbeat.tell("pool");
        heartbeat.expect(&[Asked::Status]).await;
    }
    assert!(began.elapsed() < rounds * AGAIN / 2, "{:?}", began.elapsed());
    heartbeat.is("left");
    let shown = leave.end().await.unwrap();
    assert!(shown.text.contains("left in good order"), "{}", shown.text);
    // From the last look on there is nothing to be asked.
    assert_eq!(heartbeat.next().await, Asked::Status);
    assert!(heartbeat.asked.try_recv().is_err());
}

#[tokio::test]
async fn news_that_is_lost_only_takes_longer() {
    let dir = tempfile::tempdir().unwrap();
    let mut heartbeat = Heartbeat::start(dir.path()).await;
    let leave = Typed::new(dir.path(), None);
    heartbeat.expect(&[Asked::Status, LEAVE, Asked::Status]).await;
    heartbeat.state.send_replace("left");
    leave.end().await.unwrap();
}

#[tokio::test]
async fn a_leave_that_is_killed_half_way_goes_on_and_the_next_one_joins_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut heartbeat = Heartbeat::start(dir.path()).await;
    let killed = Typed::new(dir.path(), None);
    heartbeat.expect(&[Asked::Status, LEAVE, Asked::Status]).await;
    heartbeat.state.send_replace("releasing");
    drop(killed);

    let again = Typed::new(dir.path(), None);
    // Of the one that was killed one look may have been under way.
    heartbeat.until(&LEAVE).await;
    heartbeat.expect(&[Asked::Status]).await;
    heartbeat.is("left");
    assert!(again.end().await.unwrap().text.contains("left in good order"));
    assert_eq!(heartbeat.next().await, Asked::Status);

    // Whoever comes after that has nothing to ask for.
    let late = Typed::new(dir.path(), None).end().await.unwrap();
    assert!(late.text.contains("left already"), "{}", late.text);
    assert_eq!(heartbeat.next().await, Asked::Status);
    assert!(heartbeat.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_leave_takes_no_word_about_the_machine_back_and_a_refused_one_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut heartbeat = Heartbeat::start(dir.path()).await;
    // It was refused: whoever stops the daemons after that does not want the machine to go.
    heartbeat.refuses.send_replace(true);
    let refused = Typed::new(dir.path(), Some(Machine::Off))
        .end()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("not now"), "{refused}");
    heartbeat.until(&ONE).await;
    assert_eq!(heartbeat.machine(), Machine::Stay);

    heartbeat.refuses.send_replace(false);
    let off = Typed::new(dir.path(), Some(Machine::Off));
    heartbeat.until(&ONE).await;
    assert_eq!(heartbeat.machine(), Machine::Off);
    // Killed, and then its daemons are stopped by hand: what was said of the machine still counts.
    drop(off);
    let client = client(&heartbeat.config).await;
    for (machine, counts) in [
        (Machine::Stay, Machine::Off),
        (Machine::Reboot, Machine::Reboot),
        (Machine::Stay, Machine::Reboot),
    ] {
        let request = Shutdown {
            machine,
            ..Shutdown::default()
        };
        let accepted: Result<Accepted, _> = client.call(SHUTDOWN, &request, &Ctx::new(BOUND)).await;
        accepted.unwrap();
        assert_eq!(heartbeat.machine(), counts, "after {machine:?}");
    }
}
