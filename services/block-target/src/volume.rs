//! A volume as hosts see it: one identity for life, and commands that find their way to wherever the data is.

use crate::backend::{BoxFuture, Failure, VolumeBackend, may_be_sent_again};
use crate::paths::{Pass, Paths, Refused, Scope};
use crate::ranges::{Ranges, Turn};
use crate::registry::{Admission, Legacy, LegacyStep, Registry, Running};
use crate::scsi::cdb::Command;
use crate::scsi::kind::Kind;
use crate::scsi::provisioning::Provisioning;
use crate::scsi::reservation::{Access, CommandId, In, Nexus, Out, Refusal, State, access_of};
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status};
use bytes::Bytes;
use pollux_api::id::VolumeId;
use pollux_api::target::{Backing, ResetReach};
use pollux_block_frame::{Behalf, Operation};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// What identifies a volume to hosts; equal on both controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its identity in the configuration; the designators of VPD page 83h come from it.
    pub id: VolumeId,
    /// Unit serial number.
    pub serial: String,
    /// Logical block size in bytes.
    pub block_size: u32,
}

/// One volume.
#[derive(Debug)]
pub struct Volume {
    identity: Identity,
    kind: Kind,
    blocks: AtomicU64,
    provisioning: Mutex<Provisioning>,
    write_cache: AtomicBool,
    paths: Arc<Paths>,
    local: Arc<dyn VolumeBackend>,
    partner: Arc<dyn VolumeBackend>,
    ranges: Arc<Ranges>,
    registry: Registry,
}

/// A command that only the owner of the volume can answer: it concerns reservations, or needs no more than to be let in.
#[derive(Clone, Debug)]
pub struct Question {
    /// Command descriptor block.
    pub cdb: [u8; 16],
    /// Names it for all times.
    pub id: CommandId,
    /// Parameter list.
    pub data: Bytes,
    /// A unit attention may be told.
    pub begins: bool,
}

/// Pause before a command is sent again to a pool that has not grown yet.
const BEHIND: Duration = Duration::from_millis(50);
/// Operation codes that no host can send: the unit was reset; its task set was cleared. An owner of an older build does not
/// know the second, and answers that there is no such command.
const RESET: u8 = 0xff;
const CLEARED: u8 = 0xfe;
/// In byte 1 of the former: and the target with it (TARGET COLD RESET).
const COLD: u8 = 1;

impl Question {
    fn untold(code: u8) -> Self {
        let mut cdb = [0; 16];
        cdb[0] = code;
        Self {
            cdb,
            id: [0; 16],
            data: Bytes::new(),
            begins: false,
        }
    }

    /// The nexus is lost: RELEASE(6).
    #[must_use]
    pub fn release() -> Self {
        Self::untold(0x17)
    }

    /// A unit attention of the nexus is asked for: REQUEST SENSE, in whose place the owner answers with one.
    #[must_use]
    pub fn poll() -> Self {
        Self {
            begins: true,
            ..Self::untold(0x03)
        }
    }

    /// The unit was reset, or its task set cleared.
    #[must_use]
    pub fn reset(reach: ResetReach) -> Self {
        match reach {
            ResetReach::Clear => Self::untold(CLEARED),
            ResetReach::Unit => Self::untold(RESET),
            ResetReach::Cold => {
                let mut question = Self::untold(RESET);
                question.cdb[1] = COLD;
                question
            }
        }
    }

    /// How far it goes, if it is a reset.
    #[must_use]
    pub fn is_reset(&self) -> Option<ResetReach> {
        match self.cdb[..2] {
            [CLEARED, _] => Some(ResetReach::Clear),
            [RESET, COLD] => Some(ResetReach::Cold),
            [RESET, _] => Some(ResetReach::Unit),
            _ => None,
        }
    }

    /// It is RESERVE(6).
    #[must_use]
    pub fn reserves(&self) -> bool {
        self.cdb[0] == 0x16
    }
}

