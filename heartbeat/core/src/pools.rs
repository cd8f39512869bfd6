//! Pools: who owns each by the claims, and how it changes hands.
//!
//! ```text
//!  TAKE under a lone epoch      Idle -> Fencing -> Claiming -> Importing -> LeaseWait -> Publishing -> Serving
//!  TAKE under a shared epoch    Idle -> Claiming -> Verifying -> Fencing -> Importing -> Publishing -> Serving
//!  MOVE away                    Serving -> Releasing -> Giving -> Given -> Idle (the partner holds it)
//!                   ^     ^   \-- failed: goes on with what is still imported --> Resuming --/
//!                   |     \-------------------------------------------------------------/
//!                   \-- exported, but given up before the point of no return: Idle, and taken again
//! ```
//!
//! Under a lone epoch the evidence comes before the claim: the claim may say "mine" only when nobody else can write.
//! Under a shared epoch the claim comes first, and the partner's claims are read back after it is durable, so that of
//! two who both think that it is theirs at least one sees the other (K5).
//!
//! Invariants: `given` is written only after the export is done, and from its first write on there is no way back but
//! the receiver's `declined` or an epoch without the receiver; an answer to a step of an older generation is ignored.
//!
//! It must never fence the living for a pool that its owner has not given, and never take back what was given because
//! an answer is late.

use crate::area::{Claim, ClaimState, LETTER_MAX, Role};
use crate::detect::WireSight;
use crate::effect::{Effect, Evidence, Note};
use crate::event::PoolStep;
use crate::machine::{Core, Disk};
use crate::table::{KeySight, ShelfSight};
use crate::time::Instant;
use crate::wire::HOLDINGS_MAX;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use pollux_api::alua;
use pollux_api::id::{ControllerId, Epoch, Generation, PoolId};
use pollux_api::pool::ReservationKey;

/// Why this controller may take a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// It holds the claim already.
    Own,
    /// Nobody's, and its home is here.
    Unowned,
    /// The partner gave it, by a claim of this generation.
    Released(Generation),
    /// It may have been the partner's, who is not a member any more.
    Fenced,
}

/// Why a pool is being released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// An operator asked for it here.
    Operator,
    /// The partner asked for it.
    Asked,
    /// It goes home.
    Home,
    /// This controller is leaving, or has lost the shelf: the pool is stopped if it cannot be exported.
    Leaving,
}

/// The partner's claim as it stood when this controller decided to claim.
pub(crate) type Seen = Option<(Epoch, Generation, ClaimState)>;

/// Where a pool stands on this controller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Nothing is going on here.
    Idle,
    /// The claim is being written: version of the claims that has to be durable.
    Claiming {
        key: ReservationKey,
        kind: Kind,
        evidence: Option<Evidence>,
        version: u64,
    },
    /// The partner's claims are being read, by effects of this number and above.
    Verifying {
        key: ReservationKey,
        kind: Kind,
        stamp: u64,
    },
    /// Evidence is being gathered. The outcome of the reservations, once there is one.
    Fencing {
        key: ReservationKey,
        kind: Kind,
        claimed: bool,
        outcome: Option<bool>,
    },
    /// `TakePool` is out.
    Importing { key: ReservationKey, evidence: Evidence },
    /// Imported; the old owner's lease may still run.
    LeaseWait { key: ReservationKey },
    /// `PublishPool` is out, or waits for its next attempt.
    Publishing { key: ReservationKey, out: bool },
    /// Hosts are served.
    Serving { key: ReservationKey },
    /// `ReleasePool` is out.
    Releasing { key: ReservationKey, cause: Cause },
    /// The point of no return: `given` is being written.
    Giving { generation: Generation, version: u64 },
    /// Given; the partner has not answered.
    Given { generation: Generation },
    /// `ResumePool` is out.
    Resuming { key: ReservationKey },
    /// `StopPool` is out; then perhaps give.
    Stopping { generation: Generation, give: bool },
}

/// A pool of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pool {
    pub(crate) home: ControllerId,
    pub(crate) state: State,
    pub(crate) since: Instant,
    pub(crate) problem: Option<String>,
    pub(crate) failures: u32,
    retry_at: Instant,
    seen: Seen,
    /// The partner is responsible for it and has not served it since then.
    pub(crate) unserved_since: Option<Instant>,
    /// The partner asks for it, and it is not served here, since then.
    asked_since: Option<Instant>,
    /// An operator here asked for it, then.
    pub(crate) ask: Option<Instant>,
    /// To be released as soon as it serves.
    release: Option<Cause>,
    /// The planned move is to be given up.
    pub(crate) abort: bool,
    /// Automatic moves, for the ping-pong guard.
    pub(crate) sent_home: Vec<Instant>,
    route: Option<(alua::Role, Epoch, Generation, bool)>,
}

impl Pool {
    pub(crate) fn new(home: ControllerId, now: Instant) -> Self {
        Self {
            home,
            state: State::Idle,
            since: now,
            problem: None,
            failures: 0,
            retry_at: now,
            seen: None,
            unserved_since: None,
            asked_since: None,
            ask: None,
            release: None,
            abort: false,
            sent_home: Vec::new(),
            route: None,
        }
    }

    /// For a search: see [`crate::Number`].
    pub(crate) fn numbers(&mut self, visit: &mut dyn FnMut(crate::Number, &mut u64)) {
        let Self {
            home: _,
            state,
            since,
            problem: _,
            failures: _,
            retry_at,
            seen: _,
            unserved_since,
            asked_since,
            ask,
            release: _,
            abort: _,
            sent_home,
            route: _,
        } = self;
        let optional = [unserved_since, asked_since, ask].into_iter().flatten();
        for at in [since, retry_at].into_iter().chain(optional).chain(sent_home) {
            visit(crate::Number::Instant, at.number());
        }
        if let State::Verifying {
            key: _,
            kind: _,
            stamp,
        } = state
        {
            visit(crate::Number::Effect, stamp);
        }
    }

