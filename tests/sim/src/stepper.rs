//! A play at walking pace: a debugger's commands over one seed.
//!
//! ```text
//!  n [COUNT]   the next COUNT events          s           both controllers side by side
//!  c [WORD]    go on to a line of the play    b [KIND]    stop before each event of this kind, too
//!              that has WORD, or a note,      r COUNT     back by COUNT events
//!              a fault or a violation         q           enough
//! ```
//!
//! Going back is playing again from the beginning: the same seed is the same play. It must never change the play that
//! it looks at.

use crate::play::{masked, play_with};
use crate::shrink::Mask;
use crate::world::{A, B, Happening, Onlooker, World};
use pollux_api::id::ControllerId;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::BufRead;
use std::rc::Rc;

const HELP: &str = "n [COUNT], c [WORD], b [KIND], s, r COUNT, q";
/// What `c` stops at if nothing else is asked for.
const NOTEWORTHY: [&str; 9] = [
    "-> Note(",
    "FAULT",
    "MENDED",
    "HEALED",
    "VIOLATED",
    "WATCHDOG",
    "lease ",
    "SHELF",
    "shelf path",
];

/// What the next events are to an onlooker.
#[derive(Clone, Debug)]
enum Pace {
    /// So many are shown one by one.
    Each(u64),
    /// They pass until a line says this, or anything noteworthy.
    Until(Option<String>),
    /// They pass until this number.
    To(u64),
}

struct Session {
    input: Box<dyn BufRead>,
    say: Box<dyn FnMut(String)>,
    pace: Pace,
    breaks: Vec<String>,
    /// The play is to begin again, up to this event.
    again: Option<u64>,
    quit: bool,
}

/// Plays a seed at the pace of the commands that `input` gives, one a line; its end is the end. `say` takes the answers.
pub fn step(
    seed: u64,
    mask: Option<&Mask>,
    input: impl BufRead + 'static,
    say: impl FnMut(String) + 'static,
) {
    let faults = mask.map(|mask| (masked(seed, None).storm.before, mask.clone()));
    let session = Rc::new(RefCell::new(Session {
        input: Box::new(input),
        say: Box::new(say),
        pace: Pace::To(0),
        breaks: Vec::new(),
        again: None,
        quit: false,
    }));
    loop {
        let inner = Rc::clone(&session);
        let onlooker: Onlooker = Box::new(move |world, next| inner.borrow_mut().before(world, next));
        let mut world = play_with(seed, Some(usize::MAX), faults.clone(), Some(onlooker));
        let mut session = session.borrow_mut();
        if !session.quit && session.again.is_none() {
            session.over(&mut world);
        }
        match session.again.take() {
            Some(event) => session.pace = Pace::To(event),
            None => return,
        }
    }
}

/// The name of what happens.
fn kind(what: &Happening) -> String {
    let text = format!("{what:?}");
    let end = text.find([' ', '(']).unwrap_or(text.len());
    text[..end].to_owned()
}

impl Session {
    fn say(&mut self, line: String) {
        (self.say)(line);
    }

    /// True: the event may happen.
    fn before(&mut self, world: &mut World, next: &Happening) -> bool {
        let lines = world.script.replace(VecDeque::new()).unwrap_or_default();
        let (number, kind) = (world.stats.events, kind(next));
        let stop = match &mut self.pace {
            Pace::To(event) => number >= *event,
            Pace::Each(left) => {
                let done = *left == 0;
                *left = left.saturating_sub(1);
                lines.into_iter().for_each(|line| (self.say)(line));
                if !done {
                    (self.say)(format!("#{number} {next:?}"));
                }
                done
            }
            Pace::Until(word) => {
                let wanted = |line: &String| match word {
                    Some(word) => line.contains(word.as_str()),
                    None => NOTEWORTHY.iter().any(|word| line.contains(word)),
                };
                let shown: Vec<String> = lines.into_iter().filter(wanted).collect();
                let reached = !shown.is_empty() || word.as_ref() == Some(&kind);
                shown.into_iter().for_each(|line| (self.say)(line));
                reached || self.breaks.contains(&kind)
            }
        };
        if !stop {
            return true;
        }
        let at = world.now as f64 / 1e9;
        self.say(format!("#{number} at {at:.6} s, next {kind}"));
        self.ask(world, number, false)
    }

    /// The play has ended by itself.
    fn over(&mut self, world: &mut World) {
        for line in world.script.replace(VecDeque::new()).unwrap_or_default() {
            if NOTEWORTHY.iter().any(|word| line.contains(word)) {
                self.say(line);
            }
        }
        let at = world.now as f64 / 1e9;
        let line = match &world.violation {
            Some(violation) => format!(
                "the play ends at {at:.6} s: it breaks {}: {}",
                violation.invariant, violation.what
            ),
            None => format!("the play ends at {at:.6} s: every invariant held"),
        };
        self.say(line);
        self.ask(world, world.stats.events, true);
    }

