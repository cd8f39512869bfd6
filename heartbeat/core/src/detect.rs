//! Who lives: the wire and the partner's slot, as sighted from here.
//!
//! A lighthouse keeper has two signs of the other tower: the answer to his own lamp signal (the wire: a nonce that
//! comes back), and the other's entries in the harbour book (the slot). Answers that were not to his present signal
//! prove nothing; an entry proves life only by being new.
//!
//! Everything is measured on the own clock; what the partner says of its own figures is honoured where they are
//! slower (`Timing::disk_limit_for`). Both signs are watched at the same time, so detection takes the longer of the
//! two limits and never their sum.
//!
//! A slot that is read and found torn is no news either: whoever lives writes it again within d. It is as still as an
//! unchanged one from the moment at which it was first found so, by whoever starts and has never seen it whole as well, and
//! the tearing itself counts as a last sign of life. One that is whole after it was torn was written again.
//!
//! It must never take an unread slot for an unchanged one.

use crate::area::{Slot, Unread};
use crate::machine::Disk;
use crate::set::QuorumSet;
use crate::time::Instant;
use alloc::collections::VecDeque;
use core::time::Duration;
use pollux_api::id::{DiskIndex, Incarnation};

/// The wire to the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WireSight {
    /// Nothing came back yet, and not long enough for silence.
    Unknown,
    /// My nonce came back within Tn.
    Alive,
    /// It did not. Replays and one-way links are silence.
    Silent,
}

/// The partner's slot on the quorum disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskSight {
    /// Not watched for long enough.
    Unknown,
    /// It changed on some disk within Td, and no disk stands out.
    Alive,
    /// It changes, but not on a minority of the disks.
    SomeStill,
    /// It changes on a minority of the disks only.
    MostStill,
    /// Read well and unchanged for Td on a majority, and changed nowhere.
    Still,
    /// Fewer than a majority can be read.
    Unreadable,
}

/// Nonces in flight that are remembered; older ones are beyond every Tn.
const NONCES: usize = 64;

/// Watches the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WireWatch {
    started: Instant,
    seed: u64,
    count: u64,
    sent: VecDeque<(u64, Instant)>,
    /// When the newest heartbeat that came back was sent: the lease may count from here.
    pub(crate) echoed: Option<Instant>,
    pub(crate) round_trip: Option<Duration>,
}

impl WireWatch {
    pub(crate) fn new(started: Instant, seed: u64) -> Self {
        Self {
            started,
            seed,
            count: 0,
            sent: VecDeque::new(),
            echoed: None,
            round_trip: None,
        }
    }

    /// A fresh nonce and the number of the datagram that carries it.
    pub(crate) fn send(&mut self, now: Instant) -> (u64, u64) {
        self.count += 1;
        let nonce = split_mix(self.seed, self.count);
        if self.sent.len() == NONCES {
            self.sent.pop_front();
        }
        self.sent.push_back((nonce, now));
        (self.count, nonce)
    }

    /// For tests: the nonce that was sent last.
    #[cfg(test)]
    pub(crate) fn newest(&self) -> Option<u64> {
        self.sent.back().map(|(nonce, _)| *nonce)
    }

    /// For a search: see [`crate::Number`].
    pub(crate) fn canonical(&mut self) {
        self.seed = 0;
        self.count = 0;
        self.round_trip = None;
    }

    pub(crate) fn forget(&mut self, live: &mut dyn FnMut(u64) -> bool) {
        self.sent.retain(|(nonce, _)| live(*nonce));
    }

    pub(crate) fn numbers(&mut self, visit: &mut dyn FnMut(crate::Number, &mut u64)) {
        let Self {
            started,
            seed: _,
            count: _,
            sent,
            echoed,
            round_trip: _,
        } = self;
        for at in [Some(started), echoed.as_mut()].into_iter().flatten() {
            visit(crate::Number::Instant, at.number());
        }
        for (nonce, at) in sent {
            visit(crate::Number::Sent, nonce);
            visit(crate::Number::Instant, at.number());
        }
    }

