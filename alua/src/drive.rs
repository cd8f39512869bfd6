//! Bringing a target to what is wanted.

use pollux_alua_core::{Groups, Stale};
use pollux_api::alua::{Done, Group, Set};
use pollux_api::error::RpcError;
use pollux_api::id::{ControllerId, PoolId};
use pollux_api::target::{Flip, Flipped, Hold, PoolPaths};
use pollux_platform::file;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest drain before a move: far below every host's patience, and long enough for any healthy disk.
pub const DRAIN: Duration = Duration::from_secs(2);

/// What publishes volumes to hosts, whichever it is.
pub trait Target: Send + Sync + 'static {
    /// Under which action, until when.
    type Context: Send + Sync;

    /// Holds the commands of a pool and waits until none is in flight.
    fn hold(&self, hold: Hold, context: &Self::Context) -> impl Future<Output = Result<(), RpcError>> + Send;

    /// Switches a pool: idempotent, refuses older claims.
    fn flip(
        &self,
        flip: Flip,
        context: &Self::Context,
    ) -> impl Future<Output = Result<Flipped, RpcError>> + Send;

    /// What each pool is now.
    fn report(
        &self,
        context: &Self::Context,
    ) -> impl Future<Output = Result<Vec<PoolPaths>, RpcError>> + Send;
}

/// Why a wish was not followed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Undone {
    /// It is older than what stands.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The target did not do it. The wish stands, and is driven again.
    #[error("{0}")]
    Target(RpcError),
    /// It could not be recorded; nothing was done.
    #[error("cannot record what is wanted in {path}: {why}")]
    Record {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
}

/// The machine, its record, and the target that it drives.
#[derive(Debug)]
pub struct Driver<T> {
    target: T,
    record: PathBuf,
    groups: Mutex<Groups>,
    /// Grows with each wish: a drain for an older one is not waited for.
    wishes: watch::Sender<u64>,
    /// One flip at a time for a pool.
    turns: Mutex<BTreeMap<PoolId, Arc<tokio::sync::Mutex<()>>>>,
}

fn read_record(path: &Path) -> Vec<Set> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            // Nothing is lost for good: heartbeat says again what it wants.
            tracing::warn!(path = %path.display(), %error, "record of what is wanted is unreadable; starting without");
            Vec::new()
        }),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "record of what is wanted cannot be read");
            }
            Vec::new()
        }
    }
}

impl<T: Target> Driver<T> {
    /// Drives `target` of controller `own`, and goes on with what stands in `record`, a file that does not survive
    /// a boot.
    #[must_use]
    pub fn new(own: ControllerId, target: T, record: PathBuf) -> Self {
        let groups = Mutex::new(Groups::new(own, read_record(&record)));
        Self {
            target,
            record,
            groups,
            wishes: watch::Sender::new(0),
            turns: Mutex::default(),
        }
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, pool: PoolId) -> Arc<tokio::sync::Mutex<()>> {
        self.turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(pool)
            .or_default()
            .clone()
    }

    /// Follows a wish of heartbeat; `drain` bounds a drain.
    ///
    /// # Errors
    /// [`Undone`].
    pub async fn set(&self, set: Set, drain: Duration, context: &T::Context) -> Result<Done, Undone> {
        let pool = set.pool;
        {
            let mut groups = self.groups();
            let mut next = groups.clone();
            if next.accept(set)? {
                self.write_record(&next.wanted())?;
            }
            *groups = next;
        }
        self.wishes.send_modify(|wishes| *wishes += 1);
        self.drive(pool, drain, context).await
    }

    fn write_record(&self, wanted: &[Set]) -> Result<(), Undone> {
        let failed = |why: String| Undone::Record {
            path: self.record.display().to_string(),
            why,
        };
        let bytes = serde_json::to_vec(wanted).map_err(|error| failed(error.to_string()))?;
        file::replace(&self.record, &bytes, 0o600).map_err(|error| failed(error.to_string()))
    }

