//! Two keepers, their disks, a wire that loses, doubles and reorders, an abstract heartbeat that follows the rules
//! of membership, and a seed. Everything that was ever acknowledged or shown is remembered outside, and must be
//! in every history that serves later.

use super::*;
use pollux_api::config::{Class, Hex, Kind, Op, Redundancy};
use pollux_api::id::DiskIndex;
use std::collections::BTreeSet;

const A: ControllerId = ControllerId::A;
const B: ControllerId = ControllerId::B;

fn action(number: u64) -> ActionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    ActionId::from_bytes(bytes)
}

fn pool(name: &str, disk: u16) -> Op {
    let (name, class, redundancy) = (name.into(), Class::Fast, Redundancy::Single);
    Op::CreatePool {
        name,
        class,
        home: A,
        redundancy,
        disks: vec![DiskIndex::new(disk)],
    }
}

fn host(name: &str) -> Op {
    Op::CreateHost {
        name: name.into(),
        iqns: vec![format!("iqn.2026-01.test:{name}")],
    }
}

fn one(op: Op) -> Change {
    Change {
        ops: vec![op],
        expected_index: None,
        dry_run: false,
    }
}

fn record(
    epoch: u64,
    members: &[ControllerId],
    open: bool,
    base_length: u64,
    base_hash: LogHash,
) -> EpochRecord {
    let members = members
        .iter()
        .map(|member| (*member, Incarnation::new(1)))
        .collect();
    EpochRecord {
        epoch: Epoch::new(epoch),
        members,
        open,
        base_length,
        base_hash,
        quorum: Vec::new(),
    }
}

fn keeper(me: ControllerId) -> Keeper {
    Keeper::load(me, Some(Incarnation::new(1)), Site::default(), Loaded::default()).unwrap()
}

fn set(record: &EpochRecord) -> Event {
    Event::SetEpoch {
        request: 0,
        set: SetEpoch {
            record: record.clone(),
            lock: None,
            incarnation: None,
        },
    }
}

/// Finishes every job at once; what else came out.
fn settle(keeper: &mut Keeper, effects: Vec<Effect>) -> Vec<Effect> {
    let mut queue = VecDeque::from(effects);
    let mut rest = vec![];
    while let Some(effect) = queue.pop_front() {
        match effect {
            Effect::Store { serial, .. } => queue.extend(keeper.handle(Event::Stored { serial })),
            other => rest.push(other),
        }
    }
    rest
}

fn answer_of(effects: &[Effect], ticket: Request) -> Option<&Result<Answer, Refusal>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer { request, answer } if *request == ticket => Some(answer),
        _ => None,
    })
}

fn alone() -> Keeper {
    let mut a = keeper(A);
    let effects = a.handle(set(&record(1, &[A], true, 0, LogHash::default())));
    assert_eq!(answer_of(&effects, 0), Some(&Ok(Answer::Done)));
    a
}

#[test]
fn alone_and_open_one_disk_is_enough_but_not_less() {
    let mut a = alone();
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    assert_eq!(answer_of(&effects, 1), None, "answered before it was durable");
    assert!(a.tables().pools.is_empty(), "shown before it was durable");
    let effects = settle(&mut a, effects);
    assert!(matches!(
        answer_of(&effects, 1),
        Some(Ok(Answer::Changed(Changed {
            index: 1,
            alone: true,
            ..
        })))
    ));
    assert_eq!(a.tables().pools.len(), 1);
}

#[test]
fn the_same_action_is_one_change_and_another_request_under_it_is_refused() {
    let mut a = alone();
    let ask = |a: &mut Keeper, request, change| {
        let effects = a.handle(Event::Change {
            request,
            action: action(1),
            change,
        });
        let effects = settle(a, effects);
        answer_of(&effects, request).cloned().unwrap()
    };
    let first = ask(&mut a, 1, one(pool("p", 1)));
    assert_eq!(ask(&mut a, 2, one(pool("p", 1))), first);
    assert!(matches!(
        ask(&mut a, 3, one(pool("q", 2))),
        Err(Refusal::Conflict(..))
    ));
    assert_eq!(a.length(), 1);
    // Also after a restart.
    let loaded = Loaded {
        entries: a.entries(0, 1).to_vec(),
        acknowledged: 1,
        ..Loaded::default()
    };
    let mut again = Keeper::load(A, Some(Incarnation::new(1)), Site::default(), loaded).unwrap();
    assert_eq!(ask(&mut again, 4, one(pool("p", 1))), first);
}

#[test]
fn concurrent_changes_share_a_commit() {
    let mut a = alone();
    let mut effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p1", 1)),
    });
    for n in 2..=9 {
        let more = a.handle(Event::Change {
            request: n,
            action: action(n),
            change: one(pool(&format!("p{n}"), n as u16)),
        });
        assert!(
            !more.iter().any(|effect| matches!(effect, Effect::Store { .. })),
            "a second commit while one runs"
        );
        effects.extend(more);
    }
    let effects: Vec<Effect> = settle(&mut a, effects);
    assert_eq!(
        effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Answer { answer: Ok(_), .. }))
            .count(),
        9
    );
    assert_eq!(a.next_serial, 3, "nine changes, two commits");
}