    /// A nonce came back. True if it is one of mine, and no older than the newest that came back before.
    pub(crate) fn echo(&mut self, now: Instant, nonce: u64) -> bool {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == nonce) else {
            return false;
        };
        let (_, sent) = self.sent[at];
        // Older ones will not be waited for: an echo that was overtaken is worth nothing.
        self.sent.drain(..at);
        if self.echoed.is_none_or(|echoed| sent > echoed) {
            self.echoed = Some(sent);
            self.round_trip = Some(now.since(sent));
        }
        true
    }

    pub(crate) fn sight(&self, now: Instant, limit: Duration) -> WireSight {
        let last = self.echoed.unwrap_or(self.started);
        match (now.since(last) < limit, self.echoed.is_some()) {
            (true, true) => WireSight::Alive,
            (true, false) => WireSight::Unknown,
            (false, _) => WireSight::Silent,
        }
    }

    /// Since when nothing came back.
    pub(crate) fn last(&self) -> Instant {
        self.echoed.unwrap_or(self.started)
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014): nonces from an unpredictable seed.
pub(crate) fn split_mix(seed: u64, count: u64) -> u64 {
    let mut z = seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Watches the partner's slot on one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SlotWatch {
    /// What was seen last.
    seen: Option<(Incarnation, u64)>,
    /// When it was seen first, or in its present form.
    since: Instant,
    /// When a change was seen: a sign of life.
    pub(crate) changed: Option<Instant>,
    /// When it was first found torn: whatever tore it may have been alive then.
    torn: Option<Instant>,
    /// When the last read was issued that showed what stands there.
    pub(crate) read: Option<Instant>,
    /// When the last read was issued that showed what stood there before the last change: that was written later.
    stood: Option<Instant>,
    /// Why the last read was not good.
    pub(crate) problem: Option<Unread>,
}

impl SlotWatch {
    /// A read that was issued at `issued` and has just ended. True if it shows a sign of life.
    pub(crate) fn see(&mut self, now: Instant, issued: Instant, slot: Result<&Slot, Unread>) -> bool {
        let slot = match slot {
            Ok(slot) => slot,
            Err(why) => {
                let before = self.problem.replace(why);
                if !why.is_damage() {
                    return false;
                }
                if !before.is_some_and(Unread::is_damage) {
                    self.since = now;
                    self.torn = Some(now);
                }
                self.read = self.read.max(Some(issued));
                return false;
            }
        };
        self.problem = None;
        let stood = self.read;
        self.read = Some(self.read.map_or(issued, |read| read.max(issued)));
        let present = (slot.advert.incarnation, slot.sequence);
        let before = self.seen.replace(present);
        if before == Some(present) {
            return false;
        }
        self.since = now;
        self.stood = stood.filter(|_| before.is_some());
        // The first sight proves no life: the slot of a controller that died last year is also new to me.
        let life = before.is_some() || self.torn.is_some();
        if life {
            self.changed = Some(now);
        }
        life
    }

    pub(crate) fn numbers(&mut self, visit: &mut dyn FnMut(crate::Number, &mut u64)) {
        let Self {
            seen,
            since,
            changed,
            torn,
            read,
            stood,
            problem: _,
        } = self;
        if let Some((_, sequence)) = seen {
            visit(crate::Number::PartnerSlot, sequence);
        }
        let optional = [changed, torn, read, stood].map(Option::as_mut);
        for at in [Some(since)].into_iter().chain(optional).flatten() {
            visit(crate::Number::Instant, at.number());
        }
    }

    /// What stands there was written after that instant.
    pub(crate) fn is_later_than(&self, at: Instant) -> bool {
        self.stood.is_some_and(|stood| stood > at)
    }

    /// The last moment at which its writer may have lived, by what was seen here.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.changed.max(self.torn)
    }

    /// The last read showed what stands there: a slot, or one that tore.
    pub(crate) fn shown(&self) -> bool {
        self.problem.is_none_or(Unread::is_damage) && self.known()
    }

    /// Something was seen there, whole or torn.
    fn known(&self) -> bool {
        self.seen.is_some() || self.torn.is_some()
    }

    fn alive(&self, now: Instant, limit: Duration) -> bool {
        self.changed.is_some_and(|changed| now.since(changed) < limit)
    }

    fn readable(&self, now: Instant, limit: Duration) -> bool {
        self.read.is_some_and(|read| now.since(read) < limit)
    }

    /// Unchanged, as a read shows that was issued at least `limit` after the last change.
    fn still(&self, now: Instant, limit: Duration) -> bool {
        self.readable(now, limit)
            && self
                .read
                .is_some_and(|read| self.known() && read >= self.since + limit)
    }
}

