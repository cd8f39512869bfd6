//! How long it takes until a member that was killed is one again, by how many changes it has missed.
//!
//! The clock runs from the start of the member's program. It stops for the array when a change is answered that is
//! durable on both controllers; for etcd when the member holds the leader's revision. Both have [`OBJECTS`] objects.

use super::{ARRAY, Array, Cluster, Outcome, Plan, Rejoined, THREE};
use crate::error::{Error, Result};
use crate::peer::{config, etcd};
use crate::stage::Stage;
use crate::writers::{Ask, WRITERS, Writer, exactly, make};
use pollux_api::id::ControllerId;
use std::path::Path;
use std::time::{Duration, Instant};

/// Objects that are changed meanwhile.
pub const OBJECTS: usize = 1000;
/// Rounds, if the plan has no fewer.
const ROUNDS: usize = 5;
/// Rounds where there is much to be missed.
const LONG_ROUNDS: usize = 1;
/// What is much.
const MUCH: usize = 10_000;

trait Members {
    /// Loses a member, makes so many changes, and takes it in again; how long the last took.
    fn round(&mut self, missed: usize, patience: Duration) -> Result<Duration>;
}

impl Members for Array {
    fn round(&mut self, missed: usize, patience: Duration) -> Result<Duration> {
        self.lose()?;
        let socket = self.socket(ControllerId::A).to_owned();
        let alone = || config::writer(ARRAY, &socket, true);
        let mut writers = (0..WRITERS).map(|_| alone()).collect::<Result<Vec<Writer>>>()?;
        exactly(&mut writers, OBJECTS, missed, patience)?;
        drop(writers);
        let begin = Instant::now();
        self.join(patience)?;
        config::writer(ARRAY, &socket, false)?.once(Ask::Change(0))?;
        Ok(begin.elapsed())
    }
}

impl Members for Cluster {
    fn round(&mut self, missed: usize, patience: Duration) -> Result<Duration> {
        let leader = self.leader()?;
        let other = usize::from(leader == 0);
        self.lose(other)?;
        let address = self.address(leader);
        let mut writers = (0..WRITERS)
            .map(|_| etcd::writer(THREE, address))
            .collect::<Result<Vec<Writer>>>()?;
        exactly(&mut writers, OBJECTS, missed, patience)?;
        let begin = Instant::now();
        self.join(other, leader, patience)?;
        Ok(begin.elapsed())
    }
}

/// Measures what of `wanted` has members that can come back.
pub(crate) fn measure(
    plan: &Plan,
    wanted: &[&'static str],
    stage: &mut Stage,
    data: &Path,
    outcome: &mut Outcome,
    progress: &impl Fn(&str),
) {
    let mut systems: Vec<(&'static str, Box<dyn Members>)> = Vec::new();
    for &name in wanted.iter().filter(|name| [ARRAY, THREE].contains(*name)) {
        let started = if name == THREE {
            cluster(stage, data, plan.patience).map(|cluster| Box::new(cluster) as Box<dyn Members>)
        } else {
            array(stage, data, plan.patience).map(|array| Box::new(array) as Box<dyn Members>)
        };
        match started {
            Ok(members) => systems.push((name, members)),
            Err(error) => outcome.miss(name, "a member that comes back", &error),
        }
    }
    for &missed in &plan.missed {
        let most = if missed > MUCH { LONG_ROUNDS } else { ROUNDS };
        let rounds = plan.rounds.min(most);
        let mut took: Vec<Vec<f64>> = vec![Vec::new(); systems.len()];
        let mut failed: Vec<Option<Error>> = systems.iter().map(|_| None).collect();
        for round in 0..rounds {
            progress(&format!(
                "{missed} missed changes, round {} of {rounds}",
                round + 1
            ));
            for step in 0..systems.len() {
                let place = (round + step) % systems.len();
                if failed[place].is_some() {
                    continue;
                }
                match systems[place].1.round(missed, plan.patience) {
                    Ok(time) => took[place].push(time.as_secs_f64()),
                    Err(error) => failed[place] = Some(error),
                }
            }
        }
        let mut done = took.into_iter().zip(failed);
        systems.retain(|(system, _)| match done.next() {
            // Which state it is in is not known.
            Some((_, Some(error))) => {
                outcome.miss(system, format!("{missed} missed changes"), &error);
                false
            }
            Some((took, None)) => {
                outcome.rejoined.push(Rejoined { system, missed, took });
                true
            }
            None => true,
        });
    }
}

fn array(stage: &mut Stage, data: &Path, patience: Duration) -> Result<Array> {
    let array = Array::start(stage, data)?;
    let mut writer = [config::writer(ARRAY, array.socket(ControllerId::A), false)?];
    make(&mut writer, 0..OBJECTS, config::TOGETHER, patience)?;
    Ok(array)
}

fn cluster(stage: &Stage, data: &Path, patience: Duration) -> Result<Cluster> {
    let mut cluster = Cluster::start(stage, data, THREE)?;
    let leader = cluster.leader()?;
    let mut writer = [etcd::writer(THREE, cluster.address(leader))?];
    make(&mut writer, 0..OBJECTS, etcd::TOGETHER, patience)?;
    Ok(cluster)
}
