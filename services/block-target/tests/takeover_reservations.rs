//! What is reserved, and what is to be told of it, through changes of owner; and what a host asks by the other port.

mod support;

use pollux_api::id::{ControllerId, Generation};
use pollux_api::target::{Access, Backing};
use pollux_block_frame::Operation;
use pollux_block_target::backend::VolumeBackend;
use support::{
    Answer, BOUND, CHANGED, HOST, Imported, Initiator, POOL, Pair, SECOND_HOST, VOLUME, block, good, route,
};
use tokio::time::timeout;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const REGISTRANTS_WRITE: u8 = 5;
const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];
const LUN_RESET: u8 = 5;

async fn out(
    host: &mut Initiator,
    action: u8,
    kind: u8,
    key: u64,
    new: u64,
    flags: u8,
    more: &[u8],
) -> Answer {
    let list = [
        &key.to_be_bytes()[..],
        &new.to_be_bytes(),
        &[0, 0, 0, 0, flags, 0, 0, 0],
        more,
    ]
    .concat();
    let [high, low] = (list.len() as u16).to_be_bytes();
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, high, low, 0];
    host.run(&cdb, 0, Some(&list)).await
}

async fn register(host: &mut Initiator, key: u64) {
    assert_eq!(out(host, REGISTER, 0, 0, key, 0, &[]).await, good(vec![]));
}

async fn report(host: &mut Initiator, action: u8) -> Vec<u8> {
    let answer = host
        .run(&[0x5e, action, 0, 0, 0, 0, 0, 0x10, 0, 0], 4096, None)
        .await;
    assert_eq!(answer.status, 0, "{answer:?}");
    answer.data
}

fn attention(code: u16) -> Answer {
    Answer {
        status: 2,
        sense: Some((6, code)),
        data: Vec::new(),
    }
}

fn conflict() -> Answer {
    Answer {
        status: 0x18,
        sense: None,
        data: Vec::new(),
    }
}

async fn ask_sense(host: &mut Initiator) -> (u8, u16) {
    let answer = host.run(&[0x03, 0, 0, 0, 18, 0], 18, None).await;
    assert_eq!((answer.status, answer.data.len()), (0, 18), "{answer:?}");
    (
        answer.data[2],
        u16::from_be_bytes([answer.data[12], answer.data[13]]),
    )
}

/// a dies with its port; b takes over.
fn take_over(pair: &Pair, at_a: Imported, generation: u64) -> Imported {
    drop(at_a);
    let at_b = Imported::start(pair.b.directory.path(), &pair.memory);
    let access = [Access::Unavailable, Access::Optimized];
    let flip = pair.b.world.flip(POOL, route(generation, Backing::Local, access));
    flip.expect("newer");
    at_b
}

/// What b knows as the owner under this claim stands in the record.
async fn tidied(pair: &Pair, generation: u64) {
    let volume = pair.b.world.volume(VOLUME).expect("configured");
    let record = async {
        loop {
            let known = volume
                .registry()
                .state(Generation::new(generation))
                .expect("known");
            let stored = pair.memory.submit(Operation::RecordLoad).await.expect("a record");
            if stored == known.to_record() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, record).await.expect("tidied");
}

#[tokio::test]
async fn what_nobody_was_told_is_told_by_the_new_owner_after_the_state() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut by_a = Initiator::log_in(pair.a.portal).await;
    let mut by_b = Initiator::log_in(pair.b.portal).await;
    let mut other = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    for (host, key) in [(&mut by_a, 1), (&mut by_b, 2), (&mut other, 3)] {
        register(host, key).await;
    }
    assert_eq!(
        out(&mut by_a, RESERVE, REGISTRANTS_WRITE, 1, 0, 0, &[]).await,
        good(vec![])
    );
    // 2A04 to everybody registered, then 2A05 to one of them, then 2A03 to who is left.
    assert_eq!(
        out(&mut by_a, RELEASE, REGISTRANTS_WRITE, 1, 0, 0, &[]).await,
        good(vec![])
    );
    assert_eq!(out(&mut by_a, PREEMPT, 0, 1, 3, 0, &[]).await, good(vec![]));
    assert_eq!(out(&mut by_a, CLEAR, 0, 1, 0, 0, &[]).await, good(vec![]));
    let at_b = take_over(&pair, at_a, 2);
    for (host, codes) in [(&mut by_b, [0x2a04, 0x2a03]), (&mut other, [0x2a04, 0x2a05])] {
        assert_eq!(host.read(0).await, CHANGED, "the port tells of itself first");
        for code in codes {
            assert_eq!(host.read(0).await, attention(code));
        }
        assert_eq!(host.read(0).await, good(block(0)), "and that was all");
    }
    // What was told is out of the record: the next owner does not tell it again.
    tidied(&pair, 2).await;
    drop(at_b);
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 3);
    for host in [&mut by_b, &mut other] {
        assert_eq!(host.read(0).await, CHANGED);
        assert_eq!(host.read(0).await, good(block(0)));
    }
}

