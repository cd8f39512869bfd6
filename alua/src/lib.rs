//! pollux-alua
