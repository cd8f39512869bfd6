//! Membership: which record this controller wants next, and how it comes about.
//!
//! ```text
//!  not a member --(eligible, alone or with consent)--> {me} sealed --(partner equal)--> {a, b} open
//!                                                       |  ^  \--(operator)--> {me} open --/   |
//!                                                       +--+ partner dead, rebooted <----------+
//! ```
//!
//! What is wanted is a function of what is known, asked again at every step; a wish that has gone is withdrawn unless
//! this controller has voted. Before the first ballot the configuration is frozen, and stays so until the instance is
//! decided or given up without a vote of this controller (K3, K7, K13).

use crate::area::{Letter, Role};
use crate::detect::WireSight;
use crate::effect::{Effect, Note};
use crate::event::{ConfigStatus, Victim};
use crate::machine::{Core, Fence, Freeze};
use crate::record::{Base, Members, Mode, Record};
use crate::set::QuorumSet;
use crate::table::Partner;
use crate::time::Instant;
use crate::timing::{lease_gone_after, watchdog_gone_after};
use pollux_api::id::{ControllerId, Incarnation, LogLength};

/// The record that is wanted next, but for its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    members: Members,
    mode: Mode,
    base: From,
    disks: QuorumSet,
}

/// Which point of the log the next record stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// What this controller's session acknowledged if it was acknowledging, otherwise its whole durable log.
    Acknowledged,
    /// The whole durable log.
    Whole,
    /// What the present record stands on.
    Record,
}

impl Core {
    /// The partner is as good as dead by what was sighted.
    pub(crate) fn partner_dead(&self) -> bool {
        match self.verdict {
            Partner::TakeOver | Partner::TakeOverAtOnce => true,
            Partner::Normal
            | Partner::Watch
            | Partner::AlarmDisk
            | Partner::Receive
            | Partner::ReceiveByMailbox
            | Partner::Ask
            | Partner::AwaitStop
            | Partner::LockAndGoOn
            | Partner::TakeNothing => false,
        }
    }

    /// The partner was heard or seen alive by what was sighted.
    pub(crate) fn partner_alive(&self) -> bool {
        use crate::detect::DiskSight as D;
        let disk = match self.disk_sight.0 {
            D::Alive | D::SomeStill | D::MostStill => true,
            D::Unknown | D::Still | D::Unreadable => false,
        };
        !self.partner_dead() && (disk || self.wire_sight.0 == WireSight::Alive)
    }

    /// The letter of the partner, if it is meant for this incarnation in this epoch.
    pub(crate) fn mail(&self) -> Option<&Letter> {
        let letter = &self.partner.letter;
        let valid = letter.from == self.partner.incarnation
            && letter.to == self.params.incarnation
            && letter.epoch == self.record().epoch;
        valid.then_some(letter)
    }

    /// The own log contains this point, as far as is known.
    fn contains(&self, base: Base) -> Option<bool> {
        let config = self.config?;
        if base.length == LogLength::new(0) || base == config.log {
            return Some(true);
        }
        if config.log.length <= base.length {
            return Some(false);
        }
        self.probe
            .filter(|(asked, ..)| *asked == base)
            .and_then(|(_, answer, _)| answer)
    }

    /// What this controller could go on with, alone and not being a member.
    pub(crate) fn eligible(&self) -> Option<Want> {
        let config = self.config?;
        let record = self.record();
        // A log that lacks what the record stands on, or is in dispute, must not be served from (S3).
        if config.diverged || self.contains(record.base) != Some(true) {
            return None;
        }
        let members = Members::alone(self.me(), self.params.incarnation);
        let mine = record.members.get(self.me()).is_some();
        let theirs = record.members.get(self.me().partner()).is_some();
        let (mode, base) = match (mine, theirs, record.mode) {
            (true, true, Mode::Open | Mode::Sealed) => (Mode::Sealed, From::Acknowledged),
            (true, false, Mode::Open) => (Mode::Open, From::Whole),
            (true, false, Mode::Sealed) | (false, true, Mode::Sealed) => (Mode::Sealed, From::Record),
            (false, true, Mode::Open) if self.wishes.override_of == Some(record.epoch) => {
                (Mode::Sealed, From::Whole)
            }
            (false, true, Mode::Open) | (false, false, Mode::Open | Mode::Sealed) => return None,
        };
        let disks = record.disks;
        let want = Want {
            members,
            mode,
            base,
            disks,
        };
        self.gives_nothing_away(&want).then_some(want)
    }

