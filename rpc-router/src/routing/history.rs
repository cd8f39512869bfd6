//! Traces: what was noted under an action, here and at the partner.

use super::calls::{Call, ReplyTo, overloaded};
use super::{ConnectionId, Core, Now, World};
use crate::trace;
use pollux_api::action::ActionId;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::rank;
use pollux_api::router::{Missing, SERVICE, TRACE, Trace, TraceRecord, TraceReport};
use pollux_runtime::wire::{self, Head};
use std::collections::{BTreeSet, HashSet};

/// Records of a trace, unless the caller says how many.
const TRACE_LIMIT: usize = 1000;
/// Most records of a trace: at some 350 bytes each they fit one message.
const TRACE_LIMIT_MAX: usize = 2500;
/// Time that the partner has to tell its part of a trace, µs.
const TRACE_WITHIN_US: u64 = 2_000_000;
/// Rounds in which two routers tell each other the actions that only one has seen.
const TRACE_ROUNDS: u8 = 8;

/// A trace that is being put together.
#[derive(Debug)]
pub(super) struct Tracing {
    pub(super) reply: ReplyTo,
    action: ActionId,
    roots: Vec<ActionId>,
    limit: usize,
    records: Vec<TraceRecord>,
    truncated: bool,
    round: u8,
}

impl Core {
    /// Asks the partner's router; without a link the answer is at once that there is none.
    #[expect(clippy::too_many_arguments, reason = "one call of the wire, spelled out")]
    pub(super) fn ask_partner(
        &mut self,
        name: &str,
        params: &str,
        action: ActionId,
        reply: ReplyTo,
        within_us: u64,
        now: Now,
        world: &mut impl World,
    ) {
        let to = self.names.share_pair(self.me.partner().as_str(), SERVICE);
        let deadline_ms = within_us / 1000;
        let callee = self.link.unwrap_or(ConnectionId::MAX);
        let method = self.names.share(name);
        let call = Call {
            reply,
            callee,
            action,
            method,
            to,
            deadline_ms,
            trace: None,
            change: false,
            counted: false,
        };
        let Some(link) = self.link else {
            // A subscription is made again when the link comes.
            if !matches!(call.reply, ReplyTo::Nobody) {
                let error = self.partner_unreachable("there is no link now");
                self.settle(call, Err(error), now, world);
            }
            return;
        };
        match self.pending.insert(now.us + within_us, call) {
            Err(call) => self.settle(
                call,
                Err(overloaded(self.me, "the table is full".to_owned())),
                now,
                world,
            ),
            Ok(ticket) => {
                let from = format!("{}/{SERVICE}", self.me);
                let mut digits = [0; 20];
                let id = ticket.write(&mut digits);
                let head = Head {
                    action_id: Some(action),
                    deadline_ms: Some(deadline_ms),
                    from: Some(&from),
                    rank: Some(rank::SHELL),
                    ..Head::default()
                };
                let sent = self.put(world, link, |out| {
                    wire::write_call(out, Some(id), name, Some(params), &head);
                });
                if !sent && let Some(call) = self.pending.take(ticket) {
                    let error = self.partner_unreachable("its queue is full");
                    self.settle(call, Err(error), now, world);
                }
            }
        }
    }

    pub(super) fn trace(
        &mut self,
        from: ConnectionId,
        params: &str,
        call: Call,
        now: Now,
        world: &mut impl World,
    ) {
        let asked: Trace = match wire::params(TRACE, params) {
            Ok(asked) => asked,
            Err(error) => return self.settle(call, Err(error), now, world),
        };
        let limit = asked
            .limit
            .map_or(TRACE_LIMIT, |limit| limit as usize)
            .clamp(1, TRACE_LIMIT_MAX);
        let mut roots: Vec<ActionId> = asked.action_id.into_iter().chain(asked.also).collect();
        let (records, truncated) = if roots.is_empty() {
            self.ring.roots(limit)
        } else {
            self.ring.descendants(&roots, limit)
        };
        if !roots.is_empty() {
            // The partner may know effects of an action whose cause only this router has seen.
            let known: BTreeSet<ActionId> = roots.iter().copied().chain(actions(&records)).collect();
            roots = known.into_iter().collect();
        }
        let tracing = Tracing {
            reply: call.reply,
            action: call.action,
            roots,
            limit,
            records,
            truncated,
            round: 0,
        };
        if asked.local || self.link == Some(from) {
            self.tell_trace(tracing, vec![self.me], Vec::new(), now, world);
        } else {
            self.ask_trace(tracing, now, world);
        }
    }

