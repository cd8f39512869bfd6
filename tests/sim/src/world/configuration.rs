//! Changes of the configuration: what the keepers do, what travels between them, and what heartbeat asks of its own.

use super::*;
use crate::keeper::{Called, Keeper, Question, Reply, Waiting, action, change};
use pollux_api::config::{Freeze, SetEpoch, Unfreeze};
use pollux_config_core::keeper::{Answer, Effect as Deed, Event as Word, Refusal};
use pollux_heartbeat_core::event::ConfigStatus;
use pollux_heartbeat_core::liaison::{Ask, Call, Liaison, epoch_record, lock_words};

/// Bounds of calls, and periods, as the daemons have them.
const CALL: u64 = 2 * SEC;
const CATCH_UP: u64 = 20 * SEC;
const LOOK: u64 = 250 * MS;
const TICK: u64 = 200 * MS;
const NEWS_TICKS: u32 = 10;

/// Heartbeat's end of its keeper.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk {
    liaison: Liaison,
    asks: VecDeque<Ask>,
    /// The call that is under way, and its number.
    call: Option<(u64, Call)>,
    catching: Option<u64>,
}

impl World {
    // ---- heartbeat's end ------------------------------------------------------------------------------------

    /// The heartbeat daemon has started: it knows nothing of what it has told.
    pub(super) fn open_desk(&mut self, c: usize) {
        self.nodes[c].desk = Desk::default();
        self.look(c, self.nodes[c].life);
    }

    /// Time to look.
    pub(super) fn look(&mut self, c: usize, life: u32) {
        let desk = &self.nodes[c].desk;
        if desk.call.is_none() && desk.asks.is_empty() {
            self.ask_keeper(c, Ask::Look);
        }
        self.after(LOOK, Happening::Look { c, life });
    }

    /// Heartbeat asks something of its keeper.
    pub(super) fn ask_keeper(&mut self, c: usize, ask: Ask) {
        self.nodes[c].desk.asks.push_back(ask);
        self.next_ask(c);
    }

    fn next_ask(&mut self, c: usize) {
        while self.nodes[c].desk.call.is_none() {
            let desk = &mut self.nodes[c].desk;
            let Some(ask) = desk.asks.pop_front() else { return };
            let call = desk.liaison.ask(ask);
            self.call_keeper(c, call);
        }
    }

    fn call_keeper(&mut self, c: usize, call: Call) {
        self.calls += 1;
        let number = self.calls;
        let (boot, life) = (self.nodes[c].boot, self.nodes[c].life);
        let within = if call == Call::CatchUp {
            if self.nodes[c].desk.catching.is_some() {
                return;
            }
            self.nodes[c].desk.catching = Some(number);
            CATCH_UP
        } else {
            self.nodes[c].desk.call = Some((number, call.clone()));
            CALL
        };
        let span = self.span(50, 1_000);
        self.after(
            span,
            Happening::KeeperCall {
                c,
                boot,
                number,
                call,
            },
        );
        self.after(
            within,
            Happening::KeeperSays {
                c,
                life,
                number,
                answer: None,
            },
        );
    }

    /// A call has reached the keeper.
    pub(super) fn keeper_call(&mut self, c: usize, number: u64, call: Call) {
        let keeper = &mut self.nodes[c].keeper;
        if keeper.core.is_none() {
            return self.keeper_answers(c, number, None);
        }
        let incarnation = Keeper::incarnation(self.nodes[c].incarnation);
        let keeper = &mut self.nodes[c].keeper;
        let word = match call {
            Call::Status => return self.keeper_answers(c, number, self.nodes[c].keeper.seen()),
            Call::Probe(point) => {
                let contained = keeper.contains(point);
                if let Some(contained) = contained {
                    self.tell_later(
                        c,
                        Event::ConfigProbed {
                            base: point,
                            contained,
                        },
                        50,
                        1_000,
                    );
                }
                return self.keeper_answers(c, number, None);
            }
            Call::CatchUp => Word::CatchUp {
                request: keeper.ticket(Waiting::CatchUp { number }),
            },
            Call::SetEpoch(record, lock) => Word::SetEpoch {
                request: keeper.ticket(Waiting::Heartbeat { number }),
                set: SetEpoch {
                    record: epoch_record(&record),
                    lock: lock.map(lock_words),
                    incarnation,
                },
            },
            Call::Freeze(epoch) => Word::Freeze {
                request: keeper.ticket(Waiting::Heartbeat { number }),
                freeze: Freeze {
                    epoch,
                    reason: format!("epoch {epoch} is being decided"),
                },
            },
            Call::Unfreeze(epoch) => Word::Unfreeze {
                request: keeper.ticket(Waiting::Heartbeat { number }),
                unfreeze: Unfreeze { epoch },
            },
        };
        self.keep(c, word);
    }