    /// The own log was lost, or lacks what the record stands on.
    fn lacking(&self) -> bool {
        let base = self.record().base;
        self.config
            .is_some_and(|config| config.lost || config.log.length < base.length)
    }

    /// Such a log is no base: a record on it would give away what it lacks.
    fn gives_nothing_away(&self, want: &Want) -> bool {
        want.base == From::Record || !self.lacking()
    }

    /// Both have booted and neither is a member: would the partner go on rather than this controller? (K16)
    fn partner_preferred(&self) -> Option<bool> {
        let theirs = self
            .partner
            .advert
            .filter(|advert| advert.role == Role::Waiting)?;
        let log = self.config?.log;
        let rank = |controller: ControllerId| controller == ControllerId::A;
        let mine = (
            self.eligible().is_some(),
            self.record().epoch,
            log.length,
            rank(self.me()),
        );
        let theirs = (
            theirs.eligible,
            theirs.epoch,
            theirs.log.length,
            rank(self.me().partner()),
        );
        Some(theirs > mine)
    }

    /// Neither this incarnation nor the partner's present one is a member.
    fn both_booted(&self) -> bool {
        !self.member() && self.partner_member() != Some(self.partner.incarnation)
    }

    /// Consent to the partner's going on alone.
    pub(crate) fn consents(&self) -> bool {
        !self.was_member
            && self.both_booted()
            && self.partner_alive()
            && self.partner_preferred() == Some(true)
    }

    /// Serving alone, and the partner is there to be joined.
    pub(crate) fn join_wanted(&self) -> bool {
        let waiting = self
            .partner
            .advert
            .is_some_and(|advert| advert.role == Role::Waiting && advert.shelf);
        let ended = self
            .fence
            .is_some_and(|fence| self.partner.incarnation > fence.victim);
        self.member()
            && self.partner_member().is_none()
            && self.role() == Role::Serving
            && self.wire_sight.0 == WireSight::Alive
            && waiting
            && ended
            // It has nothing to give, and would stand still in vain while it could get its own log back.
            && !self.lacking()
            // P32: what was taken from the last incarnation is finished first.
            && !self.pools.iter().any(|(id, pool)| pool.taking() || pool.failures == 0 && self.wants_back(*id))
    }

    /// The record that is wanted next, and can be had.
    pub(crate) fn want(&self, now: Instant) -> Option<Want> {
        self.wish(now).filter(|want| self.gives_nothing_away(want))
    }

    /// Another epoch is being decided, or wanted.
    #[must_use]
    pub fn arbitrates(&self, now: Instant) -> bool {
        self.arbiter.running() || self.wish(now).is_some()
    }

    fn wish(&self, now: Instant) -> Option<Want> {
        let record = self.record();
        let alone = Members::alone(self.me(), self.params.incarnation);
        if !self.member() {
            if self.was_member || self.wishes.shutdown.is_some() || self.imports.is_none() {
                return None;
            }
            let want = self.eligible()?;
            if self.partner_dead() {
                return Some(want);
            }
            let agreed = self.both_booted()
                && self.partner_alive()
                && self.partner_preferred() == Some(false)
                && self.mail().is_some_and(|letter| letter.consent);
            return agreed.then_some(want);
        }
        let sealed = Want {
            members: alone,
            mode: Mode::Sealed,
            base: From::Acknowledged,
            disks: record.disks,
        };
        if let Some(theirs) = self.partner_member() {
            // K14: a rebooted partner has lost its state, however fast it was.
            let rebooted = self.partner.incarnation > theirs;
            let forced = self.wishes.force == Some(record.epoch);
            if self.partner_dead() || rebooted || forced {
                return Some(sealed);
            }
        } else {
            let frozen = self
                .freeze
                .filter(|freeze| freeze.epoch == record.epoch.next())
                .and_then(|f| f.done);
            let theirs = self.partner.advert;
            let equal = frozen.is_some_and(|status| theirs.is_some_and(|advert| advert.log == status.log));
            // K3: chosen only after catch-up, and only by the one that serves.
            if self.join_wanted() && equal {
                let members = alone.with(self.me().partner(), self.partner.incarnation);
                return Some(Want {
                    members,
                    mode: Mode::Open,
                    base: From::Whole,
                    disks: record.disks,
                });
            }
            let open = self.wishes.open == Some(record.epoch) && record.mode == Mode::Sealed;
            if open && !self.partner_alive() {
                return Some(Want {
                    members: alone,
                    mode: Mode::Open,
                    base: From::Whole,
                    disks: record.disks,
                });
            }
        }
        self.want_same(now)
    }

