//! The label with which a pool is imported: the newest of those that its disks carry, if every disk that may hold acknowledged
//! writes is there and fenced. The same for every kind of pool.

use crate::backend::PoolError;
use crate::disks::Disks;
use crate::fence::Exclusion;
use crate::label::{self, Label, MemberState};
use std::collections::{BTreeMap, BTreeSet};

/// The label with which a pool is imported.
///
/// # Errors
/// The proof is not enough, there is no label, or a member that may hold writes which the others lack cannot be used.
pub async fn label(disks: &Disks, evidence: &Exclusion) -> Result<Label, PoolError> {
    let pool = evidence.pool();
    if !evidence.sufficient() {
        let unfenced = evidence.unfenced().iter().copied().collect();
        return Err(PoolError::NotExclusive {
            pool,
            disks: unfenced,
        });
    }
    let mut candidates: BTreeSet<_> = evidence.fenced().union(evidence.unfenced()).copied().collect();
    let mut found = BTreeMap::new();
    let label = loop {
        let unread: Vec<_> = candidates
            .iter()
            .copied()
            .filter(|disk| !found.contains_key(disk))
            .collect();
        found.extend(disks.each(&unread, |disk| label::read(disks, disk)).await);
        let best = label::newest(found.values().flatten().cloned().filter_map(|on| on.newest(pool)));
        let Some(best) = best else {
            let why = found.values().next().map(|on| match on {
                Ok(on) => on.why(),
                Err(error) => error.to_string(),
            });
            return Err(PoolError::NoLabel {
                pool,
                disks: candidates.into_iter().collect(),
                why: why.unwrap_or_default(),
            });
        };
        let known = candidates.len();
        candidates.extend(best.members.iter().map(|member| member.disk));
        if candidates.len() == known {
            break best;
        }
    };
    for member in &label.members {
        if member.state == MemberState::Failed {
            continue;
        }
        let disk = member.disk;
        let missing = |why: String| PoolError::MemberMissing { pool, disk, why };
        if !evidence.guards(disk) && evidence.confirmed() {
            return Err(missing("it is not fenced".to_owned()));
        }
        let session = disks
            .session(disk)
            .await
            .map_err(|error| missing(error.to_string()))?;
        if session.info.id != member.id {
            return Err(missing(format!(
                "another disk stands there, serial {}",
                session.info.serial
            )));
        }
        match found.get(&disk) {
            Some(Ok(on)) if on.clone().newest(pool).is_some() => {}
            Some(Ok(on)) => return Err(missing(on.why())),
            Some(Err(error)) => return Err(missing(error.to_string())),
            None => return Err(missing("it was not read".to_owned())),
        }
    }
    Ok(label)
}
