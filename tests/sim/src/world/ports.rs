//! The port groups of both controllers: the shipped machine, the target that it drives, and what hosts are told.

use super::*;
use pollux_alua_core::Groups;
use pollux_api::target::{Access, Backing, Flip, PoolPaths};

/// How often the machine looks at its target.
const LOOK: u64 = 250 * MS;
/// Longest drain.
const DRAIN: u64 = 2 * SEC;

/// One controller's port groups.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    groups: Groups,
    /// Lives of the daemon: what belongs to an earlier one does not happen any more.
    pub(crate) life: u32,
    /// What the target is, by pool.
    target: BTreeMap<PoolId, Flip>,
    /// Pools that are being driven.
    driven: BTreeSet<PoolId>,
    /// The partner is a member and answers on the wire, as heartbeat said last.
    pub(crate) reachable: bool,
}

impl Port {
    pub(crate) fn new(own: ControllerId) -> Self {
        Self {
            groups: Groups::new(own, Vec::new()),
            life: 0,
            target: BTreeMap::new(),
            driven: BTreeSet::new(),
            reachable: false,
        }
    }

    /// Everything of it is over.
    pub(crate) fn end(&mut self, own: ControllerId) {
        *self = Self {
            life: self.life + 1,
            ..Self::new(own)
        };
    }

    /// What hosts are told of both groups of a pool.
    pub(crate) fn told(&self, pool: usize) -> Option<&Flip> {
        self.target.get(&pool_id(pool))
    }
}

/// What a controller's target says of its own group.
pub(crate) fn own_access(flip: &Flip, c: usize) -> Access {
    [flip.access_a, flip.access_b][c]
}

impl World {
    /// The controller has started: daemon and target know nothing.
    pub(super) fn open_port(&mut self, c: usize) {
        self.nodes[c].port.end(id(c));
        let life = self.nodes[c].port.life;
        self.after(LOOK, Happening::PortLook { c, life });
    }

    /// The daemon dies; what it was told last stands in its record.
    pub(crate) fn crash_port(&mut self, c: usize, restart: u64) {
        if !self.nodes[c].up {
            return;
        }
        self.say(|| format!("{} port group daemon DIES", id(c)));
        let port = &mut self.nodes[c].port;
        port.life += 1;
        port.driven.clear();
        port.groups = Groups::new(id(c), port.groups.wanted());
        let life = port.life;
        self.after(restart, Happening::PortLook { c, life });
    }

    /// The target dies, and with it every path: a new one has nothing until it is told.
    pub(crate) fn crash_target(&mut self, c: usize) {
        if self.nodes[c].up {
            self.say(|| format!("{} target DIES", id(c)));
            self.nodes[c].port.target.clear();
        }
    }

    /// What a step of a pool's move makes of its port groups, before anything else is done or said about it.
    pub(super) fn assert_role(
        &mut self,
        c: usize,
        pool: usize,
        claim: (Epoch, Generation),
        role: alua::Role,
    ) {
        let reachable = self.nodes[c].port.reachable;
        let set = alua::Set {
            pool: pool_id(pool),
            epoch: claim.0,
            generation: claim.1,
            role,
            partner_reachable: reachable,
        };
        self.wished(c, set);
    }

    /// The pool is stopped: its port group answers nobody, whatever it was told last.
    pub(super) fn lower_role(&mut self, c: usize, pool: usize) {
        let wanted = self.nodes[c].port.groups.wanted();
        let wanted = wanted.into_iter().find(|set| set.pool == pool_id(pool));
        if let Some(set) = wanted {
            let set = alua::Set {
                role: alua::Role::Nobody,
                partner_reachable: false,
                ..set
            };
            self.wished(c, set);
        }
    }

    fn wished(&mut self, c: usize, set: alua::Set) {
        let pool = set.pool;
        if self.breakage.signs_left_up && set.role != alua::Role::Owner {
            return;
        }
        let port = &mut self.nodes[c].port;
        match port.groups.accept(set) {
            Ok(_) => {
                if let Some(plan) = port.groups.plan(pool) {
                    self.flip(c, plan.flip);
                }
            }
            Err(stale) => {
                self.say(|| format!("{} refuses a wish: {stale}", id(c)));
            }
        }
    }

