//! Labels: what a pool says of itself on each of its disks.
//!
//! ```text
//!  64 KiB            320 KiB, 324 KiB     1 MiB                                     end - 256 KiB (down to 64 KiB)
//! | label, even txg | write intents (2) | extents of 1 MiB: volumes' data ........ | label, odd txg |
//! ```
//!
//! A label is replaced by writing the *other* copy, with the next transaction number, and force unit access: whatever
//! happens in between, one whole copy is there. The copy with the highest number whose checksums fit is the label of
//! the disk; the highest of all disks is the label of the pool.
//!
//! One copy: 64 bytes of header (magic, version, length, txg, array, pool, CRC32C of the body, CRC32C of the header),
//! then JSON. Every copy names the disk it was written for, so that a swapped or misdirected one is not taken for
//! another disk's.

use crate::backend::PoolError;
use crate::disks::{Disks, Session, deadline};
use crate::table;
use bytes::Bytes;
use pollux_api::config::item::ItemId;
use pollux_api::id::{ArrayId, DiskIndex, PoolId, VolumeId};
use pollux_api::pool::ReservationKey;
use pollux_block_frame::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error as ThisError;
use uuid::Uuid;

/// Size of one copy.
pub const LABEL_BYTES: u64 = 256 * 1024;
/// Where the copy with an even transaction number stands.
pub const EVEN_AT: u64 = 64 * 1024;
/// Where the two copies of the write intents stand.
pub const INTENT_AT: [u64; 2] = [320 * 1024, 324 * 1024];
/// Where the first extent stands.
pub const DATA_AT: u64 = 1024 * 1024;
/// Volumes take space in multiples of it.
pub const EXTENT_BYTES: u64 = 1024 * 1024;

const MAGIC: [u8; 8] = *b"PLXPOOL1";
/// Versions that are read. A label is written under the oldest that has what it says, so that an older build reads it
/// too, or refuses it instead of losing what it does not know:
/// 1: members, volumes; 2: journals of volumes; 3: tables of volumes, and snapshots; 4: a volume group of the kernel.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=4;
const HEADER: usize = 64;
/// Writes are padded to whole physical blocks.
const PAD: usize = 4096;

/// Where the copy with an odd transaction number stands, on a disk of this size.
pub fn odd_at(disk_bytes: u64) -> u64 {
    disk_bytes.saturating_sub(LABEL_BYTES) / EVEN_AT * EVEN_AT
}

/// Whole extents on a disk of this size.
pub fn extents(disk_bytes: u64) -> u64 {
    odd_at(disk_bytes).saturating_sub(DATA_AT) / EXTENT_BYTES
}

/// State of a member disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Holds every acknowledged write.
    InSync,
    /// Is being copied to.
    Resyncing,
    /// Neither read nor written.
    Failed,
}

/// A member disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its slot.
    pub disk: DiskIndex,
    /// Its identity: a new disk in the same slot is not this member.
    pub id: Uuid,
    /// Its state.
    pub state: MemberState,
}

/// Consecutive extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First extent.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// A volume and its space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Its extents, in the order of its addresses; none where it has a table.
    pub runs: Vec<Run>,
    /// The extent of its [journal](crate::journal), from the first record on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<u64>,
    /// The extents of its [table](crate::table), which says where its own are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<u64>,
    /// It takes extents when they are first written, and gives them back; only with a table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub thin: bool,
}

impl VolumeEntry {
    /// Extents that its size takes.
    pub fn extents(&self) -> u64 {
        self.size_bytes.div_ceil(EXTENT_BYTES)
    }
}

/// What a volume was at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntry {
    /// The volume.
    pub volume: VolumeId,
    /// Its size then, bytes.
    pub size_bytes: u64,
    /// The extents of the snapshot's [table](crate::table).
    pub table: Vec<u64>,
}

impl SnapshotEntry {
    /// Extents that its size takes.
    pub fn extents(&self) -> u64 {
        self.size_bytes.div_ceil(EXTENT_BYTES)
    }
}

/// A volume group of the kernel, in which a pool's data lie: [`lvm`](crate::lvm).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// It has been made, and may hold volumes. Otherwise another pool may be made of the disks.
    pub made: bool,
}

