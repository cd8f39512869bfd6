//! Faults at random: what strikes, for how long, and how it is mended.

use crate::quorum::BLOCKS as QUORUM_BLOCKS;
use crate::world::{A, B, Happening, Link, MS, SEC, World, first_set, nanos, pool_id, quorum_index};
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::event::Request;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    WireDead,
    WireOneWay,
    WireLossy,
    WireLate,
    WireFiltered,
    Misrouted,
    PowerCut,
    BothDie,
    Reset,
    Pause,
    LongPause,
    Halt,
    Saturation,
    Crash,
    KeeperCrash,
    KeeperLost,
    PortCrash,
    QuorumStuck,
    QuorumPath,
    QuorumSlow,
    QuorumDeaf,
    QuorumWedged,
    QuorumReadOnly,
    QuorumFlip,
    QuorumWipe,
    QuorumOld,
    QuorumReplace,
    StateLost,
    ShelfPath,
    DataPath,
    DataStuck,
    DataFull,
    Stranger,
    ShelfPower,
    PowerControl,
    PowerLate,
    Operator,
}

impl Kind {
    pub(crate) const ALL: [Self; 37] = [
        Self::WireDead,
        Self::WireOneWay,
        Self::WireLossy,
        Self::WireLate,
        Self::WireFiltered,
        Self::Misrouted,
        Self::PowerCut,
        Self::BothDie,
        Self::Reset,
        Self::Pause,
        Self::LongPause,
        Self::Halt,
        Self::Saturation,
        Self::Crash,
        Self::KeeperCrash,
        Self::KeeperLost,
        Self::PortCrash,
        Self::QuorumStuck,
        Self::QuorumPath,
        Self::QuorumSlow,
        Self::QuorumDeaf,
        Self::QuorumWedged,
        Self::QuorumReadOnly,
        Self::QuorumFlip,
        Self::QuorumWipe,
        Self::QuorumOld,
        Self::QuorumReplace,
        Self::StateLost,
        Self::ShelfPath,
        Self::DataPath,
        Self::DataStuck,
        Self::DataFull,
        Self::Stranger,
        Self::ShelfPower,
        Self::PowerControl,
        Self::PowerLate,
        Self::Operator,
    ];
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mend {
    Wire,
    Filter,
    Router,
    GoOn { c: usize },
    Saturation,
    PowerOn { c: usize, boot: u32 },
    Deaf { c: usize },
    Wedged { c: usize },
    ReadOnly { disk: usize },
    DataFull { disk: usize },
    QuorumPath { c: usize, disk: usize },
    QuorumSlow { disk: usize },
    ShelfPath { c: usize },
    DataPath { c: usize, disk: usize },
    ShelfPower,
    PowerControl { c: usize },
}

impl World {
    /// The time of faults begins.
    pub(crate) fn unleash(&mut self) {
        let span = self.rng.range(0, self.setup.fault_idle);
        self.after(span, Happening::Fault);
    }

    /// One database at a time, and not what nobody else holds.
    fn strike_database(&mut self, c: usize) {
        if self.may_lose_database(c) {
            let restart = self.rng.range(50 * MS, 2 * SEC);
            self.lose_database(c, restart);
        }
    }

