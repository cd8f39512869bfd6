//! What hosts reserve, as hosts see it: on both ports, over takeovers, with commands on their way.

mod support;

use bytes::Bytes;
use pollux_api::id::{ControllerId, Generation};
use pollux_api::target::{Access, Backing};
use pollux_block_frame::Operation;
use pollux_block_target::backend::VolumeBackend;
use pollux_block_target::paths::Scope;
use pollux_block_target::scsi::Status;
use pollux_block_target::scsi::reservation::{Nexus, State};
use pollux_block_target::volume::Question;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{
    Answer, BOUND, CHANGED, HOST, Imported, Initiator, POOL, Pair, QUIET, SECOND_HOST, VOLUME, block, good,
    read_cdb, route, write_cdb,
};
use tokio::time::timeout;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const EXCLUSIVE: u8 = 3;
const REGISTRANTS_WRITE: u8 = 5;

fn parameters(key: u64, new: u64) -> Vec<u8> {
    [key.to_be_bytes(), new.to_be_bytes(), [0; 8]].concat()
}

fn out_cdb(action: u8, kind: u8) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

async fn out(host: &mut Initiator, action: u8, kind: u8, key: u64, new: u64) -> Answer {
    host.run(&out_cdb(action, kind), 0, Some(&parameters(key, new)))
        .await
}

async fn report(host: &mut Initiator, action: u8) -> Vec<u8> {
    let answer = host
        .run(&[0x5e, action, 0, 0, 0, 0, 0, 0x10, 0, 0], 4096, None)
        .await;
    assert_eq!(answer.status, 0, "{answer:?}");
    answer.data
}

fn conflict() -> Answer {
    Answer {
        status: 0x18,
        sense: None,
        data: Vec::new(),
    }
}

fn attention(code: u16) -> Answer {
    Answer {
        status: 2,
        sense: Some((6, code)),
        data: Vec::new(),
    }
}

#[tokio::test]
async fn a_reservation_holds_on_both_ports_and_over_two_changes_of_owner() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut by_a = Initiator::log_in(pair.a.portal).await;
    let mut by_b = Initiator::log_in(pair.b.portal).await;
    let mut other = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    for (host, key) in [(&mut by_a, 1), (&mut by_b, 1), (&mut other, 2)] {
        assert_eq!(out(host, REGISTER, 0, 0, key).await, good(vec![]));
    }
    assert_eq!(out(&mut by_a, RESERVE, EXCLUSIVE, 1, 0).await, good(vec![]));
    assert_eq!(by_a.read(0).await, good(block(0)));
    assert_eq!(other.read(0).await, conflict());
    assert_eq!(
        by_b.write(0, 1).await,
        conflict(),
        "the same host by another port is another nexus"
    );
    let status = report(&mut by_a, 3).await;
    assert_eq!(report(&mut other, 3).await, status, "one tale on both ports");
    assert_eq!(report(&mut other, 0).await[..8], [0, 0, 0, 3, 0, 0, 0, 24]);

    // a dies; b takes over.
    drop(at_a);
    let at_b = Imported::start(pair.b.directory.path(), &pair.memory);
    let access = [Access::Unavailable, Access::Optimized];
    pair.b
        .world
        .flip(POOL, route(2, Backing::Local, access))
        .expect("newer");
    assert_eq!(other.read(0).await, CHANGED);
    assert_eq!(other.read(0).await, conflict(), "still reserved");
    assert_eq!(by_b.read(0).await, CHANGED);
    assert_eq!(report(&mut by_b, 3).await, status, "to the last figure");

    // The cluster's other member puts the silent one out.
    assert_eq!(out(&mut other, PREEMPT, EXCLUSIVE, 2, 1).await, good(vec![]));
    assert_eq!(other.write(0, 7).await, good(vec![]));
    assert_eq!(by_b.read(0).await, attention(0x2a05));
    assert_eq!(by_b.read(0).await, conflict());

    // a comes back and gets the pool: it must not go on from what it knew.
    drop(at_b);
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 3);
    assert_eq!(
        by_a.read(0).await,
        attention(0x2a05),
        "it was preempted while its port was away"
    );
    assert_eq!(by_a.read(0).await, conflict());
    assert_eq!(other.read(0).await, CHANGED);
    assert_eq!(other.read(0).await, good(block(7)));
}