    fn keeper_answers(&mut self, c: usize, number: u64, answer: Option<ConfigStatus>) {
        let life = self.nodes[c].life;
        let span = self.span(50, 1_000);
        self.after(
            span,
            Happening::KeeperSays {
                c,
                life,
                number,
                answer,
            },
        );
    }

    /// The answer to a call of heartbeat has come; none: it has failed, or nothing came in time.
    pub(super) fn keeper_says(&mut self, c: usize, number: u64, answer: Option<ConfigStatus>) {
        let desk = &mut self.nodes[c].desk;
        if desk.catching == Some(number) {
            desk.catching = None;
        }
        let Some((_, call)) = desk.call.take_if(|(present, _)| *present == number) else {
            return;
        };
        let next = desk.liaison.answered(&call, answer);
        match next.call {
            Some(call) => self.call_keeper(c, call),
            None => self.next_ask(c),
        }
        if let Some(event) = next.event {
            self.tell(c, event);
        }
    }

    // ---- the keeper's daemon --------------------------------------------------------------------------------

    /// The keeper's daemon starts.
    pub(super) fn start_keeper(&mut self, c: usize) {
        if let Err(what) = self.nodes[c].keeper.start() {
            self.violation = Some(Violation {
                at: self.now,
                invariant: "S3",
                what: format!("the log of {} is no chain: {what}", id(c)),
            });
            return;
        }
        let life = self.nodes[c].keeper.life;
        let span = self.rng.range(0, TICK);
        self.after(span, Happening::KeeperTick { c, life });
    }

    /// The keeper's daemon dies, in the middle of whatever it does.
    pub(crate) fn crash_keeper(&mut self, c: usize, restart: u64) {
        if !self.nodes[c].up || self.nodes[c].keeper.core.is_none() {
            return;
        }
        self.say(|| format!("{} config keeper DIES", id(c)));
        self.end_keeper(c);
        let boot = self.nodes[c].boot;
        self.after(restart, Happening::KeeperStarts { c, boot });
    }

    /// Nothing is left of it but what is durable.
    pub(super) fn end_keeper(&mut self, c: usize) {
        let jobs = self.nodes[c].keeper.jobs() as u64;
        let durable = self.rng.below(jobs + 1) as usize;
        for waiting in self.nodes[c].keeper.die(durable) {
            match waiting {
                Waiting::Heartbeat { number } | Waiting::CatchUp { number } => {
                    self.keeper_answers(c, number, None)
                }
                // Silence, which its own patience ends.
                Waiting::Partner { .. } => {}
                Waiting::Person { entry } => self.doubts.push(entry),
            }
        }
    }

    pub(super) fn keeper_tick(&mut self, c: usize, life: u32) {
        self.after(TICK, Happening::KeeperTick { c, life });
        let keeper = &mut self.nodes[c].keeper;
        keeper.ticks += 1;
        let due = keeper.ticks.is_multiple_of(NEWS_TICKS)
            || keeper.core.as_ref().is_some_and(|core| core.waits_for_tick());
        keeper.mark();
        if due {
            self.keep(c, Word::Tick);
        }
    }