    fn drive(&mut self, c: usize, pool: PoolId) {
        let port = &mut self.nodes[c].port;
        let Some(plan) = port.groups.plan(pool) else {
            return;
        };
        if !port.driven.insert(pool) {
            return;
        }
        let life = port.life;
        let mut span = self.span(100, 5_000);
        if plan.drain {
            let most = if self.rng.chance(100_000) { DRAIN } else { 10 * MS };
            span += self.rng.range(0, most);
        }
        let flip = plan.flip;
        self.after(span, Happening::Flip { c, life, flip });
    }

    /// The target takes a flip, or refuses one of an older claim.
    pub(super) fn flip(&mut self, c: usize, flip: Flip) {
        let pool = flip.pool;
        let port = &mut self.nodes[c].port;
        let claim = |flip: &Flip| (flip.epoch, flip.generation);
        let stale = port
            .target
            .get(&pool)
            .is_some_and(|stands| claim(stands) > claim(&flip));
        let result = if stale { Err("stale".to_owned()) } else { Ok(()) };
        if !stale {
            port.target.insert(pool, flip.clone());
        }
        port.groups.confirmed(&flip, result);
        port.driven.remove(&pool);
        if !stale {
            self.say(|| format!("{} target is {flip:?}", id(c)));
            self.fact(Fact::Told {
                pool: pool_number(pool),
            });
        }
        // What is wanted may have changed meanwhile: the newest counts.
        let newer = self.nodes[c]
            .port
            .groups
            .plan(pool)
            .is_some_and(|plan| plan.flip != flip);
        if newer && !stale {
            self.drive(c, pool);
        }
    }

    /// The machine looks at its target, and drives again what has gone astray.
    pub(super) fn port_look(&mut self, c: usize, life: u32) {
        self.after(LOOK, Happening::PortLook { c, life });
        let port = &mut self.nodes[c].port;
        let report = |flip: &Flip| PoolPaths {
            pool: flip.pool,
            epoch: flip.epoch,
            generation: flip.generation,
            backing: flip.backing,
            access_a: flip.access_a,
            access_b: flip.access_b,
            held: 0,
            volumes: Vec::new(),
        };
        let reports: Vec<PoolPaths> = port.target.values().map(report).collect();
        for pool in port.groups.observe(&reports) {
            self.drive(c, pool);
        }
    }

    /// The port groups of both controllers tell hosts the same of a pool, one of them optimized, and who does not serve
    /// it forwards to who does, under the claim that its owner serves by (I4).
    pub(crate) fn one_story(&self, pool: usize) -> Result<(), String> {
        let [a, b] = [A, B].map(|c| self.nodes[c].port.told(pool));
        let agree = a.zip(b).is_some_and(|(a, b)| {
            let access = |flip: &Flip| (flip.access_a, flip.access_b);
            let one = matches!(
                access(a),
                (Access::Optimized, Access::NonOptimized) | (Access::NonOptimized, Access::Optimized)
            );
            let forwarded = matches!(
                (a.backing, b.backing),
                (Backing::Local, Backing::Partner) | (Backing::Partner, Backing::Local)
            );
            let claim = |flip: &Flip| (flip.epoch, flip.generation);
            one && forwarded && access(a) == access(b) && claim(a) == claim(b)
        });
        if agree {
            Ok(())
        } else {
            Err(format!(
                "the port groups of pool {pool} differ: a says {a:?}, b says {b:?}"
            ))
        }
    }

    /// The claim under which a controller's target serves or forwards a pool.
    #[cfg(test)]
    pub(crate) fn claim(&self, c: usize, pool: usize) -> Option<(Epoch, Generation)> {
        let told = self.nodes[c].port.told(pool);
        told.map(|flip| (flip.epoch, flip.generation))
    }
}
