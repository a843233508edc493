//! Routes: whatever routes there are, in whatever order they come, the compiled tables say what the definition says.

#![no_main]

#[path = "../../../agent/crates/route/tests/precedence/by_definition.rs"]
mod by_definition;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes.iter();
    by_definition::check(&mut |below| rest.next().map_or(0, |byte| u32::from(*byte) % below));
});
