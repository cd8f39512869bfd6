//! Presses the buttons of a running enclosure, from another process.

use crate::options::control_socket;
use pollux_api::{
    chassis::{
        self, Cable, DaemonAction, DiskFault, Done, Event, EventQuery, Note, PowerAction, Reboot, SetBmc,
        SetDiskFault, SetDiskPath, SetHostPort, SetHung, SetLeg, SetPower, SetShelfPower, SetWatchdog,
        SignalDaemon, Status,
    },
    id::{ControllerId, DiskIndex},
};
use pollux_platform::lines::{CallError, LineClient};
use serde::{Serialize, de::DeserializeOwned};
use std::{path::Path, time::Duration};
use tokio::sync::Mutex;

/// Longest wait for a button; a boot that waits for its router is the slowest.
const LIMIT: Duration = Duration::from_secs(60);

/// A caller of the front panel. Calls of one client are made one after the other; what must happen at the same time
/// needs two clients.
#[derive(Debug)]
pub struct Client {
    line: Mutex<LineClient>,
}

type Outcome<T = Done> = Result<T, CallError>;

impl Client {
    /// A client of the enclosure in `dir`. Connects with the first call.
    pub fn new(dir: &Path) -> Self {
        Self {
            line: Mutex::new(LineClient::new(&control_socket(dir))),
        }
    }

    /// Calls any method.
    pub async fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        params: Option<P>,
    ) -> Outcome<R> {
        self.line.lock().await.call(method, params, LIMIT).await
    }

    async fn press(&self, method: &str, params: impl Serialize) -> Outcome {
        self.call(method, Some(params)).await
    }

    /// What is so now.
    pub async fn status(&self) -> Outcome<Status> {
        self.call(chassis::STATUS, None::<()>).await
    }

    /// The power button of a controller.
    pub async fn power(&self, controller: ControllerId, action: PowerAction) -> Outcome {
        self.press(chassis::POWER, SetPower { controller, action }).await
    }

    /// Stops every process of a controller, or lets them go on.
    pub async fn hang(&self, controller: ControllerId, hung: bool) -> Outcome {
        self.press(chassis::HANG, SetHung { controller, hung }).await
    }

    /// Orderly restart of a controller.
    pub async fn reboot(&self, controller: ControllerId, grace: Duration) -> Outcome {
        self.press(
            chassis::REBOOT,
            Reboot {
                controller,
                grace_ms: grace.as_millis() as u64,
            },
        )
        .await
    }

    /// Does something to one daemon.
    pub async fn daemon(&self, controller: ControllerId, daemon: &str, action: DaemonAction) -> Outcome {
        self.press(
            chassis::DAEMON,
            SignalDaemon {
                controller,
                daemon: daemon.to_owned(),
                action,
            },
        )
        .await
    }

    /// One leg of the interconnect.
    pub async fn leg(&self, leg: u8, cable: Cable) -> Outcome {
        self.press(chassis::LEG, SetLeg { leg, cable }).await
    }

    /// Both legs of the interconnect.
    pub async fn interconnect(&self, cable: Cable) -> Outcome {
        let first = self.leg(0, cable).await?;
        let second = self.leg(1, cable).await?;
        Ok(Done {
            began_ns: first.began_ns,
            done_ns: second.done_ns,
            changed: first.changed || second.changed,
        })
    }

    /// The front-end cable of a controller.
    pub async fn host_port(&self, controller: ControllerId, connected: bool) -> Outcome {
        self.press(
            chassis::HOST_PORT,
            SetHostPort {
                controller,
                connected,
            },
        )
        .await
    }

    /// The path of a controller to one disk, or to the whole shelf.
    pub async fn disk_path(
        &self,
        controller: ControllerId,
        disk: Option<DiskIndex>,
        connected: bool,
    ) -> Outcome {
        self.press(
            chassis::DISK_PATH,
            SetDiskPath {
                controller,
                disk,
                connected,
            },
        )
        .await
    }

    /// Makes a disk misbehave or behave.
    pub async fn disk_fault(&self, disk: DiskIndex, port: Option<ControllerId>, fault: DiskFault) -> Outcome {
        self.press(chassis::DISK_FAULT, SetDiskFault { disk, port, fault })
            .await
    }

    /// The shelf's power.
    pub async fn shelf_power(&self, action: PowerAction) -> Outcome {
        self.press(chassis::SHELF_POWER, SetShelfPower { action }).await
    }

    /// May a controller reach the power control of its partner?
    pub async fn bmc(&self, controller: ControllerId, reachable: bool) -> Outcome {
        self.press(
            chassis::BMC,
            SetBmc {
                controller,
                reachable,
            },
        )
        .await
    }

    /// Does the watchdog of a controller act?
    pub async fn watchdog(&self, controller: ControllerId, enabled: bool) -> Outcome {
        self.press(chassis::WATCHDOG, SetWatchdog { controller, enabled })
            .await
    }

    /// Everything but the power as new.
    pub async fn heal(&self) -> Outcome {
        self.call(chassis::HEAL, None::<()>).await
    }

    /// Writes a line into the journal; answers when that was.
    pub async fn note(&self, text: &str) -> Outcome {
        self.press(
            chassis::NOTE,
            Note {
                text: text.to_owned(),
            },
        )
        .await
    }

    /// Events with a higher number than `after`.
    pub async fn events(&self, after: u64) -> Outcome<Vec<Event>> {
        self.call(chassis::EVENTS, Some(EventQuery { after })).await
    }

    /// Ends the enclosure.
    pub async fn shutdown(&self) -> Outcome {
        self.call(chassis::SHUTDOWN, None::<()>).await
    }
}
