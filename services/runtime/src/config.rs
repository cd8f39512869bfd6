//! Who and where a controller is: the file `controller.toml` that every daemon is given.
//!
//! The chassis (or the installer) writes it with [`ControllerConfig::render`]; daemons read it with
//! [`ControllerConfig::load`]. It holds no secrets and nothing that the operator changes while the array runs: that
//! is the config keeper's.
//!
//! ```text
//! controller = "a"
//! array = "0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
//! profile = "fast"
//! [paths]         run, var, log, port, bmc, keys
//! [interconnect]  interface, legs, local, partner, heartbeat_port, router_port, forward_port
//! [front]         interface, address, prefix, portal_port, gate
//! [quorum]        disks
//! [fence]         reservations, power, watchdog
//! [management]    address, port, certificate, key      may be left out, and so may the last two
//! [history]       changes                              may be left out
//! ```

use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Name of the file in the controller's directory.
pub const FILE: &str = "controller.toml";

/// Who and where a controller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerConfig {
    /// Which of the two it is.
    pub controller: ControllerId,
    /// The array it belongs to.
    pub array: ArrayId,
    /// From which base its time limits are derived.
    pub profile: Profile,
    /// Its directories and sockets.
    pub paths: Paths,
    /// The wire to the partner.
    pub interconnect: Interconnect,
    /// The side of the hosts.
    pub front: Front,
    /// The disks of the quorum area.
    pub quorum: Quorum,
    /// Which rungs of the fencing ladder exist here.
    pub fence: Fence,
    /// Where those are served who come from afar; without it nobody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<Management>,
    /// How much history of the configuration is kept; without it as much as the keeper thinks right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
}

/// Fewest changes of which the history may be kept: what a partner misses while it restarts is among them.
pub const HISTORY_MIN: u64 = 16;

/// How much history of the configuration is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Changes behind the last one, at least; of those before, only what they amount to.
    pub changes: u64,
}

/// Timing profile; heartbeat's core derives every limit from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Dedicated machines.
    Fast,
    /// Slow disks, long error recovery.
    Safe,
    /// Noisy build machines.
    Ci,
}

impl Profile {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
            Self::Ci => "ci",
        }
    }
}

/// Directories and sockets of one controller. All absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// Wiped at each boot: sockets, the lease word, the incarnation.
    pub run: PathBuf,
    /// Survives boots: databases and journals.
    pub var: PathBuf,
    /// Standard error of each daemon.
    pub log: PathBuf,
    /// Shelf ports, one socket per disk.
    pub port: PathBuf,
    /// The baseboard controller's socket.
    pub bmc: PathBuf,
    /// Key store of the pairing.
    pub keys: PathBuf,
}

impl Paths {
    /// Everything of a controller in one folder, as on a machine that is more than one controller.
    pub fn within(folder: &Path) -> Self {
        Self {
            run: folder.join("run"),
            var: folder.join("var"),
            log: folder.join("log"),
            port: folder.join("port"),
            bmc: folder.join("bmc.sock"),
            keys: folder.join("keys"),
        }
    }

    /// The router's socket.
    pub fn router_socket(&self) -> PathBuf {
        self.run.join("router.sock")
    }

    /// The lease word.
    pub fn lease(&self) -> PathBuf {
        self.run.join("lease")
    }

    /// Directory of the volumes' block-frame sockets.
    pub fn volumes(&self) -> PathBuf {
        self.run.join("volumes")
    }

    /// This controller's port to a disk.
    pub fn disk_socket(&self, disk: DiskIndex) -> PathBuf {
        self.port.join(format!("{disk}.sock"))
    }

    /// The disks to which this controller has a port now.
    ///
    /// # Errors
    /// What the system says of the directory.
    pub fn disks(&self) -> std::io::Result<BTreeSet<DiskIndex>> {
        let mut disks = BTreeSet::new();
        for entry in std::fs::read_dir(&self.port)? {
            let name = entry?.file_name();
            let slot = name
                .to_str()
                .and_then(|name| name.strip_prefix("disk-")?.strip_suffix(".sock")?.parse().ok());
            disks.extend(slot.map(DiskIndex::new));
        }
        Ok(disks)
    }

