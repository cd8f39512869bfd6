//! The teller who reads the whole form before taking it to the ledger: from what is asked to what each row
//! becomes, or to *everything* that is wrong with it.
//!
//! A request ([`Op`]) speaks of names and leaves identities out; a plan ([`RowOp`]) is the finished row. Only the
//! sequencer plans; what is replicated are rows, so a follower needs no rule of this file. Identities are made
//! from the action's, so the same action planned again gives the same rows: no clock, no randomness.
//!
//! Never here: a rule that depends on anything but the tables, the request and the [`Site`].

use crate::book::Book;
use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use pollux_api::action::ActionId;
use pollux_api::config::{
    Address, AddressId, Backend, Change, Hex, Host, HostId, Key, Kind, LUN_MAX, Mapping, MappingId, NAME_MAX,
    Op, Pool, PoolSpace, Redundancy, Resource, RowOp, Tables, VOLUME_BLOCK, VOLUME_MIN, Volume,
};
use pollux_api::error::Problem;
use pollux_api::id::{DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::Level;

/// Most legs of a mirror.
const LEGS_MAX: usize = 4;
/// Most disks of a volume group. Its data stand twice or three times, however many there are: with each pair of disks more
/// there is one pair more whose loss is that of the pool.
const GROUP_DISKS_MAX: usize = 16;
/// Longest iSCSI name (bytes; RFC 7143, 4.2.7.2).
const ISCSI_NAME_MAX: usize = 223;
/// Most deeds of one change.
pub const OPS_MAX: usize = 1000;

/// What stands in the enclosure and cannot be changed by configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Site {
    /// Slots that hold a disk; empty: not known, any slot is taken for good.
    pub disks: BTreeSet<DiskIndex>,
    /// Disks that carry the quorum area and therefore are never members of a pool.
    pub quorum: BTreeSet<DiskIndex>,
    /// Addresses that are the controllers' own.
    pub reserved: BTreeSet<IpAddr>,
}

/// What a change does, row by row; empty: nothing, all is so already. The book is as before when this returns.
///
/// # Errors
/// Every problem of every op. An op that refers to what a refused op would have made is not blamed for it.
pub fn plan(
    site: &Site,
    book: &mut Book,
    action: ActionId,
    change: &Change,
) -> Result<Vec<RowOp>, Vec<Problem>> {
    let mut planner = Planner {
        site,
        book,
        action,
        op: 0,
        refused: BTreeSet::new(),
        rows: vec![],
        before: vec![],
        problems: vec![],
    };
    if change.ops.is_empty() {
        planner.at("ops", "there is nothing in it", "at least one op");
    }
    if change.ops.len() > OPS_MAX {
        planner.at(
            "ops",
            &format!("there are {}", change.ops.len()),
            &format!("at most {OPS_MAX} in one change"),
        );
    } else {
        for (op, deed) in change.ops.iter().enumerate() {
            planner.op = op;
            planner.deed(deed);
        }
    }
    for (row, before) in planner.rows.iter().zip(planner.before).rev() {
        planner.book.undo(row, before);
    }
    if planner.problems.is_empty() {
        Ok(planner.rows)
    } else {
        Err(planner.problems)
    }
}

struct Planner<'a> {
    site: &'a Site,
    book: &'a mut Book,
    action: ActionId,
    op: usize,
    /// What refused ops would have made.
    refused: BTreeSet<(Kind, String)>,
    rows: Vec<RowOp>,
    /// What each of the rows was before.
    before: Vec<Option<Resource>>,
    problems: Vec<Problem>,
}

