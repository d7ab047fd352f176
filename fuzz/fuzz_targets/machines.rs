//! The three machines against peers that keep nearly to the protocol: the games of
//! `crates/kwik-proto/tests/hostile`, as the fuzzer's bytes decide.
#![no_main]

#[path = "../../crates/kwik-proto/tests/hostile/choices.rs"]
mod choices;
#[allow(dead_code, reason = "one of its games is a test's")]
#[path = "../../crates/kwik-proto/tests/hostile/client.rs"]
mod client;
#[path = "../../crates/kwik-proto/tests/hostile/messages.rs"]
mod messages;
#[path = "../../crates/kwik-proto/tests/hostile/servers.rs"]
mod servers;
#[path = "../../crates/kwik-proto/tests/hostile/victim.rs"]
mod victim;

use std::time::Instant;

use choices::Choices;
use libfuzzer_sys::fuzz_target;

const STEPS: usize = 1000;

fuzz_target!(|data: &[u8]| {
    let Some((role, rest)) = data.split_first() else { return };
    let (mut choices, now) = (Choices::Bytes(rest), Instant::now());
    match role % 4 {
        3 => client::play_returning(&mut choices, STEPS, now),
        0 => client::play(&mut choices, STEPS, now),
        1 => servers::play_primary(&mut choices, STEPS, now),
        _ => servers::play_secondary(&mut choices, STEPS, now),
    };
});
