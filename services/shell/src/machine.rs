//! `pollux machine`: takes this machine down, as heartbeat has left word.
//!
//! Heartbeat decides when, and has no right to do it; this command has, and decides nothing: the unit `pollux-machine` runs
//! it when the word is there. systemd is asked over D-Bus to start `poweroff.target` or `reboot.target`, which is what
//! `systemctl poweroff` comes down to, so every unit is stopped in its order, ours among them.
//!
//! The word is an errand that lies on the table until it is done: it goes when systemd has taken the job, so whoever is killed
//! on the way, or finds no bus, is started again and finds it. Asked twice for one target, systemd has one job. A word that
//! says nothing is moved aside at once: it would stay for ever, and with it nobody would see the next one.

use crate::array::Place;
use crate::error::Error;
use crate::resources::Shown;
use pollux_runtime::ControllerConfig;
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// The file in the runtime folder in which heartbeat leaves its word.
pub const WORD: &str = "machine";
/// Where a word goes that is not understood, for people.
pub const REFUSED: &str = "machine.refused";

/// systemd, as far as it is needed.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    /// Starts a unit; answers its job.
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<zbus::zvariant::OwnedObjectPath>;
}

/// Does what the word says.
///
/// # Errors
/// There is none or it is not understood (exit code 2: to try again is of no use); there is no bus, or systemd refuses.
pub async fn run(place: &Place) -> Result<Shown, Error> {
    let file = place.controller_dir()?.join(pollux_runtime::config::FILE);
    let config = ControllerConfig::load(&file)
        .map_err(|error| Error::usage(error.to_string(), "a controller.toml as `pollux setup` writes it"))?;
    let path = config.paths.run.join(WORD);
    let target = read(&path)?;
    let bus = zbus::Connection::system().await.map_err(|error| {
        Error::failed(
            format!("the system bus: {error}"),
            format!("is dbus running? by hand: systemctl start {target}"),
        )
    })?;
    obey(&bus, target, &path).await?;
    Ok(Shown {
        text: format!("{target} is being started\n"),
        json: json!({ "target": target }),
    })
}

/// The target of the word that lies there.
fn read(path: &Path) -> Result<&'static str, Error> {
    let word = fs::read(path).map_err(|error| {
        let what = format!("{}: {error}", path.display());
        let remedy = "pollux shutdown, pollux reboot --on a|b; heartbeat leaves its word when it has left";
        match error.kind() {
            ErrorKind::NotFound => Error::usage(what, remedy),
            _ => Error::failed(what, "run as root, which the unit pollux-machine does"),
        }
    })?;
    let Some(target) = target(&word) else {
        let aside = path.with_file_name(REFUSED);
        let moved = match fs::rename(path, &aside) {
            Ok(()) => format!("it lies in {} now", aside.display()),
            Err(error) => format!("and it cannot be moved to {}: {error}", aside.display()),
        };
        let beginning: String = String::from_utf8_lossy(&word).chars().take(32).collect();
        return Err(Error::usage(
            format!("heartbeat's word {beginning:?} is not understood; {moved}"),
            "off or reboot; by hand: systemctl start poweroff.target, systemctl start reboot.target",
        ));
    };
    Ok(target)
}

fn target(word: &[u8]) -> Option<&'static str> {
    match word.trim_ascii() {
        b"off" => Some("poweroff.target"),
        b"reboot" => Some("reboot.target"),
        _ => None,
    }
}

/// Has systemd take the job, and only then the word away.
async fn obey(bus: &zbus::Connection, target: &str, path: &Path) -> Result<(), Error> {
    start(bus, target).await.map_err(|error| {
        Error::failed(
            format!("systemd does not start {target}: {error}"),
            format!("by hand: systemctl start {target}"),
        )
    })?;
    fs::remove_file(path).map_err(|error| {
        Error::failed(
            format!("{target} is being started, and {} stays: {error}", path.display()),
            "run as root, which the unit pollux-machine does; the next boot wipes it",
        )
    })
}

