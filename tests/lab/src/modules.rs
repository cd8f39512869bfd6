//! Which modules of the kernel the virtual machines have: those that are named here, and what those need.
//!
//! The stock kernel has thousands, packed; the guests get a few dozen, unpacked, so that neither the image is large nor
//! the emulated processor unpacks anything.

use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Loaded before the system is there: disks, file systems, and the checksum that ext4 asks for by name. In this order.
pub const FIRST: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay"];

/// Everything else that a controller or a host asks for. A star at the end stands for any ending.
pub const REST: &[&str] = &[
    "af_packet",
    "autofs4",
    "binfmt_misc",
    "bonding",
    "configfs",
    "dm_*",
    "dummy",
    "i6300esb",
    "iscsi_target_mod",
    "iscsi_tcp",
    "loop",
    "nf_tables",
    "nft_*",
    "nfnetlink",
    "nvme_tcp",
    "nvmet",
    "nvmet_tcp",
    "qemu_fw_cfg",
    // md asks for them by the number of the level.
    "raid1",
    "raid10",
    "scsi_dh_alua",
    "sd_mod",
    "sch_netem",
    "sg",
    "softdog",
    "target_core_*",
    "tcm_loop",
    "virtio_net",
    "virtio_rng",
    "virtio_scsi",
    "vsock",
    "xfs",
];

/// `modules.dep` and `modules.builtin` of a kernel (modules.dep(5)).
#[derive(Debug, Default)]
pub struct Index {
    /// Path of each module by its name.
    paths: BTreeMap<String, String>,
    /// What each path needs, nearest first.
    needs: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// The name by which the kernel knows the module in a file: without folder and endings, `_` for `-`.
#[must_use]
pub fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl Index {
    /// Reads both files.
    #[must_use]
    pub fn read(dep: &str, builtin: &str) -> Self {
        let mut index = Self {
            builtin: builtin.lines().map(name).collect(),
            ..Self::default()
        };
        for line in dep.lines() {
            if let Some((path, needs)) = line.split_once(':') {
                index.paths.insert(name(path), path.to_owned());
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                index.needs.insert(path.to_owned(), needs);
            }
        }
        index
    }

    /// Paths of the modules that are meant by `wanted` and of all that they need, each after what it needs itself.
    ///
    /// # Errors
    /// A name is neither that of a module nor built into the kernel.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut found: Vec<String> = vec![];
        for name in wanted {
            let meant: Vec<&String> = match name.strip_suffix('*') {
                Some(start) => self
                    .paths
                    .range(start.to_owned()..)
                    .take_while(|(name, _)| name.starts_with(start))
                    .map(|(_, path)| path)
                    .collect(),
                None => self.paths.get(*name).into_iter().collect(),
            };
            if meant.is_empty() && !self.builtin.contains(*name) {
                return Err(Error::step(
                    format!("find the module {name}"),
                    "this kernel has none of that name; linux-image-amd64 has all that the lab needs",
                ));
            }
            for path in meant {
                let needs = self.needs.get(path).map_or(&[][..], Vec::as_slice);
                // depmod writes the nearest first, so the last one needs nothing more.
                for path in needs.iter().rev().chain([path]) {
                    if !found.contains(path) {
                        found.push(path.clone());
                    }
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n\
                       kernel/fs/jbd2/jbd2.ko.xz:\nkernel/fs/mbcache.ko.xz:\n\
                       kernel/drivers/md/dm-mod.ko.xz:\nkernel/drivers/md/dm-mirror.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let index = Index::read(DEP, "kernel/net/unix/unix.ko\n");
        let found = index.closure(&["ext4", "dm_*", "unix"]).expect("all are there");
        let names: Vec<String> = found.iter().map(|path| name(path)).collect();
        assert_eq!(names, ["mbcache", "jbd2", "ext4", "dm_mod", "dm_mirror"]);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let refused = Index::read(DEP, "").closure(&["no_such"]).expect_err("unknown");
        assert!(refused.to_string().contains("no_such"), "{refused}");
        assert!(Index::read(DEP, "").closure(&["nvme*"]).is_err());
    }
}
