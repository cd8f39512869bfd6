//! Service `rpc`: what a program of the ecosystem asks first.
//!
//! `rpc.discover` is the method of the OpenRPC specification (1.3) by which a client learns what it can call. The
//! router answers it on the connection that asks; `partner/rpc.discover` goes to the partner's.

crate::contract! {
    service "rpc", rank crate::rank::TOP, door crate::contract::Door::Router;
    /// Service discovery, answered by the router.
    calls [];
    requests {
        /// The OpenRPC document of every service of the contract, with those marked that are registered now.
        idempotent viewer DISCOVER = "rpc.discover": () => crate::contract::Anything, [];
    }
    notifications {}
    topics {}
}
