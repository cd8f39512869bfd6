//! The catalogue of an exchange: every number that can be dialled, what one says there, and what one hears back.
//!
//! Each method of each service is declared once, with [`contract!`](crate::contract!), in the module of its service.
//! From that one declaration come
//!
//! * its name, for callers: the constant `pool::TAKE` is `"pool.take"`;
//! * its contract, for the service: the type `pool::TAKE` is a [`Request`], without which nothing can be served under
//!   that name, and which says what the router is told (idempotent, peer) and what a handler takes and gives;
//! * a line of [`SERVICES`], from which the router checks registrations and answers `rpc.discover`, and from which
//!   the tests check ranks, recorded messages and the reference.
//!
//! Invariants, each held by a test of this crate or of `tests/contract`: names are unique and begin with the name of
//! their service; a service calls uphill, itself at the partner, or notifies; whatever a service calls is declared.

use crate::error::Code;
use crate::rank::Rank;
use crate::role::Role;

/// What happens under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asked and answered.
    Request,
    /// Told, by anybody: not answered, and nobody waits.
    Notification,
    /// Published: whoever has subscribed receives it in `router.event`.
    Topic,
}

/// What a repetition of a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Doing it twice is the same as doing it once.
    Idempotent,
    /// It is done once per action_id, and a repetition gets the first one's answer.
    Once,
    /// It acts, or is refused, each time anew.
    Each,
}

/// Where a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// It registers at the router of its controller.
    Router,
    /// It has a socket of its own, a file of this name; no router carries its calls.
    Socket(&'static str),
}

/// One method, notification or topic.
#[derive(Debug)]
pub struct Declaration {
    /// Full name, `pool.import`.
    pub name: &'static str,
    /// What happens under it.
    pub kind: Kind,
    /// What a repetition does.
    pub repeat: Repeat,
    /// The same service on the partner may call it, in spite of the equal rank.
    pub peer: bool,
    /// The smallest role that may call it, send it or subscribe to it from afar; `None`: nobody may.
    pub afar: Option<Role>,
    /// What it does and with what bounds, in sentences.
    pub about: &'static str,
    /// Errors of its own, beside those of [`EVERYWHERE`].
    pub errors: &'static [Code],
    /// Shapes of its messages.
    #[cfg(feature = "schema")]
    pub types: Types,
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its name, with which every method begins.
    pub name: &'static str,
    /// Its place in the order of calls.
    pub rank: Rank,
    /// Where it is reached.
    pub door: Door,
    /// What it is, in sentences.
    pub about: &'static str,
    /// Names of what it calls and tells at other services, or at itself on the partner.
    pub calls: &'static [&'static str],
    /// What it offers.
    pub methods: &'static [Declaration],
}

impl Service {
    /// The declaration of a method, by its full name.
    pub fn method(&self, name: &str) -> Option<&'static Declaration> {
        self.methods.iter().find(|method| method.name == name)
    }
}

/// A service of the contract, as a type.
pub trait Contract {
    /// What it declares.
    const SERVICE: &'static Service;
}

/// A request of the contract, as a type.
pub trait Request {
    /// The service that answers it.
    type Service: Contract;
    /// What is asked.
    type Params;
    /// What is answered.
    type Result;
    /// What it declares.
    const DECLARATION: Declaration;
}

/// A notification of the contract, as a type.
pub trait Notification {
    /// The service that takes it.
    type Service: Contract;
    /// What is told.
    type Params;
    /// What it declares.
    const DECLARATION: Declaration;
}

/// A topic of the contract, as a type.
pub trait Topic {
    /// The service that publishes on it.
    type Service: Contract;
    /// What is published.
    type Payload;
    /// What it declares.
    const DECLARATION: Declaration;
}

/// Errors that every request may get, from the runtimes and routers on its way. Which of them say that nothing was
/// done stands in [`crate::error`].
pub const EVERYWHERE: &[Code] = &[
    Code::Parse,
    Code::InvalidRequest,
    Code::MethodNotFound,
    Code::InvalidParams,
    Code::Internal,
    Code::UnknownService,
    Code::PartnerUnreachable,
    Code::DeadlinePassed,
    Code::Overloaded,
    Code::NotPermitted,
    Code::ServiceGone,
    Code::RouterGone,
];

/// Every service, lowest rank first; what has a socket of its own comes last.
pub const SERVICES: &[&Service] = &[
    crate::rpc::Contract::SERVICE,
    crate::router::Contract::SERVICE,
    crate::heartbeat::Contract::SERVICE,
    crate::address::Contract::SERVICE,
    crate::alua::Contract::SERVICE,
    crate::target::Contract::SERVICE,
    crate::pool::Contract::SERVICE,
    crate::config::Contract::SERVICE,
    crate::template::Contract::SERVICE,
    crate::chassis::Contract::SERVICE,
    crate::chassis::bmc::Contract::SERVICE,
    crate::lvm::Contract::SERVICE,
];

