//! Both controllers, as far as the configuration needs them: routers, their link, keepers, and somebody who plays
//! heartbeat for them ([`Heart`]).
//!
//! The epochs that are told here are those that heartbeat would decide: both are members and may change the
//! configuration; or A alone is, and goes on; or B, which has become equal, joins.

use crate::error::{Error, Result};
use crate::peer::config::Heart;
use crate::process::Process;
use crate::stage::Stage;
use pollux_api::config::{
    self, CATCH_UP, CaughtUp, EpochRecord, FREEZE, Freeze, LogHash, SET_EPOCH, STATUS, SetEpoch, Status,
};
use pollux_api::id::{ControllerId, Epoch, Incarnation};
use pollux_runtime::ControllerConfig;
use pollux_runtime::config::FILE;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bound of a short call.
const CALL: Duration = Duration::from_secs(2);
/// Bound of one attempt to become equal, as heartbeat has it.
const ATTEMPT: Duration = Duration::from_secs(20);

const A: usize = 0;
const B: usize = 1;

/// An array whose configuration can be changed.
pub struct Array {
    hearts: [Heart; 2],
    keepers: [Process; 2],
    program: PathBuf,
    configs: [ControllerConfig; 2],
    sockets: [PathBuf; 2],
    logs: [PathBuf; 2],
    routers: [u32; 2],
    epoch: u64,
}

impl Array {
    /// Starts everything, both controllers in one open epoch.
    pub(crate) fn start(stage: &mut Stage, data: &Path) -> Result<Self> {
        let program = stage.daemon("config-keeperd")?;
        let configs = stage.controllers(Some(data))?;
        let routers = stage.routers(None, &configs)?;
        let sockets = [&configs[A], &configs[B]].map(|config| config.paths.router_socket());
        let logs = ["keeper-a.log", "keeper-b.log"].map(|log| stage.path(log));
        let mut array = Self {
            hearts: [Heart::register(&sockets[A])?, Heart::register(&sockets[B])?],
            keepers: [
                keeper(&program, &configs[A], &logs[A])?,
                keeper(&program, &configs[B], &logs[B])?,
            ],
            program,
            configs,
            sockets,
            logs,
            routers,
            epoch: 1,
        };
        let record = array.record(&[ControllerId::A, ControllerId::B], (0, LogHash::default()));
        for at in [A, B] {
            array.until("takes the epoch", at, |heart| set_epoch(heart, &record).ok())?;
        }
        array.until_it_acknowledges()?;
        Ok(array)
    }

    /// The socket of a controller's router.
    pub fn socket(&self, at: ControllerId) -> &Path {
        &self.sockets[at.index()]
    }

    /// Every process whose time counts.
    pub fn processes(&self) -> Vec<u32> {
        let keepers = self.keepers.iter().map(Process::id);
        self.routers.iter().copied().chain(keepers).collect()
    }

    /// Kills B's keeper in the middle of whatever it does, and lets A go on alone.
    ///
    /// # Errors
    /// A does not.
    pub fn lose(&mut self) -> Result<()> {
        self.keepers[B].kill()?;
        self.epoch += 1;
        let base = self.freeze()?;
        let record = self.record(&[ControllerId::A], base);
        set_epoch(&mut self.hearts[A], &record)?;
        self.until_it_acknowledges()
    }

    /// Starts B's keeper again and lets it join, in the steps that heartbeat takes. A change may be asked for as soon
    /// as it returns.
    ///
    /// # Errors
    /// A step is refused, or it is not done within `patience`.
    pub fn join(&mut self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        self.keepers[B] = keeper(&self.program, &self.configs[B], &self.logs[B])?;
        let status: Status = self.hearts[A].call(STATUS, &(), CALL)?;
        let Some(present) = status.epoch else {
            return Err(Error::Missing("A has forgotten its epoch".into()));
        };
        let heart = &mut self.hearts[B];
        self.keepers[B].until_within(patience, "takes the epoch", || set_epoch(heart, &present).ok())?;
        // Most of it while A goes on; what is left while A waits.
        self.catch_up(end, patience)?;
        self.epoch += 1;
        let base = self.freeze()?;
        let done = self.catch_up(end, patience)?;
        if !done.equal || (done.length, done.hash) != base {
            let what = format!("B is not equal to A, which is frozen at {base:?}: {done:?}");
            return Err(Error::Missing(what));
        }
        let record = self.record(&[ControllerId::A, ControllerId::B], base);
        for at in [B, A] {
            set_epoch(&mut self.hearts[at], &record)?;
        }
        self.until_it_acknowledges()
    }

    fn catch_up(&mut self, end: Instant, patience: Duration) -> Result<CaughtUp> {
        loop {
            match self.hearts[B].call(CATCH_UP, &(), ATTEMPT) {
                Ok(done) => return Ok(done),
                Err(error) if Instant::now() > end => {
                    return Err(Error::Missing(format!(
                        "not finished in {} s: {error}",
                        patience.as_secs()
                    )));
                }
                // An attempt that has not come to its end goes on; another is refused until then.
                Err(_) => crate::process::pause(),
            }
        }
    }

    /// Lets A append nothing more; where its log ends.
    fn freeze(&mut self) -> Result<(u64, LogHash)> {
        let freeze = Freeze {
            epoch: Epoch::new(self.epoch),
            reason: "a measurement".into(),
        };
        let status: Status = self.hearts[A].call(FREEZE, &freeze, CALL)?;
        Ok((status.length, status.hash))
    }

    fn record(&self, members: &[ControllerId], (base_length, base_hash): (u64, LogHash)) -> EpochRecord {
        EpochRecord {
            epoch: Epoch::new(self.epoch),
            members: members
                .iter()
                .map(|member| (*member, Incarnation::new(1)))
                .collect(),
            open: true,
            base_length,
            base_hash,
            quorum: Vec::new(),
        }
    }

    fn until<T>(
        &mut self,
        what: &str,
        at: usize,
        mut ready: impl FnMut(&mut Heart) -> Option<T>,
    ) -> Result<T> {
        let heart = &mut self.hearts[at];
        self.keepers[at].until(what, || ready(heart))
    }

    fn until_it_acknowledges(&mut self) -> Result<()> {
        self.until("takes changes", A, |heart| {
            let status: Status = heart.call(STATUS, &(), CALL).ok()?;
            (status.acknowledging && status.locked.is_none()).then_some(())
        })
    }
}

fn keeper(program: &Path, config: &ControllerConfig, log: &Path) -> Result<Process> {
    let file = config.paths.log.join(FILE);
    Process::start(Command::new(program).arg("--config").arg(file), log)
}

fn set_epoch(heart: &mut Heart, record: &EpochRecord) -> Result<config::Status> {
    let set = SetEpoch {
        record: record.clone(),
        lock: None,
        incarnation: Some(Incarnation::new(1)),
    };
    heart.call(SET_EPOCH, &set, CALL)
}
