//! pollux-platform
pub mod lease;
