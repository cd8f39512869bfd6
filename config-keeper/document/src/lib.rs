//! The configuration as a person writes it, and the way from what is to what is written.
//!
//! ```text
//! tables  --Document::of-->  document  --(a person edits)-->  document  --steps(tables)-->  ops  --plan-->  rows
//! ```
//!
//! A document names things by their names. Identities may stand in it; then a thing that has another name is renamed
//! instead of deleted and made again. What a document leaves out is to be gone. [`steps`] only finds the way: whether
//! it may be taken is for the keeper to say, whose rules every change passes.
//!
//! Never here: an op that the document does not ask for; a way that loses data without saying so in [`Steps::lost`].

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use pollux_api::config::item::{self, Item, ItemId, reference};
use pollux_api::config::{self, Backend, Class, HostId, Key, Kind, Op, Redundancy, Resource, Tables};
use pollux_api::error::Problem;
use pollux_api::id::{ControllerId, DiskIndex, PoolId, VolumeId};
use pollux_api::size::Size;
use serde::{Deserialize, Serialize};

macro_rules! document {
    ($($(#[$doc:meta])* $Kind:ident $field:ident;)*) => {
        /// The whole configuration.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Document {
            /// Pools.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub pool: Vec<Pool>,
            /// Volumes.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub volume: Vec<Volume>,
            /// Hosts.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub host: Vec<Host>,
            /// Which host sees which volume.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub mapping: Vec<Mapping>,
            /// Addresses that move with a pool.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub address: Vec<Address>,
            $($(#[$doc])* #[serde(skip_serializing_if = "Vec::is_empty")] pub $field: Vec<item::$Kind>,)*
        }

        impl Document {
            fn push(&mut self, item: Item) {
                match item {
                    $(Item::$Kind(item) => self.$field.push(item),)*
                }
            }

            /// Every item with its number among those of its kind, kind by kind.
            #[must_use]
            pub fn items(&self) -> Vec<(usize, Item)> {
                let mut items = Vec::new();
                $(items.extend(self.$field.iter().cloned().map(Item::$Kind).enumerate());)*
                items
            }

            fn sort_items(&mut self) {
                $(self.$field.sort_by(|one, other| one.name.cmp(&other.name));)*
            }
        }
    };
}

document! {
    /// What is a controller's own.
    Controller controller;
    /// Networks.
    Network network;
    /// Ports of the controllers.
    Port port;
    /// Disks that are in no pool.
    Disk disk;
    /// Groups of hosts.
    HostGroup host_group;
    /// File systems.
    FileSystem file_system;
    /// When snapshots are taken.
    Schedule schedule;
    /// Snapshots.
    Snapshot snapshot;
    /// Roles of the operator's own making.
    AccessRole access_role;
    /// Who may sign in.
    User user;
    /// Shares.
    Share share;
    /// Tokens of programs.
    Token token;
    /// Secrets of services, sealed.
    Key key;
    /// Rules.
    Policy policy;
    /// Settings of services.
    Settings settings;
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub class: Class,
    /// Where it belongs.
    pub home: ControllerId,
    /// How it survives the loss of disks.
    pub redundancy: Redundancy,
    /// What keeps its data; left out: what its disks are for, or for a pool that is there, what it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// Slots of its disks.
    pub disks: Vec<DiskIndex>,
    /// Its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<PoolId>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The pool that it is on.
    pub pool: String,
    /// Its size.
    pub size: Size,
    /// Its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<VolumeId>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Names of its initiators.
    pub iqns: Vec<String>,
    /// Its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<HostId>,
}

/// A host sees a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The volume.
    pub volume: String,
    /// The host.
    pub host: String,
    /// The number under which it sees it; none: as it is, or the lowest that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lun: Option<u16>,
}

/// A floating address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Address with prefix length.
    pub address: String,
    /// The pool with which it moves.
    pub pool: String,
}

impl Document {
    /// What the tables say, in the order of names.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        let pool_name = |id: PoolId| {
            let pool = tables.pools.get(&id);
            pool.map_or_else(|| id.to_string(), |pool| pool.name.clone())
        };
        let mut document = Self {
            pool: tables
                .pools
                .values()
                .map(|row| Pool {
                    name: row.name.clone(),
                    class: row.class,
                    home: row.home,
                    redundancy: row.redundancy,
                    backend: row.backend,
                    disks: row.disks.clone(),
                    id: Some(row.id),
                })
                .collect(),
            volume: tables
                .volumes
                .values()
                .map(|row| Volume {
                    name: row.name.clone(),
                    pool: pool_name(row.pool),
                    size: Size(row.size_bytes),
                    id: Some(row.id),
                })
                .collect(),
            host: tables
                .hosts
                .values()
                .map(|row| Host {
                    name: row.name.clone(),
                    iqns: row.iqns.clone(),
                    id: Some(row.id),
                })
                .collect(),
            mapping: tables
                .mappings
                .values()
                .map(|row| {
                    let volume = tables.volumes.get(&row.volume);
                    let host = tables.hosts.get(&row.host);
                    Mapping {
                        volume: volume.map_or_else(|| row.volume.to_string(), |volume| volume.name.clone()),
                        host: host.map_or_else(|| row.host.to_string(), |host| host.name.clone()),
                        lun: Some(row.lun),
                    }
                })
                .collect(),
            address: tables
                .addresses
                .values()
                .map(|row| Address {
                    address: row.cidr.clone(),
                    pool: pool_name(row.pool),
                })
                .collect(),
            ..Self::default()
        };
        tables.items().for_each(|item| document.push(named(tables, item)));
        document.sort_items();
        document.pool.sort_by(|one, other| one.name.cmp(&other.name));
        document.volume.sort_by(|one, other| one.name.cmp(&other.name));
        document.host.sort_by(|one, other| one.name.cmp(&other.name));
        document
            .mapping
            .sort_by(|one, other| (&one.host, one.lun).cmp(&(&other.host, other.lun)));
        document
            .address
            .sort_by(|one, other| one.address.cmp(&other.address));
        document
    }
}

