//! pollux-chassis

pub mod shelf;
