//! The port-group machine: from a role to what the target has to be. No I/O, no clock.
//!
//! | role | own group | partner's group | commands go |
//! |---|---|---|---|
//! | owner, partner reachable | optimized | non-optimized | to the local pool |
//! | owner, partner silent | optimized | unavailable | to the local pool |
//! | partner, reachable | non-optimized | optimized | to the partner |
//! | partner, silent | unavailable | optimized | nowhere: refused at once, hosts use the other port |
//! | moving | transitioning | transitioning | nowhere: held |
//! | nobody | unavailable | unavailable | nowhere: refused at once |
//!
//! A move drains first: what is below must have ended before the pool may go.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use pollux_api::alua::{Group, Role, Set};
use pollux_api::id::{ControllerId, Epoch, Generation, PoolId};
use pollux_api::target::{Access, Backing, Flip, PoolPaths};

/// What the target has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Hold and drain before the flip.
    pub drain: bool,
    /// The flip.
    pub flip: Flip,
}

/// Looks at the target ([`Groups::observe`]) for which a port whose owner has fallen silent holds commands before it
/// calls itself unavailable: 20 looks, 250 ms apart, 5 s in all. A takeover ends in less, and a host that was told
/// `unavailable` comes back only when its own checker looks again, which takes longer than the takeover itself.
pub const PATIENCE: u32 = 20;

/// What `own` has to tell its target for a role; `patient`: the partner may only just have fallen silent.
#[must_use]
pub fn plan(own: ControllerId, set: &Set, patient: bool) -> Plan {
    let (backing, mine, theirs) = match (set.role, set.partner_reachable) {
        (Role::Owner, true) => (Backing::Local, Access::Optimized, Access::NonOptimized),
        (Role::Owner, false) => (Backing::Local, Access::Optimized, Access::Unavailable),
        (Role::Partner, true) => (Backing::Partner, Access::NonOptimized, Access::Optimized),
        (Role::Partner, false) if patient => (Backing::None, Access::Transitioning, Access::Transitioning),
        (Role::Partner, false) => (Backing::None, Access::Unavailable, Access::Optimized),
        (Role::Moving, _) => (Backing::None, Access::Transitioning, Access::Transitioning),
        (Role::Nobody, _) => (Backing::None, Access::Unavailable, Access::Unavailable),
    };
    let (access_a, access_b) = match own {
        ControllerId::A => (mine, theirs),
        ControllerId::B => (theirs, mine),
    };
    let flip = Flip {
        pool: set.pool,
        epoch: set.epoch,
        generation: set.generation,
        backing,
        access_a,
        access_b,
    };
    Plan {
        drain: set.role == Role::Moving,
        flip,
    }
}

/// Asked under an older claim than one that was followed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// What was asked under.
    pub asked: (Epoch, Generation),
    /// What stands.
    pub stands: (Epoch, Generation),
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((epoch, generation), (epoch_stands, generation_stands)) = (self.asked, self.stands);
        write!(
            f,
            "claim (epoch {epoch}, generation {generation}) is older than (epoch {epoch_stands}, generation \
             {generation_stands}), which stands"
        )
    }
}

impl core::error::Error for Stale {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    wanted: Set,
    /// What the target says that it is.
    seen: Option<Flip>,
    problem: Option<String>,
    /// Looks that are left before a port whose owner is silent calls itself unavailable.
    patience: u32,
}

impl Pool {
    fn new(wanted: Set) -> Self {
        Self {
            wanted,
            seen: None,
            problem: None,
            patience: PATIENCE,
        }
    }

    fn plan(&self, own: ControllerId) -> Plan {
        // Only an owner has commands of its own below; those that were forwarded are taken back by the flip.
        let mut plan = plan(own, &self.wanted, self.patience > 0);
        plan.drain &= self
            .seen
            .as_ref()
            .is_none_or(|seen| seen.backing == Backing::Local);
        plan
    }
}

/// The port groups of every pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    own: ControllerId,
    pools: BTreeMap<PoolId, Pool>,
}

fn claim(set: &Set) -> (Epoch, Generation) {
    (set.epoch, set.generation)
}

impl Groups {
    /// Groups of controller `own`, with what was wanted before a restart.
    #[must_use]
    pub fn new(own: ControllerId, wanted: Vec<Set>) -> Self {
        let pool = |wanted: Set| (wanted.pool, Pool::new(wanted));
        Self {
            own,
            pools: wanted.into_iter().map(pool).collect(),
        }
    }

