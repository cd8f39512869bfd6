//! The QEMU that runs the virtual machines: this machine's own where it is young enough, otherwise one out of the same
//! Debian release as the guests.
//!
//! A younger QEMU cannot be installed beside an older system: its libraries are younger too. It need not be. Its packages
//! are unpacked into a folder, and its own loader starts it with its own libraries; nothing else of the folder is used,
//! nothing is installed, and no root is needed.

use crate::cache::{Cache, Key};
use crate::error::{Error, Result};
use crate::programs::{self, MMDEBSTRAP, QEMU};
use crate::{image, mirror};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest QEMU that will do: from 8.2 on a stopped machine can be saved into a file, and reads from one.
const OLDEST: (u32, u32) = (8, 2);
/// The module with the initiator through which disks are attached; of Debian's package `qemu-block-extra`.
const ISCSI: &str = "block-iscsi.so";
/// Where Debian has QEMU's modules and the libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PACKAGES: &str = "qemu-system-x86,qemu-block-extra";

/// How QEMU is started.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    before: Vec<OsString>,
    after: Vec<OsString>,
    modules: Option<PathBuf>,
    /// What it says of itself.
    pub version: String,
}

impl Qemu {
    /// Finds one that will do, or fetches one into the cache.
    ///
    /// # Errors
    /// Neither can be had: [`Error::Missing`] says why.
    pub fn find(cache: &Cache) -> Result<Self> {
        if let Some(own) = Self::own() {
            return Ok(own);
        }
        let key = Key::of(&[PACKAGES, image::SUITE]);
        let root = cache.get("qemu", &key, |folder| {
            println!("fetching QEMU ({})", image::SUITE);
            let mut command = MMDEBSTRAP.command()?;
            command
                // Only fetched and unpacked: none of their scripts is run.
                .arg("--variant=extract")
                .arg(format!("--mode={}", image::mode()))
                .arg("--format=directory")
                .arg(format!("--include={PACKAGES}"))
                .arg("--aptopt=APT::Install-Recommends \"false\"")
                .arg(format!("--keyring={}", mirror::KEYRING))
                .args([image::SUITE.into(), folder.join("root").into_os_string()])
                .arg(mirror::debian()?);
            programs::run("fetch QEMU", &mut command).map(drop)
        })?;
        Self::unpacked(&root.join("root"))
    }

    fn own() -> Option<Self> {
        let program = QEMU.path().ok()?;
        if !Path::new("/").join(LIBRARIES).join("qemu").join(ISCSI).is_file() {
            return None;
        }
        let mut own = Self {
            program,
            before: vec![],
            after: vec![],
            modules: None,
            version: String::new(),
        };
        own.version = own.ask().ok()?;
        (number(&own.version)? >= OLDEST).then_some(own)
    }

    fn unpacked(root: &Path) -> Result<Self> {
        let libraries = root.join(LIBRARIES);
        let mut after = vec![];
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            after.extend(["-L".into(), root.join(firmware).into_os_string()]);
        }
        let mut unpacked = Self {
            program: root.join("usr/lib64/ld-linux-x86-64.so.2"),
            before: vec![
                "--library-path".into(),
                libraries.clone().into_os_string(),
                root.join("usr/bin").join(QEMU.name).into_os_string(),
            ],
            after,
            modules: Some(libraries.join("qemu")),
            version: String::new(),
        };
        unpacked.version = unpacked.ask()?;
        match number(&unpacked.version) {
            Some(found) if found >= OLDEST => Ok(unpacked),
            _ => Err(Error::Missing(format!(
                "QEMU {}.{} or newer is needed, {} has {}",
                OLDEST.0,
                OLDEST.1,
                image::SUITE,
                unpacked.version
            ))),
        }
    }

    fn ask(&self) -> Result<String> {
        let output = programs::run("ask QEMU its version", self.command().arg("--version"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    /// A command that runs it, without any device.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.before).args(&self.after);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }
}

/// The version in `QEMU emulator version 10.0.2 (...)`.
fn number(said: &str) -> Option<(u32, u32)> {
    let word = said
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)?;
    let mut parts = word.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_not_texts() {
        let said = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)";
        assert_eq!(number(said), Some((10, 0)));
        assert!(number(said) >= Some(OLDEST));
        assert!(number("QEMU emulator version 7.2.15") < Some(OLDEST));
        assert_eq!(number("something else"), None);
        assert_eq!(number("version x.y"), None);
    }
}
