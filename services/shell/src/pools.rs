//! `pollux pool create`, `show` and `replace-disk`: what a pool is made of.
//!
//! What keeps the data of a pool follows from its disks, unless it is chosen; which disks are for what, the controllers know
//! alone. So the one to which the pool is to belong is asked before anything is written down, and its refusal is told instead
//! of a pool that never becomes ready.

use crate::array::{Array, BOTH, CHANGE};
use crate::error::Error;
use crate::moves::confirm;
use crate::print::{size, wrap};
use crate::resources::{Shown, change, done, wait_ready};
use pollux_api::action::ActionId;
use pollux_api::config::{self, Backend, Op};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::{ControllerId, DiskIndex};
use pollux_api::lvm::Level;
use pollux_api::pool::{
    ImportedPool, LegState, Made, PROPOSE, PoolHealth, Propose, RESYNC, Resync, STATUS, Status,
};
use pollux_runtime::Ctx;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// A pool that is to be made.
pub(crate) struct New {
    pub(crate) name: String,
    pub(crate) class: config::Class,
    pub(crate) home: ControllerId,
    pub(crate) redundancy: config::Redundancy,
    pub(crate) backend: Option<Backend>,
    pub(crate) disks: Vec<DiskIndex>,
}

/// What is known of a pool before it is made.
#[derive(Debug, Default)]
struct Foreseen {
    /// What its home says that it would be made of.
    made: Option<Made>,
    /// Lines for the operator.
    remarks: String,
}

/// What a pool is made of, in words.
fn in_words(made: Made) -> String {
    match (made.backend, made.level) {
        (Backend::Embedded, _) => "embedded (mirrors of our own)".to_owned(),
        (Backend::Lvm, Some(level)) => format!("lvm (a volume group of the kernel), {}", level.as_str()),
        (Backend::Lvm, None) => "lvm (a volume group of the kernel)".to_owned(),
    }
}

/// The controller has looked, and says no; anything else says nothing about the disks.
fn is_refusal(error: &RpcError) -> bool {
    error.is(Code::Refused) || error.is(Code::Failed)
}

fn foresee(
    home: ControllerId,
    answers: [(ControllerId, Result<Made, RpcError>); 2],
) -> Result<Foreseen, RpcError> {
    let mut foreseen = Foreseen::default();
    for (at, answer) in answers {
        match answer {
            Ok(made) if at == home => foreseen.made = Some(made),
            Ok(_) => {}
            Err(error) if at == home && is_refusal(&error) => return Err(error),
            Err(error) if is_refusal(&error) => {
                let what = format!("controller {at} could not take it over as it is now: {error}");
                foreseen.remarks += &wrap(&what, 2);
            }
            Err(error) => {
                let what = format!("controller {at} was not asked about the disks: {error}");
                foreseen.remarks += &wrap(&what, 2);
            }
        }
    }
    Ok(foreseen)
}

/// What is written down of the choice. That disks which are not the kernel's make mirrors of our own goes without saying, and a
/// partner with an older program knows no other pools.
fn kept(chosen: Option<Backend>, made: Option<Made>) -> Option<Backend> {
    chosen.or(made
        .map(|made| made.backend)
        .filter(|backend| *backend == Backend::Lvm))
}

/// Makes a pool and waits until volumes can be made on it.
pub(crate) async fn create(
    array: &Array,
    new: New,
    (dry_run, wait): (bool, u64),
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let request = Propose {
        disks: new.disks.clone(),
        backend: new.backend,
    };
    let ctx = Ctx::new(Duration::from_secs(15));
    let ask = async |at| (at, array.ask::<_, Made>(at, PROPOSE, &request, &ctx).await);
    let (a, b) = tokio::join!(ask(BOTH[0]), ask(BOTH[1]));
    let foreseen = foresee(new.home, [a, b])?;
    let name = new.name.clone();
    let op = Op::CreatePool {
        name: new.name,
        class: new.class,
        home: new.home,
        redundancy: new.redundancy,
        backend: kept(new.backend, foreseen.made),
        disks: new.disks,
    };
    let made = foreseen.made.map_or_else(
        || {
            format!(
                "made of  what its disks are for: controller {} does not say",
                new.home
            )
        },
        |made| format!("made of  {}", in_words(made)),
    );
    if dry_run {
        let request = config::Change {
            ops: vec![op],
            expected_index: None,
            dry_run: true,
        };
        let asked: Result<config::Changed, _> =
            (array.ask(array.here, config::CHANGE, &request, &Ctx::new(CHANGE))).await;
        asked?;
        return Ok(Shown {
            text: format!(
                "pool {name} would be made\n  {made}\n{}nothing was done\n",
                foreseen.remarks
            ),
            json: json!({ "dry_run": true, "made": foreseen.made }),
        });
    }
    let (action, changed) = change(array, vec![op], action).await?;
    let mut shown = done(action, &changed, &format!("pool {name} made"));
    let _ = writeln!(shown.text, "  {made}");
    shown.text += &foreseen.remarks;
    let ready = wait_ready(array, &name, Duration::from_secs(wait)).await;
    shown.text += &match ready {
        Some(space) => format!("  ready: {} for volumes\n", size(space.capacity_bytes)),
        None => format!("  not ready yet, no volume can be made on it: pollux pool show {name}\n"),
    };
    shown.json["ready"] = serde_json::to_value(ready).unwrap_or(Value::Null);
    shown.json["made"] = serde_json::to_value(foreseen.made).unwrap_or(Value::Null);
    Ok(shown)
}