#[tokio::test]
async fn preempt_and_abort_ends_what_the_victim_has_below_by_either_port() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut winner = Initiator::log_in(pair.a.portal).await;
    let mut by_a = Initiator::log_in_as(pair.a.portal, SECOND_HOST).await;
    let mut by_b = Initiator::log_in_as(pair.b.portal, SECOND_HOST).await;
    for (host, key) in [(&mut winner, 1), (&mut by_a, 2), (&mut by_b, 2)] {
        assert_eq!(out(host, REGISTER, 0, 0, key).await, good(vec![]));
    }
    assert_eq!(
        out(&mut winner, RESERVE, REGISTRANTS_WRITE, 1, 0).await,
        good(vec![])
    );
    at_a.pool.stuck.set(false);
    by_a.begin(&write_cdb(1), 0, Some(&block(1))).await;
    by_b.begin(&write_cdb(2), 0, Some(&block(2))).await;
    let below = async {
        while at_a.pool.commands.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, below).await.expect("both are below");
    let preempt = out_cdb(PREEMPT_AND_ABORT, REGISTRANTS_WRITE);
    winner.begin(&preempt, 0, Some(&parameters(1, 2))).await;
    assert!(
        timeout(QUIET, winner.end()).await.is_err(),
        "not while something of the victim's may still take effect"
    );
    at_a.pool.stuck.set(true);
    assert_eq!(
        timeout(BOUND, winner.end()).await.expect("in time"),
        Some(good(vec![]))
    );
    for victim in [&mut by_a, &mut by_b] {
        assert!(
            timeout(QUIET, victim.end()).await.is_err(),
            "an aborted command is not answered"
        );
        assert_eq!(victim.write(3, 3).await, attention(0x2a05));
        assert_eq!(victim.write(3, 3).await, conflict());
    }
    assert_eq!(winner.read(3).await, good(block(0)));
}

#[tokio::test]
async fn in_doubt_the_volume_is_reserved_until_a_host_says_otherwise() {
    let pair = Pair::start().await;
    let record = Bytes::from_static(b"no record at all");
    pair.memory
        .submit(Operation::RecordStore { record })
        .await
        .expect("stored");
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut host = Initiator::log_in(pair.b.portal).await;
    assert_eq!(host.read(0).await, conflict());
    let keys = report(&mut host, 0).await;
    assert_eq!(keys[8..], State::UNKNOWN_KEY.to_be_bytes());
    assert_eq!(out(&mut host, REGISTER, 0, 0, 5).await, good(vec![]));
    assert_eq!(host.read(0).await, conflict());
    assert_eq!(
        out(&mut host, PREEMPT, EXCLUSIVE, 5, State::UNKNOWN_KEY).await,
        good(vec![])
    );
    assert_eq!(host.read(0).await, good(block(0)));
}

#[tokio::test]
async fn a_change_that_is_sent_again_is_made_once_and_answered_alike() {
    let pair = Pair::start().await;
    let at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let nexus = Nexus {
        initiator: HOST.to_owned(),
        isid: [1; 6],
        port: 2,
    };
    let scope = || Scope {
        nexus: Some(Arc::new(nexus.clone())),
        ..Scope::new()
    };
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&out_cdb(REGISTER, 0));
    let register = |id| Question {
        cdb,
        id: [id; 16],
        data: parameters(0, 9).into(),
        begins: true,
    };
    let ask = async |id| {
        let volume = pair.b.world.volume(VOLUME).expect("configured");
        volume
            .ask(&register(id), &scope())
            .await
            .expect("answered")
            .outcome
            .status
    };
    assert_eq!(ask(1).await, Status::Good);
    assert_eq!(ask(1).await, Status::Good, "by the same owner");
    drop(at_a);
    let _at_b = Imported::start(pair.b.directory.path(), &pair.memory);
    pair.own(ControllerId::B, 2);
    assert_eq!(ask(1).await, Status::Good, "by another one");
    assert_eq!(
        ask(2).await,
        Status::ReservationConflict,
        "another command, with the wrong key"
    );
    let state = pair
        .b
        .world
        .volume(VOLUME)
        .expect("configured")
        .registry()
        .state(Generation::new(2));
    assert_eq!(state.expect("known").generation(), 1);
}

#[tokio::test]
async fn reserve_6_ends_with_its_session_on_either_port() {
    let pair = Pair::start().await;
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let reserve = [0x16, 0, 0, 0, 0, 0];
    let mut watcher = Initiator::log_in(pair.a.portal).await;
    for portal in [pair.b.portal, pair.a.portal] {
        let mut holder = Initiator::log_in_as(portal, SECOND_HOST).await;
        assert_eq!(holder.run(&reserve, 0, None).await, good(vec![]));
        assert_eq!(watcher.read(0).await, conflict());
        assert_eq!(watcher.run(&reserve, 0, None).await, conflict());
        assert_eq!(holder.write(0, 1).await, good(vec![]));
        drop(holder);
        let free = async {
            while watcher.read(0).await == conflict() {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, free)
            .await
            .expect("the nexus is lost, and its reservation with it");
    }
}

/// One target port group as REPORT TARGET PORT GROUPS describes it: decoded from the table of SPC-4, 6.37, not from the
/// code that makes it.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    preferred: bool,
    state: u8,
    supported: u8,
    number: u16,
    ports: Vec<u16>,
}

