//! `bmc.sock`: the partner's power, the own reset and the own watchdog, as heartbeat asks for them. What the chassis answers
//! there in the demo is answered here with hardware.
//!
//! What there is none of is refused with words that say so. A question that cannot be answered is an error, never "on" or
//! "off".

use crate::agent::Agent;
use crate::dog::Dog;
use pollux_api::chassis::PowerState;
use pollux_api::chassis::bmc::{
    Arm, PARTNER, PARTNER_OFF, PARTNER_ON, Partner, RESET, WATCHDOG_ARM, WATCHDOG_DISARM, WATCHDOG_PET,
};
use pollux_api::error::{Code, RpcError};
use pollux_platform::lines::server::{Handler, Reply, params, unknown};
use pollux_platform::watchdog::Device;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What there is of it.
pub(crate) struct Bmc<D: Device> {
    dog: Option<Arc<Mutex<Dog<D>>>>,
    agent: Option<Arc<Agent>>,
    /// Resets the machine; returns only if that failed.
    reset: fn() -> io::Error,
}

impl<D: Device> Bmc<D> {
    pub(crate) fn new(dog: Option<Dog<D>>, agent: Option<Agent>, reset: fn() -> io::Error) -> Self {
        Bmc {
            dog: dog.map(|dog| Arc::new(Mutex::new(dog))),
            agent: agent.map(Arc::new),
            reset,
        }
    }

    fn agent(&self, method: &str) -> Result<Arc<Agent>, RpcError> {
        self.agent.clone().ok_or_else(|| {
            RpcError::new(
                Code::Refused,
                method,
                "this controller has no power control of its partner",
            )
            .remedy("[bmc] of enclosure.toml names one; without it, fence.power of controller.toml is false")
        })
    }

    /// Something with the watchdog, in a blocking thread: some devices are asked over a slow bus.
    async fn dog<F>(&self, method: &str, work: F) -> Result<Value, RpcError>
    where
        F: FnOnce(&mut Dog<D>, &str) -> Result<(), RpcError> + Send + 'static,
    {
        let dog = self.dog.clone().ok_or_else(|| {
            RpcError::new(Code::Refused, method, "this controller has no watchdog")
                .remedy("[watchdog] of enclosure.toml names one; without it, fence.watchdog of controller.toml is false")
        })?;
        let name = method.to_owned();
        let done = tokio::task::spawn_blocking(move || {
            let mut dog = dog.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut dog, &name).map(|()| json!(true))
        });
        let lost = |error| {
            RpcError::new(
                Code::Internal,
                method,
                format!("it did not come to its end: {error}"),
            )
        };
        done.await.map_err(lost)?
    }

    async fn switch(&self, method: &str, wanted: PowerState) -> Result<Value, RpcError> {
        let agent = self.agent(method)?;
        tracing::warn!(?wanted, "switching the partner's power");
        // Brought to its end even if whoever asked hangs up.
        let done = tokio::spawn(async move { agent.switch(wanted).await }).await;
        let end = done.unwrap_or_else(|error| Err(format!("it did not come to its end: {error}")));
        match end {
            Ok(()) => {
                tracing::warn!(?wanted, "the partner's power is confirmed");
                partner(wanted)
            }
            Err(error) => {
                tracing::error!(?wanted, error, "the partner's power is not confirmed");
                Err(RpcError::new(Code::Failed, method, error))
            }
        }
    }
}

/// How often the partner was started is not known here, and told as never: no number is higher than before.
fn partner(power: PowerState) -> Result<Value, RpcError> {
    serde_json::to_value(Partner { power, boots: 0 })
        .map_err(|error| RpcError::new(Code::Internal, PARTNER, error.to_string()))
}

impl<D: Device> Handler for Bmc<D> {
    async fn call(&self, method: &str, given: Value) -> Reply {
        Reply::Answer(self.done(method, given).await)
    }
}

