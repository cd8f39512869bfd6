//! `pollux status` and `pollux why`: the array as each controller sees it.

use crate::array::{Array, BOTH, QUESTION};
use crate::disk;
use crate::print::{Style, known, now_unix_ms, size, span, span_ms, table, utc, wrap};
use pollux_api::config::follow::Follower;
use pollux_api::config::{self, Snapshot, Watched};
use pollux_api::error::{Code, RpcError};
use pollux_api::heartbeat::{self, Blocker};
use pollux_api::id::{ControllerId, PoolId};
use pollux_api::{address, pool, router, target};
use pollux_runtime::Ctx;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// An answer, or why there is none.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Known<T> {
    /// It was answered.
    Yes(T),
    /// It was not.
    No {
        /// Why not.
        unknown: String,
    },
}

impl<T> From<Result<T, RpcError>> for Known<T> {
    fn from(answer: Result<T, RpcError>) -> Self {
        match answer {
            Ok(answer) => Self::Yes(answer),
            Err(error) => Self::No {
                unknown: error.to_string(),
            },
        }
    }
}

impl<T> Known<T> {
    /// The answer, if there is one.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Yes(answer) => Some(answer),
            Self::No { .. } => None,
        }
    }

    fn why_not(&self) -> &str {
        match self {
            Self::Yes(_) => "",
            Self::No { unknown } => unknown,
        }
    }
}

/// What one controller says of itself and of the array.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Its router.
    pub router: Known<router::Status>,
    /// Heartbeat.
    pub heartbeat: Known<heartbeat::Status>,
    /// Config keeper.
    pub config: Known<config::Status>,
    /// Block target.
    pub target: Known<target::Status>,
    /// Addresses.
    pub address: Known<address::Status>,
    /// Pool manager.
    pub pool: Known<pool::Status>,
}

/// Both views, and the configuration as the first who answers has it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it was asked, ms of Unix time.
    pub asked_unix_ms: u64,
    /// Each controller's own view.
    pub controllers: BTreeMap<ControllerId, View>,
    /// The configuration.
    pub configuration: Known<Snapshot>,
}

/// Asks both controllers for everything, at the same time.
pub async fn gather(array: &Array) -> Report {
    let (a, b) = tokio::join!(view(array, ControllerId::A), view(array, ControllerId::B));
    let configuration = snapshot(array).await.into();
    Report {
        asked_unix_ms: now_unix_ms(),
        controllers: [(ControllerId::A, a), (ControllerId::B, b)].into(),
        configuration,
    }
}

/// The configuration as the first who answers knows it: enough for names, and for one glance. It may lack the last changes.
///
/// # Errors
/// Nobody has it: why the first one has not.
pub async fn snapshot(array: &Array) -> Result<Snapshot, RpcError> {
    of_either(array, config::Show { stale_ok: true }).await
}

/// The configuration with every change that was acknowledged before. Where nobody can be sure of that now, what is known,
/// and a remark for people that says so, whose view it is and up to where it goes.
///
/// # Errors
/// Nobody has it: why the first one has not.
pub async fn latest(array: &Array) -> Result<(Snapshot, String), RpcError> {
    let unsure = match of_either(array, config::Show::default()).await {
        Ok(snapshot) => return Ok((snapshot, String::new())),
        Err(error) => error,
    };
    let snapshot = snapshot(array).await?;
    let remark = not_the_latest(&unsure, snapshot.controller, Some(snapshot.as_of));
    Ok((snapshot, remark))
}

/// Says that a view may lack changes, and why.
pub(crate) fn not_the_latest(why: &RpcError, whose: ControllerId, as_of: Option<u64>) -> String {
    let upto = as_of.map_or_else(String::new, |index| format!(", up to change {index}"));
    format!("this is what controller {whose} knows{upto}; later changes may be missing: {why}\n")
}

async fn of_either(array: &Array, show: config::Show) -> Result<Snapshot, RpcError> {
    match whole(array, array.here, show).await {
        Err(first) => whole(array, array.here.partner(), show).await.map_err(|_| first),
        snapshot => snapshot,
    }
}

