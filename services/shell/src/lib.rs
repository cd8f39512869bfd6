//! pollux-shell
