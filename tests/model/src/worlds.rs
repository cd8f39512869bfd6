//! The worlds by name: how each is built, what may happen in it, and what is left out.

use crate::array::{Array, Kind, Setup};
use crate::consensus::{Bound, Proposers};
use crate::ports::Ports;
use crate::search::{Counterexample, Limits, Report, search};
use pollux_api::id::{Epoch, PoolId};
use pollux_heartbeat_core::event::Request;

/// A world and its bound.
pub struct Named {
    /// For the command line.
    pub name: &'static str,
    /// What may happen, and how often.
    pub bound: &'static str,
    /// What may not.
    pub left_out: &'static str,
    /// Not searched unless asked for.
    pub large: bool,
    built: Built,
}

enum Built {
    Consensus(Bound),
    Array(Setup, u8),
    Ports(u8),
}

impl Named {
    /// Searches it, up to so many states.
    #[must_use]
    pub fn search(&self, states: usize) -> Report {
        let limits = |faults| Limits {
            faults,
            states,
            patience: 300,
        };
        match self.built {
            Built::Consensus(bound) => search(&Proposers::new(bound), limits(0)),
            Built::Ports(faults) => search(&Ports::new(None), limits(faults)),
            Built::Array(setup, faults) => match Array::new(setup) {
                Ok(array) => search(&array, limits(faults)),
                Err(violation) => Report {
                    counterexample: Some(Counterexample {
                        violation,
                        script: Vec::new(),
                        faults: 0,
                    }),
                    ..Report::default()
                },
            },
        }
    }
}

/// One disk, three proposals, one end of each controller.
pub(crate) const CALM: Bound = Bound {
    disks: 1,
    proposals: [2, 1],
    deaths: [1, 1],
    wipes: 0,
    rots: 0,
    blank_is_empty: false,
    forgotten: 0,
    changes: 0,
    at_once: false,
};

/// One disk, and another that may take its place: joint in between.
pub(crate) const CHANGED: Bound = Bound {
    proposals: [2, 1],
    deaths: [1, 0],
    changes: 1,
    ..CALM
};

/// A whole array in which nothing but reservations can fence, and everything can go wrong.
pub(crate) const TAKEOVER: Setup = Setup {
    disks: 1,
    reservations: true,
    power: false,
    watchdog: false,
    whole: true,
    fine: true,
    faults: &[
        Kind::Hold,
        Kind::Fail,
        Kind::Crash,
        Kind::Stall,
        Kind::Reset,
        Kind::Cut,
        Kind::Wire,
        Kind::Path,
    ],
    requests: &[],
    lone_recovery: true,
    lingers: false,
    breakage: None,
};

/// The same with faults at rest alone: what is held back or done by half between two deeds is left out.
const AT_REST: Setup = Setup {
    fine: false,
    ..TAKEOVER
};

const POWER: Setup = Setup {
    reservations: false,
    power: true,
    ..TAKEOVER
};

const WATCHDOG: Setup = Setup {
    reservations: false,
    watchdog: true,
    // One that falls before its watchdog is armed can be confirmed by nothing: no takeover, by design.
    lone_recovery: false,
    ..TAKEOVER
};

const EVERYTHING: Setup = Setup {
    power: true,
    watchdog: true,
    ..TAKEOVER
};

const MOVES: &[Request] = &[
    Request::Switchover(PoolId::from_bytes([1; 16])),
    Request::Takeover,
    Request::Shutdown { unserved: true },
];

/// Whatever can go wrong, and a controller that says that it dies.
const WORDS: &[Kind] = &[
    Kind::Word,
    Kind::Hold,
    Kind::Fail,
    Kind::Crash,
    Kind::Stall,
    Kind::Reset,
    Kind::Cut,
    Kind::Wire,
    Kind::Path,
];

/// Left out of every world of whole arrays.
const ARRAY: &str = "changes of the configuration, more pools than one, clocks of different rates, latencies between \
                     none and held back, faults after the array is whole again";
const ARRAY_AT_REST: &str = "as above, and faults between two cards";
const CONSENSUS: &str =
    "more ballots, more than 3 disks, a change of the set of disks (see `consensus-change`)";
