//! Service `config`: the configuration of the array.
//!
//! Think of a ledger that two clerks keep, each in a book of their own. Only one of them, the *sequencer* (the
//! lowest member of the current epoch), may number a line; a line counts once it stands in both books, or once
//! the epoch's record says that the clerk is alone. Tables are what one gets by reading the ledger from the
//! first line to the last.
//!
//! * [`CHANGE`] may be asked of either controller; it is carried to the sequencer.
//! * Every row has an identity for life; names are for people and may be used wherever a request refers to
//!   another resource ([`Op`]), rows ([`Resource`]) refer by identity.
//! * Readers [`WATCH`]: a long poll that hands over every change once and in order, or a snapshot after a gap.
//!   They fold it into [`Tables`] with [`Tables::apply`] and bring the world to it; they keep no truth of their
//!   own. What is not yet acknowledged is never shown.
//! * Who owns a pool is *not* here: that is in the claims on the quorum disks. `home` is only where it belongs.

use crate::action::ActionId;
use crate::id::{BadId, ControllerId, DiskIndex, Epoch, Incarnation, PoolId, VolumeId};
use alloc::boxed::Box;
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub mod follow;
pub mod item;

use item::{Item, ItemId};

crate::contract! {
    service "config", rank crate::rank::CONFIG_KEEPER, door crate::contract::Door::Router;
    /// Keeps the configuration of the array: one log, the same on both controllers.
    calls [
        crate::heartbeat::CONFIG_LEASE,
        crate::heartbeat::CONFIG_STATUS,
        APPEND,
        CHANGE,
        FETCH,
        READ_INDEX,
        SEAL_KEYS,
        SYNC,
    ];
    requests {
        /// Changes the configuration: all of it or nothing, durable on every member when it is answered. May be asked
        /// of either controller. The keeper finds repetitions of an action itself, also after a restart and on the
        /// other controller. `invalid_params` has every problem; `conflict`: `expected_index`, or an action_id that
        /// belongs to another change; `failed`: the database.
        peer operator CHANGE = "config.change": Change => Changed,
            [ConfigLocked, Conflict, InDoubt, Superseded, Refused, Failed];
        /// Everything that was acknowledged before the call, on either controller. `config_locked`: nobody can be sure of
        /// that now; with `stale_ok` the answer is what is known here, as of its `as_of`. `failed`: it does not fit into one
        /// message; [`WATCH`] gives it in parts.
        idempotent viewer SHOW = "config.show": Option<Show> => Snapshot, [ConfigLocked, Superseded, Failed];
        /// Rows of one kind, like [`SHOW`].
        idempotent viewer LIST = "config.list": List => Listing, [ConfigLocked, Superseded, Failed];
        /// One row, like [`SHOW`].
        idempotent viewer GET = "config.get": Get => Resource, [NotFound, ConfigLocked, Superseded, Failed];
        /// A piece of the durable log, oldest first. What in it lies beyond the acknowledged length is in doubt;
        /// nothing may be done because of it. `not_found`: the first changes are no longer kept; [`COMPACTED`] has what they
        /// amount to.
        idempotent viewer LOG = "config.log": LogQuery => Vec<LogEntry>, [NotFound, Failed];
        /// What the log begins with, part by part: the rows to which the changes amount that are no longer kept.
        idempotent viewer COMPACTED = "config.compacted": Beginning => CompactedPart, [];
        /// The hash of the durable log at a length; none: it is shorter, or that is not known any more.
        idempotent viewer HASH_AT = "config.hash_at": HashAt => Option<LogHash>, [];
        /// A long poll: hands over every change once and in order, or a snapshot after a gap. With `read` the first part of
        /// everything, as [`SHOW`] has it.
        idempotent viewer WATCH = "config.watch": Watch => Watched, [ConfigLocked, Superseded, Failed];
        /// Where the log stands, and why nothing can be changed now.
        idempotent viewer STATUS = "config.status": () => Status, [];
        /// Checks the hash chain, the tables against the log, and has the database check itself.
        idempotent viewer VERIFY = "config.verify": () => Verified, [Failed];
        /// Entries that lost their place when a fork was mended.
        idempotent viewer ASIDE = "config.aside": () => Vec<AsideEntry>, [Failed];
        /// Gives a controller that has lost its database the log of a backup, piece by piece. It counts once the last piece
        /// is durable and holds what the record of the epoch stands on. `conflict`: no database is lost here, or the
        /// backup is older than that.
        idempotent admin RESTORE = "config.restore": Restore => Restored, [Conflict, Refused, Failed];
        /// From heartbeat, at each decision and after each connect.
        idempotent nobody SET_EPOCH = "config.set_epoch": SetEpoch => Status, [Superseded, Refused, Failed];
        /// From heartbeat, before it proposes an epoch. Answered when nothing is on its way to the disk any more.
        idempotent nobody FREEZE = "config.freeze": Freeze => Status, [Superseded, Refused, Failed];
        /// From heartbeat: what it was frozen for was given up before it was proposed.
        idempotent nobody UNFREEZE = "config.unfreeze": Unfreeze => Status, [Superseded, Refused, Failed];
        /// From heartbeat, when the keeper has asked whether this controller still decides.
        idempotent nobody LEASE = "config.lease": Lease => (), [];
        /// From heartbeat, on the joiner: copies the partner's history.
        idempotent nobody CATCH_UP = "config.catch_up": () => CaughtUp, [Superseded, Refused, Failed];
        /// From the partner: the sequencer begins a session.
        peer nobody SYNC = "config.sync": Sync => SyncReply, [Superseded, Refused, Failed];
        /// From the partner: persist what the sequencer numbered.
        peer nobody APPEND = "config.append": Append => AppendReply, [Superseded, Refused, Failed];
        /// From the partner: give a piece of history.
        peer nobody FETCH = "config.fetch": Fetch => Fetched, [];
        /// From the partner's keeper: the keys by which it seals secrets. The answer has those of this controller;
        /// afterwards both have all of them.
        peer nobody SEAL_KEYS = "config.seal_keys": SealKeys => SealKeys, [NotPermitted, Failed];
        /// A secret in the clear, for the service of the same controller that uses secrets of this kind and purpose;
        /// for nobody else.
        idempotent nobody UNSEAL = "config.unseal": Unseal => Unsealed, [NotPermitted, NotFound, Failed];
        /// From the partner, which follows: up to where it has to show what is acknowledged for those who read there.
        peer nobody READ_INDEX = "config.read_index": ReadIndex => ReadAt, [ConfigLocked, Superseded, Failed];
    }
    notifications {}
    topics {}
}
/// Newest version of the encoding of [`LogEntry`] that is known here; part of what the hash covers. An entry has the oldest
/// version that can say what it says ([`format_of`]).
///
/// * 5: pools with a [`Backend`].
/// * 4: volumes with a write cache in [`item::Settings`].
/// * 3: thin volumes in [`item::Settings`].
/// * 2: [`Item`]s.
/// * 1: pools, volumes, hosts, mappings, addresses.
pub const FORMAT: u16 = 5;
/// The first version.
pub const FORMAT_FIRST: u16 = 1;
/// Sizes of volumes are multiples of it (bytes).
pub const VOLUME_BLOCK: u64 = 4096;
/// Smallest volume (bytes).
pub const VOLUME_MIN: u64 = 1 << 20;
/// Largest LUN number (single-level peripheral addressing, SAM-5 4.7.7.2).
pub const LUN_MAX: u16 = 255;
/// Longest name of a resource (bytes).
pub const NAME_MAX: usize = 63;

