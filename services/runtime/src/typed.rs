//! Services and calls by the types of the contract: what is not declared there does not compile.
//!
//! ```no_run
//! use pollux_api::alua::{Contract, SET, STATUS};
//! use pollux_runtime::{Ctx, Service};
//! # fn all(config: &pollux_runtime::ControllerConfig, now: pollux_api::alua::Status) {
//! let service = Service::of::<Contract>()
//!     .serve::<SET>(|_ctx: Ctx, set| async move {
//!         Ok(pollux_api::alua::Done { changed: set.partner_reachable, released: 0 })
//!     })
//!     .serve::<STATUS>(move |_ctx, ()| std::future::ready(Ok(now.clone())))
//!     .start(config);
//! # }
//! ```
//!
//! Invariants: a method of another service, another type of parameters or result, and another property than the
//! declared one are errors of the compiler; a declared method that is not served is an assertion at the start, which
//! every test that starts the service runs into.

use crate::client::Client;
use crate::config::ControllerConfig;
use crate::ctx::Ctx;
use crate::service::{Builder, Service};
use crate::work::Works;
use pollux_api::contract::{Contract, Declaration, Kind, Notification, Repeat, Request};
use pollux_api::error::RpcError;
use pollux_api::id::ControllerId;
use pollux_api::router::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::path::Path;

/// What answers a request: a function of its context and parameters.
pub trait Handler<M: Request>: Fn(Ctx, M::Params) -> Self::Answer + Send + Sync + 'static {
    /// The answer in the making.
    type Answer: Future<Output = Result<M::Result, RpcError>> + Send + 'static;
}

impl<M, F, Fut> Handler<M> for F
where
    M: Request,
    F: Fn(Ctx, M::Params) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<M::Result, RpcError>> + Send + 'static,
{
    type Answer = Fut;
}

/// What hears a notification.
pub trait Listener<N: Notification>: Fn(Ctx, N::Params) -> Self::Done + Send + Sync + 'static {
    /// The work.
    type Done: Future<Output = ()> + Send + 'static;
}

impl<N, F, Fut> Listener<N> for F
where
    N: Notification,
    F: Fn(Ctx, N::Params) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    type Done = Fut;
}

/// A service of the contract in the making; see [`Service::of`].
pub struct Typed<C> {
    builder: Builder,
    pub(crate) works: Works,
    contract: PhantomData<fn() -> C>,
}

impl Service {
    /// A service of the contract `C`: its name and rank stand there.
    pub fn of<C: Contract>() -> Typed<C> {
        Typed {
            builder: Builder::new(C::SERVICE.name, C::SERVICE.rank),
            works: Works::default(),
            contract: PhantomData,
        }
    }
}

/// What the router is told about a declared method.
fn registered(declaration: &Declaration) -> Method {
    Method {
        name: declaration.name.to_owned(),
        idempotent: declaration.repeat != Repeat::Once,
        peer: declaration.peer,
        notification: declaration.kind == Kind::Notification,
    }
}

impl<C: Contract> Typed<C> {
    /// Answers a request of the contract.
    #[must_use]
    pub fn serve<M>(mut self, handler: impl Handler<M>) -> Self
    where
        M: Request<Service = C>,
        M::Params: DeserializeOwned + 'static,
        M::Result: Serialize + 'static,
    {
        let declaration = M::DECLARATION;
        self.builder = self
            .builder
            .entry(declaration.name, registered(&declaration), handler);
        self
    }

    /// Takes a notification of the contract. They are handled one after the other, in order.
    #[must_use]
    pub fn hear<N>(mut self, listener: impl Listener<N>) -> Self
    where
        N: Notification<Service = C>,
        N::Params: DeserializeOwned + 'static,
    {
        let declaration = N::DECLARATION;
        self.builder = self.builder.entry(
            declaration.name,
            registered(&declaration),
            move |ctx, params: N::Params| {
                let heard = listener(ctx, params);
                async move {
                    heard.await;
                    Ok(())
                }
            },
        );
        self
    }

    /// The version that the router and the partner are told; the runtime's own if not said.
    #[must_use]
    pub fn version(mut self, version: &'static str) -> Self {
        self.builder = self.builder.version(version);
        self
    }

    /// Begins to connect, register and serve at the router of the controller, and never gives up. Returns at once;
    /// must be called inside a tokio runtime.
    ///
    /// # Panics
    /// When a method of the contract is not served: a defect of the service that every start shows.
    pub fn start(self, config: &ControllerConfig) -> Service {
        let works = self.works.clone();
        works.started(self.whole().start(config))
    }

    /// The same, at a socket; `controller` is only for messages to people.
    ///
    /// # Panics
    /// As [`Typed::start`].
    pub fn start_at(self, socket: &Path, controller: &str) -> Service {
        let works = self.works.clone();
        works.started(self.whole().start_at(socket, controller))
    }

    fn whole(self) -> Builder {
        let missing: Vec<&str> = C::SERVICE
            .methods
            .iter()
            .filter(|method| method.kind != Kind::Topic && !self.builder.serves(method.name))
            .map(|method| method.name)
            .collect();
        assert!(
            missing.is_empty(),
            "{} does not serve {} of its contract",
            C::SERVICE.name,
            missing.join(", ")
        );
        self.works.listen(self.builder)
    }
}

/// Which controller is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The one that the caller runs on.
    Here,
    /// The other one.
    Partner,
    /// This one, wherever the caller runs.
    Controller(ControllerId),
}

impl At {
    /// The method as it is written for this controller.
    #[must_use]
    pub fn method(self, name: &str) -> String {
        match self {
            Self::Here => name.to_owned(),
            Self::Partner => format!("partner/{name}"),
            Self::Controller(controller) => format!("{controller}/{name}"),
        }
    }
}

impl Client {
    /// Calls a method of the contract and waits for its answer, at most until the deadline of `ctx`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn ask<M: Request>(&self, at: At, params: &M::Params, ctx: &Ctx) -> Result<M::Result, RpcError>
    where
        M::Params: Serialize,
        M::Result: DeserializeOwned,
    {
        self.call(&at.method(M::DECLARATION.name), params, ctx).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pollux_api::alua::{Contract as Alua, Done, SET};

    fn set_only() -> Typed<Alua> {
        Service::of::<Alua>().serve::<SET>(|_ctx, set| {
            let changed = set.partner_reachable;
            async move { Ok(Done { changed, released: 0 }) }
        })
    }

    #[test]
    #[should_panic(expected = "alua does not serve alua.status of its contract")]
    fn a_service_that_does_not_serve_its_whole_contract_does_not_start() {
        drop(set_only().whole());
    }

    #[test]
    fn the_router_is_told_what_the_contract_says() {
        let told = registered(&<pollux_api::config::APPEND as Request>::DECLARATION);
        assert!(told.peer && told.idempotent && !told.notification, "{told:?}");
        let told = registered(&<pollux_api::heartbeat::SWITCHOVER as Request>::DECLARATION);
        assert!(!told.peer && !told.idempotent && !told.notification, "{told:?}");
        let told = registered(&<pollux_api::heartbeat::POOL_EVENT as Notification>::DECLARATION);
        assert!(told.notification, "{told:?}");
    }

    #[test]
    #[should_panic(expected = "config is a service of the contract")]
    fn a_name_of_the_contract_is_not_for_services_without_one() {
        drop(Service::builder("config", 60));
    }
}
