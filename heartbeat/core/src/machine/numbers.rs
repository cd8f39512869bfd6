//! The numbers in a core whose value means nothing: for whoever searches every state of it.
//!
//! Two runs may come to the same situation at another hour, after another count of reads and writes, with other nonces.
//! To the core these are one: it compares instants with `now`, and effects, versions, sequences and nonces only among
//! themselves. [`Core::canonical`] drops what is kept for people alone, and [`Core::numbers`] shows every other such
//! number, so that a search can put its rank in its place.
//!
//! Every structure is taken apart by name: a field that is added and not thought of here does not compile.
//!
//! It must never be used by a driver: a core whose numbers were changed does not fit its world any more.

use super::{BlockWriter, Core, Disk, Fence, Freeze, PartnerView, Wishes};
use crate::area::Area;
use crate::change::Change;
use crate::effect::BlockId;
use crate::time::Instant;

/// What a number counts. Numbers of different kinds, or of different cores, are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Number {
    /// Nanoseconds of the controller's clock.
    Instant,
    /// Order of effects: reads, writes, and what came before which.
    Effect,
    /// Versions of the own ballot.
    Ballot,
    /// Versions of the own letter.
    Letter,
    /// Sequence of the own slot; it is on the disks and in the partner as well.
    OwnSlot,
    /// Sequence of the partner's slot.
    PartnerSlot,
    /// A nonce that was sent and did not come back.
    Sent,
    /// Place of a quorum disk: they are all alike.
    Disk,
    /// A nonce of the partner that is to be echoed.
    Heard,
}

impl Core {
    /// The same core without what decides nothing: texts for people and figures for statistics. Only to be compared,
    /// never to be driven.
    #[doc(hidden)]
    #[must_use]
    pub fn canonical(&self, now: Instant) -> Self {
        let mut core = self.clone();
        let timing = core.params.timing;
        core.params.seed = 0;
        core.attempts = core.attempts.min(4);
        core.alarms.clear();
        core.partner.power = None;
        core.present = Instant::ZERO;
        core.lock_since = Instant::ZERO;
        core.disk_sight.1 = Instant::ZERO;
        core.silences.retain(|at| now.since(*at) < timing.flap_window);
        for disk in &mut core.disks {
            disk.latency = None;
            if core.phase != super::Phase::Starting {
                disk.own = None;
            }
        }
        for pool in core.pools.values_mut() {
            pool.problem = None;
            pool.since = Instant::ZERO;
            pool.failures = pool.failures.min(3);
            pool.sent_home.retain(|at| now.since(*at) < timing.flap_window);
        }
        core.wire.canonical();
        core
    }

    /// Forgets the nonces that were sent and that, as `live` says, nobody can bring back any more.
    #[doc(hidden)]
    pub fn forget_nonces(&mut self, live: &mut dyn FnMut(u64) -> bool) {
        self.wire.forget(live);
    }

