//! From the configuration to the door: keys of hosts, sealed, opened, changed and gone.

use crate::initiator::Initiator;
use crate::rig::{HOST, SECRET, TARGET, TARGET_SECRET, TARGET_USER, USER};
use pollux_api::config::item::{Item, ItemId, Key, Purpose, Secret};
use pollux_api::config::{Hex, Host, HostId, Kind, Tables};
use pollux_api::id::{ArrayId, ControllerId};
use pollux_block_frame::AuthKey;
use pollux_block_target::daemon::{Surroundings, World};
use pollux_block_target::gate::ManualGate;
use pollux_block_target::iscsi::connection;
use pollux_block_target::target::Target;
use std::sync::Arc;

const ROW: HostId = HostId(Hex([4; 16]));
const CHAP: ItemId = ItemId(Hex([1; 16]));
const MUTUAL: ItemId = ItemId(Hex([2; 16]));

fn world(own: ControllerId) -> Arc<World> {
    let any = "127.0.0.1:0".parse().expect("an address");
    let around = Surroundings {
        array: ArrayId::from_bytes([1; 16]),
        own,
        volumes: "volumes".into(),
        local: any,
        partner: any,
        key: AuthKey::new([7; 32]),
    };
    let gate = Arc::new(ManualGate::default());
    World::new(around, Target::new(TARGET.into(), own, Vec::new(), gate))
}

fn tables(keys: &[(ItemId, Purpose, &str, &str)]) -> Tables {
    let mut tables = Tables::default();
    let host = Host {
        id: ROW,
        name: "h".into(),
        iqns: vec![HOST.into()],
    };
    tables.hosts.insert(ROW, host);
    for (id, purpose, user, sealed) in keys {
        let key = Key {
            name: format!("key-{id}"),
            purpose: *purpose,
            user: (*user).to_owned(),
            host: (*purpose == Purpose::Chap).then(|| ROW.to_string()),
            controller: None,
            secret: Secret::new(*sealed),
            id: *id,
        };
        tables
            .items
            .entry(Kind::Key)
            .or_default()
            .insert(*id, Item::Key(key));
    }
    tables
}

fn connect(world: &Arc<World>) -> Initiator {
    let (near, far) = tokio::io::duplex(1 << 16);
    let peer = "10.78.0.254:50000".parse().expect("an address");
    tokio::spawn(connection::serve(far, peer, world.target().clone()));
    Initiator::over(near)
}

/// What the keeper would answer.
fn open(world: &World) -> usize {
    let sealed = world.sealed();
    let count = sealed.len();
    for secret in sealed {
        let clear = match secret.id {
            CHAP => SECRET,
            _ => TARGET_SECRET,
        };
        world.opened(secret, Secret::new(clear));
    }
    count
}

#[tokio::test(start_paused = true)]
async fn a_host_with_a_key_is_let_in_by_it_alone_on_either_controller() {
    let chap = (CHAP, Purpose::Chap, USER, "sealed:1:chap");
    let mutual = (MUTUAL, Purpose::MutualChap, TARGET_USER, "sealed:1:mutual");
    for own in [ControllerId::A, ControllerId::B] {
        let world = world(own);
        world.apply(&tables(&[]));
        assert_eq!(connect(&world).log_in(HOST, &[]).await, 0, "it has no key yet");
        world.apply(&tables(&[chap, mutual]));
        // The keeper has not answered: neither by name nor by secret, but not for good.
        assert_eq!(connect(&world).log_in(HOST, &[]).await, 0x0301);
        assert_eq!(open(&world), 2);
        assert_eq!(connect(&world).log_in(HOST, &[]).await, 0x0201);
        let by = (HOST, USER, SECRET);
        let login = connect(&world).log_in_by_chap(by, "5", Some(TARGET_SECRET)).await;
        assert_eq!(login, (0, true));
        // The keeper is away, and the configuration changes in something else: nothing is asked for.
        world.apply(&tables(&[chap, mutual]));
        assert_eq!(open(&world), 0);
        let login = connect(&world).log_in_by_chap(by, "7", None).await;
        assert_eq!(login, (0, false));
        // Another secret: the former is of no use from then on.
        let newer = (CHAP, Purpose::Chap, USER, "sealed:1:newer");
        world.apply(&tables(&[newer, mutual]));
        assert_eq!(connect(&world).log_in_by_chap(by, "5", None).await.0, 0x0301);
        for sealed in world.sealed() {
            world.opened(sealed, Secret::new("a-newer-secret-of-it"));
        }
        assert_eq!(connect(&world).log_in_by_chap(by, "5", None).await.0, 0x0201);
        let by = (HOST, USER, "a-newer-secret-of-it");
        assert_eq!(connect(&world).log_in_by_chap(by, "5", None).await.0, 0);
        // No key any more, then no host any more.
        world.apply(&tables(&[]));
        assert_eq!(connect(&world).log_in(HOST, &[]).await, 0);
        world.apply(&Tables::default());
        assert_eq!(connect(&world).log_in(HOST, &[]).await, 0x0202);
    }
}