/// The pool as its owner has it, if it is imported and the owner answers.
async fn imported(array: &Array, which: &str) -> Option<(ControllerId, ImportedPool)> {
    for at in BOTH {
        let status = array.look::<Status>(at, STATUS).await.ok();
        let here = status.into_iter().flat_map(|status| status.imported);
        let found = here
            .into_iter()
            .find(|pool| pool.name == which || pool.pool.to_string() == which);
        if let Some(pool) = found {
            return Some((at, pool));
        }
    }
    None
}

/// One line for each disk.
fn legs(health: &PoolHealth) -> String {
    let mut text = String::new();
    for leg in &health.legs {
        let state = match (leg.state, leg.resync_percent) {
            (LegState::InSync, None) => "in sync".to_owned(),
            (LegState::InSync, Some(percent)) => format!("in sync, compared {percent} %"),
            (LegState::Resyncing, Some(percent)) => format!("is copied to, {percent} %"),
            (LegState::Resyncing, None) => "is copied to".to_owned(),
            (LegState::Failed, _) => "failed".to_owned(),
        };
        let _ = writeln!(text, "  {:<11} {state}", leg.disk.to_string());
    }
    text
}

/// What would become of a disk that is to come into the place of a failed one; none: there is nothing to do.
fn coming(pool: &ImportedPool, disk: DiskIndex) -> Result<Option<String>, Error> {
    let Some(leg) = pool.health.legs.iter().find(|leg| leg.disk == disk) else {
        let members: Vec<_> = (pool.health.legs.iter())
            .map(|leg| leg.disk.to_string())
            .collect();
        return Err(Error::failed(
            format!("{disk} is not a member of pool {}", pool.name),
            format!("its members: {}", members.join(", ")),
        ));
    };
    Ok(match leg.state {
        LegState::InSync => None,
        LegState::Resyncing => Some(format!("the copy to {disk} would go on")),
        LegState::Failed => Some(format!(
            "{disk} would be taken for pool {} alone, and everything on it overwritten by a copy from the others. \
             The pool serves meanwhile",
            pool.name
        )),
    })
}

/// Takes a disk into the place of one that has failed.
pub(crate) async fn replace_disk(
    array: &Array,
    (name, disk): (&str, DiskIndex),
    (dry_run, yes): (bool, bool),
    action: Option<ActionId>,
) -> Result<Shown, Error> {
    let Some((at, pool)) = imported(array, name).await else {
        return Err(Error::failed(
            format!("no controller says that it has a pool {name}"),
            "`pollux status` says where it is and why it is not served",
        ));
    };
    let Some(plan) = coming(&pool, disk)? else {
        let text = format!("{disk} is in sync: there is nothing to do\n");
        return Ok(Shown::new(text, &pool.health));
    };
    let plan = wrap(&plan, 0);
    if dry_run {
        return Ok(Shown {
            text: format!("{plan}nothing was done\n"),
            json: json!({ "dry_run": true, "health": pool.health }),
        });
    }
    if !yes {
        confirm(&plan)?;
    }
    // Longer than what is asked of the kernel may take; afterwards the copy runs by itself.
    let within = Duration::from_secs(120);
    let ctx = action.map_or_else(|| Ctx::new(within), |action| Ctx::of(action, within));
    let request = Resync {
        pool: pool.pool,
        disk,
    };
    let health: PoolHealth = array.ask(at, RESYNC, &request, &ctx).await?;
    let text = format!(
        "{disk} is copied to; `pollux pool show {name}` says how far it is\n{}",
        legs(&health)
    );
    Ok(Shown::new(text, &health))
}

