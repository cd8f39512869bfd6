//! `pollux shutdown`, `pollux reboot`: a controller, or the whole array, goes down in good order.
//!
//! ```text
//!  one: its pools move to the partner -> good-bye -> its machine goes down
//!  all: one as above, then the other exports every pool -> good-bye -> its machine goes down
//! ```
//!
//! The controller that this command is asked on goes last, so that it lives to see the end of the other. What blocks is
//! asked before anything begins; what blocks later is named when the time has run out.
//!
//! `pollux leave` is the same without the machine, for the unit `pollux-leave`: whoever stops the daemons or the machine by
//! systemd has it done in good order, too.

use crate::array::{Array, BOTH, CHANGE, QUESTION};
use crate::cli::Care;
use crate::error::Error;
use crate::moves::{confirm, plan_words};
use crate::news::News;
use crate::resources::Shown;
use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::heartbeat::{Accepted, Blocker, Machine, SHUTDOWN, STATUS, Shutdown, Status, WHY};
use pollux_api::id::ControllerId;
use pollux_runtime::Ctx;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// What heartbeat says of itself when it has said good-bye.
const LEFT: &str = "left";
/// How long the partner of who has left may take to decide that it is alone.
const ALONE_WITHIN: Duration = Duration::from_secs(20);
/// Bound of `pollux leave`; heartbeat gives up moving pools some time before (Y of its profile).
const LEAVE_WITHIN: Duration = Duration::from_secs(50);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// One controller; none: both.
    pub on: Option<ControllerId>,
    /// What becomes of the machines.
    pub machine: Machine,
    /// Why, for the logs.
    pub reason: String,
    /// How to go about it.
    pub care: Care,
}

/// How a controller stands, as far as it or its partner tells.
enum Stand {
    /// It has said good-bye, or its partner is a member without it.
    Left,
    /// Something else, in its own word.
    Here(String),
    /// Neither of them tells.
    Unknown(String),
}

/// Shows what would happen, asks, and takes one controller after the other down.
///
/// # Errors
/// What blocks; the operator refuses; a controller does not get so far in time.
pub async fn run(array: &Array, wanted: Wanted, action: Option<ActionId>) -> Result<Shown, Error> {
    let whole = wanted.on.is_none();
    let order = match wanted.on {
        Some(one) => vec![one],
        None => vec![array.here.partner(), array.here],
    };
    let care = wanted.care;
    let ctx = action.map_or_else(|| Ctx::new(CHANGE), |action| Ctx::of(action, CHANGE));
    let text = plan(array, &wanted, &order).await?;
    if care.dry_run {
        return Ok(Shown {
            text: text + "nothing was done\n",
            json: json!({ "dry_run": true, "order": order }),
        });
    }
    if !care.yes {
        confirm(&text)?;
    }
    let mut news = News::of(array).await;
    let mut done = Vec::new();
    for at in order.iter().copied() {
        let last = at == array.here;
        match stand(array, at).await {
            Stand::Left => eprintln!("controller {at} has left already"),
            Stand::Unknown(why) if whole && !last => {
                // Nobody can tell it to go: who is left is all that there is to be shut down.
                eprintln!("controller {at} cannot be asked, and is left out: {why}");
                continue;
            }
            Stand::Unknown(_) | Stand::Here(_) => {
                let _: Accepted = ask(array, at, &wanted, false, &ctx).await?;
                wait_left(array, &mut news, at, Duration::from_secs(care.wait)).await?;
                eprintln!("controller {at} has left in good order");
            }
        }
        if whole && !last {
            wait_alone(array, &mut news, at).await;
        }
        done.push(at);
    }
    let went = match (wanted.machine, done.len()) {
        (Machine::Off, 1) => "its machine is being powered off",
        (Machine::Off, _) => "their machines are being powered off",
        (Machine::Reboot, _) => "its machine starts again",
        (Machine::Stay, _) => "it serves nothing until it is started again",
    };
    let names: Vec<&str> = done.iter().map(|at| at.as_str()).collect();
    Ok(Shown {
        text: format!("controller {}: {went}\n", names.join(", ")),
        json: json!({ "left": done, "machine": wanted.machine }),
    })
}