/// An item with names where the row has identities.
#[must_use]
pub fn named(tables: &Tables, item: &Item) -> Item {
    let mut item = item.clone();
    for link in item.links() {
        if let Some(name) = Key::parse(link.kind, link.which)
            .ok()
            .and_then(|key| tables.get(&key)?.name().cloned())
        {
            *link.which = name;
        }
    }
    item
}

/// The way from what is to what is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// What to ask for, in this order; empty: all is so already.
    pub ops: Vec<Op>,
    /// Pools, volumes, file systems and snapshots that go, and their data with them.
    pub lost: Vec<String>,
    /// Pools, volumes and file systems that are made: they are empty, whatever was once called that.
    pub made: Vec<String>,
    /// Something waits until a pool that is made has its space: ask again then.
    pub waits: bool,
}

/// The way from the tables to a document.
///
/// # Errors
/// Everything in the document that contradicts itself, or to which there is no way, with the field.
pub fn steps(now: &Tables, wanted: &Document) -> Result<Steps, Vec<Problem>> {
    let mut way = Way {
        now,
        wanted,
        problems: Vec::new(),
        steps: Steps::default(),
        gone: BTreeSet::new(),
        early: Vec::new(),
    };
    let pools = way.pools();
    let volumes = way.volumes(&pools);
    let hosts = way.hosts();
    way.mappings(&volumes, &hosts);
    way.addresses(&pools);
    way.items(&pools, &volumes, &hosts);
    if way.problems.is_empty() {
        Ok(way.in_order())
    } else {
        Err(way.problems)
    }
}

