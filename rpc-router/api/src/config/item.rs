//! What the array has beside pools, volumes, hosts, mappings and floating addresses: each a thing with a name.
//!
//! One type per kind serves three times: asked for ([`super::Op::Set`], references by name or identity, no identity
//! of its own needed), kept (every reference is the identity of a row), and written down by a person (references by
//! name). [`Item::links`] says what refers to what, so that nobody else has to know.
//!
//! Never here: a secret in the clear in anything that is kept ([`Secret`]).

use super::{Hex, Kind};
use crate::id::{ControllerId, DiskIndex};
use crate::role::Role;
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Identity of an item; zero where none is given yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ItemId(pub Hex<16>);

impl ItemId {
    /// None is given: the keeper finds the item by its name, or makes one.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A password or a key. In the clear only on its way to the keeper, which seals it before it is written anywhere;
/// what is kept, shown and exported is the sealed form, which no other array can open.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// How a sealed one begins: the version of the seal.
    pub const SEALED: &'static str = "sealed:1:";

    /// From what somebody typed, or from a sealed form.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Only the keeper's key opens it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.0.starts_with(Self::SEALED)
    }

    /// The text as it stands: for whoever seals or opens it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_sealed() {
            "Secret(sealed)"
        } else {
            "Secret(not shown)"
        })
    }
}

macro_rules! items {
    ($($(#[$doc:meta])* $Kind:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
            #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
            #[serde(deny_unknown_fields)]
            pub struct $Kind {
                /// Its name, unique among those of its kind.
                pub name: String,
                $($(#[$field_doc])* pub $field: $type,)*
                /// Its identity; left out where the keeper is to find it by its name, or to make it.
                #[serde(default, skip_serializing_if = "ItemId::is_none")]
                pub id: ItemId,
            }
        )*

        /// One item.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(tag = "kind", rename_all = "snake_case")]
        pub enum Item {
            $($(#[$doc])* $Kind($Kind),)*
        }

        impl Item {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$Kind(_) => Kind::$Kind,)*
                }
            }

            /// Its name.
            #[must_use]
            pub const fn name(&self) -> &String {
                match self {
                    $(Self::$Kind(item) => &item.name,)*
                }
            }

            /// To give it another name.
            pub const fn name_mut(&mut self) -> &mut String {
                match self {
                    $(Self::$Kind(item) => &mut item.name,)*
                }
            }

            /// Its identity.
            #[must_use]
            pub const fn id(&self) -> ItemId {
                match self {
                    $(Self::$Kind(item) => item.id,)*
                }
            }

            /// To give it one.
            pub const fn id_mut(&mut self) -> &mut ItemId {
                match self {
                    $(Self::$Kind(item) => &mut item.id,)*
                }
            }
        }
    };
}

items! {
    /// What is a controller's own beside its pools: its name in the network and who it asks there.
    Controller {
        /// Which of the two.
        controller: ControllerId,
        /// Its name in the network.
        hostname: String,
        /// Servers that it asks for names (addresses).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dns: Vec<String>,
        /// Servers from which it takes the time (names or addresses).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ntp: Vec<String>,
        /// Where it sends its journal: `host:port`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        syslog: Option<String>,
    }
    /// A network to which ports are connected, the same on both controllers.
    Network {
        /// First address with prefix length: `10.78.0.0/24`.
        subnet: String,
        /// Router towards other networks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<String>,
        /// VLAN number, 1 to 4094; none: untagged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
        /// Largest packet, 1280 to 9216 bytes.
        #[serde(default = "mtu", skip_serializing_if = "is_mtu")]
        mtu: u16,
    }
    /// A port of one controller.
    Port {
        /// Whose it is.
        controller: ControllerId,
        /// The interface's name in the system of that controller.
        interface: String,
        /// The network behind it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<String>,
        /// The controller's own address there, with prefix length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// What is served there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        serves: Vec<Protocol>,
        /// False: nothing is served there.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        enabled: bool,
    }
    /// What a disk that is in no pool is for. Members of pools stand in their pools, quorum disks in the record of the epoch.
    Disk {
        /// The slot that holds it.
        slot: DiskIndex,
        /// What it is for.
        role: DiskRole,
        /// The pool for which it is a spare; none: for any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
        /// The serial number that it must have; another disk in this slot is not taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        serial: Option<String>,
    }
    /// Hosts that see the same volumes.
    HostGroup {
        /// Its members.
        hosts: Vec<String>,
    }
    /// When snapshots are taken, and how many stay.
    Schedule {
        /// Volumes of which they are taken, all at one instant.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        volumes: Vec<String>,
        /// File systems of which they are taken.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        file_systems: Vec<String>,
        /// Minutes from one to the next, 5 to 44,640 (31 days).
        every_minutes: u32,
        /// Minutes after midnight UTC of the first in a day.
        #[serde(default, skip_serializing_if = "is_zero")]
        offset_minutes: u32,
        /// So many of the youngest stay, 1 to 1000.
        keep: u32,
        /// False: none is taken.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        enabled: bool,
    }
    /// A snapshot.
    Snapshot {
        /// The volume of which it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<String>,
        /// The file system of which it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_system: Option<String>,
        /// When it was taken, ms since 1970 UTC.
        taken_ms: u64,
        /// The schedule that took it and may delete it; none: a person did, and only a person deletes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schedule: Option<String>,
    }
    /// A file system, which lives on a pool and moves with it.
    FileSystem {
        /// The pool that it is on.
        pool: String,
        /// What it may hold, bytes; none: what the pool has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quota_bytes: Option<u64>,
        /// What it is sure to have, bytes.
        #[serde(default, skip_serializing_if = "is_nothing")]
        reserved_bytes: u64,
    }
    /// A folder of a file system that people reach over the network.
    Share {
        /// The file system.
        file_system: String,
        /// The folder in it, from its root.
        #[serde(default = "root")]
        path: String,
        /// How NFS serves it; none: not at all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nfs: Option<Nfs>,
        /// How SMB serves it; none: not at all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        smb: Option<Smb>,
    }
    /// A role of the operator's own making: what one of the three may, and only of some services.
    AccessRole {
        /// The most that it may.
        level: Role,
        /// The services of which it may; none: of all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        services: Vec<String>,
    }
    /// Somebody who may sign in.
    User {
        /// What he may.
        level: Role,
        /// A role of the operator's own making that narrows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
        /// His name among people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        full_name: Option<String>,
        /// His password; none: he signs in by token only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<Secret>,
        /// False: he may not sign in.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        enabled: bool,
    }
    /// A token, by which a program signs in. Only its digest is kept.
    Token {
        /// Whose it is.
        user: String,
        /// Digest of the token (BLAKE3).
        digest: Hex<32>,
        /// Until when it is good, ms since 1970 UTC; none: until it is deleted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_ms: Option<u64>,
    }
    /// A secret that a service needs, with the name under which it is used.
    Key {
        /// What for.
        purpose: Purpose,
        /// The name that goes with it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        user: String,
        /// The host to which it belongs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The controller to which it belongs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        controller: Option<ControllerId>,
        /// The secret.
        secret: Secret,
    }
    /// A rule by which the array decides. There is one of each sort.
    Policy {
        /// The rule.
        rule: Rule,
    }
    /// Settings of one service, as that service documents them.
    Settings {
        /// The service.
        service: String,
        /// Its settings.
        values: BTreeMap<String, String>,
        /// Service `pool`: volumes that take space of their pool when it is first written, not when they are made.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        thin: Vec<String>,
        /// Service `pool`: volumes whose writes may stay in the disks' caches until the host flushes them. What is
        /// written and not flushed may be lost with the power of the disks.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        write_cache: Vec<String>,
    }
}

/// What is served at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Volumes over iSCSI.
    Iscsi,
    /// Volumes over NVMe/TCP.
    NvmeTcp,
    /// Shares over NFS.
    Nfs,
    /// Shares over SMB.
    Smb,
    /// Operators.
    Management,
}

/// What a disk that is in no pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DiskRole {
    /// Takes the place of a member that failed.
    Spare,
    /// Kept free: nothing takes it by itself.
    Reserved,
}

