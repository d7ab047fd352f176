//! Verification of what servers send, before it is written.

use std::{fmt, ops::Range};

use blake3::Hash;
use bytes::Bytes;

use crate::{
    limits::{GROUP_SIZE, HASH_SIZE, PAGE_GROUPS},
    tree,
};

/// What stands above the pages of an object's outboard: makes a [`Verifier`] of each page.
#[derive(Debug, Clone)]
pub struct Outline {
    size: u64,
    root: Hash,
    above: Bytes,
}

impl Outline {
    /// Checks `above`, one value a page, against `size` (bytes) and `root`, whoever sent it. Empty
    /// for an object with one page or none.
    ///
    /// # Errors
    /// When its length does not follow from `size`, or its root is another.
    pub fn new(size: u64, root: Hash, above: Bytes) -> Result<Self, InvalidOutboard> {
        let expected = tree::above_size(size);
        if above.len() as u64 != expected {
            return Err(InvalidOutboard::Length { length: above.len(), expected });
        }
        let holds = match tree::groups(size) {
            0 => blake3::hash(&[]) == root,
            // One group, or one page, is checked against the root itself.
            _ => above.is_empty() || tree::root(&above) == root,
        };
        if holds { Ok(Self { size, root, above }) } else { Err(InvalidOutboard::Root) }
    }

    /// The object's size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u64 {
        tree::pages(self.size)
    }

    /// The page for the byte at `offset`.
    #[must_use]
    pub const fn page_of(&self, offset: u64) -> u64 {
        offset / (GROUP_SIZE * PAGE_GROUPS)
    }

    /// Checks page `index` and makes it a verifier of its groups.
    ///
    /// # Errors
    /// When `values` is not that page.
    pub fn page(&self, index: u64, values: Bytes) -> Result<Verifier, InvalidOutboard> {
        let range = tree::page_range(self.size, index);
        let (length, expected) = (values.len(), range.end - range.start);
        if length as u64 != expected {
            return Err(InvalidOutboard::Length { length, expected });
        }
        let holds = match self.value_above(index) {
            Some(value) => !values.is_empty() && tree::subtree(&values) == value,
            None if index > 0 => false,
            None => values.is_empty() || tree::root(&values) == self.root,
        };
        let verifier = |first| Verifier { size: self.size, root: self.root, first, values };
        if holds { Ok(verifier(index * PAGE_GROUPS)) } else { Err(InvalidOutboard::Root) }
    }

    fn value_above(&self, index: u64) -> Option<[u8; HASH_SIZE]> {
        value_at(&self.above, index)
    }
}

fn value_at(values: &[u8], index: u64) -> Option<[u8; HASH_SIZE]> {
    let start = usize::try_from(index).ok()?.checked_mul(HASH_SIZE)?;
    values.get(start..)?.first_chunk().copied()
}

/// Verifies groups of an object in any order: those of one page of its outboard, or all when it
/// holds the whole outboard.
#[derive(Clone)]
pub struct Verifier {
    size: u64,
    root: Hash,
    /// The first group that `values` has.
    first: u64,
    values: Bytes,
}

impl Verifier {
    /// Checks a whole `outboard` against `size` (bytes) and `root`, whoever sent it.
    ///
    /// # Errors
    /// When the outboard's length does not follow from `size`, or its root is another.
    pub fn new(size: u64, root: Hash, outboard: Bytes) -> Result<Self, InvalidOutboard> {
        let expected = tree::outboard_size(size);
        if outboard.len() as u64 != expected {
            return Err(InvalidOutboard::Length { length: outboard.len(), expected });
        }
        let holds = match tree::groups(size) {
            0 => blake3::hash(&[]) == root,
            1 => true, // The group itself is checked against the root.
            _ => tree::root(&outboard) == root,
        };
        let all = |values| Self { size, root, first: 0, values };
        if holds { Ok(all(outboard)) } else { Err(InvalidOutboard::Root) }
    }

