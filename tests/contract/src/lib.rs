//! The notary of the contract: what two programs of different age must agree on, on paper and under seal.
//!
//! * [`reference`](mod@reference): the contract as a person reads it, kept as `rpc-router/api/REFERENCE.md`.
//! * [`frozen`]: one recorded conversation per method, as it once went over the wire; today's types must read it.
//! * [`examples`]: messages from schemas, from which the recordings of new methods are made.
//! * [`sources`]: what the services call, read from their sources, against what they declare.
//!
//! `cargo test -p contract` shows it all. It must never repair by itself what it finds: a recording is written
//! once (`POLLUX_BLESS=1`), and whoever changes one has to delete it first and say why in the commit.

#![forbid(unsafe_code)]

pub mod examples;
pub mod frozen;
pub mod reference;
pub mod sources;