/// The configuration as one controller has it, part by part: it may be longer than a message.
async fn whole(array: &Array, at: ControllerId, show: config::Show) -> Result<Snapshot, RpcError> {
    let mut follower = Follower::default();
    let mut watch = Follower::begin(show);
    loop {
        let part: Watched = array.ask(at, config::WATCH, &watch, &Ctx::new(QUESTION)).await?;
        let nothing = matches!(&part, Watched::Changes(entries) if entries.is_empty());
        follower.take(part);
        if let Some((tables, (as_of, hash))) = follower.tables() {
            return Ok(Snapshot {
                controller: at,
                as_of,
                hash,
                tables: tables.clone(),
            });
        }
        if nothing {
            let what = "the keeper has nothing more to show: its log was lost meanwhile";
            return Err(
                RpcError::new(Code::Failed, format!("{at}/{}", config::SERVICE), what).remedy("ask again"),
            );
        }
        watch = follower.ask(0);
    }
}

async fn view(array: &Array, at: ControllerId) -> View {
    let router = array
        .look(at, router::STATUS)
        .await
        .map_err(|error| match array.silent.get(&at) {
            Some(why) => RpcError {
                data: pollux_api::error::ErrorData {
                    what: format!("its router does not answer: {why}"),
                    ..error.data
                },
                ..error
            },
            None => error,
        });
    if let Err(error) = router {
        // Without its router no service of it can be asked; every question would only wait.
        return View {
            router: Err(error.clone()).into(),
            heartbeat: Err(error.clone()).into(),
            config: Err(error.clone()).into(),
            target: Err(error.clone()).into(),
            address: Err(error.clone()).into(),
            pool: Err(error).into(),
        };
    }
    let (heartbeat, config, target, address, pool) = tokio::join!(
        array.look(at, heartbeat::STATUS),
        array.look(at, config::STATUS),
        array.look(at, target::STATUS),
        array.look(at, address::STATUS),
        array.look(at, pool::STATUS),
    );
    View {
        router: router.into(),
        heartbeat: heartbeat.into(),
        config: config.into(),
        target: target.into(),
        address: address.into(),
        pool: pool.into(),
    }
}

/// The array on one screen.
pub fn render(report: &Report, style: Style) -> String {
    let mut text = String::new();
    let answering: Vec<&str> = BOTH
        .iter()
        .filter(|id| report.controllers[id].router.get().is_some())
        .map(|id| id.as_str())
        .collect();
    let whose = if answering.is_empty() {
        "nobody".to_owned()
    } else {
        answering.join(" and ")
    };
    let _ = writeln!(
        text,
        "{}",
        style.dim(&format!("views of {whose}, asked {}", utc(report.asked_unix_ms)))
    );
    for (id, view) in &report.controllers {
        controller(&mut text, *id, view, style);
    }
    lock(&mut text, report, style);
    pools(&mut text, report, style);
    addresses(&mut text, report, style);
    alarms(&mut text, report, style);
    text
}

