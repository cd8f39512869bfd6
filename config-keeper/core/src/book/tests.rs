//! Whatever is done to a book and undone: its register is what one makes from its tables.

use super::*;
use alloc::vec::Vec;
use pollux_api::config::item::{FileSystem, HostGroup, Item, ItemId};
use pollux_api::config::{
    Address, AddressId, Backend, Class, Hex, Host, Mapping, MappingId, PoolSpace, Redundancy,
};
use pollux_api::id::{ControllerId, VolumeId};

/// The same register, whatever else two books have.
fn same_register(one: &Book, other: &Book) -> bool {
    let used = |book: &Book| -> Vec<_> {
        book.used
            .iter()
            .filter(|(_, bytes)| **bytes > 0)
            .map(|(pool, bytes)| (*pool, *bytes))
            .collect()
    };
    one.names == other.names
        && one.users == other.users
        && one.initiators == other.initiators
        && used(one) == used(other)
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound) as u8
    }
}

fn row(dice: &mut Dice) -> RowOp {
    let id = |dice: &mut Dice| Hex([dice.below(4); 16]);
    let pool = |dice: &mut Dice| PoolId::from_bytes([dice.below(3); 16]);
    let volume = |dice: &mut Dice| VolumeId::from_bytes([dice.below(4); 16]);
    let name = |dice: &mut Dice| format!("n{}", dice.below(5));
    let row = match dice.below(7) {
        0 => Resource::Pool(Pool {
            id: pool(dice),
            name: name(dice),
            class: Class::Fast,
            home: ControllerId::A,
            redundancy: Redundancy::Single,
            backend: (dice.below(3) == 0).then_some(Backend::Lvm),
            disks: Vec::new(),
            ready: (dice.below(2) == 0).then(|| PoolSpace {
                capacity_bytes: 1 << 40,
                extent_bytes: 4096 << dice.below(3),
            }),
        }),
        1 | 2 => Resource::Volume(Volume {
            id: volume(dice),
            name: name(dice),
            pool: pool(dice),
            size_bytes: 4096 * u64::from(1 + dice.below(9)),
            serial: String::new(),
        }),
        3 => Resource::Host(Host {
            id: HostId(id(dice)),
            name: name(dice),
            iqns: (0..dice.below(3))
                .map(|_| name(dice))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        }),
        4 => Resource::Mapping(Mapping {
            id: MappingId(id(dice)),
            volume: volume(dice),
            host: HostId(id(dice)),
            lun: 0,
        }),
        5 => Resource::Address(Address {
            id: AddressId(id(dice)),
            pool: pool(dice),
            cidr: format!("10.0.0.{}/24", dice.below(5)),
        }),
        _ if dice.below(2) == 0 => Resource::Item(Item::FileSystem(FileSystem {
            name: name(dice),
            pool: pool(dice).to_string(),
            quota_bytes: None,
            reserved_bytes: 0,
            id: ItemId(id(dice)),
        })),
        _ => Resource::Item(Item::HostGroup(HostGroup {
            name: name(dice),
            hosts: (0..dice.below(3)).map(|_| HostId(id(dice)).to_string()).collect(),
            id: ItemId(id(dice)),
        })),
    };
    match dice.below(3) {
        0 => RowOp::Delete(row.key()),
        _ => RowOp::Put(row),
    }
}

/// Rows as a plan makes them: no two of a kind have one name or one initiator.
fn is_lawful(book: &Book, op: &RowOp) -> bool {
    let RowOp::Put(row) = op else { return true };
    let name = match row {
        Resource::Address(address) => Some(&address.cidr),
        other => other.name(),
    };
    let free = |name: &String| {
        let user = book.names.get(&(row.key().kind(), name.clone()));
        user.is_none_or(|user| *user == row.key())
    };
    let own = |iqn: &String| match row {
        Resource::Host(host) => book.host_of(iqn).is_none_or(|user| user == host.id),
        _ => true,
    };
    let iqns = match row {
        Resource::Host(host) => host.iqns.as_slice(),
        _ => &[],
    };
    name.is_none_or(free) && iqns.iter().all(own)
}

#[test]
fn the_register_is_that_of_the_tables_whatever_is_done_and_undone() {
    let mut dice = Dice(7);
    let mut book = Book::default();
    let mut deeds = 0;
    for _ in 0..3000 {
        let op = row(&mut dice);
        if !is_lawful(&book, &op) {
            continue;
        }
        deeds += 1;
        let before = book.clone();
        let was = book.apply(&op);
        assert!(same_register(&book, &Book::from(book.tables())), "after {op:?}");
        if dice.below(3) == 0 {
            book.undo(&op, was);
            assert_eq!(book, before);
            assert!(same_register(&book, &before), "{op:?} undone");
        }
        for pool in book.tables().pools.keys() {
            assert_eq!(book.used_bytes(*pool), book.tables().used_bytes(*pool));
        }
    }
    assert!(deeds > 1000, "{deeds}");
}

#[test]
fn a_row_is_found_by_whatever_it_is_called() {
    let mut dice = Dice(11);
    let mut book = Book::default();
    let mut found = 0;
    for _ in 0..400 {
        let op = row(&mut dice);
        if is_lawful(&book, &op) {
            book.apply(&op);
        }
    }
    for row in book.tables().rows() {
        let key = row.key();
        let id = pollux_api::config::item::reference(&key);
        assert_eq!(book.find(key.kind(), &id), Some(row.clone()), "by {id}");
        if let Some(name) = row.name() {
            assert_eq!(book.find(key.kind(), name), Some(row.clone()), "by {name}");
        }
        if let Resource::Address(address) = &row {
            let ip = address.cidr.split('/').next().unwrap();
            assert_eq!(book.find(Kind::Address, ip), Some(row.clone()));
            assert_eq!(book.find(Kind::Address, &address.cidr), Some(row.clone()));
        }
        found += 1;
    }
    assert!(found > 10, "{found}");
    assert_eq!(book.find(Kind::Address, "10.0.0"), None);
    assert_eq!(book.find(Kind::Mapping, "a@b"), None);
}
