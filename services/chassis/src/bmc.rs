//! The power control of one controller: the partner's power button, its own reset and its own watchdog.

use crate::{
    lines::{Handler, Reply, answer, params, unknown},
    panel::Panel,
};
use pollux_api::{
    chassis::{
        PowerAction,
        bmc::{
            Arm, PARTNER, PARTNER_OFF, PARTNER_ON, Partner, RESET, WATCHDOG_ARM, WATCHDOG_DISARM,
            WATCHDOG_PET,
        },
    },
    error::{Code, RpcError},
    id::ControllerId,
};
use serde_json::Value;
use std::time::Duration;

/// Shortest timeout of a watchdog. Less than this an ordinary pause of the machine is a reset.
const SHORTEST: Duration = Duration::from_millis(100);
/// Longest timeout of a watchdog.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Bmc {
    panel: Panel,
    owner: ControllerId,
}

impl Bmc {
    pub(crate) fn new(panel: Panel, owner: ControllerId) -> Self {
        Self { panel, owner }
    }

    fn partner(&self) -> Partner {
        let (power, boots) = self.panel.power_state(self.owner.partner());
        Partner { power, boots }
    }

    async fn press(&self, method: &str, action: PowerAction) -> Result<Partner, RpcError> {
        self.panel
            .journal()
            .record(Some(self.owner), "bmc_request", method.to_owned(), "");
        self.panel
            .power(self.owner.partner(), action, &format!("asked by {}", self.owner))
            .await?;
        Ok(self.partner())
    }
}

impl Handler for Bmc {
    async fn call(&self, method: &str, given: Value) -> Reply {
        match method {
            PARTNER | PARTNER_OFF | PARTNER_ON if !self.panel.bmc_reachable(self.owner) => Reply::Silence,
            PARTNER => answer(Ok(self.partner())),
            PARTNER_OFF => answer(self.press(method, PowerAction::Off).await),
            PARTNER_ON => answer(self.press(method, PowerAction::On).await),
            RESET => {
                self.panel
                    .journal()
                    .record(Some(self.owner), "bmc_request", method.to_owned(), "");
                match self
                    .panel
                    .power(self.owner, PowerAction::Reset, "asked by itself")
                    .await
                {
                    // Whoever asked is gone; an answer could only reach a stranger.
                    Ok(_) => Reply::Silence,
                    Err(error) => Reply::Answer(Err(error)),
                }
            }
            WATCHDOG_ARM => answer(params::<Arm>(method, given).and_then(|arm| {
                let timeout = Duration::from_millis(arm.timeout_ms);
                if !(SHORTEST..=LONGEST).contains(&timeout) {
                    let what = format!("timeout_ms is {}", arm.timeout_ms);
                    let (least, most) = (SHORTEST.as_millis(), LONGEST.as_millis());
                    return Err(RpcError::new(Code::InvalidParams, method, what)
                        .remedy(format!("a watchdog has {least} to {most} ms")));
                }
                self.panel.arm(self.owner, timeout);
                Ok(true)
            })),
            WATCHDOG_PET => {
                answer(match self.panel.pet(self.owner) {
                    true => Ok(true),
                    false => Err(RpcError::new(Code::Conflict, method, "the watchdog is not armed")
                        .remedy("arm it first")),
                })
            }
            WATCHDOG_DISARM => {
                self.panel.disarm(self.owner);
                answer(Ok(true))
            }
            _ => {
                let known = [
                    PARTNER,
                    PARTNER_OFF,
                    PARTNER_ON,
                    RESET,
                    WATCHDOG_ARM,
                    WATCHDOG_PET,
                    WATCHDOG_DISARM,
                ];
                Reply::Answer(Err(unknown(method, &known)))
            }
        }
    }
}