fn controller(text: &mut String, id: ControllerId, view: &View, style: Style) {
    let _ = write!(text, "\n{}  ", style.bold(&format!("controller {id}")));
    let Some(router) = view.router.get() else {
        let _ = writeln!(text, "{}", style.bad("does not answer; its own state is unknown"));
        text.push_str(&wrap(view.router.why_not(), 2));
        return;
    };
    match view.heartbeat.get() {
        None => {
            let _ = writeln!(
                text,
                "{}",
                style.bad("heartbeat does not answer; its state is unknown")
            );
            text.push_str(&wrap(view.heartbeat.why_not(), 2));
        }
        Some(heart) => {
            let lease = if heart.lease_fresh {
                "lease fresh".to_owned()
            } else {
                style.bad("LEASE EXPIRED")
            };
            let watchdog = if heart.watchdog_armed {
                "watchdog armed"
            } else {
                "watchdog off"
            };
            let _ = writeln!(
                text,
                "{}, incarnation {}, {lease}, {watchdog}, {} profile",
                style.bold(&heart.state),
                heart.incarnation,
                heart.profile
            );
            let epoch = heart.epoch.as_ref().map_or_else(
                || "unknown".to_owned(),
                |record| {
                    let members: Vec<String> = record
                        .members
                        .iter()
                        .map(|(id, incarnation)| format!("{id}:{incarnation}"))
                        .collect();
                    let mode = if record.open { "open" } else { "sealed" };
                    format!("{} {{{}}} {mode}", record.epoch, members.join(", "))
                },
            );
            let _ = writeln!(text, "  epoch    {epoch}");
            let legs: Vec<String> = heart
                .wire
                .legs
                .iter()
                .map(|(name, up)| {
                    if *up {
                        format!("{name} up")
                    } else {
                        style.bad(&format!("{name} DOWN"))
                    }
                })
                .collect();
            let since = heart
                .wire
                .for_ms
                .map_or_else(String::new, |ms| format!(" for {}", span_ms(ms)));
            let trip = heart
                .wire
                .round_trip_us
                .map_or_else(String::new, |us| format!(", echo {}", span(us)));
            let _ = writeln!(
                text,
                "  wire     {}{since}{trip}; {}",
                heart.wire.state,
                legs.join(", ")
            );
            let since = heart
                .partner_disk_for_ms
                .map_or_else(String::new, |ms| format!(" for {}", span_ms(ms)));
            let _ = writeln!(
                text,
                "  partner  on disk {}{since}, power {}, incarnation {}",
                heart.partner_disk,
                heart.partner_power,
                known(heart.partner_incarnation)
            );
            let disks: Vec<String> = heart.quorum.iter().map(|disk| quorum_disk(disk, style)).collect();
            let _ = writeln!(text, "  quorum   {}", disks.join(", "));
        }
    }
    let missing: Vec<&str> = ["address", "alua", "config", "heartbeat", "pool", "target"]
        .into_iter()
        .filter(|name| !router.services.iter().any(|service| service.name == *name))
        .collect();
    let link = if router.link.up {
        "up".to_owned()
    } else {
        style.warn("DOWN")
    };
    let services = if missing.is_empty() {
        format!("{} registered", router.services.len())
    } else {
        style.bad(&format!("missing: {}", missing.join(", ")))
    };
    let _ = writeln!(text, "  services {services}; link between the routers {link}");
    match view.config.get() {
        None => {
            let _ = writeln!(text, "  config   unknown: {}", view.config.why_not());
        }
        Some(config) => {
            let sync = config.in_sync_as_of.map_or_else(
                || "alone or not yet in sync".to_owned(),
                |index| format!("both in sync as of {index}"),
            );
            let sequencer = known(config.sequencer);
            let _ = writeln!(
                text,
                "  config   index {} of {}, {sync}, sequencer {sequencer}",
                config.acknowledged_length, config.length
            );
        }
    }
    match view.target.get() {
        None => {
            let _ = writeln!(text, "  hosts    unknown: {}", view.target.why_not());
        }
        Some(target) => text.push_str(&limits(target, style)),
    }
}

