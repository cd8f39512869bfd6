//! Persistent reservations of hosts: who is registered, who holds the volume, and what follows from a command.
//!
//! Think of a meeting room with a guest book. Whoever wants a say writes a word into the book (*registers a key*); one of
//! those may take the room (*reserve*). Anybody in the book can strike others out by their word and take the room from
//! them (*preempt*): the order of a cluster whose member has gone silent.
//!
//! ```text
//!                    RESERVE                       RELEASE, CLEAR, PREEMPT,
//!   registered  ------------------>  holder   ------------------------------->  registered, or struck out
//!        ^  |                          |            the last one unregisters
//!        |  | PREEMPT, CLEAR, key 0    | REGISTER AND MOVE
//!        |  v                          v
//!   not registered              another nexus holds
//! ```
//!
//! [`State::decide`] is a function: the state and a command of a nexus give the next state, the answer, and what has to
//! be told and aborted. Nothing here has a clock, does I/O or knows of sessions: a registration belongs to an *I_T nexus*
//! (SPC-4, 5.13.7): initiator name, ISID and relative target port. So it means the same on both controllers, and
//! outlives sessions, ports and owners.
//!
//! Where the standard leaves a choice:
//! * everything is kept over a loss of power, asked for by APTPL or not (5.13.5 would let it go without): in doubt a
//!   reservation is kept, because one too many is ended by CLEAR, and one too few costs data;
//! * PRGENERATION never goes back to zero either;
//! * ALL_TG_PT registers the initiator port at both ports, as two registrations;
//! * an initiator that SPEC_I_PT names as a whole (TransportID format 00b) is each of its ports that is logged in at either
//!   controller or registered; where none is known the command is refused, because to register nobody would look like
//!   success. REGISTER AND MOVE hands over to one port and takes format 01b alone;
//! * unit attentions that were not told, and what RESERVE(6) holds, outlive the owner.
//!
//! Limits: [`REGISTRATIONS_MAX`] registrations of a volume; more are refused with INSUFFICIENT REGISTRATION RESOURCES, and
//! then none of a command's is made. [`PENDING_MAX`] nexuses have unit attentions that they were not told of; beyond that
//! the first ones by name are forgotten.
//!
//! Invariants: a holder is registered (5.13.10); no key is zero; there is never a reservation without a registration.

mod access;
mod record;
pub mod wire;

#[cfg(test)]
mod tests;

pub use access::{Access, access_of};
pub use record::Damaged;
pub use wire::{In, Out, Parameters};

use super::sense::Sense;
pub use pollux_block_frame::Nexus;
use std::collections::{BTreeMap, VecDeque};

/// Registrations of one volume. Bounds the record and the answers; SPC-4 leaves the number to the device (5.13.7).
pub const REGISTRATIONS_MAX: usize = 256;
/// Commands that are remembered as done. A command is sent again within its own time, and changes are done one by one.
const DONE_MAX: usize = 32;
/// Nexuses that have not been told something. Each host that was preempted is one, until its next command.
pub const PENDING_MAX: usize = 128;
/// Relative target port identifiers of both controllers.
pub const PORTS: [u16; 2] = [1, 2];

