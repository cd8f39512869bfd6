//! Which cells of state and event the plays have visited, and why the others are empty.
//!
//! A map of a cave with its unlit corners: whoever reads "every invariant held" may ask where nobody has been. Two tables:
//! what a controller was doing when it took an event, and what a pool was doing when an event about it came. A cell that
//! was not visited needs an explanation; a cell that is said to be impossible and was visited makes that explanation wrong.

use pollux_heartbeat_core::Event;
use pollux_heartbeat_core::event::{PoolStep, Request};
use std::fmt::Write as _;

/// What a controller is doing, by the names of `status`.
const STATES: [&str; 8] = [
    "starting",
    "waiting",
    "joining",
    "arbitrating",
    "serving",
    "holding",
    "releasing",
    "stopped",
];
const EVENTS: [&str; 18] = [
    "tick",
    "received",
    "write-done",
    "read-done",
    "pools",
    "imports",
    "pool-done",
    "fence-done",
    "exclusion-lost",
    "power",
    "config",
    "config-frozen",
    "config-probed",
    "config-caught-up",
    "watchdog",
    "legs",
    "request",
    "disk-formatted",
];
/// What a pool is doing.
const POOL_STATES: [&str; 12] = [
    "idle",
    "claiming",
    "fencing",
    "importing",
    "lease-wait",
    "publishing",
    "serving",
    "releasing",
    "giving",
    "given",
    "resuming",
    "stopping",
];
const POOL_EVENTS: [&str; 15] = [
    "fenced",
    "not-fenced",
    "taken",
    "not-taken",
    "published",
    "not-published",
    "released",
    "not-released",
    "resumed",
    "not-resumed",
    "stopped",
    "key-lost",
    "key-of-partner",
    "switchover",
    "abort",
];

/// Why a cell may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It cannot be visited; if it is, this is wrong.
    Never(&'static str),
    /// It can be, and a few thousand plays may miss it.
    Rare(&'static str),
}

/// How often each cell was visited.
#[derive(Clone, Debug)]
pub(crate) struct Coverage {
    machine: [[u64; EVENTS.len()]; STATES.len()],
    pools: [[u64; POOL_EVENTS.len()]; POOL_STATES.len()],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            machine: [[0; EVENTS.len()]; STATES.len()],
            pools: [[0; POOL_EVENTS.len()]; POOL_STATES.len()],
        }
    }
}

fn event_number(event: &Event) -> usize {
    match event {
        Event::Tick => 0,
        Event::Received(_) => 1,
        Event::WriteDone { .. } => 2,
        Event::ReadDone { .. } => 3,
        Event::Pools(_) => 4,
        Event::Imports(_) => 5,
        Event::PoolDone { .. } => 6,
        Event::FenceDone { .. } => 7,
        Event::ExclusionLost { .. } => 8,
        Event::Power { .. } => 9,
        Event::Config(_) => 10,
        Event::ConfigFrozen { .. } => 11,
        Event::ConfigProbed { .. } => 12,
        Event::ConfigCaughtUp { .. } => 13,
        Event::Watchdog { .. } => 14,
        Event::Legs(_) => 15,
        Event::Request { .. } => 16,
        Event::DiskFormatted { .. } => 17,
    }
}

/// The pool that an event is about, and which event that is.
pub(crate) fn pool_event(event: &Event) -> Option<(pollux_api::id::PoolId, usize)> {
    let number = |first: usize, ok: bool| first + usize::from(!ok);
    match event {
        Event::FenceDone { pool, result, .. } => Some((*pool, number(0, result.is_ok()))),
        Event::PoolDone {
            pool, step, result, ..
        } => {
            let first = match step {
                PoolStep::Take => 2,
                PoolStep::Publish => 4,
                PoolStep::Release => 6,
                PoolStep::Resume => 8,
                PoolStep::Stop => return Some((*pool, 10)),
                PoolStep::StopAll => return None,
            };
            Some((*pool, number(first, result.is_ok())))
        }
        Event::ExclusionLost { pool, holder } => Some((*pool, number(11, holder.is_none()))),
        Event::Request { request, .. } => match request {
            Request::Switchover(pool) => Some((*pool, 13)),
            Request::Abort(pool) => Some((*pool, 14)),
            _ => None,
        },
        _ => None,
    }
}