    /// A fault strikes, and the next one is on its way.
    pub(crate) fn strike(&mut self) {
        if self.healed {
            return;
        }
        let Some(number) = self.storm.next(&mut self.rng) else {
            return;
        };
        let span = self.rng.range(0, self.setup.fault_idle);
        self.after(span, Happening::Fault);
        let kind = self.setup.faults[self.rng.index(self.setup.faults.len())];
        let c = self.rng.index(2);
        // Short faults are as interesting as long ones.
        let longest = self.rng.range(10 * MS, self.setup.fault_span);
        let span = self.rng.range(5 * MS, longest);
        let disk = self.rng.index(self.quorum.len());
        let data = self.rng.index(self.disks.len());
        let Some(halves) = self.storm.halves(number) else {
            return;
        };
        let span = span >> halves;
        let line = format!("FAULT {kind:?} on {c}, {} ms", span / MS);
        self.say(|| line.clone());
        let at = self.now as f64 / 1e9;
        self.storm
            .lines
            .insert(number, format!("{number} at {at:.3} s: {line}"));
        self.stats.faults += 1;
        self.stats.strikes(kind);
        match kind {
            Kind::WireDead => {
                self.links[A].cut = true;
                self.links[B].cut = true;
                self.after(span, Happening::Mend(Mend::Wire));
            }
            Kind::WireOneWay => {
                self.links[c].cut = true;
                self.after(span, Happening::Mend(Mend::Wire));
            }
            Kind::WireLossy => {
                self.links[c].loss = self.rng.range(10_000, 700_000);
                self.after(span, Happening::Mend(Mend::Wire));
            }
            Kind::WireLate => {
                self.links[c].delay = self.rng.range(10 * MS, 5 * SEC);
                self.after(span, Happening::Mend(Mend::Wire));
            }
            Kind::WireFiltered => {
                self.filtered = true;
                self.after(span, Happening::Mend(Mend::Filter));
            }
            Kind::Misrouted => {
                self.misrouted = self.rng.range(10_000, 400_000);
                self.after(span, Happening::Mend(Mend::Router));
            }
            Kind::PowerCut => self.dark(c, span),
            Kind::BothDie => {
                self.dark(A, span);
                let other = self.rng.range(5 * MS, longest);
                self.dark(B, other);
            }
            Kind::Reset => self.reset(c),
            Kind::Pause => {
                let most = nanos(self.timing.lease) * 3;
                let span = self.rng.range(MS, most);
                let pause = self.pause(c);
                self.after(span, Happening::Resume { c, pause });
            }
            Kind::LongPause => {
                let pause = self.pause(c);
                let span = self.rng.range(SEC, 40 * SEC);
                self.after(span, Happening::Resume { c, pause });
            }
            Kind::Halt => {
                self.halt(c);
                self.after(span, Happening::Mend(Mend::GoOn { c }));
            }
            Kind::Saturation => {
                self.saturated = true;
                self.after(span, Happening::Mend(Mend::Saturation));
            }
            Kind::Crash => {
                let restart = self.rng.range(MS, nanos(self.timing.wire_limit) / 2);
                let panics = self.rng.chance(500_000);
                let end = if panics { Self::panics } else { Self::crash };
                end(self, c, Some(restart));
            }
            Kind::KeeperCrash => {
                let restart = self.rng.range(50 * MS, 2 * SEC);
                self.crash_keeper(c, restart);
            }
            Kind::KeeperLost => self.strike_database(c),
            Kind::PortCrash => {
                self.crash_port(c, span);
                if self.rng.chance(500_000) {
                    self.crash_target(c);
                }
            }
            Kind::QuorumStuck => self.quorum[disk].stuck_until = self.now + span,
            Kind::QuorumPath => {
                self.quorum[disk].path[c] = false;
                self.after(span, Happening::Mend(Mend::QuorumPath { c, disk }));
            }
            Kind::QuorumSlow => {
                self.quorum[disk].slow = self.rng.range(MS, SEC);
                self.after(span, Happening::Mend(Mend::QuorumSlow { disk }));
            }
            Kind::QuorumDeaf => {
                self.deaf[c] = true;
                self.after(span, Happening::Mend(Mend::Deaf { c }));
            }
            Kind::QuorumWedged => {
                let at = self.rng.index(QUORUM_BLOCKS.len());
                let one = self.rng.chance(500_000);
                self.wedged[c] = if one {
                    &QUORUM_BLOCKS[at..=at]
                } else {
                    &QUORUM_BLOCKS
                };
                self.after(span, Happening::Mend(Mend::Wedged { c }));
            }
            Kind::QuorumReadOnly => {
                self.quorum[disk].read_only = true;
                self.after(span, Happening::Mend(Mend::ReadOnly { disk }));
            }
            // Only one disk loses what it holds: more is beyond any quorum.
            Kind::QuorumFlip if self.setup.quorum_disks > 1 => {
                let at = self.rng.index(QUORUM_BLOCKS.len());
                self.quorum[0].flip(ControllerId::ALL[c], QUORUM_BLOCKS[at], &mut self.rng);
            }
            Kind::QuorumWipe if self.setup.quorum_disks > 1 => self.quorum[0].wipe(),
            // The first time a copy is made, the next time it is what stands there: of what the others hold as well, for
            // a disk that forgets what it alone has confirmed is beyond any quorum, too.
            Kind::QuorumOld if self.setup.quorum_disks > 1 && self.settled_area() => {
                let present = self.quorum[0].copy();
                if let Some(copy) = self.copy.replace(present) {
                    self.quorum[0].restore(copy);
                    self.copy = None;
                }
            }
            Kind::QuorumFlip | Kind::QuorumWipe | Kind::QuorumOld => {}
            Kind::QuorumReplace => {
                let set = self.nodes[c].hint;
                let from = set.all().nth(self.rng.index(set.all().count()));
                let to = quorum_index(disk);
                if let Some(from) = from.map(|seat| seat.disk) {
                    self.ask(c, Request::ReplaceQuorumDisk { from, to });
                    // Two people at two controllers, at once.
                    if self.rng.chance(250_000) {
                        let to = quorum_index(self.rng.index(self.quorum.len()));
                        self.ask(1 - c, Request::ReplaceQuorumDisk { from, to });
                    }
                }
            }
            // One folder at a time: the partner's still says where the disks are.
            Kind::StateLost => {
                if self.nodes[1 - c].hint == self.record().disks {
                    self.nodes[c].hint = first_set(self.setup.quorum_disks);
                }
            }
            Kind::ShelfPath => {
                self.shelf_path(c, false);
                self.after(span, Happening::Mend(Mend::ShelfPath { c }));
            }
            Kind::DataPath => {
                self.disks[data].path[c] = false;
                self.after(span, Happening::Mend(Mend::DataPath { c, disk: data }));
            }
            Kind::DataStuck => self.disks[data].stuck_until = self.now + span,
            Kind::DataFull => {
                self.disks[data].full = true;
                self.after(span, Happening::Mend(Mend::DataFull { disk: data }));
            }
            Kind::Stranger => self.stranger_clears(data),
            Kind::ShelfPower => {
                self.shelf_fails();
                self.after(span, Happening::Mend(Mend::ShelfPower));
            }
            Kind::PowerControl => {
                self.bmc[c] = false;
                self.after(span, Happening::Mend(Mend::PowerControl { c }));
            }
            Kind::PowerLate => {
                self.bmc_slow[c] = self.rng.range(SEC, 30 * SEC);
                self.after(span, Happening::Mend(Mend::PowerControl { c }));
            }
            Kind::Operator => {
                let pool = pool_id(self.rng.index(self.setup.pools.len()));
                let request = match self.rng.below(8) {
                    0 => Request::Takeover,
                    1 => Request::Giveback(None),
                    2 => Request::Giveback(Some(pool)),
                    3 => Request::Abort(pool),
                    4 => Request::Shutdown { unserved: true },
                    _ => Request::Switchover(pool),
                };
                self.ask(c, request);
            }
        }
    }

