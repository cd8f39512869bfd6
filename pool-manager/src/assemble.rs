//! The label with which a pool is made or imported. The same for every kind of pool.
//!
//! Made: on disks that hold nothing. Imported: the newest of those that its disks carry, if every disk that may hold
//! acknowledged writes is there and fenced.

use crate::backend::PoolError;
use crate::disks::{Disks, Session};
use crate::fence::Exclusion;
use crate::label::{self, Label, Member, MemberState};
use pollux_api::id::DiskIndex;
use std::collections::{BTreeMap, BTreeSet};

/// The label of a pool that is being made. Nothing has been written yet. The label of a pool that cannot hold data (an earlier
/// attempt's, a deleted one's) is written over, and so is one that is `own`: what an earlier attempt has made is gone on with.
///
/// `room` says how many extents a disk has for this kind of pool, or why it cannot be used; the label has the least of them.
///
/// # Errors
/// A disk is not fenced, cannot be read, is another's, or is none for this kind of pool.
pub async fn first(
    disks: &Disks,
    evidence: &Exclusion,
    name: &str,
    on: &[DiskIndex],
    own: impl Fn(&Label) -> bool,
    room: impl Fn(DiskIndex, &Session) -> Result<u64, PoolError>,
) -> Result<Label, PoolError> {
    let pool = evidence.pool();
    let unguarded: Vec<_> = on
        .iter()
        .copied()
        .filter(|disk| !evidence.guards(*disk))
        .collect();
    if !unguarded.is_empty() || on.is_empty() {
        return Err(PoolError::NotExclusive {
            pool,
            disks: unguarded,
        });
    }
    let (mut members, mut extents, mut txg) = (Vec::new(), u64::MAX, 0);
    for (disk, found) in disks.each(on, |disk| label::read(disks, disk)).await {
        let occupied = |why: String| PoolError::Occupied { pool, disk, why };
        let found = found.map_err(|error| occupied(error.to_string()))?;
        // A copy that is damaged, of a later version or of elsewhere may describe something; an empty pool does not.
        if !found.legible() || (found.holds_data() && !found.any().is_some_and(&own)) {
            return Err(occupied(found.why()));
        }
        txg = txg.max(found.any().map_or(0, |label| label.txg));
        let session = disks
            .session(disk)
            .await
            .map_err(|error| occupied(error.to_string()))?;
        extents = extents.min(room(disk, &session)?);
        members.push(Member {
            disk,
            id: session.info.id,
            state: MemberState::InSync,
        });
    }
    members.sort_unstable_by_key(|member| member.disk);
    Ok(Label {
        txg,
        array: disks.array(),
        pool,
        name: name.to_owned(),
        key: evidence.key(),
        clean: true,
        members,
        extents,
        config_index: 0,
        volumes: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        group: None,
    })
}

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
