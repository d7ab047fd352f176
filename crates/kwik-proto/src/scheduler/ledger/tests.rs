//! The ledger and a stream's receiving half against a naive account of each byte.

mod world;

use std::ops::Range;

use proptest::prelude::*;

use crate::PathId;

use world::World;

/// Leases, pieces and plain data lie before this offset.
const SPACE: u64 = 120;
/// Paths of the session, the primary's among them.
const PATHS: u32 = 4;

/// Leases and pieces are named by a number: of those that there are, the one so far on.
#[derive(Debug, Clone)]
enum Operation {
    /// A path, a range, a budget, and how much the primary sends of its own unasked.
    Lease(u32, Range<u64>, u64, u64),
    /// A path is asked for what comes next, so long.
    Ask(u32, u64),
    /// So much of a piece comes; whether the session hears of it at once.
    Bring(usize, u64, bool),
    /// The primary writes plainly, and on into what it was asked for.
    Write(Range<u64>),
    Read,
    /// The writer of a piece stops it, so far before its end.
    Stop(usize, u64),
    /// A piece is cancelled, and so much of it may come twice.
    Cancel(usize, u64),
    /// A path takes over what a piece owes.
    Move(usize, u32),
    /// The writer of a lease gives it up.
    Close(usize),
    /// It goes on from an offset.
    Map(usize, u64),
    Revoke(usize),
    LosePath(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    let path = || 0..PATHS;
    let which = || 0..100_usize;
    let range = || (0..SPACE, 1..40_u64).prop_map(|(at, len)| at..(at + len).min(SPACE));
    let lease = (path(), range(), 0..80_u64, any::<bool>(), 0..40_u64);
    prop_oneof![
        10 => lease.prop_map(|(path, range, budget, asked, unasked)| {
            let unasked = if path > 0 || asked { 0 } else { unasked.min(range.end - range.start) };
            O::Lease(path, range, budget, unasked)
        }),
        20 => (path(), 1..20_u64).prop_map(|(path, len)| O::Ask(path, len)),
        30 => (which(), 1..20_u64, any::<bool>()).prop_map(|(p, len, told)| O::Bring(p, len, told)),
        6 => range().prop_map(O::Write),
        2 => Just(O::Read),
        6 => (which(), 0..20_u64).prop_map(|(piece, left)| O::Stop(piece, left)),
        4 => (which(), 0..20_u64).prop_map(|(piece, twice)| O::Cancel(piece, twice)),
        8 => (which(), path()).prop_map(|(piece, path)| O::Move(piece, path)),
        1 => which().prop_map(O::Close),
        2 => (which(), 0..SPACE).prop_map(|(lease, offset)| O::Map(lease, offset)),
        2 => which().prop_map(O::Revoke),
        2 => path().prop_map(O::LosePath),
    ]
}

fn apply(world: &mut World, operation: Operation) -> Option<()> {
    match operation {
        Operation::Lease(path, range, budget, unasked) => {
            world.add_lease(PathId(path), range, budget, unasked);
        }
        Operation::Ask(path, len) => world.ask_next(PathId(path), len),
        Operation::Bring(piece, len, told) => {
            world.bring(world.piece(piece)?, len);
            if told {
                world.settle();
            }
        }
        Operation::Write(range) => world.write(range),
        Operation::Read => world.read(),
        Operation::Stop(piece, left) => world.stop(world.piece(piece)?, left),
        Operation::Cancel(piece, twice) => world.cancel(world.piece(piece)?, twice),
        Operation::Move(piece, path) => world.move_to(world.piece(piece)?, PathId(path)),
        Operation::Close(lease) => world.close(world.lease(lease)?),
        Operation::Map(lease, offset) => world.map(world.lease(lease)?, offset),
        Operation::Revoke(lease) => world.end_lease(world.lease(lease)?),
        Operation::LosePath(path) => world.lose_path(PathId(path)),
    }
    Some(())
}

proptest! {
    #[test]
    fn a_missing_byte_is_free_or_owed_by_one_and_leases_end_with_their_last(
        operations in prop::collection::vec(operation(), 0..120),
        stopped in any::<bool>(),
    ) {
        let mut world = World::new();
        for operation in operations {
            let _ = apply(&mut world, operation);
            world.check();
        }
        if stopped {
            world.end_stream();
        }
        world.drain();
    }
}
