//! pollux-config-keeper