    /// It is on its way to being served here, at the first attempt.
    pub(crate) fn taking(&self) -> bool {
        let under_way = match self.state {
            State::Claiming { .. }
            | State::Verifying { .. }
            | State::Fencing { .. }
            | State::Importing { .. }
            | State::LeaseWait { .. }
            | State::Publishing { .. } => true,
            State::Idle
            | State::Serving { .. }
            | State::Releasing { .. }
            | State::Giving { .. }
            | State::Given { .. }
            | State::Resuming { .. }
            | State::Stopping { .. } => false,
        };
        under_way && self.failures == 0
    }

    /// Generation of the claim to which its move leads: the one under which it is taken here, or the partner's next one.
    pub(crate) fn leads_to(&self) -> Option<Generation> {
        match self.state {
            State::Idle => None,
            State::Claiming { key, .. }
            | State::Verifying { key, .. }
            | State::Fencing { key, .. }
            | State::Importing { key, .. }
            | State::LeaseWait { key }
            | State::Publishing { key, .. }
            | State::Serving { key } => Some(key.generation),
            State::Releasing { key, .. } | State::Resuming { key } => Some(key.generation.next()),
            State::Giving { generation, .. }
            | State::Given { generation }
            | State::Stopping { generation, .. } => Some(generation.next()),
        }
    }

    /// It is to be released as soon as that can be begun.
    pub(crate) fn is_wanted_away(&self) -> bool {
        self.release.is_some()
    }

    /// Stable name of the state.
    pub(crate) fn name(&self) -> &'static str {
        match self.state {
            State::Idle => "idle",
            State::Claiming { .. } | State::Verifying { .. } => "claiming",
            State::Fencing { .. } => "fencing",
            State::Importing { .. } => "importing",
            State::LeaseWait { .. } => "lease-wait",
            State::Publishing { .. } => "publishing",
            State::Serving { .. } => "serving",
            State::Releasing { .. } => "releasing",
            State::Giving { .. } => "giving",
            State::Given { .. } => "given",
            State::Resuming { .. } => "resuming",
            State::Stopping { .. } => "stopping",
        }
    }
}

/// What the claims say about a pool, as far as this controller is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// Not this controller's.
    No,
    /// To be served here.
    Take(Kind),
}

fn order(claim: &Claim) -> (Epoch, Generation, ClaimState) {
    (claim.epoch, claim.generation, claim.state)
}

/// The partner's claim on a pool as a disk shows it.
fn shown_on(disk: &Disk, pool: PoolId) -> Option<Claim> {
    disk.claims.as_ref()?.0.pools.get(&pool).copied()
}

impl Core {
    /// The partner's claim on a pool: the latest of what any disk shows or the partner has told.
    pub(crate) fn partner_claim(&self, pool: PoolId) -> Option<Claim> {
        let shown = self.disks.iter().filter_map(|disk| shown_on(disk, pool));
        let told = self
            .partner
            .holdings
            .get(&pool)
            .map(|(epoch, generation, incarnation)| Claim {
                epoch: *epoch,
                generation: *generation,
                state: ClaimState::Held,
                incarnation: *incarnation,
                serving: true,
                placed: false,
            });
        // Of two that are equal the disks' counts: it is whole.
        told.into_iter().chain(shown).max_by_key(order)
    }

    /// It stands on a majority of the disks.
    fn partner_claim_stands(&self, pool: PoolId) -> bool {
        let Some(latest) = self.partner_claim(pool) else {
            return false;
        };
        let stands = |disk: &Disk| shown_on(disk, pool).is_some_and(|claim| order(&claim) == order(&latest));
        self.majority_is(stands)
    }

    /// The claim that counts, and whose it is.
    pub(crate) fn top_claim(&self, pool: PoolId) -> Option<(ControllerId, Claim)> {
        let mine = self.claims.pools.get(&pool).copied();
        let theirs = self.partner_claim(pool);
        let (me, partner) = (self.me(), self.me().partner());
        match (mine, theirs) {
            (Some(mine), Some(theirs)) if order(&theirs) > order(&mine) => Some((partner, theirs)),
            (Some(mine), _) => Some((me, mine)),
            (None, Some(theirs)) => Some((partner, theirs)),
            (None, None) => None,
        }
    }

    /// A generation that no claim on this pool has reached.
    fn next_generation(&self, pool: PoolId) -> Generation {
        let mine = self.claims.pools.get(&pool).map(|claim| claim.generation);
        let theirs = self.partner_claim(pool).map(|claim| claim.generation);
        mine.max(theirs).unwrap_or_default().next()
    }

    pub(crate) fn basis(&self, id: PoolId) -> Basis {
        if !self.member() {
            return Basis::No;
        }
        let Some(pool) = self.pools.get(&id) else {
            return Basis::No;
        };
        let top = self.top_claim(id);
        let me = self.params.incarnation;
        let Some(theirs) = self.partner_member() else {
            // A lone member: everything is its own to serve. What it holds it has held with evidence.
            let held = top.is_some_and(|(who, claim)| {
                who == self.me() && claim.state == ClaimState::Held && claim.incarnation == me
            });
            return Basis::Take(if held { Kind::Own } else { Kind::Fenced });
        };
        if !self.claims_known() {
            return Basis::No;
        }
        let free = if pool.home == self.me() {
            Basis::Take(Kind::Unowned)
        } else {
            Basis::No
        };
        let Some((who, claim)) = top else { return free };
        if who == self.me() {
            // Both have yielded, or given, under one and the same number: neither has a word of the other to wait for.
            let alike = |theirs: Claim| order(&theirs) == order(&claim);
            let waits = claim.incarnation == me && !self.partner_claim(id).is_some_and(alike);
            return match claim.state {
                ClaimState::Held if claim.incarnation == me => Basis::Take(Kind::Own),
                ClaimState::Given | ClaimState::Declined if waits => Basis::No,
                ClaimState::Held | ClaimState::Given | ClaimState::Declined => free,
            };
        }
        if claim.incarnation != theirs {
            // Of an incarnation that has ended: nobody holds it.
            return free;
        }
        let gifts = || {
            self.mail()
                .is_some_and(|letter| letter.gifts.contains(&(id, claim.generation)))
        };
        match claim.state {
            // The wire says what the disks of a giver without a shelf cannot.
            ClaimState::Held if self.wire_sight.0 == WireSight::Alive && gifts() => {
                Basis::Take(Kind::Released(claim.generation))
            }
            ClaimState::Held => Basis::No,
            ClaimState::Given => {
                // On a minority the giver may not know it itself after a restart (K5).
                if self.partner_claim_stands(id) {
                    Basis::Take(Kind::Released(claim.generation))
                } else {
                    Basis::No
                }
            }
            ClaimState::Declined => Basis::Take(Kind::Released(claim.generation)),
        }
    }

