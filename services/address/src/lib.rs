//! pollux-address
