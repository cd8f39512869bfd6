//! The core's status as the contract says it: instants become ages, and names of pools come from the configuration.

use crate::{gate, legs::Legs};
use pollux_api::config::Tables;
use pollux_api::heartbeat as api;
use pollux_api::id::ControllerId;
use pollux_heartbeat_core::{
    Instant,
    detect::{DiskSight, WireSight},
    event::Power,
    record::{Mode, Record},
    status::{Blocker, Status},
};
use pollux_runtime::config::FILE;
use std::time::Duration;

/// The core's alarm of a leg.
pub const LEG_DOWN: &str = "leg_down";
/// The alarm of an appliance without a gate before the hosts.
pub const NO_GATE: &str = "no_gate";

/// What the driver knows and the core does not.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Name of the timing profile.
    pub profile: String,
    /// Real time, or why not.
    pub realtime: Option<String>,
    /// The legs of the interconnect.
    pub legs: Legs,
    /// What is wrong with the gate before the hosts.
    pub gate: Option<gate::Problem>,
    /// There is none, and there should be: since when, ns of CLOCK_MONOTONIC.
    pub ungated: Option<u64>,
}

/// The contract's status.
#[must_use]
pub fn status(core: &Status, now: Instant, around: &Surroundings, tables: &Tables) -> api::Status {
    let ago = |since: Instant| millis(now.since(since));
    api::Status {
        controller: core.controller,
        incarnation: core.incarnation,
        profile: around.profile.clone(),
        state: core.state.to_owned(),
        epoch: core.record.as_ref().map(record),
        wire: api::Wire {
            state: match core.wire.0 {
                WireSight::Alive => "alive",
                WireSight::Silent => "silent",
                WireSight::Unknown => "unknown",
            }
            .to_owned(),
            for_ms: Some(ago(core.wire.1)),
            legs: around
                .legs
                .0
                .iter()
                .map(|leg| (leg.name.clone(), leg.up()))
                .collect(),
            round_trip_us: core.round_trip.map(micros),
        },
        partner_disk: match core.disk.0 {
            DiskSight::Alive => "alive",
            DiskSight::SomeStill => "alive (still on a minority)",
            DiskSight::MostStill => "still on a majority",
            DiskSight::Still => "still",
            DiskSight::Unreadable => "unreadable",
            DiskSight::Unknown => "unknown",
        }
        .to_owned(),
        partner_disk_for_ms: Some(ago(core.disk.1)),
        partner_power: match core.power {
            Power::On => "on",
            Power::Off => "off",
            Power::Unknown => "unknown",
        }
        .to_owned(),
        partner_incarnation: core.partner,
        lease_fresh: core.lease_until > now,
        watchdog_armed: core.watchdog,
        realtime: around.realtime.clone().map_or(Ok(()), Err),
        quorum_generation: core.set.generation(),
        quorum: core
            .quorum
            .iter()
            .map(|disk| api::QuorumDisk {
                disk: disk.seat.disk,
                since: disk.seat.since,
                part: disk.part.to_owned(),
                for_ms: ago(disk.entered),
                writable: disk.writable,
                readable: disk.readable.clone(),
                latency_us: disk.latency.map(micros),
            })
            .collect(),
        pools: core
            .pools
            .iter()
            .map(|pool| api::Pool {
                pool: pool.pool,
                name: tables.pools.get(&pool.pool).map(|row| row.name.clone()),
                home: Some(pool.home),
                owner: pool.owner,
                generation: pool.generation,
                state: match &pool.problem {
                    Some(problem) => format!("{} ({problem})", pool.state),
                    None => pool.state.to_owned(),
                },
            })
            .collect(),
        config_lock: core.lock.as_ref().map(|(reason, since)| api::Lock {
            reason: reason.clone(),
            for_ms: ago(*since),
        }),
        alarms: core
            .alarms
            .iter()
            .map(|alarm| {
                // The core counts the legs; people know them by their interfaces.
                let leg = around
                    .legs
                    .called(&alarm.subject)
                    .filter(|_| alarm.id == LEG_DOWN);
                api::Alarm {
                    id: alarm.id.to_owned(),
                    subject: leg.map_or_else(|| alarm.subject.clone(), |leg| leg.name.clone()),
                    text: leg.map_or_else(
                        || alarm.text.clone(),
                        |leg| around.legs.text(leg, core.controller),
                    ),
                    for_ms: ago(alarm.since),
                }
            })
            .chain(gates(around, core.controller, now))
            .collect(),
    }
}

/// What is wrong with the gate before the hosts, which the core does not know.
fn gates(around: &Surroundings, me: ControllerId, now: Instant) -> impl Iterator<Item = api::Alarm> {
    let alarm = |id: &str, text, since_ns| api::Alarm {
        id: id.to_owned(),
        subject: me.to_string(),
        text,
        for_ms: millis(now.since(Instant::from_nanos(since_ns))),
    };
    let fails = around.gate.as_ref().map(|problem| {
        let text = format!(
            "the kernel does not follow the lease, and lets no reply out where it holds: {}",
            problem.why
        );
        alarm("gate", text, problem.since_ns)
    });
    let missing = around.ungated.map(|since| alarm(NO_GATE, ungated(me), since));
    fails.into_iter().chain(missing)
}

/// What an appliance is told that has no gate, as one that was set up before there were any.
#[must_use]
pub fn ungated(me: ControllerId) -> String {
    format!(
        "what the kernel of controller {me} answers hosts is not held back when its lease ends: behind a target of the kernel a \
         host may read what is old. Under [front] of {FILE} write gate = true, then: systemctl restart heartbeatd; on one \
         controller after the other"
    )
}

/// The contract's blockers.
#[must_use]
pub fn why(blockers: Vec<Blocker>, now: Instant) -> Vec<api::Blocker> {
    let one = |blocker: Blocker| api::Blocker {
        blocks: blocker.blocks.to_owned(),
        reason: blocker.reason,
        for_ms: millis(now.since(blocker.since)),
        remedy: blocker.remedy,
    };
    blockers.into_iter().map(one).collect()
}

fn record(record: &Record) -> api::EpochRecord {
    let member = |c| record.members.get(c).map(|incarnation| (c, incarnation));
    api::EpochRecord {
        epoch: record.epoch,
        members: ControllerId::ALL.into_iter().filter_map(member).collect(),
        open: record.mode == Mode::Open,
        base_length: record.base.length.get(),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appliance_without_a_gate_is_told_the_line_to_write() {
        let now = Instant::from_nanos(7_000_000_000);
        let mut around = Surroundings::default();
        assert_eq!(gates(&around, ControllerId::B, now).count(), 0);
        around.ungated = Some(2_000_000_000);
        let alarms: Vec<_> = gates(&around, ControllerId::B, now).collect();
        assert_eq!(alarms.len(), 1);
        let alarm = &alarms[0];
        assert_eq!(
            (alarm.id.as_str(), alarm.subject.as_str(), alarm.for_ms),
            (NO_GATE, "b", 5_000)
        );
        for part in [
            "controller.toml",
            "[front]",
            "gate = true",
            "systemctl restart heartbeatd",
        ] {
            assert!(alarm.text.contains(part), "{part}: {}", alarm.text);
        }
        // A gate that is there and fails is another matter.
        around = Surroundings {
            gate: Some(gate::Problem {
                why: "no answer".to_owned(),
                since_ns: 1_000_000_000,
            }),
            ..Surroundings::default()
        };
        let alarms: Vec<_> = gates(&around, ControllerId::B, now).collect();
        assert!(alarms.len() == 1 && alarms[0].id == "gate" && alarms[0].text.contains("no answer"));
    }
}