/// Adds what a pool is made of to its row.
pub(crate) async fn with_made(array: &Array, mut shown: Shown) -> Shown {
    let row: Option<config::Pool> = serde_json::from_value(shown.json.clone()).ok();
    let Some(row) = row else { return shown };
    let found = imported(array, &row.id.to_string()).await;
    let (made, by) = match &found {
        Some((at, pool)) if pool.made.is_some() => (pool.made, format!("as controller {at} has it")),
        _ => {
            let level = row.backend.filter(|backend| *backend == Backend::Lvm);
            let level = level.and_then(|_| Level::over(row.disks.len()));
            let made = row.backend.map(|backend| Made { backend, level });
            (made, "as the configuration has it".to_owned())
        }
    };
    let text = made.map_or_else(
        || "not known: no controller says that it has the pool".to_owned(),
        |made| format!("{}, {by}", in_words(made)),
    );
    let _ = writeln!(shown.text, "{:<12} {text}", "made of");
    if let Some((_, pool)) = &found {
        shown.text += &legs(&pool.health);
        shown.json["health"] = serde_json::to_value(&pool.health).unwrap_or(Value::Null);
    }
    shown.json["made"] = serde_json::to_value(made).unwrap_or(Value::Null);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::id::{Epoch, Generation, PoolId};
    use pollux_api::pool;

    const GROUP: Made = Made {
        backend: Backend::Lvm,
        level: Some(Level::Raid10),
    };

    #[test]
    fn what_goes_without_saying_is_not_written_down() {
        let own = Made {
            backend: Backend::Embedded,
            level: None,
        };
        for (chosen, made, expected) in [
            (None, None, None),
            (None, Some(own), None),
            (None, Some(GROUP), Some(Backend::Lvm)),
            (Some(Backend::Lvm), None, Some(Backend::Lvm)),
            (Some(Backend::Embedded), Some(own), Some(Backend::Embedded)),
        ] {
            assert_eq!(kept(chosen, made), expected, "{chosen:?} {made:?}");
        }
    }

    #[test]
    fn the_home_refuses_and_the_partner_is_heard() {
        let [a, b] = BOTH;
        let no = || RpcError::new(Code::Refused, "b/pool", "disk-03: its data are not the kernel's");
        let gone = || RpcError::new(Code::PartnerUnreachable, "a/router", "no partner");
        assert!(foresee(b, [(a, Ok(GROUP)), (b, Err(no()))]).is_err());
        let heard = foresee(a, [(a, Ok(GROUP)), (b, Err(no()))]).expect("the home can");
        assert_eq!(heard.made, Some(GROUP));
        assert!(
            heard.remarks.contains("controller b could not take it over"),
            "{}",
            heard.remarks
        );
        // Nobody looked at the disks: then it is as the pool manager will see them.
        let unasked = foresee(a, [(a, Err(gone())), (b, Err(gone()))]).expect("nobody refuses");
        assert!(unasked.made.is_none() && unasked.remarks.matches("was not asked").count() == 2);
    }

    #[test]
    fn a_disk_that_is_no_member_or_works_is_not_touched() {
        let leg = |disk, state, resync_percent| pool::Leg {
            disk: DiskIndex::new(disk),
            state,
            resync_percent,
        };
        let health = PoolHealth {
            legs: vec![
                leg(3, LegState::InSync, None),
                leg(4, LegState::Failed, None),
                leg(5, LegState::Resyncing, Some(7)),
            ],
            suspended: false,
        };
        assert_eq!(
            legs(&health),
            "  disk-03     in sync\n  disk-04     failed\n  disk-05     is copied to, 7 %\n"
        );
        let pool = ImportedPool {
            pool: PoolId::from_bytes([1; 16]),
            name: "fast".to_owned(),
            key: pool::ReservationKey {
                controller: ControllerId::A,
                epoch: Epoch::new(1),
                generation: Generation::new(1),
            },
            made: Some(GROUP),
            capacity_bytes: 1,
            used_bytes: 0,
            health,
            volumes: Vec::new(),
            snapshots: Vec::new(),
            files: Vec::new(),
            low_space: false,
        };
        let plan = |disk| coming(&pool, DiskIndex::new(disk));
        assert!(plan(3).expect("a member").is_none());
        assert!(
            plan(4)
                .expect("a member")
                .is_some_and(|plan| plan.contains("overwritten"))
        );
        let stranger = plan(9).expect_err("no member").to_string();
        assert!(stranger.contains("disk-03, disk-04, disk-05"), "{stranger}");
    }

    #[test]
    fn what_a_pool_is_made_of_is_named_with_its_level() {
        assert_eq!(in_words(GROUP), "lvm (a volume group of the kernel), raid10");
    }
}