/// Type of a persistent reservation (SPC-4, 6.15.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The holder writes, everybody reads.
    WriteExclusive = 1,
    /// The holder writes and reads.
    ExclusiveAccess = 3,
    /// Registered nexuses write, everybody reads; one of them holds it.
    WriteExclusiveRegistrantsOnly = 5,
    /// Registered nexuses write and read; one of them holds it.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Registered nexuses write, everybody reads; all of them hold it.
    WriteExclusiveAllRegistrants = 7,
    /// Registered nexuses write and read; all of them hold it.
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    /// All six.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// From the TYPE field.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Every registered nexus holds it.
    #[must_use]
    pub fn all_registrants(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Every registered nexus has the holder's rights.
    #[must_use]
    pub fn registrants_share(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Even to read takes a right.
    #[must_use]
    pub fn excludes_readers(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}

/// The reservation. Its scope is always the logical unit (SPC-4, 6.15.3.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its type.
    pub kind: Kind,
    /// Who holds it; `None` where all registrants do.
    pub holder: Option<Nexus>,
}

/// Names a command for all times.
pub type CommandId = [u8; 16];

/// What a volume knows of its hosts' reservations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    generation: u32,
    aptpl: bool,
    registrations: BTreeMap<Nexus, u64>,
    held: Option<Held>,
    /// The last changes that were made: one that is sent again finds itself here.
    done: VecDeque<CommandId>,
    /// Who holds the volume by RESERVE(6).
    legacy: Option<Nexus>,
    /// Unit attentions that nexuses have not been told of, of each kind one.
    pending: BTreeMap<Nexus, Vec<Sense>>,
}

/// Why a PERSISTENT RESERVE OUT was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Sense(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// What a PERSISTENT RESERVE OUT does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state afterwards. Durable before GOOD, and before anything else below is done.
    pub state: State,
    /// Unit attentions to establish.
    pub attentions: Vec<(Nexus, Sense)>,
    /// Nexuses whose commands are aborted, and have ended, before GOOD.
    pub aborts: Vec<Nexus>,
}

impl State {
    /// What somebody else keeps, who decides on it: to report it, and to see what conflicts. Everything is kept over a
    /// loss of power.
    #[must_use]
    pub fn kept_elsewhere(generation: u32, registrations: BTreeMap<Nexus, u64>, held: Option<Held>) -> Self {
        Self {
            generation,
            aptpl: true,
            registrations,
            held,
            ..Self::default()
        }
    }

    /// PRGENERATION.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The last APTPL that was set; reported as PTPL_A.
    #[must_use]
    pub fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// Registered nexuses with their keys.
    #[must_use]
    pub fn registrations(&self) -> &BTreeMap<Nexus, u64> {
        &self.registrations
    }

    /// The reservation, if there is one.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The change under this name has been made.
    #[must_use]
    pub fn has_done(&self, id: &CommandId) -> bool {
        self.done.contains(id)
    }

    /// What stands in for a state that cannot be read any more: somebody unknown holds the volume for himself. A host
    /// that knows better registers and preempts the key [`UNKNOWN_KEY`](Self::UNKNOWN_KEY), which READ KEYS shows.
    #[must_use]
    pub fn in_doubt() -> Self {
        let unknown = Nexus {
            initiator: "iqn.2026-01.io.pollux:unknown-holder".to_owned(),
            isid: [0; 6],
            port: PORTS[0],
        };
        let held = Held {
            kind: Kind::ExclusiveAccess,
            holder: Some(unknown.clone()),
        };
        Self {
            generation: 1,
            aptpl: true,
            registrations: BTreeMap::from([(unknown, Self::UNKNOWN_KEY)]),
            held: Some(held),
            ..Self::default()
        }
    }

    /// Who holds the volume by RESERVE(6).
    #[must_use]
    pub fn legacy(&self) -> Option<&Nexus> {
        self.legacy.as_ref()
    }

    /// The same with another holder by RESERVE(6), or none.
    #[must_use]
    pub fn with_legacy(&self, holder: Option<Nexus>) -> Self {
        Self {
            legacy: holder,
            ..self.clone()
        }
    }

    /// The first unit attention of a nexus, which is told now.
    pub fn tell(&mut self, nexus: &Nexus) -> Option<Sense> {
        let waiting = self.pending.get_mut(nexus)?;
        let first = (!waiting.is_empty()).then(|| waiting.remove(0));
        if waiting.is_empty() {
            self.pending.remove(nexus);
        }
        first
    }

    fn attend(&mut self, nexus: &Nexus, sense: Sense) {
        if self.pending.len() >= PENDING_MAX && !self.pending.contains_key(nexus) {
            self.pending.pop_first();
        }
        let waiting = self.pending.entry(nexus.clone()).or_default();
        if !waiting.contains(&sense) {
            waiting.push(sense);
        }
    }