#[test]
fn sealed_locked_frozen_and_unknown_epochs_refuse_and_say_why() {
    let refusal = |keeper: &mut Keeper| {
        let effects = keeper.handle(Event::Change {
            request: 1,
            action: action(1),
            change: one(pool("p", 1)),
        });
        match answer_of(&effects, 1) {
            Some(Err(Refusal::Locked(reason, remedy))) if !remedy.is_empty() => reason.clone(),
            other => panic!("{other:?}"),
        }
    };
    let mut a = keeper(A);
    assert!(refusal(&mut a).contains("heartbeat has not said"));
    a.handle(set(&record(1, &[A], false, 0, LogHash::default())));
    assert!(refusal(&mut a).contains("sealed"));
    a.handle(set(&record(2, &[A], true, 0, LogHash::default())));
    let mut silent = SetEpoch {
        record: record(2, &[A], true, 0, LogHash::default()),
        lock: Some("the partner is silent".into()),
        incarnation: None,
    };
    a.handle(Event::SetEpoch {
        request: 2,
        set: silent.clone(),
    });
    assert_eq!(refusal(&mut a), "the partner is silent");
    silent.lock = None;
    a.handle(Event::SetEpoch {
        request: 2,
        set: silent,
    });
    a.handle(Event::Freeze {
        request: 2,
        freeze: Freeze {
            epoch: Epoch::new(3),
            reason: "join".into(),
        },
    });
    assert!(refusal(&mut a).contains("epoch 3 is being decided"));
    // The record of the epoch before does not end the freeze; giving up does.
    a.handle(set(&record(2, &[A], true, 0, LogHash::default())));
    assert!(refusal(&mut a).contains("epoch 3 is being decided"));
    a.handle(Event::Unfreeze {
        request: 3,
        unfreeze: Unfreeze { epoch: Epoch::new(3) },
    });
    assert_eq!(a.locked(), None);
    a.handle(set(&record(4, &[B], true, 0, LogHash::default())));
    assert!(refusal(&mut a).contains("no member"));
    a.handle(set(&record(5, &[A], true, 7, LogHash::default())));
    assert!(
        refusal(&mut a).contains("does not hold"),
        "S3: a base that is not here permits nothing"
    );
    assert!(
        !a.acknowledging() && a.acknowledged() == 0,
        "S3: nothing is decided by it either"
    );
    let effects = a.handle(set(&record(4, &[A], true, 0, LogHash::default())));
    assert!(matches!(answer_of(&effects, 0), Some(Err(Refusal::Stale(_)))));
    // Another incarnation of this controller is not this controller.
    let mut reborn = Keeper::load(A, Some(Incarnation::new(2)), Site::default(), Loaded::default()).unwrap();
    reborn.handle(set(&record(1, &[A], true, 0, LogHash::default())));
    assert!(refusal(&mut reborn).contains("no member"));
}

#[test]
fn a_freeze_is_answered_when_nothing_is_on_its_way_to_the_disk() {
    let mut a = alone();
    let stores = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    let effects = a.handle(Event::Freeze {
        request: 2,
        freeze: Freeze {
            epoch: Epoch::new(2),
            reason: "join".into(),
        },
    });
    assert_eq!(answer_of(&effects, 1), Some(&Err(Refusal::InDoubt)));
    assert_eq!(answer_of(&effects, 2), None);
    let effects = settle(&mut a, stores);
    assert_eq!(answer_of(&effects, 2), Some(&Ok(Answer::Done)));
    assert_eq!(
        (a.durable(), a.acknowledged()),
        (1, 0),
        "durable, but not counted"
    );
    assert!(
        a.acknowledging(),
        "the mark is exact: it was deciding up to the freeze"
    );
}

#[test]
fn nothing_stands_still_for_an_epoch_that_is_decided() {
    let mut a = keeper(A);
    a.handle(set(&record(3, &[A], true, 0, LogHash::default())));
    for (epoch, late) in [(2, true), (3, true), (4, false)] {
        let freeze = Freeze {
            epoch: Epoch::new(epoch),
            reason: "silent".into(),
        };
        let effects = a.handle(Event::Freeze { request: 2, freeze });
        let stale = matches!(answer_of(&effects, 2), Some(Err(Refusal::Stale(what))) if what.contains("epoch 3 is decided"));
        assert_eq!((stale, a.frozen().is_some()), (late, !late), "epoch {epoch}");
    }
}

