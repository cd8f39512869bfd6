//! One keeper: the core, the store and the store's thread as they are shipped, with pipes for a router.
//!
//! It dies by its own hand: SIGKILL at a place that it was told. Nothing is cleaned up after that.

use crate::wire::{Book, Call, Order, Reply, View, Word};
use nix::sys::signal::{Signal, raise};
use pollux_api::action::ActionId;
use pollux_api::config::{Change, LogHash, Op};
use pollux_api::id::{ArrayId, ControllerId, Incarnation};
use pollux_config_core::keeper::{Answer, Effect, Event, Job, KEPT, Keeper, Refusal, Request};
use pollux_config_core::plan::Site;
use pollux_config_keeper::store::{Opened, Places, Report, Store, Way, Writer};
use pollux_platform::unsynced::{self, Habits};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// The array of the play.
pub const ARRAY: ArrayId = ArrayId::from_bytes([9; 16]);

/// Places in the loop around the core; those in the store are its own ([`Places::ALL`]).
pub const LOOP: &[&str] = &[
    "before storing",
    "before counting",
    "after counting",
    "before answer",
    "after answer",
    "before sending",
    "after sending",
    "before replying",
    "after replying",
    "in flush",
];

/// What a child is told at its start.
#[derive(Clone, Debug, clap::Args)]
pub struct Start {
    /// Which controller
    #[arg(long)]
    pub side: ControllerId,
    /// Where its database is
    #[arg(long)]
    pub folder: std::path::PathBuf,
    /// Whose database it is, if not the play's
    #[arg(long)]
    pub array: Option<ArrayId>,
    /// Chooses what is lost
    #[arg(long)]
    pub seed: u64,
    /// Die when this place is passed for the n-th time
    #[arg(long, requires = "nth")]
    pub place: Option<String>,
    /// How often it is passed
    #[arg(long)]
    pub nth: Option<u64>,
    /// Entries of the log that it keeps, if not as many as on an array
    #[arg(long)]
    pub keep: Option<u64>,
    /// Count a job before it is durable
    #[arg(long)]
    pub early: bool,
    /// A disk that says that it has flushed, and has not
    #[arg(long)]
    pub lies: bool,
}

/// The place at which this process dies.
#[derive(Clone, Default)]
struct Fate(Arc<Mutex<Option<(String, u64)>>>);

impl Fate {
    fn set(&self, place: String, nth: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((place, nth.max(1)));
    }

    fn pass(&self, place: &str) {
        let mut fate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, left)) = &mut *fate
            && at == place
        {
            *left -= 1;
            if *left == 0 {
                // Nothing comes after it; an error would show as a process that does not die, and the play notices.
                let _ = raise(Signal::SIGKILL);
            }
        }
    }
}

/// The action of a change of the play.
#[must_use]
pub fn action(number: u64) -> ActionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    ActionId::from_bytes(bytes)
}

/// A change of the play.
#[must_use]
pub fn change(number: u64) -> Change {
    let op = Op::CreateHost {
        name: format!("h{number}"),
        iqns: vec![format!("iqn.2026-01.test:h{number}")],
    };
    Change {
        ops: vec![op],
        expected_index: None,
        dry_run: false,
    }
}

enum Input {
    Order(Order),
    Stored(u64),
    Failed(String),
    End,
}

/// Whose answer a ticket of the core is.
enum Ticket {
    Order(u64),
    Call(u64),
}

struct Child {
    keeper: Keeper,
    writer: Writer,
    fate: Fate,
    early: bool,
    /// Jobs whose end was counted before it came.
    counted: u64,
    next: Request,
    tickets: BTreeMap<Request, Ticket>,
    calls: BTreeMap<u64, Call>,
    /// The last view that was said, if nothing was answered since.
    said: Option<View>,
}