    async fn drive(&self, pool: PoolId, drain: Duration, context: &T::Context) -> Result<Done, Undone> {
        let turn = self.turn(pool);
        let _turn = turn.lock().await;
        let mut wishes = self.wishes.subscribe();
        // What is wanted may have changed while others had their turn, or during the drain: the newest counts.
        let plan = loop {
            let Some(plan) = self.groups().plan(pool) else {
                return Ok(Done {
                    changed: false,
                    released: 0,
                });
            };
            if !plan.drain {
                break plan;
            }
            let hold = Hold {
                pool,
                drain_ms: drain.min(DRAIN).as_millis() as u64,
            };
            // What is below a suspended pool never ends: whoever stops it does not wait for that.
            let other = async {
                while self.groups().plan(pool).as_ref() == Some(&plan) {
                    if wishes.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                held = self.target.hold(hold, context) => match held {
                    Ok(()) => break plan,
                    Err(error) => {
                        self.groups().confirmed(&plan.flip, Err(error.to_string()));
                        return Err(Undone::Target(error));
                    }
                },
                () = other => {}
            }
        };
        match self.target.flip(plan.flip.clone(), context).await {
            Ok(Flipped {
                changed, released, ..
            }) => {
                self.groups().confirmed(&plan.flip, Ok(()));
                Ok(Done { changed, released })
            }
            Err(error) => {
                self.groups().confirmed(&plan.flip, Err(error.to_string()));
                Err(Undone::Target(error))
            }
        }
    }

    /// Looks at the target, and drives again what has gone astray. The number of pools that were driven.
    ///
    /// # Errors
    /// The target does not answer.
    pub async fn reconcile(&self, context: &T::Context) -> Result<usize, RpcError> {
        let reports = self.target.report(context).await?;
        let astray = self.groups().observe(&reports);
        let mut driven = 0;
        for pool in astray {
            // A turn that is taken is being driven by a call: it needs no second hand.
            if self.turn(pool).try_lock().is_err() {
                continue;
            }
            match self.drive(pool, DRAIN, context).await {
                Ok(done) => tracing::info!(%pool, changed = done.changed, "driven again"),
                Err(error) => tracing::warn!(%pool, %error, "cannot be driven"),
            }
            driven += 1;
        }
        Ok(driven)
    }

    /// One line per pool.
    #[must_use]
    pub fn report(&self) -> Vec<Group> {
        self.groups().report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::alua::Role;
    use pollux_api::error::Code;
    use pollux_api::id::{Epoch, Generation};
    use pollux_api::target::{Access, Backing};

    const POOL: PoolId = PoolId::from_bytes([9; 16]);

    /// A target that obeys the rules of the real one: idempotent, refuses older claims, forgets when it restarts.
    #[derive(Debug, Default)]
    struct Fake {
        state: Mutex<FakeState>,
    }

    #[derive(Debug, Default)]
    struct FakeState {
        flips: BTreeMap<PoolId, Flip>,
        log: Vec<&'static str>,
        down: bool,
        busy: bool,
        stuck: bool,
    }

    impl Fake {
        fn state(&self) -> MutexGuard<'_, FakeState> {
            self.state.lock().expect("not poisoned")
        }
    }

    impl Target for Arc<Fake> {
        type Context = ();

        async fn hold(&self, _hold: Hold, (): &()) -> Result<(), RpcError> {
            let stuck = {
                let mut state = self.state();
                state.log.push("hold");
                state.stuck
            };
            if stuck {
                std::future::pending::<()>().await;
            }
            match self.state().busy {
                true => Err(RpcError::new(
                    Code::DeadlinePassed,
                    "target",
                    "commands are in flight",
                )),
                false => Ok(()),
            }
        }

        async fn flip(&self, flip: Flip, (): &()) -> Result<Flipped, RpcError> {
            let mut state = self.state();
            if state.down {
                return Err(RpcError::new(Code::ServiceGone, "target", "down"));
            }
            state.log.push("flip");
            let claim = |flip: &Flip| (flip.epoch, flip.generation);
            if state
                .flips
                .get(&flip.pool)
                .is_some_and(|old| claim(old) > claim(&flip))
            {
                return Err(RpcError::new(Code::Superseded, "target", "older"));
            }
            let changed = state.flips.insert(flip.pool, flip.clone()) != Some(flip);
            Ok(Flipped {
                changed,
                sessions: 0,
                released: 0,
            })
        }

        async fn report(&self, (): &()) -> Result<Vec<PoolPaths>, RpcError> {
            let state = self.state();
            let line = |flip: &Flip| PoolPaths {
                pool: flip.pool,
                epoch: flip.epoch,
                generation: flip.generation,
                backing: flip.backing,
                access_a: flip.access_a,
                access_b: flip.access_b,
                held: 0,
                volumes: Vec::new(),
            };
            Ok(state.flips.values().map(line).collect())
        }
    }

    fn set(generation: u64, role: Role) -> Set {
        let (epoch, generation) = (Epoch::new(1), Generation::new(generation));
        Set {
            pool: POOL,
            epoch,
            generation,
            role,
            partner_reachable: true,
        }
    }

    fn driver(fake: &Arc<Fake>, dir: &Path) -> Driver<Arc<Fake>> {
        Driver::new(ControllerId::A, fake.clone(), dir.join("alua.json"))
    }

    #[tokio::test]
    async fn a_move_drains_and_then_the_owner_serves() {
        let (fake, dir) = (Arc::new(Fake::default()), tempfile::tempdir().expect("scratch"));
        let driver = driver(&fake, dir.path());
        driver
            .set(set(1, Role::Moving), DRAIN, &())
            .await
            .expect("moving");
        assert_eq!(fake.state().log, ["hold", "flip"]);
        let done = driver.set(set(1, Role::Owner), DRAIN, &()).await.expect("owner");
        assert!(done.changed);
        let again = driver
            .set(set(1, Role::Owner), DRAIN, &())
            .await
            .expect("the same again");
        assert!(!again.changed);
        assert!(driver.report()[0].settled);
    }

    #[tokio::test]
    async fn a_move_that_cannot_drain_does_not_flip_and_may_be_taken_back() {
        let (fake, dir) = (Arc::new(Fake::default()), tempfile::tempdir().expect("scratch"));
        let driver = driver(&fake, dir.path());
        driver.set(set(1, Role::Owner), DRAIN, &()).await.expect("owner");
        fake.state().busy = true;
        let refused = driver
            .set(set(1, Role::Moving), DRAIN, &())
            .await
            .expect_err("busy");
        assert!(matches!(refused, Undone::Target(_)));
        assert_eq!(fake.state().flips[&POOL].backing, Backing::Local);
        assert!(
            driver.report()[0]
                .problem
                .as_deref()
                .is_some_and(|why| why.contains("in flight"))
        );
        driver
            .set(set(1, Role::Owner), DRAIN, &())
            .await
            .expect("taken back");
        assert_eq!(driver.report()[0].problem, None);
    }

    #[tokio::test]
    async fn a_restart_of_either_side_ends_where_heartbeat_wanted() {
        let (fake, dir) = (Arc::new(Fake::default()), tempfile::tempdir().expect("scratch"));
        let first = driver(&fake, dir.path());
        first.set(set(3, Role::Owner), DRAIN, &()).await.expect("owner");
        fake.state().flips.clear();
        assert_eq!(first.reconcile(&()).await, Ok(1), "the target restarted");
        assert_eq!(first.reconcile(&()).await, Ok(0));
        drop(first);
        fake.state().flips.clear();
        let second = driver(&fake, dir.path());
        assert_eq!(second.reconcile(&()).await, Ok(1), "both restarted");
        let flip = fake.state().flips[&POOL].clone();
        assert_eq!((flip.backing, flip.access_a), (Backing::Local, Access::Optimized));
        let stale = second
            .set(set(2, Role::Partner), DRAIN, &())
            .await
            .expect_err("older");
        assert!(matches!(stale, Undone::Stale(_)), "the claim survived, too");
    }

    #[tokio::test]
    async fn a_wish_that_the_target_missed_is_driven_later() {
        let (fake, dir) = (Arc::new(Fake::default()), tempfile::tempdir().expect("scratch"));
        let driver = driver(&fake, dir.path());
        fake.state().down = true;
        assert!(driver.set(set(1, Role::Owner), DRAIN, &()).await.is_err());
        fake.state().down = false;
        assert_eq!(driver.reconcile(&()).await, Ok(1));
        assert!(driver.report()[0].settled);
    }

    #[tokio::test]
    async fn a_newer_wish_does_not_wait_for_the_drain_of_an_older_one() {
        let (fake, dir) = (Arc::new(Fake::default()), tempfile::tempdir().expect("scratch"));
        let driver = driver(&fake, dir.path());
        fake.state().stuck = true;
        let moving = driver.set(set(1, Role::Moving), DRAIN, &());
        let stopped = async {
            // The drain has begun.
            while fake.state().log.is_empty() {
                tokio::task::yield_now().await;
            }
            driver.set(set(1, Role::Nobody), DRAIN, &()).await
        };
        let (moving, stopped) = tokio::join!(moving, stopped);
        moving.expect("overtaken");
        stopped.expect("nobody");
        let flips = fake.state().flips.clone();
        assert_eq!(flips[&POOL].access_a, Access::Unavailable);
        assert_eq!(fake.state().log, ["hold", "flip", "flip"]);
    }

    #[tokio::test]
    async fn a_damaged_record_is_left_behind() {
        let (fake, dir) = (Arc::new(Fake::default()), tempfile::tempdir().expect("scratch"));
        std::fs::write(dir.path().join("alua.json"), b"[{").expect("write");
        let driver = driver(&fake, dir.path());
        assert!(driver.report().is_empty());
        driver.set(set(1, Role::Owner), DRAIN, &()).await.expect("owner");
        assert_eq!(self::driver(&fake, dir.path()).report().len(), 1);
    }
}