/// The label of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Grows with each change.
    pub txg: u64,
    /// The array.
    pub array: ArrayId,
    /// The pool.
    pub pool: PoolId,
    /// Its name.
    pub name: String,
    /// The key of the controller that wrote it.
    pub key: ReservationKey,
    /// The pool was exported in order: every leg that is in sync holds the same bytes.
    pub clean: bool,
    /// Members, ascending.
    pub members: Vec<Member>,
    /// Extents that every member has.
    pub extents: u64,
    /// Index of the last change of the configuration that is in here.
    pub config_index: u64,
    /// Volumes.
    pub volumes: BTreeMap<VolumeId, VolumeEntry>,
    /// Snapshots of volumes, by their identity in the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<ItemId, SnapshotEntry>,
    /// The group in which its data lie. It says itself which volumes there are: those above are none then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupEntry>,
}

/// A label as it stands on one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Copy {
    disk: Uuid,
    #[serde(flatten)]
    label: Label,
}

/// Why there is no label in a place.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Unlabelled {
    /// Nothing was ever written there.
    #[error("blank")]
    Blank,
    /// Something else stands there.
    #[error("not a pool label")]
    Other,
    /// A label that is damaged or torn.
    #[error("damaged label: {0}")]
    Damaged(String),
    /// A whole label that does not belong there.
    #[error("label of {0}")]
    Misplaced(String),
    /// A label of a later version.
    #[error("label of version {0}; this build reads versions up to {last}", last = VERSIONS.end())]
    Version(u32),
}

/// A label that does not fit into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error(
    "the label would take {0} bytes, and there are {LABEL_BYTES}: fewer or less scattered volumes are needed"
)]
pub struct TooLarge(usize);

impl Label {
    /// Whether the pool may go for a configuration that does not know it. One that was brought back from before the pool was
    /// made does not either: so nothing may be in it, and nothing of later changes.
    ///
    /// # Errors
    /// [`PoolError::Older`], [`PoolError::Used`].
    pub fn allows_deletion(&self, index: u64) -> Result<(), PoolError> {
        if index < self.config_index {
            return Err(PoolError::Older {
                pool: self.pool,
                seen: self.config_index,
                index,
            });
        }
        let (volumes, snapshots) = (self.volumes.len(), self.snapshots.len());
        match volumes + snapshots {
            0 => Ok(()),
            _ => Err(PoolError::Used {
                pool: self.pool,
                volumes,
                snapshots,
            }),
        }
    }

    fn version(&self) -> u32 {
        if self.group.is_some() {
            return 4;
        }
        let tables = self.volumes.values().any(|volume| !volume.table.is_empty());
        if tables || !self.snapshots.is_empty() {
            return 3;
        }
        match self.volumes.values().any(|volume| volume.journal.is_some()) {
            false => 1,
            true => 2,
        }
    }

    /// Every extent that belongs to one owner, ascending; what tables lead to is not among them.
    pub fn runs(&self) -> Vec<Run> {
        let one = |start: u64| Run { start, count: 1 };
        let of_volumes = self.volumes.values().flat_map(|volume| {
            let ones = volume.journal.iter().chain(&volume.table).copied().map(one);
            volume.runs.iter().copied().chain(ones)
        });
        let of_snapshots = self.snapshots.values();
        let of_snapshots = of_snapshots.flat_map(|snapshot| snapshot.table.iter().copied().map(one));
        let mut runs: Vec<Run> = of_volumes.chain(of_snapshots).collect();
        runs.sort_unstable_by_key(|run| run.start);
        runs
    }

    /// One copy, for the disk `disk`.
    pub fn encode(&self, disk: Uuid) -> Result<Bytes, TooLarge> {
        let copy = Copy {
            disk,
            label: self.clone(),
        };
        let body = serde_json::to_vec(&copy).expect("a label always has a JSON form");
        let total = (HEADER + body.len()).next_multiple_of(PAD);
        if total as u64 > LABEL_BYTES {
            return Err(TooLarge(total));
        }
        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version().to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.txg.to_le_bytes());
        out.extend_from_slice(self.array.as_bytes());
        out.extend_from_slice(self.pool.as_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        debug_assert_eq!(out.len(), HEADER);
        out.extend_from_slice(&body);
        out.resize(total, 0);
        Ok(out.into())
    }