struct Way<'a> {
    now: &'a Tables,
    wanted: &'a Document,
    problems: Vec<Problem>,
    steps: Steps,
    /// Rows that are deleted.
    gone: BTreeSet<Key>,
    /// What has to be done before anything is deleted.
    early: Vec<Op>,
}

/// Which row each entry of a kind is; none: it is made.
struct Met<I> {
    rows: Vec<Option<I>>,
    place: BTreeMap<String, usize>,
}

impl<I: Copy> Met<I> {
    /// The entry of that name, and the row that it is.
    fn find(&self, name: &str) -> Option<(usize, Option<I>)> {
        let place = *self.place.get(name)?;
        Some((place, self.rows[place]))
    }
}

/// How an op names what exists, or what an earlier op makes.
fn which<I: ToString>(row: Option<I>, name: &str) -> String {
    row.map_or_else(|| name.to_owned(), |id| id.to_string())
}

impl Way<'_> {
    fn wrong(&mut self, path: String, what: impl Into<String>, remedy: &str) {
        self.problems.push(Problem {
            path,
            what: what.into(),
            remedy: remedy.to_owned(),
        });
    }

    /// By identity first: who is called otherwise now is no other.
    fn meet<I: Copy + Ord>(
        &mut self,
        kind: Kind,
        wanted: &[(Option<I>, &str)],
        rows: &[(I, &str)],
    ) -> Met<I> {
        let (mut met, mut place) = (Vec::new(), BTreeMap::new());
        let exists = |id: &I| rows.iter().any(|(row, _)| row == id);
        let mut taken: BTreeSet<I> = BTreeSet::new();
        for (at, (id, name)) in wanted.iter().enumerate() {
            if place.insert((*name).to_owned(), at).is_some() {
                let what = format!("`{}` stands twice", name.escape_default());
                self.wrong(format!("{}[{at}].name", kind.as_str()), what, "each name once");
            }
            let id = id.filter(exists);
            if id.is_some_and(|id| !taken.insert(id)) {
                let what = "this identity stands twice";
                self.wrong(
                    format!("{}[{at}].id", kind.as_str()),
                    what,
                    "leave one of them out",
                );
            }
            met.push(id);
        }
        for (found, (_, name)) in met.iter_mut().zip(wanted) {
            if found.is_none() {
                let row = rows.iter().find(|(id, row)| row == name && !taken.contains(id));
                *found = row.map(|(id, _)| *id);
                taken.extend(*found);
            }
        }
        Met { rows: met, place }
    }

    fn pools(&mut self) -> Met<PoolId> {
        let (now, wanted) = (self.now, self.wanted);
        let entries: Vec<_> = wanted
            .pool
            .iter()
            .map(|pool| (pool.id, pool.name.as_str()))
            .collect();
        let rows: Vec<_> = now
            .pools
            .values()
            .map(|row| (row.id, row.name.as_str()))
            .collect();
        let met = self.meet(Kind::Pool, &entries, &rows);
        for (at, (pool, id)) in wanted.pool.iter().zip(&met.rows).enumerate() {
            let Some(row) = id.and_then(|id| now.pools.get(&id)) else {
                self.steps.made.push(format!("pool {}", pool.name));
                self.steps.ops.push(Op::CreatePool {
                    name: pool.name.clone(),
                    class: pool.class,
                    home: pool.home,
                    redundancy: pool.redundancy,
                    backend: pool.backend,
                    disks: pool.disks.clone(),
                });
                continue;
            };
            let mut disks = pool.disks.clone();
            disks.sort_unstable();
            for (field, same) in [
                ("class", pool.class == row.class),
                ("redundancy", pool.redundancy == row.redundancy),
                ("backend", pool.backend.is_none() || pool.backend == row.backend),
                ("disks", disks == row.disks),
            ] {
                if !same {
                    let what = format!("pool `{}` has another", row.name);
                    self.wrong(
                        format!("pool[{at}].{field}"),
                        what,
                        "what it was made with; or make another pool",
                    );
                }
            }
            self.rename(Kind::Pool, row.id.to_string(), &row.name, &pool.name);
            if pool.home != row.home {
                let (pool, home) = (row.id.to_string(), pool.home);
                self.steps.ops.push(Op::SetHome { pool, home });
            }
        }
        for row in now.pools.values().filter(|row| !met.rows.contains(&Some(row.id))) {
            self.delete(Key::Pool(row.id));
            self.steps.lost.push(format!("pool {}", row.name));
        }
        met
    }

    fn volumes(&mut self, pools: &Met<PoolId>) -> Met<VolumeId> {
        let (now, wanted) = (self.now, self.wanted);
        let entries: Vec<_> = wanted
            .volume
            .iter()
            .map(|volume| (volume.id, volume.name.as_str()))
            .collect();
        let rows: Vec<_> = now
            .volumes
            .values()
            .map(|row| (row.id, row.name.as_str()))
            .collect();
        let met = self.meet(Kind::Volume, &entries, &rows);
        for (at, (volume, id)) in wanted.volume.iter().zip(&met.rows).enumerate() {
            let Some((_, pool)) = pools.find(&volume.pool) else {
                self.no_such(format!("volume[{at}].pool"), "pool", &volume.pool);
                continue;
            };
            let Some(row) = id.and_then(|id| now.volumes.get(&id)) else {
                let ready = pool
                    .and_then(|id| now.pools.get(&id))
                    .is_some_and(|row| row.ready.is_some());
                self.steps.made.push(format!("volume {}", volume.name));
                if ready {
                    self.steps.ops.push(Op::CreateVolume {
                        name: volume.name.clone(),
                        pool: which(pool, &volume.pool),
                        size_bytes: volume.size.0,
                    });
                } else {
                    self.steps.waits = true;
                }
                continue;
            };
            if pool != Some(row.pool) {
                let what = format!("volume `{}` is on another pool", row.name);
                self.wrong(
                    format!("volume[{at}].pool"),
                    what,
                    "the pool that it is on: a volume does not move between pools",
                );
            }
            self.rename(Kind::Volume, row.id.to_string(), &row.name, &volume.name);
            if volume.size.0 < row.size_bytes {
                let what = format!("volume `{}` has {}", row.name, Size(row.size_bytes));
                self.wrong(
                    format!("volume[{at}].size"),
                    what,
                    "at least that: a volume does not shrink",
                );
            } else if volume.size.0 > row.size_bytes {
                let (volume, size_bytes) = (row.id.to_string(), volume.size.0);
                self.steps.ops.push(Op::ResizeVolume { volume, size_bytes });
            }
        }
        for row in now
            .volumes
            .values()
            .filter(|row| !met.rows.contains(&Some(row.id)))
        {
            self.delete(Key::Volume(row.id));
            self.steps.lost.push(format!("volume {}", row.name));
        }
        met
    }

    fn hosts(&mut self) -> Met<HostId> {
        let (now, wanted) = (self.now, self.wanted);
        let entries: Vec<_> = wanted
            .host
            .iter()
            .map(|host| (host.id, host.name.as_str()))
            .collect();
        let rows: Vec<_> = now
            .hosts
            .values()
            .map(|row| (row.id, row.name.as_str()))
            .collect();
        let met = self.meet(Kind::Host, &entries, &rows);
        let (mut fewer, mut final_) = (Vec::new(), Vec::new());
        for (at, (host, id)) in wanted.host.iter().zip(&met.rows).enumerate() {
            let Some(row) = id.and_then(|id| now.hosts.get(&id)) else {
                self.steps.ops.push(Op::CreateHost {
                    name: host.name.clone(),
                    iqns: host.iqns.clone(),
                });
                continue;
            };
            self.rename(Kind::Host, row.id.to_string(), &row.name, &host.name);
            let mut iqns = host.iqns.clone();
            iqns.sort_unstable();
            if iqns == row.iqns {
                continue;
            }
            // A name that another host is to have has to be free before that host gets it.
            let elsewhere = |iqn: &String| {
                let others = wanted.host.iter().enumerate().filter(|(other, _)| *other != at);
                others
                    .map(|(_, other)| other)
                    .any(|other| other.iqns.contains(iqn))
            };
            let leaves = |iqn: &String| !host.iqns.contains(iqn) && elsewhere(iqn);
            let kept: Vec<String> = row.iqns.iter().filter(|iqn| !leaves(iqn)).cloned().collect();
            let host_id = row.id.to_string();
            if kept.is_empty() {
                self.wrong(
                    format!("host[{at}].iqns"),
                    format!(
                        "every initiator of host `{}` goes to another host at once",
                        row.name
                    ),
                    "import it in two steps: first without them, then with them at the other host",
                );
            } else if kept.len() < row.iqns.len() {
                fewer.push(Op::SetIqns {
                    host: host_id.clone(),
                    iqns: kept,
                });
            }
            final_.push(Op::SetIqns { host: host_id, iqns });
        }
        self.steps.ops.extend(fewer.into_iter().chain(final_));
        for row in now.hosts.values().filter(|row| !met.rows.contains(&Some(row.id))) {
            self.delete(Key::Host(row.id));
        }
        met
    }

    fn mappings(&mut self, volumes: &Met<VolumeId>, hosts: &Met<HostId>) {
        let (now, wanted) = (self.now, self.wanted);
        let mut kept = BTreeSet::new();
        let mut pairs = BTreeSet::new();
        for (at, mapping) in wanted.mapping.iter().enumerate() {
            let (volume, host) = (volumes.find(&mapping.volume), hosts.find(&mapping.host));
            if volume.is_none() {
                self.no_such(format!("mapping[{at}].volume"), "volume", &mapping.volume);
            }
            if host.is_none() {
                self.no_such(format!("mapping[{at}].host"), "host", &mapping.host);
            }
            let Some(((volume_at, volume), (host_at, host))) = volume.zip(host) else {
                continue;
            };
            if !pairs.insert((volume_at, host_at)) {
                let what = format!("host `{}` has volume `{}` twice", mapping.host, mapping.volume);
                self.wrong(format!("mapping[{at}]"), what, "each pair once");
            }
            let row = volume.zip(host).and_then(|(volume, host)| {
                let mut rows = now.mappings.values();
                rows.find(|row| (row.volume, row.host) == (volume, host))
            });
            if let Some(row) = row.filter(|row| mapping.lun.is_none_or(|lun| lun == row.lun)) {
                kept.insert(row.id);
                continue;
            }
            // What the volume waits for its mapping waits for.
            let exists = volume.is_some()
                || self
                    .steps
                    .ops
                    .iter()
                    .any(|op| matches!(op, Op::CreateVolume { name, .. } if *name == mapping.volume));
            if exists {
                self.steps.ops.push(Op::Map {
                    volume: which(volume, &mapping.volume),
                    host: which(host, &mapping.host),
                    lun: mapping.lun,
                });
            }
        }
        for row in now.mappings.values().filter(|row| !kept.contains(&row.id)) {
            let (volume, host) = (row.volume.to_string(), row.host.to_string());
            self.steps.ops.push(Op::Unmap { volume, host });
        }
    }

    fn addresses(&mut self, pools: &Met<PoolId>) {
        let (now, wanted) = (self.now, self.wanted);
        let (mut kept, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for (at, entry) in wanted.address.iter().enumerate() {
            let Some((_, pool)) = pools.find(&entry.pool) else {
                self.no_such(format!("address[{at}].pool"), "pool", &entry.pool);
                continue;
            };
            let cidr = canonical(&entry.address).unwrap_or_else(|| entry.address.clone());
            if !seen.insert(cidr.clone()) {
                let what = format!("`{}` stands twice", entry.address.escape_default());
                self.wrong(format!("address[{at}].address"), what, "each address once");
            }
            let row = now.addresses.values().find(|row| row.cidr == cidr);
            match row.filter(|row| Some(row.pool) == pool) {
                Some(row) => drop(kept.insert(row.id)),
                None => self.steps.ops.push(Op::CreateAddress {
                    pool: which(pool, &entry.pool),
                    cidr,
                }),
            }
        }
        for row in now.addresses.values().filter(|row| !kept.contains(&row.id)) {
            self.delete(Key::Address(row.id));
        }
    }

    /// Items, kind by kind: each after what it may refer to.
    fn items(&mut self, pools: &Met<PoolId>, volumes: &Met<VolumeId>, hosts: &Met<HostId>) {
        let (now, wanted) = (self.now, self.wanted.items());
        // What each name in the document is: a row that stays, or one that is made; and what waits for a pool.
        let mut meant: BTreeMap<(Kind, String), Option<Key>> = BTreeMap::new();
        fn note<I: Copy>(
            meant: &mut BTreeMap<(Kind, String), Option<Key>>,
            kind: Kind,
            met: &Met<I>,
            key: impl Fn(I) -> Key,
        ) {
            for (name, place) in &met.place {
                meant.insert((kind, name.clone()), met.rows[*place].map(&key));
            }
        }
        note(&mut meant, Kind::Pool, pools, Key::Pool);
        note(&mut meant, Kind::Volume, volumes, Key::Volume);
        note(&mut meant, Kind::Host, hosts, Key::Host);
        let makes = |op: &Op| match op {
            Op::CreateVolume { name, .. } => Some((Kind::Volume, name.clone())),
            _ => None,
        };
        let made: BTreeSet<_> = self.steps.ops.iter().filter_map(makes).collect();
        let mut waiting: BTreeSet<(Kind, String)> = meant
            .iter()
            .filter(|(place, row)| place.0 == Kind::Volume && row.is_none() && !made.contains(*place))
            .map(|(place, _)| place.clone())
            .collect();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_item()) {
            let entries: Vec<&(usize, Item)> =
                wanted.iter().filter(|(_, item)| item.kind() == kind).collect();
            let names: Vec<_> = entries
                .iter()
                .map(|(_, item)| (Some(item.id()).filter(|id| !id.is_none()), item.name().as_str()))
                .collect();
            let rows: Vec<&Item> = now
                .items
                .get(&kind)
                .into_iter()
                .flatten()
                .map(|(_, row)| row)
                .collect();
            let present: Vec<_> = rows.iter().map(|row| (row.id(), row.name().as_str())).collect();
            let met = self.meet(kind, &names, &present);
            for row in rows.iter().filter(|row| !met.rows.contains(&Some(row.id()))) {
                self.lose(row);
            }
            for ((at, item), found) in entries.into_iter().zip(&met.rows) {
                let row = found.and_then(|id| rows.iter().copied().find(|row| row.id() == id));
                let key = self.item(*at, item, row, &meant, &mut waiting);
                meant.insert((kind, item.name().clone()), key);
            }
        }
    }

    fn lose(&mut self, row: &Item) {
        self.delete(Key::Item(row.kind(), row.id()));
        if matches!(row.kind(), Kind::FileSystem | Kind::Snapshot) {
            self.steps.lost.push(format!("{} {}", row.kind(), row.name()));
        }
    }

    /// One item; the row that it is afterwards, none: one that is made.
    fn item(
        &mut self,
        at: usize,
        item: &Item,
        row: Option<&Item>,
        meant: &BTreeMap<(Kind, String), Option<Key>>,
        waiting: &mut BTreeSet<(Kind, String)>,
    ) -> Option<Key> {
        let (now, kind) = (self.now, item.kind());
        let (mut asked, mut settled, mut waits) = (item.clone(), true, false);
        for link in asked.links() {
            let place = (link.kind, link.which.clone());
            match meant.get(&place) {
                None => {
                    let path = format!("{kind}[{at}].{}", link.field);
                    self.no_such(path, link.kind.as_str(), link.which);
                }
                Some(Some(key)) => *link.which = reference(key),
                Some(None) => {
                    settled = false;
                    waits |= waiting.contains(&place);
                }
            }
        }
        let gone = |row: &&Item| {
            let uses = Resource::Item((*row).clone()).uses();
            uses.iter().any(|used| self.gone.contains(used))
        };
        let torn = row.is_some_and(|row| gone(&row));
        if let Some(row) = row.filter(|_| !torn || settled && !waits) {
            *asked.id_mut() = row.id();
            self.rename(kind, row.id().to_string(), row.name(), item.name());
            let mut same = asked.clone();
            same.name_mut().clone_from(row.name());
            if torn {
                // Before what it refers to is deleted, and so before it has its new name.
                self.early.push(Op::Set { item: same });
            } else if same != *row {
                if waits {
                    waiting.insert((kind, item.name().clone()));
                    self.steps.waits = true;
                } else {
                    self.steps.ops.push(Op::Set { item: asked });
                }
            }
            return Some(Key::Item(kind, row.id()));
        }
        if let Some(row) = row {
            let key = Key::Item(kind, row.id());
            let others = now
                .items()
                .any(|other| Resource::Item(other.clone()).uses().contains(&key));
            if others && !matches!(kind, Kind::FileSystem | Kind::Snapshot) {
                self.wrong(
                    format!("{kind}[{at}]"),
                    format!("what {kind} `{}` refers to is deleted and made again", row.name()),
                    "import it in two steps: first without the reference, then with it",
                );
                return Some(key);
            }
            self.lose(row);
        }
        if kind == Kind::FileSystem {
            self.steps.made.push(format!("{kind} {}", item.name()));
        }
        if waits {
            waiting.insert((kind, item.name().clone()));
            self.steps.waits = true;
        } else {
            *asked.id_mut() = ItemId::default();
            self.steps.ops.push(Op::Set { item: asked });
        }
        None
    }

    fn rename(&mut self, kind: Kind, which: String, from: &str, to: &str) {
        if from != to {
            let name = to.to_owned();
            self.steps.ops.push(Op::Rename { kind, which, name });
        }
    }

    fn delete(&mut self, key: Key) {
        self.gone.insert(key);
        let (kind, which) = (key.kind(), reference(&key));
        self.steps.ops.push(Op::Delete { kind, which });
    }

    fn no_such(&mut self, path: String, kind: &str, name: &str) {
        let what = format!("there is no {kind} `{}` in the document", name.escape_default());
        self.wrong(path, what, &format!("the name of a {kind} that stands in it"));
    }

    /// First what goes, so that names, numbers, disks and addresses are free for what comes.
    fn in_order(self) -> Steps {
        // Kinds stand in an order in which each comes after what it refers to: deleted backwards, made forwards.
        let place = |kind: Kind| kind as i32;
        let rank = |op: &Op| match op {
            Op::Unmap { .. } => (0, 0),
            Op::Delete { kind, .. } => (1, -place(*kind)),
            Op::Rename { .. } => (2, 0),
            Op::SetHome { .. } | Op::PoolReady { .. } | Op::CreatePool { .. } => (3, 0),
            Op::ResizeVolume { .. } | Op::CreateVolume { .. } => (4, 0),
            Op::SetIqns { .. } => (5, 0),
            Op::CreateHost { .. } => (6, 0),
            Op::Map { .. } | Op::CreateAddress { .. } => (7, 0),
            Op::Set { item } => (8, place(item.kind())),
        };
        let mut steps = self.steps;
        steps.ops.sort_by_key(rank);
        steps.ops = free_names(self.now, steps.ops);
        steps.ops.splice(0..0, self.early);
        steps
    }
}

