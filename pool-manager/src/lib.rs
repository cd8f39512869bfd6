//! pollux-pool-manager