/// Implicit transition time, and the groups.
fn decode_groups(bytes: &[u8], extended: bool) -> (Option<u8>, Vec<Group>) {
    let be16 = |at: usize| u16::from(bytes[at]) << 8 | u16::from(bytes[at + 1]);
    let length = usize::from(be16(0)) << 16 | usize::from(be16(2));
    assert_eq!(length + 4, bytes.len(), "RETURN DATA LENGTH");
    let (time, mut at) = match extended {
        true => {
            assert_eq!(bytes[4] >> 4 & 0x07, 1, "FORMAT TYPE");
            (Some(bytes[5]), 8)
        }
        false => (None, 4),
    };
    let mut groups = Vec::new();
    while at < bytes.len() {
        let ports = usize::from(bytes[at + 7]);
        groups.push(Group {
            preferred: bytes[at] & 0x80 != 0,
            state: bytes[at] & 0x0f,
            supported: bytes[at + 1],
            number: be16(at + 2),
            ports: (0..ports).map(|port| be16(at + 10 + 4 * port)).collect(),
        });
        at += 8 + 4 * ports;
    }
    assert_eq!(at, bytes.len());
    (time, groups)
}

#[tokio::test]
async fn both_ports_describe_the_groups_in_every_state_and_answer_what_may_be_asked_then() {
    let pair = Pair::start().await;
    let _at_a = Imported::start(pair.a.directory.path(), &pair.memory);
    pair.own(ControllerId::A, 1);
    let mut hosts = [
        Initiator::log_in(pair.a.portal).await,
        Initiator::log_in_as(pair.b.portal, SECOND_HOST).await,
    ];
    let groups = async |host: &mut Initiator| {
        let long = host
            .run(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256, None)
            .await;
        let short = host
            .run(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256, None)
            .await;
        assert_eq!((long.status, short.status), (0, 0));
        let (time, groups) = decode_groups(&long.data, true);
        assert_eq!(
            decode_groups(&short.data, false),
            (None, decode_groups(&long.data, true).1)
        );
        assert!(
            time.is_some_and(|seconds| seconds > 0),
            "0 would be taken for 60 s"
        );
        for (group, number) in groups.iter().zip([1, 2]) {
            assert_eq!(
                (group.number, &group.ports),
                (number, &vec![number]),
                "one port each, numbered alike"
            );
            // T_SUP, U_SUP, AN_SUP, AO_SUP.
            assert_eq!(group.supported & 0x8b, 0x8b);
        }
        groups.iter().map(|group| group.state).collect::<Vec<_>>()
    };
    for host in &mut hosts {
        assert_eq!(groups(host).await, [0x0, 0x1]);
        // TPGS says that states change by themselves only: SET TARGET PORT GROUPS is no command here.
        let set = host
            .run(&[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], 0, Some(&[0; 8]))
            .await;
        assert_eq!((set.status, set.sense), (2, Some((5, 0x2000))));
        let inquiry = host.run(&[0x12, 0, 0, 0, 96, 0], 96, None).await;
        assert_eq!(inquiry.data[5] >> 4 & 3, 1, "TPGS");
    }

    // Transitioning: commands are held, and what may be asked is answered at once (SPC-4, 5.11.2.5).
    for controller in [&pair.a, &pair.b] {
        assert!(controller.world.paths(POOL).hold(BOUND).await);
    }
    for host in &mut hosts {
        assert_eq!(groups(host).await, [0xf, 0xf]);
        for cdb in [
            &[0x12, 0, 0, 0, 96, 0][..],
            &[0x03, 0, 0, 0, 18, 0],
            &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
        ] {
            assert_eq!(host.run(cdb, 96, None).await.status, 0, "{cdb:02x?}");
        }
        host.begin(&read_cdb(0), 512, None).await;
        assert!(timeout(QUIET, host.end()).await.is_err(), "held");
    }
    pair.own(ControllerId::A, 1);
    for host in &mut hosts {
        assert_eq!(
            timeout(BOUND, host.end()).await.expect("in time"),
            Some(good(block(0)))
        );
        assert_eq!(host.read(0).await, CHANGED, "06/2A06 to every session");
    }

    // Unavailable: said at once to whatever needs the volume (5.11.2.4.5).
    let access = [Access::Optimized, Access::Unavailable];
    for (controller, backing) in [(&pair.a, Backing::Local), (&pair.b, Backing::None)] {
        controller
            .world
            .flip(POOL, route(1, backing, access))
            .expect("the same claim");
    }
    for (number, host) in hosts.iter_mut().enumerate() {
        assert_eq!(host.read(0).await, CHANGED);
        assert_eq!(groups(host).await, [0x0, 0x3]);
        for cdb in [
            &read_cdb(0)[..],
            &[0, 0, 0, 0, 0, 0],
            &[0x1a, 0, 0x3f, 0, 96, 0],
            &[0x5e, 0, 0, 0, 0, 0, 0, 0, 96, 0],
        ] {
            let answer = timeout(Duration::from_secs(5), host.run(cdb, 512, None))
                .await
                .expect("at once");
            match number {
                0 => assert_eq!(answer.status, 0, "{cdb:02x?}: {answer:?}"),
                _ => assert_eq!(answer.sense, Some((2, 0x040c)), "{cdb:02x?}"),
            }
        }
        assert_eq!(host.run(&[0x12, 0, 0, 0, 96, 0], 96, None).await.status, 0);
    }
}