/// A sequencer and its follower, standing, with nothing in the log.
fn pair() -> (Keeper, Keeper) {
    let (mut a, mut b) = (keeper(A), keeper(B));
    let both = record(1, &[A, B], true, 0, LogHash::default());
    b.handle(set(&both));
    let effects = a.handle(set(&both));
    let effects = settle(&mut a, effects);
    let Some(Effect::Sync(sync)) = effects.iter().find(|effect| matches!(effect, Effect::Sync(_))) else {
        panic!("{effects:?}")
    };
    let effects = b.handle(Event::SyncIn {
        request: 9,
        sync: *sync,
    });
    let effects = settle(&mut b, effects);
    let Some(Ok(Answer::Synced(reply))) = answer_of(&effects, 9).cloned() else {
        panic!("{effects:?}")
    };
    a.handle(Event::SyncOut {
        session: sync.session,
        epoch: sync.epoch,
        answer: Ok(reply),
    });
    assert_eq!(a.locked(), None);
    (a, b)
}

fn append_of(effects: &[Effect]) -> Append {
    effects
        .iter()
        .find_map(|effect| {
            if let Effect::Append(append) = effect {
                Some(append.clone())
            } else {
                None
            }
        })
        .expect("an append")
}

#[test]
fn with_a_partner_both_disks_are_needed_and_late_answers_of_older_sessions_count_for_nothing() {
    let (mut a, mut b) = pair();
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    let append = append_of(&effects);
    let local = settle(&mut a, effects);
    assert_eq!(answer_of(&local, 1), None, "the partner has not answered");
    let effects = b.handle(Event::AppendIn {
        request: 5,
        append: append.clone(),
    });
    assert_eq!(
        answer_of(&effects, 5),
        None,
        "the follower answered before its disk did"
    );
    let effects = settle(&mut b, effects);
    let Some(Ok(Answer::Appended(reply))) = answer_of(&effects, 5).cloned() else {
        panic!("{effects:?}")
    };
    // K13: after a freeze (and after the seal) it is too late.
    let mut frozen = a.clone();
    frozen.handle(Event::Freeze {
        request: 2,
        freeze: Freeze {
            epoch: Epoch::new(2),
            reason: "silent".into(),
        },
    });
    let out = |reply| Event::AppendOut {
        session: append.session,
        epoch: append.epoch,
        last: Some(1),
        answer: Ok(reply),
    };
    frozen.handle(out(reply));
    assert_eq!(frozen.acknowledged(), 0);
    frozen.handle(set(&record(2, &[A], false, 0, LogHash::default())));
    frozen.handle(out(reply));
    assert_eq!(frozen.acknowledged(), 0);
    let effects = frozen.handle(Event::Change {
        request: 3,
        action: action(1),
        change: one(pool("p", 1)),
    });
    assert_eq!(answer_of(&effects, 3), Some(&Err(Refusal::InDoubt)));
    // In time it counts.
    let effects = a.handle(out(reply));
    assert!(matches!(
        answer_of(&effects, 1),
        Some(Ok(Answer::Changed(Changed { alone: false, .. })))
    ));
    // The follower shows it when it is told.
    assert!(b.tables().pools.is_empty());
    b.handle(Event::AppendIn {
        request: 6,
        append: append_of(&effects),
    });
    assert_eq!(b.tables(), a.tables());
    // Asked on the other controller, the answer is alike.
    assert_eq!(
        b.answered(action(1), &one(pool("p", 1))),
        a.answered(action(1), &one(pool("p", 1)))
    );
}

#[test]
fn a_follower_shows_nothing_that_is_not_on_its_own_disk() {
    let (mut a, mut b) = pair();
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    // Whatever it is told: no sequencer announces what a member has not stored.
    let append = Append {
        acknowledged: 1,
        ..append_of(&effects)
    };
    let effects = b.handle(Event::AppendIn { request: 5, append });
    assert_eq!((b.acknowledged(), b.tables().pools.len()), (0, 0));
    settle(&mut b, effects);
    assert_eq!((b.acknowledged(), b.tables().pools.len()), (1, 1));
}

#[test]
fn a_restarted_sequencer_takes_over_what_it_had_sent_and_lost() {
    let (mut a, mut b) = pair();
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    let append = append_of(&effects);
    let effects = b.handle(Event::AppendIn {
        request: 5,
        append: append.clone(),
    });
    settle(&mut b, effects);
    // K7: killed before its own commit; the follower has it.
    let loaded = Loaded {
        session_epoch: Epoch::new(1),
        session: a.session(),
        ..Loaded::default()
    };
    let mut a = Keeper::load(A, Some(Incarnation::new(1)), Site::default(), loaded).unwrap();
    let effects = a.handle(set(&record(1, &[A, B], true, 0, LogHash::default())));
    let effects = settle(&mut a, effects);
    let Some(Effect::Sync(sync)) = effects.iter().find(|effect| matches!(effect, Effect::Sync(_))) else {
        panic!()
    };
    let effects = b.handle(Event::SyncIn {
        request: 6,
        sync: *sync,
    });
    let effects = settle(&mut b, effects);
    let Some(Ok(Answer::Synced(reply))) = answer_of(&effects, 6).cloned() else {
        panic!()
    };
    let effects = a.handle(Event::SyncOut {
        session: sync.session,
        epoch: sync.epoch,
        answer: Ok(reply),
    });
    settle(&mut a, effects);
    assert_eq!(a.hash_at(1), b.hash_at(1));
    assert_eq!(a.acknowledged(), 1, "durable on both: decided");
    // What the dead session sent comes late.
    let effects = b.handle(Event::AppendIn { request: 7, append });
    assert!(matches!(answer_of(&effects, 7), Some(Err(Refusal::Stale(_)))));
}