    /// It is to be served here, and nothing is going on that would have to end first.
    pub(crate) fn wants_back(&self, id: PoolId) -> bool {
        let idle = self.pools.get(&id).is_some_and(|pool| pool.state == State::Idle);
        idle && self.imported(id).is_none() && matches!(self.basis(id), Basis::Take(_))
    }

    /// The partner can receive pools.
    pub(crate) fn partner_ready(&self) -> bool {
        let advert = self.partner.advert;
        self.partner_member() == Some(self.partner.incarnation)
            && self.partner_alive()
            && advert.is_some_and(|advert| advert.role == Role::Serving && advert.shelf)
    }

    /// A person wants it here: the giver says so in its claim, or it was asked for here.
    fn placed(&self, id: PoolId, kind: Kind) -> bool {
        match kind {
            Kind::Own => self.claims.pools.get(&id).is_some_and(|claim| claim.placed),
            Kind::Released(_) => {
                let asked = self.pools.get(&id).is_some_and(|pool| pool.ask.is_some());
                asked || self.partner_claim(id).is_some_and(|claim| claim.placed)
            }
            Kind::Unowned | Kind::Fenced => false,
        }
    }

    /// The partner's claims were read since the present record came to be known: what it claimed before, it shows. What a
    /// later life of it has written says nothing of what the member holds: its first life may have left more than that one
    /// could read.
    pub(crate) fn claims_known(&self) -> bool {
        let member = self.partner_member();
        let read = self.majority_of(|disk| {
            let (_, read) = disk.claims.as_ref()?;
            (member.is_none() || disk.claims_of == member).then_some(*read)
        });
        read.is_some_and(|read| read >= self.decided_stamp)
    }

    fn claim(&mut self, pool: PoolId, generation: Generation, epoch: Epoch, state: ClaimState, placed: bool) {
        let incarnation = self.params.incarnation;
        self.claims.pools.insert(
            pool,
            Claim {
                epoch,
                generation,
                state,
                incarnation,
                serving: false,
                placed,
            },
        );
        self.claims.sequence += 1;
    }

    fn set_serving(&mut self, pool: PoolId, serving: bool) {
        if let Some(claim) = self.claims.pools.get_mut(&pool)
            && claim.serving != serving
        {
            claim.serving = serving;
            self.claims.sequence += 1;
        }
    }

    fn claims_durable(&self, version: u64) -> bool {
        self.majority_is(|disk| disk.claims_durable() >= version)
    }

