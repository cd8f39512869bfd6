//! The contract: everything that two processes of the array must agree on, and nothing else.
//!
//! Identities and units, actions, ranks, roles, errors, and the typed payloads of every service. No I/O, no clock; `no_std`
//! with `alloc`, so that the decision cores can use it. A change here is a change of a protocol: members are added
//! with a default, never renamed or given another meaning.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod action;
pub mod address;
pub mod alua;
pub mod chassis;
pub mod config;
pub mod contract;
pub mod error;
pub mod heartbeat;
pub mod id;
pub mod lvm;
pub mod pool;
pub mod rank;
pub mod role;
pub mod router;
pub mod rpc;
pub mod size;
pub mod target;
pub mod template;
