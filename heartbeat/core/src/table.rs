//! The decision table: what was sighted -> what to do. Total, and generated into `decision-table.md`.
//!
//! The standing orders on the wall of a watch room: for every combination of signs exactly one line applies, and the
//! watch does not argue. Two sheets hang there, because the two questions are independent: may I go on ([`own`]), and
//! what do I do about the partner ([`partner`])? Both are asked again at every tick, and the answer depends on nothing
//! but the signs (L3: no answer is for ever).
//!
//! The compiler proves totality: one `match` per sheet over all signs, without a wildcard for what is not known yet.

use crate::detect::{DiskSight, WireSight};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// The highest epoch that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EpochSight {
    /// It has this incarnation as a member, or this incarnation was never one.
    Mine,
    /// This incarnation was a member, and the highest epoch is without it.
    Superseded,
}

/// The keys on the disks of the pools that are held here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySight {
    /// Ours, or unreadable, which is no reason to stop (K10).
    Right,
    /// Readable, and not ours: nobody's or a stranger's.
    Wrong,
    /// Readable, and the partner's or one of a higher epoch.
    Partners,
}

/// The lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeaseSight {
    /// Replies may leave.
    Fresh,
    /// No sign of life got out within g.
    RunOut,
    /// Nor within g + w.
    LongOut,
}

/// The own way to the quorum disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ShelfSight {
    /// The own slot is written on a majority.
    Reachable,
    /// It was not, for Td + Tn.
    Lost,
}

/// The partner's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PowerSight {
    /// The incarnation that was last seen is reported off.
    Off,
    /// On, unknown, or nobody to ask: proves nothing.
    Unproven,
}

/// What the partner says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RoleSight {
    /// It serves, or waits, or has just started.
    Staying,
    /// It is releasing or dying.
    Leaving,
    /// That incarnation has said good-bye: it holds nothing, and never will again.
    Gone,
}

/// The partner's pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolSight {
    /// Served, or it has none.
    Served,
    /// One is unserved for X and not given.
    Unserved,
    /// It was asked for, and that was not done in Y.
    Ignored,
}

/// What a controller does about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Own {
    /// Go on.
    Go,
    /// Replies are held (they are, by the lease itself); everything else goes on.
    Hold,
    /// Give every pool to the partner by wire: the shelf is out of reach.
    GiveByWire,
    /// Stop the pool whose key is wrong.
    StopPool,
    /// Stop replies, addresses, ports, pools; stop petting; reset.
    Stop,
}

/// What a controller does about its partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Partner {
    /// Nothing: all is well.
    Normal,
    /// Nothing yet: not enough was seen.
    Watch,
    /// Alarm: a quorum disk should be replaced.
    AlarmDisk,
    /// It has lost the shelf or leaves: receive what it gives, by wire or by its claims.
    Receive,
    /// The same with the wire silent: its claims and its mailbox say what it gives.
    ReceiveByMailbox,
    /// Ask for the pool that it does not serve.
    Ask,
    /// It was asked in vain: it stops by itself; alarm until then.
    AwaitStop,
    /// Lock the configuration, alarm, forwarding paths unavailable, go on with what is owned.
    LockAndGoOn,
    /// Arbitrate; fence; take over when the fence is confirmed.
    TakeOver,
    /// The same without waiting for any limit: its power is off, or it has said good-bye.
    TakeOverAtOnce,
    /// Take nothing: this controller may be the sick one.
    TakeNothing,
}

