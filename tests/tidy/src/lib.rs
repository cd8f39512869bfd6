//! pollux-tidy