    /// Takes commands until one lets the play go on (true) or ends it.
    fn ask(&mut self, world: &World, number: u64, over: bool) -> bool {
        loop {
            let mut line = String::new();
            match self.input.read_line(&mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => line = "q".to_owned(),
            }
            let mut words = line.split_whitespace();
            let (command, argument) = (words.next().unwrap_or("n"), words.next());
            let count = argument.map_or(Ok(1), str::parse::<u64>);
            match (command, count) {
                ("n" | "c", _) if over => self.say("the play is over: r COUNT, s or q".to_owned()),
                ("n", Ok(count)) => {
                    // The one that waits is the first of them.
                    self.pace = Pace::Each(count.saturating_sub(1));
                    return true;
                }
                ("c", _) => {
                    self.pace = Pace::Until(argument.map(str::to_owned));
                    return true;
                }
                ("b", _) => {
                    self.breaks.extend(argument.map(str::to_owned));
                    let breaks = self.breaks.join(", ");
                    self.say(format!("stops before: {breaks}"));
                }
                ("s", _) => {
                    for line in status(world) {
                        self.say(line);
                    }
                }
                ("r", Ok(count)) => {
                    self.again = Some(number.saturating_sub(count));
                    return false;
                }
                ("q", _) => {
                    self.quit = true;
                    return false;
                }
                _ => self.say(format!("{:?}: expected {HELP}", line.trim_end())),
            }
        }
    }
}

/// Both controllers side by side.
fn status(world: &World) -> Vec<String> {
    let sides = [A, B].map(|c| side(world, c));
    let mut lines = vec![format!(
        "{:<10} | {:<58} | {}",
        "",
        ControllerId::A.to_string(),
        ControllerId::B
    )];
    let [left, right] = sides;
    for ((title, a), (_, b)) in left.into_iter().zip(right) {
        lines.push(format!("{title:<10} | {a:<58} | {b}"));
    }
    lines.push(format!("highest    | {}", world.record()));
    lines
}

fn side(world: &World, c: usize) -> Vec<(String, String)> {
    let node = &world.nodes[c];
    let now = world.local(c);
    let machine = match (node.powered, node.up, node.paused, &node.stopped) {
        (false, ..) => "off".to_owned(),
        (true, false, ..) => "starting".to_owned(),
        (true, true, true, _) => "paused".to_owned(),
        (true, true, false, Some(reason)) => format!("stopped: {reason:?}"),
        (true, true, false, None) => "runs".to_owned(),
    };
    let told = node.core.as_ref().map(|core| core.status(now));
    let of = |what: &dyn Fn(&pollux_heartbeat_core::status::Status) -> String| {
        told.as_ref().map_or_else(|| "-".to_owned(), what)
    };
    let row = |title: &str, text: String| (title.to_owned(), text);
    let left = |status: &pollux_heartbeat_core::status::Status| {
        let left = status.lease_until.as_nanos().saturating_sub(now.as_nanos()) / 1_000_000;
        format!("{}, {left} ms left", if world.fresh(c) { "fresh" } else { "out" })
    };
    let mut rows = vec![
        row("machine", format!("{machine}, incarnation {}", node.incarnation)),
        row(
            "state",
            of(&|status| format!("{}, {:?}", status.state, status.role)),
        ),
        row(
            "record",
            of(&|status| {
                status
                    .record
                    .map_or_else(|| "-".to_owned(), |record| record.to_string())
            }),
        ),
        row("wire", of(&|status| format!("{:?}", status.wire.0))),
        row("slot", of(&|status| format!("{:?}", status.disk.0))),
        row("lease", of(&left)),
        row(
            "log",
            format!(
                "{} entries{}",
                node.keeper.log.len(),
                if node.keeper.acknowledging() {
                    ", numbers"
                } else {
                    ""
                }
            ),
        ),
    ];
    for pool in 0..world.setup.pools.len() {
        let state = of(&|status| {
            status
                .pools
                .get(pool)
                .map_or("unknown", |pool| pool.state)
                .to_owned()
        });
        let held = world.held(c, pool).map_or_else(String::new, |held| {
            let (epoch, generation) = (held.key.epoch, held.key.generation);
            let published = if held.published { ", published" } else { "" };
            format!(", imported by epoch {epoch} generation {generation}{published}")
        });
        rows.push(row(&format!("pool {pool}"), format!("{state}{held}")));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(commands: &'static str) -> Vec<String> {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let into = Rc::clone(&lines);
        step(3, None, commands.as_bytes(), move |line| {
            into.borrow_mut().push(line)
        });
        lines.take()
    }

    #[test]
    fn commands_walk_through_a_play_and_back() {
        let lines = told("n 40\ns\nr 10\nc\nc fresh\nb Tick\nc zzz\nwhat\nq\n");
        let shown = |text: &str| lines.iter().any(|line| line.starts_with(text));
        assert!(shown("#0 at "), "{lines:#?}");
        assert!(shown("#40 at "), "{lines:#?}");
        assert!(shown("#30 at "), "back by ten: {lines:#?}");
        assert!(shown("machine    | "), "{lines:#?}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains("-> Note(") || line.contains("lease fresh"))
        );
        assert!(lines.iter().any(|line| line.ends_with("next Tick")));
        assert!(lines.iter().any(|line| line.contains("expected n [COUNT]")));
    }

    #[test]
    fn a_play_that_is_looked_at_ends_as_it_does_unseen() {
        let lines = told("c zzz\nn\nq\n");
        let whole = masked(3, None);
        let end = format!(
            "the play ends at {:.6} s: every invariant held",
            whole.now as f64 / 1e9
        );
        assert!(lines.contains(&end), "{end}: {lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("the play is over")));
    }
}