/// Brings renames into an order in which each name is free when it is given. Where names go round in a circle, one of them
/// is put aside first.
fn free_names(now: &Tables, ops: Vec<Op>) -> Vec<Op> {
    let rename = |op: &Op| matches!(op, Op::Rename { .. });
    let Some(first) = ops.iter().position(rename) else {
        return ops;
    };
    let deleted: BTreeSet<(Kind, String)> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Delete { kind, which } => Some((*kind, which.clone())),
            _ => None,
        })
        .collect();
    // Who is called what, while the renames are gone through.
    let mut called: BTreeMap<(Kind, String), String> = now
        .rows()
        .filter_map(|row| {
            let kind = row.key().kind();
            let name = row.name()?.clone();
            Some(((kind, reference(&row.key())), name))
        })
        .filter(|(key, _)| !deleted.contains(key))
        .collect();
    let (mut open, rest): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(rename);
    let mut ordered = Vec::new();
    while !open.is_empty() {
        let free = open.iter().position(|op| match op {
            Op::Rename { kind, name, .. } => {
                let mut others = called.iter().filter(|((of, _), _)| of == kind);
                !others.any(|(_, other)| other == name)
            }
            _ => true,
        });
        let op = match free {
            Some(place) => open.remove(place),
            None => {
                let Op::Rename { kind, which, .. } = open[0].clone() else {
                    break;
                };
                let taken = |name: &String| called.values().any(|other| other == name);
                let name = (1..)
                    .map(|number| format!("renamed-{number}"))
                    .find(|name| !taken(name));
                let name = name.unwrap_or_default();
                Op::Rename { kind, which, name }
            }
        };
        if let Op::Rename { kind, which, name } = &op {
            called.insert((*kind, which.clone()), name.clone());
        }
        ordered.push(op);
    }
    let mut all = rest;
    all.splice(first..first, ordered);
    all
}

