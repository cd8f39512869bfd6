//! The controller's own watchdog: armed by heartbeat, fed by heartbeat, and by nobody else.
//!
//! The partner waits for it to bite before it takes what this controller had, so it may bite earlier than was promised, and
//! never later. From that follows everything here:
//!
//! * devices count whole seconds; a timeout that is none is rounded *down*, and one below a second is refused;
//! * a device that takes another timeout than it was told, a longer one, is refused, as is one that stops when its process
//!   dies, or that rings a bell instead of resetting;
//! * this daemon feeds it only when it is asked to. After a restart of this daemon the device runs on, and is opened (which
//!   feeds it) with the first pet that comes: a file beside the sockets says that it is armed, and with what, for this boot;
//! * it is disarmed only when that is asked for. Whoever stops this daemon does not disarm it.

use pollux_api::error::{Code, RpcError};
use pollux_platform::file::replace_volatile;
use pollux_platform::watchdog::{Device, Running};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file that says that it is armed.
const FILE: &str = "watchdog";

/// The watchdog of a controller.
pub(crate) struct Dog<D: Device> {
    device: D,
    /// The device, once it is opened by this process.
    running: Option<D::Running>,
    /// The timeout under which it is armed, seconds.
    armed: Option<u32>,
    file: PathBuf,
    /// Which boot of the machine this is.
    boot: String,
}

impl<D: Device> Dog<D> {
    /// A watchdog as an earlier process of this boot has left it. Touches no device.
    pub(crate) fn new(device: D, directory: &Path, boot: &str) -> Self {
        let file = directory.join(FILE);
        let armed = std::fs::read_to_string(&file).ok().and_then(|text| {
            let (seconds, of) = text.trim().split_once(' ')?;
            (of == boot).then(|| seconds.parse().ok())?
        });
        if let Some(seconds) = armed {
            tracing::info!(
                device = device.name(),
                seconds,
                "watchdog is armed since before this start"
            );
        }
        Dog {
            device,
            running: None,
            armed,
            file,
            boot: boot.to_owned(),
        }
    }

    fn failed(&self, method: &str, what: &str, error: &io::Error) -> RpcError {
        let refusal = RpcError::new(
            Code::Failed,
            method,
            format!("{}: {what}: {error}", self.device.name()),
        );
        match error.kind() {
            io::ErrorKind::ResourceBusy => {
                refusal.remedy("another process has the watchdog (RuntimeWatchdogSec= of systemd, watchdogd): take it away there")
            }
            _ => refusal,
        }
    }

    fn refused(&self, method: &str, what: &str, remedy: &str) -> RpcError {
        RpcError::new(Code::Refused, method, format!("{}: {what}", self.device.name())).remedy(remedy)
    }

    /// The device, opened.
    fn open(&mut self, method: &str) -> Result<&mut D::Running, RpcError> {
        if self.running.is_none() {
            match self.device.start() {
                Ok(running) => self.running = Some(running),
                Err(error) => return Err(self.failed(method, "cannot be opened", &error)),
            }
        }
        self.running
            .as_mut()
            .ok_or_else(|| RpcError::new(Code::Internal, method, "a watchdog that was opened is not there"))
    }

    /// Arms it, or changes its timeout; counts as a pet.
    ///
    /// # Errors
    /// It is not armed then, or as it was before; and why.
    pub(crate) fn arm(&mut self, method: &str, timeout: Duration) -> Result<(), RpcError> {
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        if seconds == 0 {
            let what = format!("timeout_ms is {}", timeout.as_millis());
            return Err(RpcError::new(Code::InvalidParams, method, what)
                .remedy("a watchdog device counts whole seconds: at least 1000"));
        }
        self.open(method)?;
        let end = self.suits(method).and_then(|()| self.set(method, seconds));
        let end = end.and_then(|()| {
            let text = format!("{seconds} {}\n", self.boot);
            replace_volatile(&self.file, text.as_bytes(), 0o644).map_err(|error| {
                RpcError::new(Code::Failed, method, format!("{}: {error}", self.file.display()))
            })
        });
        match end {
            Ok(()) => {
                if self.armed.replace(seconds) != Some(seconds) {
                    tracing::info!(device = self.device.name(), seconds, "watchdog armed");
                }
                Ok(())
            }
            Err(error) => {
                self.back(method);
                Err(error)
            }
        }
    }

