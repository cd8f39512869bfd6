//! The shelf as a whole: made or opened, and served at both ports.

use crate::disk::{DiskPort, Unit};
use crate::names::Names;
use crate::panel::Panel;
use crate::port::{Portal, listen, ways};
use pollux_api::id::{ArrayId, ControllerId, VolumeId};
use pollux_block_target::iscsi::server::{BindError, raise_descriptors};
use pollux_block_target::scsi::kind::Kind;
use pollux_block_target::target::Units;
use pollux_block_target::volume::{Identity, Volume};
use pollux_chassis::lines;
use pollux_chassis::shelf::{BLOCK_SIZE, Layout, Shelf, ShelfError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// How a shelf is made and where it is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the disks are; made if it is not there.
    pub folder: PathBuf,
    /// Data disks of a new shelf, 1 to 64.
    pub disks: u16,
    /// Size of each, bytes: a multiple of 4096, from 2 MiB.
    pub size: u64,
    /// Quorum disks of a new shelf, 1, 3 or 5: the last slots. They take no reservations.
    pub quorum: u16,
    /// Size of each, bytes: a multiple of 4096, from 1 MiB.
    pub quorum_size: u64,
    /// Where port a and port b listen: loopback. Port 0 takes any that is free.
    pub ports: [SocketAddr; 2],
    /// The control socket.
    pub control: PathBuf,
    /// Decides what faults and power cuts leave to chance.
    pub seed: u64,
}

/// Why the shelf does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that others than this machine could reach.
    #[error(
        "port {port}: {address} is no loopback address, and nobody has to prove himself here; take 127.0.0.1:{}",
        address.port()
    )]
    NotLoopback {
        /// Which port.
        port: ControllerId,
        /// As given.
        address: SocketAddr,
    },
    /// A port cannot be opened.
    #[error("port {port}: {source}")]
    Bind {
        /// Which port.
        port: ControllerId,
        /// Why.
        source: BindError,
    },
    /// The disks cannot be used.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// Something around them cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A running shelf, until [`stop`](Self::stop). The cache counts as written when its process ends.
#[derive(Debug)]
pub struct LabShelf {
    panel: Arc<Panel>,
    portals: Arc<[Portal; 2]>,
    control: JoinHandle<()>,
    socket: PathBuf,
}

impl LabShelf {
    /// Makes the shelf if the folder has none, opens it and serves both ports. Call it inside a tokio runtime.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        raise_descriptors();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Io { path, source }
        };
        for (port, address) in ControllerId::ALL.into_iter().zip(options.ports) {
            if !address.ip().is_loopback() {
                return Err(StartError::NotLoopback { port, address });
            }
        }
        let description = options.folder.join("shelf.json");
        if !description.try_exists().map_err(io(&description))? {
            let array = ArrayId::from_bytes(uuid::Uuid::new_v4().into_bytes());
            let layout = Layout {
                array,
                data_disks: options.disks,
                data_bytes: options.size,
                quorum_disks: options.quorum,
                quorum_bytes: options.quorum_size,
            };
            Shelf::create(&options.folder, &layout)?;
        }
        let shelf = Arc::new(Shelf::open(&options.folder, None, options.seed)?);
        let names = Arc::new(Names::open(&options.folder).map_err(io(&options.folder))?);
        let bind = |port, address| {
            let failed = move |source| StartError::Bind { port, source };
            let listener = listen(address).map_err(failed)?;
            let address = listener.local_addr().map_err(io(&options.folder))?;
            Ok::<_, StartError>((Portal::new(port, address), listener))
        };
        let [address_a, address_b] = options.ports;
        let (a, listener_a) = bind(ControllerId::A, address_a)?;
        let (b, listener_b) = bind(ControllerId::B, address_b)?;
        let portals = Arc::new([a, b]);
        fit_out(&shelf, &portals, &names);
        let socket = options.control.clone();
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(&socket)(error)),
            _ => {}
        }
        let door = UnixListener::bind(&socket).map_err(io(&socket))?;
        let panel = Arc::new(Panel::new(shelf, portals.clone()));
        let control = tokio::spawn(lines::serve(door, panel.clone()));
        for (portal, (port, listener)) in portals
            .iter()
            .zip([(ControllerId::A, listener_a), (ControllerId::B, listener_b)])
        {
            let plugged = portal.plug(Some(listener)).await;
            plugged.map_err(|source| StartError::Bind { port, source })?;
        }
        Ok(LabShelf {
            panel,
            portals,
            control,
            socket,
        })
    }

    /// Where a port listens.
    #[must_use]
    pub fn address(&self, port: ControllerId) -> SocketAddr {
        self.portals[port.index()].address
    }

    /// Its buttons.
    #[must_use]
    pub fn panel(&self) -> &Arc<Panel> {
        &self.panel
    }

    /// Nobody is served any more, nothing takes effect any more and the folder is free when this returns.
    pub async fn stop(self) {
        let LabShelf {
            panel,
            portals,
            control,
            socket,
        } = self;
        for portal in portals.iter() {
            portal.pull().await;
        }
        control.abort();
        // Cancelled, as was asked; it has let go of the buttons now.
        let _ = control.await;
        drop(panel);
        let _ = std::fs::remove_file(&socket);
    }
}

/// Shows every disk at both ports: slot n is LUN n.
fn fit_out(shelf: &Shelf, portals: &[Portal; 2], names: &Arc<Names>) {
    let targets = || [0, 1].map(|index: usize| Arc::downgrade(&portals[index].target));
    let [plugs_a, plugs_b] = ControllerId::ALL.map(|port| shelf.plugs(port));
    let mut units = [Units::new(), Units::new()];
    let ways = ControllerId::ALL.map(|port| ways(port, &portals[port.index()].target));
    for pair in plugs_a.into_iter().zip(plugs_b) {
        let spec = pair.0.spec().clone();
        let id = VolumeId::from_bytes(*spec.id.as_bytes());
        let unit = Arc::new(Unit::new(id, names.clone(), targets()));
        for (port, plug) in ControllerId::ALL.into_iter().zip([pair.0, pair.1]) {
            let below = Arc::new(DiskPort::new(port, plug, unit.clone()));
            let identity = Identity {
                id,
                serial: spec.serial.clone(),
                block_size: BLOCK_SIZE,
            };
            let blocks = spec.bytes / u64::from(BLOCK_SIZE);
            let way = ways[port.index()].clone();
            let volume = Volume::new(identity, blocks, way, below.clone(), below).of_kind(Kind::Disk);
            units[port.index()].insert(spec.index.get(), Arc::new(volume));
        }
    }
    for (portal, units) in portals.iter().zip(units) {
        portal.target.open_to_one(units);
    }
}
