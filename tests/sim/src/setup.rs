//! What one play is made of: how the array is built, and which trapdoors the seed may open. Swarm style (Groce et al.,
//! 2012): each run has a random few kinds of faults at random rates, for what never meets does not fight.

use crate::rng::Rng;
use crate::swarm::Kind;
use crate::world::{Link, MS, SEC};
use pollux_config_core::keeper::KEPT;
use pollux_heartbeat_core::Profile;

/// A pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSpec {
    /// 0: a, 1: b.
    pub(crate) home: usize,
    /// Mirror legs.
    pub(crate) legs: usize,
}

/// The array and its weather.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) profile: Profile,
    pub(crate) quorum_disks: usize,
    /// Disks that may take the place of quorum disks.
    pub(crate) spares: usize,
    pub(crate) pools: Vec<PoolSpec>,
    /// Each controller has a watchdog.
    pub(crate) watchdog: [bool; 2],
    /// Clocks may stand still unnoticed (virtual machines).
    pub(crate) pausable: bool,
    /// There is a power control.
    pub(crate) power_rung: bool,
    /// The pools' disks implement reservations.
    pub(crate) reservations: bool,
    /// Reservations survive the loss of the shelf's power.
    pub(crate) aptpl: bool,
    pub(crate) auto_giveback: bool,
    /// Whoever finds a controller switched off by its partner switches it on again, some time.
    pub(crate) repower: bool,
    pub(crate) clock_ppm: [i64; 2],
    /// The wire when nothing has struck it.
    pub(crate) link: Link,
    /// Quorum blocks read wrong, per million.
    pub(crate) flaky: u64,
    /// Stalls between a decision and its deeds, per million events.
    pub(crate) stall_midway: u64,
    /// A deadline is met so much late, at most.
    pub(crate) lateness: u64,
    /// Steps of the pool manager that fail, per million.
    pub(crate) pool_failures: u64,
    /// Steps of the pool manager take so much longer, at most.
    pub(crate) pool_slowness: u64,
    /// Commands to data disks take so much longer, at most.
    pub(crate) leg_slowness: u64,
    pub(crate) boot_time: (u64, u64),
    /// Longest idle time of a host's stream.
    pub(crate) host_idle: u64,
    /// Longest time between two changes of the configuration.
    pub(crate) change_idle: u64,
    /// Entries of the log that a keeper keeps.
    pub(crate) keep: u64,
    pub(crate) faults: Vec<Kind>,
    /// Longest time between two faults.
    pub(crate) fault_idle: u64,
    /// Longest time that a fault lasts.
    pub(crate) fault_span: u64,
    /// The time of faults.
    pub(crate) length: u64,
}

impl Setup {
    /// For directed plays. Fine weather: three quorum disks, two pools of two legs, every rung.
    #[cfg(test)]
    pub(crate) fn fine() -> Self {
        Self {
            profile: Profile::Fast,
            quorum_disks: 3,
            spares: 0,
            pools: vec![PoolSpec { home: 0, legs: 2 }, PoolSpec { home: 1, legs: 2 }],
            watchdog: [true; 2],
            pausable: false,
            power_rung: true,
            reservations: true,
            aptpl: true,
            auto_giveback: true,
            repower: false,
            clock_ppm: [0; 2],
            link: Link::default(),
            flaky: 0,
            stall_midway: 0,
            lateness: MS,
            pool_failures: 0,
            pool_slowness: 0,
            leg_slowness: 0,
            boot_time: (2 * SEC, 3 * SEC),
            host_idle: 200 * MS,
            change_idle: 2 * SEC,
            keep: KEPT,
            faults: Vec::new(),
            fault_idle: SEC,
            fault_span: SEC,
            length: 0,
        }
    }

    /// What is there from beginning to end and is not fine, by name.
    pub(crate) fn weather(&self) -> [(&'static str, bool); 17] {
        [
            ("datagrams are lost", self.link.loss > 0),
            ("datagrams come twice", self.link.double > 0),
            ("datagrams come late", self.link.delay > 0),
            ("datagrams come again", self.link.replay > 0),
            ("blocks are read wrong", self.flaky > 0),
            ("stalls between decision and deed", self.stall_midway > 0),
            ("pool manager fails", self.pool_failures > 0),
            ("pool manager is slow", self.pool_slowness > 0),
            ("data disks are slow", self.leg_slowness > 0),
            ("a watchdog is missing", self.watchdog.contains(&false)),
            ("no power control", !self.power_rung),
            ("no reservations", !self.reservations),
            ("volatile reservations", !self.aptpl),
            ("one quorum disk", self.quorum_disks == 1),
            ("pools stay", !self.auto_giveback),
            ("logs are let go", self.keep < KEPT),
            ("clocks differ", self.clock_ppm[0] != self.clock_ppm[1]),
        ]
    }

    /// What the seed makes of it.
    pub(crate) fn swarm(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5e7_u64.rotate_left(40));
        let mut some = |ppm: u64, value: u64| if rng.chance(ppm) { value } else { 0 };
        let few = 300_000;
        let link = Link {
            cut: false,
            loss: some(few, 100_000),
            double: some(few, 100_000),
            delay: some(few, 150 * MS),
            replay: some(few, 20_000),
        };
        let flaky = some(few, 20_000);
        let stall_midway = some(150_000, 300);
        let pool_failures = some(few, 150_000);
        let pool_slowness = some(few, 2 * SEC);
        let leg_slowness = some(few, 100 * MS);
        let pools = (0..rng.range(1, 3))
            .map(|_| PoolSpec {
                home: rng.index(2),
                legs: rng.range(1, 3) as usize,
            })
            .collect();
        let mut faults: Vec<Kind> = Kind::ALL.into_iter().filter(|_| rng.chance(350_000)).collect();
        if faults.is_empty() {
            faults.push(Kind::ALL[rng.index(Kind::ALL.len())]);
        }
        let replaced = faults.contains(&Kind::QuorumReplace);
        let ppm = |rng: &mut Rng| rng.range(0, 20_000) as i64 - 10_000;
        Self {
            profile: match rng.below(10) {
                0 => Profile::Safe,
                1 => Profile::Ci,
                _ => Profile::Fast,
            },
            quorum_disks: if rng.chance(250_000) { 1 } else { 3 },
            spares: if replaced { 2 } else { 0 },
            pools,
            watchdog: [rng.chance(850_000), rng.chance(850_000)],
            pausable: false,
            power_rung: rng.chance(700_000),
            reservations: rng.chance(850_000),
            aptpl: rng.chance(500_000),
            auto_giveback: rng.chance(850_000),
            repower: true,
            clock_ppm: [ppm(&mut rng), ppm(&mut rng)],
            link,
            flaky,
            stall_midway,
            lateness: rng.range(100_000, 20 * MS),
            pool_failures,
            pool_slowness,
            leg_slowness,
            boot_time: if rng.chance(300_000) {
                (300 * MS, 2 * SEC)
            } else {
                (2 * SEC, 10 * SEC)
            },
            host_idle: rng.range(100 * MS, 800 * MS),
            change_idle: rng.range(500 * MS, 5 * SEC),
            // So few in every second play that what somebody missed is gone when he comes back.
            keep: if seed % 2 == 1 { seed / 2 % 4 } else { KEPT },
            faults,
            fault_idle: rng.range(400 * MS, 6 * SEC),
            fault_span: rng.range(200 * MS, 20 * SEC),
            length: rng.range(10 * SEC, 40 * SEC),
        }
    }
}