#[tokio::test]
async fn request_sense_tells_by_the_other_port_what_the_owner_has_to_say() {
    let pair = Pair::start().await;
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut by_a = Initiator::log_in(pair.a.portal).await;
    let mut by_b = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    for (host, key) in [(&mut by_a, 1), (&mut by_b, 2)] {
        register(host, key).await;
    }
    assert_eq!(ask_sense(&mut by_b).await, (0, 0));
    assert_eq!(out(&mut by_a, PREEMPT, 0, 1, 2, 0, &[]).await, good(vec![]));
    assert_eq!(ask_sense(&mut by_b).await, (6, 0x2a05));
    assert_eq!(ask_sense(&mut by_b).await, (0, 0), "told once");
    assert_eq!(by_b.read(0).await, good(block(0)));
    // The same by the owner's own port.
    register(&mut by_b, 2).await;
    assert_eq!(out(&mut by_b, PREEMPT, 0, 2, 1, 0, &[]).await, good(vec![]));
    assert_eq!(ask_sense(&mut by_a).await, (6, 0x2a05));
    assert_eq!(by_a.read(0).await, good(block(0)));
}

#[tokio::test]
async fn reserve_6_outlives_the_owner_and_ends_with_its_port() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut holder = Initiator::log_in(pair.b.portal).await;
    let mut other = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    assert_eq!(holder.run(&RESERVE_6, 0, None).await, good(vec![]));
    assert_eq!(other.read(0).await, conflict());
    let at_b = take_over(&pair, at_a, 2);
    for host in [&mut holder, &mut other] {
        assert_eq!(host.read(0).await, CHANGED);
    }
    assert_eq!(other.read(0).await, conflict(), "nobody has released it");
    assert_eq!(holder.write(0, 1).await, good(vec![]));
    assert_eq!(
        other.run(&RELEASE_6, 0, None).await,
        good(vec![]),
        "and releases nothing"
    );
    assert_eq!(other.read(0).await, conflict());
    // A reset ends it, and does so for the next owner, too.
    assert_eq!(other.manage(LUN_RESET).await, 0);
    assert_eq!(other.read(0).await, attention(0x2903));
    assert_eq!(other.read(0).await, good(block(1)));

    // Held through the port of the controller that dies: its nexus is lost, and the reservation with it.
    tidied(&pair, 2).await;
    drop(at_b);
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 3);
    let mut by_a = Initiator::log_in(pair.a.portal).await;
    assert_eq!(by_a.run(&RESERVE_6, 0, None).await, good(vec![]));
    assert_eq!(other.read(0).await, CHANGED);
    assert_eq!(other.read(0).await, conflict());
    let _at_b = take_over(&pair, at_a, 4);
    assert_eq!(other.read(0).await, CHANGED);
    assert_eq!(other.read(0).await, good(block(1)));
}

/// A TransportID of an iSCSI initiator by its name alone (format 00b), by the table of SPC-4, 7.6.4.6.
fn device_id(name: &str) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.resize((text.len() + 1).next_multiple_of(4).max(20), 0);
    let length = (text.len() as u16).to_be_bytes();
    [&[0x05, 0][..], &length, &text].concat()
}

