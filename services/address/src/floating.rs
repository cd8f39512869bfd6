//! The floating addresses of one interface, as they are in the kernel.

use crate::plan::{self, Owner, Owners, Steps};
use pollux_api::{
    address::{Address, Changed, Status},
    error::{Code, RpcError},
    id::PoolId,
};
use pollux_platform::{
    announce::Announcer,
    file::replace_volatile,
    lease,
    netlink::{IfAddr, LinkEvent, LinkWatch, Netlink, NetlinkError},
    tickle::Tickler,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Display,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Mutex as AsyncMutex,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// When an address is announced, from the moment it is up. One frame may be lost, a switch may still be learning, and
/// a Linux host ignores a second change of one neighbour within a second (`locktime`).
const ANNOUNCE_AT: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
    Duration::from_secs(3),
    Duration::from_secs(5),
];

/// After each announcement of the partner's portal, hosts are told that their connections to it have ended: whoever has
/// just learnt the new way answers on it.
const TICKLE_AFTER: Duration = Duration::from_millis(10);

/// Access to one network.
#[derive(Debug)]
pub struct Access {
    /// Its addresses.
    pub netlink: Netlink,
    /// Its cable.
    pub announcer: Announcer,
    /// The ends of connections to whom this controller stands in for.
    pub tickler: Tickler,
    /// News of its interfaces.
    pub watch: LinkWatch,
    /// The controller's lease: without it no host is told where a floating address is.
    pub lease: Lease,
}

/// The lease word, opened when heartbeat has made it.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    reader: Mutex<Option<lease::Reader>>,
}

impl Lease {
    /// The one in this file, which need not be there yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            reader: Mutex::default(),
        }
    }

    fn is_fresh(&self) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.is_none() {
            match lease::Reader::open(&self.path) {
                Ok(opened) => *reader = Some(opened),
                Err(error) if error.is_absent() => {}
                Err(error) => tracing::warn!(%error, "no lease can be seen"),
            }
        }
        reader.as_ref().is_some_and(lease::Reader::is_fresh)
    }
}

impl Access {
    /// Access to the caller's network, and the lease in this file.
    pub fn open(lease: &Path) -> Result<Self, NetlinkError> {
        Ok(Self {
            lease: Lease::new(lease),
            netlink: Netlink::open()?,
            announcer: Announcer::open()?,
            tickler: Tickler::open()?,
            watch: LinkWatch::open()?,
        })
    }
}

/// Why the addresses cannot be taken over at the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The interface or its addresses.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The record cannot be read or written.
    #[error("{}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The floating addresses of one interface; clones share them. When the last clone is dropped the addresses stay.
#[derive(Clone, Debug)]
pub struct Floating(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    interface: String,
    own: IpAddr,
    record: PathBuf,
    netlink: Netlink,
    announcer: Announcer,
    tickler: Tickler,
    lease: Lease,
    /// One change at a time.
    owners: AsyncMutex<Owners>,
    announced: Mutex<BTreeMap<IfAddr, Announced>>,
}

/// Announcements of one address.
#[derive(Debug)]
struct Announced {
    count: u32,
    /// Not done, since there was no lease.
    withheld: u32,
    after: Option<Duration>,
    task: AbortHandle,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    address: String,
    /// None: the partner's portal.
    pool: Option<PoolId>,
}

impl Floating {
    /// Takes over what is on `interface`: addresses in the record stay and are announced again, those that
    /// the array has put up and that are not in the record are removed. `own` is the controller's address there. Must be called in a tokio runtime.
    pub async fn open(
        access: Access,
        interface: &str,
        own: IpAddr,
        record: &Path,
    ) -> Result<Self, OpenError> {
        let Access {
            netlink,
            announcer,
            tickler,
            watch,
            lease,
        } = access;
        let recorded = read_record(record).map_err(|source| OpenError::Record {
            path: record.to_owned(),
            source,
        })?;
        let up = netlink.addresses(interface).await?;
        let marked = netlink.own_addresses(interface).await?;
        let adoption = plan::adopt(&recorded, &up, &marked, own);
        for left in &adoption.left {
            tracing::warn!(address = %left, interface, "removing an address that the array put up and no pool has here");
            netlink.remove_address(interface, *left).await?;
        }
        for stranger in &adoption.strangers {
            tracing::warn!(
                address = %stranger,
                interface,
                "an address that is not the array's; it is left alone, and answers only while this controller has its lease"
            );
        }
        for address in &adoption.unfinished {
            tracing::info!(%address, "was recorded and never put up");
        }
        let floating = Self(Arc::new(Inner {
            interface: interface.to_owned(),
            own,
            record: record.to_owned(),
            netlink,
            announcer,
            tickler,
            lease,
            owners: AsyncMutex::new(adoption.owners.clone()),
            announced: Mutex::default(),
        }));
        let owners = floating.0.owners.lock().await;
        floating
            .write_record(&owners)
            .map_err(|source| OpenError::Record {
                path: record.to_owned(),
                source,
            })?;
        drop(owners);
        for address in adoption.owners.into_keys() {
            tracing::info!(%address, interface, "adopting");
            floating.announce(address, Instant::now());
        }
        // While this controller was off, its partner may have answered for its address.
        if let Some(address) = up.iter().find(|address| address.address == own) {
            floating.announce(*address, Instant::now());
        }
        tokio::spawn(floating.clone().follow(watch));
        Ok(floating)
    }