    /// A copy that was read from the disk `disk` of this array.
    pub fn decode(bytes: &[u8], array: ArrayId, disk: Uuid) -> Result<Label, Unlabelled> {
        let damaged = |what: &str| Unlabelled::Damaged(what.to_owned());
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
            return Err(damaged("shorter than its header"));
        };
        if header.iter().all(|byte| *byte == 0) {
            return Err(Unlabelled::Blank);
        }
        if header[..8] != MAGIC {
            return Err(Unlabelled::Other);
        }
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(60) != crc32c::crc32c(&header[..60]) {
            return Err(damaged("checksum of the header"));
        }
        if !VERSIONS.contains(&word(8)) {
            return Err(Unlabelled::Version(word(8)));
        }
        let body = rest.get(..word(12) as usize).ok_or_else(|| damaged("length"))?;
        if word(56) != crc32c::crc32c(body) {
            return Err(damaged("checksum of the body"));
        }
        let copy: Copy =
            serde_json::from_slice(body).map_err(|error| Unlabelled::Damaged(error.to_string()))?;
        if copy.label.array != array {
            return Err(Unlabelled::Misplaced(format!("array {}", copy.label.array)));
        }
        if copy.disk != disk {
            return Err(Unlabelled::Misplaced(format!("another disk ({})", copy.disk)));
        }
        copy.label.check().map_err(Unlabelled::Damaged)?;
        Ok(copy.label)
    }

    /// What a checksum does not say: figures that fit together.
    fn check(&self) -> Result<(), String> {
        if self.group.is_some()
            && (self.extents > 0 || !self.volumes.is_empty() || !self.snapshots.is_empty())
        {
            return Err("extents or volumes beside a group".to_owned());
        }
        if self.extents >= u64::from(u32::MAX) {
            return Err(format!("{} extents are more than tables can count", self.extents));
        }
        let mut free_from = 0;
        for run in self.runs() {
            let end = run.start.checked_add(run.count).ok_or("extent beyond the end")?;
            if run.count == 0 {
                return Err(format!("a run of extents at {end} is empty"));
            }
            if run.start < free_from || end > self.extents {
                return Err(format!(
                    "extents {}..{end} overlap or lie beyond {}",
                    run.start, self.extents
                ));
            }
            free_from = end;
        }
        for (id, volume) in &self.volumes {
            let space = volume
                .runs
                .iter()
                .fold(0_u64, |sum, run| sum.saturating_add(run.count));
            if volume.table.is_empty() {
                if volume.thin {
                    return Err(format!("thin volume {id} has no table"));
                }
                if volume.size_bytes > space.saturating_mul(EXTENT_BYTES) {
                    return Err(format!("volume {id} is larger than its extents"));
                }
            } else if !volume.runs.is_empty() || (volume.table.len() as u64) < table::size(volume.extents()) {
                return Err(format!(
                    "volume {id} has extents beside its table, or is larger than it"
                ));
            }
        }
        for (id, snapshot) in &self.snapshots {
            if (snapshot.table.len() as u64) < table::size(snapshot.extents()) {
                return Err(format!("snapshot {id} is larger than its table"));
            }
            if !self.volumes.contains_key(&snapshot.volume) {
                return Err(format!("snapshot {id} is of no volume"));
            }
        }
        if !self.members.is_sorted_by(|a, b| a.disk < b.disk) {
            return Err("members are not ascending".to_owned());
        }
        Ok(())
    }

    /// The member in a slot.
    pub fn member(&self, disk: DiskIndex) -> Option<&Member> {
        self.members.iter().find(|member| member.disk == disk)
    }

    /// Disks in a state.
    pub fn disks_in(&self, state: MemberState) -> impl Iterator<Item = DiskIndex> + '_ {
        self.members
            .iter()
            .filter(move |member| member.state == state)
            .map(|member| member.disk)
    }
}

/// Both copies of one disk.
#[derive(Clone, Debug)]
pub struct OnDisk {
    /// The even one and the odd one.
    pub copies: [Result<Label, Unlabelled>; 2],
}

impl OnDisk {
    /// The label of `pool` on this disk.
    pub fn newest(self, pool: PoolId) -> Option<Label> {
        newest(
            self.copies
                .into_iter()
                .flatten()
                .filter(|label| label.pool == pool),
        )
    }