fn spec_i_pt(ids: &[Vec<u8>]) -> Vec<u8> {
    let all = ids.concat();
    [&(all.len() as u32).to_be_bytes()[..], &all].concat()
}

/// Keys with the initiator port and the target port of each registration.
fn registrations(full_status: &[u8]) -> Vec<(u64, String, u16)> {
    let mut rest = &full_status[8..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[20..24].try_into().expect("four")) as usize;
        let name: Vec<u8> = rest[28..24 + length]
            .iter()
            .copied()
            .take_while(|byte| *byte != 0)
            .collect();
        found.push((
            u64::from_be_bytes(rest[..8].try_into().expect("eight")),
            String::from_utf8(name).expect("text"),
            u16::from_be_bytes([rest[18], rest[19]]),
        ));
        rest = &rest[24 + length..];
    }
    found
}

const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;

#[tokio::test]
async fn an_initiator_named_as_a_whole_is_each_of_its_ports_that_is_known() {
    for by_owner in [true, false] {
        let pair = Pair::start().await;
        let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
        pair.own(ControllerId::A, 1);
        let portal = if by_owner { pair.a.portal } else { pair.b.portal };
        let mut host = Initiator::log_in(portal).await;
        // One port of the other host at each of our ports.
        let _at_other_ports = [
            Initiator::log_in_as(pair.a.portal, SECOND_HOST).await,
            Initiator::log_in_with_isid(pair.b.portal, SECOND_HOST, 7).await,
        ];
        pair.tell_initiators();
        let more = spec_i_pt(&[device_id(SECOND_HOST)]);
        let both = SPEC_I_PT | ALL_TG_PT;
        assert_eq!(out(&mut host, REGISTER, 0, 0, 5, both, &more).await, good(vec![]));
        let told = registrations(&report(&mut host, 3).await);
        let expected = |isid: &str| format!("{SECOND_HOST},i,0x{isid}");
        for (isid, port) in [
            ("800000000000", 1),
            ("800000000000", 2),
            ("800000000007", 1),
            ("800000000007", 2),
        ] {
            assert!(
                told.contains(&(5, expected(isid), port)),
                "{isid} at {port}: {told:?}"
            );
        }
        assert_eq!(told.len(), 6, "those, and the host's own at both ports: {told:?}");
        // Whoever is registered is known, though it has logged out.
        assert_eq!(out(&mut host, CLEAR, 0, 5, 0, 0, &[]).await, good(vec![]));

        // Of whom nobody has heard is not registered in silence; neither is anybody else then.
        let more = spec_i_pt(&[device_id(SECOND_HOST), device_id("iqn.2026-01.io.pollux:nobody")]);
        let refused = out(&mut host, REGISTER, 0, 0, 5, SPEC_I_PT, &more).await;
        assert_eq!(refused.sense, Some((5, 0x2600)));
        assert_eq!(report(&mut host, 0).await[4..], [0; 4]);
    }
}

#[tokio::test]
async fn aptpl_is_reported_as_it_was_asked_last_on_both_ports_and_over_a_takeover() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut by_a = Initiator::log_in(pair.a.portal).await;
    let mut by_b = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    // CRH, SIP_C, ATP_C, PTPL_C; TMV and PTPL_A; types WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX; EX_AC_AR.
    let capabilities = |active: u8| vec![0, 8, 0x1d, 0x80 | active, 0xea, 0x01, 0, 0];
    for (key, flags) in [(1, APTPL), (2, 0), (3, APTPL)] {
        assert_eq!(
            out(&mut by_a, REGISTER, 0, key - 1, key, flags, &[]).await,
            good(vec![])
        );
        for host in [&mut by_a, &mut by_b] {
            assert_eq!(report(host, 2).await, capabilities(flags));
        }
    }
    let _at_b = take_over(&pair, at_a, 2);
    assert_eq!(by_b.read(0).await, CHANGED);
    assert_eq!(report(&mut by_b, 2).await, capabilities(APTPL));
    let kept = registrations(&report(&mut by_b, 3).await);
    assert_eq!(kept.len(), 1);
    assert!(kept[0].1.starts_with(HOST), "{kept:?}");
}
