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
        backend: None,
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

/// A partner that hangs costs the time of one call and some ticks; then nothing more is taken, and whoever waits is told.
#[test]
fn a_partner_that_hangs_locks_after_the_stated_time_and_unlocks_when_it_answers() {
    let (mut a, mut b) = pair();
    let change = |a: &mut Keeper, request, number: u64| {
        a.handle(Event::Change {
            request,
            action: action(number),
            change: one(host(&format!("h{number}"))),
        })
    };
    let effects = change(&mut a, 1, 1);
    let append = append_of(&effects);
    settle(&mut a, effects);
    let out = |answer| Event::AppendOut {
        session: append.session,
        epoch: append.epoch,
        last: Some(1),
        answer,
    };
    assert_eq!(a.handle(out(Err("no answer in time".into()))), []);
    for tick in 1..=SILENT_TICKS {
        assert!(a.waits_for_tick() && a.locked().is_none(), "tick {tick}");
        let effects = a.handle(Event::Tick);
        let told = answer_of(&effects, 1).cloned();
        assert_eq!(told, (tick == SILENT_TICKS).then_some(Err(Refusal::InDoubt)));
    }
    let (reason, remedy) = a.locked().unwrap();
    assert!(
        reason.contains("does not answer: no answer in time") && !remedy.is_empty(),
        "{reason}"
    );
    let effects = change(&mut a, 2, 2);
    assert!(matches!(answer_of(&effects, 2), Some(Err(Refusal::Locked(..)))));
    locked_because(&read(&mut a, 3), 3, "does not answer");
    assert_eq!(a.length(), 1, "nothing more is taken");
    // It goes on: what was in doubt is done, once.
    let effects = b.handle(Event::AppendIn {
        request: 5,
        append: append.clone(),
    });
    let effects = settle(&mut b, effects);
    let Some(Ok(Answer::Appended(reply))) = answer_of(&effects, 5).cloned() else {
        panic!("{effects:?}")
    };
    a.handle(out(Ok(reply)));
    assert_eq!((a.locked(), a.acknowledged()), (None, 1));
    let effects = change(&mut a, 4, 1);
    assert!(matches!(answer_of(&effects, 4), Some(Ok(Answer::Changed(_)))));
    // One that answers in between is not silent.
    a.handle(out(Err("no answer in time".into())));
    for _ in 0..3 * SILENT_TICKS {
        a.handle(Event::Tick);
        a.handle(out(Ok(reply)));
        a.handle(out(Err("no answer in time".into())));
    }
    assert_eq!(a.locked(), None);
}

// Readers.

fn witness_of(effects: &[Effect]) -> Option<(u64, Witness)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Witness { round, witness } => Some((*round, witness.clone())),
        _ => None,
    })
}

fn read(keeper: &mut Keeper, request: Request) -> Vec<Effect> {
    keeper.handle(Event::Read { request })
}

fn read_at(effects: &[Effect], ticket: Request) -> Option<u64> {
    match answer_of(effects, ticket) {
        Some(Ok(Answer::ReadAt { index })) => Some(*index),
        _ => None,
    }
}

