//! Names in the kernel and in LVM, made from identities alone: they are known before anything is looked for.
//!
//! | what | name |
//! |---|---|
//! | volume group | `pollux_POOL` |
//! | gate of a disk (device mapper) | `pollux_gate_POOL_SLOT`, UUID `POLLUX-POOL-SLOT`, of every second one in a slot with `-2` behind |
//! | gate of a disk that is being replaced | `pollux_gate_POOL_SLOT_aside` |
//! | volume, snapshot, volume that is to replace one | `v_VOLUME`, `s_SNAPSHOT`, `n_VOLUME` |
//! | file system; where it, or a snapshot of it, is mounted | `f_FILESYSTEM`; a folder called by the identity |
//! | thin pool; its map while the group is being made | `pool`, `meta` |
//! | system ID, one for each controller | `pollux-ARRAY-CONTROLLER` |
//!
//! Identities are 32 hexadecimal digits without hyphens, since the device mapper doubles each one.

use pollux_api::config::Hex;
use pollux_api::config::item::ItemId;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex, PoolId, VolumeId};
use pollux_api::lvm::{FILES, GATE, GROUP};

/// The thin pool, and while the group is being made the volume that becomes its data.
pub const POOL: &str = "pool";
/// The volume that becomes the map of the thin pool.
pub const META: &str = "meta";
/// How names of gates end that have been put aside.
const ASIDE: &str = "_aside";
/// Where the kernel's mapped devices have their nodes.
pub const MAPPER: &str = "/dev/mapper/";

fn hex(bytes: &[u8; 16]) -> String {
    Hex(*bytes).to_string()
}

/// The volume group of a pool.
#[must_use]
pub fn group(pool: PoolId) -> String {
    format!("{GROUP}{}", hex(pool.as_bytes()))
}

/// The gate of a disk.
#[must_use]
pub fn gate(pool: PoolId, slot: DiskIndex) -> String {
    format!("{GATE}{}_{:02}", hex(pool.as_bytes()), slot.get())
}

/// Its UUID in the kernel. A device keeps it when it gets another name, so the gate that takes the place of one that was put
/// aside has another one: `other` is that one's.
#[must_use]
pub fn gate_uuid(pool: PoolId, slot: DiskIndex, other: Option<&str>) -> String {
    let uuid = format!("POLLUX-{}-{:02}", hex(pool.as_bytes()), slot.get());
    match other {
        Some(other) if other == uuid => uuid + "-2",
        _ => uuid,
    }
}

/// What the gate of a disk is called once another disk is to take its place.
#[must_use]
pub fn aside(pool: PoolId, slot: DiskIndex) -> String {
    gate(pool, slot) + ASIDE
}

/// It is a gate, put aside or not.
#[must_use]
pub fn is_gate(name: &str) -> bool {
    of_gate(name.strip_suffix(ASIDE).unwrap_or(name)).is_some()
}

/// Whose gate it is.
#[must_use]
pub fn of_gate(name: &str) -> Option<(PoolId, DiskIndex)> {
    let (pool, slot) = name.strip_prefix(GATE)?.split_once('_')?;
    Some((pool.parse().ok()?, DiskIndex::new(slot.parse().ok()?)))
}

/// The pool to which a device of the kernel belongs: a gate, or something of a group.
#[must_use]
pub fn pool_of(name: &str) -> Option<PoolId> {
    if let Some((pool, _)) = of_gate(name.strip_suffix(ASIDE).unwrap_or(name)) {
        return Some(pool);
    }
    name.strip_prefix(GROUP)?.split_once('-')?.0.parse().ok()
}

/// The name in the kernel of something in a group.
#[must_use]
pub fn mapped(pool: PoolId, lv: &str) -> String {
    format!("{}-{lv}", group(pool))
}

/// The node of a mapped device.
#[must_use]
pub fn node(name: &str) -> String {
    format!("{MAPPER}{name}")
}