/// Fixed bytes that are written as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Hex<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written in one go: a log entry has four of them, and every change is written several times.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for bytes in self.0.chunks(32) {
            let mut text = [0; 64];
            for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
                pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            let text = core::str::from_utf8(&text[..2 * bytes.len()]).map_err(|_| fmt::Error)?;
            f.write_str(text)?;
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId {
            what: "hexadecimal number",
            given: text.into(),
            right: "two digits for each byte",
        };
        let mut bytes = [0_u8; N];
        if text.len() != 2 * N {
            return Err(bad());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |c: u8| {
                char::from(c)
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
            };
            *byte = digit(pair[0])
                .zip(digit(pair[1]))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(bad)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(feature = "schema")]
impl<const N: usize> schemars::JsonSchema for Hex<N> {
    fn schema_name() -> alloc::borrow::Cow<'static, str> {
        alloc::format!("Hex{N}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let pattern = alloc::format!("^[0-9A-Fa-f]{{{}}}$", 2 * N);
        let about = alloc::format!("{N} bytes as hexadecimal digits.");
        crate::contract::text_schema(&about, "pattern", &pattern)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Hash of the log up to some entry (BLAKE3); zero: of the empty log.
pub type LogHash = Hex<32>;

macro_rules! row_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub Hex<16>);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

row_id! {
    /// Identity of a host.
    HostId;
    /// Identity of a mapping.
    MappingId;
    /// Identity of a floating address.
    AddressId;
}

/// What a pool is for; decides which backend keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Latency.
    Fast,
    /// Capacity.
    Ordinary,
}

/// How a pool survives the loss of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Redundancy {
    /// One disk; its loss is the loss of the pool.
    Single,
    /// Every disk holds everything.
    Mirror,
}

/// What keeps the data of a pool. Its disks have to be for it: those that `enclosure.toml` calls `kernel = true` are for
/// [`Backend::Lvm`], all others for [`Backend::Embedded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Mirrors of our own.
    Embedded,
    /// A volume group of the kernel.
    Lvm,
}

impl Backend {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Lvm => "lvm",
        }
    }
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pool {
    /// Its identity.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub class: Class,
    /// Where it belongs.
    pub home: ControllerId,
    /// How it survives the loss of disks.
    pub redundancy: Redundancy,
    /// What keeps its data; none: what its disks are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// Member disks, ascending.
    pub disks: Vec<DiskIndex>,
    /// Space, reported by the pool manager when it has labelled the disks ([`Op::PoolReady`]). None: the pool
    /// was never imported, blank disks may be labelled and no volume can be made.
    pub ready: Option<PoolSpace>,
}

/// Space of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolSpace {
    /// Bytes that volumes can use.
    pub capacity_bytes: u64,
    /// Volumes take space in multiples of it.
    pub extent_bytes: u64,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Volume {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// The pool it is on.
    pub pool: PoolId,
    /// Size in bytes, a multiple of [`VOLUME_BLOCK`].
    pub size_bytes: u64,
    /// Unit serial number that hosts see on both controllers (16 hexadecimal digits).
    pub serial: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Host {
    /// Its identity.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Names of its initiators, ascending; each belongs to one host only.
    pub iqns: Vec<String>,
}

/// A volume shown to a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Mapping {
    /// Its identity.
    pub id: MappingId,
    /// The volume.
    pub volume: VolumeId,
    /// The host that sees it.
    pub host: HostId,
    /// The number under which the host sees it.
    pub lun: u16,
}

/// A floating address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Address {
    /// Its identity.
    pub id: AddressId,
    /// The pool with which it moves.
    pub pool: PoolId,
    /// Address with prefix length, in canonical spelling: `10.78.0.50/24`, `fd00::50/64`.
    pub cidr: String,
}