/// The service of this name.
pub fn service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().copied().find(|service| service.name == name)
}

/// The declaration of a method, notification or topic, by its full name.
pub fn method(name: &str) -> Option<&'static Declaration> {
    let (service_name, _) = name.split_once('.')?;
    service(service_name)?.method(name)
}

/// Any JSON value: what the router carries without looking inside.
#[cfg(feature = "schema")]
pub type Anything = serde_json::Value;
/// Any JSON value: what the router carries without looking inside.
#[cfg(not(feature = "schema"))]
pub type Anything = serde::de::IgnoredAny;

/// Shapes of the messages under one name, for those who have no types: documents and tests.
#[cfg(feature = "schema")]
#[derive(Clone, Copy, Debug)]
pub struct Types {
    /// Where the type of the parameters or the payload is declared, `pollux_api::pool::Take`.
    pub params_id: fn() -> alloc::borrow::Cow<'static, str>,
    /// Where the type of the result is declared.
    pub result_id: fn() -> alloc::borrow::Cow<'static, str>,
    /// JSON Schema of the parameters or the payload.
    pub params: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// JSON Schema of the result; `null` for what is not answered.
    pub result: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// Reads parameters as this version does and writes them as this version does.
    pub read_params: fn(&str) -> serde_json::Result<alloc::string::String>,
    /// The same for a result.
    pub read_result: fn(&str) -> serde_json::Result<alloc::string::String>,
}

#[cfg(feature = "schema")]
impl Types {
    /// Of a request with parameters `P` and result `R`; of what is not answered, with `R` = `()`.
    pub const fn of<P: Shape, R: Shape>() -> Self {
        Self {
            params_id: P::schema_id,
            result_id: R::schema_id,
            params: |generator| generator.subschema_for::<P>(),
            result: |generator| generator.subschema_for::<R>(),
            read_params: read::<P>,
            read_result: read::<R>,
        }
    }
}

/// What a message needs to be documented and recorded.
#[cfg(feature = "schema")]
pub trait Shape: serde::Serialize + serde::de::DeserializeOwned + schemars::JsonSchema {}
#[cfg(feature = "schema")]
impl<T: serde::Serialize + serde::de::DeserializeOwned + schemars::JsonSchema> Shape for T {}

#[cfg(feature = "schema")]
fn read<T: Shape>(text: &str) -> serde_json::Result<alloc::string::String> {
    serde_json::to_string(&serde_json::from_str::<T>(text)?)
}

/// A JSON Schema of text, with what a pattern or a format says about it.
#[cfg(feature = "schema")]
pub(crate) fn text_schema(about: &str, keyword: &str, value: &str) -> schemars::Schema {
    let mut schema = schemars::json_schema!({ "type": "string", "description": about });
    schema.insert(keyword.into(), value.into());
    schema
}

