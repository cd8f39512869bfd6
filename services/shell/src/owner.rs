//! Whose files a command writes: the daemons' user must be able to read them.
//!
//! On an appliance the daemons are a user of their own, and the operator is root. What root would leave behind, a lock or
//! a key that only root may open, would keep the daemons from starting. So a command that writes among their files does
//! it as the user to whom they belong.

use crate::error::Error;
use pollux_runtime::ControllerConfig;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// User and group of the daemons, where this process is root and they are not.
#[must_use]
pub fn other_owner(config: &ControllerConfig) -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").ok()?.uid();
    let state = fs::metadata(&config.paths.var).ok()?;
    stands_in(own, (state.uid(), state.gid()))
}

/// For whom a user acts: root for the owner of the state, everybody else for themselves.
fn stands_in(user: u32, owner: (u32, u32)) -> Option<(u32, u32)> {
    (user == 0 && owner.0 != 0).then_some(owner)
}

/// Goes on as the owner of this controller's state: this program is run again, as that user. Returns at once where it is
/// that user already.
///
/// # Errors
/// The program cannot be run again.
pub fn act_as(config: &ControllerConfig) -> Result<(), Error> {
    let Some((user, group)) = other_owner(config) else {
        return Ok(());
    };
    let error = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .uid(user)
        .gid(group)
        .exec();
    let what = format!("cannot go on as user {user}, whose files these are: {error}");
    Err(Error::failed(what, "that user must be able to run this program"))
}

/// A program of ours that stands beside this one or where the package puts it, run as the owner of the state.
///
/// # Errors
/// It is not there.
pub fn helper(name: &str, config: &ControllerConfig) -> Result<Command, Error> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name));
    let packaged = Path::new("/usr/libexec/pollux").join(name);
    let Some(program) = beside
        .into_iter()
        .chain([packaged])
        .find(|program| program.exists())
    else {
        return Err(Error::failed(
            format!("{name} is neither beside this program nor in /usr/libexec/pollux"),
            "install the package pollux, or build it: cargo build --workspace --bins",
        ));
    };
    let mut command = Command::new(program);
    if let Some((user, group)) = other_owner(config) {
        command.uid(user).gid(group);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_acts_for_the_owner_and_nobody_else_does() {
        assert_eq!(stands_in(0, (998, 997)), Some((998, 997)));
        assert_eq!(stands_in(0, (0, 0)), None);
        assert_eq!(stands_in(1000, (998, 997)), None);
    }
}