/// Kind of a resource, in an order in which each comes after what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`Pool`].
    Pool,
    /// [`Volume`].
    Volume,
    /// [`Host`].
    Host,
    /// [`Mapping`].
    Mapping,
    /// [`Address`].
    Address,
    /// [`item::Controller`].
    Controller,
    /// [`item::Network`].
    Network,
    /// [`item::Port`].
    Port,
    /// [`item::Disk`].
    Disk,
    /// [`item::HostGroup`].
    HostGroup,
    /// [`item::FileSystem`].
    FileSystem,
    /// [`item::Schedule`].
    Schedule,
    /// [`item::Snapshot`].
    Snapshot,
    /// [`item::AccessRole`].
    AccessRole,
    /// [`item::User`].
    User,
    /// [`item::Share`].
    Share,
    /// [`item::Token`].
    Token,
    /// [`item::Key`].
    Key,
    /// [`item::Policy`].
    Policy,
    /// [`item::Settings`].
    Settings,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::Pool,
        Self::Volume,
        Self::Host,
        Self::Mapping,
        Self::Address,
        Self::Controller,
        Self::Network,
        Self::Port,
        Self::Disk,
        Self::HostGroup,
        Self::FileSystem,
        Self::Schedule,
        Self::Snapshot,
        Self::AccessRole,
        Self::User,
        Self::Share,
        Self::Token,
        Self::Key,
        Self::Policy,
        Self::Settings,
    ];

    /// The word for it, as it stands in messages and paths.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Volume => "volume",
            Self::Host => "host",
            Self::Mapping => "mapping",
            Self::Address => "address",
            Self::Controller => "controller",
            Self::Network => "network",
            Self::Port => "port",
            Self::Disk => "disk",
            Self::HostGroup => "host_group",
            Self::FileSystem => "file_system",
            Self::Schedule => "schedule",
            Self::Snapshot => "snapshot",
            Self::AccessRole => "access_role",
            Self::User => "user",
            Self::Share => "share",
            Self::Token => "token",
            Self::Key => "key",
            Self::Policy => "policy",
            Self::Settings => "settings",
        }
    }

    /// The kind of that word, also with `-` for `_`.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let word = word.replace('-', "_");
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Its rows are [`Item`]s.
    #[must_use]
    pub fn is_item(self) -> bool {
        self > Self::Address
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One row of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Resource {
    /// A pool.
    Pool(Pool),
    /// A volume.
    Volume(Volume),
    /// A host.
    Host(Host),
    /// A mapping.
    Mapping(Mapping),
    /// A floating address.
    Address(Address),
    /// Anything else, which says its kind itself.
    #[serde(untagged)]
    Item(Item),
}

/// Names one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "KeyForm", from = "KeyForm")]
pub enum Key {
    /// A pool.
    Pool(PoolId),
    /// A volume.
    Volume(VolumeId),
    /// A host.
    Host(HostId),
    /// A mapping.
    Mapping(MappingId),
    /// A floating address.
    Address(AddressId),
    /// An item of that kind.
    Item(Kind, ItemId),
}

macro_rules! key_form {
    ($($(#[$doc:meta])* $Item:ident,)*) => {
        /// How a key is written: the kind, and the identity in the spelling of that kind.
        #[derive(Clone, Copy, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[cfg_attr(feature = "schema", schemars(rename = "Key"))]
        #[serde(tag = "kind", content = "id", rename_all = "snake_case")]
        enum KeyForm {
            /// A pool.
            Pool(PoolId),
            /// A volume.
            Volume(VolumeId),
            /// A host.
            Host(HostId),
            /// A mapping.
            Mapping(MappingId),
            /// A floating address.
            Address(AddressId),
            $($(#[$doc])* $Item(ItemId),)*
        }

        impl From<KeyForm> for Key {
            fn from(form: KeyForm) -> Self {
                match form {
                    KeyForm::Pool(id) => Self::Pool(id),
                    KeyForm::Volume(id) => Self::Volume(id),
                    KeyForm::Host(id) => Self::Host(id),
                    KeyForm::Mapping(id) => Self::Mapping(id),
                    KeyForm::Address(id) => Self::Address(id),
                    $(KeyForm::$Item(id) => Self::Item(Kind::$Item, id),)*
                }
            }
        }

        impl From<Key> for KeyForm {
            fn from(key: Key) -> Self {
                match key {
                    Key::Pool(id) => Self::Pool(id),
                    Key::Volume(id) => Self::Volume(id),
                    Key::Host(id) => Self::Host(id),
                    Key::Mapping(id) => Self::Mapping(id),
                    Key::Address(id) => Self::Address(id),
                    Key::Item(kind, id) => match kind {
                        // No item has one of these kinds; were there one, this would be its nearest name.
                        Kind::Pool => Self::Pool(PoolId::from_bytes(id.0.0)),
                        Kind::Volume => Self::Volume(VolumeId::from_bytes(id.0.0)),
                        Kind::Host => Self::Host(HostId(id.0)),
                        Kind::Mapping => Self::Mapping(MappingId(id.0)),
                        Kind::Address => Self::Address(AddressId(id.0)),
                        $(Kind::$Item => Self::$Item(id),)*
                    },
                }
            }
        }
    };
}

key_form! {
    /// [`item::Controller`].
    Controller,
    /// [`item::Network`].
    Network,
    /// [`item::Port`].
    Port,
    /// [`item::Disk`].
    Disk,
    /// [`item::HostGroup`].
    HostGroup,
    /// [`item::FileSystem`].
    FileSystem,
    /// [`item::Schedule`].
    Schedule,
    /// [`item::Snapshot`].
    Snapshot,
    /// [`item::AccessRole`].
    AccessRole,
    /// [`item::User`].
    User,
    /// [`item::Share`].
    Share,
    /// [`item::Token`].
    Token,
    /// [`item::Key`].
    Key,
    /// [`item::Policy`].
    Policy,
    /// [`item::Settings`].
    Settings,
}

impl Key {
    /// The row of that kind with that identity, as [`item::reference`] writes it.
    ///
    /// # Errors
    /// It is no identity.
    pub fn parse(kind: Kind, id: &str) -> Result<Self, BadId> {
        Ok(match kind {
            Kind::Pool => Self::Pool(id.parse()?),
            Kind::Volume => Self::Volume(id.parse()?),
            Kind::Host => Self::Host(HostId(id.parse()?)),
            Kind::Mapping => Self::Mapping(MappingId(id.parse()?)),
            Kind::Address => Self::Address(AddressId(id.parse()?)),
            item => Self::Item(item, ItemId(id.parse()?)),
        })
    }
}

impl Key {
    /// Kind of the row.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Pool(_) => Kind::Pool,
            Self::Volume(_) => Kind::Volume,
            Self::Host(_) => Kind::Host,
            Self::Mapping(_) => Kind::Mapping,
            Self::Address(_) => Kind::Address,
            Self::Item(kind, _) => kind,
        }
    }
}

impl Resource {
    /// The key of this row.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::Pool(row) => Key::Pool(row.id),
            Self::Volume(row) => Key::Volume(row.id),
            Self::Host(row) => Key::Host(row.id),
            Self::Mapping(row) => Key::Mapping(row.id),
            Self::Address(row) => Key::Address(row.id),
            Self::Item(row) => Key::Item(row.kind(), row.id()),
        }
    }

    /// Its name; none: rows of its kind have none.
    #[must_use]
    pub const fn name(&self) -> Option<&String> {
        match self {
            Self::Pool(row) => Some(&row.name),
            Self::Volume(row) => Some(&row.name),
            Self::Host(row) => Some(&row.name),
            Self::Item(row) => Some(row.name()),
            Self::Mapping(_) | Self::Address(_) => None,
        }
    }

    /// The rows to which this one refers. What an item says there is an identity; anything else is none.
    #[must_use]
    pub fn uses(&self) -> Vec<Key> {
        match self {
            Self::Pool(_) | Self::Host(_) => Vec::new(),
            Self::Volume(row) => alloc::vec![Key::Pool(row.pool)],
            Self::Mapping(row) => alloc::vec![Key::Volume(row.volume), Key::Host(row.host)],
            Self::Address(row) => alloc::vec![Key::Pool(row.pool)],
            Self::Item(row) => {
                let mut row = row.clone();
                let links = row.links().into_iter();
                links
                    .filter_map(|link| Key::parse(link.kind, link.which).ok())
                    .collect()
            }
        }
    }
}

/// The effect of a change on one row: deterministic, the same on both controllers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RowOp {
    /// The row is now this (new or replaced).
    Put(Resource),
    /// The row is gone.
    Delete(Key),
}

