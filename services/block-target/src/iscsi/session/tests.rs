use super::super::outgoing::Outgoing;
use super::*;
use proptest::prelude::*;

struct Around;

impl Surroundings for Around {
    fn block_size(&self, lun: [u8; 8]) -> Option<u32> {
        (lun[1] < 2).then_some(512)
    }
    fn target(&self) -> Option<(String, Vec<String>)> {
        let portals = vec!["10.0.0.1:3260,1".into(), "10.0.0.2:3260,2".into()];
        Some(("iqn.x:t".into(), portals))
    }
    fn take_memory(&self, _tag: u32, _bytes: u32) -> bool {
        true
    }
}

fn session() -> Session {
    Session::new(
        Parameters {
            initial_r2t: false,
            ..Parameters::default()
        },
        false,
        100,
        0,
    )
}

fn pdu(opcode: u8, flags: u8, tag: u32, number: u32) -> Pdu {
    let mut header = Header([0; 48]);
    header.0[0] = opcode;
    header.0[1] = flags;
    header.put32(16, tag);
    header.put32(24, number);
    Pdu {
        header,
        additional: Bytes::new(),
        data: Bytes::new(),
    }
}

fn command(tag: u32, number: u32, flags: u8, expected: u32, cdb: &[u8]) -> Pdu {
    let mut pdu = pdu(request::SCSI_COMMAND, flags, tag, number);
    pdu.header.put32(20, expected);
    pdu.header.0[32..32 + cdb.len()].copy_from_slice(cdb);
    pdu
}

fn test_unit_ready(tag: u32, number: u32) -> Pdu {
    command(tag, number, 0x81, 0, &[0])
}

fn executed(actions: &[Action]) -> Vec<u32> {
    let tags = actions.iter().filter_map(|action| match action {
        Action::Execute(execute) => Some(execute.tag),
        _ => None,
    });
    tags.collect()
}

fn sent(actions: &[Action]) -> Vec<Header> {
    let headers = actions.iter().filter_map(|action| match action {
        Action::Send(Reply::Plain { header, .. }) => Some(*header),
        _ => None,
    });
    headers.collect()
}

#[test]
fn commands_run_in_the_order_of_their_numbers() {
    let mut session = session();
    assert!(session.receive(test_unit_ready(2, 101), &Around).is_empty());
    let actions = session.receive(test_unit_ready(1, 100), &Around);
    assert_eq!(executed(&actions), [1, 2]);
    assert_eq!(session.window().0, 102);
    for outside in [99, 101, 100 + DEPTH] {
        assert!(
            session.receive(test_unit_ready(3, outside), &Around).is_empty(),
            "{outside}"
        );
    }
}

#[test]
fn the_window_closes_with_the_tasks_and_opens_with_their_end() {
    let mut session = session();
    for n in 0..DEPTH {
        assert_eq!(
            executed(&session.receive(test_unit_ready(n, 100 + n), &Around)),
            [n]
        );
    }
    let (exp, max) = session.window();
    assert_eq!(max.wrapping_add(1), exp, "no room left");
    assert!(session.receive(test_unit_ready(999, exp), &Around).is_empty());
    session.completed(5, Outcome::good());
    assert_eq!(session.window(), (exp, exp));
    assert_eq!(
        executed(&session.receive(test_unit_ready(999, exp), &Around)),
        [999]
    );
}

#[test]
fn a_write_asks_for_memory_then_for_data_then_runs() {
    let mut session = session();
    let write = command(7, 100, 0xa1, 1024, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2]);
    let actions = session.receive(write, &Around);
    assert!(
        matches!(actions[..], [Action::Reserve { tag: 7, bytes: 1024 }]),
        "{actions:?}"
    );
    let mut actions = Vec::new();
    assert!(session.reserved(7, &mut actions));
    let r2t = sent(&actions)[0];
    assert_eq!(
        (r2t.opcode(), r2t.get32(40), r2t.get32(44)),
        (response::R2T, 0, 1024)
    );
    let mut data = pdu(request::DATA_OUT, 0x80, 7, 0);
    data.header.put32(20, r2t.get32(20));
    data.data = vec![9; 1024].into();
    let actions = session.receive(data, &Around);
    let [Action::Execute(execute)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(execute.data, vec![9; 1024]);
    let actions = session.completed(7, Outcome::good());
    assert!(matches!(
        actions[..],
        [Action::Send(Reply::Scsi {
            tag: 7,
            moves: 1024,
            ..
        })]
    ));
}