    /// A record with the same members, for another reason than who they are.
    fn want_same(&self, now: Instant) -> Option<Want> {
        let record = self.record();
        let base = match (self.partner_member(), record.mode) {
            (None, Mode::Open) => From::Whole,
            (Some(_), _) | (None, Mode::Sealed) => From::Record,
        };
        let same = |disks| Want {
            members: record.members,
            mode: record.mode,
            base,
            disks,
        };
        // S6: exclusion was lost; the members are confirmed by a new epoch before it is taken again.
        let renew = self
            .renew
            .iter()
            .any(|(id, epoch)| *epoch == record.epoch && self.wants_back(*id));
        if renew {
            return Some(same(record.disks));
        }
        if record.disks.leaving().is_some() {
            let ends = now >= self.end_change_at() && self.copied();
            return ends.then(|| same(record.disks.settled()));
        }
        // Whoever waits to be joined is joined first.
        self.wanted_set().filter(|_| !self.join_wanted()).map(same)
    }

    fn build(&self, want: Want, status: &ConfigStatus) -> Record {
        let record = self.record();
        let base = match want.base {
            From::Acknowledged if status.acknowledging => status.acknowledged,
            From::Acknowledged | From::Whole => status.log,
            From::Record => record.base,
        };
        let epoch = record.epoch.next();
        Record {
            epoch,
            members: want.members,
            mode: want.mode,
            base,
            disks: want.disks,
        }
    }

    /// A vote of the partner in the present instance that has to be finished before the highest epoch is known.
    pub(crate) fn partner_voted(&self) -> bool {
        let instance = self.arbiter.block().instance;
        let votes = self.disks.iter().filter_map(|disk| disk.vote.as_ref());
        votes
            .into_iter()
            .any(|(vote, _)| vote.instance == instance && vote.value.is_some())
    }

    pub(crate) fn membership(&mut self, now: Instant) {
        self.set_fence(now);
        self.ask_probe(now);
        self.catch_up(now);
        let epoch = self.record().epoch.next();
        let want = self.want(now);
        let finish = self.arbiter.voted() || (want.is_none() && self.partner_dead() && self.partner_voted());
        if want.is_none() && !finish && self.arbiter.running() {
            self.arbiter.abandon();
            self.emit(Effect::Note(Note::Abandoned {
                epoch,
                reason: "its reason has gone",
            }));
        }
        if want.is_none() && !finish && !self.join_wanted() {
            if let Some(freeze) = self.freeze.take() {
                self.emit(Effect::ConfigUnfreeze { epoch: freeze.epoch });
            }
            return self.step_fence(now);
        }
        let retry = self.params.timing.slot_period;
        let frozen = self.freeze.filter(|freeze| freeze.epoch == epoch);
        if frozen.is_none_or(|freeze| freeze.done.is_none() && now >= freeze.asked + retry) {
            self.freeze = Some(Freeze {
                epoch,
                asked: now,
                done: None,
            });
            self.emit(Effect::ConfigFreeze { epoch });
        }
        let frozen = self.freeze.is_some_and(|freeze| freeze.done.is_some());
        // An earlier daemon knew what was decided, told it, and ended before it stood on a disk. Nothing stands still for
        // that any more, and nothing has to: what a majority voted for is found and finished, and nothing new is proposed.
        let decided = self.config.is_some_and(|config| config.epoch >= Some(epoch));
        if (frozen || decided) && (want.is_some() || finish) && !self.arbiter.running() {
            if now >= self.propose_at {
                self.emit(Effect::Note(Note::Proposing { epoch }));
                self.arbiter.propose();
            } else {
                self.wake_at(self.propose_at);
            }
        }
        self.step_fence(now);
    }

