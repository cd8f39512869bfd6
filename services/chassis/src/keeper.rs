//! Keeps one daemon of one controller running, as the service manager of the appliance does.
//!
//! Starts it in the controller's network, hears from it that it is ready, starts it again when it ends, stops and
//! continues it, and kills it when the power goes. One task per daemon; it alone signals the process, and only while
//! the process is not reaped, so that a signal never hits a stranger with the same id.

use crate::{journal::Journal, restart::RestartPolicy};
use pollux_api::{chassis::Daemon, id::ControllerId};
use pollux_platform::netns::{GroupSignal, NetNs, Spawner, signal_group};
use pollux_platform::unsynced::SEED_VARIABLE;
use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    net::UnixDatagram,
    process::Child,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// What the units say (`WatchdogSec`). Nothing is killed here for its silence: a machine of tests has worse delays.
const WATCHDOG: Duration = Duration::from_secs(30);

/// What is to be kept running.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) controller: ControllerId,
    /// Name of the program; also of its log and in the journal.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Its standard output and error are appended here.
    pub(crate) log: PathBuf,
    /// Where it reports; made anew by the keeper.
    pub(crate) notify: PathBuf,
    /// What its own disk loses when the power goes is chosen by this.
    pub(crate) seed: u64,
    pub(crate) network: NetNs,
}

/// An order to a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Signal the daemon. It is started again when it ends by that.
    Signal(GroupSignal),
    /// The whole controller hangs, or goes on: nothing is started while it hangs.
    Hang(bool),
    /// Ask it to end and do not start it again.
    Retire,
    /// Kill it, reap it, end.
    Off,
}

/// What became of an order: `Ok(true)` it was done, `Ok(false)` there was no process to do it to.
type Outcome = io::Result<bool>;

/// A handle on a running keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<Outcome>)>,
    view: watch::Receiver<Daemon>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts the daemon for the first time and keeps it.
    pub(crate) async fn start(program: Program, spawner: Spawner, journal: Journal) -> io::Result<Self> {
        let (orders, queue) = mpsc::unbounded_channel();
        let (publish, view) = watch::channel(Daemon::default());
        let notify = bind_fresh(&program.notify)?;
        let mut task = Task {
            program,
            spawner,
            journal,
            notify,
            publish,
            hung: false,
            retired: false,
            ready: false,
            fed: false,
        };
        let child = task.spawn().await?;
        Ok(Self {
            orders,
            view,
            task: tokio::spawn(task.run(child, queue)),
        })
    }

    /// What is known of the daemon, to look at or to wait on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Daemon> {
        self.view.clone()
    }

    fn order(&self, order: Order) -> impl Future<Output = Outcome> + use<> {
        let (answer, outcome) = oneshot::channel();
        // A keeper that has ended has no process either.
        let sent = self.orders.send((order, answer)).is_ok();
        async move {
            if sent {
                outcome.await.unwrap_or(Ok(false))
            } else {
                Ok(false)
            }
        }
    }

    /// Signals the daemon. The order is given by the call, its effect awaited by the future.
    pub(crate) fn signal(&self, signal: GroupSignal) -> impl Future<Output = Outcome> + use<> {
        self.order(Order::Signal(signal))
    }

    /// Stops the daemon with the rest of its controller, or lets it go on.
    pub(crate) fn hang(&self, hung: bool) -> impl Future<Output = Outcome> + use<> {
        self.order(Order::Hang(hung))
    }

    /// Asks the daemon to end for good.
    pub(crate) fn retire(&self) -> impl Future<Output = Outcome> + use<> {
        self.order(Order::Retire)
    }

    /// Kills the daemon. Begins at once; the future ends when the process has been reaped.
    pub(crate) fn off(self) -> impl Future<Output = ()> {
        let order = self.order(Order::Off);
        async move {
            let _ = order.await;
            let _ = self.task.await;
        }
    }
}

fn bind_fresh(path: &std::path::Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixDatagram::bind(path)
}

struct Task {
    program: Program,
    spawner: Spawner,
    journal: Journal,
    notify: UnixDatagram,
    publish: watch::Sender<Daemon>,
    hung: bool,
    retired: bool,
    /// It has said that it is.
    ready: bool,
    /// It has fed the watchdog: one that never does is killed by the service manager of an appliance for as long as it is
    /// started, and so is not ready here.
    fed: bool,
}

/// What a life of the process ended with.
enum End {
    Exit(io::Result<ExitStatus>),
    Off(oneshot::Sender<Outcome>),
}

impl Task {
    fn record(&self, kind: &str, detail: impl Into<String>) {
        self.journal.record(
            Some(self.program.controller),
            kind,
            self.program.name.clone(),
            detail,
        );
    }