/// Declares a service: see the modules of the services for examples.
///
/// `idempotent`, `once`, `each`: see [`Repeat`]. `peer`: idempotent, and the same service on the partner may call it.
/// `viewer`, `operator`, `admin`: see [`Role`]; `nobody`: it is not for those who come from afar. What says neither does
/// not compile.
#[macro_export]
#[doc(hidden)]
macro_rules! contract {
    (
        service $service:literal, rank $rank:expr, door $door:expr;
        $(#[doc = $about:literal])*
        calls [$($calls:expr),* $(,)?];
        requests {$(
            $(#[doc = $request_doc:literal])*
            $how:ident $afar:ident $request:ident = $request_name:literal: $params:ty => $result:ty, [$($code:ident),* $(,)?];
        )*}
        notifications {$(
            $(#[doc = $told_doc:literal])*
            $told_afar:ident $told:ident = $told_name:literal: $told_type:ty;
        )*}
        topics {$(
            $(#[doc = $topic_doc:literal])*
            $topic_afar:ident $topic:ident = $topic_name:literal: $topic_type:ty;
        )*}
    ) => {
        /// Name of the service.
        pub const SERVICE: &str = $service;

        /// The service, as a type.
        #[derive(Clone, Copy, Debug)]
        pub enum Contract {}

        impl Contract {
            /// What it declares.
            pub const SERVICE: &'static $crate::contract::Service = &$crate::contract::Service {
                name: $service,
                rank: $rank,
                door: $door,
                about: concat!($($about, "\n"),*),
                calls: &[$($calls),*],
                methods: &[
                    $(<$request as $crate::contract::Request>::DECLARATION,)*
                    $(<$told as $crate::contract::Notification>::DECLARATION,)*
                    $(<$topic as $crate::contract::Topic>::DECLARATION,)*
                ],
            };
        }

        impl $crate::contract::Contract for Contract {
            const SERVICE: &'static $crate::contract::Service = Self::SERVICE;
        }

        $($crate::contract!(@item [$(#[doc = $request_doc])*] $request, $request_name,
            Request { Params = $params, Result = $result }, $how $afar, [$($code),*]);)*
        $($crate::contract!(@item [$(#[doc = $told_doc])*] $told, $told_name,
            Notification { Params = $told_type }, told $told_afar, []);)*
        $($crate::contract!(@item [$(#[doc = $topic_doc])*] $topic, $topic_name,
            Topic { Payload = $topic_type }, told $topic_afar, []);)*
    };
    (@item [$(#[doc = $doc:literal])*] $name:ident, $text:literal,
        $kind:ident { $first:ident = $params:ty $(, $second:ident = $result:ty)? }, $how:ident $afar:ident,
        [$($code:ident),*]) => {
        $(#[doc = $doc])*
        pub const $name: &str = $text;

        #[doc = concat!("`", $text, "`, as a type.")]
        #[allow(non_camel_case_types, reason = "one name: as a value what is on the wire, as a type what it means")]
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl $crate::contract::$kind for $name {
            type Service = Contract;
            type $first = $params;
            $(type $second = $result;)?
            const DECLARATION: $crate::contract::Declaration = $crate::contract::Declaration {
                name: $text,
                kind: $crate::contract::Kind::$kind,
                repeat: $crate::contract!(@repeat $how),
                peer: $crate::contract!(@peer $how),
                afar: $crate::contract!(@afar $afar),
                about: concat!($($doc, "\n"),*),
                errors: &[$($crate::error::Code::$code),*],
                #[cfg(feature = "schema")]
                types: $crate::contract::Types::of::<$params, $crate::contract!(@result $($result)?)>(),
            };
        }
    };
    (@result $result:ty) => { $result };
    (@result) => { () };
    (@repeat once) => { $crate::contract::Repeat::Once };
    (@repeat each) => { $crate::contract::Repeat::Each };
    (@repeat $how:ident) => { $crate::contract::Repeat::Idempotent };
    (@peer peer) => { true };
    (@peer $how:ident) => { false };
    (@afar viewer) => { Some($crate::role::Role::Viewer) };
    (@afar operator) => { Some($crate::role::Role::Operator) };
    (@afar admin) => { Some($crate::role::Role::Admin) };
    (@afar nobody) => { None };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank;
    use alloc::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_begin_with_their_service() {
        let mut seen = BTreeSet::new();
        for service in SERVICES {
            assert!(seen.insert(service.name), "{} comes twice", service.name);
            for method in service.methods {
                let (owner, rest) = method.name.split_once('.').unwrap();
                assert_eq!(owner, service.name, "{}", method.name);
                assert!(
                    !rest.is_empty() && seen.insert(method.name),
                    "{} comes twice",
                    method.name
                );
                assert!(
                    method.about.len() > 20,
                    "{} does not say what it does",
                    method.name
                );
            }
        }
    }

    #[test]
    fn calls_are_declared_and_go_uphill() {
        for caller in SERVICES {
            for &name in caller.calls {
                let callee = service(name.split_once('.').unwrap().0).unwrap();
                let method = callee
                    .method(name)
                    .unwrap_or_else(|| panic!("{name} is not declared"));
                let peer = method.peer && caller.name == callee.name;
                let waits = method.kind == Kind::Request;
                assert!(
                    !waits || rank::may_call(caller.rank, callee.rank, peer),
                    "{} (rank {}) may not call {name} (rank {})",
                    caller.name,
                    caller.rank,
                    callee.rank
                );
            }
        }
    }

    #[test]
    fn what_registers_and_what_only_services_say_is_not_for_those_from_afar() {
        for service in SERVICES {
            for method in service.methods {
                let told = method.kind == Kind::Notification;
                if told || matches!(service.door, Door::Socket(_)) {
                    assert_eq!(method.afar, None, "{}", method.name);
                }
                // A role of somebody who only looks opens nothing that acts.
                if method.repeat != Repeat::Idempotent {
                    assert!(!Role::Viewer.opens(method.afar), "{}", method.name);
                }
            }
        }
        for name in [crate::router::REGISTER, crate::router::UNREGISTER] {
            assert_eq!(method(name).unwrap().afar, None, "{name}");
        }
    }

    #[test]
    fn only_what_is_everywhere_is_left_out_of_the_errors_of_a_method() {
        for method in SERVICES.iter().flat_map(|service| service.methods) {
            let own: BTreeSet<i32> = method.errors.iter().map(|code| code.number()).collect();
            assert_eq!(own.len(), method.errors.len(), "{}", method.name);
            assert!(method.kind == Kind::Request || own.is_empty(), "{}", method.name);
        }
    }
}
