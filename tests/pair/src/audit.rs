//! The assessors: each looks at one promise and says what it saw.
//!
//! I1 and I2 come from the shelf's log and the host's own notes, I4 from raw answers on both ports.
//! I5, I6 and I8 are asked of the controllers, for nobody else can know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pollux_api::action::ActionId;
use pollux_api::id::ControllerId;
use pollux_api::router::TraceReport;
use pollux_chassis::shelf::{Event, WRITE_LOG, WriteLog};
use pollux_host::client::HostProcess;
use pollux_host::control::Report;
use pollux_host::engine::GroupReports;
use pollux_host::scsi::AccessState;
use pollux_host::workload::{StreamReport, Verdict};

use crate::array::Array;
use crate::exclusion::{DataWrite, Exclusion, examine};
use crate::rig::{Pool, Volume};
use crate::wait::{that, wait_for};

/// One promise, and what was seen.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Short name, `I1`.
    pub name: &'static str,
    /// The promise.
    pub promise: &'static str,
    /// What was seen: right, or wrong.
    pub finding: Result<String, String>,
}

impl std::fmt::Display for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, detail) = match &self.finding {
            Ok(detail) => ("ok  ", detail),
            Err(detail) => ("FAIL", detail),
        };
        write!(f, "{word} {:<3} {}: {detail}", self.name, self.promise)
    }
}

/// How long the array may take to settle before an audit calls it wrong.
const SETTLE: Duration = Duration::from_secs(20);

/// Reads the shelf's log and examines one pool.
pub fn exclusion_of(array: &Array, pool: &Pool) -> Result<Exclusion, String> {
    let path = array.directory().join("shelf").join(WRITE_LOG);
    let log = WriteLog::read(&path).map_err(|err| err.to_string())?;
    Ok(examine(log.records.iter().filter_map(|record| {
        let data = matches!(record.event, Event::Write | Event::Unmap | Event::CompareAndWrite);
        (data && record.accepted() && pool.disks.contains(&record.disk)).then_some(DataWrite {
            sequence: record.sequence,
            at_ns: record.at_ns,
            disk: record.disk,
            port: record.port,
            key: record.key.0,
            holder: record.holder.0,
        })
    })))
}

/// I1: one importer at every instant.
pub fn one_writer(array: &Array, pools: &[Pool]) -> Audit {
    let look = || {
        let mut seen = Vec::new();
        for pool in pools {
            let found = exclusion_of(array, pool)?;
            if let Some((write, reason)) = found.breaches.first() {
                return Err(format!(
                    "pool {}: {} of {} at {} ns, record {}, port {:?}, key {:016x}: {reason} ({} in all)",
                    pool.name,
                    "write",
                    write.disk,
                    write.at_ns,
                    write.sequence,
                    write.port,
                    write.key,
                    found.breaches.len()
                ));
            }
            let writes: u64 = found.tenures.iter().map(|tenure| tenure.writes).sum();
            if writes == 0 {
                return Err(format!("pool {}: the shelf saw no write at all", pool.name));
            }
            let owners: Vec<String> = found
                .tenures
                .iter()
                .filter(|tenure| tenure.key != 0)
                .map(|tenure| tenure.port.map_or("?".into(), |port| port.to_string()))
                .collect();
            seen.push(format!(
                "{} {} ({writes} writes)",
                pool.name,
                owners.join(" then ")
            ));
        }
        Ok(seen.join(", "))
    };
    Audit {
        name: "I1",
        promise: "one writer at every instant, by the shelf's log",
        finding: look(),
    }
}

/// I2: no acknowledged write lost.
pub fn nothing_lost(streams: &[StreamReport], verdict: &Verdict) -> Audit {
    let acknowledged: u64 = streams.iter().map(|stream| stream.acknowledged).sum();
    let finding = if verdict.is_clean() && acknowledged > 0 && verdict.acknowledged_blocks > 0 {
        Ok(format!(
            "{acknowledged} writes acknowledged, {} blocks read back and right",
            verdict.acknowledged_blocks
        ))
    } else {
        let first = verdict.findings.first();
        Err(format!(
            "{acknowledged} acknowledged, {} units read, {} blocks wrong{}, {} differ between ports{}, errors {:?}",
            verdict.units,
            verdict.finding_count,
            first.map_or(String::new(), |f| format!(
                " (LUN {} LBA {}: {})",
                f.lun, f.lba, f.wrong
            )),
            verdict.disagreements.len(),
            verdict
                .disagreements
                .first()
                .map_or(String::new(), |text| format!(" ({text})")),
            verdict.errors
        ))
    };
    Audit {
        name: "I2",
        promise: "no acknowledged write lost",
        finding,
    }
}