#[test]
fn two_histories_of_one_epoch_stop_everything() {
    let (mut a, mut b) = pair();
    let mut other = alone();
    let effects = other.handle(Event::Change {
        request: 1,
        action: action(7),
        change: one(pool("x", 1)),
    });
    settle(&mut other, effects);
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    let append = append_of(&effects);
    let effects = b.handle(Event::AppendIn {
        request: 5,
        append: append.clone(),
    });
    settle(&mut b, effects);
    let forged = Append {
        entries: other.entries(0, 1).to_vec(),
        ..append
    };
    let effects = b.handle(Event::AppendIn {
        request: 6,
        append: forged,
    });
    assert!(matches!(answer_of(&effects, 6), Some(Err(Refusal::Diverged(_)))));
    assert!(b.locked().unwrap().0.contains("entry 1 of epoch 1"));
    b.handle(Event::Tick);
    assert_eq!(b.role, Role::Idle);
    assert_eq!(b.length(), 1, "nothing was picked");
}

#[test]
fn a_damaged_log_is_refused_with_the_entry() {
    let mut a = alone();
    for n in 1..=3 {
        let effects = a.handle(Event::Change {
            request: n,
            action: action(n),
            change: one(host(&format!("h{n}"))),
        });
        settle(&mut a, effects);
    }
    let mut entries = a.entries(0, 3).to_vec();
    entries[1].rows.clear();
    let what = Keeper::load(
        A,
        None,
        Site::default(),
        Loaded {
            entries,
            ..Loaded::default()
        },
    )
    .unwrap_err();
    assert!(what.starts_with("entry 2: its hash is"), "{what}");
}

#[test]
fn a_store_that_fails_locks_and_keeps_reading() {
    let mut a = alone();
    a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    let effects = a.handle(Event::StoreFailed {
        what: "config.db: disk full".into(),
    });
    assert_eq!(answer_of(&effects, 1), Some(&Err(Refusal::InDoubt)));
    assert!(a.locked().unwrap().0.contains("disk full"));
    assert!(a.handle(Event::Tick).is_empty());
    assert!(a.find(Kind::Pool, "p").is_none());
}

// ---------------------------------------------------------------------------------------------------------------

/// splitmix64: small, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Debug)]
enum Message {
    Sync(Sync),
    SyncReply(Sync, Result<SyncReply, String>),
    Append(Append),
    AppendReply(Append, Result<AppendReply, String>),
    Fetch(Fetch),
    FetchReply(Result<Fetched, String>),
}

#[derive(Clone, Debug)]
enum Ticket {
    Client(u64),
    Freeze,
    Sync(Sync),
    Append(Append),
    CatchUp,
}

/// What heartbeat of one controller is doing.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    Rest,
    Freezing { joining: bool },
    Frozen { joining: bool },
}

struct Node {
    id: ControllerId,
    keeper: Keeper,
    disk: Loaded,
    jobs: VecDeque<(u64, Job)>,
    tickets: BTreeMap<Request, Ticket>,
    plan: Plan,
    /// The record that this heartbeat knows.
    known: EpochRecord,
    /// Result of the last catch-up that ended with an equal log: the log's length and hash.
    equal: Option<(u64, LogHash)>,
    catching: bool,
}

