//! Notifications and events: what is said without waiting for an answer.

use super::{Address, ConnectionId, Core, Now, PRESENT, Present, Role, World, calls::ReplyTo, overloaded};
use crate::trace::Entry;
use pollux_api::error::{Code, RpcError};
use pollux_api::id::ControllerId;
use pollux_api::router::{
    EVENT, Event, Outcome, PROGRESS, PUBLISH, Publish, SERVICE, SUBSCRIBE, Subscribe, Subscribed, TRACED,
};
use pollux_runtime::wire::{self, Envelope, Head};
use serde_json::value::RawValue;
use std::collections::BTreeSet;

/// Topics that the router counts events of.
const TOPICS: usize = 1024;
/// Topics of one subscriber.
const TOPICS_PER_SUBSCRIBER: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Topic {
    pub(super) sequence: u64,
    pub(super) subscribers: BTreeSet<ConnectionId>,
}

impl Core {
    pub(super) fn notification(
        &mut self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        method: &str,
        now: Now,
        world: &mut impl World,
    ) -> Result<(), RpcError> {
        let sender = self.sender(from, envelope)?;
        let address = self.address(method, sender.over_link)?;
        self.open(&sender, &address)?;
        let params = envelope.params.unwrap_or("null");
        if address.service == SERVICE && !address.remote {
            return match address.method {
                PUBLISH => self.publish(from, params, world),
                PROGRESS => self.progress(from, params, now, world),
                TRACED if sender.over_link => self.shared(params, world),
                EVENT if sender.over_link => self.remote_event(params, world),
                PRESENT if sender.over_link => {
                    let Present { epoch } = wire::params(PRESENT, params)?;
                    self.partner_epoch(Some(epoch));
                    Ok(())
                }
                other => Err(RpcError::new(
                    Code::MethodNotFound,
                    SERVICE,
                    format!("no notification {other}"),
                )),
            };
        }
        let to = if address.remote {
            self.link_for(address.method)?
        } else {
            let (to, service) = self.service(address.service, now)?;
            if !service
                .methods
                .get(address.method)
                .is_some_and(|method| method.notification)
            {
                let what = format!("{} takes no notification {}", service.name, address.method);
                return Err(RpcError::new(Code::MethodNotFound, &service.name, what));
            }
            to
        };
        let action = envelope.action_id.unwrap_or_else(|| world.new_action());
        let head = Head {
            action_id: Some(action),
            parent: envelope.parent,
            from: Some(&sender.from),
            rank: address.remote.then_some(sender.rank),
            ..Head::default()
        };
        let there = if address.remote {
            self.me.partner()
        } else {
            self.me
        };
        let sent = self.put(world, to, |out| {
            wire::write_call(out, None, address.method, envelope.params, &head);
        });
        let record = Entry {
            action_id: action,
            parent: envelope.parent,
            at: self.me,
            method: self.names.share(address.method),
            to: self.names.share_pair(there.as_str(), address.service),
            from: sender.from,
            start_unix_us: now.unix_us,
            duration_us: None,
            outcome: if sent {
                Outcome::Sent
            } else {
                Outcome::Error(Code::Overloaded.name().to_owned())
            },
        };
        if self.journal_has_room(now) && world.journal(&record) {
            self.share(&record, world);
        } else {
            self.counters.trace_dropped += 1;
        }
        self.ring.push(record, true);
        if sent {
            Ok(())
        } else {
            Err(overloaded(address.service, "its queue is full".to_owned()))
        }
    }

    fn publish(&mut self, from: ConnectionId, params: &str, world: &mut impl World) -> Result<(), RpcError> {
        let Publish { topic, payload } = wire::params::<Publish<Box<RawValue>>>(PUBLISH, params)?;
        let owner = match &self.connections[&from].role {
            Role::Service(service) => service.name.as_str(),
            _ => "",
        };
        if owner.is_empty() || topic.split_once('.').is_none_or(|(service, _)| service != owner) {
            let what = format!("{topic} is no topic of this caller");
            return Err(RpcError::new(Code::NotPermitted, PUBLISH, what)
                .remedy("a service publishes on topics that begin with its name"));
        }
        if self.topics.len() >= TOPICS && !self.topics.contains_key(&topic) {
            return Err(overloaded(self.me, format!("{TOPICS} topics are known")));
        }
        self.emit(&topic, payload.get(), world);
        Ok(())
    }

    pub(super) fn deliver_event(&mut self, to: ConnectionId, message: &[u8], world: &mut impl World) {
        // What does not fit is a hole in the sequence, which the subscriber sees.
        if !world.send(to, message) {
            self.counters.dropped += 1;
        }
    }