    /// Gives `pool` exactly these addresses and announces those that are new. When this returns they are up; hosts
    /// hear of it beside. If one cannot be put up, none is.
    pub async fn raise(&self, pool: PoolId, wanted: &[String]) -> Result<Changed, RpcError> {
        let began = Instant::now();
        let mut owners = self.0.owners.lock().await;
        let steps = plan::raise(&owners, pool, wanted, self.0.own)?;
        self.take_down(&mut owners, &steps.remove).await?;
        self.put_up(&mut owners, Owner::Pool(pool), &steps.add).await?;
        for address in &steps.add {
            self.announce(*address, began);
        }
        Ok(changed(&steps))
    }

    /// Answers for the partner's portal and ends the connections to it. When this returns the address is up and every
    /// host has been told once; a host that cannot be told finds out by itself.
    pub async fn stand_in(&self, portal: SocketAddr, hosts: &[SocketAddr]) -> Result<Changed, RpcError> {
        let began = Instant::now();
        let mut owners = self.0.owners.lock().await;
        let steps = plan::stand_in(&owners, portal.ip(), self.0.own)?;
        self.take_down(&mut owners, &steps.remove).await?;
        self.put_up(&mut owners, Owner::Partner, &steps.add).await?;
        for address in &steps.add {
            // Hosts answer to the hardware address that they know: the first announcement comes first.
            self.announce_once(*address, began).await;
            self.announce(*address, began);
        }
        drop(owners);
        self.tickle_all(portal, hosts);
        let (inner, hosts) = (Arc::downgrade(&self.0), hosts.to_vec());
        tokio::spawn(async move {
            let up = Instant::now();
            for at in &ANNOUNCE_AT {
                sleep_until(up + *at + TICKLE_AFTER).await;
                let Some(inner) = inner.upgrade() else { return };
                let floating = Self(inner);
                // Not after it was given up: the partner's own connections would be hit.
                let owners = floating.0.owners.lock().await;
                if !owners
                    .iter()
                    .any(|(addr, owner)| addr.address == portal.ip() && *owner == Owner::Partner)
                {
                    return;
                }
                floating.tickle_all(portal, &hosts);
            }
        });
        Ok(changed(&steps))
    }

    fn tickle_all(&self, portal: SocketAddr, hosts: &[SocketAddr]) {
        for host in hosts {
            if let Err(error) = self.0.tickler.tickle(portal, *host) {
                tracing::warn!(%portal, %host, %error, "cannot tell the host that its connection has ended");
            }
        }
    }

    /// Takes down the addresses of one owner, or of all. When this returns this controller answers for none of them.
    pub async fn lower(&self, owner: Option<Owner>) -> Result<Changed, RpcError> {
        let mut owners = self.0.owners.lock().await;
        let steps = plan::lower(&owners, owner);
        self.take_down(&mut owners, &steps.remove).await?;
        Ok(changed(&steps))
    }

    /// What is up.
    pub async fn status(&self) -> Status {
        let owners = self.0.owners.lock().await;
        let announced = self.announced();
        let addresses = owners.iter().map(|(address, owner)| {
            let told = announced.get(address);
            Address {
                pool: match owner {
                    Owner::Pool(pool) => Some(*pool),
                    Owner::Partner => None,
                },
                address: address.to_string(),
                announcements: told.map_or(0, |told| told.count),
                announced_after_ms: told
                    .and_then(|told| told.after)
                    .map(|after| after.as_millis() as u64),
            }
        });
        Status {
            interface: self.0.interface.clone(),
            addresses: addresses.collect(),
        }
    }

    /// How often one of the addresses that are up was not announced because this controller had no lease.
    pub fn withheld(&self) -> u32 {
        self.announced().values().map(|told| told.withheld).sum()
    }