struct World {
    dice: Dice,
    nodes: [Node; 2],
    wire: Vec<(usize, Message)>,
    next: u64,
    asked: Vec<(u64, Change)>,
    acknowledged: BTreeMap<u64, (u64, LogHash)>,
    shown: BTreeSet<(u64, LogHash)>,
    highest: EpochRecord,
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let both = record(1, &[A, B], true, 0, LogHash::default());
        let node = |id| Node {
            id,
            keeper: keeper(id),
            disk: Loaded::default(),
            jobs: VecDeque::new(),
            tickets: BTreeMap::new(),
            plan: Plan::Rest,
            known: both.clone(),
            equal: None,
            catching: false,
        };
        let mut world = Self {
            dice: Dice(seed),
            nodes: [node(A), node(B)],
            wire: vec![],
            next: 1,
            asked: vec![],
            acknowledged: BTreeMap::new(),
            shown: BTreeSet::new(),
            highest: both.clone(),
            calm: false,
        };
        world.tell(0);
        world.tell(1);
        world
    }

    fn ticket(&mut self, at: usize, ticket: Ticket) -> Request {
        self.next += 1;
        self.nodes[at].tickets.insert(self.next, ticket);
        self.next
    }

    /// Heartbeat tells its keeper what it knows: a freeze while it proposes, otherwise the record.
    fn tell(&mut self, at: usize) {
        let record = self.nodes[at].known.clone();
        if self.nodes[at].plan == Plan::Rest {
            self.event(
                at,
                Event::SetEpoch {
                    request: 0,
                    set: SetEpoch {
                        record,
                        lock: None,
                        incarnation: None,
                    },
                },
            );
        } else {
            let (Plan::Freezing { joining } | Plan::Frozen { joining }) = self.nodes[at].plan else {
                return;
            };
            self.nodes[at].plan = Plan::Freezing { joining };
            self.event(
                at,
                Event::SetEpoch {
                    request: 0,
                    set: SetEpoch {
                        record: record.clone(),
                        lock: None,
                        incarnation: None,
                    },
                },
            );
            let request = self.ticket(at, Ticket::Freeze);
            let freeze = Freeze {
                epoch: record.epoch.next(),
                reason: "proposal".into(),
            };
            self.event(at, Event::Freeze { request, freeze });
        }
    }

    fn event(&mut self, at: usize, event: Event) {
        let effects = self.nodes[at].keeper.handle(event);
        for effect in effects {
            match effect {
                Effect::Store { serial, job } => self.nodes[at].jobs.push_back((serial, job)),
                Effect::Sync(sync) => self.wire.push((1 - at, Message::Sync(sync))),
                Effect::Append(append) => self.wire.push((1 - at, Message::Append(append))),
                Effect::Fetch(fetch) => self.wire.push((1 - at, Message::Fetch(fetch))),
                Effect::Moved => {}
                Effect::Answer { request, answer } => self.answered(at, request, answer),
            }
        }
        self.check(at);
    }

    fn answered(&mut self, at: usize, request: Request, answer: Result<Answer, Refusal>) {
        let text = |refusal: Refusal| format!("{refusal:?}");
        match self.nodes[at].tickets.remove(&request) {
            None => {}
            Some(Ticket::Client(number)) => {
                if let Ok(Answer::Changed(changed)) = answer {
                    let place = (changed.index, changed.hash);
                    let earlier = *self.acknowledged.entry(number).or_insert(place);
                    assert_eq!(earlier, place, "action {number} was answered in two ways");
                    let sides = if changed.alone { 1 } else { 2 };
                    let holds = |node: &&Node| {
                        node.disk
                            .entries
                            .get(changed.index as usize - 1)
                            .is_some_and(|entry| entry.hash == changed.hash)
                    };
                    let first_time = self.highest.epoch == self.nodes[at].known.epoch;
                    if first_time
                        && self.nodes[at].keeper.log[changed.index as usize - 1].epoch == self.highest.epoch
                    {
                        assert!(
                            self.nodes.iter().filter(holds).count() >= sides,
                            "acknowledged on too few disks"
                        );
                    }
                }
            }
            Some(Ticket::Freeze) => {
                if let Plan::Freezing { joining } = self.nodes[at].plan {
                    assert_eq!(answer, Ok(Answer::Done));
                    assert!(self.nodes[at].jobs.is_empty(), "frozen with a job on its way");
                    self.nodes[at].plan = Plan::Frozen { joining };
                }
            }
            Some(Ticket::Sync(sync)) => {
                let answer = answer.map_err(text).map(|answer| {
                    if let Answer::Synced(reply) = answer {
                        reply
                    } else {
                        panic!("{answer:?}")
                    }
                });
                self.wire.push((1 - at, Message::SyncReply(sync, answer)));
            }
            Some(Ticket::Append(append)) => {
                let answer = answer.map_err(text).map(|answer| {
                    if let Answer::Appended(reply) = answer {
                        reply
                    } else {
                        panic!("{answer:?}")
                    }
                });
                self.wire.push((1 - at, Message::AppendReply(append, answer)));
            }
            Some(Ticket::CatchUp) => {
                self.nodes[at].catching = false;
                if let Ok(Answer::CaughtUp(done)) = answer {
                    self.nodes[at].equal = done.equal.then_some((done.length, done.hash));
                }
            }
        }
    }

    fn check(&mut self, at: usize) {
        let keeper = &self.nodes[at].keeper;
        assert!(keeper.acknowledged <= keeper.durable && keeper.durable <= keeper.length());
        assert_eq!(keeper.diverged, None, "two histories in one epoch");
        self.shown
            .insert((keeper.acknowledged, keeper.hash_at(keeper.acknowledged).unwrap()));
        let [a, b] = &self.nodes;
        for (ours, theirs) in a.keeper.log.iter().zip(&b.keeper.log) {
            assert!(
                ours.epoch != theirs.epoch || ours.hash == theirs.hash,
                "logs part within epoch {}",
                ours.epoch
            );
        }
    }

    fn deliver(&mut self, index: usize) {
        let (at, message) = self.wire.swap_remove(index);
        if !self.calm && self.dice.chance(8) {
            // Lost. The caller's deadline passes.
            fn lost<T>() -> Result<T, String> {
                Err("no answer".into())
            }
            match message {
                Message::Sync(sync) => self.wire.push((1 - at, Message::SyncReply(sync, lost()))),
                Message::Append(append) => self.wire.push((1 - at, Message::AppendReply(append, lost()))),
                Message::Fetch(_) => self
                    .wire
                    .push((1 - at, Message::FetchReply(Err("no answer".into())))),
                Message::SyncReply(sync, _) => self.wire.push((at, Message::SyncReply(sync, lost()))),
                Message::AppendReply(append, _) => self.wire.push((at, Message::AppendReply(append, lost()))),
                Message::FetchReply(_) => self.wire.push((at, Message::FetchReply(Err("no answer".into())))),
            }
            return;
        }
        if !self.calm && self.dice.chance(8) {
            self.wire.push((at, message.clone()));
        }
        match message {
            Message::Sync(sync) => {
                let request = self.ticket(at, Ticket::Sync(sync));
                self.event(at, Event::SyncIn { request, sync });
            }
            Message::Append(append) => {
                let request = self.ticket(at, Ticket::Append(append.clone()));
                self.event(at, Event::AppendIn { request, append });
            }
            Message::Fetch(fetch) => {
                let answer = Ok(self.nodes[at].keeper.fetch(&fetch));
                self.wire.push((1 - at, Message::FetchReply(answer)));
            }
            Message::SyncReply(sync, answer) => self.event(
                at,
                Event::SyncOut {
                    session: sync.session,
                    epoch: sync.epoch,
                    answer,
                },
            ),
            Message::AppendReply(append, answer) => {
                let last = append.entries.last().map(|entry| entry.index);
                self.event(
                    at,
                    Event::AppendOut {
                        session: append.session,
                        epoch: append.epoch,
                        last,
                        answer,
                    },
                );
            }
            Message::FetchReply(answer) => self.event(at, Event::FetchOut { answer }),
        }
    }

    fn store(&mut self, at: usize) {
        let Some((serial, job)) = self.nodes[at].jobs.pop_front() else {
            return;
        };
        self.write(at, job);
        self.event(at, Event::Stored { serial });
    }

    fn write(&mut self, at: usize, job: Job) {
        let mark = self.nodes[at].keeper.acknowledged;
        let disk = &mut self.nodes[at].disk;
        match job {
            Job::Append(entries) => disk.entries.extend(entries),
            Job::Session { epoch, session } => (disk.session_epoch, disk.session) = (epoch, session),
            Job::Mend { keep, entries, .. } => {
                disk.entries.truncate(keep as usize);
                disk.entries.extend(entries);
            }
        }
        disk.acknowledged = mark.min(disk.entries.len() as u64);
    }

    /// SIGKILL at any point: a transaction is on the disk or is not.
    fn crash(&mut self, at: usize) {
        while self.dice.chance(50) {
            let Some((_, job)) = self.nodes[at].jobs.pop_front() else {
                break;
            };
            self.write(at, job);
        }
        // Its router fails the calls that were pending.
        for ticket in std::mem::take(&mut self.nodes[at].tickets).into_values() {
            match ticket {
                Ticket::Sync(sync) => self
                    .wire
                    .push((1 - at, Message::SyncReply(sync, Err("service gone".into())))),
                Ticket::Append(append) => self
                    .wire
                    .push((1 - at, Message::AppendReply(append, Err("service gone".into())))),
                Ticket::Client(_) | Ticket::Freeze | Ticket::CatchUp => {}
            }
        }
        let node = &mut self.nodes[at];
        node.jobs.clear();
        (node.catching, node.equal) = (false, None);
        node.keeper = Keeper::load(
            node.id,
            Some(Incarnation::new(1)),
            Site::default(),
            node.disk.clone(),
        )
        .unwrap();
        self.tell(at);
    }

    /// One step of the membership of one controller, by the rules of eligibility.
    fn heartbeat(&mut self, at: usize) {
        let me = self.nodes[at].id;
        if self.nodes[at].known != self.highest && self.dice.chance(30) {
            self.nodes[at].known = self.highest.clone();
            self.nodes[at].plan = Plan::Rest;
            return self.tell(at);
        }
        let known = self.nodes[at].known.clone();
        let members: Vec<ControllerId> = known.members.iter().map(|(member, _)| *member).collect();
        match self.nodes[at].plan {
            Plan::Rest if !self.calm && members.len() == 2 && self.dice.chance(6) => self.propose(at, false),
            Plan::Rest if members == [me] && !known.open && self.dice.chance(40) => self.propose(at, false),
            Plan::Rest if members == [me] && self.dice.chance(if self.calm { 60 } else { 20 }) => {
                self.propose(at, true)
            }
            Plan::Rest if members == [me.partner()] && !known.open && !self.calm && self.dice.chance(4) => {
                let keeper = &self.nodes[at].keeper;
                if known.base_length <= keeper.durable
                    && keeper.hash_at(known.base_length) == Some(known.base_hash)
                {
                    self.propose(at, false);
                }
            }
            Plan::Rest => {
                if members == [me.partner()] && !self.nodes[at].catching {
                    self.nodes[at].catching = true;
                    let request = self.ticket(at, Ticket::CatchUp);
                    self.event(at, Event::CatchUp { request });
                }
            }
            Plan::Freezing { .. } => {}
            Plan::Frozen { joining } => self.decide(at, joining, &members),
        }
    }

    fn propose(&mut self, at: usize, joining: bool) {
        self.nodes[at].plan = Plan::Freezing { joining };
        self.tell(at);
    }

    fn decide(&mut self, at: usize, joining: bool, members: &[ControllerId]) {
        let known = self.nodes[at].known.clone();
        let me = self.nodes[at].id;
        let keeper = &self.nodes[at].keeper;
        let epoch = known.epoch.get() + 1;
        let whole = (keeper.durable, keeper.hash_at(keeper.durable).unwrap());
        let next = if joining {
            // K3: only when the joiner's durable log is this log.
            if self.nodes[1 - at].equal != Some(whole) || self.nodes[1 - at].known != known {
                if self.dice.chance(10) {
                    self.nodes[at].plan = Plan::Rest;
                    let unfreeze = Unfreeze {
                        epoch: Epoch::new(epoch),
                    };
                    self.event(at, Event::Unfreeze { request: 0, unfreeze });
                }
                return;
            }
            record(epoch, &[A, B], true, whole.0, whole.1)
        } else if members.len() == 2 {
            let acknowledged = (keeper.acknowledged, keeper.hash_at(keeper.acknowledged).unwrap());
            let base = if keeper.acknowledging() {
                acknowledged
            } else {
                whole
            };
            record(epoch, &[me], false, base.0, base.1)
        } else {
            // OPEN after a seal of its own; the identical, repaired one after a seal of the partner's (K9).
            record(epoch, &[me], members == [me], known.base_length, known.base_hash)
        };
        self.nodes[at].plan = Plan::Rest;
        if self.highest == known {
            for (number, (index, hash)) in &self.acknowledged {
                assert_eq!(
                    self.nodes[at].keeper.hash_at(*index),
                    Some(*hash),
                    "{me} may serve and lacks acknowledged change {number}"
                );
            }
            self.highest = next;
        }
        self.nodes[at].known = self.highest.clone();
        self.nodes[1 - at].equal = None;
        self.tell(at);
    }

    fn step(&mut self) {
        let at = self.dice.below(2);
        match self.dice.below(100) {
            0..40 if !self.wire.is_empty() => {
                let index = self.dice.below(self.wire.len());
                self.deliver(index);
            }
            40..65 => self.store(at),
            65..75 => self.event(at, Event::Tick),
            75..85 => self.heartbeat(at),
            85..98 if !self.calm => self.client(at),
            98..100 if !self.calm => self.crash(at),
            _ => {}
        }
    }

    fn client(&mut self, at: usize) {
        if self.nodes[at].keeper.is_partners_to_decide() {
            return;
        }
        if self.asked.is_empty() || self.dice.chance(70) {
            let number = self.asked.len() as u64 + 1;
            self.asked.push((number, one(host(&format!("h{number}")))));
        }
        let (number, change) = self.asked[self.dice.below(self.asked.len())].clone();
        let request = self.ticket(at, Ticket::Client(number));
        self.event(
            at,
            Event::Change {
                request,
                action: action(number),
                change,
            },
        );
    }

    /// The faults stop: both must come together, with everything that was ever acknowledged or shown.
    fn heal(&mut self) {
        self.calm = true;
        for _ in 0..20_000 {
            let [a, b] = &self.nodes;
            let joined =
                self.highest.members.len() == 2 && a.known == self.highest && b.known == self.highest;
            let whole = |node: &Node| {
                node.keeper.acknowledged == a.keeper.length() && node.keeper.durable == a.keeper.length()
            };
            if joined
                && whole(a)
                && whole(b)
                && a.plan == Plan::Rest
                && b.plan == Plan::Rest
                && a.keeper.locked().is_none()
            {
                break;
            }
            self.step();
        }
        let [a, b] = &self.nodes;
        assert_eq!(a.keeper.locked(), None, "no end: a locked, {:?}", self.highest);
        let ends = [a, b].map(|node| {
            (
                node.keeper.length(),
                node.keeper.durable,
                node.keeper.acknowledged,
                node.keeper.log.last().map(|entry| entry.hash),
            )
        });
        assert_eq!(ends[0], ends[1], "the logs differ");
        assert!(a.keeper.tables() == b.keeper.tables(), "the tables differ");
        for (number, (index, hash)) in &self.acknowledged {
            assert_eq!(
                a.keeper.hash_at(*index),
                Some(*hash),
                "acknowledged change {number} is lost"
            );
        }
        for (index, hash) in &self.shown {
            assert_eq!(
                a.keeper.hash_at(*index),
                Some(*hash),
                "something was shown at {index} that is no history"
            );
        }
        let actions: BTreeSet<ActionId> = a.keeper.log.iter().map(|entry| entry.action_id).collect();
        assert_eq!(
            actions.len() as u64,
            a.keeper.length(),
            "an action was done twice"
        );
    }
}