    /// The oldest transaction is durable.
    pub(super) fn stored(&mut self, c: usize) {
        if let Some(serial) = self.nodes[c].keeper.stored() {
            self.keep(c, Word::Stored { serial });
        }
    }

    /// The core takes an event, and what follows is done.
    fn keep(&mut self, c: usize, word: Word) {
        self.say(|| format!("{} keeper <- {word:?}", id(c)));
        let Some(core) = &mut self.nodes[c].keeper.core else {
            return;
        };
        let deeds = core.handle(word);
        for deed in deeds {
            self.say(|| format!("{} keeper -> {deed:?}", id(c)));
            match deed {
                Deed::Store { serial, job } => {
                    let span = self.span(200, 5_000);
                    let life = self.nodes[c].keeper.life;
                    let keeper = &mut self.nodes[c].keeper;
                    keeper.store(serial, job);
                    keeper.busy_until = keeper.busy_until.max(self.now) + span;
                    let at = keeper.busy_until;
                    self.at(at, Happening::Stored { c, life });
                }
                Deed::Sync(sync) => {
                    let called = Called::Sync {
                        session: sync.session,
                        epoch: sync.epoch,
                    };
                    self.call_partner(c, called, Question::Sync(sync));
                }
                Deed::Append(append) => {
                    let called = Called::Append {
                        session: append.session,
                        epoch: append.epoch,
                        last: append.entries.last().map(|entry| entry.index),
                    };
                    self.call_partner(c, called, Question::Append(append));
                }
                Deed::Fetch(fetch) => self.call_partner(c, Called::Fetch, Question::Fetch(fetch)),
                Deed::Answer { request, answer } => self.keeper_answer(c, request, answer),
                Deed::Moved => {
                    let (boot, life) = (self.nodes[c].boot, self.nodes[c].life);
                    let span = self.span(50, 1_000);
                    self.after(span, Happening::Moved { c, boot, life });
                }
            }
        }
    }

    fn keeper_answer(&mut self, c: usize, request: u64, answer: Result<Answer, Refusal>) {
        let Some(waiting) = self.nodes[c].keeper.waiting.remove(&request) else {
            return;
        };
        match (waiting, answer) {
            (Waiting::Heartbeat { number }, answer) => {
                let seen = self.nodes[c].keeper.seen().filter(|_| answer.is_ok());
                self.keeper_answers(c, number, seen);
            }
            (Waiting::CatchUp { number }, Ok(Answer::CaughtUp(done))) => {
                let log = pollux_heartbeat_core::record::Base {
                    length: pollux_api::id::LogLength::new(done.length),
                    hash: pollux_api::id::Hash32::from_bytes(done.hash.0),
                };
                if self.nodes[c].desk.catching == Some(number) {
                    let equal = done.equal;
                    self.tell_later(c, Event::ConfigCaughtUp { log, equal }, 50, 1_000);
                }
                self.keeper_answers(c, number, None);
            }
            (Waiting::CatchUp { number }, _) => self.keeper_answers(c, number, None),
            (Waiting::Partner { number }, answer) => {
                let what = |refusal: Refusal| format!("{refusal:?}");
                let reply = match answer {
                    Ok(Answer::Synced(reply)) => Reply::Synced(Ok(reply)),
                    Ok(Answer::Appended(reply)) => Reply::Appended(Ok(reply)),
                    Err(refusal) => Reply::Synced(Err(what(refusal))),
                    Ok(_) => return,
                };
                self.post(c, Message::Reply { number, reply });
            }
            (Waiting::Person { entry }, Ok(_)) => self.fact(Fact::Acknowledged {
                c,
                entry,
                again: false,
            }),
            (Waiting::Person { entry }, Err(Refusal::InDoubt)) => self.doubts.push(entry),
            (Waiting::Person { .. }, Err(_)) => {}
        }
    }

    // ---- between the keepers --------------------------------------------------------------------------------

