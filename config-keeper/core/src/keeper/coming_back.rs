//! The clerk who was away: a joiner becomes equal to the partner, a lost log is got back from the partner or from a backup.
//!
//! ```text
//! catch_up (heartbeat asks)  --+
//!                              +-->  pump_fetch --> fetch_out --> mend --> ... until both logs are one
//! repair (the log is lost)   --+
//! restore (a person gives a backup)  -->  entries behind the own end, until the record's base is held
//! ```
//!
//! Never: a log that counts before it holds what the record stands on; an entry cut off without being kept aside.

use super::*;

impl Keeper {
    pub(super) fn catch_up(&mut self, request: Request) {
        let serving = self.role != Role::Idle
            || self
                .epoch
                .as_ref()
                .is_some_and(|record| self.is_member(record) && self.contains_base(record));
        if serving {
            let what = "this controller is a member: its history is the array's".to_owned();
            return self.refuse(
                request,
                Refusal::Conflict(what, "ask the controller that is to join".into()),
            );
        }
        if let Some(diverged) = self.diverged.clone() {
            return self.refuse(request, Refusal::Diverged(diverged));
        }
        if let Some(what) = self.broken.clone() {
            return self.refuse(request, Refusal::Storage(what));
        }
        if self.catching.is_some() {
            let what = "a catch-up is running".to_owned();
            return self.refuse(request, Refusal::Conflict(what, "wait for it".into()));
        }
        self.catching = Some(CatchingUp::of(Some(request)));
    }

    /// What helps a controller whose log lacks what it was counted for.
    pub(super) fn way_back(&self, record: &EpochRecord) -> String {
        if !self.lost {
            return "wait for its catch-up".to_owned();
        }
        let ways = "restore a copy of the database (`pollux config restore`), or have the partner go on with the copy that \
                    it holds (`pollux takeover --override`)";
        if record.open && record.members.len() == 1 {
            format!("nobody else holds what was changed since this controller is alone: {ways}")
        } else {
            format!(
                "wait: it is copied from the partner as soon as that one answers; if it never will: {ways}"
            )
        }
    }

    /// A member that does not hold what it was counted for. A log that contains all that a sealed record stands on lacks
    /// nothing: nothing was acknowledged behind it.
    pub(super) fn is_lacking(&mut self, record: &EpochRecord) -> bool {
        if !self.is_member(record) {
            return false;
        }
        if !self.contains_base(record) {
            self.lost = true;
        } else if !record.open && record.members.len() == 1 {
            self.found();
        }
        self.lost
    }

    /// The log holds again what this controller was counted for. The database learns it with a session, the one it knows.
    pub(super) fn found(&mut self) {
        self.lost = false;
        self.unrepaired = None;
        if core::mem::take(&mut self.lost_on_disk) {
            let (epoch, session) = (self.session_epoch, self.session);
            self.store(Job::Session { epoch, session }, vec![]);
        }
    }

    /// Gets a lost log back from the partner, where its log is proof enough.
    pub(super) fn repair(&mut self, record: &EpochRecord) {
        let provable = record.members.len() > 1 || !record.open;
        if provable && self.catching.is_none() {
            self.catching = Some(CatchingUp::of(None));
        }
    }

    /// What the partner gave is used for the repair as far as it is proof: all of it if both are members, up to the base
    /// if this controller is alone and sealed.
    pub(super) fn provable(&self, mut fetched: Fetched) -> Result<Fetched, String> {
        if fetched.lost {
            return Err("the partner has lost its database as well".to_owned());
        }
        let Some(record) = self.epoch.as_ref().filter(|record| self.is_member(record)) else {
            return Err("this controller is no member any more".to_owned());
        };
        if record.members.len() > 1 {
            return Ok(fetched);
        }
        let (base_length, base_hash) = (record.base_length, record.base_hash);
        if let Some(part) = &fetched.compacted
            && (part.of.length > base_length || part.of.length == base_length && part.of.hash != base_hash)
        {
            return Err(format!(
                "the partner does not keep its first {} entries, and what is needed ends with entry {base_length}",
                part.of.length
            ));
        }
        if fetched.length < record.base_length {
            return Err(format!(
                "the partner's log ends with entry {}, and {} are needed",
                fetched.length, record.base_length
            ));
        }
        fetched.entries.retain(|entry| entry.index <= record.base_length);
        (fetched.length, fetched.hash) = (record.base_length, record.base_hash);
        fetched.after = fetched.after.min(record.base_length);
        Ok(fetched)
    }