    fn announced(&self) -> MutexGuard<'_, BTreeMap<IfAddr, Announced>> {
        self.0.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, what: impl Display) -> RpcError {
        RpcError::new(Code::Failed, self.0.interface.clone(), what.to_string())
    }

    /// Record, then put up. On failure what was put up is taken down again.
    async fn put_up(&self, owners: &mut Owners, owner: Owner, add: &[IfAddr]) -> Result<(), RpcError> {
        if add.is_empty() {
            return Ok(());
        }
        let mut wanted = owners.clone();
        wanted.extend(add.iter().map(|address| (*address, owner)));
        self.write_record(&wanted).map_err(|error| self.failed(error))?;
        let mut outcome = Ok(());
        for address in add {
            outcome = self
                .0
                .netlink
                .add_address(&self.0.interface, *address)
                .await
                .map(drop);
            if outcome.is_err() {
                break;
            }
        }
        *owners = wanted;
        let Err(error) = outcome else { return Ok(()) };
        match self.take_down(owners, add).await {
            Ok(()) => Err(self.failed(error)),
            Err(second) => Err(self.failed(format!("{error}; and taking back failed too: {second}"))),
        }
    }

    /// Silence, take down, strike out.
    async fn take_down(&self, owners: &mut Owners, remove: &[IfAddr]) -> Result<(), RpcError> {
        if remove.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        for address in remove {
            if let Some(told) = self.announced().remove(address) {
                told.task.abort();
            }
            // One that fails must not keep the others up.
            match self.0.netlink.remove_address(&self.0.interface, *address).await {
                Ok(_) => {
                    owners.remove(address);
                }
                Err(error) => outcome = Err(self.failed(error)),
            }
        }
        self.write_record(owners).map_err(|error| self.failed(error))?;
        outcome
    }

    /// Announces an address again and again for some seconds, beside everything else.
    fn announce(&self, address: IfAddr, asked: Instant) {
        let mut announced = self.announced();
        // The task keeps no Floating alive: addresses outlive the daemon, announcements need not.
        let inner = Arc::downgrade(&self.0);
        let task = tokio::spawn(async move {
            let up = Instant::now();
            for at in ANNOUNCE_AT {
                sleep_until(up + at).await;
                let Some(inner) = inner.upgrade() else { return };
                Self(inner).announce_once(address, asked).await;
            }
        });
        let before = announced.remove(&address);
        if let Some(told) = &before {
            told.task.abort();
        }
        let (count, withheld, after) =
            before.map_or((0, 0, None), |told| (told.count, told.withheld, told.after));
        announced.insert(
            address,
            Announced {
                count,
                withheld,
                after,
                task: task.abort_handle(),
            },
        );
    }

    async fn announce_once(&self, address: IfAddr, asked: Instant) {
        // These frames pass no filter of the kernel's. An old owner must not call hosts back to it, whatever makes it speak
        // up: a cable that is plugged in again, a daemon that starts.
        if address.address != self.0.own && !self.0.lease.is_fresh() {
            if let Some(told) = self.announced().get_mut(&address) {
                told.withheld += 1;
            }
            return tracing::debug!(%address, "not announced: no lease");
        }
        // Looked up each time: a card that was replaced has another hardware address.
        let sent = match self.0.netlink.link(&self.0.interface).await {
            Ok(link) => self
                .0
                .announcer
                .announce(&link, address.address)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match sent {
            Ok(()) => {
                if let Some(told) = self.announced().get_mut(&address) {
                    told.count += 1;
                    told.after.get_or_insert_with(|| asked.elapsed());
                }
            }
            Err(error) => tracing::warn!(%address, error, "cannot announce"),
        }
    }

    /// Announces everything again when the carrier comes back: whoever is behind the cable now may have missed it.
    async fn follow(self, mut watch: LinkWatch) {
        let mut lit = true;
        while let Some(event) = watch.next().await {
            let LinkEvent::Present(link) = event else { continue };
            if link.name != self.0.interface {
                continue;
            }
            if link.carrier && !lit {
                tracing::info!(interface = link.name, "carrier is back");
                let addresses: Vec<IfAddr> = self.0.owners.lock().await.keys().copied().collect();
                for address in addresses {
                    self.announce(address, Instant::now());
                }
            }
            lit = link.carrier;
        }
        tracing::warn!(
            "no more news of interfaces: addresses will not be announced when a carrier comes back"
        );
    }

    fn write_record(&self, owners: &Owners) -> io::Result<()> {
        let lines: Vec<Recorded> = owners
            .iter()
            .map(|(address, owner)| Recorded {
                address: address.to_string(),
                pool: match owner {
                    Owner::Pool(pool) => Some(*pool),
                    Owner::Partner => None,
                },
            })
            .collect();
        // The record lives in a directory that a boot wipes, with the addresses themselves.
        replace_volatile(&self.0.record, &serde_json::to_vec(&lines)?, 0o600)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.0.record.display())))
    }
}

fn changed(steps: &Steps) -> Changed {
    let texts = |list: &[IfAddr]| list.iter().map(IfAddr::to_string).collect();
    Changed {
        added: texts(&steps.add),
        removed: texts(&steps.remove),
    }
}

/// A record that is missing is empty; one that cannot be understood is an error: it was written whole or not at all,
/// so something else is wrong.
fn read_record(path: &Path) -> io::Result<Owners> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owners::new()),
        other => other?,
    };
    let lines: Vec<Recorded> = serde_json::from_slice(&bytes)?;
    lines
        .into_iter()
        .map(|line| {
            let owner = line.pool.map_or(Owner::Partner, Owner::Pool);
            Ok((line.address.parse().map_err(io::Error::other)?, owner))
        })
        .collect()
}