/// The one spelling of an address.
fn canonical(text: &str) -> Option<String> {
    let (ip, prefix) = text.split_once('/')?;
    let (ip, prefix): (IpAddr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
    Some(format!("{ip}/{prefix}"))
}

/// One thing that two states of the configuration have differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its kind.
    pub kind: Kind,
    /// What it is called, in the later state if it is there.
    pub name: String,
    /// As it was.
    pub before: Option<Resource>,
    /// As it is.
    pub after: Option<Resource>,
}

/// Everything that is different, kind by kind.
#[must_use]
pub fn differences(before: &Tables, after: &Tables) -> Vec<Difference> {
    let rows = |tables: &Tables| -> BTreeMap<config::Key, Resource> {
        tables.rows().map(|row| (row.key(), row)).collect()
    };
    let (was, is) = (rows(before), rows(after));
    let keys: BTreeSet<_> = was.keys().chain(is.keys()).copied().collect();
    keys.into_iter()
        .filter(|key| was.get(key) != is.get(key))
        .map(|key| {
            let (before_row, after_row) = (was.get(&key).cloned(), is.get(&key).cloned());
            let name = match (&after_row, &before_row) {
                (Some(row), _) => name_of(after, row),
                (None, Some(row)) => name_of(before, row),
                (None, None) => String::new(),
            };
            Difference {
                kind: key.kind(),
                name,
                before: before_row,
                after: after_row,
            }
        })
        .collect()
}

/// What a row is called among people.
#[must_use]
pub fn name_of(tables: &Tables, row: &Resource) -> String {
    match row {
        Resource::Mapping(row) => {
            let volume = tables.volumes.get(&row.volume);
            let host = tables.hosts.get(&row.host);
            format!(
                "{}@{}",
                volume.map_or_else(|| row.volume.to_string(), |volume| volume.name.clone()),
                host.map_or_else(|| row.host.to_string(), |host| host.name.clone())
            )
        }
        Resource::Address(row) => row.cidr.clone(),
        named => named.name().cloned().unwrap_or_default(),
    }
}