    /// The partner published something that somebody here has subscribed to.
    fn remote_event(&mut self, params: &str, world: &mut impl World) -> Result<(), RpcError> {
        let event: Event<Box<RawValue>> = wire::params(EVENT, params)?;
        let Some(subscribers) = self.remote.get(&event.topic) else {
            return Ok(());
        };
        let messages: Vec<(ConnectionId, Vec<u8>)> = subscribers
            .iter()
            .flat_map(|(&to, names)| names.iter().map(move |name| (to, name)))
            .map(|(to, name)| {
                (
                    to,
                    event_message(name, event.controller, event.sequence, event.payload.get()),
                )
            })
            .collect();
        for (to, message) in messages {
            self.deliver_event(to, &message, world);
        }
        Ok(())
    }

    pub(super) fn subscribe(
        &mut self,
        from: ConnectionId,
        params: &str,
        now: Now,
        world: &mut impl World,
    ) -> Result<Subscribed, RpcError> {
        let Subscribe { topics } = wire::params(SUBSCRIBE, params)?;
        let over_link = self.link == Some(from);
        let mut wanted = Vec::new();
        for (i, topic) in topics.iter().enumerate() {
            let address = self.address(topic, over_link).map_err(|error| {
                RpcError::new(Code::InvalidParams, SUBSCRIBE, "no topic").problem(
                    format!("topics[{i}]"),
                    error.data.what,
                    "service.topic or partner/service.topic",
                )
            })?;
            wanted.push((topic, address.remote, address.method.to_owned()));
        }
        let connection = &self.connections[&from];
        let known = self.topics.len() + self.remote.len();
        if connection.topics.len() + wanted.len() > TOPICS_PER_SUBSCRIBER || known + wanted.len() > TOPICS {
            let what = format!("at most {TOPICS_PER_SUBSCRIBER} topics per subscriber and {TOPICS} in all");
            return Err(overloaded(self.me, what));
        }
        let mut at_partner = Vec::new();
        for (name, remote, topic) in wanted {
            if remote {
                let names = self
                    .remote
                    .entry(topic.clone())
                    .or_default()
                    .entry(from)
                    .or_default();
                names.insert(name.clone());
                at_partner.push(topic);
            } else {
                self.topics.entry(topic).or_default().subscribers.insert(from);
            }
            if let Some(connection) = self.connections.get_mut(&from) {
                connection.topics.insert(name.clone());
            }
        }
        if !at_partner.is_empty() {
            self.subscribe_at_partner(at_partner, now, world);
        }
        Ok(self.subscribed(from))
    }

    pub(super) fn unsubscribe(&mut self, from: ConnectionId, params: &str) -> Result<Subscribed, RpcError> {
        let Subscribe { topics } = wire::params(SUBSCRIBE, params)?;
        for name in topics {
            if let Some(connection) = self.connections.get_mut(&from) {
                connection.topics.remove(&name);
            }
            let topic = name
                .split_once('/')
                .map_or(name.as_str(), |(_, topic)| topic)
                .to_owned();
            let Ok(Address { remote, .. }) = self.address(&name, false) else {
                continue;
            };
            if !remote {
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.subscribers.remove(&from);
                }
            } else if let Some(subscribers) = self.remote.get_mut(&topic) {
                // The partner keeps sending what nobody asks for until the link is renewed: cheap, and dropped here.
                subscribers.remove(&from);
                if subscribers.is_empty() {
                    self.remote.remove(&topic);
                }
            }
        }
        Ok(self.subscribed(from))
    }

    fn subscribed(&self, connection: ConnectionId) -> Subscribed {
        Subscribed {
            topics: self.connections[&connection].topics.iter().cloned().collect(),
        }
    }

    pub(super) fn subscribe_at_partner(&mut self, topics: Vec<String>, now: Now, world: &mut impl World) {
        let params = wire::to_json(&Subscribe { topics });
        let action = world.new_action();
        self.ask_partner(SUBSCRIBE, &params, action, ReplyTo::Nobody, 5_000_000, now, world);
    }
}

pub(super) fn event_message(topic: &str, controller: ControllerId, sequence: u64, payload: &str) -> Vec<u8> {
    let topic = wire::to_json(topic);
    let params = format!(
        r#"{{"topic":{topic},"controller":"{controller}","sequence":{sequence},"payload":{payload}}}"#
    );
    let mut message = Vec::with_capacity(params.len() + 64);
    wire::write_call(&mut message, None, EVENT, Some(&params), &Head::default());
    message
}