/// The oldest version of the encoding that knows these rows.
#[must_use]
pub fn format_of(rows: &[RowOp]) -> u16 {
    let format = |row: &RowOp| match row {
        RowOp::Put(Resource::Pool(pool)) if pool.backend.is_some() => 5,
        RowOp::Put(Resource::Item(Item::Settings(settings))) if !settings.write_cache.is_empty() => 4,
        RowOp::Put(Resource::Item(Item::Settings(settings))) if !settings.thin.is_empty() => 3,
        RowOp::Put(Resource::Item(_)) => 2,
        RowOp::Put(_) => FORMAT_FIRST,
        RowOp::Delete(key) => 1 + u16::from(key.kind().is_item()),
    };
    rows.iter().map(format).max().unwrap_or(FORMAT_FIRST)
}

/// The configuration: what the log amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tables {
    /// Pools.
    pub pools: BTreeMap<PoolId, Pool>,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Hosts.
    pub hosts: BTreeMap<HostId, Host>,
    /// Mappings.
    pub mappings: BTreeMap<MappingId, Mapping>,
    /// Floating addresses.
    pub addresses: BTreeMap<AddressId, Address>,
    /// Everything else, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub items: BTreeMap<Kind, BTreeMap<ItemId, Item>>,
}

impl Tables {
    /// Fold one row operation in.
    pub fn apply(&mut self, op: &RowOp) {
        match op {
            RowOp::Put(Resource::Pool(row)) => drop(self.pools.insert(row.id, row.clone())),
            RowOp::Put(Resource::Volume(row)) => drop(self.volumes.insert(row.id, row.clone())),
            RowOp::Put(Resource::Host(row)) => drop(self.hosts.insert(row.id, row.clone())),
            RowOp::Put(Resource::Mapping(row)) => drop(self.mappings.insert(row.id, row.clone())),
            RowOp::Put(Resource::Address(row)) => drop(self.addresses.insert(row.id, row.clone())),
            RowOp::Delete(Key::Pool(id)) => drop(self.pools.remove(id)),
            RowOp::Delete(Key::Volume(id)) => drop(self.volumes.remove(id)),
            RowOp::Delete(Key::Host(id)) => drop(self.hosts.remove(id)),
            RowOp::Delete(Key::Mapping(id)) => drop(self.mappings.remove(id)),
            RowOp::Delete(Key::Address(id)) => drop(self.addresses.remove(id)),
            RowOp::Put(Resource::Item(row)) => {
                let kind = self.items.entry(row.kind()).or_default();
                drop(kind.insert(row.id(), row.clone()));
            }
            RowOp::Delete(Key::Item(kind, id)) => {
                if let Some(rows) = self.items.get_mut(kind) {
                    rows.remove(id);
                    // No difference between none left and never any.
                    if rows.is_empty() {
                        self.items.remove(kind);
                    }
                }
            }
        }
    }