/// May I go on?
#[must_use]
pub fn own(epoch: EpochSight, key: KeySight, wire: WireSight, lease: LeaseSight, shelf: ShelfSight) -> Own {
    match (epoch, key, wire, lease, shelf) {
        (
            EpochSight::Superseded,
            KeySight::Right | KeySight::Wrong | KeySight::Partners,
            WireSight::Unknown | WireSight::Alive | WireSight::Silent,
            LeaseSight::Fresh | LeaseSight::RunOut | LeaseSight::LongOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        ) => Own::Stop,
        (
            EpochSight::Mine,
            KeySight::Partners,
            WireSight::Unknown | WireSight::Alive | WireSight::Silent,
            LeaseSight::Fresh | LeaseSight::RunOut | LeaseSight::LongOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        ) => Own::Stop,
        (
            EpochSight::Mine,
            KeySight::Right | KeySight::Wrong,
            WireSight::Silent,
            LeaseSight::LongOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        ) => Own::Stop,
        (
            EpochSight::Mine,
            KeySight::Wrong,
            WireSight::Unknown | WireSight::Alive,
            LeaseSight::Fresh | LeaseSight::RunOut | LeaseSight::LongOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        )
        | (
            EpochSight::Mine,
            KeySight::Wrong,
            WireSight::Silent,
            LeaseSight::Fresh | LeaseSight::RunOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        ) => Own::StopPool,
        (EpochSight::Mine, KeySight::Right, WireSight::Alive, LeaseSight::Fresh, ShelfSight::Lost) => {
            Own::GiveByWire
        }
        (
            EpochSight::Mine,
            KeySight::Right,
            WireSight::Unknown | WireSight::Alive,
            LeaseSight::RunOut | LeaseSight::LongOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        )
        | (
            EpochSight::Mine,
            KeySight::Right,
            WireSight::Silent,
            LeaseSight::RunOut,
            ShelfSight::Reachable | ShelfSight::Lost,
        ) => Own::Hold,
        (
            EpochSight::Mine,
            KeySight::Right,
            WireSight::Unknown | WireSight::Silent,
            LeaseSight::Fresh,
            ShelfSight::Reachable | ShelfSight::Lost,
        )
        | (EpochSight::Mine, KeySight::Right, WireSight::Alive, LeaseSight::Fresh, ShelfSight::Reachable) => {
            Own::Go
        }
    }
}

/// What do I do about the partner?
#[must_use]
pub fn partner(
    power: PowerSight,
    wire: WireSight,
    disk: DiskSight,
    role: RoleSight,
    pools: PoolSight,
) -> Partner {
    use DiskSight as D;
    use PoolSight as P;
    use PowerSight as W;
    use RoleSight as R;
    use WireSight as N;
    match (power, wire, disk, role, pools) {
        (
            W::Off,
            N::Unknown | N::Alive | N::Silent,
            D::Unknown | D::Alive | D::SomeStill | D::MostStill | D::Still | D::Unreadable,
            R::Staying | R::Leaving | R::Gone,
            P::Served | P::Unserved | P::Ignored,
        )
        // Its word is as good as its power switch: it was given in good order, and is kept over restarts of its daemon.
        | (
            W::Unproven,
            N::Unknown | N::Alive | N::Silent,
            D::Unknown | D::Alive | D::SomeStill | D::MostStill | D::Still | D::Unreadable,
            R::Gone,
            P::Served | P::Unserved | P::Ignored,
        ) => Partner::TakeOverAtOnce,
        // The wire lives.
        (
            W::Unproven,
            N::Alive,
            D::MostStill | D::Still,
            R::Staying | R::Leaving,
            P::Served | P::Unserved | P::Ignored,
        )
        | (
            W::Unproven,
            N::Alive,
            D::Unknown | D::Alive | D::SomeStill | D::Unreadable,
            R::Leaving,
            P::Served | P::Unserved,
        ) => Partner::Receive,
        (
            W::Unproven,
            N::Alive,
            D::Unknown | D::Alive | D::SomeStill | D::Unreadable,
            R::Staying | R::Leaving,
            P::Ignored,
        ) => Partner::AwaitStop,
        (
            W::Unproven,
            N::Alive,
            D::Unknown | D::Alive | D::SomeStill | D::Unreadable,
            R::Staying,
            P::Unserved,
        ) => Partner::Ask,
        (W::Unproven, N::Alive, D::SomeStill, R::Staying, P::Served) => Partner::AlarmDisk,
        (W::Unproven, N::Alive, D::Unknown | D::Alive | D::Unreadable, R::Staying, P::Served) => {
            Partner::Normal
        }
        // Nothing came back yet since this daemon's start.
        (
            W::Unproven,
            N::Unknown,
            D::Unknown | D::Alive | D::SomeStill | D::MostStill | D::Still | D::Unreadable,
            R::Staying | R::Leaving,
            P::Served | P::Unserved | P::Ignored,
        ) => Partner::Watch,
        // The wire is silent.
        (
            W::Unproven,
            N::Silent,
            D::Alive | D::SomeStill | D::MostStill,
            R::Staying,
            P::Served | P::Unserved | P::Ignored,
        ) => Partner::LockAndGoOn,
        (
            W::Unproven,
            N::Silent,
            D::Alive | D::SomeStill | D::MostStill,
            R::Leaving,
            P::Served | P::Unserved | P::Ignored,
        ) => Partner::ReceiveByMailbox,
        (W::Unproven, N::Silent, D::Still, R::Staying | R::Leaving, P::Served | P::Unserved | P::Ignored) => {
            Partner::TakeOver
        }
        (
            W::Unproven,
            N::Silent,
            D::Unreadable,
            R::Staying | R::Leaving,
            P::Served | P::Unserved | P::Ignored,
        ) => Partner::TakeNothing,
        (
            W::Unproven,
            N::Silent,
            D::Unknown,
            R::Staying | R::Leaving,
            P::Served | P::Unserved | P::Ignored,
        ) => Partner::Watch,
    }
}