    fn all(&self) -> [(&'static str, &Path); 6] {
        [
            ("paths.run", &self.run),
            ("paths.var", &self.var),
            ("paths.log", &self.log),
            ("paths.port", &self.port),
            ("paths.bmc", &self.bmc),
            ("paths.keys", &self.keys),
        ]
    }
}

/// The wire to the partner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interconnect {
    /// The bond.
    pub interface: String,
    /// Its legs, to watch their carrier.
    pub legs: Vec<String>,
    /// This controller's address on it.
    pub local: IpAddr,
    /// The partner's.
    pub partner: IpAddr,
    /// UDP port of the heartbeat.
    pub heartbeat_port: u16,
    /// TCP port of the routers.
    pub router_port: u16,
    /// TCP port on which block commands are forwarded.
    pub forward_port: u16,
}

impl Interconnect {
    /// Where the router listens for the partner's.
    pub fn router_local(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.router_port)
    }

    /// Where the partner's router listens.
    pub fn router_partner(&self) -> SocketAddr {
        SocketAddr::new(self.partner, self.router_port)
    }
}

/// The side of the hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Front {
    /// Interface that carries the portal and the floating addresses.
    pub interface: String,
    /// The controller's own address on it; it never moves.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// TCP port of the iSCSI portal.
    pub portal_port: u16,
    /// The kernel holds back what it and its targets would answer hosts while heartbeat has no lease: on an appliance. It
    /// takes nf_tables and CAP_NET_ADMIN; where it cannot be done, this controller serves nothing.
    #[serde(default)]
    pub gate: bool,
}

impl Front {
    /// The iSCSI portal.
    pub fn portal(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.portal_port)
    }
}

/// The disks of the quorum area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// One, three or five of them.
    pub disks: Vec<DiskIndex>,
}

/// Which rungs of the fencing ladder exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// Persistent reservations on the data disks.
    pub reservations: bool,
    /// The partner's power through the BMC.
    pub power: bool,
    /// Own watchdog, so that the partner may wait for it.
    pub watchdog: bool,
}

/// Where those are served who come from afar, over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// The address; `0.0.0.0` or `::` for all of this controller's.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// The operator's own certificate and what it is signed by, PEM; without it the controller makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, PEM, readable by its owner alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl Management {
    /// Where the router listens for them.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}; --config names the {FILE} of a controller", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no TOML, a key is missing, unknown or of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        source: Box<toml::de::Error>,
    },
    /// The values do not fit each other.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Values {
        /// The file.
        path: PathBuf,
        /// Every problem: key, what is wrong, what would be right.
        problems: Vec<String>,
    },
}