    fn set_state(&mut self, now: Instant, id: PoolId, state: State) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let before = pool.name();
        pool.state = state;
        let after = pool.name();
        if before != after {
            pool.since = now;
            self.emit(Effect::Note(Note::Pool {
                pool: id,
                state: after,
            }));
        }
    }

    fn failed(&mut self, now: Instant, id: PoolId, problem: String) {
        let retry_at = now + self.params.timing.retry;
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.problem = Some(problem);
            pool.failures = pool.failures.saturating_add(1);
            pool.retry_at = retry_at;
        }
        self.wake_at(retry_at);
    }

    // ---- what the driver reports ----------------------------------------------------------------------------

    pub(crate) fn set_imports(&mut self, now: Instant, imports: BTreeMap<PoolId, ReservationKey>) {
        let lost: Vec<PoolId> = self
            .pools
            .iter()
            .filter(|(id, pool)| match pool.state {
                State::LeaseWait { key } | State::Publishing { key, .. } | State::Serving { key } => {
                    imports.get(id) != Some(&key)
                }
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        let epoch = self.record().epoch;
        for id in lost {
            // Nobody knows why it is gone: perhaps because exclusion was lost (S6).
            self.renew.insert(id, epoch);
            self.set_serving(id, false);
            self.set_state(now, id, State::Idle);
        }
        self.imports = Some(imports);
    }

    /// What an earlier daemon of this incarnation held and is not imported any more went unseen, too.
    fn miss_imports(&mut self) {
        let (me, epoch) = (self.params.incarnation, self.record().epoch);
        let held = self
            .claims
            .pools
            .iter()
            .filter(|(_, claim)| claim.state == ClaimState::Held && claim.incarnation == me);
        let missing: Vec<PoolId> = held
            .map(|(id, _)| *id)
            .filter(|id| self.imported(*id).is_none())
            .collect();
        for id in missing {
            self.renew.insert(id, epoch);
            self.set_serving(id, false);
        }
    }

    fn imported(&self, id: PoolId) -> Option<ReservationKey> {
        self.imports
            .as_ref()
            .and_then(|imports| imports.get(&id))
            .copied()
    }

    fn forget_import(&mut self, id: PoolId) {
        if let Some(imports) = &mut self.imports {
            imports.remove(&id);
        }
    }

    /// What is imported and in no configuration was deleted while no daemon looked.
    fn drop_strays(&mut self) {
        let imports = self.imports.iter().flatten();
        let strays: Vec<(PoolId, Generation)> = imports
            .filter(|(id, _)| !self.pools.contains_key(id))
            .map(|(id, key)| (*id, key.generation))
            .collect();
        for (pool, generation) in strays {
            self.emit(Effect::DeletePool { pool, generation });
            self.forget_import(pool);
        }
    }

    pub(crate) fn drop_pool(&mut self, id: PoolId) {
        if self.pools.remove(&id).is_none() {
            return;
        }
        // Also of one that nothing is going on with: an attempt to take it may have left keys.
        let claim = self.claims.pools.get(&id);
        let generation = claim.map(|claim| claim.generation).unwrap_or_default();
        self.emit(Effect::DeletePool { pool: id, generation });
        self.forget_import(id);
        self.partner.holdings.remove(&id);
        self.renew.remove(&id);
        if self.claims.pools.remove(&id).is_some() {
            self.claims.sequence += 1;
        }
    }

    pub(crate) fn pool_done(
        &mut self,
        now: Instant,
        id: PoolId,
        generation: Generation,
        step: PoolStep,
        result: Result<(), String>,
    ) {
        let Some(pool) = self.pools.get(&id) else { return };
        let (state, abort) = (pool.state.clone(), pool.abort);
        match (state, step) {
            (State::Importing { key, evidence }, PoolStep::Take) if key.generation == generation => {
                match result {
                    Ok(()) => {
                        if let Some(imports) = &mut self.imports {
                            imports.insert(id, key);
                        }
                        let unproven = match evidence {
                            Evidence::Reserved { .. } | Evidence::Waited { .. } => true,
                            // Claimed in an epoch that ended before the pool was published: the lease of the owner
                            // before may still run.
                            Evidence::Own => self.partner_member().is_none(),
                            Evidence::Unowned
                            | Evidence::Released { .. }
                            | Evidence::PowerOff { .. }
                            | Evidence::Rebooted { .. } => false,
                        };
                        let next = if unproven {
                            State::LeaseWait { key }
                        } else {
                            State::Publishing { key, out: false }
                        };
                        self.set_state(now, id, next);
                    }
                    Err(problem) => {
                        self.failed(now, id, problem);
                        self.set_state(now, id, State::Idle);
                    }
                }
            }
            (State::Publishing { key, out: true }, PoolStep::Publish) if key.generation == generation => {
                match result {
                    Ok(()) => {
                        self.set_serving(id, true);
                        self.set_state(now, id, State::Serving { key });
                        if let Some(pool) = self.pools.get_mut(&id) {
                            pool.failures = 0;
                            pool.problem = None;
                        }
                    }
                    Err(problem) => {
                        self.failed(now, id, problem);
                        // After some attempts it is begun again from the import, which may be gone.
                        if self.pools.get(&id).is_some_and(|pool| pool.failures >= 3) {
                            self.stop_pool(now, id, generation, "it cannot be published", false);
                        } else {
                            self.set_state(now, id, State::Publishing { key, out: false });
                        }
                    }
                }
            }
            (State::Releasing { key, cause }, PoolStep::Release) if key.generation == generation => {
                let given_up = abort || !self.partner_ready();
                match (result, cause, given_up) {
                    (Ok(()), _, false) => {
                        self.forget_import(id);
                        self.give(now, id, cause == Cause::Operator);
                    }
                    (Err(problem), Cause::Leaving, given_up) => {
                        self.failed(now, id, problem);
                        self.stop_pool(
                            now,
                            id,
                            key.generation,
                            "it cannot be exported and has to go",
                            !given_up,
                        );
                    }
                    // Given up too late to keep it: its keys are gone, and it is taken again under a claim of its own.
                    (Ok(()), _, true) => {
                        self.forget_import(id);
                        if let Some(pool) = self.pools.get_mut(&id) {
                            pool.abort = false;
                            pool.release = None;
                        }
                        self.set_state(now, id, State::Idle);
                    }
                    (Err(problem), Cause::Operator | Cause::Asked | Cause::Home, _) => {
                        self.failed(now, id, problem);
                        self.emit(Effect::ResumePool { pool: id, key });
                        self.set_state(now, id, State::Resuming { key });
                    }
                }
            }
            (State::Resuming { key }, PoolStep::Resume) if key.generation == generation => {
                if let Some(pool) = self.pools.get_mut(&id) {
                    pool.abort = false;
                    pool.release = None;
                }
                match result {
                    Ok(()) => {
                        self.set_serving(id, true);
                        self.set_state(now, id, State::Serving { key });
                    }
                    Err(problem) => {
                        self.failed(now, id, problem);
                        self.stop_pool(now, id, key.generation, "it could not be resumed", false);
                    }
                }
            }
            // Stopped or not known to be running: either way nothing more will be said about it.
            (
                State::Stopping {
                    generation: stopped,
                    give,
                },
                PoolStep::Stop,
            ) if stopped == generation => {
                self.forget_import(id);
                if give {
                    self.give(now, id, false);
                } else {
                    self.set_state(now, id, State::Idle);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn fence_done(
        &mut self,
        now: Instant,
        id: PoolId,
        done: ReservationKey,
        result: Result<(), String>,
    ) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let State::Fencing { key, outcome, .. } = &mut pool.state else {
            return;
        };
        if *key != done {
            return;
        }
        *outcome = Some(result.is_ok());
        if let Err(problem) = result {
            self.failed(now, id, problem);
        }
    }

    pub(crate) fn exclusion_lost(&mut self, now: Instant, id: PoolId, holder: Option<ReservationKey>) {
        let epoch = self.record().epoch;
        let fenced = holder.is_some_and(|key| key.controller != self.me() || key.epoch > epoch);
        let state = self.pools.get(&id).map_or(State::Idle, |pool| pool.state.clone());
        let used = match state {
            State::Importing { .. }
            | State::LeaseWait { .. }
            | State::Publishing { .. }
            | State::Serving { .. }
            | State::Releasing { .. }
            | State::Resuming { .. } => true,
            // Imported and not adopted yet; otherwise it holds nothing that could be lost.
            State::Idle
            | State::Claiming { .. }
            | State::Verifying { .. }
            | State::Fencing { .. }
            | State::Giving { .. }
            | State::Given { .. }
            | State::Stopping { .. } => self.imported(id).is_some(),
        };
        if !used {
            return;
        }
        if fenced {
            self.key_sight = KeySight::Partners;
            self.key_pool = Some(id);
            return;
        }
        let generation = self
            .claims
            .pools
            .get(&id)
            .map(|claim| claim.generation)
            .unwrap_or_default();
        self.failed(
            now,
            id,
            "exclusion was lost: another key, or none, stands on its disks".into(),
        );
        self.stop_pool(now, id, generation, "exclusion was lost", false);
    }

    // ---- steps ----------------------------------------------------------------------------------------------

    fn stop_pool(&mut self, now: Instant, id: PoolId, generation: Generation, reason: &str, give: bool) {
        self.set_serving(id, false);
        // Its keys were left on the disks and are not watched any more: what happens to them goes unseen, so exclusion
        // counts as lost (S6). The import may be of an epoch that a daemon at its start has not read yet.
        let known = self.record().epoch;
        let epoch = self.imported(id).map_or(known, |key| key.epoch.max(known));
        self.renew.insert(id, epoch);
        self.emit(Effect::StopPool {
            pool: id,
            generation,
            reason: reason.into(),
        });
        self.set_state(now, id, State::Stopping { generation, give });
    }

    /// Ends an attempt to take a pool, and gives it if it is wanted. A fence that is under way is called back before:
    /// late, it would register on disks that are somebody else's by then, or whose keys a power cycle has swept (K12).
    fn call_back(&mut self, now: Instant, id: PoolId, give: bool) {
        let under_way = self.pools.get(&id).and_then(|pool| match pool.state {
            State::Fencing {
                key, outcome: None, ..
            } => Some(key.generation),
            _ => None,
        });
        match under_way {
            Some(generation) => {
                self.emit(Effect::StopPool {
                    pool: id,
                    generation,
                    reason: "it is not to be taken any more".into(),
                });
                self.set_state(now, id, State::Stopping { generation, give });
            }
            None if give => self.give(now, id, false),
            None => self.set_state(now, id, State::Idle),
        }
    }

    /// Writes `given`. From here on there is no way back.
    fn give(&mut self, now: Instant, id: PoolId, placed: bool) {
        let held =
            self.claims.pools.get(&id).filter(|claim| {
                claim.state == ClaimState::Held && claim.incarnation == self.params.incarnation
            });
        let (generation, epoch) = match held {
            Some(claim) => (claim.generation, claim.epoch),
            None => (self.next_generation(id), self.record().epoch),
        };
        self.claim(id, generation, epoch, ClaimState::Given, placed);
        let version = self.claims.sequence;
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.release = None;
            pool.abort = false;
            pool.asked_since = None;
        }
        self.set_state(now, id, State::Giving { generation, version });
    }

    /// An operator asks for a pool to go.
    pub(crate) fn release(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.release = Some(Cause::Operator);
            pool.abort = false;
        }
    }

    pub(crate) fn step_pools(&mut self, now: Instant) {
        if self.imports.is_none() || !self.pools_known {
            return;
        }
        if !self.adopted {
            self.adopted = true;
            self.miss_imports();
        }
        self.drop_strays();
        let ids: Vec<PoolId> = self.pools.keys().copied().collect();
        for id in &ids {
            self.note_ask(now, *id);
            // Steps that need no answer from outside follow each other at once; no chain is longer than this.
            for _ in 0..8 {
                if !self.step_pool(now, *id) {
                    break;
                }
            }
            self.watch_partner_pool(now, *id);
            self.route(*id);
        }
    }

    /// One step of one pool; false when it has to wait.
    fn step_pool(&mut self, now: Instant, id: PoolId) -> bool {
        let Some(state) = self.pools.get(&id).map(|pool| pool.state.clone()) else {
            return false;
        };
        let epoch = self.record().epoch;
        match state {
            State::Idle => self.step_idle(now, id),
            State::Claiming { key, .. } | State::Verifying { key, .. } | State::Fencing { key, .. }
                if key.epoch != epoch || matches!(self.basis(id), Basis::No) =>
            {
                // The ground has changed under it: begin again from what holds now.
                self.call_back(now, id, false);
                true
            }
            State::Claiming {
                key,
                kind,
                evidence,
                version,
            } => {
                if !self.claims_durable(version) {
                    return false;
                }
                if evidence.is_some() && !self.may_take(now) {
                    return false;
                }
                self.emit(Effect::Note(Note::Claimed {
                    pool: id,
                    generation: key.generation,
                }));
                match evidence {
                    Some(evidence) => self.take(now, id, key, evidence),
                    None => {
                        let stamp = self.stamp();
                        self.set_state(now, id, State::Verifying { key, kind, stamp });
                    }
                }
                self.disks.iter_mut().for_each(crate::machine::Disk::read_soon);
                true
            }
            State::Verifying { key, kind, stamp } => self.step_verifying(now, id, key, kind, stamp),
            State::Fencing {
                key,
                kind,
                claimed,
                outcome,
            } => self.step_fencing(now, id, key, kind, claimed, outcome),
            State::LeaseWait { key } => {
                if !self.lease_gone(now) {
                    if let Some(at) = self.lease_clear_at() {
                        self.wake_at(at);
                    }
                    return false;
                }
                self.set_state(now, id, State::Publishing { key, out: false });
                true
            }
            State::Publishing { key, out: false } => {
                let retry_at = self.pools.get(&id).map_or(now, |pool| pool.retry_at);
                if now < retry_at {
                    self.wake_at(retry_at);
                    return false;
                }
                self.emit(Effect::PublishPool { pool: id, key });
                self.set_state(now, id, State::Publishing { key, out: true });
                false
            }
            State::Serving { key } => self.step_serving(now, id, key),
            State::Giving { generation, version } => {
                // Without a shelf the wire carries the gift, and the claim follows when it can.
                if !self.claims_durable(version) && self.shelf(now) == ShelfSight::Reachable {
                    return false;
                }
                self.set_state(now, id, State::Given { generation });
                true
            }
            State::Given { .. } => {
                let (basis, top) = (self.basis(id), self.top_claim(id));
                // K5: only the receiver's word or an epoch without it ends this.
                let taken = top.is_some_and(|(who, _)| who != self.me());
                let back = matches!(basis, Basis::Take(_));
                if taken || back {
                    self.set_state(now, id, State::Idle);
                }
                taken || back
            }
            State::Importing { .. }
            | State::Publishing { out: true, .. }
            | State::Releasing { .. }
            | State::Resuming { .. }
            | State::Stopping { .. } => false,
        }
    }

    /// Whoever has slept may be taken for dead by now, and what was its to take may be the partner's. While the own lease
    /// runs the partner has not decided that: Td is longer (S5).
    fn may_take(&self, now: Instant) -> bool {
        now < self.lease_until
    }

    fn take(&mut self, now: Instant, id: PoolId, key: ReservationKey, evidence: Evidence) {
        self.emit(Effect::TakePool {
            pool: id,
            key,
            evidence,
        });
        self.set_state(now, id, State::Importing { key, evidence });
    }

    fn step_idle(&mut self, now: Instant, id: PoolId) -> bool {
        let basis = self.basis(id);
        let Some(pool) = self.pools.get(&id) else {
            return false;
        };
        let claim = self.claims.pools.get(&id).copied();
        if let Some(key) = self.imported(id) {
            // A restarted daemon finds the pool imported: it is adopted exactly if the claim is that import's.
            let same = claim.is_some_and(|c| c.generation == key.generation && c.epoch == key.epoch);
            if basis == Basis::Take(Kind::Own) && same && !self.renew.contains_key(&id) {
                let served = claim.is_some_and(|claim| claim.serving) || self.partner_member().is_some();
                let next = if served {
                    State::Publishing { key, out: false }
                } else {
                    State::LeaseWait { key }
                };
                self.set_state(now, id, next);
                return true;
            }
            if self.claims_known() || self.partner_member().is_none() {
                self.stop_pool(
                    now,
                    id,
                    key.generation,
                    "it is imported and not claimed by this import",
                    false,
                );
            }
            return false;
        }
        let Basis::Take(kind) = basis else { return false };
        // A vote of mine stands: the record that counts may be another than the one that is known.
        if self.arbiter.voted() || !self.ballots_known() {
            return false;
        }
        if self.leaving {
            return self.step_leaving(now, id, kind);
        }
        if self.renew.contains_key(&id) {
            return false;
        }
        if now < pool.retry_at {
            let retry_at = pool.retry_at;
            self.wake_at(retry_at);
            return false;
        }
        let key = ReservationKey {
            controller: self.me(),
            epoch: self.record().epoch,
            generation: self.next_generation(id),
        };
        if self.partner_member().is_some() {
            let seen = self.partner_claim(id).map(|claim| order(&claim));
            if let Some(pool) = self.pools.get_mut(&id) {
                pool.seen = seen;
            }
            self.claim(
                id,
                key.generation,
                key.epoch,
                ClaimState::Held,
                self.placed(id, kind),
            );
            let version = self.claims.sequence;
            self.set_state(
                now,
                id,
                State::Claiming {
                    key,
                    kind,
                    evidence: None,
                    version,
                },
            );
        } else {
            self.fence_pool(now, id, key, kind, false);
        }
        true
    }

    /// Nothing new is begun by one who leaves; what it was given or holds unserved it passes on.
    fn step_leaving(&mut self, now: Instant, id: PoolId, kind: Kind) -> bool {
        match kind {
            Kind::Released(_) if self.partner_ready() => {
                let (generation, epoch) = (self.next_generation(id), self.record().epoch);
                self.claim(id, generation, epoch, ClaimState::Declined, false);
                true
            }
            Kind::Own | Kind::Unowned if self.partner_ready() => {
                self.give(now, id, false);
                true
            }
            Kind::Own | Kind::Unowned | Kind::Released(_) | Kind::Fenced => false,
        }
    }

    fn step_verifying(
        &mut self,
        now: Instant,
        id: PoolId,
        key: ReservationKey,
        kind: Kind,
        stamp: u64,
    ) -> bool {
        if self.claims_read().is_none_or(|read| read < stamp) {
            return false;
        }
        let theirs = self.partner_claim(id).map(|claim| order(&claim));
        // A gift by wire is followed by the same on the disks.
        let gift = |given: Generation| {
            theirs.is_some_and(|(_, at, state)| (at, state) == (given, ClaimState::Given))
        };
        let expected = matches!(kind, Kind::Released(given) if gift(given));
        let moved = !expected && self.pools.get(&id).is_some_and(|pool| pool.seen != theirs);
        if moved {
            // It has claimed, given or taken back as well. The one that sees it yields, and says so.
            let generation = self.next_generation(id);
            self.claim(id, generation, key.epoch, ClaimState::Declined, false);
            self.failed(
                now,
                id,
                "the partner has said something else about it meanwhile".into(),
            );
            self.set_state(now, id, State::Idle);
        } else {
            self.fence_pool(now, id, key, kind, true);
        }
        true
    }

    fn fence_pool(&mut self, now: Instant, id: PoolId, key: ReservationKey, kind: Kind, claimed: bool) {
        let victim = match kind {
            Kind::Own | Kind::Unowned => None,
            Kind::Released(_) | Kind::Fenced => Some(self.me().partner()),
        };
        let outcome = (!self.params.reservation_rung).then_some(false);
        if outcome.is_none() {
            self.emit(Effect::FencePool {
                pool: id,
                key,
                victim,
            });
        }
        self.set_state(
            now,
            id,
            State::Fencing {
                key,
                kind,
                claimed,
                outcome,
            },
        );
    }

    /// First confirmed rung wins; reservations are taken in any case, because the new owner needs its own.
    fn step_fencing(
        &mut self,
        now: Instant,
        id: PoolId,
        key: ReservationKey,
        kind: Kind,
        claimed: bool,
        outcome: Option<bool>,
    ) -> bool {
        let Some(reserved) = outcome else { return false };
        // Disks that know no reservations cannot be asked for one; claims and the other rungs have to do.
        let sole = reserved || !self.params.reservation_rung;
        let evidence = match kind {
            Kind::Own => sole.then_some(Evidence::Own),
            Kind::Unowned => sole.then_some(Evidence::Unowned),
            Kind::Released(generation) => sole.then_some(Evidence::Released { generation }),
            Kind::Fenced => self.fence_evidence(reserved, sole),
        };
        let Some(evidence) = evidence else {
            if let Some(at) = self.wait_deadline() {
                self.wake_at(at);
            }
            let retry_at = self.pools.get(&id).map_or(now, |pool| pool.retry_at);
            if sole || now < retry_at {
                self.wake_at(retry_at.max(now + self.params.timing.beat));
                return false;
            }
            if self.pass_on_gift(now, id, kind) {
                return true;
            }
            self.fence_pool(now, id, key, kind, claimed);
            return false;
        };
        let rung = match evidence {
            Evidence::Reserved { .. } | Evidence::Own | Evidence::Unowned | Evidence::Released { .. } => {
                "reservations"
            }
            Evidence::PowerOff { .. } => "power",
            Evidence::Waited { .. } => "waiting",
            Evidence::Rebooted { victim, .. } if self.partner.incarnation > victim.incarnation => "reboot",
            Evidence::Rebooted { .. } => "good-bye",
        };
        if claimed && !self.may_take(now) {
            return false;
        }
        self.emit(Effect::Note(Note::Fenced { pool: Some(id), rung }));
        if claimed {
            self.take(now, id, key, evidence);
        } else {
            self.claim(
                id,
                key.generation,
                key.epoch,
                ClaimState::Held,
                self.placed(id, kind),
            );
            let version = self.claims.sequence;
            self.set_state(
                now,
                id,
                State::Claiming {
                    key,
                    kind,
                    evidence: Some(evidence),
                    version,
                },
            );
        }
        true
    }

    /// A gift that cannot be taken goes back, so that the giver resumes.
    fn pass_on_gift(&mut self, now: Instant, id: PoolId, kind: Kind) -> bool {
        let failures = self.pools.get(&id).map_or(0, |pool| pool.failures);
        let back = matches!(kind, Kind::Released(_)) && failures >= 3 && self.partner_ready();
        if back {
            self.give(now, id, false);
        }
        back
    }

    fn fence_evidence(&self, reserved: bool, sole: bool) -> Option<Evidence> {
        if self.victim_unknown() {
            return None;
        }
        let (victim, epoch) = (self.victim(), self.record().epoch);
        if victim.incarnation.get() == 0 {
            return sole.then_some(Evidence::Unowned);
        }
        if self.rebooted() {
            Some(Evidence::Rebooted { victim, epoch })
        } else if self.powered_off() {
            Some(Evidence::PowerOff { victim, epoch })
        } else if reserved && self.params.reservation_rung {
            Some(Evidence::Reserved { victim, epoch })
        } else {
            self.waited().then_some(Evidence::Waited { victim, epoch })
        }
    }

    fn step_serving(&mut self, now: Instant, id: PoolId, key: ReservationKey) -> bool {
        let basis = self.basis(id);
        let mine = self
            .claims
            .pools
            .get(&id)
            .is_some_and(|claim| claim.generation == key.generation);
        let known = self.claims_known() || self.partner_member().is_none();
        if self.member() && (!mine || known && basis != Basis::Take(Kind::Own)) {
            self.stop_pool(
                now,
                id,
                key.generation,
                "the claim that counts is not this controller's",
                false,
            );
            return true;
        }
        let Some(pool) = self.pools.get(&id) else {
            return false;
        };
        let leaving = self.leaving.then_some(Cause::Leaving);
        let asked = self.asks_me(id).then_some(Cause::Asked);
        let home = self.goes_home(now, id).then_some(Cause::Home);
        let Some(cause) = leaving.or(pool.release).or(asked).or(home) else {
            return false;
        };
        // Who shuts down lets go of it whether or not somebody is there to take it.
        if !self.partner_ready() && self.wishes.shutdown.is_none() {
            if let Some(pool) = self.pools.get_mut(&id) {
                pool.release = None;
            }
            return false;
        }
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.release = None;
            pool.abort = false;
            if cause == Cause::Home {
                pool.sent_home.push(now);
            }
        }
        self.set_serving(id, false);
        self.emit(Effect::ReleasePool { pool: id, key });
        self.set_state(now, id, State::Releasing { key, cause });
        true
    }

    /// Everything is whole and quiet, and no person has put this pool here.
    pub(crate) fn goes_home(&self, now: Instant, id: PoolId) -> bool {
        let Some(pool) = self.pools.get(&id) else {
            return false;
        };
        let timing = &self.params.timing;
        // Where a person has put it, it stays for as long as the epoch lasts in which it was put there.
        let epoch = self.record().epoch;
        let placed = self
            .claims
            .pools
            .get(&id)
            .is_some_and(|claim| claim.placed && claim.epoch == epoch);
        let quiet = self.wire_sight.0 == WireSight::Alive
            && now.since(self.wire_sight.1.max(self.decided_at)) >= timing.giveback_after
            && !self.flapping(now);
        // Ping-pong guard: a pool that was sent home twice of late stays where it works (P15).
        let recent = pool
            .sent_home
            .iter()
            .filter(|at| now.since(**at) < timing.flap_window)
            .count();
        self.params.auto_giveback
            && pool.home != self.me()
            && !placed
            && quiet
            && recent < 2
            && !self.leaving
            && self.partner_ready()
    }

    // ---- asking and being asked -----------------------------------------------------------------------------

    fn asks_me(&self, id: PoolId) -> bool {
        self.wire_sight.0 == WireSight::Alive && self.mail().is_some_and(|letter| letter.asks.contains(&id))
    }

    fn note_ask(&mut self, now: Instant, id: PoolId) {
        let asked = self.asks_me(id) && self.member();
        let mine = matches!(self.basis(id), Basis::Take(Kind::Own | Kind::Unowned));
        let ready = self.partner_ready();
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let unserved =
            asked && mine && !matches!(pool.state, State::Serving { .. } | State::Releasing { .. });
        if !unserved {
            pool.asked_since = None;
            return;
        }
        pool.asked_since.get_or_insert(now);
        if !ready {
            return;
        }
        let state = pool.state.clone();
        match state {
            State::Idle if self.imported(id).is_none() => self.give(now, id, false),
            State::Claiming { .. } | State::Verifying { .. } | State::Fencing { .. } => {
                self.call_back(now, id, true);
            }
            State::LeaseWait { key } | State::Publishing { key, .. } => {
                self.stop_pool(
                    now,
                    id,
                    key.generation,
                    "the partner asks for it and it is not served here",
                    true,
                );
            }
            // Their ends are awaited, for Y at the most.
            State::Idle | State::Importing { .. } | State::Resuming { .. } | State::Stopping { .. } => {}
            State::Serving { .. } | State::Releasing { .. } | State::Giving { .. } | State::Given { .. } => {}
        }
    }

    /// A pool that the partner has asked for in vain: this controller is sick (K15).
    pub(crate) fn ignored_ask(&self, now: Instant) -> Option<PoolId> {
        let limit = self.params.timing.ask_limit;
        let ignored = |pool: &Pool| pool.asked_since.is_some_and(|since| now.since(since) >= limit);
        self.pools
            .iter()
            .find(|(_, pool)| ignored(pool))
            .map(|(id, _)| *id)
    }

    fn watch_partner_pool(&mut self, now: Instant, id: PoolId) {
        let top = self.top_claim(id);
        let theirs = self.partner_member();
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let unserved = theirs.is_some()
            && match top {
                Some((who, claim)) if who != self.params.controller => {
                    let held = claim.state == ClaimState::Held && Some(claim.incarnation) == theirs;
                    let home = Some(claim.incarnation) != theirs && pool.home != self.params.controller;
                    held && !claim.serving || home
                }
                Some(_) => false,
                None => pool.home != self.params.controller,
            };
        if unserved {
            pool.unserved_since.get_or_insert(now);
        } else {
            pool.unserved_since = None;
        }
        if matches!(pool.state, State::Serving { .. })
            || pool
                .ask
                .is_some_and(|at| now.since(at) >= self.params.timing.ask_limit)
        {
            pool.ask = None;
        }
    }

    pub(crate) fn asks(&self, now: Instant) -> Vec<PoolId> {
        let limit = self.params.timing.unserved_limit;
        let able = self.member() && self.role() == Role::Serving && self.partner_member().is_some();
        let wanted = |pool: &Pool| {
            pool.ask.is_some() || pool.unserved_since.is_some_and(|since| now.since(since) >= limit)
        };
        let ids = self
            .pools
            .iter()
            .filter(|(_, pool)| able && wanted(pool))
            .map(|(id, _)| *id);
        ids.take(LETTER_MAX).collect()
    }

    /// What was given and cannot be told by the disks, because they are out of reach.
    pub(crate) fn gifts(&self, now: Instant) -> Vec<(PoolId, Generation)> {
        if self.shelf(now) == ShelfSight::Reachable {
            return Vec::new();
        }
        let given = self.pools.iter().filter_map(|(id, pool)| match pool.state {
            State::Given { generation } => Some((*id, generation)),
            _ => None,
        });
        given.take(LETTER_MAX).collect()
    }

    /// What is served here, for a partner that cannot read it on the disks. Which ones, if there are too many for one
    /// datagram, goes by its number.
    pub(crate) fn holdings(&self, sequence: u64) -> Vec<(PoolId, Epoch, Generation)> {
        let blind = self.partner.advert.is_some_and(|advert| !advert.shelf);
        if !blind || self.partner_member() != Some(self.partner.incarnation) {
            return Vec::new();
        }
        // Published under a claim that is durable: it is said nowhere before the disks say it.
        let serving = self.pools.iter().filter_map(|(id, pool)| match pool.state {
            State::Serving { key } => Some((*id, key.epoch, key.generation)),
            _ => None,
        });
        let serving: Vec<_> = serving.collect();
        let turns = serving.len().div_ceil(HOLDINGS_MAX).max(1) as u64;
        let first = (sequence % turns) as usize * HOLDINGS_MAX;
        serving.into_iter().skip(first).take(HOLDINGS_MAX).collect()
    }

    /// Everything that could be given has been taken over by a claim; what nobody is there to take is exported. Who stops
    /// sooner makes the receiver fence what it was given, or whoever comes next what was not exported.
    pub(crate) fn shutdown_done(&self, now: Instant) -> bool {
        let Some(since) = self.wishes.shutdown else {
            return false;
        };
        let ready = self.partner_ready();
        let busy = |pool: &Pool| match pool.state {
            State::Idle => false,
            State::Giving { .. } | State::Given { .. } => ready,
            _ => true,
        };
        let left = self.pools.values().any(busy);
        !left || now.since(since) >= self.params.timing.ask_limit
    }

    /// Nothing is imported here, or on its way to be, or may be still.
    pub(crate) fn let_go(&self) -> bool {
        let quiet = |pool: &Pool| {
            matches!(
                pool.state,
                State::Idle | State::Giving { .. } | State::Given { .. }
            )
        };
        self.imports.as_ref().is_some_and(BTreeMap::is_empty) && self.pools.values().all(quiet)
    }

    // ---- port groups ----------------------------------------------------------------------------------------

    fn route(&mut self, id: PoolId) {
        let reachable = self.partner_member().is_some() && self.wire_sight.0 == WireSight::Alive;
        let top = self.top_claim(id);
        let (member, theirs) = (self.member(), self.partner_member());
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let role = match (&pool.state, member, top) {
            (_, false, _) => alua::Role::Nobody,
            (State::Serving { .. }, true, _) => alua::Role::Owner,
            (State::Idle, true, Some((who, claim)))
                if who != self.params.controller && Some(claim.incarnation) == theirs =>
            {
                if claim.state == ClaimState::Held {
                    alua::Role::Partner
                } else {
                    alua::Role::Moving
                }
            }
            (State::Idle, true, _) => alua::Role::Nobody,
            (_, true, _) => alua::Role::Moving,
        };
        let (epoch, generation) = top.map_or((Epoch::new(0), Generation::new(0)), |(_, c)| {
            (c.epoch, c.generation)
        });
        let route = (role, epoch, generation, reachable);
        if pool.route != Some(route) {
            pool.route = Some(route);
            self.emit(Effect::Route {
                pool: id,
                epoch,
                generation,
                role,
                partner_reachable: reachable,
            });
        }
    }
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
