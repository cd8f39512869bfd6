//! What was promised, asked after every card.
//!
//! The judges look at the pool's disk, at what hosts are answered, at the quorum disks and at the clock. Of the cores they
//! know what these say aloud: the records that they publish and the votes that they hand to a disk.

use super::{Array, Breakage, UNIT, id};
use crate::search::Violation;
use pollux_api::pool::ReservationKey;
use pollux_heartbeat_core::area::Content;
use pollux_heartbeat_core::effect::{BlockId, Evidence, Note};
use pollux_heartbeat_core::record::{Record, Vote};
use pollux_heartbeat_core::{Effect, Event};

/// A controller whose slot was written for so long without any hindrance was seen alive by whoever looked.
const SEEN: u32 = 4;

impl Array {
    /// Hosts of the pool are answered by this controller.
    pub(super) fn answers(&self, c: usize) -> bool {
        let node = &self.nodes[c];
        let until = match self.setup.breakage {
            Some(Breakage::LongLease(by)) => node.lease_until + by,
            _ => node.lease_until,
        };
        node.imported.is_some_and(|(_, published)| published) && !node.stopped && self.now < until
    }

    /// S7: two never answer for the same pool. Notes since when the array is whole.
    pub(super) fn judge(&mut self) -> Result<(), Violation> {
        let whole = self.whole().is_ok();
        self.whole_since = whole.then(|| self.whole_since.unwrap_or(self.now));
        if self.answers(0) && self.answers(1) {
            let held = self.nodes.each_ref().map(|node| node.imported);
            return Err(Violation::new(
                "S7",
                format!("both answer the hosts of the pool: {held:?}"),
            ));
        }
        Ok(())
    }

    /// S2: one record per epoch.
    pub(super) fn judge_record(&mut self, c: usize, record: Record) -> Result<(), Violation> {
        let known = *self.records.entry(record.epoch).or_insert(record);
        if known == record {
            return Ok(());
        }
        Err(Violation::new(
            "S2",
            format!("{} acts on {record}, another on {known}", id(c)),
        ))
    }

    /// What was decided upon an event, before any of it is done.
    pub(super) fn judge_decision(&mut self, c: usize, effects: &[Effect]) -> Result<(), Violation> {
        for effect in effects {
            if let Effect::WriteBlock {
                block: BlockId::Vote0,
                content: Content::Vote(vote),
                ..
            } = effect
            {
                self.judge_vote(c, vote)?;
            }
            if let Effect::Note(Note::Decided(record)) = effect {
                self.judge_record(c, *record)?;
            }
        }
        Ok(())
    }

    /// S5: nobody votes the living out. A value that was found, or voted for before, is finished whoever lives.
    fn judge_vote(&mut self, c: usize, vote: &Vote) -> Result<(), Violation> {
        let Some(value) = vote.value else { return Ok(()) };
        if value.epoch > vote.decided.epoch.next() {
            return Err(Violation::new(
                "S2",
                format!("a vote for {value} in instance {}", vote.instance),
            ));
        }
        if self.nodes[c].cast.replace(value) == Some(value) || value.members.get(id(c)).is_none() {
            return Ok(());
        }
        let partner = &self.nodes[1 - c];
        let now = partner.incarnation();
        let was = vote.decided.admits(id(1 - c), now);
        if !was || value.admits(id(1 - c), now) || self.nodes[c].demanded {
            return Ok(());
        }
        let hindered = partner.stalled
            || partner.stopped
            || partner.core.is_none()
            || self.held.iter().any(|laid| laid.c == 1 - c)
            || self.disks.iter().any(|disk| !disk.path[1 - c]);
        if !hindered && self.now.since(partner.well_since) >= UNIT * SEEN {
            let text = format!(
                "{} votes for {value}, though the slot of {} was written unhindered for {:?}",
                id(c),
                id(1 - c),
                self.now.since(partner.well_since)
            );
            return Err(Violation::new("S5", text));
        }
        Ok(())
    }

    /// S2: whoever was shown a higher record without itself answers nobody any more.
    pub(super) fn judge_shown(&self, c: usize, shown: Option<Record>) -> Result<(), Violation> {
        let node = &self.nodes[c];
        let (Some(record), Some(told), Some((key, _))) = (shown, node.told, node.imported) else {
            return Ok(());
        };
        let excluded = !record.admits(id(c), node.incarnation()) && record.epoch > told.epoch;
        if excluded && record.epoch > key.epoch && self.answers(c) {
            return Err(Violation::new(
                "S2",
                format!("{} answers under {key:?} after it was shown {record}", id(c)),
            ));
        }
        Ok(())
    }

    /// S5: the disk of a pool is not taken from a member that holds it.
    pub(super) fn judge_taking(&self, c: usize, key: ReservationKey) -> Result<(), Violation> {
        let partner = &self.nodes[1 - c];
        let record = self.records.values().next_back();
        let member = record.is_some_and(|record| record.admits(id(1 - c), partner.incarnation()));
        match partner.imported {
            Some((held, _)) if member && !partner.stopped => Err(Violation::new(
                "S5",
                format!(
                    "{} takes the pool under {key:?} from a member that holds it under {held:?}",
                    id(c)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// S1: at an import nobody else can write.
    pub(super) fn judge_import(
        &self,
        c: usize,
        key: ReservationKey,
        evidence: Option<Evidence>,
    ) -> Result<(), Violation> {
        self.judge_taking(c, key)?;
        let partner = &self.nodes[1 - c];
        let Some((held, _)) = partner.imported else {
            return Ok(());
        };
        let ended = match evidence {
            Some(
                Evidence::PowerOff { victim, .. }
                | Evidence::Waited { victim, .. }
                | Evidence::Rebooted { victim, .. },
            ) => partner.incarnation() > victim.incarnation,
            // The disk itself rejects whoever holds another key.
            None
            | Some(
                Evidence::Reserved { .. } | Evidence::Own | Evidence::Unowned | Evidence::Released { .. },
            ) => self.standing == Some(key),
        };
        if ended {
            return Ok(());
        }
        Err(Violation::new(
            "S1",
            format!(
                "{} imports the pool under {key:?} on {evidence:?}, and {} holds it under {held:?}",
                id(c),
                id(1 - c)
            ),
        ))
    }
}

/// The record that an event shows to a core.
pub(super) fn shown(event: &Event) -> Option<Record> {
    match event {
        Event::Received(datagram) => datagram.record,
        Event::ReadDone { area, .. } => area.vote.ok().map(|vote| vote.decided),
        _ => None,
    }
}