    /// This state was decided from an earlier one than `before`, whose hosts were told something since, or have lost what
    /// RESERVE(6) held: that stands, and the change adds its own unit attentions.
    pub fn goes_on_from(&mut self, before: &Self, attentions: &[(Nexus, Sense)]) {
        self.pending.clone_from(&before.pending);
        self.legacy.clone_from(&before.legacy);
        for (nexus, sense) in attentions {
            self.attend(nexus, *sense);
        }
    }

    /// Key of the unknown holder.
    pub const UNKNOWN_KEY: u64 = u64::MAX;

    /// Whether a nexus holds the reservation: it made it, or is one of all registrants (5.13.10).
    #[must_use]
    pub fn is_holder(&self, nexus: &Nexus) -> bool {
        self.held.as_ref().is_some_and(|held| match &held.holder {
            Some(holder) => holder == nexus,
            None => self.registrations.contains_key(nexus),
        })
    }

    /// Whether a command that needs `access` conflicts for this nexus (SPC-4, 5.13.1, tables of 5.13.1 and SBC-3, 4.17).
    #[must_use]
    pub fn conflicts(&self, nexus: &Nexus, access: Access) -> bool {
        let Some(held) = &self.held else {
            return false;
        };
        let entitled =
            self.is_holder(nexus) || held.kind.registrants_share() && self.registrations.contains_key(nexus);
        match access {
            Access::Free => false,
            _ if entitled => false,
            Access::Read => held.kind.excludes_readers(),
            Access::Write => true,
        }
    }

    /// Whether RESERVE(6) and RELEASE(6) of this nexus are answered GOOD and do nothing (SPC-4, 5.13.3, CRH=1): it has
    /// every right already.
    #[must_use]
    pub fn covers_legacy(&self, nexus: &Nexus) -> bool {
        let shared = self
            .held
            .as_ref()
            .is_some_and(|held| held.kind.registrants_share());
        self.is_holder(nexus) || shared && self.registrations.contains_key(nexus)
    }

    /// Carries out one PERSISTENT RESERVE OUT of a nexus (SPC-4, 6.16). `id` names it: the same once more changes nothing
    /// and is answered GOOD.
    ///
    /// # Errors
    /// [`Refusal`]; the state stays as it is.
    pub fn decide(&self, nexus: &Nexus, out: &Out, id: CommandId) -> Result<Change, Refusal> {
        let mut work = Work {
            nexus,
            next: self.clone(),
            attentions: Vec::new(),
            aborts: Vec::new(),
        };
        if !self.has_done(&id) {
            work.carry_out(out)?;
            if work.next != *self {
                while work.next.done.len() >= DONE_MAX {
                    work.next.done.pop_front();
                }
                work.next.done.push_back(id);
            }
        }
        for (nexus, sense) in &work.attentions {
            work.next.attend(nexus, *sense);
        }
        Ok(Change {
            state: work.next,
            attentions: work.attentions,
            aborts: work.aborts,
        })
    }
}

struct Work<'a> {
    nexus: &'a Nexus,
    next: State,
    attentions: Vec<(Nexus, Sense)>,
    aborts: Vec<Nexus>,
}