/// A volume.
#[must_use]
pub fn volume(id: VolumeId) -> String {
    format!("v_{}", hex(id.as_bytes()))
}

/// What is to replace a volume.
#[must_use]
pub fn next(id: VolumeId) -> String {
    format!("n_{}", hex(id.as_bytes()))
}

/// A snapshot.
#[must_use]
pub fn snapshot(id: ItemId) -> String {
    format!("s_{}", id.0)
}

/// A file system.
#[must_use]
pub fn file_system(id: ItemId) -> String {
    format!("f_{}", id.0)
}

/// Where a file system or a snapshot of one is mounted.
#[must_use]
pub fn folder(id: ItemId) -> String {
    format!("{FILES}/{}", id.0)
}

/// What something in a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A volume.
    Volume(VolumeId),
    /// What is to replace it.
    Next(VolumeId),
    /// A snapshot, of a volume or of a file system.
    Snapshot(ItemId),
    /// A file system.
    FileSystem(ItemId),
}

/// What something in a group is, by its name; `None`: a part of the thin pool, or nothing of ours.
#[must_use]
pub fn role(lv: &str) -> Option<Role> {
    let (kind, digits) = lv.split_once('_')?;
    let bytes: Hex<16> = digits.parse().ok()?;
    match kind {
        "v" => Some(Role::Volume(VolumeId::from_bytes(bytes.0))),
        "n" => Some(Role::Next(VolumeId::from_bytes(bytes.0))),
        "s" => Some(Role::Snapshot(ItemId(bytes))),
        "f" => Some(Role::FileSystem(ItemId(bytes))),
        _ => None,
    }
}

/// The system ID of a controller.
#[must_use]
pub fn system_id(array: ArrayId, controller: ControllerId) -> String {
    format!("pollux-{}-{controller}", hex(array.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::lvm::is_of_a_pool;

    #[test]
    fn names_lead_back() {
        let pool = PoolId::from_bytes([0xab; 16]);
        let slot = DiskIndex::new(7);
        assert_eq!(of_gate(&gate(pool, slot)), Some((pool, slot)));
        assert_eq!(pool_of(&gate(pool, slot)), Some(pool));
        let aside = aside(pool, slot);
        assert_eq!((of_gate(&aside), pool_of(&aside)), (None, Some(pool)));
        assert!(is_gate(&aside) && is_gate(&gate(pool, slot)) && !is_gate(&mapped(pool, "pool")));
        for ours in [gate(pool, slot), aside.clone(), mapped(pool, "pool")] {
            assert!(is_of_a_pool(&ours), "{ours}");
        }
        let first = gate_uuid(pool, slot, None);
        let second = gate_uuid(pool, slot, Some(&first));
        assert!(second != first && second.len() < 129, "{second}");
        assert_eq!(gate_uuid(pool, slot, Some(&second)), first);
        assert_eq!(pool_of(&mapped(pool, "pool_tdata_rimage_0")), Some(pool));
        for foreign in ["vg-root", "pollux_x-root", "pollux_gate_x_1", "pollux_"] {
            assert_eq!(pool_of(foreign), None, "{foreign}");
            assert!(!is_of_a_pool(foreign), "{foreign}");
        }
        let (volume_id, item) = (VolumeId::from_bytes([1; 16]), ItemId(Hex([2; 16])));
        for (name, expected) in [
            (volume(volume_id), Some(Role::Volume(volume_id))),
            (next(volume_id), Some(Role::Next(volume_id))),
            (snapshot(item), Some(Role::Snapshot(item))),
            (file_system(item), Some(Role::FileSystem(item))),
            ("pool_tdata".to_owned(), None),
            (META.to_owned(), None),
        ] {
            assert_eq!(role(&name), expected, "{name}");
        }
        // The kernel takes 127 characters, and LVM adds a suffix as long as this one.
        assert!(mapped(pool, &volume(volume_id)).len() + "_rimage_00".len() < 127);
    }
}