#[test]
fn any_order_of_faults_loses_nothing_acknowledged_and_ends_in_one_history() {
    let (first, seeds) = match std::env::var("POLLUX_CONFIG_SEED") {
        Ok(seed) => (seed.parse().expect("POLLUX_CONFIG_SEED is a number"), 1),
        Err(_) => (0, 400),
    };
    let (mut acknowledged, mut epochs) = (0, 0);
    for seed in first..first + seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..1_500 {
                world.step();
            }
            world.heal();
            (world.acknowledged.len(), world.highest.epoch.get())
        });
        let (changes, epoch) =
            run.unwrap_or_else(|_| panic!("seed {seed}: run again with POLLUX_CONFIG_SEED={seed}"));
        acknowledged += changes;
        epochs += epoch;
    }
    if seeds > 1 {
        assert!(
            acknowledged as u64 > 5 * seeds && epochs > 3 * seeds,
            "the faults kept it from doing anything: {acknowledged} changes, {epochs} epochs"
        );
    }
}

#[test]
fn long_histories_are_copied_in_pieces_and_what_lost_its_place_is_kept_aside() {
    let grow = |keeper: &mut Keeper, from: u64, to: u64| {
        for n in from..to {
            let effects = keeper.handle(Event::Change {
                request: n,
                action: action(n),
                change: one(host(&format!("h{n}"))),
            });
            settle(keeper, effects);
        }
    };
    let mut survivor = alone();
    grow(&mut survivor, 1, 1_000);
    let common = survivor.entries(0, 100).to_vec();
    let loaded = Loaded {
        entries: common,
        acknowledged: 100,
        ..Loaded::default()
    };
    let mut joiner = Keeper::load(B, Some(Incarnation::new(1)), Site::default(), loaded).unwrap();
    joiner.handle(set(&record(2, &[B], true, 100, survivor.hash_at(100).unwrap())));
    grow(&mut joiner, 5_000, 5_600);
    joiner.handle(set(&record(3, &[A], true, 0, LogHash::default())));
    survivor.handle(Event::Freeze {
        request: 1,
        freeze: Freeze {
            epoch: Epoch::new(4),
            reason: "join".into(),
        },
    });
    let mut queue = VecDeque::from(joiner.handle(Event::CatchUp { request: 77 }));
    let (mut done, mut aside_entries, mut rounds) = (None, 0, 0);
    while let Some(effect) = queue.pop_front() {
        match effect {
            Effect::Store { serial, job } => {
                if let Job::Mend { aside, .. } = job {
                    aside_entries += aside.len();
                    assert!(
                        aside.iter().all(|(_, acknowledged)| *acknowledged),
                        "a lone controller had acknowledged them"
                    );
                }
                queue.extend(joiner.handle(Event::Stored { serial }));
            }
            Effect::Fetch(fetch) => {
                rounds += 1;
                assert!(rounds < 30, "it does not come to an end");
                let answer = Ok(survivor.fetch(&fetch));
                queue.extend(joiner.handle(Event::FetchOut { answer }));
            }
            Effect::Answer { request: 77, answer } => done = Some(answer),
            other => assert!(matches!(other, Effect::Moved), "{other:?}"),
        }
    }
    let Some(Ok(Answer::CaughtUp(done))) = done else {
        panic!("{done:?}")
    };
    assert!(done.equal);
    assert_eq!((done.length, done.hash), (999, survivor.hash_at(999).unwrap()));
    assert_eq!((done.copied, done.set_aside, aside_entries), (899, 600, 600));
    assert_eq!(joiner.tables(), survivor.tables());
    assert_eq!(Hex::<32>::default(), joiner.hash_at(0).unwrap());
}

