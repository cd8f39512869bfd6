//! `pollux machine`: takes this machine down, as heartbeat has left word.
//!
//! Heartbeat decides when, and has no right to do it; this command has, and decides nothing: the unit `pollux-machine` runs
//! it when the word is there. systemd is asked over D-Bus to start `poweroff.target` or `reboot.target`, which is what
//! `systemctl poweroff` comes down to, so every unit is stopped in its order, ours among them.

use crate::array::Place;
use crate::error::Error;
use crate::resources::Shown;
use pollux_runtime::ControllerConfig;
use serde_json::json;
use std::fs;

/// The file in the runtime folder in which heartbeat leaves its word.
pub const WORD: &str = "machine";

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
/// There is none, it is not understood, or systemd refuses.
pub async fn run(place: &Place) -> Result<Shown, Error> {
    let file = place.controller_dir()?.join(pollux_runtime::config::FILE);
    let config = ControllerConfig::load(&file)
        .map_err(|error| Error::usage(error.to_string(), "a controller.toml as `pollux setup` writes it"))?;
    let path = config.paths.run.join(WORD);
    let word = fs::read_to_string(&path).map_err(|error| {
        Error::failed(
            format!("{}: {error}", path.display()),
            "pollux shutdown, pollux reboot --on a|b; heartbeat leaves its word when it has left",
        )
    })?;
    let target = target(&word)?;
    // Once: a word that stays would take the machine down again and again.
    fs::remove_file(&path).map_err(|error| {
        Error::failed(
            format!("{}: {error}", path.display()),
            "run as root, which the unit pollux-machine does",
        )
    })?;
    let bus = zbus::Connection::system().await.map_err(|error| {
        Error::failed(
            format!("the system bus: {error}"),
            format!("is dbus running? by hand: systemctl start {target}"),
        )
    })?;
    start(&bus, target).await.map_err(|error| {
        Error::failed(
            format!("systemd does not start {target}: {error}"),
            format!("by hand: systemctl start {target}"),
        )
    })?;
    Ok(Shown {
        text: format!("{target} is being started\n"),
        json: json!({ "target": target }),
    })
}

fn target(word: &str) -> Result<&'static str, Error> {
    match word.trim() {
        "off" => Ok("poweroff.target"),
        "reboot" => Ok("reboot.target"),
        other => Err(Error::failed(
            format!("heartbeat's word {other:?} is not understood"),
            "off or reboot",
        )),
    }
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

    /// systemd's end of the line: writes down what it is asked, and refuses what it does not know.
    struct Systemd(Arc<Mutex<Vec<(String, String)>>>);

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl Systemd {
        fn start_unit(&self, name: &str, mode: &str) -> zbus::fdo::Result<zbus::zvariant::OwnedObjectPath> {
            if !name.ends_with(".target") {
                return Err(zbus::fdo::Error::UnknownObject(format!("Unit {name} not found.")));
            }
            self.0.lock().unwrap().push((name.to_owned(), mode.to_owned()));
            let job = zbus::zvariant::ObjectPath::try_from("/org/freedesktop/systemd1/job/7");
            Ok(job.unwrap().into())
        }
    }

    #[tokio::test]
    async fn systemd_is_asked_for_the_target_of_the_word() {
        let asked = Arc::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let systemd = zbus::connection::Builder::unix_stream(theirs)
            .server(zbus::Guid::generate())
            .unwrap()
            .p2p()
            .serve_at("/org/freedesktop/systemd1", Systemd(Arc::clone(&asked)))
            .unwrap();
        let us = zbus::connection::Builder::unix_stream(ours).p2p();
        let (systemd, us) = tokio::join!(systemd.build(), us.build());
        let (_systemd, us) = (systemd.unwrap(), us.unwrap());
        for word in ["off\n", "reboot"] {
            start(&us, target(word).unwrap()).await.unwrap();
        }
        let mode = "replace-irreversibly";
        let right = [("poweroff.target", mode), ("reboot.target", mode)];
        let right = right.map(|(name, mode)| (name.to_owned(), mode.to_owned()));
        assert_eq!(*asked.lock().unwrap(), right);
        let refusal = start(&us, "halt").await.unwrap_err();
        assert!(refusal.to_string().contains("halt not found"), "{refusal}");
        assert!(target("halt").unwrap_err().to_string().contains("off or reboot"));
    }
}
