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

/// What follows when a secondary stream breaks its protocol (7.7): a frame that contradicts what it
/// said before, or cannot be read. Its lease goes to others where it is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
#[non_exhaustive]
pub enum MetadataRecovery {
    /// Its path is closed with `KWIK_METADATA_PROTOCOL_VIOLATION`: whose words contradict each
    /// other says nothing that is worth waiting for.
    #[default]
    ClosePath,
    /// It is asked to say again where it writes, within
    /// [`SecondaryStreamConfig::metadata_timeout`](crate::SecondaryStreamConfig::metadata_timeout);
    /// until then what it says counts for nothing. Where it said nothing yet, or cannot be read, it
    /// is stopped.
    Resend,
    /// What is said of data with the data itself counts: where its stream and offset lie under a
    /// lease of the path, it maps there. What cannot be read is stopped.
    UseDefaults,
    /// It alone is stopped, with that code.
    CloseStream,
    /// What it brings is thrown away. Its secondary is told nothing.
    IgnoreStream,
}

/// What follows when the receive window is full of bytes that nobody reads (8.2), for
/// [`Recovery::window_timeout`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
#[non_exhaustive]
pub enum WindowRecovery {
    /// Producers wait, as long as it takes.
    #[default]
    Wait,
    /// Streams with slow readers give back all that they borrowed as they are read, so that others
    /// find it; otherwise they keep an even part.
    Reallocate,
    /// The stream that holds most is given up with `KWIK_LIMIT_EXCEEDED`, and what it holds is
    /// dropped; if that was not enough, the next one after as long again.
    Cleanup,
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
    Recovery;
    /// What follows a conflict that [`ConflictPolicy::Reject`] leaves open; isolation.
    aggregation, set_aggregation: AggregationFallback = AggregationFallback::IsolateSource,
        AggregationFallback::IgnoreCorrupt..=AggregationFallback::IsolateSource;
    /// What follows when a secondary stream breaks its protocol; its path is closed.
    metadata, set_metadata: MetadataRecovery = MetadataRecovery::ClosePath,
        MetadataRecovery::ClosePath..=MetadataRecovery::IgnoreStream;
    /// What follows when the window is full of bytes that nobody reads; producers wait.
    window, set_window: WindowRecovery = WindowRecovery::Wait,
        WindowRecovery::Wait..=WindowRecovery::Cleanup;
    /// How long that is borne first; 5 s.
    window_timeout, set_window_timeout: Duration = limits::AGGREGATION_TIMEOUT,
        Duration::from_millis(1)..=limits::MAX_STREAM_TIMEOUT;
    /// How often the primary is told anew of bytes that nobody may bring, each time with as long to
    /// lease them, before their reader fails with `KWIK_AGGREGATION_TIMEOUT`; 0.
    restarts, set_restarts: u32 = 0, 0..=limits::MAX_RESTARTS;
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
