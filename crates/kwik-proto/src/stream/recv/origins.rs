//! Who brought the bytes that the reader has not taken yet.

use std::collections::VecDeque;
use std::ops::Range;

use crate::PathId;
use crate::limits::MAX_ORIGINS;

/// Bytes that one path brought.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    start: u64,
    end: u64,
    /// None where several brought it, in more places than are kept apart.
    path: Option<PathId>,
}

/// The paths of a stream's bytes, in order and disjoint. What is not here came from the primary, so
/// that streams of one server cost nothing.
#[derive(Debug, Default)]
pub(super) struct Origins(VecDeque<Origin>);

impl Origins {
    /// Notes that `path` brought `range`, none of which was here.
    pub(super) fn note(&mut self, range: Range<u64>, path: PathId) {
        if path.is_primary() || range.is_empty() {
            return;
        }
        let new = Origin { start: range.start, end: range.end, path: Some(path) };
        let first = self.0.partition_point(|origin| origin.end <= range.start);
        if self.0.get(first).is_some_and(|origin| origin.start < range.end) {
            return self.blur(first, &new);
        }
        if let Some(left) = first.checked_sub(1).and_then(|left| self.0.get_mut(left))
            && (left.end, left.path) == (new.start, new.path)
        {
            left.end = new.end;
            let right = self.0.get(first);
            if right.is_some_and(|right| (right.start, right.path) == (new.end, new.path))
                && let Some(right) = self.0.remove(first)
            {
                self.0[first - 1].end = right.end;
            }
            return;
        }
        if let Some(right) = self.0.get_mut(first)
            && (right.start, right.path) == (new.end, new.path)
        {
            right.start = new.start;
            return;
        }
        if self.0.len() < MAX_ORIGINS {
            self.0.insert(first, new);
        } else {
            self.blur(first.saturating_sub(1), &new);
        }
    }

    /// Makes one range of unknown origin of the one at `index`, of `new` and of what lies in
    /// between.
    fn blur(&mut self, index: usize, new: &Origin) {
        let all = &mut self.0[index];
        all.start = all.start.min(new.start);
        all.end = all.end.max(new.end);
        all.path = None;
        let end = all.end;
        while let Some(next) = self.0.get(index + 1).filter(|next| next.start < end) {
            let end = end.max(next.end);
            self.0[index].end = end;
            self.0.remove(index + 1);
        }
    }

    /// What is held of `range` is `path`'s from now on.
    pub(super) fn reassign(&mut self, range: Range<u64>, path: PathId) {
        let first = self.0.partition_point(|origin| origin.end <= range.start);
        let last = self.0.partition_point(|origin| origin.start < range.end).max(first);
        let cut: Vec<_> = self.0.drain(first..last).collect();
        let parts = cut.iter().flat_map(|origin| {
            let Origin { start, end, path } = origin.clone();
            let (left, right) = (start..range.start.min(end), range.end.max(start)..end);
            [left, right].map(|part| Origin { start: part.start, end: part.end, path })
        });
        let rest: Vec<_> = parts.filter(|part| part.start < part.end).collect();
        if let (Some(low), Some(high)) = (cut.first(), cut.last())
            && self.0.len() + rest.len() >= MAX_ORIGINS
        {
            // One more place than is kept apart.
            let (start, end) = (low.start.min(range.start), high.end.max(range.end));
            return self.0.insert(first, Origin { start, end, path: None });
        }
        rest.into_iter().rev().for_each(|origin| self.0.insert(first, origin));
        self.note(range, path);
    }

    /// Who brought each part of a range that is here, as far as that is known.
    pub(super) fn within(&self, range: Range<u64>) -> Vec<(Option<PathId>, Range<u64>)> {
        let (mut parts, mut from) = (Vec::new(), range.start);
        for origin in self.0.iter().filter(|one| one.end > range.start && one.start < range.end) {
            let (start, end) = (origin.start.max(range.start), origin.end.min(range.end));
            if from < start {
                parts.push((Some(PathId::PRIMARY), from..start));
            }
            parts.push((origin.path, start..end));
            from = end;
        }
        if from < range.end {
            parts.push((Some(PathId::PRIMARY), from..range.end));
        }
        parts
    }

