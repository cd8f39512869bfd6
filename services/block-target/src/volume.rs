//! A volume as hosts see it: one identity for life, and commands that find their way to wherever the data is.

use crate::backend::{Failure, VolumeBackend, may_be_sent_again};
use crate::paths::{Pass, Paths, Refused, Scope};
use crate::registry::{Admission, Legacy, Registry, Running};
use crate::scsi::cdb::Command;
use crate::scsi::provisioning::Provisioning;
use crate::scsi::reservation::{Access, CommandId, In, Nexus, Out, Refusal, State, access_of};
use crate::scsi::sense::Sense;
use crate::scsi::{Outcome, Status};
use bytes::Bytes;
use pollux_api::id::VolumeId;
use pollux_api::target::Backing;
use pollux_block_frame::{Behalf, Operation};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

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
    blocks: AtomicU64,
    provisioning: Mutex<Provisioning>,
    paths: Arc<Paths>,
    local: Arc<dyn VolumeBackend>,
    partner: Arc<dyn VolumeBackend>,
    ranges: Ranges,
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
/// Operation code that no host can send: the unit was reset.
const RESET: u8 = 0xff;

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

    /// The unit was reset.
    #[must_use]
    pub fn reset() -> Self {
        Self::untold(RESET)
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
            blocks,
            provisioning: Mutex::default(),
            paths,
            local,
            partner,
            ranges: Ranges::default(),
            registry: Registry::default(),
        }
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

    /// The paths of its pool.
    #[must_use]
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    /// Carries out one operation on behalf of a host: by the route that stands, again by the next one if the
    /// route changes meanwhile. The owner lets it in or not, under each route anew.
    ///
    /// Once below, an abort does not cut it short: whoever aborts waits for its end, so that nothing takes effect
    /// after the abort was answered.
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
        let _turn = match self.written_range(&operation) {
            None => None,
            Some(range) => Some(tokio::select! {
                turn = self.ranges.turn(range) => turn,
                () = scope.cancel.cancelled() => return Err(Refused::Cancelled.into()),
                () = tokio::time::sleep_until(scope.deadline) => return Err(Refused::Busy.into()),
            }),
        };
        let again = may_be_sent_again(&operation);
        let access = match operation {
            Operation::Read { .. } | Operation::LbaStatus { .. } => Access::Read,
            _ => Access::Write,
        };
        loop {
            let mut pass = self.paths.enter(scope).await?;
            if !permitted(pass.backing()) {
                return Err(Refused::Unavailable.into());
            }
            let (running, sent) = match pass.backing() {
                Backing::Partner => {
                    let behalf = behalf(scope, begins);
                    (None, self.partner.submit_for(behalf, operation.clone()))
                }
                Backing::Local | Backing::None => {
                    let Some(running) = self.admit(&mut pass, scope, access, begins).await? else {
                        continue;
                    };
                    (Some(running), self.local.submit(operation.clone()))
                }
            };
            let done = tokio::select! {
                done = sent => Some(done),
                () = pass.superseded() => None,
                () = tokio::time::sleep_until(scope.deadline) => {
                    return Err(if again { Refused::Busy.into() } else { Undone::Failed(Failure::InDoubt) });
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
    ) -> Result<Option<Running<'_>>, Undone> {
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

    async fn turn_to_change(&self, scope: &Scope) -> Result<tokio::sync::MutexGuard<'_, ()>, Undone> {
        tokio::select! {
            turn = self.registry.change.lock() => Ok(turn),
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
                done = self.partner.submit_for(behalf(scope, question.begins), sent) => done,
                () = pass.superseded() => continue,
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
        if question.cdb[0] == RESET {
            let aborts = scope.nexus.as_ref().map(|nexus| self.registry.reset(nexus));
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
            loop {
                if let Some(outcome) = self
                    .registry
                    .legacy(pass.generation(), nexus, legacy, question.begins)
                {
                    return Ok(Some(outcome.into()));
                }
                let _one = self.turn_to_change(scope).await?;
                if !self.load(pass, scope).await? {
                    return Ok(None);
                }
            }
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

    /// Decides a PERSISTENT RESERVE OUT, and makes it durable before anything follows from it.
    async fn change(
        &self,
        out: &Out,
        id: CommandId,
        nexus: &Nexus,
        pass: &mut Pass,
        scope: &Scope,
    ) -> Result<Option<Answer>, Undone> {
        let _one = self.turn_to_change(scope).await?;
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
            let record = change.state.to_record().into();
            let stored = tokio::select! {
                stored = self.local.submit(Operation::RecordStore { record }) => stored,
                () = pass.superseded() => return Ok(None),
                () = tokio::time::sleep_until(scope.deadline) => {
                    self.registry.forget();
                    return Err(Refused::Busy.into());
                }
            };
            match stored {
                Ok(_) if !pass.stands() => return Ok(None),
                Ok(_) => {}
                Err(Failure::Conflict) => {
                    fenced(pass, scope).await?;
                    return Ok(None);
                }
                Err(Failure::NoRoom) => {
                    return Ok(Some(Outcome::from(Sense::INSUFFICIENT_REGISTRATIONS).into()));
                }
                Err(failure) => {
                    // It may stand there or not: only what can be read counts.
                    self.registry.forget();
                    return Err(failure.into());
                }
            }
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
            Operation::Read { lba, blocks } | Operation::LbaStatus { lba, blocks } => {
                Some(*lba..lba.saturating_add(u64::from(*blocks)))
            }
            operation => self.written_range(operation),
        };
        range.is_some_and(|range| range.end <= self.blocks())
    }

    fn written_range(&self, operation: &Operation) -> Option<Range<u64>> {
        let block = self.identity.block_size as usize;
        match operation {
            Operation::Write { lba, data, .. } | Operation::CompareAndWrite { lba, data, .. } => {
                Some(*lba..lba.saturating_add((data.len() / block) as u64))
            }
            Operation::Unmap { lba, blocks } => Some(*lba..lba.saturating_add(u64::from(*blocks))),
            _ => None,
        }
    }
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

/// Overlapping writes take turns, in the order in which they came.
///
/// A host whose path dies sends its write again by the other path, and goes on to write newer data to the same
/// blocks. The first copy may still be on its way below: the second one waits for it here, so that the old data
/// never lands on the new.
#[derive(Debug, Default)]
struct Ranges {
    state: Mutex<RangesState>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct RangesState {
    next: u64,
    /// Ascending by ticket.
    taken: Vec<(u64, Range<u64>)>,
}

impl Ranges {
    fn lock(&self) -> MutexGuard<'_, RangesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, range: Range<u64>) -> Turn<'_> {
        let turn = {
            let mut state = self.lock();
            state.next += 1;
            let ticket = state.next;
            state.taken.push((ticket, range.clone()));
            Turn { ranges: self, ticket }
        };
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let overlaps =
                |(_, other): &(u64, Range<u64>)| other.start < range.end && range.start < other.end;
            let mine = turn.ticket;
            if !self
                .lock()
                .taken
                .iter()
                .take_while(|(ticket, _)| *ticket < mine)
                .any(overlaps)
            {
                return turn;
            }
            freed.await;
        }
    }
}

struct Turn<'a> {
    ranges: &'a Ranges,
    ticket: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.ranges
            .lock()
            .taken
            .retain(|(ticket, _)| *ticket != self.ticket);
        self.ranges.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[tokio::test]
    async fn overlapping_writes_take_turns_and_others_do_not_wait() {
        let ranges = Ranges::default();
        let first = ranges.turn(0..10).await;
        let mut second = pin!(ranges.turn(9..12));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(second.as_mut().poll(&mut context), Poll::Pending));
        drop(ranges.turn(20..30).await);
        // The third overlaps only the second, which came before it.
        let mut third = pin!(ranges.turn(11..13));
        assert!(matches!(third.as_mut().poll(&mut context), Poll::Pending));
        drop(first);
        let Poll::Ready(second) = second.as_mut().poll(&mut context) else {
            panic!("second waits for nobody")
        };
        assert!(matches!(third.as_mut().poll(&mut context), Poll::Pending));
        drop(second);
        assert!(matches!(third.as_mut().poll(&mut context), Poll::Ready(_)));
    }
}
