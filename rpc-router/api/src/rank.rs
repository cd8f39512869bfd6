//! One-way streets: who may call whom.
//!
//! If calls only ever go uphill, no two services can wait for each other. A call may go to a service of higher
//! rank, or from a service to itself on the partner, for methods registered as `peer`. Notifications go
//! anywhere: nobody waits for them. People and programs that are not services have the rank of the shell.

use crate::contract::{self, Door};

/// Place of a service in the order of calls; larger is higher.
pub type Rank = u16;

/// The operator's shell and every caller that has not registered.
pub const SHELL: Rank = 0;
/// `heartbeat`: drives, is called by nobody but people.
pub const HEARTBEAT: Rank = 10;
/// `address`.
pub const ADDRESS: Rank = 20;
/// `alua`.
pub const ALUA: Rank = 30;
/// `target`: the block target.
pub const BLOCK_TARGET: Rank = 40;
/// `pool`: the pool manager.
pub const POOL_MANAGER: Rank = 50;
/// `config`: the config keeper.
pub const CONFIG_KEEPER: Rank = 60;

/// `template`: what new services are copied from. It calls nobody.
pub const TEMPLATE: Rank = 70;
/// Who answers at once and waits for nobody: the router itself, and the enclosure.
pub const TOP: Rank = Rank::MAX;

/// Rank of a service of the contract that registers at the router; `None` for every other name.
pub fn of(service: &str) -> Option<Rank> {
    contract::service(service)
        .filter(|service| service.door == Door::Router && service.rank != TOP)
        .map(|service| service.rank)
}

/// Whether a caller of rank `caller` may call a method of a service of rank `callee`.
/// `same_service_at_partner`: both have the same name, on different controllers, and the method is a `peer` one.
pub const fn may_call(caller: Rank, callee: Rank, same_service_at_partner: bool) -> bool {
    callee > caller || same_service_at_partner
}