    pub(super) fn pump_fetch(&mut self) {
        if !self.jobs.is_empty() || self.length() > self.durable {
            return;
        }
        let (length, hash) = (self.durable, self.hash_at(self.durable).unwrap_or_default());
        let frozen = self.frozen.is_some();
        let gone = self.compacted.facts.length;
        let Some(catching) = &mut self.catching else {
            return;
        };
        // Frozen, a lost log stays what it is, like any other.
        if catching.asked || frozen && catching.request.is_none() {
            return;
        }
        if let Some((_, _, frozen)) = catching
            .goal
            .filter(|(goal, goal_hash, _)| (*goal, *goal_hash) == (length, hash))
        {
            let done = CaughtUp {
                length,
                hash,
                equal: frozen,
                copied: catching.copied,
                set_aside: catching.aside,
            };
            let request = catching.request;
            self.catching = None;
            return match request {
                Some(request) => self.answer(request, Ok(Answer::CaughtUp(done))),
                None => self.repaired(),
            };
        }
        catching.asked = true;
        let part_after = catching.arriving.as_ref().and_then(Arriving::after);
        // Points from the end backwards, further apart each time, down to where the log begins.
        let steps =
            core::iter::successors(Some(1_u64), |step| step.checked_mul(2)).scan(length, |at, step| {
                let here = *at;
                *at = at.saturating_sub(step);
                Some(here)
            });
        let points = Some(catching.verified)
            .filter(|at| *at > gone)
            .into_iter()
            .chain(steps.take_while(|at| *at > gone))
            .chain(Some(gone).filter(|at| *at > 0));
        let points = points.filter_map(|at| Some((at, self.hash_at(at)?))).collect();
        self.effects.0.push(Effect::Fetch(Fetch {
            points,
            limit: BATCH_ENTRIES as u32,
            lost: self.lost,
            part_after,
        }));
    }

    /// A backup in the place of a lost log. What it holds is a history of this array, which the hashes prove from entry to
    /// entry; that nothing was acknowledged behind its end is the word of the person who restores it.
    ///
    /// Never while the partner has the log: what it holds and the backup does not would be counted for this controller, too.
    pub(super) fn restore(&mut self, request: Request, restore: Restore, partner: Option<u64>) {
        let conflict = |what: String, remedy: &str| Refusal::Conflict(what, remedy.into());
        if !self.lost {
            let what = "no database is lost here".to_owned();
            return self.refuse(
                request,
                conflict(
                    what,
                    "`pollux config restore` makes the array what it was by a new change",
                ),
            );
        }
        if let Some(length) = partner.filter(|length| *length > 0) {
            let what = format!("the partner holds the log, with {length} changes");
            return self.refuse(
                request,
                conflict(
                    what,
                    "wait: it is copied from there; see `pollux why` if it is not",
                ),
            );
        }
        if let Some(what) = self.broken.clone() {
            return self.refuse(request, Refusal::Storage(what));
        }
        if self.frozen.is_some() || !self.jobs.is_empty() {
            let what = "an epoch is being decided, or the log is being written".to_owned();
            return self.refuse(request, conflict(what, "ask again"));
        }
        // What the partner gives meanwhile must not meet what a person gives.
        self.catching = None;
        if let Some(part) = restore.compacted {
            return self.bring_beginning(request, part);
        }
        self.brought = None;
        let mut fresh = Vec::new();
        for entry in restore.entries {
            if self.hash_at(entry.index) == Some(entry.hash) {
                continue;
            }
            if let Err(what) = self.push(entry.clone()) {
                // What came before it is sound, and stays.
                self.keep_restored(fresh, vec![]);
                return self.refuse(
                    request,
                    conflict(
                        format!("the backup does not go on where the log of this controller ends: {what}"),
                        "a backup of this array; or move what is here away (config.db) and start config-keeperd again",
                    ),
                );
            }
            fresh.push(entry);
        }
        if restore.last {
            let record = self.epoch.clone();
            // A member or not: who has booted since is none under this record, and will be under the next. What it stands on
            // may be on its way to the disk: the answer waits for that.
            let holds = |record: &EpochRecord| self.hash_at(record.base_length) == Some(record.base_hash);
            let whole = record.as_ref().is_some_and(holds);
            if !whole {
                let what = match &record {
                    Some(record) => format!(
                        "the backup ends with change {}, and epoch {} stands on change {} with hash {}",
                        self.length(),
                        record.epoch,
                        record.base_length,
                        record.base_hash
                    ),
                    None => "no epoch is known here, so nobody can say whether the backup is new enough"
                        .to_owned(),
                };
                self.keep_restored(fresh, vec![]);
                return self.refuse(
                    request,
                    conflict(
                        what,
                        "a newer backup; or let the partner go on with what it holds: `pollux takeover --override`",
                    ),
                );
            }
        }
        let last = restore.last;
        self.keep_restored(fresh, vec![Then::Restored { request, last }]);
    }

