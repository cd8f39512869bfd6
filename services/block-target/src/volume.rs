//! A volume as hosts see it: one identity for life, and commands that find their way to wherever the data is.

use crate::backend::{Failure, VolumeBackend, may_be_sent_again};
use crate::paths::{Paths, Refused, Scope};
use bytes::Bytes;
use pollux_api::id::VolumeId;
use pollux_api::target::Backing;
use pollux_block_frame::Operation;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    paths: Arc<Paths>,
    local: Arc<dyn VolumeBackend>,
    partner: Arc<dyn VolumeBackend>,
    ranges: Ranges,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It did not get through.
    Refused(Refused),
    /// The backing has failed it.
    Failed(Failure),
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
            paths,
            local,
            partner,
            ranges: Ranges::default(),
        }
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

    /// The paths of its pool.
    #[must_use]
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    /// Waits until commands may go on, without sending any.
    ///
    /// # Errors
    /// [`Refused`] as for a command.
    pub async fn ready(&self, scope: &Scope) -> Result<(), Refused> {
        self.paths.enter(scope).await.map(drop)
    }

    /// Carries out one operation on behalf of a host: by the route that stands, again by the next one if the
    /// route changes meanwhile.
    ///
    /// Once below, an abort does not cut it short: whoever aborts waits for its end, so that nothing takes effect
    /// after the abort was answered.
    ///
    /// # Errors
    /// [`Undone`]. After [`Refused::Busy`] a write may have been done; to send it again is safe.
    pub async fn submit(&self, operation: Operation, scope: &Scope) -> Result<Bytes, Undone> {
        self.carry_out(operation, scope, |_| true).await
    }

    /// Carries out what the partner has forwarded: by the local route or not at all, never back to the partner.
    ///
    /// # Errors
    /// `None`: this controller does not own the pool (any more); nothing counts as done.
    pub async fn submit_forwarded(
        &self,
        operation: Operation,
        scope: &Scope,
    ) -> Result<Bytes, Option<Undone>> {
        if self.paths.route().backing != Backing::Local {
            return Err(None);
        }
        let local = |backing| backing == Backing::Local;
        match self.carry_out(operation, scope, local).await {
            Err(Undone::Refused(Refused::Unavailable)) => Err(None),
            done => done.map_err(Some),
        }
    }

    async fn carry_out(
        &self,
        operation: Operation,
        scope: &Scope,
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
        loop {
            let mut pass = self.paths.enter(scope).await?;
            if !permitted(pass.backing()) {
                return Err(Refused::Unavailable.into());
            }
            let backend = match pass.backing() {
                Backing::Partner => &self.partner,
                Backing::Local | Backing::None => &self.local,
            };
            let done = tokio::select! {
                done = backend.submit(operation.clone()) => Some(done),
                () = pass.superseded() => None,
                () = tokio::time::sleep_until(scope.deadline) => {
                    return Err(if again { Refused::Busy.into() } else { Undone::Failed(Failure::InDoubt) });
                }
            };
            // The disks refuse this controller: it has lost the pool and does not know yet. The host must not hear
            // of it (it would give up): the command waits for the route that heartbeat will set.
            if done == Some(Err(Failure::Conflict)) {
                tokio::select! {
                    () = pass.superseded() => {}
                    () = scope.cancel.cancelled() => return Err(Refused::Cancelled.into()),
                    () = tokio::time::sleep_until(scope.deadline) => return Err(Refused::Busy.into()),
                }
            }
            match (done, pass.leave()) {
                (Some(done), true) => return done.map_err(Undone::Failed),
                _ if again => {}
                _ => return Err(Undone::Failed(Failure::InDoubt)),
            }
        }
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