    /// Shows every number of those kinds, to be read or replaced, always in the same order.
    #[doc(hidden)]
    pub fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        let Self {
            params: _,
            started,
            phase: _,
            farewell: _,
            out: _,
            present,
            wake,
            next_id,
            disks,
            used: _,
            arbiter,
            wire,
            next_beat,
            next_slot,
            sequence,
            partner,
            // Their sequence grows with deeds alone.
            claims: _,
            letter: _,
            letter_version,
            rounds,
            slot_basis,
            lease_until,
            served_since,
            petted,
            watchdog: _,
            armed_before: _,
            armed_asked,
            wire_sight,
            slept,
            disk_sight,
            verdict: _,
            silences,
            legs: _,
            queried,
            key_sight: _,
            key_pool: _,
            was_member: _,
            briefed: _,
            waited: _,
            previous: _,
            decided_at,
            decided_stamp,
            decided_version,
            started_stamp,
            config: _,
            probe,
            freeze,
            propose_at,
            attempts: _,
            fence,
            caught_up: _,
            catch_up_at,
            told: _,
            lock_since,
            wishes,
            leaving: _,
            imports: _,
            pools,
            pools_known: _,
            renew: _,
            adopted: _,
            surplus_pools: _,
            alarms: _,
            stop_said,
        } = self;
        let Wishes {
            force: _,
            override_of: _,
            open: _,
            shutdown,
            change,
        } = wishes;
        let PartnerView {
            incarnation: _,
            known_since,
            advert: _,
            advert_slot,
            letter: _,
            holdings: _,
            nonce,
            echo_given,
            left,
            power: _,
            off,
            dying,
            farewell: _,
        } = partner;
        let own = [
            started,
            present,
            wake,
            next_beat,
            next_slot,
            lease_until,
            decided_at,
            propose_at,
            catch_up_at,
            lock_since,
            stop_said,
            known_since,
            echo_given,
            &mut wire_sight.1,
            &mut disk_sight.1,
        ];
        let changed = change.as_mut().map(Change::instant);
        let optional = [
            slot_basis,
            served_since,
            petted,
            armed_asked,
            queried,
            shutdown,
            left,
            slept,
        ];
        let optional = optional.into_iter().flatten().chain(changed);
        for at in own.into_iter().chain(optional).chain(silences) {
            visit(Number::Instant, at.number());
        }
        for (_, at) in [off, dying].into_iter().flatten() {
            visit(Number::Instant, at.number());
        }
        if let Some((_, _, at)) = probe {
            visit(Number::Instant, at.number());
        }
        if let Some(Freeze {
            epoch: _,
            asked,
            done: _,
        }) = freeze
        {
            visit(Number::Instant, asked.number());
        }
        if let Some(Fence {
            epoch: _,
            victim: _,
            since,
            stamp,
            cut_at,
        }) = fence
        {
            visit(Number::Instant, since.number());
            visit(Number::Effect, stamp);
            if let Some(at) = cut_at {
                visit(Number::Instant, at.number());
            }
        }
        for (at, stamp) in rounds {
            visit(Number::Instant, at.number());
            visit(Number::Effect, stamp);
        }
        for stamp in [next_id, decided_stamp, started_stamp] {
            visit(Number::Effect, stamp);
        }
        if let Some(sequence) = advert_slot {
            visit(Number::PartnerSlot, sequence);
        }
        if let Some((nonce, ..)) = nonce {
            visit(Number::Heard, nonce);
        }
        visit(Number::Ballot, decided_version);
        visit(Number::Letter, letter_version);
        visit(Number::OwnSlot, sequence);
        for disk in disks {
            disk.numbers(visit);
        }
        arbiter.numbers(visit);
        wire.numbers(visit);
        for pool in pools.values_mut() {
            pool.numbers(visit);
        }
    }
}

impl Disk {
    fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        let Self {
            seat: _,
            entered,
            own,
            ours: _,
            read,
            want_read: _,
            read_at,
            read_own: _,
            watch,
            vote,
            claims,
            letter: _,
            slot_read,
            farewell: _,
            blocks,
            vote_stamp,
            counted,
            slot_submitted,
            claims_of: _,
            latency: _,
        } = self;
        if let Some(Area { slot: Ok(slot), .. }) = own {
            visit(Number::OwnSlot, &mut slot.sequence);
        }
        let read = read.as_mut().map(|(id, _)| &mut id.0);
        let vote = vote.as_mut().map(|(_, id)| id);
        let claims = claims.as_mut().map(|(_, id)| id);
        let ids = [read, vote, claims, vote_stamp.as_mut(), Some(slot_read)];
        for id in ids.into_iter().flatten() {
            visit(Number::Effect, id);
        }
        for at in [read_at, slot_submitted].into_iter().flatten().chain([entered]) {
            visit(Number::Instant, at.number());
        }
        visit(Number::Ballot, counted);
        watch.numbers(visit);
        for (at, writer) in blocks.iter_mut().enumerate() {
            let version = match at {
                _ if at == BlockId::Slot as usize => Some(Number::OwnSlot),
                _ if at == BlockId::Vote0 as usize || at == BlockId::Vote1 as usize => Some(Number::Ballot),
                _ if at == BlockId::Mailbox as usize => Some(Number::Letter),
                _ => None,
            };
            let BlockWriter {
                flight,
                durable,
                retry_at,
            } = writer;
            visit(Number::Instant, retry_at.number());
            if let Some((id, _)) = flight {
                visit(Number::Effect, &mut id.0);
            }
            if let Some(kind) = version {
                visit(kind, durable);
                if let Some((_, carried)) = flight {
                    visit(kind, carried);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
