//! The points of a railway: where the commands of a pool's volumes go, and how they are switched.
//!
//! Every medium command passes [`Paths::enter`] and holds a [`Pass`] while it is below the target. A flip is
//! atomic to commands: they are held before it, and let go after the new state stands and the unit attention is
//! posted.
//!
//! ```text
//!             hold()                    flip()
//!   open ---------------> held ------------------------> open (new route, new serial)
//!     |                    ^   commands wait at enter()
//!     +--------------------+
//!       flip() from open: a pass of the old route is superseded; its holder enters again
//! ```
//!
//! Invariants: a command enters only by the route that stands; an answer that came by an older route is never
//! given to a host ([`Pass::leave`] says so); a route of an older claim (epoch, generation) never replaces a newer.
//!
//! It must never hold a command beyond the bound of its [`Scope`]: a Linux host begins to abort after 30 s.

use pollux_api::id::{ControllerId, Epoch, Generation};
use pollux_api::target::{Access, Backing};
use pollux_block_frame::Nexus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The longest a command waits below the target before it is answered with BUSY.
///
/// Linux aborts a command after 30 s (`/sys/block/*/device/timeout`) and an abort that cannot be answered takes
/// the path offline; Windows gives up a path after 20 s. BUSY makes Linux queue the command again without
/// counting it as a failure, unlike ABORTED COMMAND and NOT READY, which it retries five times.
///
/// A host that hears nothing from this port sends the command by the other one after 7 s (packaging/pollux-host/README.md), and
/// newer ones behind it. What has waited here must not begin after that, so it waits for less, by the 3 s that a segment may
/// be late without costing the host its path.
pub const HOLD_LIMIT: Duration = Duration::from_secs(4);

/// Where commands go, and what the port groups report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Epoch of the claim.
    pub epoch: Epoch,
    /// Generation of the claim.
    pub generation: Generation,
    /// Where commands go.
    pub backing: Backing,
    /// Access state of a's and of b's port group.
    pub access: [Access; 2],
}

impl Route {
    /// Before anybody has said anything: commands are held.
    pub const UNKNOWN: Self = Self {
        epoch: Epoch::new(0),
        generation: Generation::new(0),
        backing: Backing::None,
        access: [Access::Transitioning; 2],
    };

    /// State of one controller's port group.
    #[must_use]
    pub fn access_of(&self, controller: ControllerId) -> Access {
        self.access[controller.index()]
    }

    fn claim(&self) -> (Epoch, Generation) {
        (self.epoch, self.generation)
    }
}

/// What stands above a command: the time it may take, the host's abort, and whose it is.
#[derive(Clone, Debug)]
pub struct Scope {
    /// When waiting ends.
    pub deadline: Instant,
    /// Set when the host gives the command up.
    pub cancel: Arc<Cancel>,
    /// Whose it is. Without it, it is nobody's: it conflicts with whatever is reserved.
    pub nexus: Option<Arc<Nexus>>,
    /// A port in standby serves it, too; or another port than this one has let it in.
    pub in_standby: bool,
}

impl Scope {
    /// A command that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            deadline: Instant::now() + HOLD_LIMIT,
            cancel: Arc::default(),
            nexus: None,
            in_standby: false,
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

/// A command's stop sign. Once up it stays up.
#[derive(Debug, Default)]
pub struct Cancel {
    set: AtomicBool,
    notify: Notify,
}

impl Cancel {
    /// Puts it up.
    pub fn cancel(&self) {
        self.set.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Waits until it is up.
    pub async fn cancelled(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_cancelled() {
            notified.await;
        }
    }
}

/// Why a command did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The hold has reached its bound: BUSY.
    Busy,
    /// This port is in standby.
    Standby,
    /// This controller has no way to the owner: the port group is unavailable.
    Unavailable,
    /// The host has given the command up.
    Cancelled,
}

/// A route of an older claim than the one that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("claim ({}, {}) is older than ({}, {}), under which the paths stand", asked.0, asked.1, stands.0, stands.1)]
pub struct Stale {
    /// Epoch and generation asked for.
    pub asked: (Epoch, Generation),
    /// Epoch and generation that stand.
    pub stands: (Epoch, Generation),
}

#[derive(Debug)]
struct State {
    route: Route,
    held: bool,
    in_flight: u64,
    waiting: u64,
}

/// The paths of one pool.
#[derive(Debug)]
pub struct Paths {
    own: ControllerId,
    state: Mutex<State>,
    /// Serial of the route; every change of `state` that a waiter may wait for is sent through it.
    serial: watch::Sender<u64>,
    drained: Notify,
}

/// What a flip did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlipOutcome {
    /// The route is another than before.
    pub changed: bool,
    /// What the ports report is another than before: hosts get a unit attention.
    pub access_changed: bool,
    /// Commands that had waited and were let go.
    pub released: u64,
}

