//! A watchdog on a clock that is turned by hand.

use crate::watchdog::{Device, Running, Support};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a device is, and how it stands.
#[derive(Debug)]
pub struct Dial {
    /// What it says of itself.
    pub support: Support,
    /// Its timeouts, seconds: the least, the most.
    pub range: (u32, u32),
    /// Timeouts are rounded up to a multiple of this.
    pub step: u32,
    /// It cannot be stopped.
    pub nowayout: bool,
    /// Another process has it.
    pub busy: bool,
    /// Seconds on its clock.
    pub now: u32,
    /// Runs, with this timeout.
    pub timeout: Option<u32>,
    fed: u32,
    open: bool,
}

/// The device; clones share it.
#[derive(Clone, Debug)]
pub struct FakeWatchdog(Arc<Mutex<Dial>>);

impl Default for FakeWatchdog {
    fn default() -> Self {
        FakeWatchdog(Arc::new(Mutex::new(Dial {
            support: Support {
                identity: "fake".to_owned(),
                sets_timeout: true,
                outlives_its_process: true,
                is_fed: true,
                only_alarms: false,
            },
            range: (1, 600),
            step: 1,
            nowayout: false,
            busy: false,
            now: 0,
            timeout: None,
            fed: 0,
            open: false,
        })))
    }
}

impl FakeWatchdog {
    /// Looks at it, or changes it.
    pub fn dial(&self) -> MutexGuard<'_, Dial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns its clock; whether it has reset the machine by then.
    #[must_use]
    pub fn bites_after(&self, seconds: u32) -> bool {
        let mut dial = self.dial();
        dial.now += seconds;
        dial.timeout.is_some_and(|timeout| dial.now - dial.fed >= timeout)
    }
}

/// The default timeout of a device that was only opened, seconds.
const DEFAULT: u32 = 60;

/// It, started.
#[derive(Debug)]
pub struct FakeRunning(FakeWatchdog);

impl Device for FakeWatchdog {
    type Running = FakeRunning;

    fn start(&self) -> io::Result<FakeRunning> {
        let mut dial = self.dial();
        if dial.busy || dial.open {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        dial.open = true;
        dial.fed = dial.now;
        dial.timeout.get_or_insert(DEFAULT);
        Ok(FakeRunning(self.clone()))
    }

    fn name(&self) -> String {
        "fake".to_owned()
    }
}

impl Running for FakeRunning {
    fn support(&self) -> io::Result<Support> {
        Ok(self.0.dial().support.clone())
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
        let mut dial = self.0.dial();
        let (least, most) = dial.range;
        if !(least..=most).contains(&seconds) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let set = seconds.next_multiple_of(dial.step);
        dial.timeout = Some(set);
        dial.fed = dial.now;
        Ok(set)
    }

    fn feed(&mut self) -> io::Result<()> {
        let mut dial = self.0.dial();
        dial.fed = dial.now;
        Ok(())
    }

    fn cannot_stop(&self) -> bool {
        self.0.dial().nowayout
    }

    fn stop(self) -> io::Result<()> {
        let mut dial = self.0.dial();
        if !dial.nowayout {
            dial.timeout = None;
        }
        Ok(())
    }
}

impl Drop for FakeRunning {
    fn drop(&mut self) {
        let mut dial = self.0.dial();
        dial.open = false;
        if !dial.support.outlives_its_process && !dial.nowayout {
            dial.timeout = None;
        }
    }
}