/// Nothing that is started later undoes it.
async fn start(bus: &zbus::Connection, target: &str) -> zbus::Result<()> {
    let manager = ManagerProxy::new(bus).await?;
    manager.start_unit(target, "replace-irreversibly").await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    /// systemd's end of the line: says what it is asked, refuses what it does not know, and while it is stalled never answers.
    struct Systemd {
        asked: mpsc::UnboundedSender<(String, String)>,
        stalled: Arc<Mutex<bool>>,
    }

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl Systemd {
        async fn start_unit(
            &self,
            name: &str,
            mode: &str,
        ) -> zbus::fdo::Result<zbus::zvariant::OwnedObjectPath> {
            self.asked.send((name.to_owned(), mode.to_owned())).unwrap();
            if *self.stalled.lock().unwrap() {
                std::future::pending::<()>().await;
            }
            if !name.ends_with(".target") {
                return Err(zbus::fdo::Error::UnknownObject(format!("Unit {name} not found.")));
            }
            let job = zbus::zvariant::ObjectPath::try_from("/org/freedesktop/systemd1/job/7");
            Ok(job.unwrap().into())
        }
    }

    struct Bus {
        us: zbus::Connection,
        asked: mpsc::UnboundedReceiver<(String, String)>,
        stalled: Arc<Mutex<bool>>,
        _systemd: zbus::Connection,
    }

    impl Bus {
        async fn new() -> Self {
            let (sender, asked) = mpsc::unbounded_channel();
            let stalled = Arc::default();
            let (ours, theirs) = UnixStream::pair().unwrap();
            let systemd = Systemd {
                asked: sender,
                stalled: Arc::clone(&stalled),
            };
            let systemd = zbus::connection::Builder::unix_stream(theirs)
                .server(zbus::Guid::generate())
                .unwrap()
                .p2p()
                .serve_at("/org/freedesktop/systemd1", systemd)
                .unwrap();
            let us = zbus::connection::Builder::unix_stream(ours).p2p();
            let (systemd, us) = tokio::join!(systemd.build(), us.build());
            Self {
                us: us.unwrap(),
                asked,
                stalled,
                _systemd: systemd.unwrap(),
            }
        }

        fn stall(&self, stalled: bool) {
            *self.stalled.lock().unwrap() = stalled;
        }
    }

    fn asked(target: &str) -> (String, String) {
        (target.to_owned(), "replace-irreversibly".to_owned())
    }

    #[tokio::test]
    async fn systemd_is_asked_for_the_target_of_the_word_and_the_word_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WORD);
        let mut bus = Bus::new().await;
        for (word, target) in [("off\n", "poweroff.target"), ("reboot", "reboot.target")] {
            fs::write(&path, word).unwrap();
            obey(&bus.us, read(&path).unwrap(), &path).await.unwrap();
            assert_eq!(bus.asked.recv().await, Some(asked(target)));
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_word_stands_until_systemd_has_taken_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WORD);
        fs::write(&path, "off\n").unwrap();
        let mut bus = Bus::new().await;
        let refusal = obey(&bus.us, "halt", &path).await.unwrap_err();
        assert!(refusal.to_string().contains("halt not found"), "{refusal}");
        assert_eq!(read(&path).unwrap(), "poweroff.target");
        assert_eq!(bus.asked.recv().await.unwrap().0, "halt");

        // It ends while systemd is being asked, as whoever is killed there.
        bus.stall(true);
        tokio::select! {
            done = obey(&bus.us, "poweroff.target", &path) => panic!("it was not answered: {done:?}"),
            told = bus.asked.recv() => assert_eq!(told, Some(asked("poweroff.target"))),
        }
        bus.stall(false);
        let again = read(&path).unwrap();
        obey(&bus.us, again, &path).await.unwrap();
        assert_eq!(bus.asked.recv().await, Some(asked("poweroff.target")));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_word_is_moved_aside_and_makes_room_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WORD);
        for damaged in [&b""[..], b"of", b"offoff\n", b"off\nreboot\n", b"OFF", b"\xff\0"] {
            fs::write(&path, damaged).unwrap();
            let refused = read(&path).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "to be tried again: {refused}");
            assert!(refused.to_string().contains("off or reboot"), "{refused}");
            assert_eq!(fs::read(dir.path().join(REFUSED)).unwrap(), damaged);
            let none = read(&path).unwrap_err();
            assert_eq!(none.exit_code(), 2, "{none}");
            assert!(none.to_string().contains("pollux shutdown"), "{none}");
        }
        fs::write(&path, "reboot\n").unwrap();
        assert_eq!(read(&path).unwrap(), "reboot.target");
    }
}