impl ControllerConfig {
    /// A controller without a shelf whose partner is on this machine too, each on an address of 127.0.0.0/8 (that of a and
    /// that of b) and in a folder of its own: what tests and measurements of the bus run.
    pub fn on_loopback(
        controller: ControllerId,
        array: ArrayId,
        folder: &Path,
        addresses: [Ipv4Addr; 2],
    ) -> Self {
        let address = |of: ControllerId| IpAddr::V4(addresses[of.index()]);
        let local = address(controller);
        Self {
            controller,
            array,
            profile: Profile::Ci,
            paths: Paths::within(folder),
            interconnect: Interconnect {
                interface: "lo".into(),
                legs: vec!["lo".into()],
                local,
                partner: address(controller.partner()),
                heartbeat_port: 7700,
                router_port: 7710,
                forward_port: 7711,
            },
            front: Front {
                interface: "lo".into(),
                address: local,
                prefix: 32,
                portal_port: 3260,
                gate: false,
            },
            quorum: Quorum {
                disks: vec![DiskIndex::new(0)],
            },
            fence: Fence {
                reservations: true,
                power: false,
                watchdog: false,
            },
            management: None,
            history: None,
        }
    }

    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key and what would be right.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Values {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// The file's text; [`ControllerConfig::load`] reads it back to the same value.
    pub fn render(&self) -> String {
        // Every field has a TOML form: no map with other keys than strings, no unit, no integer above 2^63.
        toml::to_string(self).expect("a controller's configuration always has a TOML form")
    }

    /// Everything that is wrong with the values, each with the key and what would be right.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |right: bool, text: String| {
            if !right {
                problems.push(text);
            }
        };
        for (key, path) in self.paths.all() {
            check(path.is_absolute(), format!("{key} = {path:?} must be absolute"));
        }
        let Interconnect {
            local, partner, legs, ..
        } = &self.interconnect;
        check(
            local != partner,
            format!("interconnect.partner = \"{partner}\" must differ from interconnect.local"),
        );
        check(
            !legs.is_empty(),
            "interconnect.legs = [] must name at least one leg".into(),
        );
        let ports = [
            ("interconnect.heartbeat_port", self.interconnect.heartbeat_port),
            ("interconnect.router_port", self.interconnect.router_port),
            ("interconnect.forward_port", self.interconnect.forward_port),
            ("front.portal_port", self.front.portal_port),
        ];
        for (key, port) in ports {
            check(port != 0, format!("{key} = 0 must be between 1 and 65535"));
        }
        check(
            self.interconnect.router_port != self.interconnect.forward_port,
            "interconnect.forward_port must differ from interconnect.router_port".into(),
        );
        let longest = if self.front.address.is_ipv4() { 32 } else { 128 };
        check(
            self.front.prefix <= longest,
            format!("front.prefix = {} must be at most {longest}", self.front.prefix),
        );
        if self.front.gate {
            let front = &self.front.interface;
            check(
                *front != self.interconnect.interface && front != "lo",
                format!(
                    "front.interface = {front:?} must be neither the interconnect nor lo with front.gate = true: what leaves \
                     by those is never held back"
                ),
            );
            for (key, name) in [
                ("front.interface", front),
                ("interconnect.interface", &self.interconnect.interface),
            ] {
                check(
                    (1..16).contains(&name.len()),
                    format!("{key} = {name:?} must be the name of an interface, 1 to 15 bytes"),
                );
            }
        }
        if let Some(management) = &self.management {
            let (certificate, key) = (&management.certificate, &management.key);
            check(
                management.port != 0,
                "management.port = 0 must be between 1 and 65535".into(),
            );
            check(
                certificate.is_some() == key.is_some(),
                "management.certificate and management.key stand together or not at all".into(),
            );
            for (name, path) in [("certificate", certificate), ("key", key)] {
                if let Some(path) = path {
                    check(
                        path.is_absolute(),
                        format!("management.{name} = {path:?} must be absolute"),
                    );
                }
            }
            for (name, taken) in [
                ("interconnect.router_port", self.interconnect.router_local()),
                ("front.portal_port", self.front.portal()),
            ] {
                let same = management.address.is_unspecified() || management.address == taken.ip();
                check(
                    !(same && management.port == taken.port()),
                    format!("management.port must differ from {name}"),
                );
            }
        }
        if let Some(History { changes }) = self.history {
            check(
                changes >= HISTORY_MIN,
                format!("history.changes = {changes} must be at least {HISTORY_MIN}"),
            );
        }
        let disks = &self.quorum.disks;
        check(
            matches!(disks.len(), 1 | 3 | 5),
            format!(
                "quorum.disks names {} disks; an array has 1, 3 or 5 quorum disks",
                disks.len()
            ),
        );
        let twice = disks
            .iter()
            .enumerate()
            .find(|(i, disk)| disks[..*i].contains(disk));
        if let Some((_, disk)) = twice {
            check(
                false,
                format!("quorum.disks names {disk} twice; each vote needs a disk of its own"),
            );
        }
        problems
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(dir: &Path) -> ControllerConfig {
        ControllerConfig {
            controller: ControllerId::A,
            array: ArrayId::from_bytes([7; 16]),
            profile: Profile::Fast,
            paths: Paths {
                run: dir.join("run"),
                var: dir.join("var"),
                log: dir.join("log"),
                port: dir.join("port"),
                bmc: dir.join("bmc.sock"),
                keys: dir.join("keys"),
            },
            interconnect: Interconnect {
                interface: "ic0".into(),
                legs: vec!["leg0".into(), "leg1".into()],
                local: "10.77.0.1".parse().unwrap(),
                partner: "10.77.0.2".parse().unwrap(),
                heartbeat_port: 7700,
                router_port: 7710,
                forward_port: 7711,
            },
            front: Front {
                interface: "host0".into(),
                address: "10.78.0.1".parse().unwrap(),
                prefix: 24,
                portal_port: 3260,
                gate: true,
            },
            quorum: Quorum {
                disks: (0..3).map(DiskIndex::new).collect(),
            },
            fence: Fence {
                reservations: true,
                power: true,
                watchdog: true,
            },
            management: None,
            history: None,
        }
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = example(dir.path());
        let file = dir.path().join(FILE);
        let managed = ControllerConfig {
            management: Some(Management {
                address: "10.79.0.1".parse().unwrap(),
                port: 7443,
                certificate: Some("/etc/pollux/web.crt".into()),
                key: Some("/etc/pollux/web.key".into()),
            }),
            history: Some(History { changes: 100 }),
            ..config.clone()
        };
        for config in [config, managed] {
            fs::write(&file, config.render()).unwrap();
            assert_eq!(ControllerConfig::load(&file).unwrap(), config);
        }
    }

