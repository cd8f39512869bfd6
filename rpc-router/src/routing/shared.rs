//! What only this router saw, told to the partner's: so that a trace does not end where a controller died.
//!
//! A message between the controllers is in both books. An effect between two services of one controller is only in its
//! own; were that controller lost, the survivor could not tell what the action had caused there, nor find its own
//! records of what that caused in turn. So each finished record of such an effect is also sent to the partner, which
//! keeps it as it keeps its own: in its ring and on its disk, both bounded.
//!
//! It must never carry what nobody caused (there are floods of that), hold a message up, or go back over the link.

use super::{Core, World};
use crate::trace::Entry;
use pollux_api::error::{Code, RpcError};
use pollux_api::router::{TRACED, TraceRecord};
use pollux_runtime::wire::{self, Head};

impl Core {
    /// Tells the partner of a record that has gone to the journal.
    pub(super) fn share(&mut self, record: &Entry, world: &mut impl World) {
        let Some(link) = self.link else { return };
        let own = |name: &str| {
            name.strip_prefix(self.me.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        if record.parent.is_none() || !own(&record.from) || !own(&record.to) {
            return;
        }
        let params = wire::to_json(&record.record());
        let head = Head::default();
        if !self.put(world, link, |out| {
            wire::write_call(out, None, TRACED, Some(&params), &head)
        }) {
            self.counters.trace_dropped += 1;
        }
    }

    /// The partner tells what only it saw.
    pub(super) fn shared(&mut self, params: &str, world: &mut impl World) -> Result<(), RpcError> {
        let record: TraceRecord = wire::params(TRACED, params)?;
        if record.at != self.me.partner() {
            let what = format!(
                "a record of controller {} from controller {}",
                record.at,
                self.me.partner()
            );
            return Err(RpcError::new(Code::NotPermitted, TRACED, what).remedy("each router tells its own"));
        }
        let record = Entry::from(record);
        if !world.journal(&record) {
            self.counters.trace_dropped += 1;
        }
        self.ring.push(record, true);
        Ok(())
    }
}