    /// The row of that key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Resource> {
        match key {
            Key::Pool(id) => self.pools.get(id).cloned().map(Resource::Pool),
            Key::Volume(id) => self.volumes.get(id).cloned().map(Resource::Volume),
            Key::Host(id) => self.hosts.get(id).cloned().map(Resource::Host),
            Key::Mapping(id) => self.mappings.get(id).cloned().map(Resource::Mapping),
            Key::Address(id) => self.addresses.get(id).cloned().map(Resource::Address),
            Key::Item(kind, id) => self.items.get(kind)?.get(id).cloned().map(Resource::Item),
        }
    }

    /// Every item.
    pub fn items(&self) -> impl Iterator<Item = &Item> + '_ {
        self.items.values().flat_map(BTreeMap::values)
    }

    /// Every row, kind by kind, each in the order of its identity.
    pub fn rows(&self) -> impl Iterator<Item = Resource> + '_ {
        let pools = self.pools.values().cloned().map(Resource::Pool);
        let volumes = self.volumes.values().cloned().map(Resource::Volume);
        let hosts = self.hosts.values().cloned().map(Resource::Host);
        let mappings = self.mappings.values().cloned().map(Resource::Mapping);
        let addresses = self.addresses.values().cloned().map(Resource::Address);
        let items = self.items().cloned().map(Resource::Item);
        pools
            .chain(volumes)
            .chain(hosts)
            .chain(mappings)
            .chain(addresses)
            .chain(items)
    }

    /// Every row behind a key, in the order of keys; none: from the first.
    pub fn rows_after(&self, after: Option<Key>) -> impl Iterator<Item = Resource> + '_ {
        /// Of the map whose keys are `own`: what lies behind `after`, which may be in another map.
        fn tail<'a, I: Ord + Copy, R>(
            map: &'a BTreeMap<I, R>,
            after: Option<Key>,
            first: Key,
            own: impl Fn(Key) -> Option<I>,
        ) -> alloc::collections::btree_map::Range<'a, I, R> {
            use core::ops::Bound::{Excluded, Unbounded};
            let from = match after {
                None => Unbounded,
                Some(key) => match own(key) {
                    Some(id) => Excluded(id),
                    // In another map: everything of this one is behind it, or nothing.
                    None if key < first => Unbounded,
                    None => match map.last_key_value() {
                        Some((last, _)) => Excluded(*last),
                        None => Unbounded,
                    },
                },
            };
            map.range((from, Unbounded))
        }
        macro_rules! part {
            ($map:ident, $Kind:ident, $least:expr) => {
                tail(&self.$map, after, Key::$Kind($least), |key| match key {
                    Key::$Kind(id) => Some(id),
                    _ => None,
                })
                .map(|(_, row)| Resource::$Kind(row.clone()))
            };
        }
        let zero = Hex([0; 16]);
        let items = self.items.iter().flat_map(move |(kind, map)| {
            let of_kind = *kind;
            tail(
                map,
                after,
                Key::Item(of_kind, ItemId(zero)),
                move |key| match key {
                    Key::Item(kind, id) if kind == of_kind => Some(id),
                    _ => None,
                },
            )
            .map(|(_, row)| Resource::Item(row.clone()))
        });
        part!(pools, Pool, PoolId::from_bytes([0; 16]))
            .chain(part!(volumes, Volume, VolumeId::from_bytes([0; 16])))
            .chain(part!(hosts, Host, HostId(zero)))
            .chain(part!(mappings, Mapping, MappingId(zero)))
            .chain(part!(addresses, Address, AddressId(zero)))
            .chain(items)
    }

    /// Every row of a kind, in the order of its identity.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> Vec<Resource> {
        match kind {
            Kind::Pool => self.pools.values().cloned().map(Resource::Pool).collect(),
            Kind::Volume => self.volumes.values().cloned().map(Resource::Volume).collect(),
            Kind::Host => self.hosts.values().cloned().map(Resource::Host).collect(),
            Kind::Mapping => self.mappings.values().cloned().map(Resource::Mapping).collect(),
            Kind::Address => self.addresses.values().cloned().map(Resource::Address).collect(),
            item => {
                let rows = self.items.get(&item).into_iter().flat_map(BTreeMap::values);
                rows.cloned().map(Resource::Item).collect()
            }
        }
    }

    /// Bytes that the volumes of a pool take from it, each rounded up to whole extents.
    #[must_use]
    pub fn used_bytes(&self, pool: PoolId) -> u64 {
        let extent = self
            .pools
            .get(&pool)
            .and_then(|pool| pool.ready)
            .map_or(1, |space| space.extent_bytes.max(1));
        let of_pool = self.volumes.values().filter(|volume| volume.pool == pool);
        of_pool.fold(0, |sum, volume| {
            sum.saturating_add(volume.size_bytes.div_ceil(extent).saturating_mul(extent))
        })
    }
}