const CHANGE: &str = "more ballots, more disks, formatting and writes that land late on a disk that is formatted again, a set \
               kept for the start (each start knows the first one alone)";

const PORTS: &str = "more pools than one, volumes, drains, moves that are given up, time";

macro_rules! world {
    ($name:literal, $bound:expr, $left_out:expr, $built:expr) => {
        Named {
            name: $name,
            bound: $bound,
            left_out: $left_out,
            large: false,
            built: $built,
        }
    };
    (large $name:literal, $bound:expr, $left_out:expr, $built:expr) => {
        Named {
            large: true,
            ..world!($name, $bound, $left_out, $built)
        }
    };
}

/// Every world, in the order in which they are searched.
pub const ALL: &[Named] = &[
    world!(
        "consensus-1",
        "1 disk, 2 + 1 proposals, each controller ends once with its write lost, landed or torn in either copy",
        CONSENSUS,
        Built::Consensus(CALM)
    ),
    world!(
        "consensus-3",
        "3 disks, 1 + 1 proposals, every order of writes and reads",
        CONSENSUS,
        Built::Consensus(Bound {
            disks: 3,
            proposals: [1, 1],
            deaths: [0, 0],
            ..CALM
        })
    ),
    world!(
        "consensus-change",
        "1 disk and another in its place, 2 + 1 proposals, 1 formatting, a ends once, starts that know the first disk alone",
        CHANGE,
        Built::Consensus(CHANGED)
    ),
    world!(
        large "consensus-change-back",
        "1 disk and another in its place, 3 + 1 proposals, 2 formattings, a ends once, starts that know the first disk alone",
        CHANGE,
        Built::Consensus(Bound { proposals: [3, 1], changes: 2, ..CHANGED })
    ),
    world!(
        large "consensus-3-death",
        "3 disks, 1 + 1 proposals, a ends once, each write lost, landed or torn in either copy, and starts from any majority",
        CONSENSUS,
        Built::Consensus(Bound {
            disks: 3,
            proposals: [1, 1],
            deaths: [1, 0],
            ..CALM
        })
    ),
    world!(
        "boot",
        "both start on a formatted disk; 1 fault of any kind anywhere, ending at any instant",
        ARRAY,
        Built::Array(
            Setup {
                whole: false,
                ..TAKEOVER
            },
            1
        )
    ),
    world!(
        "reservations",
        "1 disk, reservations alone; 1 fault of any kind between any two cards or deeds, ending at any instant",
        ARRAY,
        Built::Array(TAKEOVER, 1)
    ),
    world!(
        "power",
        "1 disk, power control alone; 1 fault, as above",
        ARRAY,
        Built::Array(POWER, 1)
    ),
    world!(
        "watchdog",
        "1 disk, watchdogs alone; 1 fault, as above",
        ARRAY,
        Built::Array(WATCHDOG, 1)
    ),
    world!(
        "three-disks",
        "3 disks, every rung; 1 fault, as above, or a disk is wiped",
        ARRAY,
        Built::Array(
            Setup {
                disks: 3,
                faults: &[
                    Kind::Hold,
                    Kind::Fail,
                    Kind::Crash,
                    Kind::Stall,
                    Kind::Reset,
                    Kind::Cut,
                    Kind::Wire,
                    Kind::Path,
                    Kind::Wipe,
                ],
                ..EVERYTHING
            },
            1
        )
    ),
    world!(
        "moves",
        "an operator asks either controller for a switchover, a forced takeover or a shutdown; and 1 fault, as above",
        ARRAY,
        Built::Array(
            Setup {
                requests: MOVES,
                ..TAKEOVER
            },
            1
        )
    ),
    world!(
        large "good-bye",
        "either controller is asked to shut down; until everything below has stopped, until its power goes, and until it \
         is started again takes any time; and 1 fault, as above",
        ARRAY,
        Built::Array(
            Setup {
                requests: &[Request::Shutdown { unserved: true }],
                lingers: true,
                ..TAKEOVER
            },
            1
        )
    ),
    world!(
        large "last-word",
        "a controller says that it dies, and dies, stands still or lives on; and 1 fault before or after it, as above, or \
         the other one says so, too",
        ARRAY,
        Built::Array(
            Setup {
                faults: WORDS,
                ..TAKEOVER
            },
            1
        )
    ),
    world!(
        large "last-word-watchdog",
        "the same with watchdogs alone",
        ARRAY,
        Built::Array(
            Setup {
                faults: WORDS,
                ..WATCHDOG
            },
            1
        )
    ),
    world!(
        "exclusion",
        "the key vanishes from the pool's disk; and 1 fault, as above",
        ARRAY,
        Built::Array(
            Setup {
                faults: &[
                    Kind::Key,
                    Kind::Hold,
                    Kind::Fail,
                    Kind::Crash,
                    Kind::Stall,
                    Kind::Reset,
                    Kind::Cut,
                    Kind::Wire,
                    Kind::Path,
                ],
                ..TAKEOVER
            },
            1
        )
    ),
    world!(
        "ports",
        "port groups of one pool, every order; 2 of: a move, a restart of a daemon, a death of a target or of a controller, \
         a cut of the wire, a note of an earlier claim that comes again",
        PORTS,
        Built::Ports(2)
    ),
    world!(
        large "ports-3",
        "the same; 3 of them",
        PORTS,
        Built::Ports(3)
    ),
    world!(
        large "two-at-rest",
        "1 disk, reservations alone; 2 faults at rest, each ending at any instant",
        ARRAY_AT_REST,
        Built::Array(AT_REST, 2)
    ),
    world!(
        large "two-at-rest-power",
        "1 disk, power control alone; 2 faults at rest, as above",
        ARRAY_AT_REST,
        Built::Array(Setup { fine: false, ..POWER }, 2)
    ),
    world!(
        large "two-at-rest-watchdog",
        "1 disk, watchdogs alone; 2 faults at rest, as above",
        ARRAY_AT_REST,
        Built::Array(
            Setup {
                fine: false,
                ..WATCHDOG
            },
            2
        )
    ),
    world!(
        large "override",
        "power cuts and the operator's requests to open alone and to override, 4 together, at rest",
        ARRAY_AT_REST,
        Built::Array(
            Setup {
                faults: &[Kind::Cut],
                requests: &[Request::OpenAlone, Request::Override(Epoch::new(0))],
                // Whoever lacks the log of one that went on alone and open has to wait for it, or for a person.
                lone_recovery: false,
                ..AT_REST
            },
            4
        )
    ),
    world!(
        large "consensus-3-outbid",
        "3 disks, 2 + 1 proposals, every order of writes and reads",
        CONSENSUS,
        Built::Consensus(Bound {
            disks: 3,
            deaths: [0, 0],
            ..CALM
        })
    ),
    world!(
        large "consensus-3-wipe",
        "3 disks, 2 + 1 proposals, one disk loses everything",
        CONSENSUS,
        Built::Consensus(Bound { disks: 3, deaths: [0, 0], wipes: 1, ..CALM })
    ),
    world!(
        large "consensus-1-rot",
        "1 disk, 2 + 2 proposals, each controller ends once, one copy of a ballot rots",
        CONSENSUS,
        Built::Consensus(Bound { proposals: [2, 2], rots: 1, ..CALM })
    ),
    world!(
        large "reservations-2",
        "1 disk, reservations alone; 2 faults between any two cards or deeds",
        ARRAY,
        Built::Array(TAKEOVER, 2)
    ),
    world!(
        large "power-2",
        "1 disk, power control alone; 2 faults between any two cards or deeds",
        ARRAY,
        Built::Array(POWER, 2)
    ),
    world!(
        large "watchdog-2",
        "1 disk, watchdogs alone; 2 faults between any two cards or deeds",
        ARRAY,
        Built::Array(WATCHDOG, 2)
    ),
    world!(
        large "three-at-rest",
        "1 disk, every rung; 3 faults at rest",
        ARRAY_AT_REST,
        Built::Array(Setup { fine: false, ..EVERYTHING }, 3)
    ),
];