impl<D: Device> Bmc<D> {
    async fn done(&self, method: &str, given: Value) -> Result<Value, RpcError> {
        match method {
            PARTNER => {
                let status = self.agent(method)?.status().await;
                partner(status.map_err(|error| RpcError::new(Code::Failed, method, error))?)
            }
            PARTNER_OFF => self.switch(method, PowerState::Off).await,
            PARTNER_ON => self.switch(method, PowerState::On).await,
            RESET => {
                tracing::error!("resetting this controller, as asked");
                let reset = self.reset;
                let error = tokio::task::spawn_blocking(reset).await;
                let words = error.map_or_else(|error| error.to_string(), |error| error.to_string());
                Err(RpcError::new(Code::Failed, method, words).remedy("the daemon needs CAP_SYS_BOOT"))
            }
            WATCHDOG_ARM => {
                let arm: Arm = params(method, given)?;
                self.dog(method, move |dog, method| {
                    dog.arm(method, Duration::from_millis(arm.timeout_ms))
                })
                .await
            }
            WATCHDOG_PET => self.dog(method, Dog::pet).await,
            WATCHDOG_DISARM => self.dog(method, Dog::disarm).await,
            _ => Err(unknown(
                method,
                &[
                    PARTNER,
                    PARTNER_OFF,
                    PARTNER_ON,
                    RESET,
                    WATCHDOG_ARM,
                    WATCHDOG_PET,
                    WATCHDOG_DISARM,
                ],
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::tests::{OBEYS, write_agent};
    use pollux_platform::fake::watchdog::FakeWatchdog;
    use pollux_platform::lines::CallError;
    use pollux_platform::power::{ChassisBmc, PowerControl, Watchdog};
    use std::path::Path;
    use tokio::net::UnixListener;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Serves, and gives the client that heartbeat has.
    fn served(dir: &Path, dog: Option<FakeWatchdog>, agent: Option<Agent>) -> ChassisBmc {
        let dog = dog.map(|device| Dog::new(device, dir, "this-boot"));
        let bmc = Bmc::new(dog, agent, || io::Error::other("a test resets nothing"));
        let path = dir.join("bmc.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(pollux_platform::lines::server::serve(listener, Arc::new(bmc)));
        ChassisBmc::new(&path)
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> RpcError {
        match result.unwrap_err() {
            CallError::Refused { error, .. } => error,
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn heartbeats_own_client_arms_and_switches() {
        let dir = tempfile::tempdir().unwrap();
        let device = FakeWatchdog::default();
        let agent = Agent::new(write_agent(dir.path(), OBEYS));
        let mut bmc = served(dir.path(), Some(device.clone()), Some(agent));
        assert!(refusal(bmc.pet(LIMIT).await).is(Code::Conflict));
        bmc.arm(Duration::from_millis(8000), LIMIT).await.unwrap();
        assert!(!device.bites_after(7));
        bmc.pet(LIMIT).await.unwrap();
        assert!(!device.bites_after(7) && device.bites_after(1));
        bmc.disarm(LIMIT).await.unwrap();
        assert_eq!(device.dial().timeout, None);

        assert_eq!(bmc.partner(LIMIT).await.unwrap().power, PowerState::On);
        assert_eq!(bmc.partner_off(LIMIT).await.unwrap().power, PowerState::Off);
        assert_eq!(bmc.partner(LIMIT).await.unwrap().power, PowerState::Off);
        assert_eq!(bmc.partner_on(LIMIT).await.unwrap().power, PowerState::On);
        match bmc.reset_self(LIMIT).await {
            CallError::Refused { error, .. } => {
                assert!(error.to_string().contains("resets nothing"), "{error}")
            }
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut bmc = served(dir.path(), None, None);
        for (refusal, words) in [
            (refusal(bmc.partner_off(LIMIT).await), "[bmc]"),
            (refusal(bmc.partner(LIMIT).await), "no power control"),
            (refusal(bmc.arm(LIMIT, LIMIT).await), "[watchdog]"),
            (refusal(bmc.pet(LIMIT).await), "no watchdog"),
        ] {
            assert!(
                refusal.is(Code::Refused) && refusal.to_string().contains(words),
                "{refusal}"
            );
        }
    }

    #[tokio::test]
    async fn a_cut_that_its_caller_gave_up_is_brought_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let slow = "case $action in status) say;; off) while [ ! -e go ]; do sleep 0.05; done; printf %s off > power;; esac";
        let mut bmc = served(dir.path(), None, Some(Agent::new(write_agent(dir.path(), slow))));
        let given_up = bmc.partner_off(Duration::from_millis(300)).await;
        assert!(matches!(given_up, Err(CallError::Timeout { .. })), "{given_up:?}");
        std::fs::write(dir.path().join("go"), "").unwrap();
        assert_eq!(
            bmc.partner(LIMIT).await.unwrap().power,
            PowerState::Off,
            "asked after it, answered after it"
        );
    }
}
