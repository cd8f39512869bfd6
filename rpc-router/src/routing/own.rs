//! Requests to the router itself: who registers, what is known of whom.

use super::{ConnectionId, Core, Now, Registration, Role, Sender, World, calls::Call};
use crate::discover;
use pollux_api::contract::{self, Repeat};
use pollux_api::error::{Code, RpcError};
use pollux_api::rank;
use pollux_api::router::{
    ACTIONS, CANCEL, REGISTER, Register, Registered, SERVICE, STATUS, SUBSCRIBE, ServiceInfo, Status,
    TOKEN_ADD, TOKEN_LIST, TOKEN_REMOVE, TRACE, UNREGISTER, UNSUBSCRIBE, WEB,
};
use pollux_api::rpc;
use pollux_runtime::wire::{self, Envelope};
use std::collections::HashSet;

/// Methods of one service.
const METHODS: usize = 256;

impl Core {
    pub(super) fn own_method(
        &mut self,
        from: ConnectionId,
        envelope: &Envelope<'_>,
        mut call: Call,
        sender: &Sender,
        now: Now,
        world: &mut impl World,
    ) {
        let params = envelope.params.unwrap_or("null");
        let answer = match &*call.method {
            TRACE => return self.trace(from, params, call, now, world),
            WEB | TOKEN_ADD | TOKEN_LIST | TOKEN_REMOVE => {
                return self.errand(envelope, call, sender, now, world);
            }
            REGISTER => self
                .register(from, params, now)
                .map(|registered| wire::to_json(&registered)),
            UNREGISTER => self.unregister(from).map(|()| "null".to_owned()),
            STATUS => Ok(wire::to_json(&self.status())),
            ACTIONS => self.list_work(params).map(|actions| wire::to_json(&actions)),
            CANCEL => self
                .cancel_work(params, sender, world)
                .map(|action| wire::to_json(&action)),
            rpc::DISCOVER => {
                Ok(discover::document(self.version, |name| self.services.contains_key(name)).to_string())
            }
            SUBSCRIBE => self
                .open_topics(sender, params)
                .and_then(|()| self.subscribe(from, params, now, world))
                .map(|topics| wire::to_json(&topics)),
            UNSUBSCRIBE => self
                .unsubscribe(from, params)
                .map(|topics| wire::to_json(&topics)),
            other => Err(RpcError::new(
                Code::MethodNotFound,
                &*call.to,
                format!("the router has no method {other}"),
            )
            .remedy("rpc.discover lists all")),
        };
        if &*call.method != STATUS {
            self.note(&mut call, envelope.parent, &sender.from, now, world);
        }
        self.settle(call, answer, now, world);
    }

    fn register(&mut self, from: ConnectionId, params: &str, now: Now) -> Result<Registered, RpcError> {
        let register: Register = wire::params(REGISTER, params)?;
        let place = format!("{}/{}", self.me, register.name);
        let peer = match &self.connections[&from].role {
            Role::Anonymous(peer) => *peer,
            Role::Service(service) => {
                let what = format!("this connection is {} already", service.name);
                return Err(RpcError::new(Code::Conflict, place, what).remedy("one connection per service"));
            }
            Role::Remote(remote) => {
                let what = format!("{} comes from afar and cannot be a service", remote.full);
                return Err(RpcError::new(Code::NotPermitted, place, what)
                    .remedy("a service registers on the socket of its own controller"));
            }
            Role::Link => {
                return Err(
                    RpcError::new(Code::NotPermitted, place, "a service of the partner")
                        .remedy("a service registers at the router of its own controller"),
                );
            }
        };
        let problems = registration_problems(&register);
        if !problems.is_empty() {
            let mut error = RpcError::new(Code::InvalidParams, place, "the registration breaks the contract");
            for (path, what, remedy) in problems {
                error = error.problem(path, what, remedy);
            }
            return Err(error);
        }
        if let Ok((_, living)) = self.service(&register.name, now) {
            let what = format!(
                "{} is registered by process {}, which lives",
                living.name, living.peer.pid
            );
            return Err(RpcError::new(Code::Conflict, place, what)
                .since_ms(living.since_unix_us / 1000)
                .remedy("stop that process first; a name belongs to one living service"));
        }
        self.services.insert(register.name.clone(), from);
        let methods = register
            .methods
            .into_iter()
            .map(|method| (method.name.as_str().into(), method))
            .collect();
        let Register {
            name, version, rank, ..
        } = register;
        let registration = Registration {
            peer,
            full: format!("{}/{name}", self.me).into(),
            name,
            version,
            rank,
            methods,
            since_unix_us: now.unix_us,
        };
        if let Some(connection) = self.connections.get_mut(&from) {
            connection.role = Role::Service(Box::new(registration));
        }
        Ok(Registered {
            controller: self.me,
            version: self.version.to_owned(),
        })
    }

