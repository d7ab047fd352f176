//! Sources that contradict each other (7.4, 9.2): whose copy counts, and what is told of it.

use std::ops::Range;

use crate::presentation::Conflict;
use crate::range::RangeSet;
use crate::{AggregationFallback, Code, CodedError, Config, ConflictPolicy, PathId, limits};

use super::{ReadError, RecvHalf};

/// Sources brought different bytes, and [`ConflictPolicy::Reject`] holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// What is believed of nobody; it was dropped, so that there are no more ranges than gaps.
    pub ranges: RangeSet,
    /// The secondaries that took part, each with where it did first: both where neither of two is
    /// the primary.
    pub suspects: Vec<(PathId, Range<u64>)>,
    /// The first of it, in words.
    pub reason: String,
}

impl Dispute {
    fn suspect(&mut self, path: PathId, range: &Range<u64>) {
        let known = self.suspects.iter().any(|(known, _)| *known == path);
        if !path.is_primary() && !known && self.suspects.len() < limits::MAX_SOURCES {
            self.suspects.push((path, range.clone()));
        }
    }
}

/// What is known of a stream's conflicts.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    policy: ConflictPolicy,
    fallback: AggregationFallback,
    /// Bytes of each path that another's contradicted.
    contradicted: Vec<(PathId, u64)>,
    /// What the session has not looked at.
    dispute: Option<Box<Dispute>>,
    /// The last that a path wrote where it may not.
    offence: Option<(PathId, Range<u64>)>,
}

impl Conflicts {
    fn count(&mut self, path: PathId, bytes: u64) {
        if let Some((_, count)) = self.contradicted.iter_mut().find(|(known, _)| *known == path) {
            *count += bytes;
        } else if self.contradicted.len() < limits::MAX_SOURCES {
            self.contradicted.push((path, bytes));
        }
    }
}

impl RecvHalf {
    pub(crate) fn set_policy(&mut self, config: &Config) {
        self.conflicts.policy = config.conflict_policy();
        self.conflicts.fallback = config.recovery().aggregation();
    }

    /// The paths that took part in conflicts, each with how many of its bytes another contradicted.
    #[must_use]
    pub fn contradicted(&self) -> &[(PathId, u64)] {
        &self.conflicts.contradicted
    }

    pub(super) fn note_offence(&mut self, path: PathId, range: Range<u64>) {
        self.conflicts.offence = Some((path, range));
    }

    /// Where `path` wrote though it may not, if that was the last to do so.
    pub(crate) fn offence_of(&self, path: PathId) -> Option<Range<u64>> {
        let offence = self.conflicts.offence.as_ref().filter(|(by, _)| *by == path);
        offence.map(|(_, range)| range.clone())
    }

    /// What the session has to see to.
    pub(crate) fn take_dispute(&mut self) -> Option<Box<Dispute>> {
        self.conflicts.dispute.take()
    }

    /// Later copies that `path` brought differ from what is held. True when the reader has
    /// something to do.
    ///
    /// # Errors
    /// Too many gaps would be left: the path is to be closed.
    pub(super) fn settle_conflicts(
        &mut self,
        path: PathId,
        conflicts: &[Conflict],
    ) -> Result<bool, CodedError> {
        // Stretches whose first copy is of one source, with what lies between them.
        let mut rejected = Vec::<(Option<PathId>, Range<u64>)>::new();
        for conflict in conflicts {
            let Range { mut start, end } = conflict.range();
            while start < end {
                let (holder, until) = self.origins.at(start);
                let part = start..until.min(end);
                let at = |offset| usize::try_from(offset - conflict.offset).unwrap_or(usize::MAX);
                let copy = &conflict.data[at(part.start)..at(part.end)];
                start = part.end;
                // A source that contradicts itself has nobody else to blame.
                let sources = [Some(path), holder.filter(|holder| *holder != path)];
                for source in sources.iter().flatten() {
                    self.conflicts.count(*source, copy.len() as u64);
                }
                if self.replaces(path, holder) {
                    self.buffer.replace(part.start, copy);
                    self.origins.reassign(part.clone(), path);
                }
                match rejected.last_mut() {
                    Some((last, range)) if *last == holder => range.end = part.end,
                    _ => rejected.push((holder, part)),
                }
            }
        }
        if self.conflicts.policy == ConflictPolicy::Reject {
            for (holder, range) in rejected {
                self.reject((path, holder), range)?;
            }
        }
        Ok(self.error.is_some())
    }

    /// Whether the later copy, of `path`, counts.
    fn replaces(&self, path: PathId, holder: Option<PathId>) -> bool {
        let of_primary = path.is_primary() && holder != Some(PathId::PRIMARY);
        match self.conflicts.policy {
            ConflictPolicy::FirstWins => false,
            ConflictPolicy::LastWins => true,
            ConflictPolicy::PrimaryWins => of_primary,
            ConflictPolicy::Reject => of_primary && self.is_asked_again(),
        }
    }

    fn is_asked_again(&self) -> bool {
        let asked = [AggregationFallback::AskAgain, AggregationFallback::IsolateSource];
        asked.contains(&self.conflicts.fallback)
    }

    fn reject(
        &mut self,
        (path, holder): (PathId, Option<PathId>),
        range: Range<u64>,
    ) -> Result<(), CodedError> {
        let closes = self.conflicts.fallback == AggregationFallback::CloseStream;
        if !closes && !self.is_asked_again() {
            return Ok(());
        }
        let name =
            |path: Option<PathId>| path.map_or("others".into(), |path| format!("path {path}"));
        let (one, two) = (name(Some(path)), name(holder));
        let reason = format!("{}: {one} contradicts {two} in {range:?}", self.id);
        let dispute = self.conflicts.dispute.get_or_insert_default();
        if dispute.reason.is_empty() {
            dispute.reason.clone_from(&reason);
        }
        dispute.suspect(path, &range);
        holder.into_iter().for_each(|holder| dispute.suspect(holder, &range));
        let believed = path.is_primary() || holder == Some(PathId::PRIMARY);
        if closes || !believed {
            dispute.ranges.insert(range.clone());
            self.buffer.discard(range.clone()).map_err(|error| {
                let context = format!("{}: {error}", self.id);
                CodedError::new(Code::SecondaryStreamOverflow, context)
            })?;
            self.origins.reassign(range, PathId::PRIMARY);
        }
        if closes {
            let error = CodedError::new(Code::OffsetMismatch, reason);
            self.fail(ReadError::Failed(error));
        }
        Ok(())
    }
}