    fn ask_trace(&mut self, tracing: Tracing, now: Now, world: &mut impl World) {
        let (first, also) = match tracing.roots.split_first() {
            None => (None, Vec::new()),
            Some((first, also)) => (Some(*first), also.to_vec()),
        };
        let limit = u32::try_from(tracing.limit).ok();
        let params = wire::to_json(&Trace {
            action_id: first,
            also,
            limit,
            local: true,
        });
        let action = tracing.action;
        self.ask_partner(
            TRACE,
            &params,
            action,
            ReplyTo::Trace(Box::new(tracing)),
            TRACE_WITHIN_US,
            now,
            world,
        );
    }

    /// The partner has told its part. If it knows effects whose further effects only this router has seen, and the
    /// other way round, they ask each other again.
    pub(super) fn traced(
        &mut self,
        mut tracing: Tracing,
        answer: Result<String, RpcError>,
        now: Now,
        world: &mut impl World,
    ) {
        let report = answer.and_then(|answer| {
            serde_json::from_str::<TraceReport>(&answer)
                .map_err(|error| RpcError::new(Code::Internal, "partner's trace", error.to_string()))
        });
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                let missing = vec![Missing {
                    controller: self.me.partner(),
                    why: error.to_string(),
                }];
                return self.tell_trace(tracing, vec![self.me], missing, now, world);
            }
        };
        tracing.truncated |= report.truncated;
        add_records(&mut tracing.records, report.records);
        if !tracing.roots.is_empty() && tracing.round < TRACE_ROUNDS {
            let asked: HashSet<ActionId> = tracing.roots.iter().copied().collect();
            let before = tracing.records.len();
            let known = actions(&tracing.records);
            let (more, truncated) = self.ring.descendants(&known, tracing.limit);
            tracing.truncated |= truncated;
            add_records(&mut tracing.records, more);
            // Only what the partner has not been asked about, directly or as an effect of what it was asked about.
            let news: Vec<ActionId> = actions(&tracing.records)
                .into_iter()
                .filter(|action| !asked.contains(action))
                .collect();
            if tracing.records.len() > before && !news.is_empty() {
                tracing.roots.extend(news);
                tracing.round += 1;
                return self.ask_trace(tracing, now, world);
            }
        }
        self.tell_trace(tracing, vec![self.me, self.me.partner()], Vec::new(), now, world);
    }

    fn tell_trace(
        &mut self,
        tracing: Tracing,
        seen: Vec<ControllerId>,
        missing: Vec<Missing>,
        now: Now,
        world: &mut impl World,
    ) {
        let mut records = trace::merge(tracing.records);
        let truncated = tracing.truncated || records.len() > tracing.limit;
        if tracing.roots.is_empty() {
            records.drain(..records.len().saturating_sub(tracing.limit));
        } else {
            records.truncate(tracing.limit);
        }
        let report = TraceReport {
            records,
            seen,
            missing,
            truncated,
        };
        let call = Call {
            reply: tracing.reply,
            callee: ConnectionId::MAX,
            action: tracing.action,
            method: self.names.share(TRACE),
            to: self.me.as_str().into(),
            deadline_ms: 0,
            trace: None,
            change: false,
            counted: false,
        };
        self.settle(call, Ok(wire::to_json(&report)), now, world);
    }
}

fn actions(records: &[TraceRecord]) -> Vec<ActionId> {
    let unique: BTreeSet<ActionId> = records.iter().map(|record| record.action_id).collect();
    unique.into_iter().collect()
}

fn add_records(records: &mut Vec<TraceRecord>, more: Vec<TraceRecord>) {
    for record in more {
        let same = |r: &TraceRecord| {
            (r.action_id, r.at, r.start_unix_us) == (record.action_id, record.at, record.start_unix_us)
                && r.method == record.method
        };
        if !records.iter().any(same) {
            records.push(record);
        }
    }
}