    /// After an attempt to arm it that failed: as it was before.
    fn back(&mut self, method: &str) {
        match self.armed {
            Some(before) => {
                if let Err(error) = self.set(method, before) {
                    tracing::error!(%error, seconds = before, "the watchdog does not go back to its timeout");
                }
            }
            None => {
                // Opening has started it, and nobody would feed it.
                if let Some(running) = self.running.take() {
                    if running.cannot_stop() {
                        tracing::error!(
                            device = self.device.name(),
                            "it cannot be stopped (nowayout), and will reset this machine"
                        );
                    }
                    if let Err(error) = running.stop() {
                        tracing::error!(%error, device = self.device.name(), "not stopped; it will reset this machine");
                    }
                }
            }
        }
    }

    fn suits(&mut self, method: &str) -> Result<(), RpcError> {
        let support = self.open(method)?.support();
        let support = support.map_err(|error| self.failed(method, "does not say what it can do", &error))?;
        let other = "another watchdog: one in hardware";
        if support.only_alarms {
            return Err(self.refused(method, "it only rings an alarm", other));
        }
        if !support.sets_timeout || !support.is_fed {
            return Err(self.refused(method, "it takes no timeout, or cannot be fed", other));
        }
        if !support.outlives_its_process {
            let what = "it has no magic close, so it stops when its process dies: a crash would disarm it";
            return Err(self.refused(method, what, other));
        }
        if self.armed.is_none() && support.identity.starts_with("Software Watchdog") {
            tracing::warn!("this watchdog is software (softdog): it does not reset a kernel that hangs");
        }
        Ok(())
    }

    /// Sets a timeout and makes sure of it; feeds.
    fn set(&mut self, method: &str, seconds: u32) -> Result<(), RpcError> {
        let set = self.open(method)?.set_timeout(seconds);
        let set = set.map_err(|error| {
            let what = format!("it does not take a timeout of {seconds} s");
            self.failed(method, &what, &error)
        })?;
        if set == 0 || set > seconds {
            let what =
                format!("it has a timeout of {set} s where at most {seconds} s were promised to the partner");
            return Err(self.refused(
                method,
                &what,
                "a device that takes this timeout, or a profile with a longer one",
            ));
        }
        self.feed(method)
    }

    fn feed(&mut self, method: &str) -> Result<(), RpcError> {
        let fed = self.open(method)?.feed();
        fed.map_err(|error| self.failed(method, "was not fed", &error))
    }

    /// Starts its time anew.
    ///
    /// # Errors
    /// It is not armed, or cannot be fed.
    pub(crate) fn pet(&mut self, method: &str) -> Result<(), RpcError> {
        let Some(seconds) = self.armed else {
            return Err(
                RpcError::new(Code::Conflict, method, "the watchdog is not armed").remedy("arm it first")
            );
        };
        match self.running {
            Some(_) => self.feed(method),
            // Armed by an earlier process: opened only now, since opening feeds it.
            None => self.set(method, seconds),
        }
    }