    fn call_partner(&mut self, c: usize, called: Called, question: Question) {
        self.calls += 1;
        let number = self.calls;
        self.nodes[c].keeper.called.insert(number, called);
        let life = self.nodes[c].keeper.life;
        self.after(CALL, Happening::PartnerSilent { c, life, number });
        self.post(c, Message::Question { number, question });
    }

    /// A message of the partner's keeper has come.
    pub(super) fn keeper(&mut self, c: usize, message: Message) {
        match message {
            Message::Question { number, mut question } => {
                if self.older == Some(c) {
                    question.newer();
                }
                let keeper = &mut self.nodes[c].keeper;
                let Some(core) = &keeper.core else { return };
                let word = match question {
                    Question::Fetch(fetch) => {
                        let reply = Reply::Fetched(core.fetch(&fetch));
                        return self.post(c, Message::Reply { number, reply });
                    }
                    Question::Sync(sync) => Word::SyncIn {
                        request: keeper.ticket(Waiting::Partner { number }),
                        sync,
                    },
                    Question::Append(append) => Word::AppendIn {
                        request: keeper.ticket(Waiting::Partner { number }),
                        append,
                    },
                };
                self.keep(c, word);
            }
            Message::Reply { number, reply } => self.partner_says(c, number, Some(reply)),
        }
    }

    /// The answer to a call of the partner's keeper; none: nothing came in time.
    pub(super) fn partner_says(&mut self, c: usize, number: u64, reply: Option<Reply>) {
        let Some(called) = self.nodes[c].keeper.called.remove(&number) else {
            return;
        };
        let silence = || "no answer in time".to_owned();
        let word = match (called, reply) {
            (Called::Sync { session, epoch }, reply) => Word::SyncOut {
                session,
                epoch,
                answer: match reply {
                    Some(Reply::Synced(answer)) => answer,
                    _ => Err(silence()),
                },
            },
            (Called::Append { session, epoch, last }, reply) => Word::AppendOut {
                session,
                epoch,
                last,
                answer: match reply {
                    Some(Reply::Appended(answer)) => answer,
                    Some(Reply::Synced(Err(what))) => Err(what),
                    _ => Err(silence()),
                },
            },
            (Called::Fetch, reply) => Word::FetchOut {
                answer: match reply {
                    Some(Reply::Fetched(fetched)) => Ok(fetched),
                    _ => Err(silence()),
                },
            },
        };
        self.keep(c, word);
    }

    // ---- people ---------------------------------------------------------------------------------------------

    /// Somebody asks for a change at each controller that would decide it: a new one, or again one whose fate is not
    /// known, under the same action.
    pub(super) fn change(&mut self) {
        let span = self.rng.range(200 * MS, self.setup.change_idle);
        self.after(span, Happening::Change);
        for c in [A, B] {
            let node = &self.nodes[c];
            let decides = node
                .keeper
                .core
                .as_ref()
                .is_some_and(|core| !core.is_partners_to_decide());
            if !node.up || node.paused || !decides {
                continue;
            }
            let again = !self.doubts.is_empty() && self.rng.chance(300_000);
            let entry = if again {
                let at = self.rng.index(self.doubts.len());
                self.doubts.swap_remove(at)
            } else {
                self.entries += 1;
                self.entries
            };
            let known = self.nodes[c].keeper.core.as_ref();
            let known = known.and_then(|core| core.answered(action(entry), &change(entry, self.initiators)));
            if let Some(Ok(_)) = known {
                self.fact(Fact::Acknowledged { c, entry, again });
                continue;
            }
            let keeper = &mut self.nodes[c].keeper;
            let before = keeper.core.as_ref().map(|core| core.length());
            let request = keeper.ticket(Waiting::Person { entry });
            self.keep(
                c,
                Word::Change {
                    request,
                    action: action(entry),
                    change: change(entry, self.initiators),
                },
            );
            let after = self.nodes[c].keeper.core.as_ref().map(|core| core.length());
            if self.breakage.lone_acknowledgement && after > before {
                self.fact(Fact::Acknowledged {
                    c,
                    entry,
                    again: false,
                });
            }
        }
    }
}