    /// A majority has promised. The last moment at which the living are spared (S5, K18).
    pub(crate) fn promised(&mut self, now: Instant, bound: Option<Record>) {
        // The reading that completes the majority may itself be the sign of life.
        self.sights(now);
        let status = self
            .freeze
            .filter(|freeze| freeze.epoch == self.record().epoch.next())
            .and_then(|f| f.done);
        // What a fresh look says, not the look before the ballot.
        let wish = self
            .want(now)
            .zip(status)
            .map(|(want, status)| self.build(want, &status));
        if bound.is_none() && wish.is_none() {
            self.arbiter.abandon();
            let epoch = self.record().epoch.next();
            return self.emit(Effect::Note(Note::Abandoned {
                epoch,
                reason: "the partner showed life before the vote",
            }));
        }
        self.arbiter.vote(wish);
    }

    /// A record is known that was not, or the daemon has just read its own area.
    pub(crate) fn adopt_record(&mut self, now: Instant) {
        self.follow_set(now);
        let record = *self.record();
        self.attempts = 0;
        self.propose_at = now;
        self.decided_at = now;
        self.decided_stamp = self.stamp();
        self.decided_version = self.arbiter.version();
        self.disks.iter_mut().for_each(crate::machine::Disk::read_soon);
        if self.freeze.is_some_and(|freeze| freeze.epoch <= record.epoch) {
            self.freeze = None;
        }
        self.renew.retain(|_, epoch| *epoch >= record.epoch);
        let member = self.member();
        if member && record.members.both() {
            self.fence = None;
        } else {
            self.set_fence(now);
        }
        // An epoch was missed: while this controller waited, the partner may have joined it and fenced it again. What it
        // never knew cannot have left anything imported, but the partner waits for the end of this incarnation.
        let missed = self.waited.is_some_and(|known| record.epoch > known.next());
        self.was_member |= member || missed;
        self.previous = Some(record);
    }

    /// Sets the fence of a lone member, as soon as it is known around whom. Whoever was up when the record was decided knows
    /// it from the record before. A daemon that starts under a lone record does not: it has to read first what the partner
    /// wrote, on a majority of the disks, because a pool was imported only under a claim that stands on a majority. Whose
    /// blocks are torn on all of them has lost its power, and with it whatever it held.
    pub(crate) fn set_fence(&mut self, now: Instant) {
        let alone = self.member() && !self.record().members.both();
        let before = self
            .previous
            .and_then(|record| record.members.get(self.me().partner()));
        if !alone || self.fence.is_some() || before.is_none() && !self.ballots_known() {
            return;
        }
        self.fence = Some(Fence {
            epoch: self.record().epoch,
            victim: self.last_member(),
            since: now,
            stamp: self.stamp(),
            cut_at: None,
        });
    }

    /// This is a lone member, and whom it has to fence is not known yet.
    pub(crate) fn victim_unknown(&self) -> bool {
        self.fence.is_none() && self.member() && !self.record().members.both()
    }

    /// The last incarnation of the partner that may have been a member of a record without being one now.
    fn last_member(&self) -> Incarnation {
        let partner = self.me().partner();
        let recorded = self.previous.and_then(|record| record.members.get(partner));
        let claims = self.disks.iter().filter_map(|disk| disk.claims.as_ref());
        let claimed = claims
            .flat_map(|(claims, _)| claims.pools.values().map(|claim| claim.incarnation))
            .max();
        let said = self.partner.advert.filter(|advert| {
            matches!(
                advert.role,
                Role::Serving | Role::Releasing | Role::Dying | Role::Left
            )
        });
        let said = said.map(|advert| advert.incarnation);
        recorded.max(claimed).max(said).unwrap_or(Incarnation::new(0))
    }

    // ---- the fence ------------------------------------------------------------------------------------------

    pub(crate) fn victim(&self) -> Victim {
        let incarnation = self.fence.map_or(Incarnation::new(0), |fence| fence.victim);
        Victim {
            controller: self.me().partner(),
            incarnation,
        }
    }

    /// The victim's incarnation has ended: there is a later one, or it, or a later one, has said good-bye.
    pub(crate) fn rebooted(&self) -> bool {
        self.fence.is_some_and(|fence| {
            self.partner.incarnation > fence.victim || self.partner.farewell >= Some(fence.victim)
        })
    }

    /// It was reported off, to a question asked after the choice: the victim ran before the choice, so it has ended, whether
    /// or not anything of it was ever seen here.
    pub(crate) fn powered_off(&self) -> bool {
        let off = self.partner.off;
        self.fence
            .is_some_and(|fence| off.is_some_and(|(_, asked)| asked >= fence.since))
    }

