//! Changes of the configuration: what the keepers do, what travels between them, and what heartbeat asks of its own.

use super::*;
use crate::keeper::{Called, Keeper, Question, Reply, Waiting, action, change};
use pollux_api::config::{Freeze, SetEpoch, Unfreeze};
#[cfg(test)]
use pollux_api::config::{LogEntry, Restore};
use pollux_config_core::keeper::{Answer, Effect as Deed, Event as Word, Refusal};
use pollux_config_core::reads::{Proof, Witness};
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
        if self.nodes[c].halted {
            return self.nodes[c].deferred.push(Happening::Look { c, life });
        }
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
        // This end stands still with its daemon: what was said meanwhile is not told out of order later.
        if self.nodes[c].halted {
            let life = self.nodes[c].life;
            return self.nodes[c].deferred.push(Happening::KeeperSays {
                c,
                life,
                number,
                answer,
            });
        }
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
        for called in std::mem::take(&mut self.nodes[c].keeper.called).into_values() {
            if let Called::Change { entry, .. } = called {
                self.doubts.push(entry);
            }
        }
        for waiting in self.nodes[c].keeper.die(durable) {
            match waiting {
                Waiting::Heartbeat { number } | Waiting::CatchUp { number } => {
                    self.keeper_answers(c, number, None)
                }
                // Silence, which its own patience ends.
                Waiting::Partner { .. } | Waiting::Carried { .. } | Waiting::Reader { .. } => {}
                #[cfg(test)]
                Waiting::Restorer => {}
                Waiting::Person { entry, .. } => self.doubts.push(entry),
            }
        }
    }

    /// The keeper's daemon dies, and its database is damaged when it starts again.
    pub(crate) fn lose_database(&mut self, c: usize, restart: u64) {
        if self.nodes[c].up && self.nodes[c].keeper.core.is_some() {
            self.say(|| format!("{} DATABASE LOST", id(c)));
            self.crash_keeper(c, restart);
            self.nodes[c].keeper.lose();
        }
    }

    /// A person brings a controller's keeper a backup, as the daemon takes it: with what the partner says of its own log.
    /// Silence is no answer.
    #[cfg(test)]
    pub(crate) fn restore_backup(&mut self, c: usize, entries: Vec<LogEntry>) {
        let other = &self.nodes[1 - c];
        let heard = other.up && !other.paused && !self.filtered && self.links.iter().all(|link| !link.cut);
        let partner = other
            .keeper
            .core
            .as_ref()
            .filter(|core| heard && !core.lost())
            .map(|core| core.length());
        self.say(|| format!("{} RESTORES {} entries", id(c), entries.len()));
        let keeper = &mut self.nodes[c].keeper;
        keeper.restored = None;
        let request = keeper.ticket(Waiting::Restorer);
        let restore = Restore {
            compacted: None,
            entries,
            last: true,
        };
        self.keep(
            c,
            Word::Restore {
                request,
                restore,
                partner,
            },
        );
    }

    /// What the database of a controller holds that its partner's log or nobody's could not give back is nothing: it is
    /// beyond any repair otherwise. Not while an epoch is being decided, for what that will stand on is known to nobody.
    pub(crate) fn may_lose_database(&self, c: usize) -> bool {
        let (own, other) = (&self.nodes[c].keeper, &self.nodes[1 - c].keeper);
        let record = self.record();
        let known = |keeper: &Keeper| {
            let epoch = keeper
                .core
                .as_ref()
                .and_then(|core| core.epoch().map(|record| record.epoch));
            epoch == Some(record.epoch)
        };
        let settled = known(own) && !own.frozen() && !own.lost() && !other.frozen() && !other.lost();
        let acknowledged = |entry: &u64| other.log.contains(entry);
        let elsewhere = self.invariants.borrow().acknowledged().iter().all(acknowledged);
        let alone = record.members.get(id(c)).is_some() && !record.members.both();
        let sealed = record.mode == pollux_heartbeat_core::record::Mode::Sealed;
        settled && elsewhere && (!alone || sealed && other.holds(record.base))
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
                Deed::Witness { round, witness } => self.witness(c, round, witness),
                Deed::Answer { request, answer } => self.keeper_answer(c, request, answer),
                // Heartbeat hears of a longer log a little later, of anything else at once.
                Deed::Moved => {
                    let (boot, life) = (self.nodes[c].boot, self.nodes[c].life);
                    let span = self.span(50, 50_000);
                    self.after(span, Happening::Moved { c, boot, life });
                }
            }
        }
    }

    /// Whoever can tell whether readers may be answered is asked.
    fn witness(&mut self, c: usize, round: u64, witness: Witness) {
        let called = Called::Witness { round };
        match witness {
            Witness::Follower(append) => self.call_partner(c, called, Question::Append(append)),
            Witness::Sequencer(ask) => self.call_partner(c, called, Question::Index(ask)),
            Witness::Lease { .. } => {
                let life = self.nodes[c].keeper.life;
                let span = self.span(50, 1_000);
                self.after(span, Happening::LeaseAsked { c, life, round });
                let answer = Err("no answer in time".to_owned());
                self.after(
                    CALL,
                    Happening::LeaseSaid {
                        c,
                        life,
                        round,
                        answer,
                    },
                );
            }
        }
    }

    /// Heartbeat hears that its keeper asks for the lease.
    pub(super) fn lease_asked(&mut self, c: usize, life: u32, round: u64) {
        let node = &self.nodes[c];
        if node.halted {
            return self.nodes[c]
                .deferred
                .push(Happening::LeaseAsked { c, life, round });
        }
        let Some(core) = &node.core else { return };
        let epoch = core.stands_in_epoch(self.local(c));
        let answer = epoch.map(Proof::Leased).ok_or_else(|| "no lease".to_owned());
        let span = self.span(50, 1_000);
        self.after(
            span,
            Happening::LeaseSaid {
                c,
                life,
                round,
                answer,
            },
        );
    }

    /// It has answered, or has had its time.
    pub(super) fn lease_said(&mut self, c: usize, round: u64, answer: Result<Proof, String>) {
        self.keep(c, Word::Witnessed { round, answer });
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
                    Ok(Answer::ReadAt { index }) => Reply::Index(index),
                    Err(refusal) => Reply::Synced(Err(what(refusal))),
                    Ok(_) => return,
                };
                self.post(c, Message::Reply { number, reply });
            }
            (Waiting::Person { entry, deed }, Ok(Answer::Changed(changed))) => {
                self.history.changed(deed, changed.index);
                self.acknowledged(c, entry, false);
            }
            (Waiting::Person { entry, .. }, Err(Refusal::InDoubt)) => self.doubts.push(entry),
            (Waiting::Person { deed, .. }, Err(_)) => self.history.refused(deed),
            (Waiting::Carried { number, entry }, Ok(Answer::Changed(changed))) => {
                self.acknowledged(c, entry, false);
                let reply = Reply::Changed(changed.index);
                self.post(c, Message::Reply { number, reply });
            }
            (Waiting::Carried { number, .. }, Err(_)) => {
                let reply = Reply::NotChanged;
                self.post(c, Message::Reply { number, reply });
            }
            (Waiting::Reader { deed }, Ok(_)) => self.shown(c, deed),
            (Waiting::Reader { .. }, Err(_)) => self.stats.unread += 1,
            #[cfg(test)]
            (Waiting::Restorer, answer) => {
                self.nodes[c].keeper.restored = Some(match answer {
                    Ok(Answer::Restored { length }) => Ok(length),
                    answer => Err(format!("{answer:?}")),
                });
            }
            (Waiting::Person { .. } | Waiting::Carried { .. }, Ok(_)) => {}
        }
    }

    fn acknowledged(&mut self, c: usize, entry: u64, again: bool) {
        self.fact(Fact::Acknowledged { c, entry, again });
    }

    /// A reader sees what the keeper shows.
    fn shown(&mut self, c: usize, deed: usize) {
        let keeper = &self.nodes[c].keeper;
        let Some((core, seen)) = keeper.core.as_ref().zip(keeper.shows()) else {
            return;
        };
        let hosts = core.tables().hosts.len();
        if hosts != seen.len() {
            let shown = seen.len();
            self.violation.get_or_insert(Violation {
                at: self.now,
                invariant: "S8",
                what: format!(
                    "{} shows {hosts} hosts after {shown} changes that make one each",
                    id(c)
                ),
            });
        }
        self.history.saw(deed, seen.into());
        self.stats.reads += 1;
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
                if keeper.core.is_none() {
                    return;
                }
                let word = match question {
                    Question::Fetch(fetch) => {
                        if fetch.lost {
                            self.keep(c, Word::PartnerLost);
                        }
                        let Some(core) = &self.nodes[c].keeper.core else {
                            return;
                        };
                        let reply = Reply::Fetched(core.fetch(&fetch));
                        return self.post(c, Message::Reply { number, reply });
                    }
                    Question::Index(ask) => Word::IndexIn {
                        request: keeper.ticket(Waiting::Partner { number }),
                        ask,
                    },
                    Question::Change(entry) => return self.carried(c, number, entry),
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
        if let Called::Change { entry, deed } = called {
            return match reply {
                Some(Reply::Changed(index)) => self.history.changed(deed, index),
                // Refused there once: another copy of the same question may have come at a better time.
                _ => self.doubts.push(entry),
            };
        }
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
            (Called::Witness { round }, reply) => Word::Witnessed {
                round,
                answer: match reply {
                    Some(Reply::Appended(answer)) => answer.map(Proof::Followed),
                    Some(Reply::Index(index)) => Ok(Proof::Index(index)),
                    Some(Reply::Synced(Err(what))) => Err(what),
                    _ => Err(silence()),
                },
            },
            (Called::Change { .. }, _) => return,
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

    /// Somebody reads at each controller.
    pub(super) fn reader(&mut self) {
        let span = self.rng.range(100 * MS, self.setup.change_idle);
        self.after(span, Happening::Read);
        self.read();
    }

    pub(crate) fn read(&mut self) {
        for c in [A, B] {
            let node = &self.nodes[c];
            if node.up && !node.paused && node.keeper.core.is_some() {
                let deed = self.history.reads();
                let request = self.nodes[c].keeper.ticket(Waiting::Reader { deed });
                self.keep(c, Word::Read { request });
            }
        }
    }

    /// A change has been carried here from the other controller.
    fn carried(&mut self, c: usize, number: u64, entry: u64) {
        let change = change(entry, self.initiators);
        let keeper = &mut self.nodes[c].keeper;
        let known = keeper
            .core
            .as_ref()
            .and_then(|core| core.answered(action(entry), &change));
        if let Some(Ok(Answer::Changed(changed))) = known {
            self.acknowledged(c, entry, true);
            let reply = Reply::Changed(changed.index);
            return self.post(c, Message::Reply { number, reply });
        }
        let request = keeper.ticket(Waiting::Carried { number, entry });
        let action = action(entry);
        self.keep(
            c,
            Word::Change {
                request,
                action,
                change,
            },
        );
    }

    /// Somebody asks for a change at each controller: a new one, or again one whose fate is not known, under the same
    /// action. What is not decided there is carried to the partner.
    pub(super) fn change(&mut self) {
        let span = self.rng.range(200 * MS, self.setup.change_idle);
        self.after(span, Happening::Change);
        for c in [A, B] {
            let node = &self.nodes[c];
            let core = node.keeper.core.as_ref().filter(|_| node.up && !node.paused);
            let Some(elsewhere) = core.map(|core| core.is_partners_to_decide()) else {
                continue;
            };
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
            let deed = self.history.asks_for_change(entry);
            if let Some(Ok(Answer::Changed(changed))) = known {
                self.history.changed(deed, changed.index);
                self.acknowledged(c, entry, again);
                continue;
            }
            if elsewhere {
                self.call_partner(c, Called::Change { entry, deed }, Question::Change(entry));
                continue;
            }
            let keeper = &mut self.nodes[c].keeper;
            let before = keeper.core.as_ref().map(|core| core.length());
            let request = keeper.ticket(Waiting::Person { entry, deed });
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
