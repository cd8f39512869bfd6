//! pollux-heartbeat-core
