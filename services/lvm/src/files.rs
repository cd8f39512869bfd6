//! File systems of a group: what stands on a thin volume is made into an XFS, mounted, grown and taken away again.
//!
//! ```text
//! nothing -> XFS -> mounted -> grown to its device
//!            snapshot -> mounted, only to be read
//! ```
//!
//! Like the group itself it is read each time how far it is: from the beginning of the device, and from what is mounted. Nothing is
//! written over what is no XFS.
//!
//! The identity of a file system is the UUID of its XFS, so a mount is of what it is called by.

use crate::groups::{GroupError, Groups, words};
use crate::kernel::Kernel;
use crate::names;
use crate::plan::Refusal;
use crate::programs::{Beginning, Mount, Program, Tools};
use crate::report::Vg;
use futures_util::future::join_all;
use pollux_api::config::item::ItemId;
use pollux_api::id::PoolId;
use pollux_api::lvm::{Apply, FILES, Files};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use tracing::{info, warn};

/// How a file system is mounted. What is in it comes from whoever uses its shares, and the controller gives it nothing:
///
/// * `nodev`: a node that somebody makes there opens no device of the controller, and so no disk;
/// * `nosuid`: a program that somebody puts there gets nobody's rights but its caller's;
/// * `noexec`: and it is no program of the controller at all;
/// * the folder is made where it is missing, since the directory is gone after a start of the machine.
const OPTIONS: &str = "rw,nodev,nosuid,noexec,X-mount.mkdir=0755";
/// How a snapshot is mounted. Besides:
///
/// * `ro`, `norecovery`: it was at rest when it was taken, and stays what it was then: its log is not gone through;
/// * `nouuid`: it has the UUID of its file system, and XFS mounts none twice otherwise.
const SNAPSHOT: &str = "ro,norecovery,nouuid,nodev,nosuid,noexec,X-mount.mkdir=0755";

/// What of a pool is mounted: by the name in the group, where.
type Mounted = BTreeMap<String, String>;

fn of_pool(pool: PoolId, kernel: &Kernel, mounts: &[Mount]) -> Mounted {
    let prefix = names::mapped(pool, "");
    let lvs = kernel.of(pool).into_iter().filter_map(|name| {
        let lv = name.strip_prefix(&prefix)?.to_owned();
        let number = kernel.number(&name)?;
        let own = |mount: &&Mount| mount.number == number && mount.at.starts_with(FILES);
        Some((lv, mounts.iter().find(own)?.at.clone()))
    });
    lvs.collect()
}

impl<T: Tools> Groups<T> {
    /// What of a pool is mounted.
    pub(crate) async fn mounted(&self, pool: PoolId) -> Result<Mounted, GroupError> {
        let mounts = self.tools().mounts().await.map_err(GroupError::Mounts)?;
        Ok(of_pool(pool, &self.kernel().await?, &mounts))
    }

    /// Ends mounts of a pool.
    ///
    /// # Errors
    /// Somebody uses one of them; the others have ended.
    pub(crate) async fn unmount(&self, pool: PoolId, which: impl Fn(&str) -> bool) -> Result<(), GroupError> {
        let mounted = self.mounted(pool).await?;
        let ends = mounted.iter().filter(|(lv, _)| which(lv));
        let ended = join_all(ends.map(async |(lv, at)| {
            self.tools().run(Program::Unmount, &words(&[at])).await?;
            info!(%pool, lv, "not mounted any more");
            Ok::<_, GroupError>(())
        }));
        ended.await.into_iter().collect()
    }

    /// Takes the mounts of a pool out of everybody's sight, whoever uses them: nobody waits for a disk there. The kernel ends them
    /// when the last one has let go; a file system whose device answers errors has shut itself down.
    pub(crate) async fn hide_mounts(&self, pool: PoolId) {
        let mounted = match self.mounted(pool).await {
            Ok(mounted) => mounted,
            Err(error) => return warn!(%pool, %error, "it is not known what of it is mounted"),
        };
        join_all(mounted.values().map(async |at| {
            if let Err(error) = self.tools().run(Program::Unmount, &words(&["--lazy", at])).await {
                warn!(%pool, at, %error, "a mount stays");
            }
        }))
        .await;
    }

    async fn mount(&self, node: &str, id: ItemId, options: &str) -> Result<(), GroupError> {
        let call = words(&["-t", "xfs", "-o", options, node, &names::folder(id)]);
        self.tools().run(Program::Mount, &call).await?;
        Ok(())
    }