/// What a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// By which a host proves itself to the target (12 to 255 bytes).
    Chap,
    /// By which the target proves itself to a host (12 to 255 bytes).
    MutualChap,
    /// By which NVMe hosts prove themselves.
    NvmeDhChap,
    /// By which a controller signs in at the partner's baseboard controller.
    Bmc,
    /// By which the array signs in at a directory.
    Directory,
    /// By which the array signs in at a mail server.
    Mail,
}

/// A rule of the array.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "sort", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// When pools go back to their home after a takeover.
    Giveback {
        /// False: when an operator says so.
        automatic: bool,
        /// So long after the partner has joined, seconds.
        #[serde(default)]
        after_seconds: u32,
    },
    /// From which base all limits of time are derived; taken over when both controllers start again.
    Timing {
        /// The profile.
        profile: TimingProfile,
    },
    /// Whether hosts may move paths themselves (SET TARGET PORT GROUPS).
    HostMoves {
        /// They may.
        allowed: bool,
    },
    /// What is worth an alarm, and who hears of it.
    Alarms {
        /// A pool with less free space than this, percent.
        pool_free_percent: u8,
        /// Mail goes to these.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mail: Vec<String>,
    },
}

impl Rule {
    /// The word for its sort.
    #[must_use]
    pub const fn sort(&self) -> &'static str {
        match self {
            Self::Giveback { .. } => "giveback",
            Self::Timing { .. } => "timing",
            Self::HostMoves { .. } => "host_moves",
            Self::Alarms { .. } => "alarms",
        }
    }
}

/// A timing profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimingProfile {
    /// Dedicated machines.
    Fast,
    /// Slow disks, long error recovery.
    Safe,
    /// Noisy build machines.
    Ci,
}

/// How NFS serves a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Nfs {
    /// Who may, in order: the first that fits counts.
    pub clients: Vec<NfsClient>,
    /// Versions: 3, 4.
    #[serde(default = "nfs_versions")]
    pub versions: Vec<u8>,
}

