//! Logs whose first entries are gone.

use super::*;

fn ask(keeper: &mut Keeper, numbers: impl Iterator<Item = u64>) {
    for n in numbers {
        let effects = keeper.handle(Event::Change {
            request: n,
            action: action(n),
            change: one(host(&format!("h{n}"))),
        });
        let effects = settle(keeper, effects);
        assert!(matches!(answer_of(&effects, n), Some(Ok(_))), "{n}: {effects:?}");
    }
}

/// Everything that a joiner asks is answered by the survivor; what it was told, and what it put aside.
fn catch_up(joiner: &mut Keeper, survivor: &Keeper) -> (Result<Answer, Refusal>, Vec<(LogEntry, bool)>) {
    let mut queue = VecDeque::from(joiner.handle(Event::CatchUp { request: 77 }));
    let (mut kept, mut rounds) = (vec![], 0);
    while let Some(effect) = queue.pop_front() {
        match effect {
            Effect::Store { serial, job } => {
                if let Job::Mend { aside, .. } | Job::Begin { aside, .. } = job {
                    kept.extend(aside);
                }
                queue.extend(joiner.handle(Event::Stored { serial }));
            }
            Effect::Fetch(fetch) => {
                rounds += 1;
                assert!(rounds < 30, "it does not come to an end");
                queue.extend(joiner.handle(Event::FetchOut {
                    answer: Ok(survivor.fetch(&fetch)),
                }));
            }
            Effect::Answer { request: 77, answer } => return (answer, kept),
            other => assert!(matches!(other, Effect::Moved), "{other:?}"),
        }
    }
    panic!("it was not answered")
}

fn freeze(keeper: &mut Keeper, epoch: u64) {
    let freeze = Freeze {
        epoch: Epoch::new(epoch),
        reason: "join".into(),
    };
    keeper.handle(Event::Freeze { request: 9, freeze });
}

#[test]
fn a_lone_controller_keeps_what_came_after_its_base_as_long_as_it_can() {
    let mut a = alone().keeping(4);
    ask(&mut a, 1..=16);
    assert_eq!(
        a.compacted().facts.length,
        0,
        "whoever comes back gets what it missed"
    );
    ask(&mut a, 17..=40);
    assert_eq!(
        (a.compacted().facts.length, a.length()),
        (24, 40),
        "not without a bound"
    );
    assert_eq!(a.tables().hosts.len(), 40);
    assert_eq!(a.entries(0, 40).len(), 16);
    assert_eq!(a.hash_at(23), None);
    assert_eq!(a.hash_at(24), Some(a.compacted().facts.hash));
    // What is gone is no action any more that is known again; what is kept is.
    let effects = a.handle(Event::Change {
        request: 1,
        action: action(30),
        change: one(host("h30")),
    });
    assert!(matches!(
        answer_of(&effects, 1),
        Some(Ok(Answer::Changed(Changed { index: 30, .. })))
    ));
    let effects = a.handle(Event::Change {
        request: 2,
        action: action(3),
        change: one(host("h3")),
    });
    assert!(matches!(answer_of(&effects, 2), Some(Err(Refusal::Invalid(_)))));
}

#[test]
fn whoever_comes_back_to_entries_that_are_gone_begins_with_what_they_amount_to() {
    let mut survivor = alone().keeping(4);
    ask(&mut survivor, 1..=30);
    let early = survivor.compacted().clone();
    assert!(early.facts.length > 0);
    ask(&mut survivor, 31..=40);
    freeze(&mut survivor, 4);
    // With nothing, with what is not that history at all, with a beginning that is older.
    for (number, loaded) in [
        Loaded::default(),
        {
            let mut other = alone();
            ask(&mut other, 901..=905);
            Loaded {
                entries: other.entries(0, 5),
                acknowledged: 5,
                ..Loaded::default()
            }
        },
        Loaded {
            acknowledged: early.facts.length,
            compacted: early,
            ..Loaded::default()
        },
    ]
    .into_iter()
    .enumerate()
    {
        let had = loaded.entries.clone();
        let mut joiner = Keeper::load(B, Some(Incarnation::new(1)), Site::default(), loaded).unwrap();
        joiner.handle(set(&record(3, &[A], true, 0, LogHash::default())));
        let (answer, aside) = catch_up(&mut joiner, &survivor);
        let Ok(Answer::CaughtUp(done)) = answer else {
            panic!("{number}: {answer:?}")
        };
        assert!(done.equal, "{number}");
        assert_eq!(
            (done.length, done.hash),
            (40, survivor.hash_at(40).unwrap()),
            "{number}"
        );
        assert_eq!(joiner.tables(), survivor.tables(), "{number}");
        assert_eq!(joiner.compacted(), survivor.compacted(), "{number}");
        assert_eq!(joiner.acknowledged(), 40, "{number}");
        let kept: Vec<LogEntry> = aside.iter().map(|(entry, _)| entry.clone()).collect();
        assert_eq!(kept, had, "{number}: what it had is kept aside");
        assert!(aside.iter().all(|(_, acknowledged)| *acknowledged), "{number}");
        assert_eq!(done.set_aside, had.len() as u64, "{number}");
    }
}