    /// The object's size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How many groups the object has: none when it is empty.
    #[must_use]
    pub const fn groups(&self) -> u64 {
        tree::groups(self.size)
    }

    /// The group that holds the byte at `offset`.
    #[must_use]
    pub const fn group_of(&self, offset: u64) -> u64 {
        offset / GROUP_SIZE
    }

    /// The bytes of group `index`; empty beyond the object's end.
    #[must_use]
    pub fn group_range(&self, index: u64) -> Range<u64> {
        tree::group_range(self.size, index)
    }

    /// Checks the whole of group `index`.
    ///
    /// # Errors
    /// When `data` is not that group, in length or in content, or the group is none of this page.
    pub fn verify_group(&self, index: u64, data: &[u8]) -> Result<(), Corrupt> {
        let range = self.group_range(index);
        let fits = data.len() as u64 == range.end - range.start && !data.is_empty();
        let holds = fits && self.expected(index) == Some(self.hash(index, data));
        if holds { Ok(()) } else { Err(Corrupt { range }) }
    }

    /// What group `index` hashes to; none when it is not of this page.
    #[must_use]
    pub fn expected(&self, index: u64) -> Option<[u8; HASH_SIZE]> {
        if self.groups() == 1 {
            return (index == 0).then_some(*self.root.as_bytes());
        }
        value_at(&self.values, index.checked_sub(self.first)?)
    }

    /// What `data` hashes to as group `index`.
    #[must_use]
    pub fn hash(&self, index: u64, data: &[u8]) -> [u8; HASH_SIZE] {
        match self.groups() {
            0 | 1 => *blake3::hash(data).as_bytes(),
            _ if data.is_empty() => [0; HASH_SIZE],
            _ => tree::group_value(index, data),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Verifier");
        debug.field("size", &self.size).field("root", &self.root).finish_non_exhaustive()
    }
}

/// Data that is not the object's: its source lies or is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes {range:?} are not the object's: fetch them from another server")]
pub struct Corrupt {
    /// The bytes to fetch again, from elsewhere.
    pub range: Range<u64>,
}

/// An outboard that does not belong to the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOutboard {
    /// Its length does not follow from the object's size.
    #[error("the outboard has {length} bytes instead of {expected}")]
    Length {
        /// Bytes given.
        length: usize,
        /// Bytes that the object's size asks for.
        expected: u64,
    },
    /// Its root is not the object's.
    #[error("the outboard does not lead to the object's root: its sender is broken or lies")]
    Root,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The outboard, group by group.
    fn outboard(data: &[u8]) -> Bytes {
        if data.len() as u64 <= GROUP_SIZE {
            return Bytes::new();
        }
        let groups = data.chunks(usize::try_from(GROUP_SIZE).unwrap());
        (0..).zip(groups).flat_map(|(index, group)| tree::group_value(index, group)).collect()
    }