    /// Has a file system mounted, made before where there is none, and as large as its device.
    async fn provide(&self, pool: PoolId, id: ItemId, mounted: &Mounted) -> Result<(), GroupError> {
        let lv = names::file_system(id);
        let node = names::node(&names::mapped(pool, &lv));
        let began = Instant::now();
        if !mounted.contains_key(&lv) {
            let beginning = self.tools().beginning(&node).await;
            match beginning.map_err(|why| GroupError::Files { id, why })? {
                Beginning::Xfs => {}
                Beginning::Other => return Err(Refusal::NoFiles { id }.into()),
                Beginning::Blank | Beginning::Unfinished => {
                    let uuid = format!("uuid={}", hyphened(id));
                    // A new thin volume has nothing that would have to be given back (-K); -f is for what was cut short.
                    let call = words(&["-q", "-f", "-K", "-m", &uuid, &node]);
                    self.tools().run(Program::Mkfs, &call).await?;
                }
            }
            self.mount(&node, id, OPTIONS).await?;
        }
        // It says that there is nothing to do where it is as large already.
        self.tools()
            .run(Program::Grow, &words(&["-d", &names::folder(id)]))
            .await?;
        info!(%pool, %id, took = ?began.elapsed(), "a file system is mounted");
        Ok(())
    }

    /// Has every wanted file system mounted, and every snapshot of one that stands in the kernel; what could not be.
    pub(crate) async fn provide_files(&self, pool: PoolId, vg: &Vg, wanted: &Apply) -> Vec<GroupError> {
        let mounted = match self.mounted(pool).await {
            Ok(mounted) => mounted,
            Err(error) => return vec![error],
        };
        let active = |lv: &str| vg.lv(lv).is_some_and(|lv| lv.active);
        let files = wanted.file_systems.iter().map(|files| files.id);
        let files = files.filter(|id| active(&names::file_system(*id)));
        let provided = join_all(files.map(async |id| self.provide(pool, id, &mounted).await));
        let snapshots = wanted.file_system_snapshots.iter().map(|snapshot| snapshot.id);
        let snapshots = snapshots.filter(|id| {
            let lv = names::snapshot(*id);
            active(&lv) && !mounted.contains_key(&lv)
        });
        let shown = join_all(snapshots.map(async |id| {
            let node = names::node(&names::mapped(pool, &names::snapshot(id)));
            self.mount(&node, id, SNAPSHOT).await
        }));
        let (provided, shown) = tokio::join!(provided, shown);
        (provided.into_iter().chain(shown))
            .filter_map(Result::err)
            .collect()
    }

    /// Names in the group of what is mounted.
    pub(crate) async fn mounted_names(&self, pool: PoolId) -> Result<BTreeSet<String>, GroupError> {
        Ok(self.mounted(pool).await?.into_keys().collect())
    }
}

/// File systems of a group, and those of their snapshots that are mounted.
pub(crate) fn listed(vg: &Vg, mounted: &Mounted) -> Vec<Files> {
    let files = |lv: &crate::report::Lv| {
        let path = mounted.get(&lv.name).cloned();
        let id = match names::role(&lv.name)? {
            names::Role::FileSystem(id) => id,
            names::Role::Snapshot(id) if path.is_some() => id,
            _ => return None,
        };
        Some(Files {
            id,
            size_bytes: lv.bytes,
            path,
        })
    };
    vg.lvs.iter().filter_map(files).collect()
}

/// An identity as programs want it.
fn hyphened(id: ItemId) -> String {
    let digits = id.0.to_string();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    parts
        .map(|part| digits.get(part).unwrap_or_default().to_owned())
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::config::Hex;

    #[test]
    fn an_identity_is_a_uuid_for_programs() {
        let id = ItemId(Hex([0xab; 16]));
        assert_eq!(hyphened(id), "abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn only_what_is_mounted_among_the_files_of_the_array_is_its_own() {
        let pool = PoolId::from_bytes([0xaa; 16]);
        let name = names::mapped(pool, "f_1");
        let kernel = Kernel::read(&format!("{name},253,7\nother,253,8\n"), "", "");
        let mount = |minor, at: &str| Mount {
            number: (253, minor),
            at: at.to_owned(),
        };
        let elsewhere = [mount(7, "/mnt"), mount(8, "/run/pollux-files/x")];
        assert_eq!(of_pool(pool, &kernel, &elsewhere), Mounted::new());
        let here = [mount(7, "/mnt"), mount(7, "/run/pollux-files/1")];
        let expected = Mounted::from([("f_1".to_owned(), "/run/pollux-files/1".to_owned())]);
        assert_eq!(of_pool(pool, &kernel, &here), expected);
    }
}
