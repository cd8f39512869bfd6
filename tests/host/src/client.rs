//! The other end of [`crate::control`]: a test's hold on a `pollux-host` process.
//!
//! Each call takes a number; one thread reads the answers and hands each to whoever waits for its
//! number. When the process ends, every waiting call fails with that, at once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::{Call, Op, Report};
use crate::engine::{DeviceInfo, GroupReports, HostConfig};
use crate::image::Copied;
use crate::load::{LoadConfig, LoadReport};
use crate::workload::{StreamReport, Verdict, WorkloadConfig};

type Waiting = Arc<Mutex<Option<BTreeMap<u64, Sender<Result<Value, String>>>>>>;

/// A host process. Dropping it closes its input, which ends it, and reaps it.
pub struct HostProcess {
    child: Child,
    input: Option<Mutex<ChildStdin>>,
    waiting: Waiting,
    next: AtomicU64,
}

/// An answer that is still to come.
pub struct Pending<T> {
    answer: Receiver<Result<Value, String>>,
    _kind: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Pending<T> {
    /// Waits for it.
    pub fn wait(self) -> Result<T, String> {
        let value = self
            .answer
            .recv()
            .map_err(|_| "the host process has ended".to_owned())??;
        serde_json::from_value(value).map_err(|err| format!("answer of the host not understood: {err}"))
    }
}

impl HostProcess {
    /// Starts `command` (which runs `pollux-host`, perhaps inside a namespace).
    pub fn spawn(mut command: Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().map(Mutex::new);
        let output = child.stdout.take().expect("piped above");
        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let calls = Arc::clone(&waiting);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                deliver(&calls, &line);
            }
            // No more answers: callers see their channel close.
            calls.lock().expect("no panic under the lock").take();
        });
        Ok(HostProcess {
            child,
            input,
            waiting,
            next: AtomicU64::new(1),
        })
    }

    /// Sends a call; the answer can be waited for later.
    pub fn call<T: DeserializeOwned>(&self, op: Op) -> Pending<T> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = channel();
        if let Some(waiting) = self.waiting.lock().expect("no panic under the lock").as_mut() {
            waiting.insert(id, reply);
        }
        let line = serde_json::to_string(&Call { id, op }).expect("calls are plain data");
        if let Some(input) = &self.input {
            // A process that has ended shows by its answers' end.
            let _ = writeln!(input.lock().expect("no panic under the lock"), "{line}");
        }
        Pending {
            answer,
            _kind: std::marker::PhantomData,
        }
    }

    /// See [`Op::Connect`].
    pub fn connect(&self, config: HostConfig) -> Result<u64, String> {
        self.call(Op::Connect {
            config: Box::new(config),
        })
        .wait()
    }

    /// See [`Op::WaitReady`].
    pub fn wait_ready(
        &self,
        devices: usize,
        paths: usize,
        timeout_ms: u64,
    ) -> Result<Vec<DeviceInfo>, String> {
        self.call(Op::WaitReady {
            devices,
            paths,
            timeout_ms,
        })
        .wait()
    }

    /// See [`Op::Rescan`].
    pub fn rescan(&self) -> Result<(), String> {
        self.call::<Value>(Op::Rescan {}).wait().map(|_| ())
    }

    /// See [`Op::Devices`].
    pub fn devices(&self) -> Result<Vec<DeviceInfo>, String> {
        self.call(Op::Devices {}).wait()
    }

    /// See [`Op::PortGroups`].
    pub fn port_groups(&self, lun: u16) -> Result<GroupReports, String> {
        self.call(Op::PortGroups { lun }).wait()
    }

    /// See [`Op::Start`].
    pub fn start(&self, workload: WorkloadConfig) -> Result<u64, String> {
        self.call(Op::Start {
            workload: Box::new(workload),
        })
        .wait()
    }

    /// See [`Op::Progress`].
    pub fn progress(&self) -> Result<Vec<StreamReport>, String> {
        self.call(Op::Progress {}).wait()
    }

    /// See [`Op::Stop`].
    pub fn stop(&self) -> Result<Vec<StreamReport>, String> {
        self.call(Op::Stop {}).wait()
    }

    /// See [`Op::Verify`].
    pub fn verify(&self) -> Result<Verdict, String> {
        self.call(Op::Verify {}).wait()
    }

    /// See [`Op::CopyIn`].
    pub fn copy_in(&self, lun: u16, file: std::path::PathBuf) -> Pending<Copied> {
        self.call(Op::CopyIn { lun, file })
    }

    /// See [`Op::CopyProgress`].
    pub fn copy_progress(&self, lun: u16) -> Result<u64, String> {
        self.call(Op::CopyProgress { lun }).wait()
    }

    /// See [`Op::CopyOut`].
    pub fn copy_out(&self, lun: u16, bytes: u64, file: std::path::PathBuf) -> Result<Copied, String> {
        self.call(Op::CopyOut { lun, bytes, file }).wait()
    }

    /// See [`Op::Load`].
    pub fn load(&self, load: LoadConfig) -> Result<LoadReport, String> {
        let load = Box::new(load);
        self.call(Op::Load { load }).wait()
    }

    /// See [`Op::Report`].
    pub fn report(&self) -> Result<Report, String> {
        self.call(Op::Report {}).wait()
    }
}

fn deliver(waiting: &Waiting, line: &str) {
    let Ok(mut answer) = serde_json::from_str::<Value>(line) else {
        return;
    };
    let Some(id) = answer["id"].as_u64() else { return };
    let mut waiting = waiting.lock().expect("no panic under the lock");
    let Some(reply) = waiting.as_mut().and_then(|calls| calls.remove(&id)) else {
        return;
    };
    let result = match answer.get("error") {
        Some(error) => Err(error.as_str().map_or_else(|| error.to_string(), str::to_owned)),
        None => Ok(answer["ok"].take()),
    };
    reply.send(result).ok();
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        drop(self.input.take());
        let deadline = crate::time::now_ns() + crate::time::ms(3_000);
        while matches!(self.child.try_wait(), Ok(None)) {
            if crate::time::now_ns() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            crate::time::pause(5);
        }
    }
}
