//! What one may ask of `pollux-host`: lines of JSON in, lines of JSON out.
//!
//! A call is `{"id": 1, "op": "...", ...}`; its answer is `{"id": 1, "ok": ...}` or
//! `{"id": 1, "error": "..."}`. Calls run beside each other, so that a long copy does not hold up
//! a question. The end of the input ends the program: whoever started it holds its life.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::{Counted, Host, HostConfig, PathEvent};
use crate::image;
use crate::load::{self, LoadConfig};
use crate::time::now_ns;
use crate::workload::{Workload, WorkloadConfig};

/// A call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Log in on every portal. Once.
    Connect {
        /// As whom and where.
        config: Box<HostConfig>,
    },
    /// Wait until devices have usable paths.
    WaitReady {
        /// How many devices.
        devices: usize,
        /// How many usable paths each.
        paths: usize,
        /// For how long.
        timeout_ms: u64,
    },
    /// Look for new units.
    Rescan {},
    /// The devices and their paths.
    Devices {},
    /// The target port groups of a unit, asked on every port now.
    PortGroups {
        /// Unit number.
        lun: u16,
    },
    /// Start streams and readers. One workload at a time.
    Start {
        /// Which.
        workload: Box<WorkloadConfig>,
    },
    /// What the streams have done so far.
    Progress {},
    /// Stop the streams and wait for what is in flight.
    Stop {},
    /// Read back everything that the streams wrote, through every port. After `stop`.
    Verify {},
    /// Copy a file to the start of a volume.
    CopyIn {
        /// Unit number.
        lun: u16,
        /// The file.
        file: PathBuf,
    },
    /// Bytes acknowledged so far by copies to a volume.
    CopyProgress {
        /// Unit number.
        lun: u16,
    },
    /// Read the start of a volume into a file.
    CopyOut {
        /// Unit number.
        lun: u16,
        /// How much.
        bytes: u64,
        /// The file.
        file: PathBuf,
    },
    /// Statuses other than GOOD, events of the paths, conflicts of identity.
    Report {},
    /// Load one unit through one portal and measure; needs no `connect`.
    Load {
        /// Which load.
        load: Box<LoadConfig>,
    },
}

/// Answer to [`Op::Report`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Statuses other than GOOD with how often they came.
    pub counts: Vec<(Counted, u64)>,
    /// What happened to the paths.
    pub events: Vec<PathEvent>,
    /// Paths that were not what they claimed to be.
    pub conflicts: Vec<String>,
}

/// A call with its number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The caller's number for it.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub op: Op,
}

#[derive(Default)]
struct State {
    host: Mutex<Option<Arc<Host>>>,
    workload: Mutex<Option<Workload>>,
    copied: Mutex<BTreeMap<u16, Arc<AtomicU64>>>,
}

/// Serves calls from `input` until it ends; answers go to `output`.
pub fn serve(input: impl BufRead, output: impl Write + Send + 'static) -> std::io::Result<()> {
    let state = Arc::new(State::default());
    let output = Arc::new(Mutex::new(output));
    for line in input.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let call: Call = match serde_json::from_str(&line) {
            Ok(call) => call,
            Err(err) => {
                let id = serde_json::from_str::<Value>(&line)
                    .ok()
                    .and_then(|v| v["id"].as_u64());
                answer(
                    &output,
                    &json!({ "id": id, "error": format!("not a call: {err}") }),
                );
                continue;
            }
        };
        let (state, output) = (Arc::clone(&state), Arc::clone(&output));
        std::thread::spawn(move || {
            let reply = match perform(&state, call.op) {
                Ok(value) => json!({ "id": call.id, "ok": value }),
                Err(error) => json!({ "id": call.id, "error": error }),
            };
            answer(&output, &reply);
        });
    }
    // In-flight calls end with the host.
    state.workload.lock().expect("no panic under the lock").take();
    state.host.lock().expect("no panic under the lock").take();
    Ok(())
}

