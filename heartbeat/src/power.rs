//! The partner's power and one's own watchdog, on connections of their own so that none delays the other.

use crate::driver::{Bmc, PET_WITHIN, clock};
use pollux_api::chassis::PowerState;
use pollux_heartbeat_core::{Event, event::Power};
use pollux_platform::lines::CallError;
use pollux_platform::power::{ChassisBmc, PowerControl, Watchdog};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Bound of arming the watchdog.
const ARM: Duration = Duration::from_secs(1);

/// Which of the two there are.
#[derive(Clone, Copy, Debug)]
pub struct Rungs {
    /// Power control of the partner.
    pub power: bool,
    /// A watchdog of one's own.
    pub watchdog: bool,
    /// Bound of a question for the partner's power.
    pub ask: Duration,
    /// Bound of cutting it.
    pub cut: Duration,
}

/// Serves the loop until it is gone.
pub async fn serve(
    bmc: PathBuf,
    rungs: Rungs,
    mut asks: mpsc::UnboundedReceiver<Bmc>,
    pets: watch::Receiver<u64>,
    events: mpsc::UnboundedSender<Event>,
) {
    let (mut petting, mut arming) = (None, None::<JoinHandle<()>>);
    // The control answers one after the other, and the core asks more often than some answer: a question that waits behind
    // others would only keep a cut waiting, too.
    let asking = Arc::new(AtomicBool::new(false));
    while let Some(ask) = asks.recv().await {
        match ask {
            Bmc::Arm { .. } if !rungs.watchdog => drop(events.send(Event::Watchdog { armed: false })),
            Bmc::Arm { timeout, asked } => {
                // One that an earlier daemon has armed, or that is armed by a question whose answer is late, bites who does not
                // pet it meanwhile. To pet one that is not armed does nothing.
                if petting.is_none() {
                    petting = Some(tokio::spawn(pet(ChassisBmc::new(&bmc), pets.clone())));
                }
                // One at a time, beside the partner's power; and to arm it is to pet it, so one that is late is dropped as a pet is.
                if arming.as_ref().is_none_or(JoinHandle::is_finished) && clock().since(asked) <= PET_WITHIN {
                    arming = Some(tokio::spawn(arm(bmc.clone(), timeout, events.clone())));
                }
            }

            Bmc::Power { off: None, .. } if asking.swap(true, Ordering::AcqRel) => {}
            Bmc::Power { off, asked } => {
                let asking = Arc::clone(&asking);
                let (bmc, events) = (bmc.clone(), events.clone());
                tokio::spawn(async move {
                    let mut control = ChassisBmc::new(&bmc);
                    let report = match off {
                        _ if !rungs.power => None,
                        Some(victim) => {
                            tracing::warn!(controller = %victim.controller, incarnation = %victim.incarnation, "cutting the partner's power");
                            control
                                .partner_off(rungs.cut)
                                .await
                                .map_err(|error| tracing::warn!(%error, "power not cut"))
                                .ok()
                        }
                        None => control
                            .partner(rungs.ask)
                            .await
                            .map_err(|error| tracing::debug!(%error, "power unknown"))
                            .ok(),
                    };
                    if off.is_none() {
                        asking.store(false, Ordering::Release);
                    }
                    let state = match report.map(|report| report.power) {
                        Some(PowerState::Off) => Power::Off,
                        Some(PowerState::On) => Power::On,
                        _ => Power::Unknown,
                    };
                    drop(events.send(Event::Power { state, asked }));
                });
            }
        }
    }
}

async fn arm(bmc: PathBuf, timeout: Duration, events: mpsc::UnboundedSender<Event>) {
    match ChassisBmc::new(&bmc).arm(timeout, ARM).await {
        Ok(()) => drop(events.send(Event::Watchdog { armed: true })),
        Err(error @ CallError::Refused { .. }) => {
            tracing::warn!(%error, "there is no watchdog to be armed");
            drop(events.send(Event::Watchdog { armed: false }));
        }
        // Nothing is known: the core asks again.
        Err(error) => tracing::warn!(%error, "watchdog not armed yet"),
    }
}

/// Delivers pets while they are fresh. A pet that is late is dropped: the next one comes with a fresh lease or not at
/// all.
async fn pet(mut dog: ChassisBmc, mut pets: watch::Receiver<u64>) {
    let mut failing = false;
    while pets.changed().await.is_ok() {
        let due_ns = *pets.borrow_and_update();
        let age = Duration::from_nanos(clock().as_nanos().saturating_sub(due_ns));
        let Some(left) = PET_WITHIN.checked_sub(age) else {
            continue;
        };
        let petted = dog.pet(left).await;
        // Once for a whole row of them: a pet goes out with every beat.
        if let Err(error) = &petted
            && !failing
        {
            tracing::warn!(%error, "watchdog not petted");
        }
        failing = petted.is_err();
    }
}
