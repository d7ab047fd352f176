//! What is done about errors of sources (9.2), and whose copy of a byte counts (7.4).

use std::time::Duration;

use crate::limits;

/// Which copy of a byte counts when two sources bring different ones (7.4). Copies are compared
/// while the first is held: what the application has read stays as it was under every policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
#[non_exhaustive]
pub enum ConflictPolicy {
    /// The first that came.
    #[default]
    FirstWins,
    /// The last that came.
    LastWins,
    /// The primary's; the first where none of the two is.
    PrimaryWins,
    /// Neither: what follows says [`Recovery::aggregation`].
    Reject,
}

/// What follows where two sources contradict each other under [`ConflictPolicy::Reject`]. A copy of
/// the primary, whose stream it is, proves the other wrong. Of two secondaries neither is believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
#[non_exhaustive]
pub enum AggregationFallback {
    /// The later copy is dropped, and all goes on.
    IgnoreCorrupt,
    /// The disputed bytes are asked for again: they are dropped, and the leases that the
    /// secondaries which brought them hold in the stream are lost, so that others bring them or the
    /// primary leases them anew.
    AskAgain,
    /// The stream fails with `KWIK_OFFSET_MISMATCH` where the disputed bytes begin.
    CloseStream,
    /// As [`Self::AskAgain`], and the paths of those secondaries are closed for good.
    #[default]
    IsolateSource,
}

/// How waits between attempts grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
#[non_exhaustive]
pub enum Backoff {
    /// All alike.
    Constant,
    /// By the first with each attempt.
    Linear,
    /// Twofold with each attempt.
    #[default]
    Exponential,
}

settings! {
    /// What a secondary does when its client does not take a secondary stream that it opens without
    /// a lease: the client may not know of its target yet.
    #[derive(Copy)]
    MappingRetry;
    /// Attempts after the first; 3.
    retries, set_retries: u32 = 3, 0..=limits::MAX_MAPPING_RETRIES;
    /// How the waits between them grow; twofold.
    backoff, set_backoff: Backoff = Backoff::Exponential, Backoff::Constant..=Backoff::Exponential;
    /// The first of these waits; 50 ms.
    first_wait, set_first_wait: Duration = Duration::from_millis(50),
        Duration::from_millis(1)..=limits::MAX_MAPPING_WAIT;
    /// How long the client may take to answer an attempt; 3 s.
    timeout, set_timeout: Duration = limits::HANDSHAKE_TIMEOUT,
        Duration::from_millis(10)..=limits::MAX_MAPPING_WAIT;
}

impl MappingRetry {
    /// The wait behind an attempt, of which the first is 0; at most
    /// [`limits::MAX_MAPPING_WAIT`].
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Duration {
        let factor = match self.backoff {
            Backoff::Constant => 1,
            Backoff::Linear => attempt.saturating_add(1),
            Backoff::Exponential => 1 << attempt.min(20),
        };
        self.first_wait.saturating_mul(factor).min(limits::MAX_MAPPING_WAIT)
    }
}

settings! {
    /// What is done about errors of sources (9.2), one choice for each class.
    #[derive(Copy)]
    Recovery;
    /// What follows a conflict that [`ConflictPolicy::Reject`] leaves open; isolation.
    aggregation, set_aggregation: AggregationFallback = AggregationFallback::IsolateSource,
        AggregationFallback::IgnoreCorrupt..=AggregationFallback::IsolateSource;
    =>
    /// A secondary stream that the client does not take, at the secondary.
    mapping, set_mapping: MappingRetry;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_as_is_set_and_end_somewhere() {
        let waits = |backoff| {
            let mut retry = MappingRetry::default();
            retry.set_backoff(backoff).unwrap();
            [0, 1, 2, 3].map(|attempt| retry.wait(attempt).as_millis())
        };
        assert_eq!(waits(Backoff::Constant), [50, 50, 50, 50]);
        assert_eq!(waits(Backoff::Linear), [50, 100, 150, 200]);
        assert_eq!(waits(Backoff::Exponential), [50, 100, 200, 400]);
        assert_eq!(MappingRetry::default().wait(u32::MAX), limits::MAX_MAPPING_WAIT);
    }
}