/// I4: at most one optimized controller, and both ports tell the same story.
pub fn ports_agree(host: &HostProcess, volumes: &[Volume]) -> Audit {
    let look = || {
        let mut stories = BTreeSet::new();
        for volume in volumes {
            // States flip while we ask; the story has to settle, and no answer may ever show two
            // optimized groups.
            let mut twice = None;
            let told = wait_for("both ports tell one story", SETTLE, || {
                let reports = host.port_groups(volume.lun)?;
                twice = twice.take().or_else(|| two_optimized(&reports));
                one_story(&reports)
            });
            if let Some(twice) = twice {
                return Err(format!("{}: {twice}", volume.name));
            }
            stories.insert(told.map_err(|err| format!("{}: {err}", volume.name))?);
        }
        Ok(stories.into_iter().collect::<Vec<_>>().join("; "))
    };
    Audit {
        name: "I4",
        promise: "one optimized group, one story on both ports",
        finding: look(),
    }
}

fn two_optimized(reports: &GroupReports) -> Option<String> {
    reports.iter().find_map(|(port, report)| {
        let groups = report.as_ref().ok()?;
        let optimized = groups
            .iter()
            .filter(|group| group.state == AccessState::Optimized)
            .count();
        (optimized > 1).then(|| format!("port {port} shows {optimized} optimized groups"))
    })
}

fn one_story(reports: &GroupReports) -> Result<String, String> {
    let mut stories: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut silent = Vec::new();
    for (port, report) in reports {
        match report {
            Ok(groups) => {
                let states: Vec<String> = groups
                    .iter()
                    .map(|group| format!("group {} {:?}", group.group, group.state))
                    .collect();
                that(groups.len() == 2, || {
                    format!("port {port} shows {} groups, 2 are right", groups.len())
                })?;
                let settled = groups
                    .iter()
                    .filter(|group| group.state == AccessState::Optimized)
                    .count()
                    == 1;
                that(settled, || format!("port {port}: {}", states.join(", ")))?;
                stories.entry(states.join(", ")).or_default().push(*port);
            }
            Err(_) => silent.push(*port),
        }
    }
    that(!stories.is_empty(), || format!("no port answers: {reports:?}"))?;
    that(stories.len() == 1, || format!("two stories: {stories:?}"))?;
    let (story, ports) = stories.into_iter().next().expect("one story");
    let alone = if silent.is_empty() {
        String::new()
    } else {
        format!(" (port {silent:?} not connected)")
    };
    Ok(format!("{story}, said by {} port(s){alone}", ports.len()))
}

/// I5: configuration equal on both, or the survivor says that it is alone.
pub fn configuration(array: &Array) -> Audit {
    let look = || -> Result<String, String> {
        let running = running(array)?;
        if let [alone] = running[..] {
            let status = array.heartbeat(alone)?;
            let epoch = status.epoch.ok_or_else(|| format!("{alone} knows no epoch"))?;
            let members: Vec<ControllerId> = epoch.members.iter().map(|(member, _)| *member).collect();
            that(members == [alone], || {
                format!("{alone} runs alone and says the members are {members:?}")
            })?;
            return Ok(format!("{alone} is alone and says so (epoch {})", epoch.epoch));
        }
        let (a, b) = (array.config(ControllerId::A)?, array.config(ControllerId::B)?);
        for status in [&a, &b] {
            that(status.diverged.is_none(), || {
                format!("{} diverged: {:?}", status.controller, status.diverged)
            })?;
        }
        that((a.length, a.hash) == (b.length, b.hash), || {
            format!(
                "a has {} entries ({}), b {} ({})",
                a.length, a.hash, b.length, b.hash
            )
        })?;
        Ok(format!(
            "{} entries on both, hash {:.8}",
            a.length,
            a.hash.to_string()
        ))
    };
    Audit {
        name: "I5",
        promise: "configuration equal, or alone and says so",
        finding: settle("configuration", look),
    }
}

/// I6: each address on exactly one controller.
pub fn addresses(array: &Array, pools: &[Pool]) -> Audit {
    let look = || -> Result<String, String> {
        let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for at in running(array)? {
            for address in array.addresses(at)?.addresses {
                let told = address
                    .announced_after_ms
                    .map_or("not announced".into(), |ms| format!("announced after {ms} ms"));
                holders
                    .entry(address.address)
                    .or_default()
                    .push(format!("{at} ({told})"));
            }
        }
        for pool in pools {
            let on = holders.get(&pool.address).map_or(0, Vec::len);
            that(on == 1, || {
                format!("{} is on {on} controllers: {holders:?}", pool.address)
            })?;
        }
        let text = holders
            .iter()
            .map(|(address, on)| format!("{address} on {}", on.join(", ")));
        Ok(text.collect::<Vec<_>>().join("; "))
    };
    Audit {
        name: "I6",
        promise: "each address on exactly one controller",
        finding: settle("addresses", look),
    }
}

/// I7: no error reached the application.
pub fn no_error(streams: &[StreamReport], report: &Report) -> Audit {
    let errors: u64 = streams.iter().map(|stream| stream.error_count).sum();
    let finding = if errors == 0 && report.conflicts.is_empty() {
        Ok("no I/O error".into())
    } else {
        let first: Vec<&String> = streams.iter().flat_map(|stream| &stream.errors).take(3).collect();
        Err(format!(
            "{errors} I/O errors {first:?}, conflicts of identity {:?}",
            report.conflicts
        ))
    };
    Audit {
        name: "I7",
        promise: "no I/O error at the host",
        finding,
    }
}