    /// Some of `range` was refused after it was noted: others may bring it, so nobody is to be
    /// blamed for it.
    pub(super) fn doubt(&mut self, range: &Range<u64>) {
        let overlaps = |origin: &&mut Origin| origin.start < range.end && range.start < origin.end;
        self.0.iter_mut().filter(overlaps).for_each(|origin| origin.path = None);
    }

    /// Who brought the byte at `offset`, and up to where that holds. None when it is not known.
    pub(super) fn at(&self, offset: u64) -> (Option<PathId>, u64) {
        let next = self.0.partition_point(|origin| origin.end <= offset);
        match self.0.get(next) {
            Some(origin) if origin.start <= offset => (origin.path, origin.end),
            Some(origin) => (Some(PathId::PRIMARY), origin.start),
            None => (Some(PathId::PRIMARY), u64::MAX),
        }
    }

    /// Forgets what lies before `offset`.
    pub(super) fn drop_before(&mut self, offset: u64) {
        while self.0.front().is_some_and(|origin| origin.end <= offset) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_replaced_changes_hands() {
        let mut origins = Origins::default();
        origins.note(10..40, PathId(1));
        origins.note(40..60, PathId(2));
        origins.reassign(20..30, PathId(3));
        origins.reassign(35..45, PathId::PRIMARY);
        let found = [10, 20, 30, 35, 44, 45].map(|at| origins.at(at));
        let [one, two, three] = [1, 2, 3].map(|path| Some(PathId(path)));
        let primary = Some(PathId::PRIMARY);
        let expected = [(one, 20), (three, 30), (one, 35), (primary, 45), (primary, 45), (two, 60)];
        assert_eq!(found, expected);
        for at in 0..2 * MAX_ORIGINS as u64 {
            origins.reassign(10 + at * 2..11 + at * 2, PathId(4));
        }
        assert!(origins.0.len() <= MAX_ORIGINS);
    }

    #[test]
    fn neighbours_of_one_path_are_one() {
        let mut origins = Origins::default();
        for range in [0..10, 20..30, 10..20] {
            origins.note(range, PathId(1));
        }
        origins.note(30..40, PathId(2));
        origins.note(40..50, PathId::PRIMARY);
        assert_eq!(origins.0.len(), 2);
        assert_eq!(origins.at(0), (Some(PathId(1)), 30));
        assert_eq!(origins.at(35), (Some(PathId(2)), 40));
        assert_eq!(origins.at(45), (Some(PathId::PRIMARY), u64::MAX));
        origins.doubt(&(31..33));
        assert_eq!(origins.at(30), (None, 40));
        origins.drop_before(30);
        assert_eq!(origins.at(25), (Some(PathId::PRIMARY), 30));
    }

    proptest! {
        #[test]
        fn an_origin_is_right_or_unknown(
            order in Just((0..3000_u64).collect::<Vec<_>>()).prop_shuffle(),
            paths in proptest::collection::vec(0..4_u32, 3000),
        ) {
            let mut origins = Origins::default();
            let path = |at: u64| PathId(paths[usize::try_from(at).unwrap()]);
            for (count, at) in order.iter().enumerate() {
                origins.note(*at..at + 1, path(*at));
                prop_assert!(origins.0.len() <= MAX_ORIGINS);
                if count % 300 == 0 {
                    for seen in &order[..=count] {
                        let (found, end) = origins.at(*seen);
                        prop_assert!(end > *seen);
                        prop_assert!(found.is_none_or(|found| found == path(*seen)));
                    }
                }
            }
        }

        #[test]
        fn few_origins_are_all_known(
            cuts in proptest::collection::btree_set(1..1000_u64, 1..200),
            reverse in any::<bool>(),
        ) {
            let mut origins = Origins::default();
            let ends: Vec<_> = cuts.iter().copied().chain([1000]).collect();
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let mut parts: Vec<_> = starts.zip(ends).zip((0..4).cycle()).collect();
            if reverse {
                parts.reverse();
            }
            for ((start, end), path) in &parts {
                origins.note(*start..*end, PathId(*path));
            }
            for ((start, end), path) in parts {
                let end = if path == 0 && end == 1000 { u64::MAX } else { end };
                prop_assert_eq!(origins.at(start), (Some(PathId(path)), end));
            }
        }
    }
}