#[test]
fn an_abort_is_answered_after_the_task_has_ended_and_the_task_never() {
    let mut session = session();
    session.receive(test_unit_ready(1, 100), &Around);
    let mut abort = pdu(request::TASK_MANAGEMENT | 0x40, 0x81, 50, 101);
    abort.header.put32(20, 1);
    assert!(
        session.receive(abort.clone(), &Around).is_empty(),
        "the task still runs"
    );
    let actions = session.completed(1, Outcome::good());
    let answers = sent(&actions);
    assert_eq!(
        (actions.len(), answers[0].opcode(), answers[0].0[2]),
        (1, response::TASK_MANAGEMENT, 0)
    );
    let actions = session.receive(abort, &Around);
    assert_eq!(sent(&actions)[0].0[2], answer::NO_TASK);
}

#[test]
fn a_reset_waits_for_own_tasks_and_for_other_sessions() {
    let mut session = session();
    session.receive(test_unit_ready(1, 100), &Around);
    let actions = session.receive(pdu(request::TASK_MANAGEMENT | 0x40, 0x85, 50, 101), &Around);
    let [
        Action::ResetOthers {
            id,
            reach: Reach::Unit(_),
            reset: Reset::Units,
        },
    ] = actions[..]
    else {
        panic!("{actions:?}")
    };
    assert!(
        session.completed(1, Outcome::good()).is_empty(),
        "others are still at it"
    );
    let actions = session.others_reset(id);
    assert_eq!(sent(&actions)[0].opcode(), response::TASK_MANAGEMENT);
    let mut absent = pdu(request::TASK_MANAGEMENT | 0x40, 0x85, 51, 101);
    absent.header.0[9] = 77;
    assert_eq!(sent(&session.receive(absent, &Around))[0].0[2], answer::NO_LUN);
}

#[test]
fn a_reset_by_another_session_settles_when_the_tasks_have_ended() {
    let mut session = session();
    session.receive(test_unit_ready(1, 100), &Around);
    let (actions, units) = session.reset_by_other(4, |_| true);
    assert_eq!((actions.len(), units.len()), (0, 1));
    assert!(matches!(
        session.completed(1, Outcome::good())[..],
        [Action::Settled(4)]
    ));
    assert!(matches!(
        session.reset_by_other(5, |_| true).0[..],
        [Action::Settled(5)]
    ));
}

#[test]
fn logout_is_answered_and_ends_the_connection() {
    let mut session = session();
    let actions = session.receive(pdu(request::LOGOUT | 0x40, 0x80, 9, 100), &Around);
    assert!(
        matches!(actions[..], [Action::Send(_), Action::Close(_)]),
        "{actions:?}"
    );
    assert!(session.receive(test_unit_ready(1, 100), &Around).is_empty());
}

#[test]
fn discovery_lists_both_portals_and_runs_no_commands() {
    let mut session = Session::new(Parameters::default(), true, 1, 0);
    let mut ask = pdu(request::TEXT, 0x80, 3, 1);
    ask.header.put32(20, NO_TAG);
    ask.data = Bytes::from_static(b"SendTargets=All\0");
    let actions = session.receive(ask, &Around);
    let [Action::Send(Reply::Plain { data, .. })] = &actions[..] else {
        panic!("{actions:?}")
    };
    let keys = text::split(data).expect("text");
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[2], ("TargetAddress".into(), "10.0.0.2:3260,2".into()));
    let actions = session.receive(test_unit_ready(4, 2), &Around);
    assert_eq!(sent(&actions)[0].opcode(), response::REJECT);
}