    /// The label of whatever pool.
    pub fn any(&self) -> Option<&Label> {
        self.copies.iter().flatten().max_by_key(|label| label.txg)
    }

    /// Each place holds a label that can be read, or nothing that ever was one.
    pub fn legible(&self) -> bool {
        let no_label =
            |copy: &Result<_, _>| matches!(copy, Ok(_) | Err(Unlabelled::Blank | Unlabelled::Other));
        self.copies.iter().all(no_label)
    }

    /// It carries a label of a pool that may hold data.
    pub fn holds_data(&self) -> bool {
        let holds = |label: &Label| !label.volumes.is_empty() || label.group.is_some_and(|group| group.made);
        self.any().is_some_and(holds)
    }

    /// Why there is no label, in words.
    pub fn why(&self) -> String {
        let why = |copy: &Result<Label, Unlabelled>| match copy {
            Ok(label) => {
                let volumes = label.volumes.len();
                format!(
                    "label of pool {} ({}) with {volumes} volumes",
                    label.name, label.pool
                )
            }
            Err(why) => why.to_string(),
        };
        format!(
            "first copy: {}; second copy: {}",
            why(&self.copies[0]),
            why(&self.copies[1])
        )
    }
}

/// The label with the highest transaction number.
pub fn newest(labels: impl Iterator<Item = Label>) -> Option<Label> {
    labels.max_by_key(|label| label.txg)
}

/// Reads bytes of a disk; offsets and lengths are multiples of its block size.
pub async fn read_bytes(session: &Session, at: u64, length: u64) -> Result<Bytes, Error> {
    let block = u64::from(session.info.block_size);
    let data = session
        .client
        .read(at / block, (length / block) as u32, deadline())
        .await?;
    if data.len() as u64 != length {
        return Err(Error::Disconnected {
            endpoint: session.client.endpoint().to_owned(),
            why: format!("{} bytes where {length} were read", data.len()),
        });
    }
    Ok(data)
}

/// Writes bytes of a disk, durably.
pub async fn write_bytes(session: &Session, at: u64, data: Bytes) -> Result<(), Error> {
    session
        .client
        .write(at / u64::from(session.info.block_size), data, true, deadline())
        .await
}

/// Reads both copies of a disk.
pub async fn read(disks: &Disks, disk: DiskIndex) -> Result<OnDisk, Error> {
    let session = disks.session(disk).await?;
    let copy = async |at| {
        let bytes = read_bytes(&session, at, LABEL_BYTES).await?;
        Ok::<_, Error>(Label::decode(&bytes, disks.array(), session.info.id))
    };
    Ok(OnDisk {
        copies: [copy(EVEN_AT).await?, copy(odd_at(session.bytes())).await?],
    })
}