fn say(word: &Word) {
    let mut line = serde_json::to_string(word).expect("words are plain data");
    line.push('\n');
    // Whoever listened has gone: the end of the orders says so too.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}

/// Runs a keeper until its orders end.
fn run(start: &Start) -> Result<(), String> {
    let fate = Fate::default();
    if let (Some(place), Some(nth)) = (&start.place, start.nth) {
        fate.set(place.clone(), nth);
    }
    let mut habits = Habits::new(start.seed);
    if start.lies {
        habits = habits.lying();
    }
    let flushing = fate.clone();
    let habits = habits.flushing(move || flushing.pass("in flush"));
    unsynced::register("crash", habits).map_err(|error| error.to_string())?;
    let passing = fate.clone();
    let way = Way {
        vfs: Some("crash".into()),
        places: Places::new(move |place| passing.pass(place)),
    };
    let path = start.folder.join("config.db");
    let (store, opened) = Store::open_or_replace(Path::new(&path), start.array.unwrap_or(ARRAY), &way)
        .map_err(|error| error.to_string())?;
    let Opened { loaded, lost, .. } = opened;
    if let Some(lost) = lost {
        // Here nothing damages a database but a defect of the store.
        return Err(format!("the database was found damaged: {}", lost.what));
    }
    let site = Site::default();
    let keeper = Keeper::load(start.side, Some(Incarnation::new(1)), site, loaded)?;
    let keeper = keeper.keeping(start.keep.unwrap_or(KEPT));
    let (inputs, queue) = channel();
    read_orders(inputs.clone());
    let reports = inputs;
    let writer = store.spawn(move |report| {
        let input = match report {
            Report::Stored(serial) => Input::Stored(serial),
            Report::Failed(what) => Input::Failed(what),
            Report::Room(_) => return,
        };
        // The loop is gone only when the process ends.
        let _ = reports.send(input);
    });
    let mut child = Child {
        keeper,
        writer,
        fate,
        early: start.early,
        counted: 0,
        next: 0,
        tickets: BTreeMap::new(),
        calls: BTreeMap::new(),
        said: None,
    };
    say(&Word::Ready);
    child.view();
    child.serve(&queue)
}

/// The process of a keeper.
#[must_use]
pub fn main(start: &Start) -> std::process::ExitCode {
    match run(start) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(what) => {
            say(&Word::Failed(what));
            std::process::ExitCode::FAILURE
        }
    }
}

fn read_orders(inputs: Sender<Input>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line).map_or(Input::End, Input::Order);
            if inputs.send(order).is_err() {
                return;
            }
        }
        let _ = inputs.send(Input::End);
    });
}

fn words(refusal: Refusal) -> String {
    format!("{refusal:?}")
}

impl Child {
    fn serve(&mut self, queue: &Receiver<Input>) -> Result<(), String> {
        for input in queue {
            match input {
                Input::Order(order) => self.order(order),
                Input::Stored(serial) if self.early && serial <= self.counted => {}
                Input::Stored(serial) => {
                    self.fate.pass("before counting");
                    self.event(Event::Stored { serial });
                    self.fate.pass("after counting");
                }
                Input::Failed(what) => return Err(what),
                Input::End => return Ok(()),
            }
            self.view();
        }
        Ok(())
    }