/// How a [`Question`] was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the host hears.
    pub outcome: Outcome,
    /// Nexuses whose commands have to be aborted, and to have ended, before it does.
    pub aborts: Vec<Nexus>,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            aborts: Vec::new(),
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It did not get through.
    Refused(Refused),
    /// The backing has failed it.
    Failed(Failure),
    /// The host is answered with this: a reservation conflict, a unit attention.
    Answered(Outcome),
    /// Another host has aborted it.
    Aborted,
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Answered(outcome) => Self::Answered(outcome),
            Failure::Aborted => Self::Aborted,
            failure => Self::Failed(failure),
        }
    }
}

impl From<Refused> for Undone {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Volume {
    /// A volume of `blocks` blocks with a way to the local pool and one to the partner.
    #[must_use]
    pub fn new(
        identity: Identity,
        blocks: u64,
        paths: Arc<Paths>,
        local: Arc<dyn VolumeBackend>,
        partner: Arc<dyn VolumeBackend>,
    ) -> Self {
        let blocks = AtomicU64::new(blocks);
        Self {
            identity,
            kind: Kind::Volume,
            blocks,
            provisioning: Mutex::default(),
            write_cache: AtomicBool::new(false),
            paths,
            local,
            partner,
            ranges: Arc::default(),
            registry: Registry::default(),
        }
    }

    /// The same as another kind of unit.
    #[must_use]
    pub fn of_kind(self, kind: Kind) -> Self {
        let write_cache = AtomicBool::new(kind.has_cache());
        Self {
            kind,
            write_cache,
            ..self
        }
    }

    /// What it is to hosts.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hosts' reservations, as far as this controller is the owner.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its size in logical blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// It has grown. True: it had another size before.
    pub fn resize(&self, blocks: u64) -> bool {
        self.blocks.swap(blocks, Ordering::Relaxed) != blocks
    }

    /// How its blocks get their space.
    #[must_use]
    pub fn provisioning(&self) -> Provisioning {
        *self.provisioning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its blocks get their space in that way. What hosts have to be told, where that is another way than before.
    pub fn provision(&self, provisioning: Provisioning) -> Option<Sense> {
        let mut present = self.provisioning.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *present, provisioning);
        if before.page() != provisioning.page() {
            return Some(Sense::INQUIRY_DATA_CHANGED);
        }
        (before.mode_page() != provisioning.mode_page()).then_some(Sense::MODE_PARAMETERS_CHANGED)
    }

