//! pollux-runtime