    /// Rows with which the log of a backup begins.
    fn bring_beginning(&mut self, request: Request, part: CompactedPart) {
        let of = part.of;
        let then = Then::Restored { request, last: false };
        if self.hash_at(of.length) == Some(of.hash) {
            return self.then(then); // They are here already.
        }
        match Arriving::take(self.brought.take(), part) {
            Ok(Ok(with)) => self.begin_with(with, 0, vec![then]),
            Ok(Err(arriving)) => {
                self.brought = Some(arriving);
                self.then(then);
            }
            Err(what) => self.refuse(
                request,
                Refusal::Conflict(
                    format!("the rows with which the backup begins are not whole: {what}"),
                    "another backup, or a sound copy of this one".into(),
                ),
            ),
        }
    }

    /// Makes restored entries durable; without any, what is to follow follows at once.
    pub(super) fn keep_restored(&mut self, fresh: Vec<LogEntry>, then: Vec<Then>) {
        if !fresh.is_empty() {
            return self.store(Job::Append(fresh), then);
        }
        for then in then {
            self.then(then);
        }
    }

    pub(super) fn repaired(&mut self) {
        self.found();
        self.effects.0.push(Effect::Moved);
        self.begin();
    }

    /// The follower has lost its log: nothing that was counted for it is there.
    pub(super) fn partner_lost(&mut self) {
        if matches!(self.role, Role::Sequencer(Session::Standing { .. })) {
            self.begin();
        }
    }

    pub(super) fn fetch_out(&mut self, answer: Result<Fetched, String>) {
        let Some(catching) = self.catching.as_mut().filter(|catching| catching.asked) else {
            return;
        };
        catching.asked = false;
        let Some(request) = catching.request else {
            return self.fetched_for_repair(answer);
        };
        let fetched = match answer {
            Ok(fetched) => fetched,
            Err(what) => {
                self.catching = None;
                return self.refuse(request, Refusal::Partner(what));
            }
        };
        let mended = if fetched.lost {
            let what = "the partner has lost its log, and has no history to give".to_owned();
            Err(Refusal::Partner(what))
        } else {
            self.mend(fetched)
        };
        if let Err(refusal) = mended {
            self.catching = None;
            self.refuse(request, refusal);
        }
    }

    pub(super) fn fetched_for_repair(&mut self, answer: Result<Fetched, String>) {
        if self.frozen.is_some() {
            return; // It is asked again when the freeze is over.
        }
        let given = answer.and_then(|fetched| self.provable(fetched));
        let done = given.and_then(|fetched| {
            // Sessions that the partner knows are not begun again.
            (self.session_epoch, self.session) =
                (self.session_epoch, self.session).max((fetched.session_epoch, fetched.session));
            self.mend(fetched)
                .map_err(|refusal| format!("the partner's log does not fit: {refusal:?}"))
        });
        if let Err(what) = done {
            self.catching = None; // The next tick begins again.
            self.unrepaired = Some(what);
            self.effects.0.push(Effect::Moved);
        }
    }

