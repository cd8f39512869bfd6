//! pollux-block-frame