    /// Takes what is wanted from now on. True: it is another wish than before.
    ///
    /// # Errors
    /// [`Stale`]; nothing is changed.
    pub fn accept(&mut self, set: Set) -> Result<bool, Stale> {
        let pool = self
            .pools
            .entry(set.pool)
            .or_insert_with(|| Pool::new(set.clone()));
        if claim(&set) < claim(&pool.wanted) {
            return Err(Stale {
                asked: claim(&set),
                stands: claim(&pool.wanted),
            });
        }
        let changed = pool.wanted != set || pool.seen.is_none();
        if pool.wanted != set {
            pool.patience = PATIENCE;
        }
        pool.wanted = set;
        Ok(changed)
    }

    /// Everything that is wanted, to be kept over a restart.
    #[must_use]
    pub fn wanted(&self) -> Vec<Set> {
        self.pools.values().map(|pool| pool.wanted.clone()).collect()
    }

    /// What the target has to be told for a pool.
    #[must_use]
    pub fn plan(&self, pool: PoolId) -> Option<Plan> {
        self.pools.get(&pool).map(|pool| pool.plan(self.own))
    }

    /// The target has confirmed a flip, or said why not.
    pub fn confirmed(&mut self, flip: &Flip, result: Result<(), String>) {
        let Some(pool) = self.pools.get_mut(&flip.pool) else {
            return;
        };
        match result {
            Ok(()) => {
                pool.seen = Some(flip.clone());
                pool.problem = None;
            }
            Err(why) => pool.problem = Some(why),
        }
    }

    /// The target reports what it is: pools that have to be driven again.
    ///
    /// A pool under the right claim whose commands are held (transitioning) is left alone: somebody is at work.
    pub fn observe(&mut self, reports: &[PoolPaths]) -> Vec<PoolId> {
        let mut astray = Vec::new();
        for (id, pool) in &mut self.pools {
            let report = reports.iter().find(|report| report.pool == *id);
            pool.seen = report.map(|report| Flip {
                pool: *id,
                epoch: report.epoch,
                generation: report.generation,
                backing: report.backing,
                access_a: report.access_a,
                access_b: report.access_b,
            });
            pool.patience = pool.patience.saturating_sub(1);
            let wanted = pool.plan(self.own).flip;
            let held = |seen: &Flip| {
                let access = (seen.access_a, seen.access_b);
                // A route that leads nowhere is not a hold on the way to the same route.
                access == (Access::Transitioning, Access::Transitioning)
                    && wanted.backing != Backing::None
                    && (seen.epoch, seen.generation, seen.backing)
                        == (wanted.epoch, wanted.generation, wanted.backing)
            };
            if pool
                .seen
                .as_ref()
                .is_none_or(|seen| *seen != wanted && !held(seen))
            {
                astray.push(*id);
            }
        }
        astray
    }