    async fn spawn(&mut self) -> io::Result<Child> {
        (self.ready, self.fed) = (false, false);
        let program = &self.program;
        let log = OpenOptions::new().create(true).append(true).open(&program.log)?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env("NOTIFY_SOCKET", &program.notify)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env(SEED_VARIABLE, program.seed.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // What the life before said last must not be taken for the next one's.
        while self.notify.try_recv(&mut [0; 1]).is_ok() {}
        let child = self.spawner.spawn(command, Some(&program.network)).await?;
        let pid = child.id();
        self.publish.send_modify(|view| {
            *view = Daemon {
                pid,
                crashes: view.crashes,
                last_exit: view.last_exit.take(),
                ..Daemon::default()
            };
        });
        self.record("daemon_start", format!("process {}", pid.unwrap_or_default()));
        Ok(child)
    }

    async fn run(
        mut self,
        first: Child,
        mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<Outcome>)>,
    ) {
        let born = Instant::now();
        let mut policy = RestartPolicy::default();
        let mut next = Some(first);
        loop {
            if let Some(child) = next.take() {
                let ended = match self.live(child, &mut orders).await {
                    End::Exit(status) => status.map_or_else(|error| error.to_string(), describe),
                    End::Off(answer) => {
                        let _ = answer.send(Ok(true));
                        return;
                    }
                };
                self.record("daemon_exit", &ended);
                self.publish.send_modify(|view| {
                    view.pid = None;
                    view.ready = false;
                    view.stopped = false;
                    view.crashes += u64::from(!self.retired);
                    view.last_exit = Some(ended);
                });
            }
            let wait = policy.crashed(born.elapsed());
            self.publish.send_modify(|view| view.throttled = !wait.is_zero());
            if let Some(answer) = self.rest(wait, &mut orders).await {
                let _ = answer.send(Ok(true));
                return;
            }
            match self.spawn().await {
                Ok(child) => next = Some(child),
                // The program may be in the middle of being replaced: go on trying, slowly.
                Err(error) => self.record("daemon_exit", format!("cannot be started: {error}")),
            }
        }
    }

    /// One life of the process.
    async fn live(
        &mut self,
        mut child: Child,
        orders: &mut mpsc::UnboundedReceiver<(Order, oneshot::Sender<Outcome>)>,
    ) -> End {
        let leader = child.id().expect("a child that was not waited for has an id");
        let mut said = vec![0; 4096];
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some((Order::Off, answer)) => {
                        self.kill(leader, &mut child).await;
                        return End::Off(answer);
                    }
                    Some((order, answer)) => {
                        let _ = answer.send(self.obey(order, leader).await);
                    }
                    // Whoever gave orders is gone: the enclosure ends.
                    None => {
                        self.kill(leader, &mut child).await;
                        return End::Off(oneshot::channel().0);
                    }
                },
                status = child.wait() => return End::Exit(status),
                message = self.notify.recv(&mut said) => if let Ok(length) = message {
                    self.hear(&String::from_utf8_lossy(&said[..length]));
                },
            }
        }
    }

    async fn kill(&self, leader: u32, child: &mut Child) {
        if let Err(error) = signal_group(leader, GroupSignal::Kill) {
            tracing::error!(%error, daemon = self.program.name, "cannot kill");
        }
        let _ = child.wait().await;
        self.publish.send_modify(|view| {
            view.pid = None;
            view.ready = false;
        });
    }

    async fn obey(&mut self, order: Order, leader: u32) -> Outcome {
        let signal = match order {
            Order::Signal(signal) => signal,
            Order::Hang(hung) => {
                self.hung = hung;
                if hung {
                    GroupSignal::Stop
                } else {
                    GroupSignal::Continue
                }
            }
            Order::Retire => {
                self.retired = true;
                GroupSignal::Terminate
            }
            Order::Off => GroupSignal::Kill,
        };
        let done = signal_group(leader, signal)?;
        match signal {
            GroupSignal::Stop => wait_until_stopped(leader).await?,
            GroupSignal::Continue | GroupSignal::Kill | GroupSignal::Terminate => {}
        }
        if let GroupSignal::Stop | GroupSignal::Continue = signal {
            self.publish
                .send_modify(|view| view.stopped = signal == GroupSignal::Stop);
        }
        Ok(done)
    }

    /// Between two lives: waits, and for as long as the controller hangs. Answers an order to end.
    async fn rest(
        &mut self,
        wait: Duration,
        orders: &mut mpsc::UnboundedReceiver<(Order, oneshot::Sender<Outcome>)>,
    ) -> Option<oneshot::Sender<Outcome>> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let order = tokio::select! {
                biased;
                order = orders.recv() => order,
                () = tokio::time::sleep_until(until), if !self.hung && !self.retired => return None,
            };
            match order {
                None => return Some(oneshot::channel().0),
                Some((Order::Off, answer)) => return Some(answer),
                Some((order, answer)) => {
                    match order {
                        Order::Hang(hung) => self.hung = hung,
                        Order::Retire => self.retired = true,
                        Order::Signal(_) | Order::Off => {}
                    }
                    let _ = answer.send(Ok(false));
                }
            }
        }
    }

    /// sd_notify(3): assignments, one per line.
    fn told(&mut self, ready: bool, fed: bool) {
        let before = self.ready && self.fed;
        (self.ready, self.fed) = (ready, fed);
        if ready && fed && !before {
            self.publish.send_modify(|view| view.ready = true);
            self.record("daemon_ready", "");
        }
    }

    fn hear(&mut self, message: &str) {
        for line in message.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => self.told(true, self.fed),
                Some(("WATCHDOG", "1")) => self.told(self.ready, true),
                Some(("STOPPING", "1")) => self.publish.send_modify(|view| view.ready = false),
                Some(("STATUS", status)) => self.publish.send_modify(|view| view.status = status.to_owned()),
                _ => {}
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// SIGSTOP has been sent; waits until every thread of the process has taken it (proc_pid_stat(5): state T).
async fn wait_until_stopped(pid: u32) -> io::Result<()> {
    const LIMIT: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut running = false;
        // A process or thread that is gone runs no more.
        if let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) {
            for thread in threads.flatten() {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                // The name in parentheses may contain anything, so the state follows the last one.
                let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
                running |= !matches!(state, None | Some('T' | 't' | 'Z' | 'X'));
            }
        }
        if !running {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "process {pid} did not stop within {} s of SIGSTOP",
                    LIMIT.as_secs()
                ),
            ));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