    /// Goes along both histories from a common point, and takes the partner's where they part.
    pub(super) fn mend(&mut self, fetched: Fetched) -> Result<(), Refusal> {
        let nonsense =
            |what: String| Refusal::Partner(format!("the partner's history makes no sense: {what}"));
        if let Some(part) = fetched.compacted.clone() {
            return self.take_beginning(&fetched, *part);
        }
        if fetched.after < self.compacted.facts.length {
            // Nothing that is kept here is in the partner's history.
            self.begin_with(Compacted::default(), fetched.after, vec![Then::Begun]);
            return Ok(());
        }
        if fetched.after > self.length() || fetched.length < fetched.after + fetched.entries.len() as u64 {
            return Err(nonsense(format!(
                "it goes on after {} of {}",
                fetched.after, fetched.length
            )));
        }
        let mut keep = fetched.after;
        let mut entries = fetched.entries.into_iter().peekable();
        while let Some(theirs) = entries.next_if(|theirs| self.hash_at(theirs.index) == Some(theirs.hash)) {
            if theirs.index != keep + 1 {
                return Err(nonsense(format!("entry {} after entry {keep}", theirs.index)));
            }
            keep += 1;
        }
        let entries: Vec<LogEntry> = entries.collect();
        if let Some(theirs) = entries.first()
            && self.compare(theirs.index, theirs.epoch, theirs.hash)
            && let Some(diverged) = self.diverged.clone()
        {
            return Err(Refusal::Diverged(diverged));
        }
        // Its end is reached and this log goes on: what goes on here is not in the survivor's history.
        let cut = !entries.is_empty() || keep == fetched.length;
        let aside = if cut { self.put_aside(keep) } else { vec![] };
        let (mut length, mut last) = (keep, self.hash_at(keep).unwrap_or_default());
        for entry in &entries {
            follows(length, last, entry).map_err(nonsense)?;
            (length, last) = (entry.index, entry.hash);
        }
        if let Some(catching) = &mut self.catching {
            catching.goal = Some((fetched.length, fetched.hash, fetched.frozen));
            catching.verified = length;
            catching.copied += entries.len() as u64;
            catching.aside += aside.len() as u64;
        }
        if aside.is_empty() && entries.is_empty() {
            if keep == self.length() && keep == fetched.length && self.hash_at(keep) != Some(fetched.hash) {
                return Err(nonsense("its hash is not that of its entries".into()));
            }
            if keep < fetched.length && keep == fetched.after {
                return Err(nonsense(format!(
                    "nothing came after entry {keep} of {}",
                    fetched.length
                )));
            }
            self.show(fetched.acknowledged.min(keep));
            return Ok(());
        }
        if !aside.is_empty() {
            self.cut(keep);
        }
        for entry in &entries {
            self.push(entry.clone()).map_err(nonsense)?;
        }
        self.announced = fetched.acknowledged;
        self.store(Job::Mend { keep, aside, entries }, vec![Then::Mended]);
        Ok(())
    }

    /// The entry was written by this controller alone, or by the partner alone: it needed no second disk.
    pub(super) fn was_alone(&self, entry: &LogEntry) -> bool {
        entry.session == 0
    }

    /// Cuts the log after `keep`.
    pub(super) fn cut(&mut self, keep: u64) {
        let entries = core::mem::take(&mut self.log);
        let acknowledged = self.acknowledged.min(keep);
        let gone = self.compacted.facts.length;
        self.weights.clear();
        self.actions.clear();
        self.head = Book::from(&self.compacted.tables);
        self.shown = Book::from(&self.compacted.tables);
        self.log_format = self.compacted.facts.format;
        (self.acknowledged, self.announced, self.durable) = (gone, 0, self.durable.min(keep));
        for entry in entries.into_iter().take((keep - gone) as usize) {
            self.record(entry);
        }
        self.show(acknowledged);
    }
}