/// A sign of the table: its title and the names of its values.
type Sign = (&'static str, &'static [&'static str]);

const WIRES: [WireSight; 3] = [WireSight::Unknown, WireSight::Alive, WireSight::Silent];

/// Both sheets as Markdown: every combination stands in exactly one line; "any" where a sign does not matter.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Decision table\n\nGenerated from `src/table.rs`; a test compares. Signs are looked at from left to right; \
         `any` stands where a sign does not matter. Silent wire and still slot are explained in `src/detect.rs`.\n",
    );
    let own_signs: [Sign; 5] = [
        ("highest epoch", &["mine, or never a member", "without me"]),
        (
            "key on a disk of a held pool",
            &[
                "right or unreadable",
                "wrong",
                "the partner's or of a higher epoch",
            ],
        ),
        ("wire", &["not known yet", "alive", "silent"]),
        ("lease", &["fresh", "out (g)", "long out (g + w)"]),
        ("own slot", &["written", "not written for Td + Tn"]),
    ];
    let own_at = |at: &[usize]| {
        let epoch = [EpochSight::Mine, EpochSight::Superseded][at[0]];
        let key = [KeySight::Right, KeySight::Wrong, KeySight::Partners][at[1]];
        let lease = [LeaseSight::Fresh, LeaseSight::RunOut, LeaseSight::LongOut][at[3]];
        let shelf = [ShelfSight::Reachable, ShelfSight::Lost][at[4]];
        match own(epoch, key, WIRES[at[2]], lease, shelf) {
            Own::Go => "go on",
            Own::Hold => "hold replies (reversible)",
            Own::GiveByWire => "give every pool by wire",
            Own::StopPool => "stop that pool; take it again only under a new epoch",
            Own::Stop => "stop replies, addresses, ports, pools; stop petting; reset",
        }
    };
    sheet(&mut text, "May I go on?", &own_signs, &own_at);
    let partner_signs: [Sign; 5] = [
        ("power", &["off, for that incarnation", "not proven"]),
        ("wire", &["not known yet", "alive", "silent"]),
        (
            "partner's slot",
            &[
                "not known yet",
                "alive",
                "still on a minority",
                "still on a majority",
                "still",
                "unreadable on a majority",
            ],
        ),
        (
            "it says",
            &["staying", "releasing or dying", "good-bye, in that incarnation"],
        ),
        (
            "its pools",
            &["served", "unserved for X", "asked for in vain for Y"],
        ),
    ];
    let partner_at = |at: &[usize]| {
        let power = [PowerSight::Off, PowerSight::Unproven][at[0]];
        let disk = [
            DiskSight::Unknown,
            DiskSight::Alive,
            DiskSight::SomeStill,
            DiskSight::MostStill,
            DiskSight::Still,
            DiskSight::Unreadable,
        ][at[2]];
        let role = [RoleSight::Staying, RoleSight::Leaving, RoleSight::Gone][at[3]];
        let pools = [PoolSight::Served, PoolSight::Unserved, PoolSight::Ignored][at[4]];
        match partner(power, WIRES[at[1]], disk, role, pools) {
            Partner::Normal => "nothing: all is well",
            Partner::Watch => "nothing yet: go on watching",
            Partner::AlarmDisk => "alarm: replace that quorum disk",
            Partner::Receive => "receive what it gives, by wire or by its claims",
            Partner::ReceiveByMailbox => "receive what it gives, by its claims and its mailbox",
            Partner::Ask => "ask for the pool",
            Partner::AwaitStop => "alarm; it stops petting its watchdog",
            Partner::LockAndGoOn => "lock the configuration, alarm, forwarding paths unavailable, go on",
            Partner::TakeOver => "arbitrate, fence, take over when the fence is confirmed",
            Partner::TakeOverAtOnce => "arbitrate, fence, take over at once",
            Partner::TakeNothing => "take nothing, alarm: this controller may be the sick one",
        }
    };
    sheet(
        &mut text,
        "What do I do about the partner?",
        &partner_signs,
        &partner_at,
    );
    text.push_str(
        "\nFlapping of the wire (more than n silences in m minutes) changes no line: it is an alarm and stops automatic \
         giveback, nothing else.\n",
    );
    text
}

