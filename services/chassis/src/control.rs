//! The front panel's socket: names of buttons to buttons.

use crate::{
    lines::{Handler, Reply, answer, params, unknown},
    panel::Panel,
};
use pollux_api::chassis::{
    BMC, DAEMON, DISK_FAULT, DISK_PATH, Done, EVENTS, EventQuery, HANG, HEAL, HOST_PORT, LEG, NOTE, Note,
    POWER, REBOOT, Reboot, SHELF_POWER, SHUTDOWN, STATUS, SetBmc, SetDiskFault, SetDiskPath, SetHostPort,
    SetHung, SetLeg, SetPower, SetShelfPower, SetWatchdog, SignalDaemon, WATCHDOG,
};
use pollux_platform::clock::monotonic_ns;
use serde_json::Value;
use std::time::Duration;

const METHODS: [&str; 16] = [
    STATUS,
    POWER,
    HANG,
    REBOOT,
    DAEMON,
    LEG,
    HOST_PORT,
    DISK_PATH,
    DISK_FAULT,
    SHELF_POWER,
    BMC,
    WATCHDOG,
    HEAL,
    NOTE,
    EVENTS,
    SHUTDOWN,
];

#[derive(Debug)]
pub(crate) struct Control {
    panel: Panel,
}

impl Control {
    pub(crate) fn new(panel: Panel) -> Self {
        Self { panel }
    }
}

/// Reads the parameters, or answers what is wrong with them.
macro_rules! read {
    ($method:expr, $given:expr) => {
        match params($method, $given) {
            Ok(params) => params,
            Err(error) => return Reply::Answer(Err(error)),
        }
    };
}

impl Handler for Control {
    async fn call(&self, method: &str, given: Value) -> Reply {
        let panel = &self.panel;
        answer(match method {
            STATUS => return answer(Ok(panel.status().await)),
            EVENTS => {
                let EventQuery { after } = read!(method, given);
                return answer(Ok(panel.journal().after(after)));
            }
            POWER => {
                let SetPower { controller, action } = read!(method, given);
                panel.power(controller, action, "button").await
            }
            HANG => {
                let SetHung { controller, hung } = read!(method, given);
                panel.hang(controller, hung).await
            }
            REBOOT => {
                let Reboot { controller, grace_ms } = read!(method, given);
                panel.reboot(controller, Duration::from_millis(grace_ms)).await
            }
            DAEMON => {
                let SignalDaemon {
                    controller,
                    daemon,
                    action,
                } = read!(method, given);
                panel.daemon(controller, &daemon, action).await
            }
            LEG => {
                let SetLeg { leg, cable } = read!(method, given);
                panel.leg(leg, cable).await
            }
            HOST_PORT => {
                let SetHostPort {
                    controller,
                    connected,
                } = read!(method, given);
                panel.host_port(controller, connected).await
            }
            DISK_PATH => {
                let SetDiskPath {
                    controller,
                    disk,
                    connected,
                } = read!(method, given);
                panel.disk_path(controller, disk, connected)
            }
            DISK_FAULT => {
                let SetDiskFault { disk, port, fault } = read!(method, given);
                panel.disk_fault(disk, port, fault)
            }
            SHELF_POWER => {
                let SetShelfPower { action } = read!(method, given);
                panel.shelf_power(action).await
            }
            BMC => {
                let SetBmc {
                    controller,
                    reachable,
                } = read!(method, given);
                panel.set_bmc(controller, reachable)
            }
            WATCHDOG => {
                let SetWatchdog { controller, enabled } = read!(method, given);
                panel.set_watchdog(controller, enabled)
            }
            HEAL => panel.heal().await,
            NOTE => {
                let Note { text } = read!(method, given);
                let at = panel.journal().record(None, "note", None, text);
                Ok(Done {
                    began_ns: at,
                    done_ns: at,
                    changed: true,
                })
            }
            SHUTDOWN => {
                let now = monotonic_ns();
                Ok(Done {
                    began_ns: now,
                    done_ns: now,
                    changed: !panel.shutdown().is_requested(),
                })
            }
            _ => Err(unknown(method, &METHODS)),
        })
    }

    fn answered(&self, method: &str) {
        if method == SHUTDOWN {
            self.panel.shutdown().request();
        }
    }
}
