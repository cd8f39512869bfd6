//! The target: which volumes there are, which host sees them under which number, and who is logged in.
//!
//! The same on both controllers: one target name, one set of logical unit numbers, so that a host finds one
//! device behind two ports. What differs is the port: its address, its relative port number and its group.

use crate::backend::BoxFuture;
use crate::gate::ReplyGate;
use crate::iscsi::chap::Credentials;
use crate::iscsi::limits::{LOGINS_MAX, MEMORY_KIB, SESSIONS_MAX};
use crate::iscsi::login::{Admission, Agreed, Doorkeeper, Parameters, Refusal};
use crate::iscsi::session::{DEPTH, Reach, Reset};
use crate::paths::{FlipOutcome, Paths, Route, Scope, Stale};
use crate::scsi::Outcome;
use crate::scsi::Status;
use crate::scsi::access_state::{self, Passes};
use crate::scsi::cdb::Command;
use crate::scsi::exec::{self, Unit};
use crate::scsi::inquiry::PortNames;
use crate::scsi::inquiry::port_number;
use crate::scsi::report::decode_lun;
use crate::scsi::reservation::{self, In, Parameters as OutParameters, wire};
use crate::scsi::sense::Sense;
use crate::volume::{Answer, Question, Undone, Volume};
use bytes::Bytes;
use pollux_api::config::Hex;
use pollux_api::id::{ControllerId, VolumeId};
use pollux_api::target::{Access, Backing, InitiatorPort, Limits, ResetReach, UnitReset, Use};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Seconds in which a host whose access has ended has to log out: commands under way come to their end.
const LEAVE_WITHIN: u16 = 3;
/// Unit attentions that a host has not fetched; the oldest is dropped beyond that.
const ATTENTIONS_MAX: usize = 8;

/// Units by number.
pub type Units = BTreeMap<u16, Arc<Volume>>;

/// What hosts see: by name of the initiator, the units by number.
pub type Mappings = HashMap<String, Units>;

/// How hosts are let in, by name of the initiator. Who is not in it is not let in.
pub type Admissions = HashMap<String, Admission>;

/// What the configuration says of hosts; both parts are of one age.
#[derive(Debug, Default)]
struct Hosts {
    mappings: Mappings,
    admissions: Admissions,
    /// What whoever comes sees, where the port is open to all.
    open: Option<Units>,
}

impl Hosts {
    fn units(&self, initiator: &str) -> Option<&Units> {
        self.mappings.get(initiator).or(self.open.as_ref())
    }
}

/// Carries word to the partner's port.
pub trait Herald: Send + Sync + fmt::Debug {
    /// A host of this port has reset a unit: the partner's hosts have ended what they had under way there, and are told,
    /// when this is well.
    fn unit_reset(&self, reset: UnitReset) -> BoxFuture<'_, Result<(), String>>;
}

const fn reset_of(reach: ResetReach) -> Reset {
    match reach {
        ResetReach::Clear => Reset::Clear,
        ResetReach::Unit => Reset::Units,
        ResetReach::Cold => Reset::Cold,
    }
}

const fn reach_of(reset: Reset) -> ResetReach {
    match reset {
        Reset::Clear => ResetReach::Clear,
        Reset::Units => ResetReach::Unit,
        Reset::Cold => ResetReach::Cold,
    }
}

