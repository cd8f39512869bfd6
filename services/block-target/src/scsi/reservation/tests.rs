//! The rules, against a model that was written from the tables of SPC-4 alone, in every state that three nexuses can
//! bring about; and the bytes.

use super::access::{Access, access_of};
use super::*;
use proptest::prelude::*;
use std::collections::{HashSet, VecDeque};

fn nexus(number: usize) -> Nexus {
    // The first two are one initiator port at both target ports.
    let (name, isid, port) = [("iqn.x:a", 1, 1), ("iqn.x:a", 1, 2), ("iqn.x:b", 2, 1)][number];
    Nexus {
        initiator: name.to_owned(),
        isid: [isid; 6],
        port,
    }
}

/// Rows as the standard has them, written without a look at the code: registrations as an array of keys (0: none), the
/// reservation as a type and the number of its holder (9: all registrants).
mod model {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct M {
        pub(super) keys: [u64; 3],
        pub(super) kind: u8,
        pub(super) holder: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Answer {
        Good,
        Conflict,
        Illegal(u16),
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(super) struct Result {
        pub(super) answer: Answer,
        pub(super) after: M,
        pub(super) counted: bool,
        /// Code of the unit attention of each nexus.
        pub(super) told: [u16; 3],
        pub(super) aborted: [bool; 3],
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) enum C {
        Register {
            rk: u64,
            sark: u64,
            spec: bool,
            all: bool,
        },
        Ignore {
            sark: u64,
            all: bool,
        },
        Reserve {
            rk: u64,
            kind: u8,
        },
        Release {
            rk: u64,
            kind: u8,
        },
        Clear {
            rk: u64,
        },
        Preempt {
            rk: u64,
            sark: u64,
            kind: u8,
            abort: bool,
        },
        Move {
            rk: u64,
            sark: u64,
            to: usize,
            unreg: bool,
        },
    }

    const RELEASED: u16 = 0x2a04;
    const PREEMPTED: u16 = 0x2a03;
    const STRUCK: u16 = 0x2a05;

    impl M {
        fn holds(&self, who: usize) -> bool {
            self.kind != 0 && (self.holder == who || self.holder == 9 && self.keys[who] != 0)
        }
    }

    /// What the command of nexus `me` does. Nexuses 0 and 1 are the same initiator port.
    pub(super) fn apply(m: M, me: usize, c: C) -> Result {
        let mut r = Result {
            answer: Answer::Good,
            after: m,
            counted: false,
            told: [0; 3],
            aborted: [false; 3],
        };
        let mine = m.keys[me];
        let refuse = |answer| Result {
            answer,
            after: m,
            counted: false,
            told: [0; 3],
            aborted: [false; 3],
        };
        match c {
            // Table "Register behaviors for a REGISTER service action".
            C::Register { rk, sark, spec, all } => match (mine != 0, rk, sark, spec) {
                (false, 0, 0, _) => {}
                (false, 0, _, _) => registered(&mut r, me, sark, spec, all),
                (false, ..) => return refuse(Answer::Conflict),
                (true, rk, ..) if rk != mine => return refuse(Answer::Conflict),
                (true, _, _, true) => return refuse(Answer::Illegal(0x2600)),
                (true, _, _, false) => registered(&mut r, me, sark, false, all),
            },
            // Table "... for a REGISTER AND IGNORE EXISTING KEY service action".
            C::Ignore { sark, all } => {
                if mine != 0 || sark != 0 {
                    registered(&mut r, me, sark, false, all);
                }
            }
            C::Reserve { rk, kind } => {
                if mine == 0 || rk != mine {
                    return refuse(Answer::Conflict);
                }
                if m.kind == 0 {
                    r.after.kind = kind;
                    r.after.holder = if kind >= 7 { 9 } else { me };
                } else if !(m.holds(me) && m.kind == kind) {
                    return refuse(Answer::Conflict);
                }
            }
            C::Release { rk, kind } => {
                if mine == 0 || rk != mine {
                    return refuse(Answer::Conflict);
                }
                if m.holds(me) {
                    if m.kind != kind {
                        return refuse(Answer::Illegal(0x2604));
                    }
                    r.after.kind = 0;
                    r.after.holder = 0;
                    // "... registrants only or all registrants": everybody else who is registered.
                    if [5, 6, 7, 8].contains(&kind) {
                        for other in 0..3 {
                            if other != me && m.keys[other] != 0 {
                                r.told[other] = RELEASED;
                            }
                        }
                    }
                }
            }
            C::Clear { rk } => {
                if mine == 0 || rk != mine {
                    return refuse(Answer::Conflict);
                }
                r.after = M {
                    keys: [0; 3],
                    kind: 0,
                    holder: 0,
                };
                r.counted = true;
                for other in 0..3 {
                    if other != me && m.keys[other] != 0 {
                        r.told[other] = PREEMPTED;
                    }
                }
            }
            C::Preempt {
                rk,
                sark,
                kind,
                abort,
            } => {
                if mine == 0 || rk != mine {
                    return refuse(Answer::Conflict);
                }
                return preempt(m, me, sark, kind, abort);
            }
            C::Move { rk, sark, to, unreg } => {
                if m.kind == 0 || m.holder != me || mine != rk {
                    return refuse(Answer::Conflict);
                }
                if sark == 0 || to == me {
                    return refuse(Answer::Illegal(0x2600));
                }
                r.after.keys[to] = sark;
                r.after.holder = to;
                if unreg {
                    r.after.keys[me] = 0;
                }
                r.counted = true;
            }
        }
        r
    }

    fn registered(r: &mut Result, me: usize, sark: u64, spec: bool, all: bool) {
        r.counted = true;
        let port_mates: &[usize] = match (me, all) {
            (0 | 1, true) => &[0, 1],
            // The other port of `b` is no nexus of this model.
            _ => std::slice::from_ref(&me),
        };
        for &who in port_mates {
            let was = r.after.keys[who];
            r.after.keys[who] = sark;
            if sark != 0 || was == 0 {
                continue;
            }
            let left = (0..3)
                .filter(|other| r.after.keys[*other] != 0)
                .collect::<Vec<_>>();
            let ends = r.after.kind != 0 && (r.after.holder == who || left.is_empty());
            if ends {
                if r.after.kind >= 5 {
                    left.iter()
                        .filter(|other| **other != me)
                        .for_each(|other| r.told[*other] = RELEASED);
                }
                r.after.kind = 0;
                r.after.holder = 0;
            }
        }
        // The list of further initiator ports names `b`, at the port where the command came in.
        if spec && me == 0 && r.after.keys[2] == 0 {
            r.after.keys[2] = sark;
        }
    }

    /// Table "Preempting behaviors".
    fn preempt(m: M, me: usize, sark: u64, kind: u8, abort: bool) -> Result {
        let mut r = Result {
            answer: Answer::Good,
            after: m,
            counted: false,
            told: [0; 3],
            aborted: [false; 3],
        };
        let illegal = |code| Result {
            answer: Answer::Illegal(code),
            after: m,
            counted: false,
            told: [0; 3],
            aborted: [false; 3],
        };
        let all_registrants = m.kind >= 7;
        let takes = match (m.kind, all_registrants, sark) {
            (0, _, 0) | (_, false, 0) => return illegal(0x2600),
            (0, ..) => false,
            (_, true, 0) => true,
            (_, true, _) => false,
            (_, false, _) => m.keys[m.holder] == sark,
        };
        let mut any = false;
        for who in 0..3 {
            let hit = m.keys[who] != 0 && (sark == 0 || m.keys[who] == sark);
            if !hit || takes && who == me {
                continue;
            }
            any = true;
            r.after.keys[who] = 0;
            if who != me {
                r.told[who] = STRUCK;
                r.aborted[who] = abort;
            }
        }
        if !takes && !any {
            return Result {
                answer: Answer::Conflict,
                ..illegal(0)
            };
        }
        r.counted = true;
        if takes {
            if kind == 0 {
                return illegal(0x2400);
            }
            r.after.kind = kind;
            r.after.holder = if kind >= 7 { 9 } else { me };
            if kind != m.kind {
                for who in 0..3 {
                    if who != me && r.after.keys[who] != 0 {
                        r.told[who] = RELEASED;
                    }
                }
            }
        } else if r.after.keys == [0; 3] {
            r.after.kind = 0;
            r.after.holder = 0;
        }
        r
    }
}

use model::{Answer, C, M};

fn of_model(m: M) -> State {
    let kind = Kind::from_code(m.kind);
    State {
        registrations: (0..3)
            .filter(|who| m.keys[*who] != 0)
            .map(|who| (nexus(who), m.keys[who]))
            .collect(),
        held: kind.map(|kind| Held {
            kind,
            holder: (m.holder != 9).then(|| nexus(m.holder)),
        }),
        ..State::default()
    }
}

fn command(c: C) -> Out {
    let kind = |code| Kind::from_code(code).expect("a type");
    match c {
        C::Register { rk, sark, spec, all } => Out::Register {
            key: rk,
            new: sark,
            others: if spec { vec![nexus(2)] } else { vec![] },
            all_ports: all,
            aptpl: false,
        },
        C::Ignore { sark, all } => Out::RegisterAndIgnore {
            new: sark,
            all_ports: all,
            aptpl: false,
        },
        C::Reserve { rk, kind: code } => Out::Reserve {
            key: rk,
            kind: kind(code),
        },
        C::Release { rk, kind: code } => Out::Release {
            key: rk,
            kind: kind(code),
        },
        C::Clear { rk } => Out::Clear { key: rk },
        C::Preempt {
            rk,
            sark,
            kind,
            abort,
        } => Out::Preempt {
            key: rk,
            victim: sark,
            kind: Kind::from_code(kind),
            abort,
        },
        C::Move { rk, sark, to, unreg } => Out::RegisterAndMove {
            key: rk,
            new: sark,
            to: nexus(to),
            unregister: unreg,
            aptpl: false,
        },
    }
}

/// Every command with keys 0 to 2, for nexus `me`.
fn commands(me: usize) -> Vec<C> {
    let mut all = Vec::new();
    // `b` has no nexus at the other port here.
    let alls: &[bool] = if me < 2 { &[false, true] } else { &[false] };
    for rk in 0..3 {
        for sark in 0..3 {
            for &every in alls {
                all.push(C::Register {
                    rk,
                    sark,
                    spec: false,
                    all: every,
                });
                if rk == 0 {
                    all.push(C::Ignore { sark, all: every });
                }
            }
            if me == 0 {
                all.push(C::Register {
                    rk,
                    sark,
                    spec: true,
                    all: false,
                });
            }
            for to in 0..3 {
                for unreg in [false, true] {
                    all.push(C::Move { rk, sark, to, unreg });
                }
            }
            for kind in [0, 1, 3, 5, 6, 7, 8] {
                for abort in [false, true] {
                    all.push(C::Preempt {
                        rk,
                        sark,
                        kind,
                        abort,
                    });
                }
            }
        }
        for kind in [1, 3, 5, 6, 7, 8] {
            all.push(C::Reserve { rk, kind });
            all.push(C::Release { rk, kind });
        }
        all.push(C::Clear { rk });
    }
    all
}

fn sound(state: &State) {
    for key in state.registrations.values() {
        assert_ne!(*key, 0);
    }
    if let Some(held) = &state.held {
        assert!(!state.registrations.is_empty(), "{state:?}");
        assert_eq!(held.kind.all_registrants(), held.holder.is_none(), "{state:?}");
        if let Some(holder) = &held.holder {
            assert!(state.registrations.contains_key(holder), "{state:?}");
        }
    }
}

#[test]
fn every_command_in_every_state_is_what_the_standard_says() {
    let begin = M {
        keys: [0; 3],
        kind: 0,
        holder: 0,
    };
    let mut seen = HashSet::from([of_model(begin)]);
    let mut queue = VecDeque::from([begin]);
    let mut steps = 0_u64;
    while let Some(m) = queue.pop_front() {
        let state = of_model(m);
        for me in 0..3 {
            for c in commands(me) {
                steps += 1;
                let expected = model::apply(m, me, c);
                let found = state.decide(&nexus(me), &command(c), [7; 16]);
                let context = format!("nexus {me}, {c:?} in {m:?}");
                let change = match found {
                    Err(Refusal::Conflict) => {
                        assert_eq!(expected.answer, Answer::Conflict, "{context}");
                        continue;
                    }
                    Err(Refusal::Sense(sense)) => {
                        assert_eq!(expected.answer, Answer::Illegal(sense.code()), "{context}");
                        continue;
                    }
                    Ok(change) => change,
                };
                assert_eq!(expected.answer, Answer::Good, "{context}");
                let after = of_model(expected.after);
                assert_eq!(change.state.registrations, after.registrations, "{context}");
                assert_eq!(change.state.held, after.held, "{context}");
                assert_eq!(change.state.generation, u32::from(expected.counted), "{context}");
                let mut told = [0; 3];
                for (who, sense) in &change.attentions {
                    let at = (0..3)
                        .find(|at| nexus(*at) == *who)
                        .expect("a nexus of the model");
                    assert_eq!(told[at], 0, "{context}: told once");
                    told[at] = sense.code();
                }
                assert_eq!(told, expected.told, "{context}");
                let aborted = [0, 1, 2].map(|at| change.aborts.contains(&nexus(at)));
                assert_eq!(aborted, expected.aborted, "{context}");
                sound(&change.state);
                let changed = change.state != state;
                assert_eq!(change.state.has_done(&[7; 16]), changed, "{context}");
                let again = change.state.decide(&nexus(me), &command(c), [7; 16]);
                if changed {
                    let again = again.expect("done once, and answered alike");
                    assert_eq!(again.state, change.state, "{context}");
                    assert!(
                        again.attentions.is_empty() && again.aborts.is_empty(),
                        "{context}"
                    );
                }
                if seen.insert(of_model(expected.after)) {
                    queue.push_back(expected.after);
                }
            }
        }
    }
    // 27 sets of keys; with each, none, 4 types per registered nexus, and 2 more if anybody is registered.
    assert_eq!(
        seen.len(),
        27 + 4 * (3 * 2 * 9) + 2 * 26,
        "every state was reached"
    );
    assert!(steps > 100_000, "{steps}");
}

/// The tables of SPC-4 5.13.1 and SBC-3 4.17, row by row. Columns: write exclusive and exclusive access held by another
/// nexus; any registrants type, seen by a registered nexus; by one that is not, write exclusive and exclusive access.
const TABLE: &[(&str, [u8; 2], &str)] = &[
    ("INQUIRY", [0x12, 0], "AAAAA"),
    ("MODE SENSE(6)", [0x1a, 0], "ACAAC"),
    ("MODE SENSE(10)", [0x5a, 0], "ACAAC"),
    ("REPORT LUNS", [0xa0, 0], "AAAAA"),
    ("REPORT SUPPORTED OPERATION CODES", [0xa3, 0x0c], "AAAAA"),
    ("REPORT TARGET PORT GROUPS", [0xa3, 0x0a], "AAAAA"),
    ("REQUEST SENSE", [0x03, 0], "AAAAA"),
    ("SET TARGET PORT GROUPS", [0xa4, 0x0a], "CCACC"),
    ("TEST UNIT READY", [0x00, 0], "AAAAA"),
    ("COMPARE AND WRITE", [0x89, 0], "CCACC"),
    ("GET LBA STATUS", [0x9e, 0x12], "ACAAC"),
    ("ORWRITE(16)", [0x8b, 0], "CCACC"),
    ("PRE-FETCH(10)", [0x34, 0], "ACAAC"),
    ("PRE-FETCH(16)", [0x90, 0], "ACAAC"),
    ("READ(6)", [0x08, 0], "ACAAC"),
    ("READ(10)", [0x28, 0], "ACAAC"),
    ("READ(12)", [0xa8, 0], "ACAAC"),
    ("READ(16)", [0x88, 0], "ACAAC"),
    ("READ CAPACITY(10)", [0x25, 0], "AAAAA"),
    ("READ CAPACITY(16)", [0x9e, 0x10], "AAAAA"),
    ("SYNCHRONIZE CACHE(10)", [0x35, 0], "CCACC"),
    ("SYNCHRONIZE CACHE(16)", [0x91, 0], "CCACC"),
    ("UNMAP", [0x42, 0], "CCACC"),
    ("VERIFY(10)", [0x2f, 0], "ACAAC"),
    ("VERIFY(12)", [0xaf, 0], "ACAAC"),
    ("VERIFY(16)", [0x8f, 0], "ACAAC"),
    ("WRITE(6)", [0x0a, 0], "CCACC"),
    ("WRITE(10)", [0x2a, 0], "CCACC"),
    ("WRITE(12)", [0xaa, 0], "CCACC"),
    ("WRITE(16)", [0x8a, 0], "CCACC"),
    ("WRITE AND VERIFY(10)", [0x2e, 0], "CCACC"),
    ("WRITE AND VERIFY(12)", [0xae, 0], "CCACC"),
    ("WRITE AND VERIFY(16)", [0x8e, 0], "CCACC"),
    ("WRITE SAME(10)", [0x41, 0], "CCACC"),
    ("WRITE SAME(16)", [0x93, 0], "CCACC"),
];

#[test]
fn each_command_conflicts_where_the_tables_say() {
    let held = |kind: u8, registered: bool| {
        of_model(M {
            keys: [1, 0, u64::from(registered)],
            kind,
            holder: if kind >= 7 { 9 } else { 0 },
        })
    };
    let mut columns: Vec<(usize, State)> = Vec::new();
    for registered in [false, true] {
        columns.push((0, held(1, registered)));
        columns.push((1, held(3, registered)));
    }
    for kind in [5, 6, 7, 8] {
        columns.push((2, held(kind, true)));
        columns.push((if matches!(kind, 5 | 7) { 3 } else { 4 }, held(kind, false)));
    }
    for (name, bytes, row) in TABLE {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(bytes);
        let access = access_of(&cdb);
        for (column, state) in &columns {
            let conflict = row.as_bytes()[*column] == b'C';
            assert_eq!(state.conflicts(&nexus(2), access), conflict, "{name}, {state:?}");
            assert!(!state.conflicts(&nexus(0), access), "{name}: the holder may");
        }
        assert!(
            !State::default().conflicts(&nexus(2), access),
            "{name}: nothing is reserved"
        );
    }
    let mut start = [0; 16];
    start[0] = 0x1b;
    assert_eq!(access_of(&start), Access::Write, "STOP");
    start[4] = 1;
    assert_eq!(access_of(&start), Access::Free, "START");
    start[4] = 0x21;
    assert_eq!(access_of(&start), Access::Write, "a power condition");
    assert_eq!(access_of(&[0xfe; 16]), Access::Write, "what nobody knows");
}

#[test]
fn every_command_of_the_target_has_a_row() {
    let own = |code: u8| matches!(code, 0x16 | 0x17 | 0x1b | 0x1e | 0x4d | 0x56 | 0x57 | 0x5e | 0x5f);
    for op in crate::scsi::opcodes::TABLE.iter().filter(|op| !own(op.code)) {
        let known = TABLE.iter().any(|(_, bytes, _)| {
            bytes[0] == op.code && op.action.is_none_or(|action| u16::from(bytes[1]) == action)
        });
        assert!(known, "{:#04x}/{:?} is in no row", op.code, op.action);
    }
}

#[test]
fn registrations_have_an_end_and_a_failed_list_registers_nobody() {
    let mut state = State::default();
    let of = |number: usize| Nexus {
        initiator: format!("iqn.x:{number}"),
        isid: [0; 6],
        port: 1,
    };
    let register = |others| Out::Register {
        key: 0,
        new: 5,
        others,
        all_ports: false,
        aptpl: true,
    };
    for number in 0..REGISTRATIONS_MAX - 1 {
        state = state
            .decide(&of(number), &register(vec![]), [0; 16])
            .expect("room")
            .state;
        state.done.clear();
    }
    let two = register(vec![of(1001), of(1002)]);
    assert_eq!(
        state.decide(&of(1000), &two, [1; 16]),
        Err(Sense::INSUFFICIENT_REGISTRATIONS.into())
    );
    let one = state
        .decide(&of(1000), &register(vec![]), [1; 16])
        .expect("the last")
        .state;
    assert_eq!(one.registrations.len(), REGISTRATIONS_MAX);
    assert!(one.aptpl());
    assert_eq!(State::from_record(&one.to_record()), Ok(one));
}

#[test]
fn in_doubt_somebody_holds_it_until_he_is_preempted_by_the_key_that_is_shown() {
    let doubt = State::in_doubt();
    sound(&doubt);
    let me = nexus(0);
    assert!(doubt.conflicts(&me, Access::Read) && doubt.conflicts(&me, Access::Write));
    assert_eq!(doubt.report(In::Keys)[8..], State::UNKNOWN_KEY.to_be_bytes());
    let register = Out::RegisterAndIgnore {
        new: 9,
        all_ports: false,
        aptpl: true,
    };
    let state = doubt
        .decide(&me, &register, [1; 16])
        .expect("always possible")
        .state;
    let preempt = Out::Preempt {
        key: 9,
        victim: State::UNKNOWN_KEY,
        kind: Some(Kind::WriteExclusive),
        abort: true,
    };
    let state = state.decide(&me, &preempt, [2; 16]).expect("by its key").state;
    assert!(state.is_holder(&me) && state.registrations.len() == 1);
}

fn list(key: u64, new: u64, flags: u8, more: &[u8]) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list.extend_from_slice(more);
    list
}

fn decode(action: u8, scope_and_type: u8, list: &[u8]) -> Result<Out, Sense> {
    let parameters = Parameters {
        action,
        scope_and_type,
        length: list.len() as u32,
    };
    Out::decode(parameters, list, 1)
}

#[test]
fn parameter_lists_are_read_and_refused_by_their_fields() {
    let id = |name: &str| {
        let mut name = name.as_bytes().to_vec();
        name.resize((name.len() + 1).next_multiple_of(4).max(20), 0);
        [vec![0x45, 0, 0, name.len() as u8], name].concat()
    };
    let b = id("iqn.x:b,i,0x020202020202");
    let with_length = [(b.len() as u32).to_be_bytes().to_vec(), b.clone()].concat();
    let register = decode(0, 0, &list(1, 2, 0x0d, &with_length)).expect("a list of one port");
    assert_eq!(
        register,
        Out::Register {
            key: 1,
            new: 2,
            others: vec![nexus(2)],
            all_ports: true,
            aptpl: true
        }
    );
    let mut moved = list(1, 2, 0, &b);
    moved[17] = 3;
    moved[19] = 1;
    moved[23] = b.len() as u8;
    assert_eq!(
        decode(7, 0, &moved),
        Ok(Out::RegisterAndMove {
            key: 1,
            new: 2,
            to: nexus(2),
            unregister: true,
            aptpl: true
        })
    );
    let bare = id("iqn.x:b");
    let bare = [(bare.len() as u32).to_be_bytes().to_vec(), bare].concat();
    for (action, scope_and_type, list, code) in [
        (0, 0, list(1, 2, 0, &[0; 4]), 0x1a00),
        (0, 0, vec![0; 23], 0x1a00),
        (0, 0, list(1, 2, 8, &[]), 0x1a00),
        (0, 0, list(1, 2, 8, &[0, 0, 0, 9]), 0x1a00),
        (0, 0, list(1, 2, 8, &bare), 0x2600),
        (6, 0, list(1, 2, 8, &with_length), 0x2600),
        (1, 0x02, list(1, 2, 0, &[]), 0x2400),
        (1, 0x11, list(1, 2, 0, &[]), 0x2400),
        (2, 0x00, list(1, 2, 0, &[]), 0x2400),
        (8, 0x01, list(1, 2, 0, &[]), 0x2400),
        (7, 0, list(1, 2, 0, &[]), 0x2600),
    ] {
        let refused = decode(action, scope_and_type, &list).expect_err("refused");
        assert_eq!(refused.code(), code, "action {action}, {list:?}");
    }
    let short = Parameters {
        action: 0,
        scope_and_type: 0,
        length: 24,
    };
    assert!(Out::decode(short, &[0; 10], 1).is_err());
}

#[test]
fn reports_are_laid_out_as_in_the_standard() {
    let state = State {
        generation: 0x0102_0304,
        aptpl: true,
        ..of_model(M {
            keys: [5, 0, 6],
            kind: 5,
            holder: 2,
        })
    };
    let keys = state.report(In::Keys);
    assert_eq!(keys[..8], [1, 2, 3, 4, 0, 0, 0, 16]);
    assert_eq!((keys[15], keys[23], keys.len()), (5, 6, 24));
    let held = state.report(In::Reservation);
    assert_eq!(held[4..8], [0, 0, 0, 16]);
    assert_eq!(held[8..], [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 5, 0, 0]);
    let none = State::default().report(In::Reservation);
    assert_eq!(none, [0; 8]);
    let all = of_model(M {
        keys: [5, 0, 6],
        kind: 8,
        holder: 9,
    });
    let shared = all.report(In::Reservation);
    assert_eq!((&shared[8..16], shared[21]), (&[0; 8][..], 8));
    assert_eq!(state.report(In::Capabilities), [0, 8, 0x1d, 0x81, 0xea, 1, 0, 0]);

    let full = state.report(In::FullStatus);
    let length = u32::from_be_bytes(full[4..8].try_into().expect("four")) as usize;
    assert_eq!(length + 8, full.len());
    let mut rest = &full[8..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let id = u32::from_be_bytes(rest[20..24].try_into().expect("four")) as usize;
        let name = &rest[28..24 + id];
        let end = name.iter().position(|byte| *byte == 0).expect("ends with a zero");
        assert_eq!((rest[24], id % 4), (0x45, 0));
        assert_eq!(usize::from(u16::from_be_bytes([rest[26], rest[27]])) + 4, id);
        let name = String::from_utf8(name[..end].to_vec()).expect("text");
        found.push((
            rest[7],
            rest[12],
            rest[13],
            u16::from_be_bytes([rest[18], rest[19]]),
            name,
        ));
        rest = &rest[24 + id..];
    }
    assert_eq!(
        found,
        [
            (5, 0, 0, 1, "iqn.x:a,i,0x010101010101".to_owned()),
            (6, 1, 5, 1, "iqn.x:b,i,0x020202020202".to_owned())
        ]
    );
}

/// Builds without a tail read a record by its first fields: as many names of commands as it says, and then the end.
#[test]
fn an_older_build_reads_the_record_of_a_newer_one_and_the_other_way_round() {
    let word = |record: &[u8], at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four"));
    let mut state = State::default();
    for who in 0..3 {
        let register = Out::RegisterAndIgnore {
            new: 7,
            all_ports: false,
            aptpl: false,
        };
        state = state
            .decide(&nexus(who), &register, [who as u8; 16])
            .expect("permitted")
            .state;
    }
    let without = state.to_record();
    assert_eq!(word(&without, 28), 0, "nothing is to be told: as it always was");
    let cleared = state
        .decide(&nexus(0), &Out::Clear { key: 7 }, [9; 16])
        .expect("permitted");
    let state = cleared.state.with_legacy(Some(nexus(1)));
    let record = state.to_record();
    let (registered, done, words) = (word(&record, 16), word(&record, 24), word(&record, 28));
    assert!(registered == 0 && words > 0 && done == 4 + words);
    assert_eq!(record.len(), 32 + 16 * done as usize + 4);
    assert_eq!(State::from_record(&record), Ok(state.clone()));
    // It changes something, and writes the words of the tail as names of commands; it knows no tail.
    let mut older = record[..record.len() - 4].to_vec();
    older[28..32].fill(0);
    older.extend_from_slice(&crc32c::crc32c(&older).to_le_bytes());
    let read = State::from_record(&older).expect("sound");
    assert_eq!((read.legacy(), read.done.len()), (None, done as usize));
    let register = Out::RegisterAndIgnore {
        new: 8,
        all_ports: false,
        aptpl: false,
    };
    let next = read
        .decide(&nexus(0), &register, [10; 16])
        .expect("permitted")
        .state;
    assert!(
        next.done.len() <= DONE_MAX,
        "what is no command's name is forgotten in time"
    );
    // A tail of a format that is not known may say that the volume is held.
    let mut newer = record[..record.len() - 4].to_vec();
    let tail = newer.len() - 16 * words as usize;
    newer[tail] = 2;
    newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
    let refused = State::from_record(&newer).expect_err("unknown");
    assert!(
        refused.to_string().contains("format 2; this build reads 1"),
        "{refused}"
    );
}

fn any_out() -> impl Strategy<Value = (usize, Out)> {
    (0..3_usize, any::<prop::sample::Index>()).prop_map(|(me, index)| {
        let all = commands(me);
        (me, command(all[index.index(all.len())]))
    })
}

proptest! {
    /// A state that came about by any commands is the same after it was written down and read; and a damaged record is
    /// never read as another.
    #[test]
    fn a_record_says_the_same_or_nothing(
        walk in prop::collection::vec(any_out(), 0..40),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let mut state = State::default();
        for (step, (me, out)) in walk.into_iter().enumerate() {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(step as u64).to_le_bytes());
            if let Ok(change) = state.decide(&nexus(me), &out, id) {
                state = change.state;
                sound(&state);
            }
        }
        let record = state.to_record();
        prop_assert_eq!(State::from_record(&record), Ok(state));
        let mut damaged = record.clone();
        let at = at.index(record.len());
        damaged[at] ^= 1 << bit;
        prop_assert!(State::from_record(&damaged).is_err());
        if at > 0 {
            prop_assert!(State::from_record(&record[..at]).is_err(), "torn");
        }
    }

    #[test]
    fn random_lists_and_records_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        action in 0..32_u8,
        scope_and_type: u8,
        longer in 0..4_u32,
    ) {
        let parameters = Parameters { action, scope_and_type, length: bytes.len() as u32 + longer };
        let _ = Out::decode(parameters, &bytes, 1);
        let known = [("iqn.x:a".to_owned(), [1; 6])].into();
        let _ = (wire::devices(parameters, &bytes), wire::with_ports(parameters, &bytes, &known));
        let _ = wire::initiator_ports_of(&bytes);
        let mut sealed = bytes.clone();
        sealed.splice(0..0, *b"PLXHRES1\x01\x00");
        sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
        if let Ok(state) = State::from_record(&sealed) {
            sound(&state);
        }
    }
}