#[test]
fn whoever_is_ahead_of_a_shorter_beginning_loses_nothing_of_what_is_common() {
    // It has let go more than the survivor, and holds all that the survivor holds but the last.
    let mut survivor = alone().keeping(10);
    let mut joiner = alone().keeping(2);
    for keeper in [&mut survivor, &mut joiner] {
        ask(keeper, 1..=60);
    }
    assert!(joiner.compacted().facts.length > survivor.compacted().facts.length);
    ask(&mut survivor, 61..=63);
    freeze(&mut survivor, 4);
    joiner.handle(set(&record(3, &[ControllerId::B], true, 0, LogHash::default())));
    let (answer, aside) = catch_up(&mut joiner, &survivor);
    let Ok(Answer::CaughtUp(done)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((done.length, done.copied, done.equal), (63, 3, true));
    assert_eq!(aside, vec![]);
}

#[test]
fn a_log_of_which_nothing_is_known_to_the_survivor_begins_anew() {
    // Its partner was made to go on without it, from the very beginning; it was alone and let entries go.
    let mut joiner = alone().keeping(2);
    ask(&mut joiner, 101..=130);
    let had = joiner.entries(0, 130);
    assert_eq!(had.len(), 8);
    let mut survivor = alone();
    ask(&mut survivor, 1..=5);
    freeze(&mut survivor, 4);
    joiner.handle(set(&record(3, &[ControllerId::B], true, 0, LogHash::default())));
    let (answer, aside) = catch_up(&mut joiner, &survivor);
    // Entry 5 of one epoch, alone on both sides, can only be the one or the other; it is not kept any more here.
    let Ok(Answer::CaughtUp(done)) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((done.length, done.equal, done.set_aside), (5, true, 8));
    assert_eq!(aside.into_iter().map(|(entry, _)| entry).collect::<Vec<_>>(), had);
    assert_eq!(joiner.tables(), survivor.tables());
    assert_eq!(joiner.compacted(), &Compacted::default());
}

#[test]
fn rows_that_do_not_add_up_are_refused_and_nothing_is_changed() {
    let mut survivor = alone().keeping(1);
    ask(&mut survivor, 1..=20);
    let mut joiner = keeper(B);
    joiner.handle(set(&record(3, &[A], true, 0, LogHash::default())));
    let effects = joiner.handle(Event::CatchUp { request: 77 });
    let [Effect::Fetch(fetch)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let mut answer = survivor.fetch(fetch);
    answer.compacted.as_mut().unwrap().rows.pop();
    let effects = joiner.handle(Event::FetchOut { answer: Ok(answer) });
    match answer_of(&effects, 77) {
        Some(Err(Refusal::Partner(what))) => assert!(what.contains("not what was written"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert_eq!((joiner.length(), joiner.durable()), (0, 0));
}

#[test]
fn a_lost_log_is_got_back_from_a_partner_that_keeps_only_its_end() {
    let mut a = alone().keeping(2);
    ask(&mut a, 1..=30);
    let base = (30, a.hash_at(30).unwrap());
    let mut b = lost(B);
    // Both are members: the partner's word is enough.
    let mut queue = VecDeque::from(b.handle(set(&record(4, &[A, B], true, base.0, base.1))));
    let mut shown = vec![];
    while let Some(effect) = queue.pop_front() {
        match effect {
            Effect::Store { serial, job } => {
                if matches!(job, Job::Begin { .. } | Job::Mend { .. }) {
                    assert!(b.lost(), "it is not whole before that is durable");
                }
                if matches!(job, Job::Begin { .. }) {
                    assert_eq!(b.durable(), 0, "nothing of it is durable yet");
                }
                queue.extend(b.handle(Event::Stored { serial }));
            }
            Effect::Fetch(fetch) => queue.extend(b.handle(Event::FetchOut {
                answer: Ok(a.fetch(&fetch)),
            })),
            Effect::Moved => shown.push((b.acknowledged(), b.tables().hosts.len() as u64)),
            Effect::Answer { .. } => {}
            other => panic!("{other:?}"),
        }
        if b.is_beginning() {
            shown.push((0, b.tables().hosts.len() as u64));
        }
    }
    assert!(!b.lost());
    assert_eq!((b.length(), b.tables()), (30, a.tables()));
    for (acknowledged, hosts) in shown {
        assert_eq!(acknowledged, hosts, "what is shown is what is said to be shown");
    }
    // Alone and sealed, what is needed ends before what the partner keeps begins: its rows prove nothing.
    let early = (5, alone_hash(5));
    let mut b = lost(B);
    let effects = b.handle(set(&record(4, &[B], false, early.0, early.1)));
    let fetch = effects.iter().find_map(|effect| match effect {
        Effect::Fetch(fetch) => Some(fetch.clone()),
        _ => None,
    });
    b.handle(Event::FetchOut {
        answer: Ok(a.fetch(&fetch.unwrap())),
    });
    assert!(b.lost() && b.length() == 0);
    let why = b.unrepaired.as_deref().unwrap_or_default();
    assert!(why.contains("does not keep its first"), "{why}");
}

fn alone_hash(length: u64) -> LogHash {
    let mut keeper = alone();
    ask(&mut keeper, 1..=length);
    keeper.hash_at(length).unwrap()
}

#[test]
fn members_keep_the_base_of_their_epoch_in_mind() {
    let mut a = alone().keeping(1);
    ask(&mut a, 1..=3);
    let effects = a.handle(set(&record(5, &[A], true, 2, a.hash_at(2).unwrap())));
    settle(&mut a, effects);
    ask(&mut a, 4..=30);
    assert!(a.compacted().facts.length > 2);
    assert_eq!(a.hash_at(2), Some(alone_hash(2)));
    assert_eq!(a.compacted().facts.base, Some((2, alone_hash(2))));
    // Loaded again it still knows.
    let again = Loaded {
        compacted: a.compacted().clone(),
        entries: a.entries(0, 30),
        acknowledged: 0,
        ..Loaded::default()
    };
    let mut again = Keeper::load(A, Some(Incarnation::new(1)), Site::default(), again).unwrap();
    again.handle(set(&record(5, &[A], true, 2, alone_hash(2))));
    assert_eq!(again.locked(), None);
    assert_eq!(again.acknowledged(), 30);
    assert_eq!(again.tables(), a.tables());
}

#[test]
fn a_backup_may_begin_with_rows() {
    let mut a = alone().keeping(1);
    ask(&mut a, 1..=20);
    let mut keeper = lost(B);
    keeper.handle(set(&record(4, &[A, B], true, 20, a.hash_at(20).unwrap())));
    let mut bring = |compacted, entries, last| {
        let effects = keeper.handle(Event::Restore {
            request: 70,
            restore: Restore {
                compacted,
                entries,
                last,
            },
            partner: None,
        });
        let effects = settle(&mut keeper, effects);
        answer_of(&effects, 70).cloned().expect("an answer")
    };
    let whole = a.compacted().part(None, 1 << 20);
    let mut less = whole.clone();
    less.rows.pop();
    assert!(
        matches!(bring(Some(less), vec![], false), Err(Refusal::Conflict(what, _)) if what.contains("not whole"))
    );
    let gone = whole.of.length;
    let first = CompactedPart {
        rows: whole.rows[..3].to_vec(),
        more: true,
        ..whole.clone()
    };
    let rest = CompactedPart {
        after: Some(first.rows[2].key()),
        rows: whole.rows[3..].to_vec(),
        ..whole.clone()
    };
    assert_eq!(
        bring(Some(first), vec![], false),
        Ok(Answer::Restored { length: 0 })
    );
    assert_eq!(
        bring(Some(rest), vec![], false),
        Ok(Answer::Restored { length: gone })
    );
    // A second time they are here already.
    assert_eq!(
        bring(Some(whole), vec![], false),
        Ok(Answer::Restored { length: gone })
    );
    let entries = a.entries(0, 20);
    assert_eq!(bring(None, entries, true), Ok(Answer::Restored { length: 20 }));
    assert!(!keeper.lost());
    assert_eq!(keeper.tables(), a.tables());
}

#[test]
fn an_old_message_with_entries_that_are_gone_is_answered_like_any_other() {
    let mut a = alone();
    ask(&mut a, 1..=6);
    let mut b = keeper(B).keeping(0);
    let both = record(1, &[A, B], true, 0, LogHash::default());
    let effects = b.handle(set(&both));
    settle(&mut b, effects);
    let sync = Sync {
        epoch: Epoch::new(1),
        session: 1,
        length: 0,
        entry_epoch: Epoch::default(),
        hash: LogHash::default(),
    };
    let effects = b.handle(Event::SyncIn { request: 1, sync });
    settle(&mut b, effects);
    let message = |entries: Vec<LogEntry>, acknowledged| Append {
        epoch: Epoch::new(1),
        session: 1,
        entries,
        acknowledged,
    };
    let mut send = |request, append: Append| {
        let effects = b.handle(Event::AppendIn { request, append });
        let effects = settle(&mut b, effects);
        match answer_of(&effects, request) {
            Some(Ok(Answer::Appended(reply))) => (reply.length, b.compacted().facts.length),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(send(2, message(a.entries(0, 4), 0)), (4, 0));
    assert_eq!(send(3, message(a.entries(4, 6), 4)), (6, 4));
    // The first one once more, and one that is half known.
    assert_eq!(send(4, message(a.entries(0, 4), 0)), (6, 4));
    assert_eq!(send(5, message(a.entries(1, 6), 6)), (6, 6));
}

#[test]
fn a_beginning_that_contradicts_an_entry_of_the_same_epoch_stops_it() {
    let mut survivor = alone().keeping(1);
    ask(&mut survivor, 1..=20);
    let gone = survivor.compacted().facts.length;
    let mut other = alone();
    ask(&mut other, 501..=500 + gone);
    let mut joiner = Keeper::load(
        B,
        Some(Incarnation::new(1)),
        Site::default(),
        Loaded {
            entries: other.entries(0, gone),
            acknowledged: gone,
            ..Loaded::default()
        },
    )
    .unwrap();
    joiner.handle(set(&record(3, &[A], true, 0, LogHash::default())));
    let (answer, aside) = catch_up(&mut joiner, &survivor);
    assert!(
        matches!(answer, Err(Refusal::Diverged(ref diverged)) if diverged.index == gone),
        "{answer:?}"
    );
    assert_eq!((aside, joiner.length()), (vec![], gone));
    assert!(joiner.diverged().is_some());
}

#[test]
fn nothing_is_let_go_while_an_epoch_is_decided() {
    let mut a = alone();
    ask(&mut a, 1..=20);
    let mut a = a.keeping(1);
    let gone = |keeper: &mut Keeper, event: Event| {
        let effects = keeper.handle(event);
        settle(keeper, effects);
        keeper.compacted().facts.length
    };
    let freeze = Freeze {
        epoch: Epoch::new(4),
        reason: "join".into(),
    };
    // What heartbeat was told of the log stays as it is until that is over.
    let mut frozen = a.clone();
    frozen.frozen = Some((Epoch::new(4), "join".into()));
    assert_eq!(gone(&mut frozen, Event::Freeze { request: 1, freeze }), 0);
    assert_eq!(gone(&mut frozen, Event::Tick), 0);
    let unfreeze = Unfreeze { epoch: Epoch::new(4) };
    assert!(gone(&mut frozen, Event::Unfreeze { request: 2, unfreeze }) > 0);
    assert!(gone(&mut a, Event::Tick) > 0, "there was something to let go");
}
