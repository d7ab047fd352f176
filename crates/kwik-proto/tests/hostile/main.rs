//! The three machines, each against peers that keep nearly to the protocol: control frames, data,
//! silence and cuts in any order, by a seed. None of it panics, every input is done with, and what
//! is asked and answered without a byte moving is bounded.
//!
//! `KWIK_HOSTILE=n` sets the number of games. A failure names its seed; `KWIK_SEED=n` replays it.
//! `fuzz/fuzz_targets/machines.rs` plays the same games by what a fuzzer finds.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod choices;
mod client;
mod messages;
mod servers;
mod victim;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use choices::Choices;

/// Games, unless the environment says otherwise: some seconds.
const GAMES: u64 = 1_000;
/// Steps of a game.
const STEPS: usize = 400;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// One game of a role: its steps.
fn play(role: u64, choices: &mut Choices<'_>, steps: usize, now: Instant) -> usize {
    match role % 4 {
        3 => client::play_returning(choices, steps, now),
        0 => client::play(choices, steps, now),
        1 => servers::play_primary(choices, steps, now),
        _ => servers::play_secondary(choices, steps, now),
    }
}

fn games(role: u64) {
    // The one clock of these tests is its start: all else is arithmetic.
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    let now = Instant::now();
    if let Some(seed) = from_env("KWIK_SEED") {
        play(role, &mut Choices::Seed(seed), STEPS, now);
        return;
    }
    let games = from_env("KWIK_HOSTILE").unwrap_or(GAMES);
    let (mut failed, mut steps) = (Vec::new(), 0);
    for seed in 0..games {
        if failed.len() >= 5 {
            break;
        }
        let game = || play(role, &mut Choices::Seed(seed), STEPS, now);
        match catch_unwind(AssertUnwindSafe(game)) {
            Ok(taken) => steps += taken,
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "failing seeds, to replay with KWIK_SEED: {failed:?}");
    println!("{games} games of {} steps each", steps / games as usize);
    assert!(steps as u64 >= games * 50, "sessions end too early to get anywhere");
}

#[test]
fn a_client_bears_hostile_servers() {
    games(0);
}

#[test]
fn a_client_asks_edges_that_return_every_piece_only_so_often() {
    games(3);
}

#[test]
fn an_edge_that_returns_three_pieces_loses_its_lease() {
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    let asked = client::asked_until_lost(Instant::now());
    assert!(asked.is_some_and(|asked| asked <= 24), "asked for {asked:?} pieces");
}

#[test]
fn a_primary_bears_a_hostile_client() {
    games(1);
}

#[test]
fn a_secondary_bears_a_hostile_client() {
    games(2);
}