    fn slice(data: &[u8], range: Range<u64>) -> &[u8] {
        &data[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    fn object(size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        blake3::Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut data);
        data
    }

    fn check(data: &[u8]) {
        let verifier =
            Verifier::new(data.len() as u64, blake3::hash(data), outboard(data)).unwrap();
        let mut end = 0;
        for index in 0..verifier.groups() {
            let range = verifier.group_range(index);
            assert_eq!((range.start, verifier.group_of(range.end - 1)), (end, index));
            end = range.end;
            verifier.verify_group(index, slice(data, range)).unwrap();
        }
        assert_eq!(end, data.len() as u64);
        assert!(verifier.verify_group(verifier.groups(), b"x").is_err());
        assert!(verifier.verify_group(u64::MAX, b"").is_err());
    }

    #[test]
    fn sizes_around_groups_verify() {
        let group = usize::try_from(GROUP_SIZE).unwrap();
        for size in [0, 1, group - 1, group, group + 1, 2 * group, 5 * group, 8 * group + 1] {
            check(&object(size));
        }
    }

    #[test]
    fn pages_verify_alone_and_only_in_their_place() {
        let page = usize::try_from(PAGE_GROUPS).unwrap() * HASH_SIZE;
        for groups in [2, 4095, 4096, 4097, 8192, 8193, 9000, 20_000_u64] {
            let size = groups * GROUP_SIZE - 1;
            let values: Vec<_> = (0..groups)
                .flat_map(|group| *blake3::hash(&group.to_le_bytes()).as_bytes())
                .collect();
            let values = Bytes::from(values);
            let root = tree::root(&values);
            let above: Bytes = match tree::pages(size) {
                1 => Bytes::new(),
                _ => values.chunks(page).flat_map(tree::subtree).collect(),
            };
            let outline = Outline::new(size, root, above.clone()).unwrap();
            for (index, chunk) in (0..).zip(values.chunks(page)) {
                let verifier = outline.page(index, Bytes::copy_from_slice(chunk)).unwrap();
                let first = index * PAGE_GROUPS;
                assert_eq!(verifier.expected(first).unwrap(), chunk[..HASH_SIZE]);
                assert_eq!(verifier.expected(first.wrapping_sub(1)), None);
                let mut bad = chunk.to_vec();
                bad[7] ^= 1;
                assert!(outline.page(index, bad.into()).is_err());
                assert!(outline.page(index + 1, Bytes::copy_from_slice(chunk)).is_err());
            }
            assert!(outline.page(tree::pages(size), Bytes::new()).is_err());
            if !above.is_empty() {
                let mut bad = above.to_vec();
                bad[40] ^= 1;
                assert!(Outline::new(size, root, bad.into()).is_err());
                assert!(Outline::new(size, root, above.slice(32..)).is_err());
            }
        }
    }

    #[test]
    fn lengths_that_do_not_follow_are_refused() {
        let data = object(200_000);
        let full = outboard(&data);
        let root = blake3::hash(&data);
        for length in [0, 32, full.len() - 1] {
            let error = Verifier::new(200_000, root, full.slice(..length)).unwrap_err();
            assert_eq!(error, InvalidOutboard::Length { length, expected: 128 });
        }
        assert!(Verifier::new(u64::MAX, root, full).is_err());
        assert_eq!(Verifier::new(0, root, Bytes::new()).unwrap_err(), InvalidOutboard::Root);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_size_verifies(size in 0..3_000_000_usize) {
            check(&object(size));
        }

        #[test]
        fn any_flipped_byte_is_found(
            size in prop_oneof![1..3_000_000_usize, 65_530..65_545_usize],
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let mut data = object(size);
            let (root, good) = (blake3::hash(&data), outboard(&data));
            let size = data.len() as u64;
            let verifier = Verifier::new(size, root, good.clone()).unwrap();

            let place = at.index(data.len());
            data[place] ^= flip;
            let index = verifier.group_of(place as u64);
            let range = verifier.group_range(index);
            let corrupt = verifier.verify_group(index, slice(&data, range.clone()));
            prop_assert_eq!(corrupt, Err(Corrupt { range: range.clone() }));
            data[place] ^= flip;
            let group = slice(&data, range);
            prop_assert!(verifier.verify_group(index, &group[1..]).is_err());
            prop_assert!(verifier.verify_group(index + 1, group).is_err());

            let mut bad = root.as_bytes().to_owned();
            bad[at.index(32)] ^= flip;
            match Verifier::new(size, bad.into(), good.clone()) {
                Ok(verifier) => prop_assert!(verifier.verify_group(0, &data).is_err()),
                Err(error) => prop_assert_eq!(error, InvalidOutboard::Root),
            }
            if !good.is_empty() {
                let mut bad = good.to_vec();
                bad[at.index(good.len())] ^= flip;
                let error = Verifier::new(size, root, bad.into()).unwrap_err();
                prop_assert_eq!(error, InvalidOutboard::Root);
            }
        }
    }
}
