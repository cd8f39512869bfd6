//! What every measurement needs around it: a folder for sockets and logs, the programs that are measured, and two
//! controllers on loopback that are paired.
//!
//! Invariants: whatever was started ends before the folder goes away; two measurements at the same time do not meet.

use crate::error::{Context, Error, Result};
use crate::peer::pollux;
use crate::process::Process;
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_pairing::identity::provision;
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::FILE;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Slots of the shelf that a controller without a shelf is shown.
const SLOTS: u16 = 8;

/// Where the programs are, and a folder for sockets and logs that goes away.
pub(crate) struct Stage {
    /// What runs; it ends before the folder goes.
    pub(crate) processes: Vec<Process>,
    folder: tempfile::TempDir,
    /// The running program, which is some of the peers as well.
    pub(crate) this: PathBuf,
}

impl Stage {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        let mut this = std::env::current_exe().context("the running program")?;
        // A test stands in a folder below the programs.
        if this.parent().is_some_and(|folder| folder.ends_with("deps")) {
            let folder = this.ancestors().nth(2).unwrap_or(Path::new("/"));
            this = folder.join("pollux-measure");
        }
        Ok(Self {
            processes: Vec::new(),
            folder: tempfile::tempdir().context("a folder for sockets")?,
            this,
        })
    }

    /// A place in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon of the array, which stands beside the running program.
    pub(crate) fn daemon(&self, name: &str) -> Result<PathBuf> {
        let program = self.this.with_file_name(name);
        if program.is_file() {
            return Ok(program);
        }
        Err(Error::Missing(format!(
            "{} is not there: `cargo measure` builds it",
            program.display()
        )))
    }

    /// Starts a program and keeps it running; its number.
    pub(crate) fn start<T>(
        &mut self,
        command: &mut Command,
        log: &str,
        what: &str,
        ready: impl FnMut() -> Option<T>,
    ) -> Result<(u32, T)> {
        let mut process = Process::start(command, &self.path(log))?;
        let found = process.until(what, ready)?;
        let id = process.id();
        self.processes.push(process);
        Ok((id, found))
    }

    /// Starts both routers of `configs`, which then are linked; their numbers. `log` is what they write down, as they
    /// are shipped if none.
    pub(crate) fn routers(&mut self, log: Option<&str>, configs: &[ControllerConfig; 2]) -> Result<[u32; 2]> {
        let program = self.daemon("rpc-routerd")?;
        let mut ids = [0; 2];
        for config in configs {
            let socket = config.paths.router_socket();
            let mut command = Command::new(&program);
            command.arg("--config").arg(config.paths.log.join(FILE));
            if let Some(log) = log {
                command.env("POLLUX_LOG", log);
            }
            let log = format!("{}.log", config.controller);
            let (id, _) = self.start(&mut command, &log, "listens", || {
                UnixStream::connect(&socket).ok()
            })?;
            ids[config.controller.index()] = id;
        }
        let socket = configs[0].paths.router_socket();
        if let Some(last) = self.processes.last_mut() {
            last.until("is linked", || pollux::is_linked(&socket).then_some(()))?;
        }
        Ok(ids)
    }

    /// The key stores of two controllers that are paired.
    pub(crate) fn keys(&self) -> Result<[PathBuf; 2]> {
        let stores = ["a", "b"].map(|own| self.path(own).join("keys"));
        provision([&stores[0], &stores[1]]).context("keys")?;
        Ok(stores)
    }

    /// Writes what the daemons of two controllers need. What survives a boot is in `var`, in a folder for each, or with
    /// the rest.
    pub(crate) fn controllers(&self, var: Option<&Path>) -> Result<[ControllerConfig; 2]> {
        self.keys()?;
        let array = ArrayId::from_bytes([7; 16]);
        // An address of their own, so that two measurements at the same time do not meet.
        let number = std::process::id();
        let [_, _, high, low] = number.to_be_bytes();
        let addresses = [1, 2].map(|last| Ipv4Addr::new(127, high | 1, low, last));
        let configs = ControllerId::ALL.map(|controller| {
            let own = self.path(controller.as_str());
            let mut config = ControllerConfig::on_loopback(controller, array, &own, addresses);
            config.paths.log = own;
            if let Some(var) = var {
                config.paths.var = var.join(controller.as_str());
            }
            config
        });
        for config in &configs {
            let paths = &config.paths;
            for folder in [&paths.log, &paths.var, &paths.port] {
                fs::create_dir_all(folder).context(folder.display())?;
            }
            for slot in 0..SLOTS {
                let path = paths.disk_socket(DiskIndex::new(slot));
                fs::write(&path, []).context(path.display())?;
            }
            let file = paths.log.join(FILE);
            fs::write(&file, config.render()).context(file.display())?;
        }
        Ok(configs)
    }
}

/// So many ports on loopback that nobody uses now.
pub(crate) fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port"))
        .collect::<Result<_>>()?;
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().context("a free port")?;
    }
    Ok(ports)
}

/// A port on loopback that nobody uses now.
pub(crate) fn free_port() -> Result<SocketAddr> {
    free_ports::<1>().map(|[port]| port)
}
