//! The shape of an object's BLAKE3 tree, cut at groups of 64 KiB.
//!
//! The outboard is the chaining value of every group, in order. The receiver takes all of it
//! before the first group, so the parents above need not travel: it computes them.

use std::ops::Range;

use blake3::{
    Hash, Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::limits::{GROUP_SIZE, HASH_SIZE};

/// Groups of an object of `size` bytes.
pub(crate) const fn groups(size: u64) -> u64 {
    size.div_ceil(GROUP_SIZE)
}

/// Bytes of the outboard of an object of `size` bytes: none when the root alone verifies it.
pub(crate) const fn outboard_size(size: u64) -> u64 {
    match groups(size) {
        0 | 1 => 0,
        groups => groups * HASH_SIZE as u64,
    }
}

/// The bytes of group `index`; empty beyond the object's end.
pub(crate) fn group_range(size: u64, index: u64) -> Range<u64> {
    let start = index.saturating_mul(GROUP_SIZE).min(size);
    start..start.saturating_add(GROUP_SIZE).min(size)
}

/// The chaining value of group `index` of an object of several groups. `data` is not empty.
pub(crate) fn group_value(index: u64, data: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(index * GROUP_SIZE).update(data).finalize_non_root()
}

/// The root above the groups of `outboard`, which has two or more values.
pub(crate) fn root(outboard: &[u8]) -> Hash {
    let (left, right) = halves(outboard);
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
}

fn subtree(values: &[u8]) -> ChainingValue {
    if let Ok(value) = values.try_into() {
        return value;
    }
    let (left, right) = halves(values);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// A left subtree is the largest that is full and leaves something to the right.
fn halves(values: &[u8]) -> (&[u8], &[u8]) {
    let left = (values.len() / HASH_SIZE).div_ceil(2).next_power_of_two();
    values.split_at(left * HASH_SIZE)
}
