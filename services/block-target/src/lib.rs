//! pollux-block-target