impl Paths {
    /// Paths as seen from controller `own`; unknown at first.
    #[must_use]
    pub fn new(own: ControllerId) -> Arc<Self> {
        let state = State {
            route: Route::UNKNOWN,
            held: false,
            in_flight: 0,
            waiting: 0,
        };
        Arc::new(Self {
            own,
            state: Mutex::new(state),
            serial: watch::Sender::new(0),
            drained: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands. While commands are held the ports report transitioning.
    #[must_use]
    pub fn route(&self) -> Route {
        let state = self.lock();
        match state.held {
            true => Route {
                access: [Access::Transitioning; 2],
                ..state.route
            },
            false => state.route,
        }
    }

    /// Commands that wait now, and commands that are below.
    #[must_use]
    pub fn load(&self) -> (u64, u64) {
        let state = self.lock();
        (state.waiting, state.in_flight)
    }

    /// Waits for the way to be free, within the command's scope.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub async fn enter(self: &Arc<Self>, scope: &Scope) -> Result<Pass, Refused> {
        let mut serial = self.serial.subscribe();
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            if scope.cancel.is_cancelled() {
                return Err(Refused::Cancelled);
            }
            {
                let mut state = self.lock();
                let seen = *serial.borrow_and_update();
                if !state.held {
                    match (state.route.access_of(self.own), state.route.backing) {
                        (Access::Unavailable, _) => return Err(Refused::Unavailable),
                        (Access::Standby, _) if !scope.in_standby => return Err(Refused::Standby),
                        (_, backing @ (Backing::Local | Backing::Partner)) => {
                            state.in_flight += 1;
                            let generation = state.route.generation;
                            drop(state);
                            return Ok(Pass {
                                generation,
                                paths: self.clone(),
                                serial,
                                seen,
                                backing,
                            });
                        }
                        (_, Backing::None) => {}
                    }
                }
                if waiting.is_none() {
                    state.waiting += 1;
                    waiting = Some(Waiting(self));
                }
            }
            tokio::select! {
                _ = serial.changed() => {}
                () = scope.cancel.cancelled() => return Err(Refused::Cancelled),
                () = tokio::time::sleep_until(scope.deadline) => return Err(Refused::Busy),
            }
        }
    }

    /// Holds commands, and waits until none is below. False: `within` has passed and some still are; commands
    /// stay held either way.
    pub async fn hold(&self, within: Duration) -> bool {
        self.lock().held = true;
        let drained = async {
            loop {
                let notified = self.drained.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.lock().in_flight == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(within, drained).await.is_ok()
    }

    /// Switches to `route`. `attention` runs while commands are still held, after the new state stands: it posts
    /// the unit attentions, and is told whether what the ports report may have changed for a host. It must not call
    /// back into the paths.
    ///
    /// # Errors
    /// [`Stale`] where a newer claim stands; nothing is changed.
    pub fn flip(&self, route: Route, attention: impl FnOnce(bool)) -> Result<FlipOutcome, Stale> {
        let mut state = self.lock();
        if route.claim() < state.route.claim() {
            return Err(Stale {
                asked: route.claim(),
                stands: state.route.claim(),
            });
        }
        let was_held = std::mem::take(&mut state.held);
        // A host that asked during the hold was told `transitioning`.
        let access_changed = was_held || state.route.access != route.access;
        let changed = state.route != route;
        let rerouted = state.route.backing != route.backing || state.route.claim() != route.claim();
        state.route = route;
        attention(access_changed);
        let refuses = matches!(route.access_of(self.own), Access::Unavailable | Access::Standby);
        let goes_on = route.backing != Backing::None || refuses;
        let released = if goes_on && (changed || was_held) {
            state.waiting
        } else {
            0
        };
        // Whoever is below by the old route enters again; whoever waits looks again.
        self.serial.send_modify(|serial| *serial += u64::from(rerouted));
        Ok(FlipOutcome {
            changed: changed || was_held,
            access_changed,
            released,
        })
    }
}

struct Waiting<'a>(&'a Paths);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// Leave to go below by one route.
#[derive(Debug)]
pub struct Pass {
    paths: Arc<Paths>,
    serial: watch::Receiver<u64>,
    seen: u64,
    backing: Backing,
    generation: Generation,
}

impl Pass {
    /// A second pass by the same route, for what outlives the first.
    #[must_use]
    pub fn again(&self) -> Self {
        self.paths.lock().in_flight += 1;
        Self {
            paths: self.paths.clone(),
            serial: self.serial.clone(),
            seen: self.seen,
            backing: self.backing,
            generation: self.generation,
        }
    }

    /// Of the claim under which it was given.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The route still stands.
    #[must_use]
    pub fn stands(&self) -> bool {
        *self.serial.borrow() == self.seen
    }

    /// Where to go.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Waits until the route is another; whatever comes back by the old one is to be thrown away.
    pub async fn superseded(&mut self) {
        // The sender lives in `self.paths`.
        let seen = self.seen;
        let _ = self.serial.wait_for(|serial| *serial != seen).await;
    }

    /// Comes back up. True: the route still stands, the answer counts.
    #[must_use]
    pub fn leave(self) -> bool {
        self.stands()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.paths.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.paths.drained.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(generation: u64, backing: Backing, a: Access, b: Access) -> Route {
        Route {
            epoch: Epoch::new(1),
            generation: Generation::new(generation),
            backing,
            access: [a, b],
        }
    }

    fn owner(generation: u64) -> Route {
        route(
            generation,
            Backing::Local,
            Access::Optimized,
            Access::NonOptimized,
        )
    }

    #[tokio::test]
    async fn an_unknown_route_holds_until_its_bound_and_then_says_busy() {
        let paths = Paths::new(ControllerId::A);
        let bound = Duration::from_millis(20);
        let scope = Scope {
            deadline: Instant::now() + bound,
            ..Scope::new()
        };
        let begun = Instant::now();
        assert_eq!(paths.enter(&scope).await.err(), Some(Refused::Busy));
        assert!(begun.elapsed() >= bound);
        assert_eq!(paths.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_held_command_goes_on_by_the_new_route() {
        let paths = Paths::new(ControllerId::A);
        let waiter = tokio::spawn({
            let paths = paths.clone();
            async move { paths.enter(&Scope::new()).await.map(|pass| pass.backing()) }
        });
        while paths.load().0 == 0 {
            tokio::task::yield_now().await;
        }
        let mut told = None;
        let outcome = paths
            .flip(owner(1), |changed| told = Some(changed))
            .expect("newer");
        assert_eq!((outcome.changed, outcome.released, told), (true, 1, Some(true)));
        assert_eq!(waiter.await.expect("task"), Ok(Backing::Local));
    }

    #[tokio::test]
    async fn an_answer_by_an_older_route_does_not_count() {
        let paths = Paths::new(ControllerId::A);
        paths.flip(owner(1), |_| {}).expect("newer");
        let mut pass = paths.enter(&Scope::new()).await.expect("open");
        let partner = route(2, Backing::Partner, Access::NonOptimized, Access::Optimized);
        paths.flip(partner, |_| {}).expect("newer");
        pass.superseded().await;
        assert!(!pass.leave());
        let again = paths.enter(&Scope::new()).await.expect("open");
        assert_eq!(again.backing(), Backing::Partner);
        assert!(again.leave());
        assert_eq!(paths.load(), (0, 0));
    }

    #[tokio::test]
    async fn hold_waits_for_those_below_and_reports_transitioning() {
        let paths = Paths::new(ControllerId::A);
        paths.flip(owner(1), |_| {}).expect("newer");
        let pass = paths.enter(&Scope::new()).await.expect("open");
        assert!(!paths.hold(Duration::from_millis(20)).await, "one is still below");
        assert_eq!(paths.route().access, [Access::Transitioning; 2]);
        drop(pass);
        assert!(paths.hold(Duration::from_secs(1)).await);
        let outcome = paths
            .flip(owner(1), |_| {})
            .expect("the same claim ends the hold");
        assert!(outcome.changed);
        assert!(paths.enter(&Scope::new()).await.is_ok());
    }

    #[tokio::test]
    async fn an_older_claim_is_refused_and_changes_nothing() {
        let paths = Paths::new(ControllerId::B);
        paths.flip(owner(5), |_| {}).expect("newer");
        let before = paths.route();
        let stale = paths
            .flip(owner(4), |_| panic!("no attention"))
            .expect_err("older");
        assert_eq!(stale.stands.1, Generation::new(5));
        assert_eq!(paths.route(), before);
    }

    #[tokio::test]
    async fn abort_and_unavailable_end_the_wait() {
        let paths = Paths::new(ControllerId::A);
        let scope = Scope::new();
        let waiter = tokio::spawn({
            let (paths, scope) = (paths.clone(), scope.clone());
            async move { paths.enter(&scope).await.err() }
        });
        while paths.load().0 == 0 {
            tokio::task::yield_now().await;
        }
        scope.cancel.cancel();
        assert_eq!(waiter.await.expect("task"), Some(Refused::Cancelled));
        let cut = route(1, Backing::None, Access::Unavailable, Access::Optimized);
        paths.flip(cut, |_| {}).expect("newer");
        assert_eq!(paths.enter(&Scope::new()).await.err(), Some(Refused::Unavailable));
    }
}