    /// One line per pool.
    #[must_use]
    pub fn report(&self) -> Vec<Group> {
        let line = |pool: &Pool| {
            let wanted = pool.plan(self.own).flip;
            let shown = pool.seen.as_ref().unwrap_or(&wanted);
            Group {
                wanted: pool.wanted.clone(),
                access_a: shown.access_a,
                access_b: shown.access_b,
                settled: pool.seen.as_ref() == Some(&wanted),
                problem: pool.problem.clone(),
            }
        };
        self.pools.values().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    const POOL: PoolId = PoolId::from_bytes([7; 16]);

    pub(crate) fn set(generation: u64, role: Role, partner_reachable: bool) -> Set {
        let (epoch, generation) = (Epoch::new(1), Generation::new(generation));
        Set {
            pool: POOL,
            epoch,
            generation,
            role,
            partner_reachable,
        }
    }

    fn seen(flip: &Flip) -> PoolPaths {
        PoolPaths {
            pool: flip.pool,
            epoch: flip.epoch,
            generation: flip.generation,
            backing: flip.backing,
            access_a: flip.access_a,
            access_b: flip.access_b,
            held: 0,
            volumes: Vec::new(),
        }
    }

    #[test]
    fn owner_and_partner_tell_the_same_tale() {
        for owner in ControllerId::ALL {
            for reachable in [true, false] {
                let here = plan(owner, &set(1, Role::Owner, reachable), false).flip;
                let there = plan(owner.partner(), &set(1, Role::Partner, reachable), false).flip;
                let of = |flip: &Flip| [flip.access_a, flip.access_b];
                assert_eq!(of(&here)[owner.index()], Access::Optimized);
                assert_eq!(of(&there)[owner.index()], Access::Optimized);
                // With a silent partner both know of the other port only that it cannot be used.
                assert_eq!(of(&here), of(&there));
                assert_eq!(here.backing, Backing::Local);
                assert_eq!(
                    there.backing,
                    if reachable {
                        Backing::Partner
                    } else {
                        Backing::None
                    }
                );
            }
        }
    }

    #[test]
    fn a_port_whose_owner_falls_silent_holds_for_a_while_and_is_unavailable_then() {
        let mut groups = Groups::new(ControllerId::B, Vec::new());
        groups.accept(set(1, Role::Partner, true)).expect("first");
        groups
            .accept(set(1, Role::Partner, false))
            .expect("the same claim");
        for look in 0..PATIENCE {
            let flip = groups.plan(POOL).expect("known").flip;
            let waits = (Backing::None, Access::Transitioning, Access::Transitioning);
            assert_eq!((flip.backing, flip.access_a, flip.access_b), waits, "look {look}");
            groups.observe(&[seen(&flip)]);
        }
        let flip = groups.plan(POOL).expect("known").flip;
        assert_eq!(
            (flip.access_a, flip.access_b),
            (Access::Optimized, Access::Unavailable)
        );
        let waiting = Flip {
            access_a: Access::Transitioning,
            access_b: Access::Transitioning,
            ..flip
        };
        assert_eq!(
            groups.observe(&[seen(&waiting)]),
            [POOL],
            "the target has to be told"
        );
    }

    #[test]
    fn only_an_owner_serves_locally_and_calls_itself_optimized() {
        for own in ControllerId::ALL {
            for role in [Role::Owner, Role::Partner, Role::Moving, Role::Nobody] {
                for reachable in [true, false] {
                    let plan = plan(own, &set(1, role, reachable), false);
                    let mine = [plan.flip.access_a, plan.flip.access_b][own.index()];
                    assert_eq!(mine == Access::Optimized, role == Role::Owner, "{role:?}");
                    assert_eq!(
                        plan.flip.backing == Backing::Local,
                        role == Role::Owner,
                        "{role:?}"
                    );
                    assert_eq!(plan.drain, role == Role::Moving, "{role:?}");
                }
            }
        }
    }

    #[test]
    fn an_older_claim_is_refused() {
        let mut groups = Groups::new(ControllerId::A, Vec::new());
        assert_eq!(groups.accept(set(5, Role::Owner, true)), Ok(true));
        let before = groups.clone();
        let stale = groups.accept(set(4, Role::Partner, true)).expect_err("older");
        assert!(stale.to_string().contains("generation 4"), "{stale}");
        assert_eq!(groups, before);
        assert_eq!(
            groups.accept(set(5, Role::Moving, true)),
            Ok(true),
            "the same claim may change its role"
        );
    }

    #[test]
    fn a_target_that_lost_its_state_is_driven_again_and_a_hold_is_left_alone() {
        let mut groups = Groups::new(ControllerId::A, vec![set(5, Role::Owner, true)]);
        assert_eq!(groups.observe(&[]), [POOL]);
        let flip = groups.plan(POOL).expect("known").flip;
        assert!(groups.observe(&[seen(&flip)]).is_empty());
        assert!(groups.report()[0].settled);
        let held = Flip {
            access_a: Access::Transitioning,
            access_b: Access::Transitioning,
            ..flip.clone()
        };
        assert!(groups.observe(&[seen(&held)]).is_empty(), "heartbeat holds it");
        assert!(!groups.report()[0].settled);
        let reset = Flip {
            generation: Generation::new(0),
            backing: Backing::None,
            ..held
        };
        assert_eq!(groups.observe(&[seen(&reset)]), [POOL]);
    }

    proptest! {
        /// Whatever is asked in whatever order: the claim that is followed never falls.
        #[test]
        fn claims_never_fall(asks in proptest::collection::vec((0_u64..6, 0_usize..4, any::<bool>()), 1..30)) {
            let mut groups = Groups::new(ControllerId::B, Vec::new());
            let mut highest = 0;
            for (generation, role, reachable) in asks {
                let role = [Role::Owner, Role::Partner, Role::Moving, Role::Nobody][role];
                let accepted = groups.accept(set(generation, role, reachable)).is_ok();
                prop_assert_eq!(accepted, generation >= highest);
                highest = highest.max(generation);
                let flip = groups.plan(POOL).expect("known").flip;
                prop_assert_eq!(flip.generation, Generation::new(highest));
            }
        }
    }
}