/// One deed of a change. Where a field names another resource it takes its name or its identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Make a pool.
    CreatePool {
        /// Its name.
        name: String,
        /// What it is for.
        class: Class,
        /// Where it belongs.
        home: ControllerId,
        /// How it survives the loss of disks.
        redundancy: Redundancy,
        /// What keeps its data; none: what its disks are for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backend: Option<Backend>,
        /// Member disks.
        disks: Vec<DiskIndex>,
    },
    /// From the pool manager: the disks are labelled and this is the space (again whenever it grows).
    PoolReady {
        /// The pool.
        pool: String,
        /// Bytes that volumes can use.
        capacity_bytes: u64,
        /// Volumes take space in multiples of it.
        extent_bytes: u64,
    },
    /// Give a pool another home.
    SetHome {
        /// The pool.
        pool: String,
        /// Where it belongs from now on.
        home: ControllerId,
    },
    /// Make a volume.
    CreateVolume {
        /// Its name.
        name: String,
        /// The pool to make it on.
        pool: String,
        /// Size in bytes.
        size_bytes: u64,
    },
    /// Grow a volume.
    ResizeVolume {
        /// The volume.
        volume: String,
        /// New size in bytes, not below the present one.
        size_bytes: u64,
    },
    /// Make a host.
    CreateHost {
        /// Its name.
        name: String,
        /// Names of its initiators.
        iqns: Vec<String>,
    },
    /// Replace the names of a host's initiators.
    SetIqns {
        /// The host.
        host: String,
        /// Names of its initiators.
        iqns: Vec<String>,
    },
    /// Show a volume to a host.
    Map {
        /// The volume.
        volume: String,
        /// The host.
        host: String,
        /// The number; none: the lowest that is free at that host.
        #[serde(default)]
        lun: Option<u16>,
    },
    /// Show a volume to a host no longer.
    Unmap {
        /// The volume.
        volume: String,
        /// The host.
        host: String,
    },
    /// Make a floating address.
    CreateAddress {
        /// The pool with which it moves.
        pool: String,
        /// Address with prefix length.
        cidr: String,
    },
    /// This item is so: made if there is none of that kind and name (or identity), changed otherwise. Fields that are left
    /// out are at their defaults afterwards.
    Set {
        /// The item.
        item: Item,
    },
    /// Rename anything that has a name.
    Rename {
        /// Kind of the resource.
        kind: Kind,
        /// Its name or identity.
        which: String,
        /// The new name.
        name: String,
    },
    /// Delete a resource to which no other refers.
    Delete {
        /// Kind of the resource.
        kind: Kind,
        /// Its name or identity; of an address also the address.
        which: String,
    },
}

/// Change the configuration: all of `ops`, in order, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What to do. An op may refer to what an earlier one makes.
    pub ops: Vec<Op>,
    /// Refuse (`conflict`) unless the last change has this index.
    #[serde(default)]
    pub expected_index: Option<u64>,
    /// Validate and say what would happen; change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// A change that is durable on every member of the epoch (or was only tried, for a dry run).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// Its index; of a dry run the index before.
    pub index: u64,
    /// Hash of the log up to it.
    pub hash: LogHash,
    /// The effect, row by row: identities that were given stand in it.
    pub rows: Vec<RowOp>,
    /// Durable on one controller only, because the epoch says that it is alone.
    pub alone: bool,
}

/// Rows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct List {
    /// Which kind.
    pub kind: Kind,
    /// What is known here is enough, however old.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub stale_ok: bool,
}

/// Rows of one kind, and how new they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listing {
    /// Whose view this is.
    pub controller: ControllerId,
    /// Index of the last acknowledged change that it contains.
    pub as_of: u64,
    /// The rows.
    pub rows: Vec<Resource>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Get {
    /// Its kind.
    pub kind: Kind,
    /// Its name or identity.
    pub which: String,
    /// What is known here is enough, however old.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub stale_ok: bool,
}

/// How [`SHOW`] is to be answered; none: with everything that was acknowledged before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Show {
    /// What is known here is enough, however old.
    #[serde(default)]
    pub stale_ok: bool,
}

/// Everything that is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// Whose view this is.
    pub controller: ControllerId,
    /// Index of the last change that it contains.
    pub as_of: u64,
    /// Hash of the log up to it.
    pub hash: LogHash,
    /// The rows.
    pub tables: Tables,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogEntry {
    /// Its number: the first is 1.
    pub index: u64,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// Session of the sequencer that appended it.
    pub session: u64,
    /// The action that asked for it.
    pub action_id: ActionId,
    /// Digest of what was asked, so that an action_id is not used for two things.
    pub request: LogHash,
    /// Its effect, row by row.
    pub rows: Vec<RowOp>,
    /// Version of the encoding.
    pub format: u16,
    /// Hash of the entry before (zero before the first).
    pub previous: LogHash,
    /// Hash of this entry, `previous` included: of the whole history up to here.
    pub hash: LogHash,
}

/// A piece of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogQuery {
    /// Entries after this index.
    #[serde(default)]
    pub after: u64,
    /// At most so many; 0: as many as fit into one message. Never more than that (256 entries, 512 KiB): ask again
    /// after the last one.
    #[serde(default)]
    pub limit: u32,
}

/// Which rows of what the log begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Beginning {
    /// Rows are known up to here; none: from the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_after: Option<PartAfter>,
}

/// At which length of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HashAt {
    /// Number of entries.
    pub length: u64,
}

/// Wait for what comes after an index. The first call of a watcher has no `after`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Watch {
    /// Index and hash of the last change that the watcher has; none: it has nothing.
    #[serde(default)]
    pub after: Option<(u64, LogHash)>,
    /// Wait so long for news, at most 30,000 ms; 0: do not wait.
    #[serde(default)]
    pub wait_ms: u64,
    /// Go on with the parts of a snapshot behind this row; [`follow::Follower`] does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_after: Option<Key>,
    /// The first question of a reader who wants everything once: answered without a wait, and only where [`SHOW`] would be.
    /// Whoever follows from there until all parts have come has at least what was acknowledged before this question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Show>,
}

/// News, at once when there is some, otherwise at the end of the wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// Acknowledged changes after the index, in order; empty: none came.
    Changes(Vec<LogEntry>),
    /// The watcher has nothing, is too far behind, or followed a history that lost its place: start from this.
    Snapshot(Snapshot),
    /// The same, where all of it does not fit into one message: its first rows, or its next ones.
    Part(Part),
}

