//! pollux-platform