/// Puts the disks together.
pub(crate) fn disk_sight(set: &QuorumSet, disks: &[Disk], now: Instant, limit: Duration) -> DiskSight {
    let is = |what: fn(&SlotWatch, Instant, Duration) -> bool| {
        move |index: DiskIndex| {
            let disk = disks.iter().find(|disk| disk.seat.disk == index);
            disk.is_some_and(|disk| what(&disk.watch, now, limit))
        }
    };
    let readable = |disk: &&Disk| disk.watch.readable(now, limit);
    // A disk that has just come to be gone by is given the time to be read.
    let young = |index: DiskIndex| {
        let disk = disks.iter().find(|disk| disk.seat.disk == index);
        disk.is_some_and(|disk| now.since(disk.entered) < limit || readable(&disk))
    };
    let all = || set.all().map(|seat| seat.disk);
    let still = set.reached(is(SlotWatch::still));
    if all().any(is(SlotWatch::alive)) {
        // A disk stands out when it is read well and shows nothing new, or cannot be read at all.
        let odd = all().any(|disk| is(SlotWatch::still)(disk) || !young(disk));
        return match (still, odd) {
            (true, _) => DiskSight::MostStill,
            (false, true) => DiskSight::SomeStill,
            (false, false) => DiskSight::Alive,
        };
    }
    if still {
        DiskSight::Still
    } else if !set.reached(young) {
        DiskSight::Unreadable
    } else {
        DiskSight::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::Advert;
    use alloc::vec::Vec;

    const LIMIT: Duration = Duration::from_millis(1_500);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn slot(sequence: u64) -> Slot {
        Slot {
            sequence,
            advert: Advert {
                incarnation: Incarnation::new(1),
                ..Advert::default()
            },
        }
    }

    /// Reads every 250 ms from 0 to `until`; `show` says what each disk shows.
    fn watched(until: u64, show: impl Fn(usize, u64) -> Result<u64, Unread>) -> (Vec<SlotWatch>, DiskSight) {
        let set = QuorumSet::first(&[1, 2, 3].map(DiskIndex::new)).unwrap();
        let mut disks: Vec<Disk> = set.all().map(|seat| Disk::new(seat, at(0))).collect();
        for ms in (0..=until).step_by(250) {
            for (number, disk) in disks.iter_mut().enumerate() {
                let shown = show(number, ms).map(slot);
                disk.watch.see(at(ms), at(ms), shown.as_ref().map_err(|why| *why));
            }
        }
        let sight = disk_sight(&set, &disks, at(until), LIMIT);
        (disks.into_iter().map(|disk| disk.watch).collect(), sight)
    }

    #[test]
    fn what_changes_lives_and_what_stands_is_still_only_after_the_limit() {
        assert_eq!(watched(3_000, |_, ms| Ok(ms)).1, DiskSight::Alive);
        assert_eq!(
            watched(1_250, |_, _| Ok(7)).1,
            DiskSight::Unknown,
            "first seen at 0"
        );
        assert_eq!(watched(1_500, |_, _| Ok(7)).1, DiskSight::Still);
        let died = |until| watched(until, |_, ms| Ok(ms.min(1_000))).1;
        assert_eq!(died(2_250), DiskSight::Alive);
        assert_eq!(
            died(2_500),
            DiskSight::Still,
            "a read issued 1.5 s after the last change"
        );
    }

    #[test]
    fn a_change_anywhere_is_life_and_unread_is_not_still() {
        assert_eq!(
            watched(3_000, |disk, ms| Ok(if disk == 0 { ms } else { 7 })).1,
            DiskSight::MostStill
        );
        assert_eq!(
            watched(3_000, |disk, ms| Ok(if disk == 0 { 7 } else { ms })).1,
            DiskSight::SomeStill
        );
        let unread = |disk, ms| if disk == 0 { Ok(ms) } else { Err(Unread::Io) };
        assert_eq!(watched(3_000, unread).1, DiskSight::SomeStill);
        let blank = |disk, _| if disk == 0 { Ok(7) } else { Err(Unread::Blank) };
        assert_eq!(
            watched(3_000, blank).1,
            DiskSight::Unreadable,
            "K11: one still disk is no majority"
        );
        let one_blank = |disk, _| if disk == 0 { Err(Unread::Blank) } else { Ok(7) };
        assert_eq!(watched(3_000, one_blank).1, DiskSight::Still);
    }

    #[test]
    fn a_slot_that_was_never_seen_whole_is_still_when_it_stays_torn_and_alive_when_it_is_written_again() {
        let torn = |until| watched(until, |_, _| Err(Unread::Checksum)).1;
        assert_eq!(torn(1_250), DiskSight::Unknown);
        assert_eq!(torn(1_500), DiskSight::Still);
        let again = |_, ms| if ms < 1_000 { Err(Unread::Checksum) } else { Ok(7) };
        assert_eq!(watched(2_250, again).1, DiskSight::Alive);
        assert_eq!(watched(2_500, again).1, DiskSight::Still);
        let wiped = |_, _| Err(Unread::Blank);
        assert_eq!(
            watched(3_000, wiped).1,
            DiskSight::Unreadable,
            "nobody knows who wiped it"
        );
    }

    #[test]
    fn a_slot_that_tore_with_its_writer_is_still_after_the_limit_and_one_that_is_written_again_is_not() {
        // Good until 1 s, torn on every disk from then on.
        let torn = |until| {
            watched(
                until,
                |_, ms| if ms < 1_000 { Ok(ms) } else { Err(Unread::Checksum) },
            )
        };
        assert_eq!(
            torn(2_000).1,
            DiskSight::Alive,
            "the last change is not old enough"
        );
        assert_eq!(torn(2_250).1, DiskSight::Unknown);
        let (disks, sight) = torn(2_500);
        assert_eq!(sight, DiskSight::Still, "1.5 s after it was first found torn");
        assert_eq!(disks[0].last(), Some(at(1_000)), "the tearing may have been life");
        let again = |_, ms| {
            if ms == 1_000 {
                Err(Unread::Checksum)
            } else {
                Ok(ms)
            }
        };
        assert_eq!(watched(2_500, again).1, DiskSight::Alive);
        let no_path = |_, ms| if ms < 1_000 { Ok(ms) } else { Err(Unread::Io) };
        assert_eq!(watched(4_000, no_path).1, DiskSight::Unreadable);
    }

    #[test]
    fn a_read_that_was_issued_too_early_proves_no_stillness() {
        let mut watch = SlotWatch::default();
        watch.see(at(0), at(0), Ok(&slot(1)));
        watch.see(at(1_600), at(1_400), Ok(&slot(1)));
        assert!(!watch.still(at(1_600), LIMIT), "C3: the answer was slow");
        watch.see(at(1_700), at(1_500), Ok(&slot(1)));
        assert!(watch.still(at(1_700), LIMIT));
        assert!(
            !watch.still(at(3_000), LIMIT),
            "and an old reading proves nothing about now"
        );
    }

    #[test]
    fn only_a_recent_nonce_of_mine_is_life() {
        let limit = Duration::from_secs(1);
        let mut wire = WireWatch::new(at(0), 42);
        assert_eq!(wire.sight(at(999), limit), WireSight::Unknown);
        assert_eq!(wire.sight(at(1_000), limit), WireSight::Silent);
        let (_, first) = wire.send(at(1_000));
        let (_, second) = wire.send(at(1_100));
        assert!(!wire.echo(at(1_100), first ^ 1), "a stranger's nonce");
        assert!(wire.echo(at(1_150), second));
        assert!(!wire.echo(at(1_160), first), "overtaken");
        assert_eq!(
            (wire.echoed, wire.round_trip),
            (Some(at(1_100)), Some(Duration::from_millis(50)))
        );
        assert!(wire.echo(at(2_000), second), "a replay is recognized, and");
        assert_eq!(
            wire.sight(at(2_100), limit),
            WireSight::Silent,
            "counts from when it was sent"
        );
    }

    #[test]
    fn a_majority_of_five_disks_are_three() {
        let sight = |still: usize, blank: usize| {
            let set = QuorumSet::first(&[0, 1, 2, 3, 4].map(DiskIndex::new)).unwrap();
            let mut disks: Vec<Disk> = set.all().map(|seat| Disk::new(seat, at(0))).collect();
            for ms in (0..=2_000).step_by(250) {
                for (number, disk) in disks.iter_mut().enumerate() {
                    let shown = match number {
                        number if number < still => Ok(slot(7)),
                        number if number < still + blank => Err(Unread::Blank),
                        _ => Ok(slot(ms)),
                    };
                    disk.watch.see(at(ms), at(ms), shown.as_ref().map_err(|why| *why));
                }
            }
            disk_sight(&set, &disks, at(2_000), LIMIT)
        };
        assert_eq!(sight(0, 0), DiskSight::Alive);
        assert_eq!(sight(2, 0), DiskSight::SomeStill);
        assert_eq!(sight(3, 0), DiskSight::MostStill);
        assert_eq!(sight(3, 2), DiskSight::Still);
        assert_eq!(sight(2, 3), DiskSight::Unreadable);
        assert_eq!(sight(0, 1), DiskSight::SomeStill);
    }

    #[test]
    fn a_quorum_that_cannot_be_read_is_not_called_so_before_the_limit() {
        let watch = |until| watched(until, |_, _| Err(Unread::Io)).1;
        assert_eq!(watch(1_250), DiskSight::Unknown);
        assert_eq!(watch(1_500), DiskSight::Unreadable);
        // A majority that was read lately is readable, however still it is not yet.
        let two = |disk, _| if disk == 0 { Err(Unread::Io) } else { Ok(7) };
        assert_eq!(watched(1_250, two).1, DiskSight::Unknown);
        let late = |_, ms| if ms < 1_000 { Err(Unread::Io) } else { Ok(7) };
        assert_eq!(watched(2_000, late).1, DiskSight::Unknown);
        let late_on_two = |disk, ms| {
            if disk == 0 {
                Err(Unread::Io)
            } else {
                late(disk, ms)
            }
        };
        assert_eq!(
            watched(2_000, late_on_two).1,
            DiskSight::Unknown,
            "two of three are a majority"
        );
    }

    #[test]
    fn a_sign_of_life_counts_for_less_than_the_limit() {
        let mut watch = SlotWatch::default();
        watch.see(at(0), at(0), Ok(&slot(1)));
        watch.see(at(100), at(100), Ok(&slot(2)));
        let just = |now: Instant| Instant::from_nanos(now.as_nanos() - 1);
        assert!(watch.alive(just(at(1_600)), LIMIT) && !watch.alive(at(1_600), LIMIT));
        assert!(watch.readable(just(at(1_600)), LIMIT) && !watch.readable(at(1_600), LIMIT));
        let mut wire = WireWatch::new(at(0), 1);
        let (_, nonce) = wire.send(at(100));
        assert!(wire.echo(at(150), nonce));
        assert_eq!(wire.last(), at(100));
        assert_eq!(wire.sight(just(at(1_600)), LIMIT), WireSight::Alive);
        assert_eq!(wire.sight(at(1_600), LIMIT), WireSight::Silent);
    }

    #[test]
    fn the_first_sight_of_a_slot_is_no_sign_of_life_and_a_change_is() {
        let mut watch = SlotWatch::default();
        assert!(!watch.shown());
        assert!(!watch.see(at(0), at(0), Err(Unread::Io)), "never seen");
        assert!(!watch.shown(), "and so it shows nothing");
        assert!(!watch.see(at(100), at(100), Ok(&slot(1))));
        assert!(watch.shown() && watch.last().is_none());
        assert!(!watch.see(at(200), at(200), Ok(&slot(1))));
        assert!(watch.see(at(300), at(300), Ok(&slot(2))));
        assert_eq!(watch.last(), Some(at(300)));
        watch.see(at(400), at(400), Err(Unread::Io));
        assert!(!watch.shown(), "what stands there now is not known");
        watch.see(at(500), at(500), Err(Unread::Checksum));
        assert!(watch.shown());
        assert_eq!(
            watch.last(),
            Some(at(500)),
            "whatever tore it may have been alive"
        );
        watch.see(at(600), at(600), Err(Unread::Content));
        assert_eq!(watch.last(), Some(at(500)), "it has torn once");
    }

    #[test]
    fn nonces_are_remembered_in_bounds_and_come_from_the_generator_that_is_named() {
        // The published first values for this seed.
        let first = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        let mut wire = WireWatch::new(at(0), 1_234_567);
        let sent: Vec<(u64, u64)> = (0..200).map(|ms| wire.send(at(ms))).collect();
        for (count, nonce) in first.into_iter().enumerate() {
            assert_eq!(sent[count], (count as u64 + 1, nonce));
        }
        assert_eq!(wire.sent.len(), NONCES);
        let oldest = sent.len() - NONCES;
        assert!(
            !wire.clone().echo(at(300), sent[oldest - 1].1),
            "beyond every limit"
        );
        assert!(wire.clone().echo(at(300), sent[oldest].1));
        assert!(wire.echo(at(300), sent[oldest + 1].1));
        assert!(!wire.echo(at(300), sent[oldest].1), "overtaken");
        let trip = wire.round_trip;
        assert!(wire.echo(at(900), sent[oldest + 1].1));
        assert_eq!(wire.round_trip, trip, "the same echo once more is no slower trip");
    }
}