/// I8: everything that happened is reachable from one action.
pub fn traceable(array: &Array) -> Audit {
    let look = || -> Result<String, String> {
        let (mut actions, mut messages) = (0, 0);
        let running = running(array)?;
        for at in &running {
            for incident in array.timeline(*at)? {
                // A change of membership or a boot moves no pool and may need no message at all;
                // whatever moved one has to have left a trace.
                if incident.controller != *at || incident.phases.iter().all(|phase| phase.pool.is_none()) {
                    continue;
                }
                let action: ActionId = incident
                    .action_id
                    .parse()
                    .map_err(|err| format!("{}: {err}", incident.action_id))?;
                let trace = array.trace(*at, action)?;
                reachable(&trace, action, running.len() == 2)
                    .map_err(|err| format!("{err}, of {incident:?}"))?;
                actions += 1;
                messages += trace.records.len();
            }
        }
        Ok(format!("{actions} incidents, {messages} messages under them"))
    };
    Audit {
        name: "I8",
        promise: "everything reachable from one action",
        finding: settle("traces", look),
    }
}

fn reachable(trace: &TraceReport, root: ActionId, both: bool) -> Result<(), String> {
    that(!trace.records.is_empty(), || {
        "no message is known under it".into()
    })?;
    that(!trace.truncated, || "the trace is cut short".into())?;
    that(!both || trace.missing.is_empty(), || {
        format!("not asked: {:?}", trace.missing)
    })?;
    let known: BTreeSet<ActionId> = trace
        .records
        .iter()
        .map(|record| record.action_id)
        .chain([root])
        .collect();
    for record in &trace.records {
        let hangs = record.action_id == root || record.parent.is_some_and(|parent| known.contains(&parent));
        that(hangs, || {
            format!("{} from {} hangs from nothing", record.method, record.from)
        })?;
    }
    Ok(())
}

/// I11: no stale read.
pub fn no_stale_read(streams: &[StreamReport]) -> Audit {
    let reads: u64 = streams.iter().map(|stream| stream.reads).sum();
    let wrong: u64 = streams.iter().map(|stream| stream.finding_count).sum();
    let finding = if wrong == 0 && reads > 0 {
        Ok(format!("{reads} reads over both paths, none stale"))
    } else {
        let first = streams.iter().flat_map(|stream| &stream.findings).next();
        Err(format!(
            "{wrong} of {reads} reads wrong{}",
            first.map_or(String::new(), |f| format!(
                " (LUN {} LBA {} port {}: {})",
                f.lun, f.lba, f.port, f.wrong
            ))
        ))
    };
    Audit {
        name: "I11",
        promise: "no stale read on either path",
        finding,
    }
}

/// Controllers whose processes run.
fn running(array: &Array) -> Result<Vec<ControllerId>, String> {
    let mut running = Vec::new();
    for controller in ControllerId::ALL {
        if array.is_running(controller).map_err(|err| err.to_string())? {
            running.push(controller);
        }
    }
    that(!running.is_empty(), || "no controller runs".into())?;
    Ok(running)
}

/// Gives a state that is still moving its time.
fn settle(what: &str, look: impl FnMut() -> Result<String, String>) -> Result<String, String> {
    wait_for(what, SETTLE, look).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_host::scsi::PortGroup;

    fn report(states: [AccessState; 2]) -> Result<Vec<PortGroup>, String> {
        let group = |(index, state)| PortGroup {
            group: index as u16 + 1,
            state,
            preferred: false,
            ports: vec![index as u16 + 1],
        };
        Ok(states.into_iter().enumerate().map(group).collect())
    }

    use AccessState::{NonOptimized, Optimized, Transitioning};

    #[test]
    fn one_story_and_its_opposites() {
        let right = [Optimized, NonOptimized];
        assert!(one_story(&vec![(0, report(right)), (1, report(right))]).is_ok());
        assert!(one_story(&vec![(0, Err("gone".into())), (1, report(right))]).is_ok());
        assert!(one_story(&vec![(0, Err("gone".into())), (1, Err("gone".into()))]).is_err());
        let other = [NonOptimized, Optimized];
        assert!(one_story(&vec![(0, report(right)), (1, report(other))]).is_err());
        assert!(one_story(&vec![(0, report([Transitioning, Transitioning]))]).is_err());
        assert!(two_optimized(&vec![(0, report([Optimized, Optimized]))]).is_some());
        assert!(two_optimized(&vec![(0, report(right))]).is_none());
    }

    #[test]
    fn nothing_written_or_read_is_not_right() {
        assert!(nothing_lost(&[], &Verdict::default()).finding.is_err());
        assert!(no_stale_read(&[]).finding.is_err());
    }
}