    /// Disarms it.
    ///
    /// # Errors
    /// It cannot be disarmed, and is armed still.
    pub(crate) fn disarm(&mut self, method: &str) -> Result<(), RpcError> {
        if self.armed.is_none() {
            return Ok(());
        }
        if self.open(method)?.cannot_stop() {
            let remedy = "load its driver with nowayout=0, or restart the machine";
            return Err(self.refused(method, "it cannot be stopped once it runs (nowayout)", remedy));
        }
        if let Some(running) = self.running.take() {
            running
                .stop()
                .map_err(|error| self.failed(method, "was not stopped", &error))?;
        }
        self.armed = None;
        tracing::info!(device = self.device.name(), "watchdog disarmed");
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RpcError::new(
                Code::Failed,
                method,
                format!("{}: {error}", self.file.display()),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_platform::fake::watchdog::{Dial, FakeWatchdog};

    fn dog(device: &FakeWatchdog, directory: &Path) -> Dog<FakeWatchdog> {
        Dog::new(device.clone(), directory, "this-boot")
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn it_bites_no_later_than_was_promised() {
        let (device, dir) = (FakeWatchdog::default(), tempfile::tempdir().unwrap());
        let mut dog = dog(&device, dir.path());
        assert!(dog.pet("x").unwrap_err().is(Code::Conflict), "not armed");
        dog.arm("x", Duration::from_millis(5900)).unwrap();
        assert_eq!(device.dial().timeout, Some(5), "rounded down");
        assert!(!device.bites_after(4));
        dog.pet("x").unwrap();
        assert!(!device.bites_after(4));
        assert!(device.bites_after(1));
        assert!(
            dog.arm("x", Duration::from_millis(999))
                .unwrap_err()
                .is(Code::InvalidParams)
        );
        assert_eq!(device.dial().timeout, Some(5), "as before");
    }

    #[test]
    fn what_does_not_keep_the_promise_is_refused_and_does_not_run() {
        type Change = fn(&mut Dial);
        let cases: [(&str, Change); 7] = [
            ("does not take a timeout of 5 s", |dial| dial.range = (15, 600)),
            ("timeout of 8 s where at most 5 s", |dial| dial.step = 8),
            ("only rings", |dial| dial.support.only_alarms = true),
            ("a crash would disarm it", |dial| {
                dial.support.outlives_its_process = false
            }),
            ("takes no timeout", |dial| dial.support.sets_timeout = false),
            ("cannot be fed", |dial| dial.support.is_fed = false),
            ("RuntimeWatchdogSec", |dial| dial.busy = true),
        ];
        for (words, change) in cases {
            let (device, dir) = (FakeWatchdog::default(), tempfile::tempdir().unwrap());
            change(&mut device.dial());
            let mut dog = dog(&device, dir.path());
            let refusal = dog.arm("x", 5 * S).unwrap_err().to_string();
            assert!(refusal.contains(words), "{words}: {refusal}");
            assert_eq!(device.dial().timeout, None, "{words}");
            assert!(dog.pet("x").is_err(), "{words}");
            assert!(!dir.path().join(FILE).exists(), "{words}");
        }
    }

    #[test]
    fn an_armed_one_stays_as_it_is_when_a_change_is_refused() {
        let (device, dir) = (FakeWatchdog::default(), tempfile::tempdir().unwrap());
        device.dial().range = (5, 600);
        let mut dog = dog(&device, dir.path());
        dog.arm("x", 10 * S).unwrap();
        dog.arm("x", 3 * S).unwrap_err();
        assert_eq!(device.dial().timeout, Some(10));
        dog.pet("x").unwrap();
    }

    #[test]
    fn it_runs_on_without_its_process_and_is_opened_by_the_next_pet() {
        let (device, dir) = (FakeWatchdog::default(), tempfile::tempdir().unwrap());
        let mut first = dog(&device, dir.path());
        first.arm("x", 8 * S).unwrap();
        assert!(!device.bites_after(6));
        drop(first);
        let mut second = dog(&device, dir.path());
        assert!(!device.bites_after(1), "a start feeds nothing, and stops nothing");
        assert!(device.bites_after(1), "8 s after the last pet");
        second.pet("x").unwrap();
        assert!(!device.bites_after(7));
        second.disarm("x").unwrap();
        assert_eq!(device.dial().timeout, None);
        assert!(second.pet("x").is_err());
        assert!(
            Dog::new(device.clone(), dir.path(), "this-boot")
                .pet("x")
                .is_err(),
            "and for the next process"
        );
        second.arm("x", 8 * S).unwrap();
        drop(second);
        assert!(
            Dog::new(device, dir.path(), "the-next-boot").pet("x").is_err(),
            "what was armed in an earlier boot"
        );
    }

    #[test]
    fn one_without_a_way_out_says_so() {
        let (device, dir) = (FakeWatchdog::default(), tempfile::tempdir().unwrap());
        device.dial().nowayout = true;
        let mut dog = dog(&device, dir.path());
        dog.disarm("x").unwrap();
        dog.arm("x", 8 * S).unwrap();
        let refusal = dog.disarm("x").unwrap_err().to_string();
        assert!(refusal.contains("nowayout"), "{refusal}");
        dog.pet("x").unwrap();
        assert_eq!(device.dial().timeout, Some(8));
    }
}
