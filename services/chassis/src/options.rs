//! How an enclosure is fitted out.

use crate::network;
use clap::Args;
use pollux_api::size::{BadSize, Size};
use pollux_api::{
    chassis::SOCKET,
    id::{ArrayId, ControllerId, DiskIndex},
};
use pollux_runtime::config::{
    ControllerConfig, Fence, Front, HISTORY_MIN, History, Interconnect, Paths, Profile, Quorum,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Daemons of a controller, in the order in which they are started; all but the first at once.
pub const DAEMONS: [&str; 7] = [
    "rpc-routerd",
    "config-keeperd",
    "pool-managerd",
    "block-targetd",
    "aluad",
    "addressd",
    "heartbeatd",
];

/// Longest path of a Unix socket, less the terminating zero (unix(7)).
const LONGEST_SOCKET: usize = 107;
/// The longest name of a socket below the array's directory: a volume's.
const DEEPEST: &str = "a/run/volumes/01234567-89ab-cdef-0123-456789abcdef.sock";

/// How an enclosure is fitted out. As a command line these are the options of `pollux-chassis run`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Directory of the array; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Data disks of a new shelf
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub disks: u16,
    /// Size of each data disk of a new shelf, for instance 256M or 1G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub disk_size: u64,
    /// Quorum disks of a new shelf: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_quorum)]
    pub quorum: u16,
    /// Timing of the controllers: fast, safe or ci
    #[arg(long, value_name = "PROFILE", default_value = "fast", value_parser = parse_profile)]
    pub profile: Profile,
    /// Seed of everything that is left to chance: which unflushed blocks a power cut loses, how slow a slow disk is
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Where the daemons' programs are; beside this program if it is not given
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Start these daemons only, in this order
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values_t = DAEMONS.map(str::to_owned))]
    pub daemons: Vec<String>,
    /// Leave the controllers off
    #[arg(long)]
    pub powered_off: bool,
    /// The controllers cannot reach each other's power control
    #[arg(long)]
    pub no_power_fencing: bool,
    /// The watchdogs do not act
    #[arg(long)]
    pub no_watchdog: bool,
    /// Changes of the configuration of which each controller keeps the history, at least
    #[arg(long, value_name = "CHANGES", value_parser = clap::value_parser!(u64).range(HISTORY_MIN..))]
    pub history: Option<u64>,
    /// Time that the bond takes to change legs, ms
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub bond_failover_ms: u64,
    /// The controllers' kernels hold back what no lease permits, as on an appliance
    #[arg(long)]
    pub gate: bool,
    /// End when standard input ends, so that nothing outlives the program that started this one
    #[arg(long)]
    pub end_with_stdin: bool,
}

impl Options {
    /// The defaults, for an array in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            disks: 4,
            disk_size: 256 << 20,
            quorum: 3,
            profile: Profile::Fast,
            seed: 0,
            programs: None,
            daemons: DAEMONS.map(str::to_owned).to_vec(),
            powered_off: false,
            no_power_fencing: false,
            no_watchdog: false,
            history: None,
            bond_failover_ms: 50,
            gate: false,
            end_with_stdin: false,
        }
    }

    /// The command line that gives these options.
    pub fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--dir={}", self.dir.display()),
            format!("--disks={}", self.disks),
            format!("--disk-size={}", self.disk_size),
            format!("--quorum={}", self.quorum),
            format!("--profile={}", self.profile.as_str()),
            format!("--seed={}", self.seed),
            format!("--daemons={}", self.daemons.join(",")),
            format!("--bond-failover-ms={}", self.bond_failover_ms),
        ];
        arguments.extend(
            self.programs
                .iter()
                .map(|dir| format!("--programs={}", dir.display())),
        );
        arguments.extend(self.history.map(|changes| format!("--history={changes}")));
        for (flag, set) in [
            ("--powered-off", self.powered_off),
            ("--no-power-fencing", self.no_power_fencing),
            ("--no-watchdog", self.no_watchdog),
            ("--gate", self.gate),
            ("--end-with-stdin", self.end_with_stdin),
        ] {
            arguments.extend(set.then(|| flag.to_owned()));
        }
        arguments
    }

    /// Time that the bond takes to change legs.
    pub(crate) fn bond_failover(&self) -> Duration {
        Duration::from_millis(self.bond_failover_ms)
    }

    /// What every daemon of a controller is told.
    pub(crate) fn controller_config(
        &self,
        controller: ControllerId,
        array: ArrayId,
        quorum: Vec<DiskIndex>,
    ) -> ControllerConfig {
        ControllerConfig {
            controller,
            array,
            profile: self.profile,
            paths: Paths::within(&self.controller_dir(controller)),
            interconnect: Interconnect {
                interface: network::INTERCONNECT.into(),
                legs: network::LEGS.map(str::to_owned).to_vec(),
                local: network::interconnect_address(controller),
                partner: network::interconnect_address(controller.partner()),
                heartbeat_port: 7700,
                router_port: 7710,
                forward_port: 7711,
            },
            front: Front {
                interface: network::FRONT.into(),
                address: network::front_address(controller),
                prefix: network::PREFIX,
                portal_port: 3260,
                gate: self.gate,
            },
            quorum: Quorum { disks: quorum },
            fence: Fence {
                reservations: true,
                power: true,
                watchdog: true,
            },
            management: None,
            history: self.history.map(|changes| History { changes }),
        }
    }

    /// Where a daemon's program is.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs
            .clone()
            .or_else(program_dir)
            .unwrap_or_default()
            .join(name)
    }

    /// Directory of one controller.
    pub(crate) fn controller_dir(&self, controller: ControllerId) -> PathBuf {
        self.dir.join(controller.as_str())
    }
}