/// Some clients of NFS, and what they may.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NfsClient {
    /// An address, a network (`10.0.0.0/8`) or `*`.
    pub who: String,
    /// What they may.
    pub access: Access,
    /// Whose identity they are given.
    #[serde(default)]
    pub squash: Squash,
}

/// What may be done with a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// Whose identity a client of NFS is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Squash {
    /// Root is nobody; everyone else is who he is.
    #[default]
    Root,
    /// Everyone is nobody.
    All,
    /// Everyone is who he is.
    None,
}

/// How SMB serves a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Smb {
    /// Users who may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// What they may.
    pub access: Access,
    /// Anybody may, without a name.
    #[serde(default, skip_serializing_if = "is_no")]
    pub guest: bool,
    /// Only encrypted connections.
    #[serde(default, skip_serializing_if = "is_no")]
    pub encrypted: bool,
    /// It is listed to whoever asks for the shares.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub listed: bool,
}

/// A reference of an item: where it stands, to what kind, and to which.
#[derive(Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// The field.
    pub field: String,
    /// The kind of what it refers to.
    pub kind: Kind,
    /// Name or identity.
    pub which: &'a mut String,
}

impl Item {
    /// Everything that it refers to.
    pub fn links(&mut self) -> Vec<Link<'_>> {
        fn one<'a>(field: &str, kind: Kind, which: &'a mut String) -> Link<'a> {
            Link {
                field: field.to_owned(),
                kind,
                which,
            }
        }
        fn some<'a>(field: &str, kind: Kind, which: &'a mut Option<String>) -> Vec<Link<'a>> {
            which.iter_mut().map(|which| one(field, kind, which)).collect()
        }
        fn each<'a>(field: &str, kind: Kind, which: &'a mut [String]) -> Vec<Link<'a>> {
            let numbered = which.iter_mut().enumerate();
            numbered
                .map(|(at, which)| one(&format!("{field}[{at}]"), kind, which))
                .collect()
        }
        match self {
            Self::Controller(_) | Self::Network(_) | Self::AccessRole(_) | Self::Policy(_) => vec![],
            Self::Settings(item) => {
                let mut links = each("thin", Kind::Volume, &mut item.thin);
                links.extend(each("write_cache", Kind::Volume, &mut item.write_cache));
                links
            }
            Self::Port(item) => some("network", Kind::Network, &mut item.network),
            Self::Disk(item) => some("pool", Kind::Pool, &mut item.pool),
            Self::HostGroup(item) => each("hosts", Kind::Host, &mut item.hosts),
            Self::Schedule(item) => {
                let mut links = each("volumes", Kind::Volume, &mut item.volumes);
                links.extend(each("file_systems", Kind::FileSystem, &mut item.file_systems));
                links
            }
            Self::Snapshot(item) => {
                let mut links = some("volume", Kind::Volume, &mut item.volume);
                links.extend(some("file_system", Kind::FileSystem, &mut item.file_system));
                links.extend(some("schedule", Kind::Schedule, &mut item.schedule));
                links
            }
            Self::FileSystem(item) => vec![one("pool", Kind::Pool, &mut item.pool)],
            Self::Share(item) => {
                let mut links = vec![one("file_system", Kind::FileSystem, &mut item.file_system)];
                if let Some(smb) = &mut item.smb {
                    links.extend(each("smb.users", Kind::User, &mut smb.users));
                }
                links
            }
            Self::User(item) => some("role", Kind::AccessRole, &mut item.role),
            Self::Token(item) => vec![one("user", Kind::User, &mut item.user)],
            Self::Key(item) => some("host", Kind::Host, &mut item.host),
        }
    }

    /// Every secret in it, with its field.
    pub fn secrets(&mut self) -> Vec<(&'static str, &mut Secret)> {
        match self {
            Self::User(item) => item
                .password
                .iter_mut()
                .map(|secret| ("password", secret))
                .collect(),
            Self::Key(item) => vec![("secret", &mut item.secret)],
            _ => vec![],
        }
    }
}

/// How a reference to an item or any other row is kept: its identity in the spelling of its kind.
#[must_use]
pub fn reference(key: &super::Key) -> String {
    match key {
        super::Key::Pool(id) => id.to_string(),
        super::Key::Volume(id) => id.to_string(),
        super::Key::Host(id) => id.to_string(),
        super::Key::Mapping(id) => id.to_string(),
        super::Key::Address(id) => id.to_string(),
        super::Key::Item(_, id) => id.to_string(),
    }
}

const MTU: u16 = 1500;

const fn mtu() -> u16 {
    MTU
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_mtu(mtu: &u16) -> bool {
    *mtu == MTU
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_yes(flag: &bool) -> bool {
    *flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_no(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_nothing(bytes: &u64) -> bool {
    *bytes == 0
}

fn root() -> String {
    "/".to_owned()
}

fn nfs_versions() -> Vec<u8> {
    vec![3, 4]
}
