//! Power of the partner and one's own watchdog, behind traits; and the implementation on the enclosure's `bmc.sock`.
//!
//! The partner's power button proves its death: "off" means that whatever ran there has stopped; "on" and silence prove
//! nothing. The watchdog proves one's own: a controller that no longer pets it is reset, whatever state it is in.
//!
//! Each implementation answers within the deadline that the caller gives or reports that it did not. An error is never
//! evidence: who did not hear "off" does not know.

use crate::lines::{CallError, LineClient};
use pollux_api::{
    chassis::{PowerState, bmc},
    error::{Code, RpcError},
};
use std::{future::Future, path::Path, time::Duration};

pub use bmc::Partner;

/// The power control of the partner.
pub trait PowerControl: Send {
    /// Power of the partner now.
    fn partner(&mut self, within: Duration) -> impl Future<Output = Result<Partner, CallError>> + Send;
    /// Cuts the partner's power. `Ok` only when it was reported off.
    fn partner_off(&mut self, within: Duration) -> impl Future<Output = Result<Partner, CallError>> + Send;
    /// Gives the partner power.
    fn partner_on(&mut self, within: Duration) -> impl Future<Output = Result<Partner, CallError>> + Send;
    /// Resets the caller's own controller. Returns only if that failed.
    fn reset_self(&mut self, within: Duration) -> impl Future<Output = CallError> + Send;
}

/// The controller's own watchdog.
pub trait Watchdog: Send {
    /// Arms it, or changes the timeout of the armed one; counts as a pet.
    fn arm(
        &mut self,
        timeout: Duration,
        within: Duration,
    ) -> impl Future<Output = Result<(), CallError>> + Send;
    /// Starts its time anew. Refused when it is not armed.
    fn pet(&mut self, within: Duration) -> impl Future<Output = Result<(), CallError>> + Send;
    /// Disarms it; only with nothing imported.
    fn disarm(&mut self, within: Duration) -> impl Future<Output = Result<(), CallError>> + Send;
}

/// Both, on the enclosure's socket `bmc.sock` in the controller's directory. One request at a time: use one value for
/// power and another for the watchdog, so that a power cut that takes its time delays no pet.
#[derive(Debug)]
pub struct ChassisBmc {
    line: LineClient,
}

impl ChassisBmc {
    /// A client of the socket at `path`; it connects with the first request.
    pub fn new(path: &Path) -> Self {
        Self {
            line: LineClient::new(path),
        }
    }
}

const NONE: Option<()> = None;

impl PowerControl for ChassisBmc {
    async fn partner(&mut self, within: Duration) -> Result<Partner, CallError> {
        self.line.call(bmc::PARTNER, NONE, within).await
    }

    async fn partner_off(&mut self, within: Duration) -> Result<Partner, CallError> {
        let partner: Partner = self.line.call(bmc::PARTNER_OFF, NONE, within).await?;
        if partner.power == PowerState::Off {
            return Ok(partner);
        }
        let what = format!(
            "the partner's power is reported {:?} after it was cut",
            partner.power
        );
        let error = RpcError::new(Code::Failed, self.line.path().display().to_string(), what);
        Err(CallError::Refused {
            method: bmc::PARTNER_OFF.to_owned(),
            error,
        })
    }

    async fn partner_on(&mut self, within: Duration) -> Result<Partner, CallError> {
        self.line.call(bmc::PARTNER_ON, NONE, within).await
    }

    async fn reset_self(&mut self, within: Duration) -> CallError {
        match self.line.call::<_, bool>(bmc::RESET, NONE, within).await {
            Ok(_) => CallError::Refused {
                method: bmc::RESET.to_owned(),
                error: RpcError::new(
                    Code::Failed,
                    self.line.path().display().to_string(),
                    "the caller still runs",
                ),
            },
            Err(error) => error,
        }
    }
}

impl Watchdog for ChassisBmc {
    async fn arm(&mut self, timeout: Duration, within: Duration) -> Result<(), CallError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.line
            .call::<_, bool>(bmc::WATCHDOG_ARM, Some(bmc::Arm { timeout_ms }), within)
            .await
            .map(drop)
    }

    async fn pet(&mut self, within: Duration) -> Result<(), CallError> {
        self.line
            .call::<_, bool>(bmc::WATCHDOG_PET, NONE, within)
            .await
            .map(drop)
    }

    async fn disarm(&mut self, within: Duration) -> Result<(), CallError> {
        self.line
            .call::<_, bool>(bmc::WATCHDOG_DISARM, NONE, within)
            .await
            .map(drop)
    }
}