/// What hosts have taken of what they can take, and how the controllers talk of blocks where they are of two builds.
pub fn limits(target: &target::Status, style: Style) -> String {
    let mut text = String::new();
    let of = |name: &str, part: &target::Use| {
        let told = format!("{} of {} {name}", part.used, part.limit);
        // Nine tenths: the next ones will be refused.
        match part.limit > 0 && part.used.saturating_mul(10) >= part.limit.saturating_mul(9) {
            true => style.warn(&told),
            false => told,
        }
    };
    let memory = |name: &str, kib: &target::Use| {
        let told = format!("{} of {} {name}", size(kib.used << 10), size(kib.limit << 10));
        match kib.used.saturating_mul(10) >= kib.limit.saturating_mul(9) {
            true => style.warn(&told),
            false => told,
        }
    };
    if let Some(limits) = &target.limits {
        let _ = writeln!(
            text,
            "  hosts    {}, {}",
            of("sessions", &limits.sessions),
            of("logging in", &limits.logins)
        );
        for line in [
            of("commands in the busiest", &limits.commands_per_session),
            memory("for data asked for", &limits.data_kib),
            memory("for data unasked", &limits.unasked_kib),
        ] {
            let _ = writeln!(text, "           {line}");
        }
    }
    if let Some(forwarding) = &target.forwarding
        && let Some(agreed) = forwarding.agreed.filter(|agreed| *agreed < forwarding.newest)
    {
        let told = format!(
            "block protocol {agreed}, this end speaks {} to {}: it is of an older build",
            forwarding.oldest, forwarding.newest
        );
        let _ = writeln!(text, "  partner  {}", style.warn(&told));
    }
    text
}

fn quorum_disk(disk: &heartbeat::QuorumDisk, style: Style) -> String {
    match (&disk.readable, disk.writable) {
        (Ok(()), true) => {
            let latency = disk
                .latency_us
                .map_or_else(String::new, |us| format!(" {}", span(us)));
            format!("{} ok{latency}", disk.disk)
        }
        (Ok(()), false) => style.bad(&format!("{} NOT WRITABLE", disk.disk)),
        (Err(why), _) => style.bad(&format!("{} UNREAD ({why})", disk.disk)),
    }
}

fn lock(text: &mut String, report: &Report, style: Style) {
    let locks: Vec<(ControllerId, &config::Locked)> = report
        .controllers
        .iter()
        .filter_map(|(id, view)| Some((*id, view.config.get()?.locked.as_ref()?)))
        .collect();
    for (id, lock) in locks {
        let head = format!("configuration locked for {}, says {id}", span_ms(lock.for_ms));
        let _ = write!(
            text,
            "\n{}\n{}{}",
            style.warn(&head),
            wrap(&lock.reason, 2),
            wrap(&lock.remedy, 2)
        );
    }
}

/// What a value is according to each controller: one word where they agree, both where they do not.
fn both<T: ToString>(report: &Report, read: impl Fn(&View) -> Option<T>) -> String {
    let told: Vec<(ControllerId, String)> = report
        .controllers
        .iter()
        .filter_map(|(id, view)| read(view).map(|value| (*id, value.to_string())))
        .collect();
    match &told[..] {
        [] => "unknown".to_owned(),
        [(_, value)] => value.clone(),
        [(_, first), rest @ ..] if rest.iter().all(|(_, value)| value == first) => first.clone(),
        differing => {
            let told: Vec<String> = differing
                .iter()
                .map(|(id, value)| format!("{id} says {value}"))
                .collect();
            told.join(", ")
        }
    }
}

fn beating<'a>(view: &'a View, id: &PoolId) -> Option<&'a heartbeat::Pool> {
    view.heartbeat.get()?.pools.iter().find(|pool| pool.pool == *id)
}