    /// Every quorum disk holds the same ballots, claims and letters.
    fn settled_area(&mut self) -> bool {
        ControllerId::ALL.into_iter().all(|writer| {
            let set = self.record().disks;
            let said: Vec<_> = self
                .quorum
                .iter_mut()
                .filter(|disk| set.seat(disk.place.seat.disk) == Some(disk.place.seat))
                .map(|disk| disk.stands(writer))
                .map(|area| (area.vote, area.claims, area.letter))
                .collect();
            said.iter().all(|other| *other == said[0])
        })
    }

    fn dark(&mut self, c: usize, span: u64) {
        self.power_cut(c);
        let boot = self.nodes[c].boot;
        self.after(span, Happening::Mend(Mend::PowerOn { c, boot }));
    }

    pub(crate) fn shelf_path(&mut self, c: usize, works: bool) {
        self.say(|| format!("shelf path of {c} {}", if works { "works" } else { "LOST" }));
        for disk in &mut self.quorum {
            disk.path[c] = works;
        }
        for disk in &mut self.disks {
            disk.path[c] = works;
        }
    }

    /// A fault ends.
    pub(crate) fn mend(&mut self, mend: Mend) {
        self.say(|| format!("MENDED {mend:?}"));
        match mend {
            Mend::Wire => {
                self.links = [if self.healed {
                    Link::default()
                } else {
                    self.setup.link
                }; 2]
            }
            Mend::Filter => self.filtered = false,
            Mend::Router => self.misrouted = 0,
            Mend::GoOn { c } => self.go_on(c),
            Mend::Saturation => self.saturated = false,
            Mend::Deaf { c } => self.deaf[c] = false,
            Mend::Wedged { c } => self.wedged[c] = &[],
            Mend::ReadOnly { disk } => self.quorum[disk].read_only = false,
            Mend::DataFull { disk } => self.disks[disk].full = false,
            Mend::PowerOn { c, boot } => {
                if self.nodes[c].boot == boot {
                    self.power_on(c);
                }
            }
            Mend::QuorumPath { c, disk } => self.quorum[disk].path[c] = true,
            Mend::QuorumSlow { disk } => self.quorum[disk].slow = 0,
            Mend::ShelfPath { c } => self.shelf_path(c, true),
            Mend::DataPath { c, disk } => self.disks[disk].path[c] = true,
            Mend::ShelfPower => self.shelf_returns(),
            Mend::PowerControl { c } => {
                self.bmc[c] = true;
                self.bmc_slow[c] = 0;
            }
        }
    }

    /// Every fault ends, and whoever is down is started.
    pub(crate) fn heal(&mut self) {
        self.say(|| "HEALED".to_owned());
        self.healed = true;
        self.links = [Link::default(); 2];
        self.shelf_returns();
        for disk in &mut self.quorum {
            disk.path = [true; 2];
            disk.stuck_until = 0;
            disk.slow = 0;
            disk.flaky = 0;
            disk.read_only = false;
        }
        for disk in &mut self.disks {
            disk.path = [true; 2];
            disk.stuck_until = 0;
            disk.full = false;
        }
        self.setup.pool_failures = 0;
        self.setup.pool_slowness = 0;
        self.setup.leg_slowness = 0;
        self.bmc = [true; 2];
        self.wedged = [&[]; 2];
        self.deaf = [false; 2];
        self.late_answers = [0; 2];
        self.late_confirmations = [0; 2];
        self.bmc_slow = [0; 2];
        self.filtered = false;
        self.misrouted = 0;
        self.saturated = false;
        self.setup.repower = true;
        for c in [A, B] {
            self.resume(c);
            self.go_on(c);
            self.power_on(c);
            if self.nodes[c].maimed {
                self.nodes[c].maimed = false;
                let boot = self.nodes[c].boot;
                self.after(MS, Happening::Daemon { c, boot });
            }
        }
    }
}