/// What a session is told from outside.
#[derive(Debug)]
pub enum Notice {
    /// Another session has reset these volumes. Dropping `done` says that their tasks have ended.
    Reset {
        /// Which.
        volumes: Vec<VolumeId>,
        /// Kept until the tasks have ended.
        done: mpsc::Sender<()>,
        /// How far it goes.
        reset: Reset,
    },
    /// End the session.
    End(&'static str),
    /// Ask the host to log out, and end the session when it has not after so many seconds.
    Leave(&'static str, u16),
    /// End the session without a word: the connection is reset, and what is not answered never will be.
    Cut(&'static str),
}

/// What a session leaves to the connection that takes its place (connection reinstatement, RFC 7143, 6.3.4).
#[derive(Clone, Debug)]
pub struct Legacy {
    /// What was agreed for the session.
    pub parameters: Parameters,
    /// The next command.
    pub exp_cmd_sn: u32,
}

/// A host's session, as the rest of the target sees it.
#[derive(Debug)]
pub struct Nexus {
    id: u64,
    /// Name of the initiator.
    pub initiator: String,
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// The target's part of it.
    pub tsih: u16,
    cid: u16,
    /// Only to ask for targets.
    pub discovery: bool,
    /// By what the host has proven itself.
    proof: Option<Arc<Credentials>>,
    /// The host's address.
    pub peer: SocketAddr,
    /// Commands in flight.
    pub in_flight: AtomicU64,
    /// What reservations know it as.
    port: Arc<reservation::Nexus>,
    /// It may hold something by RESERVE(6), which ends with it.
    reserved: AtomicBool,
    /// The host knows that it is logged in, and it has not been cut off.
    answered: AtomicBool,
    notices: mpsc::UnboundedSender<Notice>,
    attentions: Mutex<HashMap<VolumeId, VecDeque<Sense>>>,
    legacy: Mutex<Option<Legacy>>,
    ended: watch::Sender<bool>,
}

impl Nexus {
    /// The host has been told that it is logged in.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// What a connection that takes its place goes on with.
    pub fn leave_behind(&self, legacy: Legacy) {
        *self.legacy.lock().unwrap_or_else(PoisonError::into_inner) = Some(legacy);
    }

    fn attentions(&self) -> MutexGuard<'_, HashMap<VolumeId, VecDeque<Sense>>> {
        self.attentions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host is told when it next asks anything of the volume.
    pub fn attend(&self, volume: VolumeId, sense: Sense) {
        let mut attentions = self.attentions();
        let queue = attentions.entry(volume).or_default();
        // One of a kind is enough: the host looks at everything that it concerns anyway.
        if queue.contains(&sense) {
            return;
        }
        if queue.len() == ATTENTIONS_MAX {
            queue.pop_front();
        }
        queue.push_back(sense);
    }

    /// Has the session end its tasks at a volume, unanswered. Dropping the last clone of `done` says that they have.
    fn end_tasks(&self, volume: &Volume, done: &mpsc::Sender<()>) {
        let _ = self.notices.send(Notice::Reset {
            volumes: vec![volume.identity().id],
            done: done.clone(),
            reset: Reset::Units,
        });
    }

    fn next_attention(&self, volume: VolumeId) -> Option<Sense> {
        self.attentions().get_mut(&volume)?.pop_front()
    }
}

/// A session that has begun.
#[derive(Debug)]
pub struct Joined {
    /// The session.
    pub nexus: Arc<Nexus>,
    /// What it is told.
    pub notices: mpsc::UnboundedReceiver<Notice>,
    /// What the connection before has left, where this one takes its place.
    pub legacy: Option<Legacy>,
}

impl Doorkeeper for Target {
    fn admit(&self, initiator: &str) -> Admission {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        let known = hosts.admissions.get(initiator).cloned();
        let open = hosts.open.is_some().then_some(Admission::Open);
        known.or(open).unwrap_or(Admission::Unknown)
    }
}

/// One port of the target, with all that is behind it.
#[derive(Debug)]
pub struct Target {
    name: String,
    controller: ControllerId,
    portals: RwLock<Vec<String>>,
    gate: Arc<dyn ReplyGate>,
    hosts: RwLock<Hosts>,
    /// Memory for data of all sessions' commands that can wait, KiB.
    memory: Arc<Semaphore>,
    /// The same for data that comes unasked.
    unasked: Arc<Semaphore>,
    /// How many log in.
    logging_in: AtomicU64,
    /// The way to the partner's port.
    herald: OnceLock<Arc<dyn Herald>>,
    /// Initiator ports that are logged in there.
    partner_initiators: RwLock<Vec<InitiatorPort>>,
    nexuses: Mutex<HashMap<u64, Arc<Nexus>>>,
    next_nexus: AtomicU64,
    /// Counts who comes and who goes.
    comings: watch::Sender<u64>,
}

impl Target {
    /// A target of this name on this controller. `portals`: what discovery lists, `address:port,group`.
    #[must_use]
    pub fn new(
        name: String,
        controller: ControllerId,
        portals: Vec<String>,
        gate: Arc<dyn ReplyGate>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            controller,
            portals: RwLock::new(portals),
            gate,
            hosts: RwLock::default(),
            memory: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
            unasked: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
            logging_in: AtomicU64::new(0),
            herald: OnceLock::new(),
            partner_initiators: RwLock::default(),
            nexuses: Mutex::default(),
            next_nexus: AtomicU64::new(1),
            comings: watch::Sender::new(0),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The controller whose port this is.
    #[must_use]
    pub fn controller(&self) -> ControllerId {
        self.controller
    }

    /// What discovery lists.
    #[must_use]
    pub fn portals(&self) -> Vec<String> {
        self.portals
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Discovery lists this one, too: the partner's.
    pub fn add_portal(&self, portal: String) {
        let mut portals = self.portals.write().unwrap_or_else(PoisonError::into_inner);
        if !portals.contains(&portal) {
            portals.push(portal);
        }
    }

    /// The door through which every reply passes.
    #[must_use]
    pub fn gate(&self) -> &Arc<dyn ReplyGate> {
        &self.gate
    }

    /// Memory for data of commands that waits until there is some, KiB, of which all sessions take.
    #[must_use]
    pub fn memory(&self) -> &Arc<Semaphore> {
        &self.memory
    }

    /// The same for data that comes unasked.
    #[must_use]
    pub fn unasked(&self) -> &Arc<Semaphore> {
        &self.unasked
    }

    /// Somebody logs in, until this is dropped.
    #[must_use]
    pub fn login_begins(self: &Arc<Self>) -> LoggingIn {
        self.logging_in.fetch_add(1, Ordering::Relaxed);
        LoggingIn(self.clone())
    }

    /// What hosts can take at most, and have taken.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let left = |of: &Semaphore, limit: usize| Use {
            used: limit.saturating_sub(of.available_permits()) as u64,
            limit: limit as u64,
        };
        let sessions = self.sessions();
        let busiest = sessions
            .iter()
            .map(|nexus| nexus.in_flight.load(Ordering::Relaxed))
            .max();
        Limits {
            sessions: Use {
                used: sessions.len() as u64,
                limit: SESSIONS_MAX as u64,
            },
            logins: Use {
                used: self.logging_in.load(Ordering::Relaxed),
                limit: LOGINS_MAX as u64,
            },
            commands_per_session: Use {
                used: busiest.unwrap_or(0),
                limit: DEPTH.into(),
            },
            unasked_kib: left(&self.unasked, MEMORY_KIB as usize),
            data_kib: left(&self.memory, MEMORY_KIB as usize),
        }
    }

    /// The way to the partner's port; the first one stays.
    pub fn set_herald(&self, herald: Arc<dyn Herald>) {
        let _ = self.herald.set(herald);
    }

    /// Who is logged in here, for the partner.
    #[must_use]
    pub fn initiators(&self) -> Vec<InitiatorPort> {
        let sessions = self.sessions();
        let hosts = sessions.iter().filter(|nexus| !nexus.discovery);
        let ports: BTreeSet<InitiatorPort> = hosts
            .map(|nexus| InitiatorPort {
                name: nexus.initiator.clone(),
                isid: Hex(nexus.isid),
            })
            .collect();
        ports.into_iter().collect()
    }

    /// Who is logged in at the partner's port, as it has said last.
    pub fn set_partner_initiators(&self, initiators: Vec<InitiatorPort>) {
        let mut told = self
            .partner_initiators
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *told = initiators;
    }

    fn nexuses(&self) -> MutexGuard<'_, HashMap<u64, Arc<Nexus>>> {
        self.nexuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is logged in.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<Nexus>> {
        self.nexuses().values().cloned().collect()
    }

    /// Changes with everybody who comes or goes.
    #[must_use]
    pub fn comings(&self) -> watch::Receiver<u64> {
        self.comings.subscribe()
    }

    /// A unit as a host numbers it.
    #[must_use]
    pub fn unit(&self, initiator: &str, lun: [u8; 8]) -> Option<Arc<Volume>> {
        let number = decode_lun(lun)?;
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.units(initiator)?.get(&number).cloned()
    }

    fn units(&self, initiator: &str) -> Units {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.units(initiator).cloned().unwrap_or_default()
    }

    /// The port is a plug: whoever comes sees these units, and nobody else is let in while sessions of one initiator are
    /// there. For a port that is one I_T nexus whoever is plugged in.
    pub fn open_to_one(&self, units: Units) {
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = Hosts {
            open: Some(units),
            ..Hosts::default()
        };
    }

    fn is_plug(&self) -> bool {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.open.is_some()
    }

    /// The mappings are these from now on, and whoever is in them is let in by its name.
    pub fn set_mappings(&self, mappings: Mappings) {
        let admissions = mappings.keys().map(|host| (host.clone(), Admission::Open));
        let admissions = admissions.collect();
        self.set_hosts(mappings, admissions);
    }

    /// Hosts and mappings are these from now on. Hosts whose units changed are told; hosts that are not let in any
    /// more, or by a proof that their session did not give, are asked to log out.
    pub fn set_hosts(&self, mappings: Mappings, admissions: Admissions) {
        let hosts = Hosts {
            mappings: mappings.clone(),
            admissions,
            open: None,
        };
        let old = std::mem::replace(
            &mut *self.hosts.write().unwrap_or_else(PoisonError::into_inner),
            hosts,
        );
        let names = |units: Option<&Units>| -> Vec<(u16, VolumeId)> {
            units
                .into_iter()
                .flatten()
                .map(|(lun, volume)| (*lun, volume.identity().id))
                .collect()
        };
        for nexus in self.sessions() {
            let (before, now) = (
                names(old.mappings.get(&nexus.initiator)),
                names(mappings.get(&nexus.initiator)),
            );
            if before != now {
                for (_, volume) in now {
                    nexus.attend(volume, Sense::LUNS_CHANGED);
                }
            }
            if let Err((_, why)) = self.is_admitted(&nexus.initiator, nexus.discovery, nexus.proof.is_some())
            {
                let _ = nexus.notices.send(Notice::Leave(why, LEAVE_WITHIN));
            }
        }
    }

    /// The configuration has a host with this initiator.
    #[must_use]
    pub fn is_known(&self, initiator: &str) -> bool {
        self.admit(initiator) != Admission::Unknown
    }

    /// Whether a session of this initiator may be. A key that has changed does not end the sessions that were begun
    /// with the former one; a key that is new ends those that were begun without.
    fn is_admitted(
        &self,
        initiator: &str,
        discovery: bool,
        proven: bool,
    ) -> Result<(), (Refusal, &'static str)> {
        match self.admit(initiator) {
            Admission::Open => Ok(()),
            Admission::Unknown if discovery => Ok(()),
            Admission::Chap(_) | Admission::Locked if proven => Ok(()),
            Admission::Unknown => Err((
                Refusal::Authorization,
                "no host of the configuration has this initiator",
            )),
            Admission::Chap(_) | Admission::Locked => Err((
                Refusal::Authentication,
                "the host has a CHAP key now and has not proven itself",
            )),
        }
    }

    /// Tells every session that sees the volume. The number of sessions told.
    pub fn attend(&self, volume: VolumeId, sense: Sense) -> u64 {
        self.attend_where(|candidate| candidate.identity().id == volume, sense)
    }

    /// Tells every session that sees a thin volume of the pool with these paths that the pool runs out of space.
    pub fn attend_space(&self, paths: &Arc<Paths>) -> u64 {
        let concerns = |volume: &Volume| Arc::ptr_eq(volume.paths(), paths) && volume.provisioning().thin;
        self.attend_where(concerns, Sense::SOFT_THRESHOLD_REACHED)
    }

    fn attend_where(&self, concerns: impl Fn(&Volume) -> bool, sense: Sense) -> u64 {
        let mut told = 0;
        for nexus in self.sessions() {
            let units = self.units(&nexus.initiator);
            let mut concerned = units.values().filter(|volume| concerns(volume)).peekable();
            told += u64::from(concerned.peek().is_some());
            for volume in concerned {
                nexus.attend(volume.identity().id, sense);
            }
        }
        told
    }

    /// Switches a pool's volumes: the new state stands and every session has its unit attention before a
    /// command goes on. With the number of sessions told.
    ///
    /// # Errors
    /// [`Stale`] where a newer claim stands.
    pub fn flip(&self, paths: &Arc<Paths>, route: Route) -> Result<(FlipOutcome, u64), Stale> {
        let mut told = 0;
        let outcome = paths.flip(route, |changed| {
            if changed {
                let of_pool = |volume: &Volume| Arc::ptr_eq(volume.paths(), paths);
                told = self.attend_where(of_pool, Sense::ACCESS_STATE_CHANGED);
            }
        })?;
        Ok((outcome, told))
    }

    /// A session begins. An older one of the same initiator port ends first, with all its tasks. A connection that
    /// takes the place of a session's only one inherits what the session leaves.
    ///
    /// # Errors
    /// Why not, and what the login is answered.
    pub async fn join(&self, agreed: &Agreed, peer: SocketAddr) -> Result<Joined, (Refusal, &'static str)> {
        let (notices, receiver) = mpsc::unbounded_channel();
        let (nexus, older) = {
            let mut nexuses = self.nexuses();
            let same = |other: &&Arc<Nexus>| {
                other.initiator == agreed.initiator
                    && other.isid == agreed.isid
                    && other.discovery == agreed.discovery
            };
            let mut older: Vec<_> = nexuses.values().filter(same).cloned().collect();
            if agreed.tsih != 0 {
                older.retain(|other| other.tsih == agreed.tsih);
                let other = older
                    .first()
                    .ok_or((Refusal::NoSession, "there is no such session"))?;
                if other.cid != agreed.cid {
                    return Err((Refusal::TooManyConnections, "a session has one connection here"));
                }
            }
            // Under the lock of the sessions: whoever changes the hosts looks at the sessions afterwards.
            self.is_admitted(&agreed.initiator, agreed.discovery, agreed.proof.is_some())?;
            let plugged_in = |other: &&Arc<Nexus>| !other.discovery && other.initiator != agreed.initiator;
            if self.is_plug()
                && !agreed.discovery
                && let Some(other) = nexuses.values().find(plugged_in)
            {
                tracing::warn!(
                    initiator = agreed.initiator, %peer, plugged_in = other.initiator,
                    "refused: this port serves one initiator at a time; log out there, or take the other port"
                );
                return Err((
                    Refusal::Authorization,
                    "another initiator is logged in at this port, which serves one at a time",
                ));
            }
            if nexuses.len() >= SESSIONS_MAX && older.is_empty() {
                return Err((
                    Refusal::OutOfResources,
                    "there are as many sessions as the target serves",
                ));
            }
            let id = self.next_nexus.fetch_add(1, Ordering::Relaxed);
            let taken: HashSet<u16> = nexuses.values().map(|other| other.tsih).collect();
            // Not zero, and of no other session: there are fewer sessions than numbers.
            let first = (id % u64::from(u16::MAX)) as u16;
            let free = (0..u16::MAX)
                .map(|step| ((u32::from(first) + u32::from(step)) % u32::from(u16::MAX)) as u16 + 1)
                .find(|tsih| !taken.contains(tsih));
            let nexus = Arc::new(Nexus {
                id,
                initiator: agreed.initiator.clone(),
                isid: agreed.isid,
                port: Arc::new(reservation::Nexus {
                    initiator: agreed.initiator.clone(),
                    isid: agreed.isid,
                    port: port_number(self.controller),
                }),
                reserved: AtomicBool::new(false),
                answered: AtomicBool::new(false),
                tsih: free.ok_or((Refusal::OutOfResources, "no session identifier is free"))?,
                cid: agreed.cid,
                discovery: agreed.discovery,
                proof: agreed.proof.clone(),
                peer,
                in_flight: AtomicU64::new(0),
                notices,
                attentions: Mutex::default(),
                legacy: Mutex::default(),
                ended: watch::Sender::new(false),
            });
            nexuses.insert(id, nexus.clone());
            (nexus, older)
        };
        self.comings.send_modify(|count| *count += 1);
        let mut joined = Joined {
            nexus,
            notices: receiver,
            legacy: None,
        };
        for old in older {
            let _ = old.notices.send(Notice::End("the initiator has logged in again"));
            // Its tasks end within the bound of a hold.
            let _ = old.ended.subscribe().wait_for(|ended| *ended).await;
            if agreed.tsih != 0 {
                joined.legacy = old.legacy.lock().unwrap_or_else(PoisonError::into_inner).take();
                // The session is the same: what it was to be told it is told, beside what came up meanwhile.
                let waiting = std::mem::take(&mut *old.attentions());
                for (volume, senses) in waiting {
                    senses
                        .into_iter()
                        .for_each(|sense| joined.nexus.attend(volume, sense));
                }
            }
        }
        Ok(joined)
    }

    /// A session has ended, and nothing of it is in flight. What it held by RESERVE(6) ends before the same initiator port
    /// is let in again.
    pub fn leave(&self, nexus: &Arc<Nexus>) {
        self.nexuses().remove(&nexus.id);
        self.comings.send_modify(|count| *count += 1);
        let runtime = tokio::runtime::Handle::try_current().ok();
        match runtime.filter(|_| nexus.reserved.load(Ordering::Relaxed)) {
            None => drop(nexus.ended.send_replace(true)),
            Some(runtime) => {
                let (nexus, units) = (nexus.clone(), self.units(&nexus.initiator));
                runtime.spawn(async move {
                    let until = Instant::now() + TELL;
                    for volume in units.into_values() {
                        tell_owner(&volume, Question::release(), Some(nexus.port.clone()), until).await;
                    }
                    nexus.ended.send_replace(true);
                });
            }
        }
    }

    /// A session resets units: every other session of either port ends its tasks there and everybody is told. Returns when
    /// no task of another session is left here, and none with the owner.
    pub async fn reset(&self, by: &Nexus, reach: Reach, reset: Reset) {
        let volumes: Vec<Arc<Volume>> = match reach {
            Reach::Unit(lun) => self.unit(&by.initiator, lun).into_iter().collect(),
            Reach::Target => self.units(&by.initiator).into_values().collect(),
        };
        let ids: Vec<VolumeId> = volumes.iter().map(|volume| volume.identity().id).collect();
        let elsewhere = async {
            let until = Instant::now() + TELL;
            for volume in &volumes {
                self.reset_elsewhere(by, volume, reset, until).await;
            }
        };
        tokio::join!(self.reset_here(&ids, reset, Some(by.id)), elsewhere);
    }

    /// The sessions of this port that see these volumes, but for one, end their tasks there and are told.
    async fn reset_here(&self, volumes: &[VolumeId], reset: Reset, except: Option<u64>) {
        let (done, mut ended) = mpsc::channel(1);
        // Who shares no volume with the host does not notice: to each other they are different targets.
        let concerned = |nexus: &&Arc<Nexus>| {
            let units = self.units(&nexus.initiator);
            Some(nexus.id) != except && units.values().any(|unit| volumes.contains(&unit.identity().id))
        };
        for nexus in self.sessions().iter().filter(concerned) {
            let _ = nexus.notices.send(Notice::Reset {
                volumes: volumes.to_vec(),
                done: done.clone(),
                reset,
            });
        }
        drop(done);
        if reset != Reset::Clear {
            for volume in volumes {
                self.attend(*volume, Sense::RESET_OCCURRED);
            }
        }
        // Nothing is ever sent: it ends when the last clone is dropped.
        let _ = ended.recv().await;
    }

    /// A host of the partner's port has reset a unit.
    pub async fn reset_by_partner(&self, unit: &UnitReset) {
        self.reset_here(&[unit.volume], reset_of(unit.reach), None).await;
    }

    /// The owner ends what RESERVE(6) holds (SPC-2, 5.5.1), and what it has of the other port's commands; persistent
    /// reservations stay. Where the other port is the owner's it tells its sessions itself; else this one sends word.
    async fn reset_elsewhere(&self, by: &Nexus, volume: &Arc<Volume>, reset: Reset, until: Instant) {
        let reach = reach_of(reset);
        let owner = async {
            let by = Some(by.port.clone());
            if let Some(answer) = tell_owner(volume, Question::reset(reach), by, until).await {
                volume.registry().abort(&answer.aborts).await;
            }
        };
        let partner = async {
            if volume.paths().route().backing == Backing::Partner {
                return;
            }
            let unit = UnitReset {
                volume: volume.identity().id,
                reach,
            };
            let told = match self.herald.get() {
                None => Err("there is no way to it".to_owned()),
                Some(herald) => tokio::time::timeout_at(until, herald.unit_reset(unit))
                    .await
                    .unwrap_or_else(|_| Err("it does not answer".to_owned())),
            };
            if let Err(why) = told {
                tracing::debug!(volume = %volume.identity().id, why, "the partner's hosts are told of a reset when they ask next");
                if reset != Reset::Clear {
                    volume.registry().tell_later(&by.port);
                }
            }
        };
        tokio::join!(owner, partner);
        volume.tidy();
    }

    /// A host's question, answered by the owner of the volume.
    async fn ask(&self, nexus: &Nexus, volume: &Volume, question: Question, scope: &Scope) -> Outcome {
        match volume.ask(&question, scope).await {
            Ok(answer) => {
                if question.reserves() && answer.outcome.status == Status::Good {
                    nexus.reserved.store(true, Ordering::Relaxed);
                }
                self.follow(volume, answer).await
            }
            Err(undone) => exec::undone(undone, false),
        }
    }

    /// A question of a host of the partner, answered as the owner or not at all.
    ///
    /// # Errors
    /// `None`: this controller is not the owner; nothing counts as done.
    pub async fn answer_forwarded(
        &self,
        volume: &Volume,
        question: &Question,
        scope: &Scope,
    ) -> Result<Outcome, Option<Undone>> {
        let answer = volume.answer_forwarded(question, scope).await?;
        let Some(reach) = question.is_reset() else {
            return Ok(self.follow(volume, answer).await);
        };
        let unit = [volume.identity().id];
        tokio::join!(
            self.reset_here(&unit, reset_of(reach), None),
            volume.registry().abort(&answer.aborts)
        );
        Ok(answer.outcome)
    }

    /// What has to be done before the host hears: the commands of those who were preempted have ended, on this port and,
    /// as far as they are with the owner, on the partner's. What the partner's port still has of theirs is turned away
    /// when it comes.
    async fn follow(&self, volume: &Volume, answer: Answer) -> Outcome {
        if !answer.aborts.is_empty() {
            let (done, mut ended) = mpsc::channel(1);
            let sessions = self.sessions();
            for nexus in sessions
                .iter()
                .filter(|nexus| answer.aborts.contains(&nexus.port))
            {
                nexus.end_tasks(volume, &done);
            }
            drop((done, sessions));
            // Nothing is ever sent: it ends when the last clone is dropped.
            let _ = tokio::join!(ended.recv(), volume.registry().abort(&answer.aborts));
        }
        answer.outcome
    }

    /// Asks every host to log out, and ends the sessions of those who have not after so many seconds.
    pub fn end_sessions(&self, why: &'static str, within: u16) {
        for nexus in self.sessions() {
            let _ = nexus.notices.send(Notice::Leave(why, within));
        }
    }

    /// Resets the connections of the hosts that may be served by the partner's port instead. Not of those whose login waits
    /// for its answer: it comes with the lease, sooner than they would try again. The number of sessions that end.
    pub fn cut_sessions(&self, why: &'static str) -> usize {
        let mut cut = 0;
        for nexus in self.sessions() {
            if !self.is_only_way(&nexus) && nexus.answered.swap(false, Ordering::Relaxed) {
                cut += usize::from(nexus.notices.send(Notice::Cut(why)).is_ok());
            }
        }
        cut
    }

    /// Something that the host sees is served by this port alone, as far as is known here: it owns it, and the partner is
    /// silent. Who is sent away from here has nowhere to go.
    fn is_only_way(&self, nexus: &Nexus) -> bool {
        let mut units = self.units(&nexus.initiator).into_values();
        units.any(|volume| {
            let route = volume.paths().route();
            let [own, partner] = [self.controller, self.controller.partner()].map(|of| route.access_of(of));
            own == Access::Optimized && partner == Access::Unavailable
        })
    }

    /// A unit attention of reservations, which the owner of the volume has. Whoever asks for it does not wait for an owner
    /// that is not there.
    async fn poll(&self, nexus: &Nexus, volume: &Volume) -> Option<Sense> {
        let route = volume.paths().route();
        let waits = matches!(
            route.access_of(self.controller),
            Access::Transitioning | Access::Unavailable
        );
        if waits || route.backing == Backing::None {
            return None;
        }
        let scope = Scope {
            deadline: Instant::now() + POLL,
            nexus: Some(nexus.port.clone()),
            in_standby: true,
            ..Scope::new()
        };
        let sense = match volume.ask(&Question::poll(), &scope).await {
            Ok(answer) => answer.outcome.sense,
            Err(Undone::Answered(outcome)) => outcome.sense,
            Err(_) => None,
        };
        sense.filter(|sense| sense.key() == UNIT_ATTENTION)
    }

    /// The parameter list of a PERSISTENT RESERVE OUT, with the initiator ports in place of each initiator that it names
    /// as a whole (SPC-4, 7.6.4.6: those "known to the device server"): those that are logged in at either port, and those
    /// that are registered. `None`: it names none.
    async fn name_ports(
        &self,
        volume: &Volume,
        parameters: OutParameters,
        list: &[u8],
        scope: &Scope,
    ) -> Result<Option<Vec<u8>>, Outcome> {
        if wire::devices(parameters, list).is_empty() {
            return Ok(None);
        }
        let mut known: BTreeSet<(String, [u8; 6])> = BTreeSet::new();
        let told = self
            .partner_initiators
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let logged_in = self.initiators().into_iter().chain(told);
        known.extend(logged_in.map(|port| (port.name, port.isid.0)));
        let full_status = Command::PersistentReserveIn {
            what: In::FullStatus,
            allocation: u16::MAX.into(),
        };
        let question = Question {
            cdb: full_status.question().unwrap_or_default(),
            id: [0; 16],
            data: Bytes::new(),
            begins: true,
        };
        match volume.ask(&question, scope).await {
            Ok(answer) if answer.outcome.status == Status::Good => {
                known.extend(wire::initiator_ports_of(&answer.outcome.data));
            }
            Ok(answer) => return Err(answer.outcome),
            Err(undone) => return Err(exec::undone(undone, false)),
        }
        wire::with_ports(parameters, list, &known)
            .map(Some)
            .map_err(Outcome::from)
    }

    /// Carries out one command of a session.
    pub async fn execute(
        &self,
        nexus: &Nexus,
        lun: [u8; 8],
        command: Result<Command, Sense>,
        data: Bytes,
        scope: &Scope,
    ) -> Outcome {
        let volume = self.unit(&nexus.initiator, lun);
        let outcome = self.carry_out(nexus, volume.as_ref(), command, data, scope).await;
        if let Some(volume) = &volume {
            volume.tidy();
        }
        outcome
    }

    async fn carry_out(
        &self,
        nexus: &Nexus,
        volume: Option<&Arc<Volume>>,
        command: Result<Command, Sense>,
        mut data: Bytes,
        scope: &Scope,
    ) -> Outcome {
        if let Some(volume) = volume {
            let id = volume.identity().id;
            match &command {
                // These are answered whatever there is to attend to (SPC-4, 5.13, 6.6 and 6.33).
                Ok(Command::Inquiry { .. }) => {}
                Ok(Command::ReportLuns { .. }) => {
                    for queue in nexus.attentions().values_mut() {
                        queue.retain(|sense| *sense != Sense::LUNS_CHANGED);
                    }
                }
                Ok(Command::RequestSense { allocation }) => {
                    let mut waiting = nexus.next_attention(id);
                    if waiting.is_none() {
                        waiting = self.poll(nexus, volume).await;
                    }
                    if let Some(sense) = waiting {
                        let fixed = sense.to_fixed();
                        let length = fixed.len().min(*allocation as usize);
                        return Outcome::data(fixed[..length].to_vec());
                    }
                }
                _ => {
                    if let Some(sense) = nexus.next_attention(id) {
                        return sense.into();
                    }
                }
            }
        }
        let command = match (command, volume) {
            (Ok(command), _) => command,
            (Err(_), None) => return Sense::LUN_NOT_SUPPORTED.into(),
            (Err(sense), Some(_)) => return sense.into(),
        };
        if let Some(volume) = volume {
            if let Some(sense) = volume.kind().refusal(&command) {
                return sense.into();
            }
            let access = volume.paths().route().access_of(self.controller);
            if let Some(sense) = access_state::refusal(access, &command) {
                return sense.into();
            }
        }
        let scope = &Scope {
            nexus: Some(nexus.port.clone()),
            in_standby: access_state::passes(&command) == Passes::InStandby,
            deadline: match volume.and_then(|volume| volume.kind().patience()) {
                Some(patience) => Instant::now() + patience,
                None => scope.deadline,
            },
            ..scope.clone()
        };
        if let (Some(volume), Some(mut cdb)) = (volume, command.question()) {
            if let Command::PersistentReserveOut(parameters) = command {
                match self.name_ports(volume, parameters, &data, scope).await {
                    Ok(None) => {}
                    Ok(Some(list)) => {
                        cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
                        data = list.into();
                    }
                    Err(outcome) => return outcome,
                }
            }
            let question = Question {
                cdb,
                id: uuid::Uuid::new_v4().into_bytes(),
                data,
                begins: true,
            };
            return self.ask(nexus, volume, question, scope).await;
        }
        let luns: Vec<u16> = match command {
            Command::ReportLuns { .. } => self.units(&nexus.initiator).into_keys().collect(),
            _ => Vec::new(),
        };
        let port = PortNames {
            target: &self.name,
            controller: self.controller,
        };
        let unit = Unit {
            port,
            luns: &luns,
            volume: volume.map(|volume| &**volume),
        };
        let outcome = exec::execute(&command, data, unit, scope).await;
        if let (Status::TaskAborted, Some(volume)) = (outcome.status, volume) {
            // The owner says so: a host has preempted this one and aborted its commands. None of them is answered (TAS=0).
            let (done, _ended) = mpsc::channel(1);
            nexus.end_tasks(volume, &done);
            tokio::select! {
                () = scope.cancel.cancelled() => {}
                () = tokio::time::sleep_until(scope.deadline) => {}
            }
        }
        outcome
    }
}

/// A login that is counted.
#[derive(Debug)]
pub struct LoggingIn(Arc<Target>);

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.logging_in.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long the owners of all volumes are told what ends with a session or a reset, where they do not answer at once.
const TELL: Duration = Duration::from_secs(2);
/// How long REQUEST SENSE waits for what the owner has to say.
const POLL: Duration = Duration::from_secs(1);
/// Sense key.
const UNIT_ATTENTION: u8 = 0x6;

async fn tell_owner(
    volume: &Volume,
    question: Question,
    nexus: Option<Arc<reservation::Nexus>>,
    until: Instant,
) -> Option<Answer> {
    let scope = Scope {
        deadline: until,
        nexus,
        in_standby: true,
        ..Scope::new()
    };
    let answer = volume.ask(&question, &scope).await;
    answer
        .inspect_err(
            |undone| tracing::warn!(volume = %volume.identity().id, ?undone, "the owner has not heard of a reset"),
        )
        .ok()
}