fn pools(text: &mut String, report: &Report, style: Style) {
    let mut ids: BTreeSet<PoolId> = report
        .controllers
        .values()
        .filter_map(|view| view.heartbeat.get())
        .flat_map(|h| h.pools.iter().map(|p| p.pool))
        .collect();
    let tables = report.configuration.get().map(|snapshot| &snapshot.tables);
    ids.extend(tables.iter().flat_map(|tables| tables.pools.keys().copied()));
    let _ = writeln!(text, "\n{}", style.bold("pools"));
    if ids.is_empty() {
        let nothing = if tables.is_some() {
            "none configured"
        } else {
            "unknown: nobody tells"
        };
        let _ = writeln!(text, "  {nothing}");
        return;
    }
    let mut rows = Vec::new();
    for id in &ids {
        let configured = tables.and_then(|tables| tables.pools.get(id));
        let name = configured.map(|pool| pool.name.clone());
        let name = name.unwrap_or_else(|| both(report, |view| beating(view, id)?.name.clone()));
        let home = configured.map(|pool| pool.home.to_string());
        let owner = both(report, |view| beating(view, id).map(|pool| known(pool.owner)));
        // `partner` says only that the other controller has more to say.
        let of = |view: &View| beating(view, id).map(|pool| pool.state.clone());
        let state = match both(report, |view| of(view).filter(|state| state != "partner")) {
            nobody if nobody == "unknown" => both(report, of),
            told => told,
        };
        let imported = report
            .controllers
            .values()
            .filter_map(|view| view.pool.get())
            .flat_map(|p| &p.imported);
        let legs = imported
            .into_iter()
            .find(|pool| pool.pool == *id)
            .map(|pool| legs(&pool.health));
        let paths = both(report, |view| {
            let paths = view.target.get()?.pools.iter().find(|pool| pool.pool == *id)?;
            Some(format!("{}/{}", access(paths.access_a), access(paths.access_b)))
        });
        rows.push(vec![name, known(home), owner, state, known(legs), paths]);
    }
    text.push_str(&table(
        &["NAME", "HOME", "OWNER", "STATE", "MIRROR", "PATHS a/b"],
        &rows,
    ));
    if let Some(tables) = tables {
        let volumes = tables.volumes.len();
        let bytes: u64 = tables.volumes.values().map(|volume| volume.size_bytes).sum();
        let (hosts, mappings) = (tables.hosts.len(), tables.mappings.len());
        let line = format!(
            "{volumes} volumes ({}), {hosts} hosts, {mappings} mappings",
            size(bytes)
        );
        let _ = writeln!(text, "{}", style.dim(&line));
    }
}

fn legs(health: &pool::PoolHealth) -> String {
    let good = health
        .legs
        .iter()
        .filter(|leg| leg.state == pool::LegState::InSync)
        .count();
    let resync = health.legs.iter().find_map(|leg| leg.resync_percent);
    let resync = resync.map_or_else(String::new, |percent| format!(", resync {percent} %"));
    format!("{good} of {} in sync{resync}", health.legs.len())
}

/// Short words of SPC-4's access states.
pub fn access(access: target::Access) -> &'static str {
    match access {
        target::Access::Optimized => "optimized",
        target::Access::NonOptimized => "non-opt",
        target::Access::Standby => "standby",
        target::Access::Unavailable => "unavail",
        target::Access::Transitioning => "transit",
    }
}

fn addresses(text: &mut String, report: &Report, style: Style) {
    let configured = report.configuration.get().map(|snapshot| &snapshot.tables);
    let mut all: BTreeSet<String> = configured
        .iter()
        .flat_map(|tables| tables.addresses.values())
        .map(|row| row.cidr.clone())
        .collect();
    all.extend(
        report
            .controllers
            .values()
            .filter_map(|view| view.address.get())
            .flat_map(|s| s.addresses.iter().map(|a| a.address.clone())),
    );
    if all.is_empty() {
        return;
    }
    let unknown = report
        .controllers
        .values()
        .any(|view| view.address.get().is_none());
    let _ = writeln!(text, "\n{}", style.bold("addresses"));
    for cidr in all {
        let holders: Vec<&str> = report
            .controllers
            .iter()
            .filter(|(_, view)| {
                view.address
                    .get()
                    .is_some_and(|s| s.addresses.iter().any(|a| a.address == cidr))
            })
            .map(|(id, _)| id.as_str())
            .collect();
        let at = match &holders[..] {
            [] if unknown => style.warn("unknown: not on the controller that answers"),
            [] => style.bad("nowhere"),
            [one] => format!("on {one}"),
            _ => style.bad("on BOTH controllers"),
        };
        let _ = writeln!(text, "  {cidr}  {at}");
    }
}