/// What would happen, in words.
async fn plan(array: &Array, wanted: &Wanted, order: &[ControllerId]) -> Result<String, Error> {
    let mut text = String::new();
    for (number, at) in order.iter().copied().enumerate() {
        if number > 0 {
            text += &format!("then controller {at} would:\n  - export every pool, then stop\n");
        } else {
            match (
                ask(array, at, wanted, true, &Ctx::new(QUESTION)).await,
                stand(array, at).await,
            ) {
                (Ok(accepted), _) => text += &plan_words(at, &accepted),
                (Err(_), Stand::Left) => text += &format!("controller {at} has left already\n"),
                (Err(error), Stand::Unknown(_)) if order.len() > 1 => {
                    text += &format!("controller {at} cannot be asked ({error}), and would be left out\n");
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
        match wanted.machine {
            Machine::Off => text += "  - power off its machine\n",
            Machine::Reboot => text += "  - start its machine again\n",
            Machine::Stay => {}
        }
    }
    Ok(text)
}

async fn ask(
    array: &Array,
    at: ControllerId,
    wanted: &Wanted,
    dry_run: bool,
    ctx: &Ctx,
) -> Result<Accepted, RpcError> {
    let request = Shutdown {
        unserved: wanted.on.is_none(),
        machine: wanted.machine,
        reason: wanted.reason.clone(),
        dry_run,
    };
    array.ask(at, SHUTDOWN, &request, ctx).await
}

async fn stand(array: &Array, at: ControllerId) -> Stand {
    let own = array.look::<Status>(at, STATUS).await;
    let why = match own {
        Ok(status) if status.state == LEFT => return Stand::Left,
        Ok(status) => return Stand::Here(status.state),
        Err(error) => error.to_string(),
    };
    // Its machine may be off by now: then its partner has been told before.
    match array.look::<Status>(at.partner(), STATUS).await {
        Ok(status) if status.epoch.as_ref().is_some_and(|record| without(record, at)) => Stand::Left,
        Ok(_) | Err(_) => Stand::Unknown(why),
    }
}

fn without(record: &pollux_api::heartbeat::EpochRecord, at: ControllerId) -> bool {
    !record.members.iter().any(|(member, _)| *member == at)
}

/// Waits until a controller has said good-bye, and says on the way how far it is.
async fn wait_left(array: &Array, news: &mut News, at: ControllerId, within: Duration) -> Result<(), Error> {
    let end = Instant::now() + within;
    let mut seen = String::new();
    loop {
        let now = match stand(array, at).await {
            Stand::Left => return Ok(()),
            Stand::Here(state) => state,
            Stand::Unknown(why) => why,
        };
        if now != seen {
            eprintln!("controller {at}: {now}");
            seen = now;
        }
        if Instant::now() >= end {
            let blockers: Vec<Blocker> = array.look(at, WHY).await.unwrap_or_default();
            let lines: String = blockers
                .iter()
                .map(|blocker| {
                    format!(
                        "\n  {}: {}; remedy: {}",
                        blocker.blocks, blocker.reason, blocker.remedy
                    )
                })
                .collect();
            return Err(Error::failed(
                format!(
                    "controller {at} has not left after {} s: {seen}{lines}",
                    within.as_secs()
                ),
                "it goes on trying; `pollux status`, `pollux why`",
            ));
        }
        news.wait(end).await;
    }
}

/// Waits until the other one serves alone, so that it does not go while it is taking what it was given. One that cannot be
/// alone is shut down all the same.
async fn wait_alone(array: &Array, news: &mut News, gone: ControllerId) {
    let end = Instant::now() + ALONE_WITHIN;
    while Instant::now() < end {
        let status = array.look::<Status>(gone.partner(), STATUS).await;
        let alone = |status: &Status| status.epoch.as_ref().is_some_and(|record| without(record, gone));
        if status.is_ok_and(|status| alone(&status)) {
            return;
        }
        news.wait(end).await;
    }
}

/// This controller leaves, and its machine is not touched: what its unit does before its daemons are stopped.
///
/// # Errors
/// It has not left in time. What follows stops it in any case; then the partner waits for its death, and fences.
pub async fn leave(array: &Array) -> Result<Shown, Error> {
    let at = array.here;
    let mut news = News::of(array).await;
    let (text, left) = match stand(array, at).await {
        Stand::Left => ("this controller has left already\n", true),
        Stand::Unknown(_) => (
            "heartbeat does not answer: there is nobody to say good-bye\n",
            false,
        ),
        Stand::Here(_) => {
            let request = Shutdown {
                unserved: true,
                reason: "its daemons are being stopped".into(),
                ..Shutdown::default()
            };
            let _: Accepted = array.ask(at, SHUTDOWN, &request, &Ctx::new(CHANGE)).await?;
            wait_left(array, &mut news, at, LEAVE_WITHIN).await?;
            ("this controller has left in good order\n", true)
        }
    };
    Ok(Shown {
        text: text.into(),
        json: json!({ "left": left, "known": BOTH.contains(&at) }),
    })
}
