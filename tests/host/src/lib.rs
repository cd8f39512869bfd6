//! pollux-host