fn locked_because(effects: &[Effect], ticket: Request, why: &str) {
    match answer_of(effects, ticket) {
        Some(Err(Refusal::Locked(reason, remedy))) if !remedy.is_empty() => {
            assert!(reason.contains(why), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// The follower takes an append without entries; its words.
fn followed(b: &mut Keeper, witness: Witness) -> Result<Proof, String> {
    let Witness::Follower(append) = witness else {
        panic!("{witness:?}")
    };
    assert!(append.entries.is_empty());
    let effects = b.handle(Event::AppendIn { request: 90, append });
    let effects = settle(b, effects);
    match answer_of(&effects, 90) {
        Some(Ok(Answer::Appended(reply))) => Ok(Proof::Followed(*reply)),
        other => Err(format!("{other:?}")),
    }
}

/// One change, acknowledged by both; the follower has not heard so yet.
fn changed_unheard() -> (Keeper, Keeper) {
    let (mut a, mut b) = pair();
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(1),
        change: one(pool("p", 1)),
    });
    let append = append_of(&effects);
    settle(&mut a, effects);
    let effects = b.handle(Event::AppendIn {
        request: 5,
        append: append.clone(),
    });
    let effects = settle(&mut b, effects);
    let Some(Ok(Answer::Appended(reply))) = answer_of(&effects, 5).cloned() else {
        panic!("{effects:?}")
    };
    a.handle(Event::AppendOut {
        session: append.session,
        epoch: append.epoch,
        last: Some(1),
        answer: Ok(reply),
    });
    assert_eq!((a.acknowledged(), b.acknowledged()), (1, 0));
    (a, b)
}

#[test]
fn the_sequencer_answers_readers_when_the_follower_has_answered_a_question_that_was_sent_after_they_came() {
    let (mut a, mut b) = changed_unheard();
    let (round, witness) = witness_of(&read(&mut a, 2)).unwrap();
    let word = followed(&mut b, witness);
    // Another reader comes while it is under way: what is said was asked before it came.
    assert_eq!(witness_of(&read(&mut a, 3)), None);
    let effects = a.handle(Event::Witnessed { round, answer: word });
    assert_eq!((read_at(&effects, 2), read_at(&effects, 3)), (Some(1), None));
    let (second, witness) = witness_of(&effects).unwrap();
    assert!(second > round);
    // The same word again is nobody's.
    let word = followed(&mut b, witness);
    let effects = a.handle(Event::Witnessed {
        round,
        answer: word.clone(),
    });
    assert_eq!(answer_of(&effects, 3), None);
    let effects = a.handle(Event::Witnessed {
        round: second,
        answer: word,
    });
    assert_eq!(read_at(&effects, 3), Some(1));
}

#[test]
fn a_sequencer_that_was_replaced_answers_no_reader() {
    let (mut a, mut b) = pair();
    let (round, witness) = witness_of(&read(&mut a, 2)).unwrap();
    // The follower stands still for a later epoch: from here on it says nothing for this one.
    b.handle(Event::Freeze {
        request: 9,
        freeze: Freeze {
            epoch: Epoch::new(2),
            reason: "silent".into(),
        },
    });
    let word = followed(&mut b, witness);
    assert!(word.is_err(), "{word:?}");
    let effects = a.handle(Event::Witnessed { round, answer: word });
    locked_because(&effects, 2, "does not confirm");
    // A word about another session or epoch is none.
    for (epoch, session) in [(1, 9), (2, 1)] {
        let (round, _) = witness_of(&read(&mut a, 3)).unwrap();
        let reply = AppendReply {
            epoch: Epoch::new(epoch),
            session,
            length: 0,
            hash: LogHash::default(),
        };
        let answer = Ok(Proof::Followed(reply));
        let effects = a.handle(Event::Witnessed { round, answer });
        locked_because(&effects, 3, "another epoch or session");
    }
    // Nor is anybody answered by it who began under another basis.
    let (round, _) = witness_of(&read(&mut a, 4)).unwrap();
    let effects = a.handle(Event::Freeze {
        request: 5,
        freeze: Freeze {
            epoch: Epoch::new(2),
            reason: "silent".into(),
        },
    });
    locked_because(&effects, 4, "being decided");
    let reply = AppendReply {
        epoch: Epoch::new(1),
        session: a.session(),
        length: 0,
        hash: LogHash::default(),
    };
    let answer = Ok(Proof::Followed(reply));
    assert_eq!(a.handle(Event::Witnessed { round, answer }), []);
    locked_because(&read(&mut a, 6), 6, "being decided");
}

#[test]
fn who_is_known_to_be_silent_is_not_waited_for() {
    let (mut a, mut b) = pair();
    for keeper in [&mut a, &mut b] {
        let record = keeper.epoch().unwrap().clone();
        let set = SetEpoch {
            record,
            lock: Some("the partner is silent".into()),
            incarnation: None,
        };
        keeper.handle(Event::SetEpoch { request: 2, set });
        locked_because(&read(keeper, 3), 3, "the partner is silent");
    }
}

#[test]
fn the_follower_answers_readers_with_all_that_the_sequencer_has_acknowledged() {
    let (mut a, mut b) = changed_unheard();
    let (round, witness) = witness_of(&read(&mut b, 2)).unwrap();
    let Witness::Sequencer(ask) = witness else {
        panic!("{witness:?}")
    };
    let effects = a.handle(Event::IndexIn { request: 8, ask });
    assert_eq!(read_at(&effects, 8), Some(1));
    let answer = Ok(Proof::Index(1));
    let effects = b.handle(Event::Witnessed { round, answer });
    assert_eq!(read_at(&effects, 2), Some(1));
    assert_eq!(b.tables(), a.tables());
    // What is not durable here yet is waited for; what ends the following ends the waiting.
    let (round, _) = witness_of(&read(&mut b, 3)).unwrap();
    let answer = Ok(Proof::Index(2));
    let effects = b.handle(Event::Witnessed { round, answer });
    assert_eq!(answer_of(&effects, 3), None);
    let effects = b.handle(set(&record(2, &[A], false, 0, LogHash::default())));
    locked_because(&effects, 3, "no member");
    // Of another epoch, nothing is said.
    let ask = ReadIndex { epoch: Epoch::new(2) };
    let effects = a.handle(Event::IndexIn { request: 9, ask });
    assert!(matches!(answer_of(&effects, 9), Some(Err(Refusal::Stale(_)))));
}

#[test]
fn alone_open_or_sealed_readers_are_answered_under_a_lease_of_this_epoch() {
    for open in [true, false] {
        let mut a = keeper(A);
        a.handle(set(&record(3, &[A], open, 0, LogHash::default())));
        let (round, witness) = witness_of(&read(&mut a, 2)).unwrap();
        assert_eq!(witness, Witness::Lease { epoch: Epoch::new(3) });
        let answer = Ok(Proof::Leased(Epoch::new(4)));
        let effects = a.handle(Event::Witnessed { round, answer });
        locked_because(&effects, 2, "another epoch");
        let (round, _) = witness_of(&read(&mut a, 3)).unwrap();
        let answer = Err("no lease".into());
        let effects = a.handle(Event::Witnessed { round, answer });
        locked_because(&effects, 3, "no lease");
        let (round, _) = witness_of(&read(&mut a, 4)).unwrap();
        let answer = Ok(Proof::Leased(Epoch::new(3)));
        let effects = a.handle(Event::Witnessed { round, answer });
        assert_eq!(read_at(&effects, 4), Some(0));
    }
    let mut a = keeper(A);
    locked_because(&read(&mut a, 5), 5, "heartbeat has not said");
    a.handle(set(&record(3, &[B], true, 0, LogHash::default())));
    locked_because(&read(&mut a, 5), 5, "no member");
}

// A lost database.

/// A pair with `changes` changes, and the record of it.
fn busy_pair(changes: u64) -> (Keeper, Keeper, EpochRecord) {
    let (mut a, mut b) = pair();
    for n in 1..=changes {
        let effects = a.handle(Event::Change {
            request: n,
            action: action(n),
            change: one(host(&format!("h{n}"))),
        });
        let append = append_of(&effects);
        settle(&mut a, effects);
        let effects = b.handle(Event::AppendIn {
            request: 5,
            append: append.clone(),
        });
        let effects = settle(&mut b, effects);
        let Some(Ok(Answer::Appended(reply))) = answer_of(&effects, 5).cloned() else {
            panic!("{effects:?}")
        };
        a.handle(Event::AppendOut {
            session: append.session,
            epoch: append.epoch,
            last: append.entries.last().map(|entry| entry.index),
            answer: Ok(reply),
        });
    }
    assert_eq!(a.acknowledged(), changes);
    let record = a.epoch().unwrap().clone();
    (a, b, record)
}

fn lost(me: ControllerId) -> Keeper {
    let loaded = Loaded {
        lost: true,
        ..Loaded::default()
    };
    Keeper::load(me, Some(Incarnation::new(1)), Site::default(), loaded).unwrap()
}

fn fetch_of(effects: &[Effect]) -> Option<Fetch> {
    effects.iter().find_map(|effect| match effect {
        Effect::Fetch(fetch) => Some(fetch.clone()),
        _ => None,
    })
}

/// The lost one asks until it asks no more; what else it does at last.
fn repair(lost: &mut Keeper, mut effects: Vec<Effect>, whole: &mut Keeper) -> Vec<Effect> {
    let mut rest = vec![];
    while let Some(fetch) = fetch_of(&effects) {
        assert!(fetch.lost && lost.lost());
        whole.handle(Event::PartnerLost);
        let answer = Ok(whole.fetch(&fetch));
        let more = lost.handle(Event::FetchOut { answer });
        effects = settle(lost, more);
        rest.extend(effects.clone());
    }
    rest
}

#[test]
fn a_follower_that_lost_its_log_counts_for_nothing_until_it_has_it_back() {
    let (mut a, _, both) = busy_pair(3);
    let mut b = lost(B);
    let effects = b.handle(set(&both));
    assert!(b.lost() && !b.is_partners_to_decide());
    locked_because(&read(&mut b, 2), 2, "was lost");
    // What the sequencer still counts for it, it does not have.
    let session = a.session();
    let append = Append {
        epoch: both.epoch,
        session,
        entries: vec![],
        acknowledged: 3,
    };
    let refused = b.handle(Event::AppendIn { request: 3, append });
    assert!(matches!(answer_of(&refused, 3), Some(Err(Refusal::Stale(_)))));
    let effects = repair(&mut b, effects, &mut a);
    assert!(!b.lost() && b.is_partners_to_decide(), "{effects:?}");
    assert_eq!(b.entries(0, 9), a.entries(0, 9));
    // The sequencer has begun a session of its own for it, and the one before is over.
    assert_eq!(a.session(), session + 1);
    assert!(
        !a.acknowledging(),
        "nothing counts before the follower has answered"
    );
    let sync = Sync {
        epoch: both.epoch,
        session,
        length: 3,
        entry_epoch: both.epoch,
        hash: a.hash_at(3).unwrap(),
    };
    let effects = b.handle(Event::SyncIn { request: 4, sync });
    assert!(matches!(answer_of(&effects, 4), Some(Err(Refusal::Stale(_)))));
}

#[test]
fn a_sequencer_that_lost_its_log_numbers_nothing_until_it_has_it_back_and_then_in_a_new_session() {
    let (before, mut b, both) = busy_pair(3);
    let mut a = lost(A);
    let effects = a.handle(set(&both));
    let change = Event::Change {
        request: 2,
        action: action(9),
        change: one(host("h9")),
    };
    locked_because(&a.handle(change), 2, "was lost");
    let effects = repair(&mut a, effects, &mut b);
    assert_eq!((a.lost(), a.length()), (false, 3));
    let Some(Effect::Sync(sync)) = effects.iter().find(|effect| matches!(effect, Effect::Sync(_))) else {
        panic!("{effects:?}")
    };
    assert_eq!((sync.session, sync.length), (before.session() + 1, 3));
}

#[test]
fn alone_and_sealed_a_lost_log_is_proved_by_the_hash_and_alone_and_open_by_nothing() {
    let (a, mut b, _) = busy_pair(3);
    for (open, base) in [(false, 2), (true, 2)] {
        let mut again = lost(A);
        let effects = again.handle(set(&record(2, &[A], open, base, a.hash_at(base).unwrap())));
        repair(&mut again, effects, &mut b);
        assert_eq!(again.lost(), open);
        let has = if open { 0 } else { base };
        assert_eq!((again.length(), again.acknowledged()), (has, has));
        if open {
            let (reason, remedy) = again.locked().unwrap();
            assert!(reason.contains("does not hold"), "{reason}");
            assert!(
                remedy.contains("nobody else holds") && remedy.contains("restore"),
                "{remedy}"
            );
        }
    }
    // A partner whose history is another one proves nothing.
    let mut other = alone();
    for n in 5..8 {
        let effects = other.handle(Event::Change {
            request: n,
            action: action(n),
            change: one(host(&format!("h{n}"))),
        });
        settle(&mut other, effects);
    }
    let mut again = lost(A);
    let effects = again.handle(set(&record(2, &[A], false, 2, a.hash_at(2).unwrap())));
    repair(&mut again, effects, &mut other);
    assert!(again.lost() && again.locked().is_some());
}

/// A backup in pieces of one entry; the answer to the last.
fn give_back(keeper: &mut Keeper, entries: &[LogEntry], partner: Option<u64>) -> Result<Answer, Refusal> {
    for (number, entry) in entries.iter().enumerate() {
        let effects = keeper.handle(Event::Restore {
            request: 70,
            restore: Restore {
                compacted: None,
                entries: vec![entry.clone()],
                last: number + 1 == entries.len(),
            },
            partner,
        });
        let effects = settle(keeper, effects);
        let answer = answer_of(&effects, 70).cloned().expect("an answer");
        if number + 1 == entries.len() || answer.is_err() {
            return answer;
        }
    }
    panic!("an empty backup")
}

#[test]
fn a_backup_takes_the_place_of_a_lost_log_where_nobody_else_holds_it_and_it_is_new_enough() {
    let (whole, _, _) = busy_pair(4);
    let entries = whole.entries(0, 4).to_vec();
    let told = |refused: Result<Answer, Refusal>, word: &str| match refused {
        Err(Refusal::Conflict(what, remedy)) => assert!(what.contains(word), "{what}; {remedy}"),
        other => panic!("{word}: {other:?}"),
    };
    // Where nothing is lost there is nothing to restore.
    told(give_back(&mut alone(), &entries, None), "no database is lost");
    // Before any epoch is known nobody can say whether it is new enough.
    told(give_back(&mut lost(A), &entries, None), "no epoch");
    for members in [&[A][..], &[A, B]] {
        let record = record(2, members, true, 3, whole.hash_at(3).unwrap());
        let begun = || {
            let mut keeper = lost(A);
            let effects = keeper.handle(set(&record));
            settle(&mut keeper, effects);
            keeper
        };
        told(
            give_back(&mut begun(), &entries, Some(4)),
            "the partner holds the log",
        );
        let mut older = begun();
        told(give_back(&mut older, &entries[..2], None), "ends with change 2");
        assert!(older.lost() && older.locked().is_some());
        // What is there already is passed over: the newer backup goes on.
        assert_eq!(
            give_back(&mut older, &entries, None),
            Ok(Answer::Restored { length: 4 })
        );
        let mut odd = entries.clone();
        odd[1].hash = odd[0].hash;
        told(give_back(&mut begun(), &odd, None), "does not go on");
        let mut keeper = begun();
        assert_eq!(
            give_back(&mut keeper, &entries, None),
            Ok(Answer::Restored { length: 4 })
        );
        assert!(!keeper.lost());
        assert_eq!((keeper.length(), keeper.hash_at(4)), (4, whole.hash_at(4)));
        assert_eq!(keeper.tables(), whole.tables());
        assert_eq!(
            keeper.acknowledging(),
            members.len() == 1,
            "with a partner a session comes first"
        );
    }
}

/// Alone no session is ever begun: the database is told all the same, or a restart would look for what is not lost.
#[test]
fn the_database_is_told_when_the_log_is_whole_again() {
    let (a, b, _) = busy_pair(3);
    let sealed = record(2, &[A], false, 3, a.hash_at(3).unwrap());
    let mut again = lost(A);
    let fetch = fetch_of(&again.handle(set(&sealed))).unwrap();
    let answer = Ok(b.fetch(&fetch));
    let mut effects = again.handle(Event::FetchOut { answer });
    let mut told = 0;
    while let Some(Effect::Store { serial, job }) = effects.first().cloned() {
        told += usize::from(matches!(job, Job::Session { .. }));
        let more = again.handle(Event::Stored { serial });
        effects = more
            .into_iter()
            .filter(|effect| matches!(effect, Effect::Store { .. }))
            .collect();
    }
    assert_eq!((again.lost(), told), (false, 1));
}

#[test]
fn of_two_that_lost_their_logs_neither_is_history_and_a_joiner_takes_none_from_either() {
    let (_, _, both) = busy_pair(3);
    let (mut a, mut b) = (lost(A), lost(B));
    let effects = a.handle(set(&both));
    b.handle(set(&both));
    let fetch = fetch_of(&effects).unwrap();
    let answer = Ok(b.fetch(&fetch));
    a.handle(Event::FetchOut { answer });
    assert!(a.lost());
    let (reason, remedy) = a.locked().unwrap();
    assert!(
        reason.contains("the partner has lost its database as well"),
        "{reason}"
    );
    assert!(remedy.contains("restore"), "{remedy}");
    // It asks again at the next tick: the partner may have been repaired.
    assert!(a.waits_for_tick() && fetch_of(&a.handle(Event::Tick)).is_some());
    let mut joiner = keeper(A);
    joiner.handle(set(&record(2, &[B], false, 0, LogHash::default())));
    let effects = joiner.handle(Event::CatchUp { request: 7 });
    let answer = Ok(b.fetch(&fetch_of(&effects).unwrap()));
    let effects = joiner.handle(Event::FetchOut { answer });
    assert!(matches!(answer_of(&effects, 7), Some(Err(Refusal::Partner(_)))));
}

#[test]
fn a_log_that_lacks_what_the_record_stands_on_is_lost_as_well() {
    let (mut a, _, _) = busy_pair(3);
    let both = record(2, &[A, B], true, 3, a.hash_at(3).unwrap());
    a.handle(set(&both));
    // Restored from a copy that is older.
    let loaded = Loaded {
        entries: a.entries(0, 2).to_vec(),
        ..Loaded::default()
    };
    let mut b = Keeper::load(B, Some(Incarnation::new(1)), Site::default(), loaded).unwrap();
    assert!(!b.lost());
    let effects = b.handle(set(&both));
    assert!(b.lost());
    repair(&mut b, effects, &mut a);
    assert_eq!((b.lost(), b.length()), (false, 3));
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
    Confirm(u64, Append),
    Index(u64, ReadIndex),
    Lease(u64),
    Proof(u64, Result<Proof, String>),
}

#[derive(Clone, Debug)]
enum Ticket {
    Client(u64),
    /// A reader, and what had been acknowledged when it came.
    Reader(u64),
    Confirm(u64),
    Index(u64),
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
    /// The most that a reader was told of.
    read: u64,
    reads: u64,
    highest: EpochRecord,
    calm: bool,
    /// Entries that the keepers keep.
    keep: u64,
    /// Every entry that was ever in a log.
    chain: BTreeMap<LogHash, LogEntry>,
    /// Entries that were let go, and logs that began with the partner's rows.
    compacted: u64,
    begun: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let both = record(1, &[A, B], true, 0, LogHash::default());
        // In every second world so few that what a controller missed is gone when it comes back.
        let keep = if seed % 2 == 1 { seed / 2 % 6 } else { KEPT };
        let node = |id| Node {
            id,
            keeper: keeper(id).keeping(keep),
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
            read: 0,
            reads: 0,
            highest: both.clone(),
            calm: false,
            keep,
            chain: BTreeMap::new(),
            compacted: 0,
            begun: 0,
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
                Effect::Witness { round, witness } => self.wire.push(match witness {
                    Witness::Follower(append) => (1 - at, Message::Confirm(round, append)),
                    Witness::Sequencer(ask) => (1 - at, Message::Index(round, ask)),
                    Witness::Lease { .. } => (at, Message::Lease(round)),
                }),
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
                    let holds = |node: &&Node| self.holds(&node.disk, changed.index, changed.hash);
                    let first_time = self.highest.epoch == self.nodes[at].known.epoch;
                    if first_time && self.nodes[at].keeper.epoch_at(changed.index) == self.highest.epoch {
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
            Some(Ticket::Reader(floor)) => {
                if let Ok(Answer::ReadAt { index }) = answer {
                    let keeper = &self.nodes[at].keeper;
                    assert!(index <= keeper.acknowledged(), "answered with what is not shown");
                    assert!(
                        index >= floor,
                        "{floor} was acknowledged or read before, {index} is shown"
                    );
                    self.read = self.read.max(index);
                    self.reads += 1;
                }
            }
            Some(Ticket::Confirm(round)) => {
                let answer = answer.map_err(text).map(|answer| {
                    if let Answer::Appended(reply) = answer {
                        Proof::Followed(reply)
                    } else {
                        panic!("{answer:?}")
                    }
                });
                self.wire.push((1 - at, Message::Proof(round, answer)));
            }
            Some(Ticket::Index(round)) => {
                let answer = answer.map_err(text).map(|answer| {
                    if let Answer::ReadAt { index } = answer {
                        Proof::Index(index)
                    } else {
                        panic!("{answer:?}")
                    }
                });
                self.wire.push((1 - at, Message::Proof(round, answer)));
            }
            Some(Ticket::CatchUp) => {
                self.nodes[at].catching = false;
                if let Ok(Answer::CaughtUp(done)) = answer {
                    self.nodes[at].equal = done.equal.then_some((done.length, done.hash));
                }
            }
        }
    }

    /// The history on a disk has this entry, be it kept there or gone.
    fn holds(&self, disk: &Loaded, index: u64, hash: LogHash) -> bool {
        let end = disk
            .entries
            .last()
            .map_or(disk.compacted.facts.hash, |entry| entry.hash);
        self.leads_to(end, index, hash)
    }

    /// The history that ends with this hash has that entry.
    fn leads_to(&self, end: LogHash, index: u64, hash: LogHash) -> bool {
        let mut at = end;
        while let Some(entry) = self.chain.get(&at).filter(|entry| entry.index >= index) {
            if entry.index == index {
                return at == hash;
            }
            at = entry.previous;
        }
        false
    }

    fn check(&mut self, at: usize) {
        let keeper = &self.nodes[at].keeper;
        assert!(keeper.acknowledged <= keeper.durable && keeper.durable <= keeper.length());
        assert_eq!(keeper.diverged, None, "two histories in one epoch");
        self.shown
            .insert((keeper.acknowledged, keeper.hash_at(keeper.acknowledged).unwrap()));
        let [a, b] = &self.nodes;
        for entry in a.keeper.log.iter().chain(&b.keeper.log) {
            self.chain.entry(entry.hash).or_insert_with(|| entry.clone());
        }
        for ours in &a.keeper.log {
            let Some(theirs) = b.keeper.entry(ours.index) else {
                continue;
            };
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
                Message::Confirm(round, _) | Message::Index(round, _) => {
                    self.wire.push((1 - at, Message::Proof(round, lost())));
                }
                Message::Lease(round) | Message::Proof(round, _) => {
                    self.wire.push((at, Message::Proof(round, lost())));
                }
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
            Message::Confirm(round, append) => {
                let request = self.ticket(at, Ticket::Confirm(round));
                self.event(at, Event::AppendIn { request, append });
            }
            Message::Index(round, ask) => {
                let request = self.ticket(at, Ticket::Index(round));
                self.event(at, Event::IndexIn { request, ask });
            }
            // The lease of this world: nobody was replaced who does not know it.
            Message::Lease(round) => {
                let node = &self.nodes[at];
                let answer = if node.known == self.highest {
                    Ok(Proof::Leased(node.known.epoch))
                } else {
                    Err("run out".into())
                };
                self.wire.push((at, Message::Proof(round, answer)));
            }
            Message::Proof(round, answer) => self.event(at, Event::Witnessed { round, answer }),
        }
    }

    fn reader(&mut self, at: usize) {
        let acknowledged = self.acknowledged.values().map(|(index, _)| *index).max();
        let floor = acknowledged.unwrap_or(0).max(self.read);
        let request = self.ticket(at, Ticket::Reader(floor));
        self.event(at, Event::Read { request });
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
                disk.entries
                    .truncate((keep - disk.compacted.facts.length) as usize);
                disk.entries.extend(entries);
            }
            Job::Compact(facts) => {
                let gone = facts.length - disk.compacted.facts.length;
                for entry in disk.entries.drain(..gone as usize) {
                    disk.compacted.take(&entry);
                }
                disk.compacted.facts.base = facts.base;
                assert_eq!(
                    disk.compacted.facts, facts,
                    "what is let go is not what was kept of it"
                );
                self.compacted += gone;
            }
            Job::Begin { with, .. } => {
                disk.entries.clear();
                disk.acknowledged = with.facts.length;
                self.begun += u64::from(with.facts.length > 0);
                disk.compacted = *with;
            }
        }
        let length = disk.compacted.facts.length + disk.entries.len() as u64;
        disk.acknowledged = mark.clamp(disk.compacted.facts.length, length);
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
                Ticket::Confirm(round) | Ticket::Index(round) => self
                    .wire
                    .push((1 - at, Message::Proof(round, Err("service gone".into())))),
                Ticket::Client(_) | Ticket::Reader(_) | Ticket::Freeze | Ticket::CatchUp => {}
            }
        }
        // What it had asked is answered to nobody.
        self.wire
            .retain(|(to, message)| *to != at || !matches!(message, Message::Proof(..) | Message::Lease(_)));
        for (to, message) in &mut self.wire {
            match message {
                Message::Confirm(round, _) | Message::Index(round, _) if *to != at => *round = 0,
                _ => {}
            }
        }
        self.nodes[1 - at]
            .tickets
            .retain(|_, ticket| !matches!(ticket, Ticket::Confirm(_) | Ticket::Index(_)));
        let node = &mut self.nodes[at];
        node.jobs.clear();
        (node.catching, node.equal) = (false, None);
        node.keeper = Keeper::load(
            node.id,
            Some(Incarnation::new(1)),
            Site::default(),
            node.disk.clone(),
        )
        .unwrap()
        .keeping(self.keep);
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
                let keeper = &self.nodes[at].keeper;
                let end = keeper.hash_at(keeper.length()).unwrap();
                assert!(
                    self.leads_to(end, *index, *hash),
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
            85..94 if !self.calm => self.client(at),
            94..98 => self.reader(at),
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
                node.keeper.hash_at(node.keeper.length()),
            )
        });
        assert_eq!(ends[0], ends[1], "the logs differ");
        assert!(a.keeper.tables() == b.keeper.tables(), "the tables differ");
        // The whole history, with what the keepers have let go.
        let mut history = BTreeMap::new();
        let mut at = a.keeper.hash_at(a.keeper.length()).unwrap();
        while let Some(entry) = self.chain.get(&at) {
            history.insert(entry.index, entry.clone());
            at = entry.previous;
        }
        assert_eq!(history.len() as u64, a.keeper.length());
        let hash_at = |index: u64| match index {
            0 => Some(LogHash::default()),
            _ => history.get(&index).map(|entry| entry.hash),
        };
        let mut told = Tables::default();
        history
            .values()
            .flat_map(|entry| &entry.rows)
            .for_each(|row| told.apply(row));
        assert!(a.keeper.tables() == &told, "the tables are not what happened");
        for (number, (index, hash)) in &self.acknowledged {
            assert_eq!(
                hash_at(*index),
                Some(*hash),
                "acknowledged change {number} is lost"
            );
        }
        for (index, hash) in &self.shown {
            assert_eq!(
                hash_at(*index),
                Some(*hash),
                "something was shown at {index} that is no history"
            );
        }
        let actions: BTreeSet<ActionId> = history.values().map(|entry| entry.action_id).collect();
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
    let (mut acknowledged, mut epochs, mut reads) = (0, 0, 0);
    let (mut compacted, mut begun) = (0, 0);
    for seed in first..first + seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..1_500 {
                world.step();
            }
            world.heal();
            let done = (world.acknowledged.len(), world.highest.epoch.get(), world.reads);
            (done, (world.compacted, world.begun))
        });
        let ((changes, epoch, answered), (gone, anew)) =
            run.unwrap_or_else(|_| panic!("seed {seed}: run again with POLLUX_CONFIG_SEED={seed}"));
        acknowledged += changes;
        epochs += epoch;
        reads += answered;
        compacted += gone;
        begun += anew;
    }
    if seeds > 1 {
        assert!(
            acknowledged as u64 > 5 * seeds
                && epochs > 3 * seeds
                && reads > 10 * seeds
                && compacted > 10 * seeds
                && begun > 20,
            "the faults kept it from doing anything: {acknowledged} changes, {epochs} epochs, {reads} readings, \
             {compacted} entries let go, {begun} logs begun from rows"
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
mod compaction;