/// Where the copy with this transaction number stands.
pub fn place(txg: u64, disk_bytes: u64) -> u64 {
    if txg.is_multiple_of(2) {
        EVEN_AT
    } else {
        odd_at(disk_bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::extents::Extents;
    use pollux_api::id::{ControllerId, Epoch, Generation};
    use proptest::prelude::*;

    pub(crate) const ARRAY: ArrayId = ArrayId::from_bytes(*b"label-test-array");
    const DISK: Uuid = Uuid::from_u128(7);

    pub(crate) fn label_with(states: &[MemberState]) -> Label {
        Label {
            txg: 1,
            array: ARRAY,
            pool: PoolId::from_bytes([1; 16]),
            name: "tank".to_owned(),
            key: ReservationKey {
                controller: ControllerId::A,
                epoch: Epoch::new(1),
                generation: Generation::new(1),
            },
            clean: true,
            members: (0..)
                .zip(states)
                .map(|(slot, &state)| Member {
                    disk: DiskIndex::new(slot),
                    id: Uuid::from_u128(slot.into()),
                    state,
                })
                .collect(),
            extents: 100,
            config_index: 0,
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            group: None,
        }
    }

    fn used(label: &Label) -> u64 {
        Extents::of(label).used()
    }

    fn volume(label: &mut Label, id: u8, extents: u64) {
        let runs = Extents::of(label).take(extents).expect("space");
        let entry = VolumeEntry {
            size_bytes: extents * EXTENT_BYTES,
            runs,
            journal: None,
            table: Vec::new(),
            thin: false,
        };
        label.volumes.insert(VolumeId::from_bytes([id; 16]), entry);
    }

    #[test]
    fn round_trip_and_damage() {
        let mut label = label_with(&[MemberState::InSync, MemberState::Failed]);
        volume(&mut label, 1, 10);
        let whole = label.encode(DISK).expect("fits");
        assert_eq!(Label::decode(&whole, ARRAY, DISK), Ok(label.clone()));
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bytes = whole.to_vec();
            change(&mut bytes);
            Label::decode(&bytes, ARRAY, DISK).expect_err("damaged")
        };
        let damaged = |what: &str| Unlabelled::Damaged(what.to_owned());
        assert_eq!(with(|bytes| bytes.fill(0)), Unlabelled::Blank);
        assert_eq!(with(|bytes| bytes[0] ^= 1), Unlabelled::Other);
        assert_eq!(with(|bytes| bytes[17] ^= 1), damaged("checksum of the header"));
        assert_eq!(with(|bytes| bytes[80] ^= 1), damaged("checksum of the body"));
        assert_eq!(
            with(|bytes| bytes[512..].fill(0)),
            damaged("checksum of the body")
        );
        assert_eq!(with(|bytes| bytes.truncate(100)), damaged("length"));
        assert_eq!(
            with(|bytes| bytes.truncate(10)),
            damaged("shorter than its header")
        );
        let elsewhere = Label::decode(&whole, ARRAY, Uuid::nil()).expect_err("another disk");
        assert!(matches!(elsewhere, Unlabelled::Misplaced(_)), "{elsewhere}");
        let foreign = Label::decode(&whole, ArrayId::from_bytes([0; 16]), DISK).expect_err("another array");
        assert!(matches!(foreign, Unlabelled::Misplaced(_)), "{foreign}");
    }

    #[test]
    fn figures_that_do_not_fit() {
        let decode = |label: &Label| Label::decode(&label.encode(DISK).expect("fits"), ARRAY, DISK);
        let mut label = label_with(&[MemberState::InSync]);
        volume(&mut label, 1, 10);
        let mut overlap = label.clone();
        let entry = overlap.volumes.values().next().expect("one").clone();
        overlap.volumes.insert(VolumeId::from_bytes([9; 16]), entry);
        assert!(matches!(decode(&overlap), Err(Unlabelled::Damaged(_))));
        let mut empty = label.clone();
        let entry = empty.volumes.values_mut().next().expect("one");
        entry.runs.push(Run { start: 90, count: 0 });
        let Err(Unlabelled::Damaged(why)) = decode(&empty) else {
            panic!("an empty run is taken");
        };
        assert!(why.contains("empty"), "{why}");
        let mut beyond = label.clone();
        beyond.extents = 5;
        assert!(matches!(decode(&beyond), Err(Unlabelled::Damaged(_))));
        let mut thin = label;
        thin.volumes
            .values_mut()
            .for_each(|volume| volume.size_bytes += 1);
        assert!(matches!(decode(&thin), Err(Unlabelled::Damaged(_))));
    }

    #[test]
    fn space_is_given_once_and_comes_back() {
        let mut label = label_with(&[MemberState::InSync]);
        for id in 0..4 {
            volume(&mut label, id, 25);
        }
        assert_eq!(used(&label), 100);
        assert_eq!(Extents::of(&label).take(1), None, "full");
        label.volumes.remove(&VolumeId::from_bytes([0; 16]));
        label.volumes.remove(&VolumeId::from_bytes([2; 16]));
        let runs = Extents::of(&label).take(30).expect("two holes");
        assert_eq!(runs, [Run { start: 0, count: 25 }, Run { start: 50, count: 5 }]);
        assert_eq!(label.check(), Ok(()));
    }

    #[test]
    fn a_journal_takes_an_extent_and_a_version_that_older_builds_refuse() {
        let mut label = label_with(&[MemberState::InSync]);
        volume(&mut label, 1, 10);
        let version = |label: &Label| label.encode(DISK).expect("fits")[8];
        assert_eq!(version(&label), 1, "as before, where there is none");
        let entry = label.volumes.values_mut().next().expect("one");
        entry.journal = Some(10);
        assert_eq!((version(&label), used(&label)), (2, 11));
        assert_eq!(
            Extents::of(&label).take(1),
            Some(vec![Run { start: 11, count: 1 }])
        );
        let whole = label.encode(DISK).expect("fits");
        assert_eq!(Label::decode(&whole, ARRAY, DISK), Ok(label.clone()));
        label.volumes.values_mut().next().expect("one").journal = Some(9);
        let overlap = label.encode(DISK).expect("fits");
        assert!(Label::decode(&overlap, ARRAY, DISK).is_err());
        let mut newer = whole.to_vec();
        newer[8] = *VERSIONS.end() as u8 + 1;
        let crc = crc32c::crc32c(&newer[..60]).to_le_bytes();
        newer[60..64].copy_from_slice(&crc);
        assert_eq!(Label::decode(&newer, ARRAY, DISK), Err(Unlabelled::Version(5)));
    }

    #[test]
    fn tables_and_snapshots_take_a_version_that_older_builds_refuse() {
        let mut label = label_with(&[MemberState::InSync]);
        let thin = VolumeEntry {
            size_bytes: 5000 * EXTENT_BYTES,
            runs: Vec::new(),
            journal: None,
            table: vec![3],
            thin: true,
        };
        let volume = VolumeId::from_bytes([1; 16]);
        label.volumes.insert(volume, thin.clone());
        let snapshot = SnapshotEntry {
            volume,
            size_bytes: EXTENT_BYTES,
            table: vec![5],
        };
        label.snapshots.insert(ItemId::default(), snapshot);
        let whole = label.encode(DISK).expect("fits");
        assert_eq!((whole[8], used(&label)), (3, 2));
        assert_eq!(Label::decode(&whole, ARRAY, DISK), Ok(label.clone()));
        let wrong = |change: fn(&mut Label)| {
            let mut label = label.clone();
            change(&mut label);
            assert!(label.check().is_err(), "{label:?}");
        };
        wrong(|label| label.snapshots.values_mut().for_each(|one| one.table[0] = 3));
        wrong(|label| label.snapshots.values_mut().for_each(|one| one.table.clear()));
        wrong(|label| {
            label
                .snapshots
                .values_mut()
                .for_each(|one| one.volume = VolumeId::from_bytes([2; 16]))
        });
        wrong(|label| label.volumes.values_mut().for_each(|one| one.size_bytes <<= 10));
        wrong(|label| label.volumes.values_mut().for_each(|one| one.table.clear()));
        wrong(|label| {
            let run = Run { start: 7, count: 1 };
            label.volumes.values_mut().for_each(|one| one.runs.push(run));
        });
    }

    #[test]
    fn a_thousand_volumes_fit() {
        let mut label = label_with(&[MemberState::InSync; 3]);
        label.extents = 1_000_000;
        for id in 0..1000_u128 {
            let runs = Extents::of(&label).take(900).expect("space");
            let entry = VolumeEntry {
                size_bytes: 900 * EXTENT_BYTES,
                runs,
                journal: None,
                table: Vec::new(),
                thin: false,
            };
            label
                .volumes
                .insert(VolumeId::from_bytes(id.to_be_bytes()), entry);
        }
        label.encode(DISK).expect("fits");
    }

    #[test]
    fn both_copies_and_the_data_have_places_of_their_own() {
        for bytes in [
            16 << 20,
            (16 << 20) + 4096,
            1 << 30,
            3_000_000_000 / 4096 * 4096_u64,
        ] {
            assert!(odd_at(bytes) + LABEL_BYTES <= bytes);
            assert!(DATA_AT + extents(bytes) * EXTENT_BYTES <= odd_at(bytes));
            assert!(extents(bytes) > 0);
        }
        assert_eq!(extents(0), 0, "a disk without room has no extents");
        assert!(EVEN_AT + LABEL_BYTES <= INTENT_AT[0] && INTENT_AT[1] + 4096 <= DATA_AT);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
            if magic && bytes.len() >= HEADER {
                bytes[..8].copy_from_slice(&MAGIC);
                let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
                bytes[60..64].copy_from_slice(&crc);
            }
            let _ = Label::decode(&bytes, ARRAY, DISK);
        }
    }
}
