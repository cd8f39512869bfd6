//! The porter: what those may have done who come from afar, and the errands that the core cannot run itself.
//!
//! Whoever comes over the management address is known by a token, whose name and role came with the connection. Each
//! method of the contract says which role opens it ([`Declaration::afar`]); what the contract does not know is shut. The
//! router at which somebody comes in decides; behind it the call goes where every call goes, with the lowest rank, and
//! under the name of the token.
//!
//! Keys and files of the management address are not the core's: a request about them becomes an [`Errand`], and its
//! answer comes back with the ticket of the call.
//!
//! [`Declaration::afar`]: pollux_api::contract::Declaration::afar

use super::calls::{Call, overloaded};
use super::{Address, ConnectionId, Core, Now, PENDING, Role, Sender, World};
use crate::pending::Ticket;
use pollux_api::contract::{self, Kind};
use pollux_api::error::{Code, RpcError};
use pollux_api::rank;
use pollux_api::role;
use pollux_api::router::{
    SUBSCRIBE, Subscribe, TOKEN_ADD, TOKEN_LIST, TOKEN_REMOVE, TokenAdd, TokenRemove, UNSUBSCRIBE,
};
use pollux_runtime::wire::{self, Envelope};
use std::sync::Arc;

/// Whoever came over the management address.
#[derive(Debug)]
pub(super) struct Remote {
    /// Name of its token.
    pub(super) name: String,
    /// `a/web:NAME`: what others are told of it.
    pub(super) full: Arc<str>,
    pub(super) role: role::Role,
}

/// What the core has done by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// How the management address is.
    Web,
    /// Makes a token.
    Add(TokenAdd),
    /// Every token.
    List,
    /// Takes a token away.
    Remove(TokenRemove),
}

impl Errand {
    fn of(method: &str, params: &str) -> Result<Self, RpcError> {
        Ok(match method {
            TOKEN_ADD => Self::Add(wire::params(method, params)?),
            TOKEN_LIST => Self::List,
            TOKEN_REMOVE => Self::Remove(wire::params(method, params)?),
            _ => Self::Web,
        })
    }
}

impl Core {
    /// Somebody from afar has shown the token `name`, which has this role.
    pub fn opened_from_afar(&mut self, connection: ConnectionId, name: &str, role: role::Role) {
        let remote = Remote {
            name: name.to_owned(),
            full: format!("{}/web:{name}", self.me).into(),
            role,
        };
        self.connect(connection, Role::Remote(Box::new(remote)));
    }

    /// The token `name` is good no longer.
    pub fn revoked(&mut self, name: &str, world: &mut impl World) {
        for (connection, known) in &self.connections {
            if matches!(&known.role, Role::Remote(remote) if remote.name == name) {
                world.close(*connection, "its token was removed");
            }
        }
    }

    /// Whether the role of `sender`, if it is one from afar, opens what it asks for.
    pub(super) fn open(&self, sender: &Sender, address: &Address<'_>) -> Result<(), RpcError> {
        let Some(role) = sender.afar else { return Ok(()) };
        let needed = contract::method(address.method).and_then(|declared| declared.afar);
        // They act on the connection on which they come, and to the partner that is the link.
        let on_the_link = address.remote && matches!(address.method, SUBSCRIBE | UNSUBSCRIBE);
        if role.opens(needed) && !on_the_link {
            return Ok(());
        }
        let there = if address.remote {
            self.me.partner()
        } else {
            self.me
        };
        let place = format!("{there}/{}", address.service);
        let error = shut(sender, role, needed, address.method, place);
        Err(if on_the_link {
            error.remedy(format!(
                "{} with topics that begin with `partner/`",
                address.method
            ))
        } else {
            error
        })
    }

    /// The same for topics that are subscribed to.
    pub(super) fn open_topics(&self, sender: &Sender, params: &str) -> Result<(), RpcError> {
        let Some(role) = sender.afar else { return Ok(()) };
        let Subscribe { topics } = wire::params(SUBSCRIBE, params)?;
        for topic in &topics {
            let name = topic.split_once('/').map_or(topic.as_str(), |(_, name)| name);
            let declared = contract::method(name).filter(|declared| declared.kind == Kind::Topic);
            let needed = declared.and_then(|declared| declared.afar);
            if !role.opens(needed) {
                return Err(shut(sender, role, needed, topic, self.me.to_string()));
            }
        }
        Ok(())
    }

    /// A request that somebody else has to carry out.
    pub(super) fn errand(
        &mut self,
        envelope: &Envelope<'_>,
        mut call: Call,
        sender: &Sender,
        now: Now,
        world: &mut impl World,
    ) {
        let errand = Errand::of(&call.method, envelope.params.unwrap_or("null"));
        // A service has no business with keys; whoever comes over the link was let through by the partner's router.
        let errand = match errand {
            Ok(errand) if errand != Errand::Web && sender.rank != rank::SHELL => {
                let what = format!("{} is a service and may not call {}", sender.from, call.method);
                Err(RpcError::new(Code::NotPermitted, &*call.to, what).remedy("a person gives tokens away"))
            }
            errand => errand,
        };
        call.change = matches!(errand, Ok(Errand::Add(_) | Errand::Remove(_)));
        self.note(&mut call, envelope.parent, &sender.from, now, world);
        let errand = match errand {
            Ok(errand) => errand,
            Err(error) => return self.settle(call, Err(error), now, world),
        };
        // Nobody's connection: no message can answer it.
        call.callee = ConnectionId::MAX;
        call.counted = true;
        let (caller, deadline) = (call.reply.caller(), now.us + call.deadline_ms * 1000);
        match self.pending.insert(deadline, call) {
            Ok(ticket) => {
                self.owe(ConnectionId::MAX, caller.unwrap_or(ConnectionId::MAX), 1);
                if !world.run(ticket, errand)
                    && let Some(call) = self.pending.take(ticket)
                {
                    let error = overloaded(self.me, "too many errands are on their way".to_owned());
                    self.settle(call, Err(error), now, world);
                }
            }
            Err(mut call) => {
                call.counted = false;
                let error = overloaded(self.me, format!("{PENDING} requests are on their way"));
                self.settle(call, Err(error), now, world);
            }
        }
    }

    /// An errand is done, or could not be.
    pub fn done(
        &mut self,
        ticket: Ticket,
        answer: Result<String, RpcError>,
        now: Now,
        world: &mut impl World,
    ) {
        match self.pending.take(ticket) {
            Some(call) => self.settle(call, answer, now, world),
            None => self.counters.late_answers += 1,
        }
    }
}

/// Why something is shut, and what would open it.
fn shut(
    sender: &Sender,
    role: role::Role,
    needed: Option<role::Role>,
    name: &str,
    place: String,
) -> RpcError {
    let from = &sender.from;
    let Some(needed) = needed else {
        let what = format!("{from} may not use {name}: it is not for those who come from afar");
        return RpcError::new(Code::NotPermitted, place, what)
            .remedy("ask on the controller itself; rpc.discover says what each role may (x-afar)");
    };
    let what = format!("{from} is {role} and may not use {name}");
    let enough: Vec<&str> = role::Role::ALL
        .into_iter()
        .filter(|role| role.opens(Some(needed)))
        .map(role::Role::as_str)
        .collect();
    RpcError::new(Code::NotPermitted, place, what).remedy(format!("a token of role {}", enough.join(" or ")))
}