fn answer<W: Write>(output: &Mutex<W>, reply: &Value) {
    let mut output = output.lock().expect("no panic under the lock");
    // The reader of a closed pipe does not want to know.
    let _ = writeln!(output, "{reply}").and_then(|()| output.flush());
}

fn to_value<T: Serialize>(value: T) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|err| err.to_string())
}

fn perform(state: &State, op: Op) -> Result<Value, String> {
    if let Op::Connect { config } = op {
        let mut host = state.host.lock().expect("no panic under the lock");
        if host.is_some() {
            return Err("already connected; one host per process".into());
        }
        *host = Some(Arc::new(Host::start(*config).map_err(|err| err.to_string())?));
        return to_value(now_ns());
    }
    if let Op::Load { load } = op {
        return to_value(load::run(&load)?);
    }
    let host = state.host.lock().expect("no panic under the lock").clone();
    let host = host.ok_or("not connected; `connect` comes first")?;
    let workload = || state.workload.lock().expect("no panic under the lock");
    const NONE: &str = "no workload; `start` comes first";
    match op {
        Op::Connect { .. } | Op::Load { .. } => unreachable!("handled above"),
        Op::WaitReady {
            devices,
            paths,
            timeout_ms,
        } => {
            host.wait_ready(devices, paths, timeout_ms)?;
            to_value(host.devices())
        }
        Op::Rescan {} => {
            host.rescan();
            Ok(Value::Null)
        }
        Op::Devices {} => to_value(host.devices()),
        Op::PortGroups { lun } => {
            let device = host.devices().iter().position(|device| device.lun == lun);
            to_value(host.port_groups(device.ok_or_else(|| format!("no LUN {lun}"))?))
        }
        Op::Start { workload: config } => {
            let mut running = workload();
            if running.is_some() {
                return Err("a workload is there already; one per process".into());
            }
            *running = Some(Workload::start(host, &config)?);
            to_value(now_ns())
        }
        Op::Progress {} => to_value(workload().as_ref().ok_or(NONE)?.reports()),
        Op::Stop {} => to_value(workload().as_mut().ok_or(NONE)?.stop()),
        Op::Verify {} => to_value(workload().as_ref().ok_or(NONE)?.verify()),
        Op::CopyIn { lun, file } => {
            let progress = copied(state, lun);
            progress.store(0, Ordering::Relaxed);
            to_value(image::copy_in(&host, lun, &file, &progress)?)
        }
        Op::CopyProgress { lun } => to_value(copied(state, lun).load(Ordering::Relaxed)),
        Op::CopyOut { lun, bytes, file } => to_value(image::copy_out(&host, lun, bytes, &file)?),
        Op::Report {} => to_value(Report {
            counts: host.counts(),
            events: host.events(),
            conflicts: host.conflicts(),
        }),
    }
}

fn copied(state: &State, lun: u16) -> Arc<AtomicU64> {
    Arc::clone(
        state
            .copied
            .lock()
            .expect("no panic under the lock")
            .entry(lun)
            .or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that several threads share.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("test").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bad_line_is_answered_and_does_not_end_the_program() {
        let out = Shared::default();
        serve("{\"id\":3,\"op\":\"fly\"}\nnonsense\n".as_bytes(), out.clone()).expect("served");
        let text = String::from_utf8(out.0.lock().expect("test").clone()).expect("text");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["id"], 3);
        assert!(lines[0]["error"].as_str().expect("text").contains("fly"));
        assert_eq!(lines[1]["id"], Value::Null);
    }

    #[test]
    fn calls_survive_the_journey() {
        let call = Call {
            id: 9,
            op: Op::CopyOut {
                lun: 1,
                bytes: 2,
                file: "/x".into(),
            },
        };
        let text = serde_json::to_string(&call).expect("encodes");
        let back: Call = serde_json::from_str(&text).expect("decodes");
        assert_eq!(back.id, 9);
        assert!(matches!(back.op, Op::CopyOut { lun: 1, bytes: 2, .. }));
    }
}
