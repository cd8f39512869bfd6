//! pollux-pair