#[test]
fn a_log_that_may_still_grow_is_never_called_equal() {
    let mut survivor = alone();
    let ask = |survivor: &mut Keeper, n: u64| {
        let effects = survivor.handle(Event::Change {
            request: n,
            action: action(n),
            change: one(host(&format!("h{n}"))),
        });
        settle(survivor, effects);
    };
    ask(&mut survivor, 1);
    let mut joiner = keeper(B);
    let catch_up = |joiner: &mut Keeper, survivor: &Keeper| {
        let mut queue = VecDeque::from(joiner.handle(Event::CatchUp { request: 77 }));
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Store { serial, .. } => queue.extend(joiner.handle(Event::Stored { serial })),
                Effect::Fetch(fetch) => {
                    let answer = Ok(survivor.fetch(&fetch));
                    queue.extend(joiner.handle(Event::FetchOut { answer }));
                }
                Effect::Answer {
                    answer: Ok(Answer::CaughtUp(done)),
                    ..
                } => return done,
                other => assert!(matches!(other, Effect::Moved), "{other:?}"),
            }
        }
        panic!("it was not answered");
    };
    let first = catch_up(&mut joiner, &survivor);
    assert!(
        !first.equal && first.length == 1,
        "K3: the survivor was not frozen: {first:?}"
    );
    ask(&mut survivor, 2);
    let freeze = Freeze {
        epoch: Epoch::new(2),
        reason: "join".into(),
    };
    survivor.handle(Event::Freeze { request: 3, freeze });
    let second = catch_up(&mut joiner, &survivor);
    assert!(
        second.equal && (second.length, second.copied) == (2, 1),
        "{second:?}"
    );
}
