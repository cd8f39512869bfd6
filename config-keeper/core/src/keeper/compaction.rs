//! The clerk who makes room: the first pages of a ledger go, and what they amount to stays.
//!
//! ```text
//!   gone            kept, `keep` entries at least             not acknowledged
//! ----------|--------------------------------------------|--------------------
//!   rows    |  history, actions known again, tails        |
//!
//! two members      up to acknowledged - keep               both hold that, durably
//! alone            up to base - keep                       whoever comes back held the base, or nearly
//!                  or acknowledged - 4 keep                however long it is away
//! ```
//!
//! It happens when nobody waits for an answer, a few entries at a time; under a load without a pause it begins when twice
//! as much is kept as has to be. Whoever comes back and finds that the giver does not keep what it missed gets the rows with
//! which the giver's log begins, and the entries behind them. What it had, and is not known to be in that history, is set
//! aside.
//!
//! Never: an entry that is not acknowledged; anything while the log is lost, is being copied, or an epoch is being decided.

use super::*;

impl Keeper {
    /// Lets the first entries go, if it is time.
    pub(super) fn compact(&mut self) {
        let Some(record) = self.epoch.as_ref() else { return };
        let quiet = self.frozen.is_none() && self.diverged.is_none() && self.catching.is_none() && !self.lost;
        let counts = self.is_member(record) && self.contains_base(record);
        if !quiet || !counts || self.jobs.iter().any(|job| job.compact) {
            return;
        }
        let behind = self.acknowledged.saturating_sub(self.keep);
        let bound = if record.members.len() > 1 {
            behind
        } else {
            let base = record.base_length.saturating_sub(self.keep);
            let most = self.acknowledged.saturating_sub(self.keep.saturating_mul(4));
            behind.min(base.max(most))
        };
        let gone = self.compacted.facts.length;
        let excess = bound.saturating_sub(gone);
        // So few at a time that whoever comes meanwhile does not wait for long.
        let step = (self.keep / 256).max(1);
        if excess < step || !self.waiters.is_empty() && excess < self.keep {
            return;
        }
        let base = (record.base_length, record.base_hash);
        for entry in self.log.drain(..step as usize) {
            if self.actions.get(&entry.action_id) == Some(&entry.index) {
                self.actions.remove(&entry.action_id);
            }
            self.compacted.take(&entry);
        }
        self.weights.drain(..step as usize);
        // What the record stands on stays known.
        self.compacted.facts.base = Some(base).filter(|(at, _)| *at > 0 && *at < gone + step);
        self.store(Job::Compact(self.compacted.facts), vec![]);
    }

    /// What an asker who knows this log up to `after` gets instead of entries that are gone.
    pub(super) fn beginning_for(&self, after: u64, fetch: &Fetch) -> Option<CompactedPart> {
        (after < self.compacted.facts.length).then(|| self.beginning(fetch.part_after))
    }

    /// The rows with which the log begins, behind those that are known, as many as fit into a message.
    #[must_use]
    pub fn beginning(&self, known: Option<config::PartAfter>) -> CompactedPart {
        let known = known.filter(|known| known.hash == self.compacted.facts.hash);
        self.compacted.part(known.map(|known| known.key), BATCH_BYTES)
    }

    /// The log is being replaced by one that begins with rows, and that is not durable yet: there is nothing to show.
    #[must_use]
    pub const fn is_beginning(&self) -> bool {
        self.acknowledged < self.compacted.facts.length
    }

    /// Takes rows with which the partner's log begins.
    pub(super) fn take_beginning(&mut self, fetched: &Fetched, part: CompactedPart) -> Result<(), Refusal> {
        let nonsense =
            |what: String| Refusal::Partner(format!("the partner's history makes no sense: {what}"));
        let of = part.of;
        if fetched.length < of.length || fetched.after >= of.length {
            return Err(nonsense(format!(
                "its first {} entries are gone, and it has {}; {} are common",
                of.length, fetched.length, fetched.after
            )));
        }
        if self.compare(of.length, of.epoch, of.hash)
            && let Some(diverged) = self.diverged.clone()
        {
            return Err(Refusal::Diverged(diverged));
        }
        let Some(catching) = &mut self.catching else {
            return Ok(());
        };
        match Arriving::take(catching.arriving.take(), part).map_err(nonsense)? {
            Err(arriving) => catching.arriving = Some(arriving),
            Ok(with) => self.begin_with(with, fetched.after, vec![Then::Begun]),
        }
        Ok(())
    }

    /// The log begins with this. What was behind `common` is not known to be in that history.
    pub(super) fn begin_with(&mut self, with: Compacted, common: u64, then: Vec<Then>) {
        let aside = self.put_aside(common);
        if let Some(catching) = &mut self.catching {
            catching.copied += with.facts.length.saturating_sub(common);
            catching.aside += aside.len() as u64;
            catching.verified = with.facts.length;
            catching.goal = None;
        }
        self.log.clear();
        self.weights.clear();
        self.actions.clear();
        self.log_format = with.facts.format;
        self.head = Book::from(&with.tables);
        self.shown = Book::default();
        (self.acknowledged, self.announced, self.durable) = (0, 0, 0);
        self.compacted.clone_from(&with);
        self.store(
            Job::Begin {
                with: Box::new(with),
                aside,
            },
            then,
        );
        self.effects.0.push(Effect::Moved);
    }

    /// Entries behind `keep` lose their place: each with whether it may have been acknowledged.
    pub(super) fn put_aside(&self, keep: u64) -> Vec<(LogEntry, bool)> {
        let lost = |entry: LogEntry| {
            let counted = entry.index <= self.acknowledged || self.was_alone(&entry);
            (entry, counted)
        };
        self.entries(keep, self.length()).into_iter().map(lost).collect()
    }
}