    fn unregister(&mut self, from: ConnectionId) -> Result<(), RpcError> {
        let Role::Service(service) = &self.connections[&from].role else {
            return Err(RpcError::new(
                Code::Conflict,
                self.me.as_str(),
                "this connection is no service",
            ));
        };
        // It keeps its rank for what it still has to ask, and owes its answers; only its name is free.
        let name = service.name.clone();
        self.forget_name(&name, from);
        Ok(())
    }

    pub(super) fn status(&self) -> Status {
        let services = self.services.values().filter_map(|id| {
            let connection = self.connections.get(id)?;
            let Role::Service(service) = &connection.role else {
                return None;
            };
            let mut methods: Vec<String> = service.methods.keys().map(|name| (**name).to_owned()).collect();
            methods.sort_unstable();
            Some(ServiceInfo {
                name: service.name.clone(),
                version: service.version.clone(),
                rank: service.rank,
                pid: service.peer.pid,
                methods,
                pending: connection.owed as u64,
                since_unix_ms: service.since_unix_us / 1000,
            })
        });
        Status {
            controller: self.me,
            version: self.version.to_owned(),
            started_unix_ms: self.started_unix_us / 1000,
            services: services.collect(),
            link: self.link_info.clone(),
            counters: self.counters,
        }
    }
}

/// Every rule of the contract that a registration breaks: field, what, what would be right.
fn registration_problems(register: &Register) -> Vec<(String, String, String)> {
    let mut problems = Vec::new();
    let Register {
        name, rank, methods, ..
    } = register;
    let letters = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'))
    };
    if !letters(name)
        || name.len() > 32
        || matches!(name.as_str(), SERVICE | rpc::SERVICE | "shell" | "partner")
    {
        let remedy = "up to 32 lower-case letters, digits, - and _; not router, rpc, shell or partner";
        problems.push((
            "name".into(),
            format!("`{name}` is no name of a service"),
            remedy.into(),
        ));
    }
    if let Some(right) = rank::of(name)
        && right != *rank
    {
        problems.push((
            "rank".into(),
            format!("{rank} is not the rank of {name}"),
            right.to_string(),
        ));
    }
    if methods.len() > METHODS {
        problems.push((
            "methods".into(),
            format!("{} methods", methods.len()),
            format!("at most {METHODS}"),
        ));
    }
    let mut seen = HashSet::new();
    for (i, method) in methods.iter().enumerate() {
        let path = format!("methods[{i}].name");
        if method
            .name
            .split_once('.')
            .is_none_or(|(service, rest)| service != name || !letters(rest))
        {
            let what = format!("`{}` does not belong to {name}", method.name);
            problems.push((path, what, format!("{name}.method, in lower case")));
        } else if !seen.insert(method.name.as_str()) {
            problems.push((
                path,
                format!("`{}` comes twice", method.name),
                "each method once".into(),
            ));
        } else if let Some(declared) = contract::method(&method.name) {
            // A method that this version does not know may be a newer service's.
            let idempotent = declared.repeat != Repeat::Once;
            let notification = declared.kind != contract::Kind::Request;
            if (method.idempotent, method.peer, method.notification)
                != (idempotent, declared.peer, notification)
            {
                problems.push((
                    format!("methods[{i}]"),
                    format!("`{}` is declared otherwise", method.name),
                    format!(
                        "idempotent {idempotent}, peer {}, notification {notification}",
                        declared.peer
                    ),
                ));
            }
        }
    }
    problems
}
