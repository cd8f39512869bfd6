//! pollux-heartbeat