fn alarms(text: &mut String, report: &Report, style: Style) {
    let alarms: Vec<(ControllerId, &heartbeat::Alarm)> = report
        .controllers
        .iter()
        .flat_map(|(id, view)| {
            view.heartbeat
                .get()
                .into_iter()
                .flat_map(|h| &h.alarms)
                .map(|alarm| (*id, alarm))
        })
        .collect();
    let silent = report
        .controllers
        .values()
        .filter(|view| view.heartbeat.get().is_none())
        .count();
    let _ = writeln!(text, "\n{}", style.bold("alarms"));
    for (id, alarm) in &alarms {
        let _ = writeln!(
            text,
            "  {}",
            style.bad(&format!(
                "{} {} for {}, says {id}",
                alarm.id,
                alarm.subject,
                span_ms(alarm.for_ms)
            ))
        );
        text.push_str(&wrap(&alarm.text, 4));
    }
    let imported = report.controllers.values().filter_map(|view| view.pool.get());
    let low: Vec<_> = imported
        .flat_map(|pools| &pools.imported)
        .filter(|pool| pool.low_space)
        .collect();
    for pool in &low {
        let free = size(pool.capacity_bytes.saturating_sub(pool.used_bytes));
        let _ = writeln!(
            text,
            "  {}",
            style.bad(&format!(
                "low_space {}: {free} of {} are free",
                pool.name,
                size(pool.capacity_bytes)
            ))
        );
        text.push_str(&wrap(
            "delete snapshots, have hosts unmap, or delete volumes: without space thin volumes fail writes",
            4,
        ));
    }
    let foreign = foreign(report.controllers.values().filter_map(|view| view.pool.get()));
    for found in &foreign {
        let head = format!("foreign_key {}", disk::line(found));
        let _ = writeln!(text, "  {}", style.bad(&head));
        let remedy = format!(
            "whoever has it may write there; `{}` removes it",
            disk::removal(found.disk, &found.key)
        );
        text.push_str(&wrap(&remedy, 4));
    }
    let nothing = alarms.is_empty() && low.is_empty() && foreign.is_empty();
    let rest = match (nothing, silent) {
        (_, 2) => "unknown: no heartbeat answers",
        (true, 1) => "none at the controller that answers; unknown at the other",
        (false, 1) => "unknown at the controller that does not answer",
        (true, _) => "none",
        (false, _) => return,
    };
    let _ = writeln!(text, "  {rest}");
}

/// Keys of strangers on the disks, each once, whoever sees it.
fn foreign<'a>(views: impl Iterator<Item = &'a pool::Status>) -> Vec<pool::ForeignKey> {
    let mut found: Vec<pool::ForeignKey> = views.flat_map(|view| view.foreign.clone()).collect();
    found.sort_by(|a, b| (a.disk, &a.key).cmp(&(b.disk, &b.key)));
    found.dedup_by(|a, b| (a.disk, &a.key) == (b.disk, &b.key));
    found
}

/// What blocks, according to one controller.
#[derive(Clone, Debug, Serialize)]
pub struct Blocked {
    /// According to its heartbeat.
    pub heartbeat: Known<Vec<Blocker>>,
    /// Why its config keeper takes no change now; `null`: it takes them.
    pub configuration: Known<Option<config::Locked>>,
    /// Keys of strangers on the disks: where one stands no pool is made.
    pub foreign: Known<Vec<pool::ForeignKey>>,
}

/// What blocks, according to each controller.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// Each controller's view.
    pub controllers: BTreeMap<ControllerId, Blocked>,
}

/// Asks both controllers what blocks.
pub async fn why(array: &Array) -> Why {
    let one = async |id| {
        let (blockers, config, pools) = tokio::join!(
            array.look::<Vec<Blocker>>(id, heartbeat::WHY),
            array.look::<config::Status>(id, config::STATUS),
            array.look::<pool::Status>(id, pool::STATUS)
        );
        (
            id,
            Blocked {
                heartbeat: blockers.into(),
                configuration: config.map(|status| status.locked).into(),
                foreign: pools.map(|status| status.foreign).into(),
            },
        )
    };
    let (a, b) = tokio::join!(one(ControllerId::A), one(ControllerId::B));
    Why {
        controllers: [a, b].into(),
    }
}