    #[test]
    fn every_refusal_names_the_file_and_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let refusal = |text: &str| {
            fs::write(&file, text).unwrap();
            let text = ControllerConfig::load(&file).unwrap_err().to_string();
            assert!(text.contains(file.to_str().unwrap()), "{text}");
            text
        };
        let good = example(dir.path()).render();
        for (from, to, named) in [
            ("controller = \"a\"", "controller = \"c\"", "controller"),
            ("profile = \"fast\"", "profile = \"quick\"", "profile"),
            ("portal_port = 3260", "portal_port = 0", "front.portal_port"),
            ("portal_port = 3260", "portal_prot = 3260", "portal_prot"),
            (
                "partner = \"10.77.0.2\"",
                "partner = \"10.77.0.1\"",
                "interconnect.partner",
            ),
            ("disks = [0, 1, 2]", "disks = [0, 1]", "quorum.disks"),
            ("disks = [0, 1, 2]", "disks = [0, 1, 1]", "disk-01 twice"),
            ("prefix = 24", "prefix = 33", "front.prefix"),
            (
                "interface = \"host0\"",
                "interface = \"ic0\"",
                "front.gate = true",
            ),
        ] {
            assert!(good.contains(from), "{from} is not in:\n{good}");
            let text = refusal(&good.replace(from, to));
            assert!(text.contains(named), "{to}: {text}");
        }
        for (section, named) in [
            ("address = \"::\"\nport = 0", "management.port = 0"),
            ("address = \"10.77.0.1\"\nport = 7710", "interconnect.router_port"),
            ("address = \"::\"\nport = 3260", "front.portal_port"),
            ("address = \"::\"\nport = 7443\nkey = \"/k\"", "stand together"),
            (
                "address = \"::\"\nport = 7443\nkey = \"k\"\ncertificate = \"/c\"",
                "management.key = \"k\"",
            ),
        ] {
            let text = refusal(&format!("{good}\n[management]\n{section}\n"));
            assert!(text.contains(named), "{section}: {text}");
        }
        let text = refusal(&format!("{good}\n[history]\nchanges = 3\n"));
        assert!(text.contains("history.changes = 3 must be at least 16"), "{text}");
        let missing = ControllerConfig::load(&dir.path().join("nowhere"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("nowhere"), "{missing}");
    }
}
