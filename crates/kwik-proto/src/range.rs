//! Sets of offsets, kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of offsets as disjoint ranges that never touch: neighbours coalesce.
///
/// Every operation costs O(log ranges), amortised over the ranges that it merges or visits. An
/// empty or inverted range stands for no offset at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new(), bytes: 0 }
    }

    /// Adds `range`; returns how many of its offsets are new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let before = self.bytes;
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back()
            && e >= start
        {
            self.take(s, e);
            start = start.min(s);
            end = end.max(e);
        }
        self.put(start, end);
        self.bytes - before
    }

    /// Removes `range`; returns how many of its offsets were in the set.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let before = self.bytes;
        while let Some((&s, &e)) = self.ranges.range(..range.end).next_back()
            && e > range.start
            && !range.is_empty()
        {
            self.take(s, e);
            self.put(range.end, e);
            self.put(s, e.min(range.start));
        }
        before - self.bytes
    }

    fn take(&mut self, start: u64, end: u64) {
        self.ranges.remove(&start);
        self.bytes -= end - start;
    }

    fn put(&mut self, start: u64, end: u64) {
        if start < end {
            self.ranges.insert(start, end);
            self.bytes += end - start;
        }
    }

    /// Whether `offset` is in the set.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        self.end_at(offset) > offset
    }

    /// Whether all of `range` is in the set; true of an empty range.
    #[must_use]
    pub fn contains_range(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.end_at(range.start) >= range.end
    }

    /// Whether `range` overlaps the set or is next to it, so that inserting it adds no range.
    #[must_use]
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.ranges.range(..=range.end).next_back().is_some_and(|(_, &end)| end >= range.start)
    }

    /// How many offsets of `range` are in the set. O(ranges within it).
    #[must_use]
    pub fn covered(&self, range: &Range<u64>) -> u64 {
        self.intersection(range.clone()).map(|part| part.end - part.start).sum()
    }

    /// The parts of the set within `range`, in order.
    pub fn intersection(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let Range { start, end } = range;
        let from = self.ranges.range(..=start).next_back().map_or(start, |(&s, _)| s);
        self.ranges
            .range(from..end.max(from))
            .map(move |(&s, &e)| s.max(start)..e.min(end))
            .filter(|part| !part.is_empty())
    }

    /// The parts of `range` outside the set, in order.
    pub fn missing(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let (mut at, end) = (range.start, range.end);
        let mut present = self.intersection(range);
        std::iter::from_fn(move || {
            while at < end {
                let next = present.next().unwrap_or(end..end);
                let gap = at..next.start;
                at = next.end;
                if !gap.is_empty() {
                    return Some(gap);
                }
            }
            None
        })
    }

    /// The first gap at or after `offset`, from there on; it ends at `u64::MAX` when nothing of
    /// the set follows.
    #[must_use]
    pub fn first_missing_from(&self, offset: u64) -> Range<u64> {
        let start = self.end_at(offset);
        start..self.ranges.range(start..).next().map_or(u64::MAX, |(&next, _)| next)
    }

    /// The end of the range that holds `offset`, or `offset` itself.
    fn end_at(&self, offset: u64) -> u64 {
        self.ranges.range(..=offset).next_back().map_or(offset, |(_, &end)| end.max(offset))
    }

    /// Its ranges, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// The lowest range.
    #[must_use]
    pub fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// The lowest offset.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        self.first().map(|range| range.start)
    }

    /// The highest offset.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.iter().next_back().map(|range| range.end - 1)
    }

    /// Number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Number of offsets.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

impl Extend<Range<u64>> for RangeSet {
    fn extend<I: IntoIterator<Item = Range<u64>>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SPACE: u64 = 64;

    fn ranges_of(model: &BTreeSet<u64>, within: Range<u64>, present: bool) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for offset in within.filter(|offset| model.contains(offset) == present) {
            match ranges.last_mut() {
                Some(last) if last.end == offset => last.end += 1,
                _ => ranges.push(offset..offset + 1),
            }
        }
        ranges
    }

    fn check(set: &RangeSet, model: &BTreeSet<u64>, probe: &Range<u64>) {
        let all = ranges_of(model, 0..SPACE, true);
        assert_eq!(set.iter().collect::<Vec<_>>(), all);
        assert_eq!((set.len(), set.bytes()), (all.len(), model.len() as u64));
        assert_eq!(set.is_empty(), model.is_empty());
        assert_eq!((set.min(), set.max()), (model.first().copied(), model.last().copied()));
        assert_eq!(*set, all.into_iter().collect());

        let present = ranges_of(model, probe.clone(), true);
        let missing = ranges_of(model, probe.clone(), false);
        assert_eq!(set.contains_range(probe), missing.is_empty());
        assert_eq!(set.covered(probe), probe.clone().filter(|o| model.contains(o)).count() as u64);
        assert_eq!(set.intersection(probe.clone()).collect::<Vec<_>>(), present);
        assert_eq!(set.missing(probe.clone()).collect::<Vec<_>>(), missing);
        assert_eq!(set.contains(probe.start), model.contains(&probe.start));
        let first = ranges_of(model, probe.start..SPACE, false).into_iter().next();
        let mut first = first.unwrap_or(SPACE.max(probe.start)..SPACE);
        if first.end == SPACE {
            first.end = u64::MAX;
        }
        assert_eq!(set.first_missing_from(probe.start), first);
        let mut grown = set.clone();
        grown.insert(probe.clone());
        if !probe.is_empty() {
            assert_eq!(set.touches(probe), grown.len() <= set.len());
        }
    }

    fn any_range() -> impl Strategy<Value = Range<u64>> {
        // Some are inverted on purpose.
        (0..SPACE, 0..12u64, 0..20u8).prop_map(|(start, len, odd)| {
            if odd == 0 {
                start..start.saturating_sub(len)
            } else {
                start..(start + len).min(SPACE)
            }
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            operations in prop::collection::vec((any::<bool>(), any_range(), any_range()), 0..60),
        ) {
            let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
            for (insert, range, probe) in operations {
                let before = model.len();
                if insert {
                    model.extend(range.clone());
                    assert_eq!(set.insert(range), (model.len() - before) as u64);
                } else {
                    model.retain(|offset| !range.contains(offset));
                    assert_eq!(set.remove(range), (before - model.len()) as u64);
                }
                check(&set, &model, &probe);
            }
        }
    }
}