/// One paragraph per blocker, and what clears it.
pub fn render_why(why: &Why, style: Style) -> String {
    let mut text = String::new();
    for (
        id,
        Blocked {
            heartbeat,
            configuration,
            foreign,
        },
    ) in &why.controllers
    {
        let mut blockers = heartbeat.get().cloned().unwrap_or_default();
        if let Some(Some(lock)) = configuration.get()
            && !blockers.iter().any(|blocker| blocker.blocks == "configuration")
        {
            let config::Locked {
                reason,
                for_ms,
                remedy,
            } = lock.clone();
            blockers.push(Blocker {
                blocks: "configuration".to_owned(),
                reason,
                for_ms,
                remedy,
            });
        }
        for Blocker {
            blocks,
            reason,
            for_ms,
            remedy,
        } in blockers
        {
            let head = format!("{blocks} is blocked for {}, says {id}", span_ms(for_ms));
            let _ = write!(text, "{}\n{}", style.bold(&head), wrap(&reason, 2));
            text.push_str(&wrap(&format!("clear it: {remedy}"), 2));
        }
        for found in foreign.get().into_iter().flatten() {
            let head = format!("a pool on {} is blocked, says {id}", found.disk);
            let _ = write!(text, "{}\n{}", style.bold(&head), wrap(&disk::line(found), 2));
            let remedy = format!(
                "clear it: make sure that nobody uses the disk, then `{}`",
                disk::removal(found.disk, &found.key)
            );
            text.push_str(&wrap(&remedy, 2));
        }
        for (part, why_not) in [
            ("heartbeat", heartbeat.why_not()),
            ("config keeper", configuration.why_not()),
            ("pool manager", foreign.why_not()),
        ] {
            if !why_not.is_empty() {
                let head = format!("what the {part} of controller {id} knows is unknown");
                let _ = write!(text, "{}\n{}", style.warn(&head), wrap(why_not, 2));
            }
        }
    }
    if text.is_empty() {
        text.push_str(
            "nothing blocks takeover, switchover, giveback or the configuration (both controllers say so)\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::error::Code;
    use pollux_api::id::DiskIndex;

    fn refused<T>() -> Known<T> {
        Err(RpcError::new(
            Code::UnknownService,
            "b/x",
            "no service x is registered",
        ))
        .into()
    }

    fn silent() -> View {
        View {
            router: refused(),
            heartbeat: refused(),
            config: refused(),
            target: refused(),
            address: refused(),
            pool: refused(),
        }
    }

    fn fits(text: &str) {
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= crate::print::WIDTH),
            "{text}"
        );
    }

    #[test]
    fn what_nobody_says_is_unknown_and_never_fine() {
        let controllers = BOTH.map(|id| (id, silent())).into();
        let report = Report {
            asked_unix_ms: 0,
            controllers,
            configuration: refused(),
        };
        let text = render(&report, Style::plain());
        assert!(text.contains("views of nobody"), "{text}");
        assert_eq!(
            text.matches("does not answer; its own state is unknown").count(),
            2,
            "{text}"
        );
        assert!(
            text.contains("unknown: nobody tells") && text.contains("unknown: no heartbeat answers"),
            "{text}"
        );
        assert!(!text.contains("none"), "{text}");
        fits(&text);
    }

    #[test]
    fn views_that_differ_are_both_printed() {
        let pool = |owner| heartbeat::Pool {
            pool: PoolId::from_bytes([5; 16]),
            name: Some("fast0".into()),
            home: Some(ControllerId::A),
            owner,
            generation: pollux_api::id::Generation::new(2),
            state: "serving".into(),
        };
        let beating = |id: ControllerId, owner| heartbeat::Status {
            controller: id,
            incarnation: pollux_api::id::Incarnation::new(1),
            profile: "fast".into(),
            state: "serving".into(),
            epoch: None,
            wire: heartbeat::Wire {
                state: "alive".into(),
                for_ms: None,
                legs: Vec::new(),
                round_trip_us: None,
            },
            partner_disk: "alive".into(),
            partner_disk_for_ms: None,
            partner_power: "unknown".into(),
            partner_incarnation: None,
            lease_fresh: true,
            watchdog_armed: true,
            realtime: Ok(()),
            quorum: Vec::new(),
            quorum_generation: pollux_api::id::Generation::new(1),
            pools: vec![pool(owner)],
            config_lock: None,
            alarms: Vec::new(),
        };
        let view = |id, owner| View {
            heartbeat: Known::Yes(beating(id, owner)),
            ..silent()
        };
        let controllers: BTreeMap<ControllerId, View> = [
            (ControllerId::A, view(ControllerId::A, Some(ControllerId::A))),
            (ControllerId::B, view(ControllerId::B, None)),
        ]
        .into();
        let report = Report {
            asked_unix_ms: 0,
            controllers,
            configuration: refused(),
        };
        let text = render(&report, Style::plain());
        assert!(text.contains("a says a, b says unknown"), "{text}");
        fits(&text);
    }

    #[test]
    fn what_hosts_can_take_is_told_with_what_they_have_taken() {
        let part = |used, limit| target::Use { used, limit };
        let mut status = target::Status {
            controller: ControllerId::A,
            portal: "10.78.0.1:3260".into(),
            iqn: "iqn.x".into(),
            lease_fresh: true,
            sessions: Vec::new(),
            partner: None,
            pools: Vec::new(),
            limits: Some(target::Limits {
                sessions: part(3, 2048),
                logins: part(0, 512),
                commands_per_session: part(128, 128),
                unasked_kib: part(0, 512 * 1024),
                data_kib: part(1536, 512 * 1024),
            }),
            forwarding: Some(target::Forwarding {
                oldest: 1,
                newest: 2,
                agreed: Some(1),
            }),
        };
        let text = limits(&status, Style::plain());
        for told in [
            "3 of 2048 sessions",
            "0 of 512 logging in",
            "128 of 128 commands in the busiest",
            "1.5 MiB of 512 MiB for data asked for",
            "0 B of 512 MiB for data unasked",
            "block protocol 1, this end speaks 1 to 2",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
        fits(&text);
        // Nothing is said of a pair of one build, and nothing is made up where nothing is told.
        status.forwarding = Some(target::Forwarding {
            oldest: 1,
            newest: 2,
            agreed: Some(2),
        });
        status.limits = None;
        assert_eq!(limits(&status, Style::plain()), "");
    }

    #[test]
    fn silence_is_not_the_absence_of_blockers() {
        let well = || Blocked {
            heartbeat: Known::Yes(Vec::new()),
            configuration: Known::Yes(None),
            foreign: Known::Yes(Vec::new()),
        };
        let mut why = Why {
            controllers: BOTH.map(|id| (id, well())).into(),
        };
        assert!(render_why(&why, Style::plain()).starts_with("nothing blocks"));
        let locked = config::Locked {
            reason: "sealed".into(),
            for_ms: 1500,
            remedy: "start the partner".into(),
        };
        let blocked = Blocked {
            heartbeat: refused(),
            configuration: Known::Yes(Some(locked)),
            foreign: Known::Yes(vec![pool::ForeignKey {
                disk: DiskIndex::new(3),
                key: "0x0000000000001234".into(),
                whose: "of a machine that is no controller of an array".into(),
                holds: true,
            }]),
        };
        why.controllers.insert(ControllerId::B, blocked);
        let text = render_why(&why, Style::plain());
        assert!(
            text.contains("configuration is blocked for 1.5 s, says b"),
            "{text}"
        );
        assert!(text.contains("clear it: start the partner"), "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat.contains("a pool on disk-03 is blocked, says b")
                && flat.contains("`pollux disk clear-key disk-03 0x0000000000001234`"),
            "{text}"
        );
        assert!(
            text.contains("heartbeat of controller b knows is unknown"),
            "{text}"
        );
        assert!(!text.contains("nothing blocks"), "{text}");
        fits(&text);
    }
}