    /// Whether writes may stay in the disks' caches until they are flushed.
    #[must_use]
    pub fn write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Relaxed)
    }

    /// Writes may stay in the disks' caches, or not. What hosts have to be told, where that was otherwise before.
    pub fn cache_writes(&self, cached: bool) -> Option<Sense> {
        let before = self.write_cache.swap(cached, Ordering::Relaxed);
        (before != cached).then_some(Sense::MODE_PARAMETERS_CHANGED)
    }

    /// The paths of its pool.
    #[must_use]
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    /// Carries out one operation on behalf of a host: by the route that stands, again by the next one if the
    /// route changes meanwhile. The owner lets it in or not, under each route anew.
    ///
    /// Once below, an abort does not cut it short: whoever aborts waits for its end, so that nothing takes effect
    /// after the abort was answered (unless what is below ends with its future,
    /// [`VolumeBackend::ends_when_dropped`]). Nothing goes below after the scope's deadline, and what is still below then is given
    /// up: its blocks are nobody else's until it has ended, so that it takes effect before whatever comes after it.
    ///
    /// # Errors
    /// [`Undone`]. After [`Refused::Busy`] a write may have been done; to send it again is safe.
    pub async fn submit(&self, operation: Operation, scope: &Scope) -> Result<Bytes, Undone> {
        self.carry_out(operation, scope, false, |_| true).await
    }

    /// The same, for the first operation of a host's command: a unit attention may end it.
    ///
    /// # Errors
    /// [`Undone`], as [`submit`](Self::submit).
    pub async fn submit_first(&self, operation: Operation, scope: &Scope) -> Result<Bytes, Undone> {
        self.carry_out(operation, scope, true, |_| true).await
    }

    /// Carries out what the partner has forwarded: by the local route or not at all, never back to the partner.
    ///
    /// # Errors
    /// `None`: this controller does not own the pool (any more); nothing counts as done.
    pub async fn submit_forwarded(
        &self,
        operation: Operation,
        scope: &Scope,
        begins: bool,
    ) -> Result<Bytes, Option<Undone>> {
        if self.paths.route().backing != Backing::Local {
            return Err(None);
        }
        match self.carry_out(operation, scope, begins, only_local).await {
            Err(Undone::Refused(Refused::Unavailable)) => Err(None),
            done => done.map_err(Some),
        }
    }

    async fn carry_out(
        &self,
        operation: Operation,
        scope: &Scope,
        begins: bool,
        permitted: impl Fn(Backing) -> bool,
    ) -> Result<Bytes, Undone> {
        let mut turn = self.turn(&operation, scope).await?;
        let again = may_be_sent_again(&operation);
        let given_up = || match again {
            true => Undone::Refused(Refused::Busy),
            false => Undone::Failed(Failure::InDoubt),
        };
        let mut sent_once = false;
        let access = match operation {
            Operation::Read { .. } | Operation::LbaStatus { .. } => Access::Read,
            _ => Access::Write,
        };
        loop {
            let mut pass = self.paths.enter(scope).await?;
            if !permitted(pass.backing()) {
                return Err(Refused::Unavailable.into());
            }
            let (running, mut sent) = match pass.backing() {
                Backing::Partner => {
                    let until = Until(scope.deadline, behalf(scope, begins));
                    (None, below(&self.partner, operation.clone(), Some(until)))
                }
                Backing::Local | Backing::None => {
                    let Some(running) = self.admit(&mut pass, scope, access, begins).await? else {
                        continue;
                    };
                    (Some(running), below(&self.local, operation.clone(), None))
                }
            };
            // Who forwards this has told its host at the deadline that it was given up.
            if Instant::now() >= scope.deadline {
                return Err(if sent_once {
                    given_up()
                } else {
                    Refused::Busy.into()
                });
            }
            sent_once = true;
            let ends = match pass.backing() {
                Backing::Partner => self.partner.ends_when_dropped(),
                Backing::Local | Backing::None => self.local.ends_when_dropped(),
            };
            let done = tokio::select! {
                done = &mut sent => Some(done),
                () = pass.superseded() => None,
                () = scope.cancel.cancelled(), if ends => return Err(Refused::Cancelled.into()),
                () = tokio::time::sleep_until(scope.deadline) => {
                    if let (Backing::Local, Some(turn)) = (pass.backing(), turn.take()) {
                        leave_below(sent, pass, turn.give_up());
                    }
                    return Err(given_up());
                }
            };
            if done == Some(Err(Failure::Conflict)) {
                fenced(&mut pass, scope).await?;
            }
            if running.is_some_and(|running| running.is_aborted()) {
                return Err(Undone::Aborted);
            }
            if done == Some(Err(Failure::OutOfRange)) && self.holds(&operation) {
                behind(&mut pass, scope).await?;
                continue;
            }
            match (done, pass.leave()) {
                (Some(done), true) => return done.map_err(Undone::from),
                _ if again => {}
                _ => return Err(Undone::Failed(Failure::InDoubt)),
            }
        }
    }

    /// Lets a command in on the owner. `None`: the route is another meanwhile.
    async fn admit(
        &self,
        pass: &mut Pass,
        scope: &Scope,
        access: Access,
        begins: bool,
    ) -> Result<Option<Running>, Undone> {
        loop {
            match self
                .registry
                .admit(pass.generation(), scope.nexus.as_ref(), access, begins)
            {
                Admission::Admitted(running) => return Ok(Some(running)),
                Admission::Refused(outcome) => return Err(Undone::Answered(outcome)),
                Admission::Unknown => {
                    let _one = self.turn_to_change(scope).await?;
                    if !self.load(pass, scope).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// A write's turn among those that overlap it. A read waits only for those that were given up.
    async fn turn(&self, operation: &Operation, scope: &Scope) -> Result<Option<Turn>, Undone> {
        let writes = !matches!(operation, Operation::Read { .. });
        let Some(range) = self.range(operation) else {
            return Ok(None);
        };
        let turn = async {
            match writes {
                true => Some(self.ranges.turn(range).await),
                false => {
                    self.ranges.settled(range).await;
                    None
                }
            }
        };
        tokio::select! {
            biased;
            turn = turn => Ok(turn),
            () = scope.cancel.cancelled() => Err(Refused::Cancelled.into()),
            () = tokio::time::sleep_until(scope.deadline) => Err(Refused::Busy.into()),
        }
    }

    async fn turn_to_change(&self, scope: &Scope) -> Result<OwnedMutexGuard<()>, Undone> {
        tokio::select! {
            turn = self.registry.turn_to_change() => Ok(turn),
            () = scope.cancel.cancelled() => Err(Refused::Cancelled.into()),
            () = tokio::time::sleep_until(scope.deadline) => Err(Refused::Busy.into()),
        }
    }

    /// Reads what hosts have reserved, if it was not read under this claim; the caller has the turn to change it. False:
    /// the route is another meanwhile.
    async fn load(&self, pass: &mut Pass, scope: &Scope) -> Result<bool, Undone> {
        if self.registry.knows(pass.generation()) {
            return Ok(true);
        }
        let read = tokio::select! {
            read = self.local.submit(Operation::RecordLoad) => read,
            () = pass.superseded() => return Ok(false),
            () = tokio::time::sleep_until(scope.deadline) => return Err(Refused::Busy.into()),
        };
        let state = match read {
            Ok(record) => State::from_record(&record).unwrap_or_else(|damaged| {
                tracing::error!(volume = %self.identity.id, %damaged, "somebody may hold it: reserved for an unknown host");
                State::in_doubt()
            }),
            Err(Failure::Medium) => {
                tracing::error!(volume = %self.identity.id, "the record of its reservations cannot be read: reserved for an unknown host");
                State::in_doubt()
            }
            Err(Failure::Conflict) => {
                fenced(pass, scope).await?;
                return Ok(false);
            }
            Err(failure) => return Err(failure.into()),
        };
        if !pass.stands() {
            return Ok(false);
        }
        self.registry.restore(pass.generation(), state);
        Ok(true)
    }

    /// Has the owner answer a question, wherever the owner is.
    ///
    /// # Errors
    /// [`Undone`]. After [`Refused::Busy`] a change may have been made.
    pub async fn ask(&self, question: &Question, scope: &Scope) -> Result<Answer, Undone> {
        self.answer(question, scope, |_| true).await
    }

    /// Answers what the partner's host asks: as the owner or not at all.
    ///
    /// # Errors
    /// `None`: this controller does not own the pool (any more); nothing counts as done.
    pub async fn answer_forwarded(
        &self,
        question: &Question,
        scope: &Scope,
    ) -> Result<Answer, Option<Undone>> {
        if self.paths.route().backing != Backing::Local {
            return Err(None);
        }
        match self.answer(question, scope, only_local).await {
            Err(Undone::Refused(Refused::Unavailable)) => Err(None),
            done => done.map_err(Some),
        }
    }

    async fn answer(
        &self,
        question: &Question,
        scope: &Scope,
        permitted: impl Fn(Backing) -> bool,
    ) -> Result<Answer, Undone> {
        loop {
            let mut pass = self.paths.enter(scope).await?;
            if !permitted(pass.backing()) {
                return Err(Refused::Unavailable.into());
            }
            if pass.backing() != Backing::Partner {
                match self.decide(question, &mut pass, scope).await? {
                    // The route may have changed with the last step; what was made durable is found again.
                    Some(answer) if pass.leave() => return Ok(answer),
                    _ => continue,
                }
            }
            let sent = Operation::Scsi {
                cdb: question.cdb,
                id: uuid::Uuid::from_bytes(question.id),
                data: question.data.clone(),
            };
            let done = tokio::select! {
                done = self.partner.submit_for(behalf(scope, question.begins), scope.deadline, sent) => done,
                () = pass.superseded() => continue,
                () = scope.cancel.cancelled(), if self.partner.ends_when_dropped() => {
                    return Err(Refused::Cancelled.into());
                }
                () = tokio::time::sleep_until(scope.deadline) => return Err(Refused::Busy.into()),
            };
            if pass.leave() {
                return match done {
                    Ok(data) => Ok(Outcome::data(data).into()),
                    Err(Failure::Answered(outcome)) => Ok(outcome.into()),
                    Err(failure) => Err(failure.into()),
                };
            }
        }
    }

    /// The owner's answer. `None`: the route is another meanwhile.
    async fn decide(
        &self,
        question: &Question,
        pass: &mut Pass,
        scope: &Scope,
    ) -> Result<Option<Answer>, Undone> {
        if let Some(reach) = question.is_reset() {
            if !self.registry.knows(pass.generation()) {
                // It would end nothing of what stands in the record.
                let _one = self.turn_to_change(scope).await?;
                if !self.load(pass, scope).await? {
                    return Ok(None);
                }
            }
            let aborts = scope
                .nexus
                .as_ref()
                .map(|nexus| self.registry.reset(nexus, reach));
            return Ok(Some(Answer {
                outcome: Outcome::good(),
                aborts: aborts.unwrap_or_default(),
            }));
        }
        let command = match Command::decode(&question.cdb) {
            Ok(command) => command,
            Err(sense) => return Ok(Some(Outcome::from(sense).into())),
        };
        let legacy = match command {
            Command::Reserve6 => Some(Legacy::Reserve),
            Command::Release6 => Some(Legacy::Release),
            _ => None,
        };
        if let (Some(legacy), Some(nexus)) = (legacy, &scope.nexus) {
            return self.legacy(legacy, nexus, question.begins, pass, scope).await;
        }
        let access = access_of(&question.cdb);
        let Some(running) = self.admit(pass, scope, access, question.begins).await? else {
            return Ok(None);
        };
        match (command, &scope.nexus) {
            (Command::PersistentReserveIn { what, allocation }, _) => {
                let Some(state) = self.registry.state(pass.generation()) else {
                    return Ok(None);
                };
                Ok(Some(Outcome::data(reported(&state, what, allocation)).into()))
            }
            (Command::PersistentReserveOut(parameters), Some(nexus)) => {
                match Out::decode(parameters, &question.data, nexus.port) {
                    Err(sense) => Ok(Some(Outcome::from(sense).into())),
                    Ok(out) => {
                        // It is no running command of its nexus: nobody waits for it who it waits for.
                        drop(running);
                        self.change(&out, question.id, nexus, pass, scope).await
                    }
                }
            }
            (Command::PersistentReserveOut(_), None) => {
                Ok(Some(Outcome::status(Status::ReservationConflict).into()))
            }
            // It was let in; that was the question.
            _ => Ok(Some(Outcome::good().into())),
        }
    }

    /// RESERVE(6) and RELEASE(6). Like everything that is reserved they outlive the owner: durable before GOOD.
    async fn legacy(
        &self,
        legacy: Legacy,
        nexus: &Arc<Nexus>,
        begins: bool,
        pass: &mut Pass,
        scope: &Scope,
    ) -> Result<Option<Answer>, Undone> {
        let turn = self.turn_to_change(scope).await?;
        if !self.load(pass, scope).await? {
            return Ok(None);
        }
        let next = match self.registry.legacy(pass.generation(), nexus, legacy, begins) {
            LegacyStep::Unknown => return Ok(None),
            LegacyStep::Answered(outcome) => return Ok(Some(outcome.into())),
            LegacyStep::Becomes(next) => next,
        };
        match self.store(&next, turn, pass, scope).await? {
            Stored::Superseded => Ok(None),
            Stored::NoRoom => Ok(Some(Outcome::from(Sense::INSUFFICIENT_REGISTRATIONS).into())),
            Stored::Done(_turn) => {
                self.registry.commit_legacy(pass.generation(), &next);
                Ok(Some(Outcome::good().into()))
            }
        }
    }

    /// Replaces the record of what is reserved. `turn` is the caller's to change it, and comes back with the end; where
    /// nobody waits for that any more it is kept until then, so that an older record never lands on a newer one.
    async fn store(
        &self,
        state: &State,
        turn: OwnedMutexGuard<()>,
        pass: &mut Pass,
        scope: &Scope,
    ) -> Result<Stored, Undone> {
        let record = state.to_record().into();
        let mut sent = below(&self.local, Operation::RecordStore { record }, None);
        let stored = tokio::select! {
            stored = &mut sent => stored,
            () = pass.superseded() => return Ok(Stored::Superseded),
            () = tokio::time::sleep_until(scope.deadline) => {
                self.registry.forget();
                leave_below(sent, pass.again(), turn);
                return Err(Refused::Busy.into());
            }
        };
        match stored {
            Ok(_) if !pass.stands() => Ok(Stored::Superseded),
            Ok(_) => Ok(Stored::Done(turn)),
            Err(Failure::Conflict) => {
                fenced(pass, scope).await?;
                Ok(Stored::Superseded)
            }
            Err(Failure::NoRoom) => Ok(Stored::NoRoom),
            Err(failure) => {
                // It may stand there or not: only what can be read counts.
                self.registry.forget();
                Err(failure.into())
            }
        }
    }

    /// Has what a nexus was told, or what has ended by itself, out of the record, too. Until then a controller that takes
    /// over tells it once more, and keeps what had ended: more than need be, and never less.
    pub fn tidy(self: &Arc<Self>) {
        if !self.registry.begins_to_tidy() {
            return;
        }
        let volume = self.clone();
        tokio::spawn(async move {
            let scope = Scope::new();
            let tidied = async {
                let mut pass = volume.paths.enter(&scope).await?;
                let turn = volume.turn_to_change(&scope).await?;
                if pass.backing() != Backing::Local {
                    return Ok(());
                }
                let Some(state) = volume.registry.state(pass.generation()) else {
                    return Ok(());
                };
                if let Stored::Done(_turn) = volume.store(&state, turn, &mut pass, &scope).await? {
                    volume.registry.is_saved(&state);
                }
                Ok::<_, Undone>(())
            };
            if let Err(undone) = tidied.await {
                tracing::debug!(volume = %volume.identity.id, ?undone, "what was told stays in the record for now");
            }
        });
    }

    /// Decides a PERSISTENT RESERVE OUT, and makes it durable before anything follows from it.
    async fn change(
        &self,
        out: &Out,
        id: CommandId,
        nexus: &Nexus,
        pass: &mut Pass,
        scope: &Scope,
    ) -> Result<Option<Answer>, Undone> {
        let turn = self.turn_to_change(scope).await?;
        if !self.load(pass, scope).await? {
            return Ok(None);
        }
        let Some(state) = self.registry.state(pass.generation()) else {
            return Ok(None);
        };
        let change = match state.decide(nexus, out, id) {
            Err(Refusal::Conflict) => return Ok(Some(Outcome::status(Status::ReservationConflict).into())),
            Err(Refusal::Sense(sense)) => return Ok(Some(Outcome::from(sense).into())),
            Ok(change) => change,
        };
        if change.state != state {
            let _turn = match self.store(&change.state, turn, pass, scope).await? {
                Stored::Done(turn) => turn,
                Stored::Superseded => return Ok(None),
                Stored::NoRoom => {
                    return Ok(Some(Outcome::from(Sense::INSUFFICIENT_REGISTRATIONS).into()));
                }
            };
            tracing::info!(volume = %self.identity.id, initiator = nexus.initiator, port = nexus.port, ?out, "reservations changed");
            self.registry.commit(pass.generation(), &change);
        }
        Ok(Some(Answer {
            outcome: Outcome::good(),
            aborts: change.aborts,
        }))
    }

    /// Its blocks are the volume's, as the configuration has it.
    fn holds(&self, operation: &Operation) -> bool {
        let range = match operation {
            Operation::LbaStatus { lba, blocks } => Some(*lba..lba.saturating_add(u64::from(*blocks))),
            operation => self.range(operation),
        };
        range.is_some_and(|range| range.end <= self.blocks())
    }

    fn range(&self, operation: &Operation) -> Option<Range<u64>> {
        let block = self.identity.block_size as usize;
        match operation {
            Operation::Write { lba, data, .. } | Operation::CompareAndWrite { lba, data, .. } => {
                Some(*lba..lba.saturating_add((data.len() / block) as u64))
            }
            Operation::Unmap { lba, blocks } | Operation::Read { lba, blocks } => {
                Some(*lba..lba.saturating_add(u64::from(*blocks)))
            }
            _ => None,
        }
    }
}

/// A change of the record of what is reserved.
enum Stored {
    /// It is durable.
    Done(OwnedMutexGuard<()>),
    /// The route is another meanwhile.
    Superseded,
    /// The pool has no room for it.
    NoRoom,
}

/// What is below.
type Sent = BoxFuture<'static, Result<Bytes, Failure>>;

/// By when the owner may begin with something, and for whom.
struct Until(Instant, Option<Behalf>);

fn below(backend: &Arc<dyn VolumeBackend>, operation: Operation, until: Option<Until>) -> Sent {
    let backend = backend.clone();
    Box::pin(async move {
        match until {
            Some(Until(begin_by, behalf)) => backend.submit_for(behalf, begin_by, operation).await,
            None => backend.submit(operation).await,
        }
    })
}

/// Nobody waits any more for what is below. `until_then` is kept until it has ended, or until the route is another: then it
/// is over by its line, or by the disks, which refuse whoever has lost the pool.
fn leave_below<T: Send + 'static>(sent: Sent, mut pass: Pass, until_then: T) {
    let given_up = Instant::now();
    tokio::spawn(async move {
        let how = tokio::select! {
            done = sent => if done.is_ok() { "done" } else { "failed" },
            () = pass.superseded() => "the route is another",
        };
        let late_ms = given_up.elapsed().as_millis() as u64;
        tracing::warn!(late_ms, how, "a command that was given up has ended");
        drop((until_then, pass));
    });
}

fn only_local(backing: Backing) -> bool {
    backing == Backing::Local
}

fn behalf(scope: &Scope, begins: bool) -> Option<Behalf> {
    let nexus = scope.nexus.clone()?;
    Some(Behalf { nexus, begins })
}

fn reported(state: &State, what: In, allocation: u32) -> Vec<u8> {
    let mut data = state.report(what);
    data.truncate(allocation as usize);
    data
}

/// The disks refuse this controller: it has lost the pool and does not know yet. The host must not hear of it (it would
/// give up): the command waits for the route that heartbeat will set.
async fn fenced(pass: &mut Pass, scope: &Scope) -> Result<(), Undone> {
    tokio::select! {
        () = pass.superseded() => Ok(()),
        () = scope.cancel.cancelled() => Err(Refused::Cancelled.into()),
        () = tokio::time::sleep_until(scope.deadline) => Err(Refused::Busy.into()),
    }
}

/// The pool has not grown yet as the configuration says: nothing was done, and the command waits for it.
async fn behind(pass: &mut Pass, scope: &Scope) -> Result<(), Undone> {
    tokio::select! {
        () = pass.superseded() => Ok(()),
        () = tokio::time::sleep(BEHIND) => Ok(()),
        () = scope.cancel.cancelled() => Err(Refused::Cancelled.into()),
        () = tokio::time::sleep_until(scope.deadline) => Err(Refused::Busy.into()),
    }
}
