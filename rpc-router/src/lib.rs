//! pollux-rpc-router
