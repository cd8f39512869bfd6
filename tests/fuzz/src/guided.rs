//! libFuzzer around one target, which `POLLUX_FUZZ_TARGET` names; the arguments are libFuzzer's. Built and started by
//! `cargo fuzz-long`.

#![no_main]
#![forbid(unsafe_code)]

use pollux_fuzz::Target;
use std::sync::OnceLock;

static TARGET: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    let name = std::env::var("POLLUX_FUZZ_TARGET").unwrap_or_default();
    pollux_fuzz::target(&name).unwrap_or_else(|| panic!("POLLUX_FUZZ_TARGET={name:?} is no target"))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen).run(data));