/// Some rows of a snapshot. Parts are taken one after the other while the configuration changes: whoever has the last
/// one has to apply every change from the first part's index to the last part's before the whole means anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Part {
    /// Whose view this is.
    pub controller: ControllerId,
    /// Index of the last change that these rows contain.
    pub as_of: u64,
    /// Hash of the log up to it.
    pub hash: LogHash,
    /// Rows, in the order of their keys.
    pub rows: Vec<Resource>,
    /// There are rows behind the last of these.
    pub more: bool,
}

/// An epoch record, as far as the configuration is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    /// Members with the incarnation under which they are members.
    pub members: Vec<(ControllerId, Incarnation)>,
    /// Members may change the configuration; false: sealed.
    pub open: bool,
    /// Length of the log that every member holds.
    pub base_length: u64,
    /// Hash of the log at that length.
    pub base_hash: LogHash,
    /// The quorum disks, one that leaves as well: no pool is made of them. None: those with which the array was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quorum: Vec<DiskIndex>,
}

/// From heartbeat: this record is decided and is the highest known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SetEpoch {
    /// The record. One below the present is refused as stale; one at or above the epoch for which the log is
    /// frozen ends the freeze.
    pub record: EpochRecord,
    /// Why nothing may be changed although the record would permit it: the partner is silent but alive on disk.
    pub lock: Option<String>,
    /// This controller's incarnation: a record names members by it.
    #[serde(default)]
    pub incarnation: Option<Incarnation>,
}

/// From heartbeat, before it proposes an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Freeze {
    /// The epoch that will be proposed. Until a record of this number or above is set (or [`UNFREEZE`]) nothing
    /// is appended, acknowledged or counted.
    pub epoch: Epoch,
    /// Why, in words.
    pub reason: String,
}

/// From heartbeat: the proposal was given up before its first ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Unfreeze {
    /// The epoch of the freeze.
    pub epoch: Epoch,
}

/// Where the log stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Whose view this is.
    pub controller: ControllerId,
    /// Length of the durable log.
    pub length: u64,
    /// Its hash.
    pub hash: LogHash,
    /// The part of it that is acknowledged (and shown to readers).
    pub acknowledged_length: u64,
    /// Hash at that length.
    pub acknowledged_hash: LogHash,
    /// This controller is the sequencer and its session with every member stands: it may acknowledge.
    pub acknowledging: bool,
    /// The epoch it goes by; none: heartbeat has not said since the start.
    pub epoch: Option<EpochRecord>,
    /// Session of the sequencer, as known here.
    pub session: u64,
    /// The sequencer of the epoch.
    pub sequencer: Option<ControllerId>,
    /// Why nothing can be changed now.
    pub locked: Option<Locked>,
    /// Nothing is appended, acknowledged or counted until this epoch is decided.
    pub frozen: Option<Epoch>,
    /// Both controllers held the same log up to here when they last spoke in this epoch; none: not since the start.
    pub in_sync_as_of: Option<u64>,
    /// Entries that lost their place when a fork was mended (`config.aside`).
    pub aside: u64,
    /// Some of those may have been acknowledged (they were written by a lone controller, or below its mark).
    pub aside_acknowledged: bool,
    /// Same epoch and index, different hashes: nothing more is done until a person has looked.
    pub diverged: Option<Diverged>,
    /// Its database was damaged, gone, or older than what the epoch stands on, and its log is not whole again: it counts for
    /// nothing until it is.
    #[serde(default)]
    pub lost: Option<Lost>,
    /// What a person should look after before it stops changes.
    #[serde(default)]
    pub alarms: Vec<StorageAlarm>,
    /// So many of the first changes are no longer kept, only what they amount to.
    #[serde(default)]
    pub compacted: u64,
}

/// A database that was damaged or gone when its keeper started; an empty one has taken its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lost {
    /// Under which name the damaged one is kept, in the folder of the database; none: the database is sound, but too old.
    #[serde(default)]
    pub file: Option<String>,
    /// What was wrong with it.
    pub what: String,
}

/// Something about the disk on which the configuration is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StorageAlarm {
    /// What, with figures.
    pub what: String,
    /// What would clear it.
    pub remedy: String,
}

/// Why and since when nothing can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Locked {
    /// Why, in words.
    pub reason: String,
    /// For how long, ms.
    pub for_ms: u64,
    /// What would clear it.
    pub remedy: String,
}

/// Two histories that cannot both be true.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diverged {
    /// Epoch of both entries.
    pub epoch: Epoch,
    /// Index of both entries.
    pub index: u64,
    /// Hash here.
    pub ours: LogHash,
    /// Hash at the partner.
    pub theirs: LogHash,
}

/// What the joiner has done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CaughtUp {
    /// Length of the durable log now.
    pub length: u64,
    /// Its hash.
    pub hash: LogHash,
    /// The partner was frozen and its log is this log: a join may be proposed.
    pub equal: bool,
    /// Entries that were copied.
    pub copied: u64,
    /// Own entries that were set aside.
    pub set_aside: u64,
}

/// An entry that lost its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AsideEntry {
    /// The entry as it was.
    pub entry: LogEntry,
    /// It may have been acknowledged.
    pub acknowledged: bool,
}

/// What a check of the whole found; an empty list of problems: all is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verified {
    /// Entries of the log that were checked.
    pub entries: u64,
    /// Rows that were compared with the log.
    pub rows: u64,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// The sequencer begins a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sync {
    /// The epoch.
    pub epoch: Epoch,
    /// The session; above every earlier one of this epoch.
    pub session: u64,
    /// Length of the sequencer's durable log.
    pub length: u64,
    /// Epoch of its last entry (zero: it has none).
    pub entry_epoch: Epoch,
    /// Its hash.
    pub hash: LogHash,
}