    /// The victim's armed watchdog has fired.
    pub(crate) fn waited(&self) -> bool {
        let Some(deadline) = self.wait_deadline() else {
            return false;
        };
        self.slots_read_at().is_some_and(|read| read >= deadline)
    }

    /// From when on readings confirm the rung of waiting; none: it proves nothing for this victim.
    pub(crate) fn wait_deadline(&self) -> Option<Instant> {
        let fence = self.fence?;
        let advert = self
            .partner
            .advert
            .filter(|advert| advert.incarnation == fence.victim)?;
        let provable = advert.watchdog && !advert.pausable && !self.params.pausable;
        provable.then(|| self.partner_last() + watchdog_gone_after(advert.figures))
    }

    /// When the old owner's lease has surely run out; none: it has, or the old owner has ended.
    pub(crate) fn lease_clear_at(&self) -> Option<Instant> {
        let fence = self.fence?;
        let ended = fence.victim == Incarnation::new(0) || self.rebooted() || self.powered_off();
        if ended {
            return None;
        }
        let figures = self
            .partner
            .advert
            .map_or(self.params.timing.figures(), |advert| advert.figures);
        let own = lease_gone_after(self.params.timing.figures());
        Some(self.partner_last() + own.max(lease_gone_after(figures)))
    }

    /// The old owner answers nobody any more (S7, K4).
    pub(crate) fn lease_gone(&self, now: Instant) -> bool {
        if self.victim_unknown() {
            return false;
        }
        let Some(clear_at) = self.lease_clear_at() else {
            return true;
        };
        // Its slot was read after the choice, so a write that came before its reading of my vote was seen.
        let read = self.fence.is_some_and(|fence| self.slots_read() >= fence.stamp);
        read && now >= clear_at
    }

    /// Power, asked for again and again until it is off or the victim has ended otherwise.
    fn step_fence(&mut self, now: Instant) {
        let Some(fence) = self.fence else { return };
        let nobody = fence.victim == Incarnation::new(0);
        if nobody || self.rebooted() || self.powered_off() || !self.params.power_rung {
            return;
        }
        let retry = self.params.timing.retry;
        if fence.cut_at.is_none_or(|at| now >= at + retry) {
            let victim = self.victim();
            if fence.cut_at.is_none() {
                self.emit(Effect::Note(Note::Fencing(victim)));
            }
            self.emit(Effect::PowerOff(victim));
            self.fence = Some(Fence {
                cut_at: Some(now),
                ..fence
            });
        }
        self.wake_at(now + retry);
    }

    // ---- what is said to the configuration and to the partner -----------------------------------------------

    fn ask_probe(&mut self, now: Instant) {
        let base = self.record().base;
        if self.config.is_none() || self.contains(base).is_some() || self.member() {
            return;
        }
        let retry = self.params.timing.retry;
        let asked = self.probe.filter(|(asked, ..)| *asked == base);
        if asked.is_none_or(|(_, _, at)| now >= at + retry) {
            self.probe = Some((base, None, now));
            self.emit(Effect::ConfigProbe { base });
        }
    }

    /// The joiner becomes equal to the one that serves.
    fn catch_up(&mut self, now: Instant) {
        let invited = !self.member()
            && self.wire_sight.0 == WireSight::Alive
            && self.partner_member() == Some(self.partner.incarnation)
            && self.mail().is_some_and(|letter| letter.invite);
        if !invited {
            self.caught_up = false;
            self.catch_up_at = now;
            return;
        }
        // Equal to what it says now, not to what it said before it stood still.
        let equal = self.config.map(|config| config.log) == self.partner.advert.map(|advert| advert.log);
        if !(self.caught_up && equal) && now >= self.catch_up_at {
            self.catch_up_at = now + self.params.timing.retry;
            self.emit(Effect::ConfigCatchUp);
        }
    }

    pub(crate) fn compose(&self, now: Instant) -> Letter {
        let epoch = self.record().epoch;
        let frozen = self
            .freeze
            .is_some_and(|freeze| freeze.epoch == epoch.next() && freeze.done.is_some());
        Letter {
            from: self.params.incarnation,
            to: self.partner.incarnation,
            epoch,
            consent: self.consents(),
            invite: frozen && self.join_wanted(),
            asks: self.asks(now),
            gifts: self.gifts(now),
        }
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
