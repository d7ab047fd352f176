//! What is done about errors of sources (9.2), and whose copy of a byte counts (7.4).

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

settings! {
    /// What a client does about errors of its sources (9.2), one choice for each class.
    #[derive(Copy)]
    Recovery;
    /// What follows a conflict that [`ConflictPolicy::Reject`] leaves open; isolation.
    aggregation, set_aggregation: AggregationFallback = AggregationFallback::IsolateSource,
        AggregationFallback::IgnoreCorrupt..=AggregationFallback::IsolateSource;
}