fn sheet(text: &mut String, title: &str, signs: &[Sign], at: &dyn Fn(&[usize]) -> &'static str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "\n## {title}\n");
    let titles: Vec<&str> = signs.iter().map(|(title, _)| *title).collect();
    let _ = writeln!(text, "| {} | action |", titles.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(signs.len() + 1));
    rows(&mut Vec::new(), signs, at, &mut |signs_of_row, action| {
        let _ = writeln!(text, "| {} | {action} |", signs_of_row.join(" | "));
    });
}

/// Walks the decision tree; values of a sign with equal subtrees share their rows.
fn rows(
    chosen: &mut Vec<Vec<usize>>,
    signs: &[Sign],
    at: &dyn Fn(&[usize]) -> &'static str,
    out: &mut dyn FnMut(&[String], &str),
) {
    let depth = chosen.len();
    let first: Vec<usize> = chosen.iter().map(|values| values[0]).collect();
    if depth == signs.len() {
        let names = chosen.iter().zip(signs).map(|(values, (_, names))| {
            if values.len() == names.len() {
                return String::from("any");
            }
            let named: Vec<&str> = values.iter().map(|value| names[*value]).collect();
            named.join("; ")
        });
        return out(&names.collect::<Vec<_>>(), at(&first));
    }
    let subtree = |value: usize| {
        let mut path = first.clone();
        path.push(value);
        outcomes(&mut path, signs, at)
    };
    let mut groups: Vec<(Vec<usize>, Vec<&'static str>)> = Vec::new();
    for value in 0..signs[depth].1.len() {
        let outcome = subtree(value);
        match groups.iter_mut().find(|(_, known)| *known == outcome) {
            Some((values, _)) => values.push(value),
            None => groups.push((alloc::vec![value], outcome)),
        }
    }
    for (values, _) in groups {
        chosen.push(values);
        rows(chosen, signs, at, out);
        chosen.pop();
    }
}

fn outcomes(
    path: &mut Vec<usize>,
    signs: &[Sign],
    at: &dyn Fn(&[usize]) -> &'static str,
) -> Vec<&'static str> {
    let Some((_, names)) = signs.get(path.len()) else {
        return alloc::vec![at(path)];
    };
    let mut all = Vec::new();
    for value in 0..names.len() {
        path.push(value);
        all.extend(outcomes(path, signs, at));
        path.pop();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_regressions() {
        use DiskSight as D;
        let at = |wire, disk| {
            partner(
                PowerSight::Unproven,
                wire,
                disk,
                RoleSight::Staying,
                PoolSight::Served,
            )
        };
        assert_eq!(at(WireSight::Silent, D::Alive), Partner::LockAndGoOn);
        assert_eq!(
            at(WireSight::Silent, D::Still),
            Partner::TakeOver,
            "B7: wire dead, later the partner hangs"
        );
        assert_eq!(at(WireSight::Silent, D::Unreadable), Partner::TakeNothing, "C2");
        for lease in [LeaseSight::Fresh, LeaseSight::RunOut] {
            for shelf in [ShelfSight::Reachable, ShelfSight::Lost] {
                for wire in WIRES {
                    let verdict = own(EpochSight::Mine, KeySight::Right, wire, lease, shelf);
                    assert_ne!(
                        verdict,
                        Own::Stop,
                        "K10: nobody stops over a stall shorter than g + w"
                    );
                }
            }
        }
    }
}