impl Work<'_> {
    fn carry_out(&mut self, out: &Out) -> Result<(), Refusal> {
        let registered = self.next.registrations.get(self.nexus).copied();
        // Every other service action needs a registration and its key (6.16.3, RESERVATION KEY).
        let proven = |key: u64| match registered {
            Some(found) if found == key => Ok(()),
            _ => Err(Refusal::Conflict),
        };
        match out {
            Out::Register {
                key,
                new,
                others,
                all_ports,
                aptpl,
            } => self.register(registered, *key, *new, others, *all_ports, *aptpl),
            Out::RegisterAndIgnore {
                new,
                all_ports,
                aptpl,
            } => {
                // Table of 5.13.7: as REGISTER with the key that happens to be there.
                let key = registered.unwrap_or(0);
                self.register(registered, key, *new, &[], *all_ports, *aptpl)
            }
            Out::Reserve { key, kind } => {
                proven(*key)?;
                self.reserve(*kind)
            }
            Out::Release { key, kind } => {
                proven(*key)?;
                self.release(*kind)
            }
            Out::Clear { key } => {
                proven(*key)?;
                self.clear();
                Ok(())
            }
            Out::Preempt {
                key,
                victim,
                kind,
                abort,
            } => {
                proven(*key)?;
                self.preempt(*victim, *kind, *abort)
            }
            Out::RegisterAndMove {
                key,
                new,
                to,
                unregister,
                aptpl,
            } => {
                // Conflicts for whoever does not hold it (5.13.8); nobody alone holds what all registrants do.
                let sole = self.next.held.as_ref().is_some_and(|held| held.holder.is_some());
                if !sole || !self.next.is_holder(self.nexus) {
                    return Err(Refusal::Conflict);
                }
                proven(*key)?;
                self.hand_over(*new, to, *unregister, *aptpl)
            }
        }
    }

    /// A change of registrations that was made (6.15.2.2).
    fn count(&mut self) {
        self.next.generation = self.next.generation.wrapping_add(1);
    }

    fn tell_others(&mut self, sense: Sense) {
        let others = self
            .next
            .registrations
            .keys()
            .filter(|nexus| *nexus != self.nexus);
        self.attentions.extend(others.map(|nexus| (nexus.clone(), sense)));
    }

    /// 5.13.7 and its two tables of register behaviours.
    fn register(
        &mut self,
        registered: Option<u64>,
        key: u64,
        new: u64,
        others: &[Nexus],
        all_ports: bool,
        aptpl: bool,
    ) -> Result<(), Refusal> {
        if registered.unwrap_or(0) != key {
            return Err(Refusal::Conflict);
        }
        // "Do nothing except return GOOD".
        if registered.is_none() && new == 0 {
            return Ok(());
        }
        // Other initiator ports are registered together with the first registration only.
        if registered.is_some() && !others.is_empty() {
            return Err(Sense::invalid_parameter(20).into());
        }
        let at_ports = |nexus: &Nexus| -> Vec<Nexus> {
            let ports: &[u16] = if all_ports {
                &PORTS
            } else {
                std::slice::from_ref(&nexus.port)
            };
            ports
                .iter()
                .map(|port| Nexus {
                    port: *port,
                    ..nexus.clone()
                })
                .collect()
        };
        for nexus in at_ports(self.nexus) {
            match new {
                0 => self.unregister(&nexus),
                new => drop(self.next.registrations.insert(nexus, new)),
            }
        }
        for nexus in others.iter().flat_map(at_ports) {
            self.next.registrations.entry(nexus).or_insert(new);
        }
        // All or none.
        if self.next.registrations.len() > REGISTRATIONS_MAX {
            return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
        }
        self.next.aptpl = aptpl;
        self.count();
        Ok(())
    }

    /// 5.13.11.3: what a holder takes along when it leaves.
    fn unregister(&mut self, nexus: &Nexus) {
        let held_alone = self
            .next
            .held
            .as_ref()
            .is_some_and(|held| held.holder.as_ref() == Some(nexus));
        if self.next.registrations.remove(nexus).is_none() {
            return;
        }
        let nobody_left = self.next.registrations.is_empty();
        if held_alone || nobody_left {
            let held = self.next.held.take();
            if held.is_some_and(|held| held.kind.registrants_share()) {
                self.tell_others(Sense::RESERVATIONS_RELEASED);
            }
        }
    }

    /// 5.13.9.
    fn reserve(&mut self, kind: Kind) -> Result<(), Refusal> {
        match &self.next.held {
            None => {
                self.next.held = Some(self.held_by(kind));
                Ok(())
            }
            Some(held) if held.kind == kind && self.next.is_holder(self.nexus) => Ok(()),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    fn held_by(&self, kind: Kind) -> Held {
        Held {
            kind,
            holder: (!kind.all_registrants()).then(|| self.nexus.clone()),
        }
    }

    /// 5.13.11.2.
    fn release(&mut self, kind: Kind) -> Result<(), Refusal> {
        if !self.next.is_holder(self.nexus) {
            // Nothing to release is not an error.
            return Ok(());
        }
        let Some(held) = self.next.held.take() else {
            return Ok(());
        };
        if held.kind != kind {
            return Err(Sense::INVALID_RELEASE.into());
        }
        if kind.registrants_share() {
            self.tell_others(Sense::RESERVATIONS_RELEASED);
        }
        Ok(())
    }

    /// 5.13.11.6.
    fn clear(&mut self) {
        self.tell_others(Sense::RESERVATIONS_PREEMPTED);
        self.next.registrations.clear();
        self.next.held = None;
        self.count();
    }

    /// 5.13.11.4 and 5.13.11.5.
    fn preempt(&mut self, victim: u64, kind: Option<Kind>, abort: bool) -> Result<(), Refusal> {
        let keys = &self.next.registrations;
        let takes_reservation = match &self.next.held {
            None if victim == 0 => return Err(Sense::invalid_parameter(8).into()),
            None => false,
            Some(held) => match &held.holder {
                None => victim == 0,
                Some(_) if victim == 0 => return Err(Sense::invalid_parameter(8).into()),
                Some(holder) => keys.get(holder) == Some(&victim),
            },
        };
        let everybody = takes_reservation && victim == 0;
        let struck: Vec<Nexus> = keys
            .iter()
            .filter(|(nexus, key)| {
                let named = everybody || **key == victim;
                // Who takes the reservation stays registered; who only strikes out may strike out itself.
                named && !(takes_reservation && *nexus == self.nexus)
            })
            .map(|(nexus, _)| nexus.clone())
            .collect();
        if !takes_reservation {
            if struck.is_empty() {
                return Err(Refusal::Conflict);
            }
            self.strike(&struck, abort);
            // Of all registrants nobody may be left.
            if self.next.registrations.is_empty() {
                self.next.held = None;
            }
            self.count();
            return Ok(());
        }
        let kind = kind.ok_or(Sense::invalid_field(2))?;
        let before = self.next.held.as_ref().map(|held| held.kind);
        self.strike(&struck, abort);
        self.next.held = Some(self.held_by(kind));
        if before != Some(kind) {
            self.tell_others(Sense::RESERVATIONS_RELEASED);
        }
        self.count();
        Ok(())
    }

    fn strike(&mut self, struck: &[Nexus], abort: bool) {
        for nexus in struck {
            self.next.registrations.remove(nexus);
            if nexus != self.nexus {
                self.attentions
                    .push((nexus.clone(), Sense::REGISTRATIONS_PREEMPTED));
                if abort {
                    self.aborts.push(nexus.clone());
                }
            }
        }
    }

    /// 5.13.8, REGISTER AND MOVE; the caller holds the reservation alone.
    fn hand_over(&mut self, new: u64, to: &Nexus, unregister: bool, aptpl: bool) -> Result<(), Refusal> {
        if new == 0 {
            return Err(Sense::invalid_parameter(8).into());
        }
        if !PORTS.contains(&to.port) {
            return Err(Sense::invalid_parameter(18).into());
        }
        if to == self.nexus {
            return Err(Sense::invalid_parameter(24).into());
        }
        if let Some(held) = &mut self.next.held {
            held.holder = Some(to.clone());
        }
        self.next.registrations.insert(to.clone(), new);
        if unregister {
            self.next.registrations.remove(self.nexus);
        }
        if self.next.registrations.len() > REGISTRATIONS_MAX {
            return Err(Sense::INSUFFICIENT_REGISTRATIONS.into());
        }
        self.next.aptpl = aptpl;
        self.count();
        Ok(())
    }
}
