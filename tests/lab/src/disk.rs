//! A machine's own disk: what makes it this machine, and everything that it writes.
//!
//! A folder is filled with files as they shall stand in the system ([`Tree`]) and becomes an ext4, from which the machine's
//! first process lays it over the image. Files belong to root there, whoever runs the lab.

use crate::error::{Error, Result};
use crate::programs::{self, MKE2FS};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of a disk; the file is sparse.
const SIZE: &str = "4G";

/// The files of one machine.
#[derive(Debug)]
pub struct Tree {
    folder: PathBuf,
}

impl Tree {
    /// An empty one, in a folder that is made anew.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
        }
        let tree = Self { folder };
        for name in ["upper", "work"] {
            let path = tree.folder.join(name);
            fs::create_dir_all(&path).map_err(Error::file("make", &path))?;
            permit(&path, 0o755)?;
        }
        Ok(tree)
    }

    /// A file with these permission bits; `path` without the leading slash.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = self.place(path)?;
        fs::write(&path, content).map_err(Error::file("write", &path))?;
        permit(&path, mode)
    }

    /// A copy of a file of this machine.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn copy(&self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let path = self.place(path)?;
        fs::copy(from, &path).map_err(Error::file("copy", from))?;
        permit(&path, mode)
    }

    /// A folder with these permission bits.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, path: &str, mode: u32) -> Result<()> {
        let path = self.place(&format!("{path}/x"))?;
        permit(path.parent().unwrap_or(&path), mode)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn link(&self, path: &str, to: &str) -> Result<()> {
        let path = self.place(path)?;
        symlink(to, &path).map_err(Error::file("link", &path))
    }

    /// Starts a unit of systemd with the system.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn enable(&self, unit: &str) -> Result<()> {
        self.link(
            &format!("etc/systemd/system/multi-user.target.wants/{unit}"),
            &format!("/usr/lib/systemd/system/{unit}"),
        )?;
        // In place of the link to nothing, by which the image has it off.
        self.link(
            &format!("etc/systemd/system/{unit}"),
            &format!("/usr/lib/systemd/system/{unit}"),
        )
    }

    /// Where a file goes; folders above it are those of a system: everybody may look.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let mut place = self.folder.join("upper");
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            place.push(part);
            if parts.peek().is_some() && !place.is_dir() {
                fs::create_dir(&place).map_err(Error::file("make", &place))?;
                permit(&place, 0o755)?;
            }
        }
        Ok(place)
    }

    /// Everything that it holds, in one text: paths, modes, contents.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn listing(&self) -> Result<String> {
        let mut text = String::new();
        list(&self.folder.join("upper"), &mut text)?;
        Ok(text)
    }

    /// Makes the disk out of it and removes the folder.
    ///
    /// # Errors
    /// mke2fs fails.
    pub fn into_disk(self, disk: &Path) -> Result<()> {
        if disk.exists() {
            fs::remove_file(disk).map_err(Error::file("remove", disk))?;
        }
        let mut command = if nix::unistd::geteuid().is_root() {
            MKE2FS.command()?
        } else {
            // Files of this user are root's in a namespace in which this user is root.
            let mut inside = Command::new("/usr/bin/unshare");
            inside.arg("--map-root-user").arg(MKE2FS.path()?);
            inside
        };
        command
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-m",
                "0",
                "-L",
                "lab-own",
                "-E",
                "lazy_itable_init=1",
                "-d",
            ])
            .args([&self.folder, disk])
            .arg(SIZE);
        programs::run("make a machine's disk", &mut command)?;
        fs::remove_dir_all(&self.folder).map_err(Error::file("remove", &self.folder))
    }
}

fn list(folder: &Path, text: &mut String) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(Error::file("read", folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let metadata = fs::symlink_metadata(&path).map_err(Error::file("look at", &path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        *text += &format!("{name} {:o}\n", metadata.permissions().mode());
        if metadata.is_symlink() {
            let to = fs::read_link(&path).map_err(Error::file("read", &path))?;
            *text += &format!("{}\n", to.display());
        } else if metadata.is_dir() {
            list(&path, text)?;
        } else {
            let content = fs::read(&path).map_err(Error::file("read", &path))?;
            *text += &String::from_utf8_lossy(&content);
        }
    }
    Ok(())
}

fn permit(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::file("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_where_they_shall_with_their_modes() {
        let dir = tempfile::tempdir().expect("a folder");
        let tree = Tree::new(dir.path().join("tree")).expect("it is made");
        tree.folder("root/.ssh", 0o700).expect("a folder");
        tree.file("root/.ssh/authorized_keys", 0o600, b"key")
            .expect("a file");
        tree.enable("multipathd.service").expect("a unit");
        let listing = tree.listing().expect("a listing");
        assert!(listing.contains("authorized_keys 100600\nkey"), "{listing}");
        let upper = dir.path().join("tree/upper");
        let mode = |path: &str| {
            let metadata = fs::symlink_metadata(upper.join(path)).expect("it is there");
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode("root"), mode("root/.ssh")), (0o755, 0o700));
        assert_eq!(mode("root/.ssh/authorized_keys"), 0o600);
        let link = fs::read_link(upper.join("etc/systemd/system/multipathd.service")).expect("a link");
        assert_eq!(link, Path::new("/usr/lib/systemd/system/multipathd.service"));
    }
}
