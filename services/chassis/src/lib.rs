//! pollux-chassis