/// The follower has dropped older sessions, and this is its durable log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncReply {
    /// Its epoch.
    pub epoch: Epoch,
    /// The session that it follows now.
    pub session: u64,
    /// The length at which it compared: the shorter of both logs.
    pub length: u64,
    /// The epoch of its entry there.
    pub entry_epoch: Epoch,
    /// Its hash there.
    pub hash: LogHash,
    /// Its entries beyond the sequencer's log, oldest first: the sequencer had sent them and lost them.
    pub tail: Vec<LogEntry>,
    /// The newest version of the log's encoding that its program knows.
    #[serde(default = "first_format")]
    pub format: u16,
}

const fn first_format() -> u16 {
    FORMAT_FIRST
}

/// Persist these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Append {
    /// The epoch.
    pub epoch: Epoch,
    /// The session.
    pub session: u64,
    /// Entries in order, without gaps; may be empty.
    pub entries: Vec<LogEntry>,
    /// The log up to here is durable on both: it may be shown to readers.
    pub acknowledged: u64,
}

/// Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AppendReply {
    /// The follower's epoch.
    pub epoch: Epoch,
    /// The follower's session.
    pub session: u64,
    /// Length of its durable log. Below the first entry: there is a gap, send from here.
    pub length: u64,
    /// Its own hash at that length.
    pub hash: LogHash,
}

/// The beginning of a log whose first entries are no longer kept: what they amount to stands in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Compacted {
    /// Number of entries that are gone; zero: none is, and there are no rows.
    pub length: u64,
    /// Hash of the log at that length.
    pub hash: LogHash,
    /// Epoch of the last entry that is gone.
    pub epoch: Epoch,
    /// Newest version of the encoding among the entries that are gone.
    pub format: u16,
    /// Number of rows that they amount to.
    pub rows: u64,
    /// Digest over those rows, whatever their order.
    pub digest: LogHash,
    /// Length and hash of the log on which the record of the epoch stood, if that entry is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<(u64, LogHash)>,
}

impl Default for Compacted {
    fn default() -> Self {
        Self {
            length: 0,
            hash: LogHash::default(),
            epoch: Epoch::default(),
            format: FORMAT_FIRST,
            rows: 0,
            digest: LogHash::default(),
            base: None,
        }
    }
}

/// Some of the rows with which a compacted log begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CompactedPart {
    /// Whose rows these are.
    pub of: Compacted,
    /// The row behind which these come; none: they are the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Key>,
    /// Rows, in the order of their keys.
    pub rows: Vec<Resource>,
    /// There are rows behind the last of these.
    pub more: bool,
}

/// Where the rows of a compacted log go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PartAfter {
    /// Hash of the log at the length up to which it is compacted: of another one they begin anew.
    pub hash: LogHash,
    /// The last row that is known.
    pub key: Key,
}

/// A piece of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Restore {
    /// Rows with which the log of the backup begins, before its entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted: Option<CompactedPart>,
    /// Entries in order, without gaps; what is there already is passed over.
    pub entries: Vec<LogEntry>,
    /// Nothing comes behind these.
    pub last: bool,
}

/// A piece is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Restored {
    /// Length of the log now.
    pub length: u64,
}

/// Keys that seal secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SealKeys {
    /// Each of 32 bytes, as hexadecimal digits.
    pub keys: Vec<item::Secret>,
}

/// Which secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Unseal {
    /// Kind of the item that has it.
    pub kind: Kind,
    /// Its name or identity.
    pub which: String,
    /// The field.
    pub field: String,
}

/// It, in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Unsealed {
    /// The secret.
    pub secret: item::Secret,
}

/// Give me history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fetch {
    /// Points of the asker's log, longest first; the answer starts at the first that is also the giver's.
    pub points: Vec<(u64, LogHash)>,
    /// At most so many entries.
    pub limit: u32,
    /// The asker lost its log: it holds nothing of what was counted for it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub lost: bool,
    /// Rows of the giver's compacted log are known up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_after: Option<PartAfter>,
}

/// History.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fetched {
    /// The point from which the entries go on; zero where no point was common. With `compacted`: the longest point that is
    /// known to be common.
    pub after: u64,
    /// Entries after that point.
    pub entries: Vec<LogEntry>,
    /// Length of the giver's durable log.
    pub length: u64,
    /// Hash of the giver's log.
    pub hash: LogHash,
    /// How much of it is acknowledged.
    pub acknowledged: u64,
    /// The giver is frozen: the log will not grow until the join is decided.
    pub frozen: bool,
    /// Epoch of the giver's last session.
    #[serde(default)]
    pub session_epoch: Epoch,
    /// The giver's last session.
    #[serde(default)]
    pub session: u64,
    /// The giver has lost its own log: this is no history to go by.
    #[serde(default)]
    pub lost: bool,
    /// The entries behind every common point are no longer kept: instead of them, the rows with which the giver's log
    /// begins. Its entries follow when all of these are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted: Option<Box<CompactedPart>>,
}

/// Does this controller hold its lease?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaseAsked {
    /// Of the question.
    pub number: u64,
}

/// Whether this controller held its lease after it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lease {
    /// Of the question.
    pub number: u64,
    /// In this epoch it surely was a member and had not been replaced; none: it may have been.
    pub epoch: Option<Epoch>,
}

/// Up to where is acknowledged?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReadIndex {
    /// The epoch that the asker follows.
    pub epoch: Epoch,
}

/// Everything up to here was acknowledged when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReadAt {
    /// Index of the last of it.
    pub index: u64,
}