impl Planner<'_> {
    fn at(&mut self, path: &str, what: &str, remedy: &str) {
        self.problems.push(Problem {
            path: path.into(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    fn wrong(&mut self, field: &str, what: &str, remedy: &str) {
        self.at(&format!("ops[{}].{field}", self.op), what, remedy);
    }

    fn row(&mut self, op: RowOp) {
        self.before.push(self.book.apply(&op));
        self.rows.push(op);
    }

    fn tables(&self) -> &Tables {
        self.book.tables()
    }

    fn put(&mut self, row: Resource) {
        self.row(RowOp::Put(row));
    }

    /// Identity of what this op makes: a version 8 UUID (RFC 9562) out of action and place.
    fn identity(&self) -> [u8; 16] {
        let mut hash = blake3::Hasher::new_derive_key("pollux 2026 identity of a row");
        hash.update(self.action.as_bytes())
            .update(&(self.op as u64).to_le_bytes());
        let mut id = [0; 16];
        hash.finalize_xof().fill(&mut id);
        id[6] = id[6] & 0x0f | 0x80;
        id[8] = id[8] & 0x3f | 0x80;
        id
    }

    fn deed(&mut self, op: &Op) {
        let before = self.problems.len();
        match op {
            Op::CreatePool {
                name,
                class,
                home,
                redundancy,
                backend,
                disks,
            } => {
                self.name(Kind::Pool, name);
                let mut sorted = disks.clone();
                sorted.sort_unstable();
                sorted.dedup();
                self.disks(*redundancy, *backend, disks, &sorted);
                if self.refuse(before, Kind::Pool, name) {
                    let id = PoolId::from_bytes(self.identity());
                    let (name, class, home, redundancy) = (name.clone(), *class, *home, *redundancy);
                    self.put(Resource::Pool(Pool {
                        id,
                        name,
                        class,
                        home,
                        redundancy,
                        backend: *backend,
                        disks: sorted,
                        ready: None,
                    }));
                }
            }
            Op::PoolReady {
                pool,
                capacity_bytes,
                extent_bytes,
            } => {
                let found = self.pool("pool", pool);
                if *extent_bytes == 0 || !extent_bytes.is_multiple_of(VOLUME_BLOCK) {
                    self.wrong(
                        "extent_bytes",
                        &extent_bytes.to_string(),
                        &format!("a multiple of {VOLUME_BLOCK}, above zero"),
                    );
                }
                if let Some(row) = &found {
                    let used = self.book.used_bytes(row.id);
                    if *capacity_bytes < used.max(1) {
                        self.wrong(
                            "capacity_bytes",
                            &capacity_bytes.to_string(),
                            &format!("at least the {used} bytes that volumes use"),
                        );
                    }
                }
                let space = PoolSpace {
                    capacity_bytes: *capacity_bytes,
                    extent_bytes: *extent_bytes,
                };
                if let Some(row) =
                    found.filter(|row| self.problems.len() == before && row.ready != Some(space))
                {
                    self.put(Resource::Pool(Pool {
                        ready: Some(space),
                        ..row
                    }));
                }
            }
            Op::SetHome { pool, home } => {
                if let Some(row) = self.pool("pool", pool).filter(|row| row.home != *home) {
                    self.put(Resource::Pool(Pool { home: *home, ..row }));
                }
            }
            Op::CreateVolume {
                name,
                pool,
                size_bytes,
            } => {
                self.name(Kind::Volume, name);
                let found = self.pool("pool", pool);
                self.size(found.as_ref(), *size_bytes, 0);
                if self.refuse(before, Kind::Volume, name)
                    && let Some(pool) = found
                {
                    let bytes = self.identity();
                    let serial = Hex::<8>(core::array::from_fn(|i| bytes[i] ^ bytes[i + 8])).to_string();
                    let (id, name, size_bytes) = (VolumeId::from_bytes(bytes), name.clone(), *size_bytes);
                    self.put(Resource::Volume(Volume {
                        id,
                        name,
                        pool: pool.id,
                        size_bytes,
                        serial,
                    }));
                }
            }
            Op::ResizeVolume { volume, size_bytes } => {
                let Some(row) = self.volume("volume", volume) else {
                    return;
                };
                let pool = self.tables().pools.get(&row.pool).cloned();
                if *size_bytes < row.size_bytes {
                    let want = format!(
                        "at least the present {} bytes: a volume does not shrink",
                        row.size_bytes
                    );
                    self.wrong("size_bytes", &size_bytes.to_string(), &want);
                } else if *size_bytes > row.size_bytes {
                    self.size(pool.as_ref(), *size_bytes, row.size_bytes);
                    if self.problems.len() == before {
                        self.put(Resource::Volume(Volume {
                            size_bytes: *size_bytes,
                            ..row
                        }));
                    }
                }
            }
            Op::CreateHost { name, iqns } => {
                self.name(Kind::Host, name);
                let iqns = self.iqns(None, iqns);
                if self.refuse(before, Kind::Host, name) {
                    let id = HostId(Hex(self.identity()));
                    self.put(Resource::Host(Host {
                        id,
                        name: name.clone(),
                        iqns,
                    }));
                }
            }
            Op::SetIqns { host, iqns } => {
                let found = self.host("host", host);
                let iqns = self.iqns(found.as_ref().map(|host| host.id), iqns);
                if let Some(row) = found.filter(|row| self.problems.len() == before && row.iqns != iqns) {
                    self.put(Resource::Host(Host { iqns, ..row }));
                }
            }
            Op::Map { volume, host, lun } => self.map(volume, host, *lun),
            Op::Unmap { volume, host } => {
                let (volume, host) = (self.volume("volume", volume), self.host("host", host));
                let Some((volume, host)) = volume.zip(host) else {
                    return;
                };
                match self.book.mapping_of(&Key::Volume(volume.id), &Key::Host(host.id)) {
                    Some(key) => self.row(RowOp::Delete(key)),
                    None => self.wrong(
                        "volume",
                        &format!("`{}` is not mapped to `{}`", volume.name, host.name),
                        "a volume that is mapped to that host",
                    ),
                }
            }
            Op::CreateAddress { pool, cidr } => {
                let pool = self.pool("pool", pool);
                let cidr = self.cidr(cidr);
                if let Some((pool, cidr)) = pool.zip(cidr) {
                    let id = AddressId(Hex(self.identity()));
                    self.put(Resource::Address(Address {
                        id,
                        pool: pool.id,
                        cidr,
                    }));
                }
            }
            Op::Set { item } => self.set(item),
            Op::Rename { kind, which, name } => self.rename(*kind, which, name),
            Op::Delete { kind, which } => self.delete(*kind, which),
        }
    }

    /// True: the op has no problem. Otherwise remembers what it would have made.
    fn refuse(&mut self, before: usize, kind: Kind, name: &str) -> bool {
        let good = self.problems.len() == before;
        if !good {
            self.refused.insert((kind, name.to_owned()));
        }
        good
    }

    fn name(&mut self, kind: Kind, name: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts_well || !name.chars().all(plain) || name.len() > NAME_MAX {
            let want =
                format!("1 to {NAME_MAX} letters, digits, `.`, `_` or `-`, the first a letter or digit");
            self.wrong("name", &format!("`{}` is no name", name.escape_default()), &want);
        } else if name.parse::<PoolId>().is_ok() {
            self.wrong(
                "name",
                &format!("`{name}` reads like an identity"),
                "a name that is not 32 hexadecimal digits",
            );
        } else if self.book.find(kind, name).is_some() {
            self.wrong(
                "name",
                &format!("a {} `{name}` exists", kind.as_str()),
                "a name that is free",
            );
        }
    }

    fn disks(
        &mut self,
        redundancy: Redundancy,
        backend: Option<Backend>,
        disks: &[DiskIndex],
        sorted: &[DiskIndex],
    ) {
        let right = match (redundancy, backend) {
            (Redundancy::Single, _) => sorted.len() == 1,
            (Redundancy::Mirror, Some(Backend::Lvm)) => {
                (2..=GROUP_DISKS_MAX).contains(&sorted.len()) && Level::over(sorted.len()).is_some()
            }
            (Redundancy::Mirror, _) => (2..=LEGS_MAX).contains(&sorted.len()),
        };
        if !right {
            let want = match (redundancy, backend) {
                (Redundancy::Single, _) => "exactly 1 disk for `single`".to_owned(),
                (Redundancy::Mirror, Some(Backend::Lvm)) => format!(
                    "2, 3 or an even number up to {GROUP_DISKS_MAX} of disks for `mirror` in a volume group (`lvm`)"
                ),
                (Redundancy::Mirror, _) => format!("2 to {LEGS_MAX} disks for `mirror`"),
            };
            self.wrong(
                "disks",
                &format!("there are {} different ones", sorted.len()),
                &want,
            );
        }
        for (place, disk) in disks.iter().enumerate() {
            let field = format!("disks[{place}]");
            let user = self
                .tables()
                .pools
                .values()
                .find(|pool| pool.disks.contains(disk))
                .map(|pool| pool.name.clone());
            if disks[..place].contains(disk) {
                self.wrong(&field, &format!("{disk} is listed twice"), "each disk once");
            } else if self.site.quorum.contains(disk) {
                self.wrong(
                    &field,
                    &format!("{disk} carries the quorum area"),
                    "a disk that is not a quorum disk",
                );
            } else if !self.site.disks.is_empty() && !self.site.disks.contains(disk) {
                let free: Vec<_> = self.site.disks.difference(&self.site.quorum).collect();
                self.wrong(
                    &field,
                    &format!("the shelf has no {disk}"),
                    &format!("one of {}", list(free.iter())),
                );
            } else if let Some(user) = user {
                self.wrong(
                    &field,
                    &format!("{disk} belongs to pool `{user}`"),
                    "a disk that is in no pool",
                );
            }
        }
    }

    /// `now`: what the volume takes already.
    fn size(&mut self, pool: Option<&Pool>, size: u64, now: u64) {
        if size < VOLUME_MIN || !size.is_multiple_of(VOLUME_BLOCK) {
            let want = format!("a multiple of {VOLUME_BLOCK} bytes, at least {VOLUME_MIN}");
            self.wrong("size_bytes", &size.to_string(), &want);
        }
        let Some(pool) = pool else { return };
        let Some(space) = pool.ready else {
            let what = format!(
                "pool `{}` has not been imported yet, its space is not known",
                pool.name
            );
            return self.wrong("pool", &what, "a pool that `pollux pool list` shows with a size");
        };
        let round = |bytes: u64| {
            bytes
                .div_ceil(space.extent_bytes)
                .saturating_mul(space.extent_bytes)
        };
        let free = space.capacity_bytes.saturating_sub(self.book.used_bytes(pool.id));
        let room = free.saturating_add(round(now));
        if round(size) > room {
            let what = format!("{size} bytes do not fit into pool `{}`", pool.name);
            self.wrong("size_bytes", &what, &format!("at most {room} bytes"));
        }
    }

    /// Names of initiators in good order; what is wrong with them is noted.
    fn iqns(&mut self, of: Option<HostId>, iqns: &[String]) -> Vec<String> {
        if iqns.is_empty() {
            self.wrong(
                "iqns",
                "there is none",
                "at least one initiator name, as in iqn.2026-01.com.example:host1",
            );
        }
        for (place, iqn) in iqns.iter().enumerate() {
            let field = format!("iqns[{place}]");
            let user = self.book.host_of(iqn).filter(|host| Some(*host) != of);
            let user = user.and_then(|host| Some(self.tables().hosts.get(&host)?.name.clone()));
            if let Err(want) = iscsi_name(iqn) {
                self.wrong(
                    &field,
                    &format!("`{}` is no iSCSI name", iqn.escape_default()),
                    want,
                );
            } else if iqns[..place].contains(iqn) {
                self.wrong(&field, &format!("`{iqn}` is listed twice"), "each name once");
            } else if let Some(user) = user {
                self.wrong(
                    &field,
                    &format!("`{iqn}` belongs to host `{user}`"),
                    "a name that no other host has",
                );
            }
        }
        let mut sorted = iqns.to_vec();
        sorted.sort_unstable();
        sorted
    }

    fn map(&mut self, volume: &str, host: &str, lun: Option<u16>) {
        let before = self.problems.len();
        let (volume, host) = (self.volume("volume", volume), self.host("host", host));
        if let Some(lun) = lun.filter(|lun| *lun > LUN_MAX) {
            self.wrong("lun", &lun.to_string(), &format!("0 to {LUN_MAX}"));
        }
        let Some((volume, host)) = volume.zip(host) else {
            return;
        };
        let of_host = self.book.users(Key::Host(host.id)).filter_map(|key| match key {
            Key::Mapping(id) => self.tables().mappings.get(id),
            _ => None,
        });
        let taken: Vec<(u16, VolumeId)> = of_host.map(|row| (row.lun, row.volume)).collect();
        let free = (0..=LUN_MAX).find(|lun| taken.iter().all(|(used, _)| used != lun));
        if let Some((lun, _)) = taken.iter().find(|(_, other)| *other == volume.id) {
            let what = format!(
                "`{}` is mapped to `{}` already, as LUN {lun}",
                volume.name, host.name
            );
            self.wrong("volume", &what, "a volume that this host does not see yet");
        }
        let user = lun.and_then(|lun| taken.iter().find(|(used, _)| *used == lun));
        if let Some((lun, user)) = user {
            let user = self
                .tables()
                .volumes
                .get(user)
                .map_or_else(String::new, |volume| volume.name.clone());
            let what = format!("LUN {lun} of host `{}` is volume `{user}`", host.name);
            let want = free.map_or("none: every number is taken".into(), |free| {
                format!("a number that is free, {free} for example")
            });
            self.wrong("lun", &what, &want);
        }
        match lun.or(free) {
            None => self.wrong(
                "lun",
                "every number of this host is taken",
                "unmap a volume first",
            ),
            Some(lun) if self.problems.len() == before => {
                let id = MappingId(Hex(self.identity()));
                self.put(Resource::Mapping(Mapping {
                    id,
                    volume: volume.id,
                    host: host.id,
                    lun,
                }));
            }
            Some(_) => {}
        }
    }

    /// Canonical spelling; what is wrong is noted.
    fn cidr(&mut self, text: &str) -> Option<String> {
        const WANT: &str = "an address with its prefix length, as in 10.78.0.50/24 or fd00::50/64";
        let parsed = text.split_once('/').and_then(|(ip, prefix)| {
            let plain = !prefix.is_empty() && prefix.bytes().all(|c| c.is_ascii_digit());
            Some((
                ip.parse::<IpAddr>().ok()?,
                prefix.parse::<u8>().ok().filter(|_| plain)?,
            ))
        });
        let Some((ip, prefix)) = parsed else {
            self.wrong(
                "cidr",
                &format!("`{}` is no address", text.escape_default()),
                WANT,
            );
            return None;
        };
        let Some((network, last)) = network(ip, prefix) else {
            self.wrong("cidr", &format!("a prefix of {prefix} bits"), WANT);
            return None;
        };
        let (bits, wide) = (bits(ip), if ip.is_ipv4() { prefix < 31 } else { prefix < 127 });
        if ip.is_unspecified()
            || ip.is_loopback()
            || ip.is_multicast()
            || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
        {
            self.wrong("cidr", &format!("{ip} is not the address of one machine"), WANT);
            return None;
        }
        if wide && (bits == network || ip.is_ipv4() && bits == last) {
            self.wrong(
                "cidr",
                &format!("{ip} is the address of the network {ip}/{prefix} itself or its broadcast address"),
                WANT,
            );
            return None;
        }
        if self.site.reserved.contains(&ip) {
            self.wrong(
                "cidr",
                &format!("{ip} is a controller's own address"),
                "an address that is free",
            );
            return None;
        }
        for other in self
            .tables()
            .addresses
            .values()
            .map(|row| row.cidr.clone())
            .collect::<Vec<_>>()
        {
            let Some((other_ip, other_prefix)) = other.split_once('/') else {
                continue;
            };
            let (Ok(other_ip), Ok(other_prefix)) = (other_ip.parse::<IpAddr>(), other_prefix.parse::<u8>())
            else {
                continue;
            };
            if other_ip == ip {
                self.wrong("cidr", &format!("{other} exists"), "an address that is free");
                return None;
            }
            let same_family = other_ip.is_ipv4() == ip.is_ipv4();
            let overlap = self::network(other_ip, other_prefix)
                .is_some_and(|(first, end)| first <= last && network <= end);
            if same_family && overlap && other_prefix != prefix {
                self.wrong(
                    "cidr",
                    &format!("its network overlaps that of {other}"),
                    &format!("the same prefix length, /{other_prefix}, or another network"),
                );
                return None;
            }
        }
        Some(format!("{ip}/{prefix}"))
    }

    fn rename(&mut self, kind: Kind, which: &str, name: &str) {
        let Some(row) = self.find("which", kind, which) else {
            return;
        };
        let before = self.problems.len();
        let old = match &row {
            Resource::Pool(row) => &row.name,
            Resource::Volume(row) => &row.name,
            Resource::Host(row) => &row.name,
            Resource::Item(row) => row.name(),
            Resource::Mapping(_) | Resource::Address(_) => {
                return self.wrong(
                    "kind",
                    &format!("a {kind} has no name"),
                    "pool, volume or host, or any kind of item",
                );
            }
        };
        if old == name {
            return;
        }
        self.name(kind, name);
        if self.problems.len() == before {
            let name = name.to_owned();
            self.put(match row {
                Resource::Pool(row) => Resource::Pool(Pool { name, ..row }),
                Resource::Volume(row) => Resource::Volume(Volume { name, ..row }),
                Resource::Host(row) => Resource::Host(Host { name, ..row }),
                Resource::Item(mut row) => {
                    *row.name_mut() = name;
                    Resource::Item(row)
                }
                other @ (Resource::Mapping(_) | Resource::Address(_)) => other,
            });
        }
    }

    fn delete(&mut self, kind: Kind, which: &str) {
        let Some(row) = self.find("which", kind, which) else {
            return;
        };
        let users = self.book.users(row.key());
        let users: Vec<String> = users.map(|key| self.called(key)).collect();
        if users.is_empty() {
            self.row(RowOp::Delete(row.key()));
        } else {
            let what = format!("{} `{which}` is in use by {}", kind.as_str(), list(users.iter()));
            self.wrong("which", &what, "delete those first");
        }
    }

    /// A row, as a sentence speaks of it.
    fn called(&self, key: &Key) -> String {
        let name = |key: Key| {
            let row = self.tables().get(&key);
            row.and_then(|row| row.name().cloned())
                .unwrap_or_else(|| "?".to_owned())
        };
        match self.tables().get(key) {
            Some(Resource::Mapping(row)) => format!(
                "the mapping of `{}` to `{}` as LUN {}",
                name(Key::Volume(row.volume)),
                name(Key::Host(row.host)),
                row.lun
            ),
            Some(Resource::Address(row)) => format!("address {}", row.cidr),
            _ => format!("{} `{}`", key.kind(), name(*key)),
        }
    }

    fn find(&mut self, field: &str, kind: Kind, which: &str) -> Option<Resource> {
        let found = self.book.find(kind, which);
        if found.is_none() && !self.refused.contains(&(kind, which.to_owned())) {
            let known = names(self.tables(), kind);
            let want = if known.is_empty() {
                format!("there is no {} yet: make one first", kind.as_str())
            } else {
                format!("one of {}", list(known.iter()))
            };
            self.wrong(
                field,
                &format!("there is no {} `{}`", kind.as_str(), which.escape_default()),
                &want,
            );
        }
        found
    }

    fn pool(&mut self, field: &str, which: &str) -> Option<Pool> {
        match self.find(field, Kind::Pool, which)? {
            Resource::Pool(row) => Some(row),
            _ => None,
        }
    }

    fn volume(&mut self, field: &str, which: &str) -> Option<Volume> {
        match self.find(field, Kind::Volume, which)? {
            Resource::Volume(row) => Some(row),
            _ => None,
        }
    }

    fn host(&mut self, field: &str, which: &str) -> Option<Host> {
        match self.find(field, Kind::Host, which)? {
            Resource::Host(row) => Some(row),
            _ => None,
        }
    }
}

/// What the rows of a kind are called.
fn names(tables: &Tables, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Pool => tables.pools.values().map(|row| row.name.clone()).collect(),
        Kind::Volume => tables.volumes.values().map(|row| row.name.clone()).collect(),
        Kind::Host => tables.hosts.values().map(|row| row.name.clone()).collect(),
        Kind::Mapping => tables.mappings.keys().map(ToString::to_string).collect(),
        Kind::Address => tables.addresses.values().map(|row| row.cidr.clone()).collect(),
        item => {
            let rows = tables.items.get(&item).into_iter().flatten();
            rows.map(|(_, row)| row.name().clone()).collect()
        }
    }
}

/// The first few, and how many more there are.
fn list(items: impl ExactSizeIterator<Item: ToString>) -> String {
    const SHOWN: usize = 8;
    let count = items.len();
    let mut text = items
        .take(SHOWN)
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    if count > SHOWN {
        text.push_str(&format!(" and {} more", count - SHOWN));
    }
    text
}

/// Checks an iSCSI name (RFC 7143, 4.2.7): `iqn.`, `eui.` or `naa.`, in lower case (RFC 3722).
fn iscsi_name(name: &str) -> Result<(), &'static str> {
    const IQN: &str =
        "iqn.YYYY-MM.reversed.domain, then perhaps `:` and anything; as in iqn.2026-01.com.example:host1";
    let hex = |text: &str| text.bytes().all(|c| c.is_ascii_hexdigit());
    if name.len() > ISCSI_NAME_MAX {
        return Err("at most 223 bytes");
    }
    if name.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err("the same in lower case");
    }
    if let Some(rest) = name.strip_prefix("eui.") {
        return if rest.len() == 16 && hex(rest) {
            Ok(())
        } else {
            Err("eui. and 16 hexadecimal digits")
        };
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        return if matches!(rest.len(), 16 | 32) && hex(rest) {
            Ok(())
        } else {
            Err("naa. and 16 or 32 hexadecimal digits")
        };
    }
    let rest = name.strip_prefix("iqn.").ok_or(IQN)?;
    let (date, rest) = rest.split_once('.').ok_or(IQN)?;
    let (year, month) = date.split_once('-').ok_or(IQN)?;
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    if year.len() != 4
        || !digits(year)
        || month.len() != 2
        || !digits(month)
        || !("01"..="12").contains(&month)
    {
        return Err(IQN);
    }
    let (domain, own) = rest
        .split_once(':')
        .map_or((rest, None), |(domain, own)| (domain, Some(own)));
    let label = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':'))
    };
    if domain.split('.').all(label) && own.is_none_or(plain) {
        Ok(())
    } else {
        Err(IQN)
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// First and last address of a network; none for a prefix that no address has.
fn network(ip: IpAddr, prefix: u8) -> Option<(u128, u128)> {
    let width: u32 = if ip.is_ipv4() { 32 } else { 128 };
    let host = width.checked_sub(u32::from(prefix)).filter(|_| prefix > 0)?;
    let mask = (1_u128 << host) - 1;
    Some((bits(ip) & !mask, bits(ip) | mask))
}

mod items;
pub use items::secret_is_right;
#[cfg(test)]
mod tests;