    fn ticket(&mut self, ticket: Ticket) -> Request {
        self.next += 1;
        self.tickets.insert(self.next, ticket);
        self.next
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Die { place, nth } => self.fate.set(place, nth),
            Order::SetEpoch { ticket, set } => {
                let request = self.ticket(Ticket::Order(ticket));
                self.event(Event::SetEpoch { request, set });
            }
            Order::Freeze { ticket, freeze } => {
                let request = self.ticket(Ticket::Order(ticket));
                self.event(Event::Freeze { request, freeze });
            }
            Order::CatchUp { ticket } => {
                let request = self.ticket(Ticket::Order(ticket));
                self.event(Event::CatchUp { request });
            }
            Order::Change { ticket, number } => {
                let request = self.ticket(Ticket::Order(ticket));
                let (action, change) = (action(number), change(number));
                self.event(Event::Change {
                    request,
                    action,
                    change,
                });
            }
            Order::Call { id, call } => match call {
                Call::Sync(sync) => {
                    let request = self.ticket(Ticket::Call(id));
                    self.event(Event::SyncIn { request, sync });
                }
                Call::Append(append) => {
                    let request = self.ticket(Ticket::Call(id));
                    self.event(Event::AppendIn { request, append });
                }
                Call::Fetch(fetch) => self.reply(id, Ok(Reply::Fetch(self.keeper.fetch(&fetch)))),
            },
            Order::Reply { id, reply } => self.replied(id, reply),
            Order::Tick => self.event(Event::Tick),
            Order::Rest => {
                self.writer.rest();
                self.writer.verify(|_| say(&Word::Rested));
            }
            Order::Audit { after } => self.audit(after),
        }
    }

    fn audit(&self, after: u64) {
        let keeper = &self.keeper;
        let after = after.max(keeper.compacted().facts.length);
        let base = keeper.hash_at(after);
        let hashes: Vec<LogHash> = keeper
            .entries(after, keeper.durable())
            .iter()
            .map(|entry| entry.hash)
            .collect();
        let length = keeper.durable();
        let hosts = keeper.tables().hosts.values();
        let hosts = hosts.map(|host| host.name.clone()).collect();
        self.writer.verify(move |found| {
            let mut problems = vec![];
            let entries = match found {
                Ok(verified) => {
                    problems = verified.problems;
                    verified.entries
                }
                Err(error) => {
                    problems.push(error.to_string());
                    0
                }
            };
            if entries != length {
                problems.push(format!("{entries} entries on the disk, {length} in memory"));
            }
            say(&Word::Book(Book {
                after,
                base,
                hashes,
                entries,
                hosts,
                problems,
            }));
        });
    }

    fn event(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.keeper.handle(event) {
                match effect {
                    Effect::Store { serial, job } => {
                        if let Some(early) = self.store(serial, job) {
                            events.push_back(early);
                        }
                    }
                    Effect::Sync(sync) => self.call(Call::Sync(sync)),
                    Effect::Append(append) => self.call(Call::Append(append)),
                    Effect::Fetch(fetch) => self.call(Call::Fetch(fetch)),
                    Effect::Answer { request, answer } => self.answer(request, answer),
                    Effect::Moved => self.writer.mark(self.keeper.acknowledged()),
                    // Nobody reads through the keeper here: the books are read themselves.
                    Effect::Witness { .. } => {}
                }
            }
        }
    }

    /// The event with which a keeper lies to itself, if it is one of those.
    fn store(&mut self, serial: u64, job: Job) -> Option<Event> {
        self.fate.pass("before storing");
        self.writer.job(serial, job);
        self.early.then(|| {
            self.counted = serial;
            Event::Stored { serial }
        })
    }

    fn call(&mut self, call: Call) {
        self.next += 1;
        let id = self.next;
        self.calls.insert(id, call.clone());
        self.fate.pass("before sending");
        say(&Word::Call { id, call });
        self.fate.pass("after sending");
    }

    fn reply(&self, id: u64, reply: Result<Reply, String>) {
        self.fate.pass("before replying");
        say(&Word::Reply { id, reply });
        self.fate.pass("after replying");
    }

    fn replied(&mut self, id: u64, reply: Result<Reply, String>) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        fn other<T>() -> Result<T, String> {
            Err("the answer is to another question".to_owned())
        }
        let event = match call {
            Call::Sync(sync) => Event::SyncOut {
                session: sync.session,
                epoch: sync.epoch,
                answer: match reply {
                    Ok(Reply::Sync(reply)) => Ok(reply),
                    Ok(_) => other(),
                    Err(what) => Err(what),
                },
            },
            Call::Append(append) => Event::AppendOut {
                session: append.session,
                epoch: append.epoch,
                last: append.entries.last().map(|entry| entry.index),
                answer: match reply {
                    Ok(Reply::Append(reply)) => Ok(reply),
                    Ok(_) => other(),
                    Err(what) => Err(what),
                },
            },
            Call::Fetch(_) => Event::FetchOut {
                answer: match reply {
                    Ok(Reply::Fetch(reply)) => Ok(reply),
                    Ok(_) => other(),
                    Err(what) => Err(what),
                },
            },
        };
        self.event(event);
    }

    fn answer(&mut self, request: Request, answer: Result<Answer, Refusal>) {
        let ticket = match self.tickets.remove(&request) {
            None => return,
            Some(Ticket::Order(ticket)) => ticket,
            Some(Ticket::Call(id)) => {
                let reply = match answer {
                    Ok(Answer::Synced(reply)) => Ok(Reply::Sync(reply)),
                    Ok(Answer::Appended(reply)) => Ok(Reply::Append(reply)),
                    Ok(other) => Err(format!("{other:?}")),
                    Err(refusal) => Err(words(refusal)),
                };
                return self.reply(id, reply);
            }
        };
        let word = match answer {
            Ok(Answer::Changed(changed)) => Word::Changed {
                ticket,
                outcome: Ok(changed),
            },
            Ok(Answer::CaughtUp(done)) => Word::CaughtUp {
                ticket,
                outcome: Ok(done),
            },
            Ok(_) => Word::Done {
                ticket,
                outcome: Ok(()),
            },
            Err(refusal) => Word::Done {
                ticket,
                outcome: Err(words(refusal)),
            },
        };
        self.said = None;
        self.fate.pass("before answer");
        say(&word);
        self.fate.pass("after answer");
    }

    /// Says where the log stands, if that is news, or if something was answered.
    fn view(&mut self) {
        let keeper = &self.keeper;
        let hash_at = |length| keeper.hash_at(length).unwrap_or_default();
        let view = View {
            length: keeper.durable(),
            hash: hash_at(keeper.durable()),
            acknowledged: keeper.acknowledged(),
            acknowledged_hash: hash_at(keeper.acknowledged()),
            acknowledging: keeper.acknowledging(),
            locked: keeper.locked().map(|(reason, _)| reason),
            whole: keeper.length(),
            diverged: keeper.diverged().is_some(),
        };
        if self.said.as_ref() != Some(&view) {
            self.said = Some(view.clone());
            say(&Word::View(view));
        }
    }
}
