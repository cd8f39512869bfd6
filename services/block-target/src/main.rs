//! `block-targetd`: see the library.
fn main() {}
