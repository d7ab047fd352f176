//! The shape of an object's BLAKE3 tree, cut at groups of 64 KiB.
//!
//! The outboard is the chaining value of every group, in order. The receiver has a page of it, and
//! the values above all pages, before a group of that page: it computes the parents in between.

use std::ops::Range;

use blake3::{
    Hash, Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::limits::{GROUP_SIZE, HASH_SIZE, PAGE_GROUPS};

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

/// Pages of the outboard of an object of `size` bytes.
pub(crate) const fn pages(size: u64) -> u64 {
    match groups(size) {
        0 | 1 => 0,
        groups => groups.div_ceil(PAGE_GROUPS),
    }
}

/// Bytes that stand above the pages of an object of `size` bytes, when there are several.
pub(crate) const fn above_size(size: u64) -> u64 {
    match pages(size) {
        0 | 1 => 0,
        pages => pages * HASH_SIZE as u64,
    }
}

/// What a client gets with the answer: the only page, or what stands above all.
pub(crate) const fn first_size(size: u64) -> u64 {
    if pages(size) > 1 { above_size(size) } else { outboard_size(size) }
}

/// Where page `index` lies in the outboard; empty beyond its end.
pub(crate) fn page_range(size: u64, index: u64) -> Range<u64> {
    let (end, page) = (outboard_size(size), PAGE_GROUPS * HASH_SIZE as u64);
    let start = index.saturating_mul(page).min(end);
    start..start.saturating_add(page).min(end)
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

/// The root above `outboard`, two or more values of groups, or of pages.
pub(crate) fn root(outboard: &[u8]) -> Hash {
    let (left, right) = halves(outboard);
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The chaining value above `values`, of which there are one or more.
pub(crate) fn subtree(values: &[u8]) -> ChainingValue {
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