fn encode(reply: Reply, p: &Parameters) -> Vec<Pdu> {
    let mut out = Outgoing::default();
    let mut stamps = Stamps {
        stat_sn: 5,
        exp_cmd_sn: 1,
        max_cmd_sn: 2,
    };
    reply.encode(&mut out, p, &mut stamps);
    assert_eq!(stamps.stat_sn, 6, "one status");
    let mut buffer = bytes::BytesMut::new();
    out.pieces()
        .iter()
        .for_each(|piece| buffer.extend_from_slice(piece));
    let mut pdus = Vec::new();
    while let Some(pdu) = super::super::pdu::take(&mut buffer, p.digests, 1 << 24).expect("our own") {
        pdus.push(pdu);
    }
    assert!(buffer.is_empty());
    pdus
}

#[test]
fn data_comes_in_segments_and_the_last_one_carries_the_status() {
    let p = Parameters {
        max_send: 512,
        max_burst: 1024,
        ..Parameters::default()
    };
    let outcome = Outcome::data(vec![1; 1300]);
    let pdus = encode(
        Reply::Scsi {
            tag: 1,
            outcome,
            expected: 2000,
            moves: 1300,
            reads: true,
        },
        &p,
    );
    let shape: Vec<_> = pdus
        .iter()
        .map(|pdu| (pdu.header.0[1], pdu.header.get32(40), pdu.data.len()))
        .collect();
    assert_eq!(shape, [(0x00, 0, 512), (0x80, 512, 512), (0x83, 1024, 276)]);
    assert_eq!(pdus[2].header.get32(44), 700);
}

#[test]
fn residuals_are_told_both_ways() {
    let p = Parameters::default();
    let over = Reply::Scsi {
        tag: 1,
        outcome: Outcome::data(vec![1; 36]),
        expected: 20,
        moves: 36,
        reads: true,
    };
    let pdus = encode(over, &p);
    assert_eq!(
        (
            pdus.len(),
            pdus[0].data.len(),
            pdus[0].header.0[1],
            pdus[0].header.get32(44)
        ),
        (1, 20, 0x85, 16)
    );
    let refused = Outcome::from(Sense::INVALID_OPCODE);
    let pdus = encode(
        Reply::Scsi {
            tag: 1,
            outcome: refused,
            expected: 512,
            moves: 0,
            reads: true,
        },
        &p,
    );
    assert_eq!(
        (pdus[0].header.0[1], pdus[0].header.0[3], pdus[0].header.get32(44)),
        (0x82, 2, 512)
    );
    assert_eq!(pdus[0].data.len(), 2 + 18);
}

proptest! {
    /// Whatever comes in, in whatever order things end: no panic, and MaxCmdSN never falls.
    #[test]
    fn any_pdus_are_survived(
        pdus in proptest::collection::vec((any::<[u8; 48]>(), 0_u8..8, 0_u32..4, 0_u32..6), 0..40),
        ends in proptest::collection::vec(0_u32..4, 0..40),
    ) {
        let mut session = session();
        let mut ends = ends.into_iter();
        let mut max = session.window().1;
        for (bytes, opcode, tag, ahead) in pdus {
            let mut header = Header(bytes);
            header.0[0] = opcode | bytes[0] & 0x40;
            header.0[9] &= 1;
            header.put32(16, tag);
            header.put32(24, session.window().0.wrapping_add(ahead));
            let data = Bytes::copy_from_slice(&bytes[..usize::from(bytes[3]) % 48]);
            session.receive(Pdu { header, additional: Bytes::new(), data }, &Around);
            session.reserved(tag, &mut Vec::new());
            if let Some(end) = ends.next() {
                session.completed(end, Outcome::good());
            }
            let now = session.window().1;
            prop_assert!(now.wrapping_sub(max) as i32 >= 0);
            max = now;
        }
        session.abandon();
    }
}