fn row(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
}

impl Coverage {
    /// A controller in this state takes an event.
    pub(crate) fn met(&mut self, state: &str, event: &Event) {
        if let Some(at) = row(&STATES, state) {
            self.machine[at][event_number(event)] += 1;
        }
    }

    /// An event about a pool in this state.
    pub(crate) fn met_pool(&mut self, state: &str, event: usize) {
        if let Some(at) = row(&POOL_STATES, state) {
            self.pools[at][event] += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let add = |mine: &mut [u64], theirs: &[u64]| {
            mine.iter_mut()
                .zip(theirs)
                .for_each(|(mine, theirs)| *mine += theirs);
        };
        for (mine, theirs) in self.machine.iter_mut().zip(&other.machine) {
            add(mine, theirs);
        }
        for (mine, theirs) in self.pools.iter_mut().zip(&other.pools) {
            add(mine, theirs);
        }
    }

    /// Every cell: table, row, column, count, explanation.
    fn cells(&self) -> impl Iterator<Item = (&'static str, &'static str, u64, Option<Why>)> {
        let machine = STATES.iter().zip(&self.machine).flat_map(|(state, counts)| {
            let cell = move |(event, count): (&&'static str, &u64)| {
                (*state, *event, *count, machine_why(state, event))
            };
            EVENTS.iter().zip(counts).map(cell).collect::<Vec<_>>()
        });
        let pools = POOL_STATES.iter().zip(&self.pools).flat_map(|(state, counts)| {
            let cell =
                move |(event, count): (&&'static str, &u64)| (*state, *event, *count, pool_why(state, event));
            POOL_EVENTS.iter().zip(counts).map(cell).collect::<Vec<_>>()
        });
        machine.chain(pools).collect::<Vec<_>>().into_iter()
    }

    /// Cells that contradict their explanation, or are empty and have none.
    pub(crate) fn unexplained(&self) -> Vec<String> {
        self.cells()
            .filter_map(|(state, event, count, why)| match (count, why) {
                (0, None) => Some(format!("{state} x {event}: not visited, and nobody says why")),
                (1.., Some(Why::Never(why))) => {
                    Some(format!("{state} x {event}: visited {count} times, but: {why}"))
                }
                _ => None,
            })
            .collect()
    }

    /// For people: both tables, then every empty cell with its explanation.
    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        let mut table = |head: &str, states: &[&str], events: &[&str], counts: &[&[u64]]| {
            let _ = write!(text, "| {head} |");
            events.iter().for_each(|event| {
                let _ = write!(text, " {event} |");
            });
            let _ = write!(text, "\n|---|");
            events.iter().for_each(|_| text.push_str("---|"));
            text.push('\n');
            for (state, counts) in states.iter().zip(counts) {
                let _ = write!(text, "| {state} |");
                counts.iter().for_each(|count| {
                    let _ = write!(text, " {count} |");
                });
                text.push('\n');
            }
            text.push('\n');
        };
        let machine: Vec<&[u64]> = self.machine.iter().map(<[u64; EVENTS.len()]>::as_slice).collect();
        let pools: Vec<&[u64]> = self
            .pools
            .iter()
            .map(<[u64; POOL_EVENTS.len()]>::as_slice)
            .collect();
        table("controller", &STATES, &EVENTS, &machine);
        table("pool", &POOL_STATES, &POOL_EVENTS, &pools);
        let empty: Vec<_> = self.cells().filter(|(_, _, count, _)| *count == 0).collect();
        let _ = writeln!(text, "{} cells are empty:\n", empty.len());
        for (state, event, _, why) in empty {
            let why = match why {
                Some(Why::Never(why)) => format!("cannot be: {why}"),
                Some(Why::Rare(why)) => format!("rare: {why}"),
                None => "UNEXPLAINED".to_owned(),
            };
            let _ = writeln!(text, "* {state} x {event}: {why}");
        }
        text
    }
}

/// Why a controller in this state may never have taken this event.
fn machine_why(state: &str, event: &str) -> Option<Why> {
    let once = matches!(event, "pools" | "imports" | "legs" | "watchdog");
    let joiners = matches!(event, "config-probed" | "config-caught-up");
    Some(match (state, event) {
        ("starting", "write-done") => Why::Never("nothing is written before the own area was read"),
        ("starting", "config-frozen" | "config-probed" | "config-caught-up" | "power" | "fence-done") => {
            Why::Never(
                "whoever starts has asked for nothing yet, and answers to an earlier daemon are not for it",
            )
        }
        ("starting", "pool-done" | "exclusion-lost") => {
            Why::Rare("the own area is read within milliseconds where the disks answer")
        }
        ("waiting" | "joining", "pool-done" | "fence-done" | "exclusion-lost") => {
            Why::Rare("who is no member holds no pool, but for what it is about to stop")
        }
        ("waiting", "config-caught-up") => Why::Rare("the invitation may be withdrawn before the answer"),
        ("joining", "config-frozen") => {
            Why::Rare("a freeze for a record of its own, which an invitation overtook")
        }
        ("arbitrating", "fence-done") => Why::Rare("a record is decided within tens of milliseconds"),
        ("arbitrating", "config" | "config-frozen") => Why::Rare("the configuration stands still meanwhile"),
        ("releasing", "fence-done" | "exclusion-lost" | "config-frozen") => {
            Why::Rare("a controller leaves when it is shut down or has lost the shelf, and begins nothing")
        }
        ("stopped", "config-frozen" | "fence-done") => Why::Rare("it resets within half a second"),
        ("holding", "fence-done" | "config-frozen") => {
            Why::Rare("a lease runs out when neither disk nor wire takes a sign of life")
        }
        ("waiting", "watchdog") => Why::Rare("members arm it; it stays armed in a later daemon"),
        ("joining" | "arbitrating" | "releasing" | "stopped" | "holding", _) if once => {
            Why::Rare("told to each daemon at its start, when it does something else")
        }
        ("arbitrating" | "serving" | "holding" | "releasing" | "stopped", _) if joiners => {
            Why::Rare("asked by a joiner; a record overtook the answer")
        }
        ("starting", "disk-formatted") => {
            Why::Never("asked for by a daemon that serves; answers to an earlier one are not for it")
        }
        ("serving", "disk-formatted") => return None,
        (_, "disk-formatted") => Why::Rare("asked for by whoever serves, who mostly serves on"),
        ("serving", "request") => return None,
        (_, "request") => Why::Rare("operators ask in few plays, and mostly whoever serves"),
        _ => return None,
    })
}

/// Why an event of this kind may never have come about a pool in this state.
fn pool_why(state: &str, event: &str) -> Option<Why> {
    let answers_to = match event {
        "fenced" | "not-fenced" => "fencing",
        "taken" | "not-taken" => "importing",
        "published" | "not-published" => "publishing",
        "released" | "not-released" => "releasing",
        "resumed" | "not-resumed" => "resuming",
        "stopped" => "stopping",
        "key-lost" | "key-of-partner" => {
            return match state {
                "serving" => None,
                "lease-wait" | "publishing" | "releasing" | "resuming" | "importing" => Some(Why::Rare(
                    "keys are watched while a pool is imported, and mostly it serves then",
                )),
                _ => Some(Why::Rare("nothing is imported; a report may cross a stop")),
            };
        }
        _ => {
            let asked = event == "switchover" && matches!(state, "idle" | "serving");
            let why =
                Why::Rare("operators ask in few plays, and mostly while a pool is served here or there");
            return (!asked).then_some(why);
        }
    };
    match state {
        "resuming" if answers_to == "resuming" => Some(Why::Rare("few releases fail")),
        _ if answers_to == state => None,
        "lease-wait" | "serving" | "releasing" | "resuming" => {
            Some(Why::Never("a step begins when the one before it was answered"))
        }
        _ => Some(Why::Rare(
            "an answer that crosses a stop, or a change of the ground",
        )),
    }
}
