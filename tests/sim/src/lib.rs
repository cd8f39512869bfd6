//! pollux-sim