/// The directory in which the programs of the array lie together: that of the running one, or, for a test, the one
/// above its own.
pub fn program_dir() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let dir = own.parent()?;
    Some(if dir.ends_with("deps") {
        dir.parent()?.to_owned()
    } else {
        dir.to_owned()
    })
}

/// The control socket of the enclosure in `dir`.
pub fn control_socket(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}

/// The file that the enclosure in `dir` locks.
pub fn lock_file(dir: &Path) -> PathBuf {
    dir.join("chassis.lock")
}

/// Refuses a directory under which the sockets' names would be too long.
pub(crate) fn check_length(dir: &Path) -> Result<(), String> {
    let length = dir.as_os_str().len() + 1 + DEEPEST.len();
    if length <= LONGEST_SOCKET {
        return Ok(());
    }
    Err(format!(
        "{}: the path is {} bytes too long for the sockets below it; use one of at most {} bytes",
        dir.display(),
        length - LONGEST_SOCKET,
        LONGEST_SOCKET - 1 - DEEPEST.len()
    ))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let Size(bytes) = text.parse().map_err(|error: BadSize| error.to_string())?;
    const LEAST: u64 = 16 << 20;
    if bytes < LEAST || !bytes.is_multiple_of(4096) {
        return Err(format!(
            "a data disk of {bytes} bytes; it must be at least 16M and a multiple of 4096 bytes"
        ));
    }
    Ok(bytes)
}

fn parse_quorum(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err(format!("{text:?}: an array has 1, 3 or 5 quorum disks")),
    }
}

fn parse_profile(text: &str) -> Result<Profile, String> {
    [Profile::Fast, Profile::Safe, Profile::Ci]
        .into_iter()
        .find(|profile| profile.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no profile; there are fast, safe and ci"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn options_survive_the_command_line() {
        let mut options = Options::new(Path::new("/tmp/x"));
        let defaults = Line::parse_from(["run", "--dir", "/tmp/x"]).options;
        assert_eq!(
            format!("{defaults:?}"),
            format!("{options:?}"),
            "two places state the defaults"
        );
        options.no_watchdog = true;
        options.daemons.truncate(2);
        options.disk_size = 64 << 20;
        options.profile = Profile::Ci;
        options.programs = Some("/opt/x".into());
        let line = ["run".to_owned()].into_iter().chain(options.to_arguments());
        assert_eq!(
            format!("{:?}", Line::parse_from(line).options),
            format!("{options:?}")
        );
    }

    #[test]
    fn bad_values_are_named() {
        for (option, value, named) in [
            ("--disk-size", "lots", "is no size"),
            ("--disk-size", "1MM", "is no size"),
            ("--disk-size", "99999999T", "more than 2^64 bytes"),
            ("--disk-size", "1M", "at least 16M"),
            ("--quorum", "2", "1, 3 or 5"),
            ("--profile", "quick", "fast, safe and ci"),
            ("--disks", "0", "1..=64"),
        ] {
            let refused = Line::try_parse_from(["run", "--dir", "/tmp/x", option, value])
                .err()
                .expect(value);
            assert!(refused.to_string().contains(named), "{refused}");
        }
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert!(check_length(Path::new("/tmp/pollux")).is_ok());
        assert!(
            check_length(Path::new(&format!("/tmp/{}", "x".repeat(80))))
                .unwrap_err()
                .contains("too long")
        );
    }

    #[test]
    fn what_the_daemons_are_told_is_valid() {
        let options = Options::new(Path::new("/tmp/x"));
        for controller in ControllerId::ALL {
            let config = options.controller_config(
                controller,
                ArrayId::from_bytes([1; 16]),
                (4..7).map(DiskIndex::new).collect(),
            );
            assert_eq!(config.problems(), Vec::<String>::new());
        }
    }
}
