//! How many streams a session has, and how much they may hold.

use crate::limits;
use crate::wire::pb::control as pb;

/// Limits and windows of a session's streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Bidirectional streams that the peer may have open at once; at most [`limits::MAX_STREAMS`].
    pub max_streams_bidi: u64,
    /// Unidirectional streams that the peer may have open at once; at most [`limits::MAX_STREAMS`].
    pub max_streams_uni: u64,
    /// Session receive window at the start, in bytes (8.2).
    pub initial_window: u64,
    /// Session receive window at the most, in bytes.
    pub max_window: u64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            max_streams_bidi: limits::MAX_STREAMS,
            max_streams_uni: limits::MAX_STREAMS,
            initial_window: limits::INITIAL_WINDOW,
            max_window: limits::MAX_WINDOW,
        }
    }
}

impl StreamConfig {
    /// Checks the relations between the figures.
    ///
    /// # Errors
    /// What to change.
    pub fn validate(&self) -> Result<(), InvalidStreamConfig> {
        let counts = limits::FIRST_FLIGHT_STREAMS..=limits::MAX_STREAMS;
        if !counts.contains(&self.max_streams_bidi) || !counts.contains(&self.max_streams_uni) {
            return Err(InvalidStreamConfig::Streams);
        }
        if self.floor() < limits::FIRST_FLIGHT_DATA || self.max_window < self.initial_window {
            let least = limits::FIRST_FLIGHT_DATA * 2 * self.max_receiving();
            return Err(InvalidStreamConfig::Window { least });
        }
        Ok(())
    }

    /// Receiving halves that can exist at once: the peer's streams, and our own bidirectional ones.
    pub(super) fn max_receiving(&self) -> u64 {
        2 * self.max_streams_bidi + self.max_streams_uni
    }

    /// What each stream is granted before anything is said: its floor.
    pub(super) fn floor(&self) -> u64 {
        self.initial_window / (2 * self.max_receiving())
    }

    /// The limits to tell the peer in the first flight.
    #[must_use]
    pub fn to_wire(&self) -> pb::StreamLimits {
        pb::StreamLimits {
            max_streams_bidi: self.max_streams_bidi,
            max_streams_uni: self.max_streams_uni,
            initial_max_stream_data: self.floor(),
        }
    }
}

/// Figures that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStreamConfig {
    /// See [`StreamConfig::max_streams_bidi`].
    #[error(
        "a session has between {} and {} streams of each direction",
        limits::FIRST_FLIGHT_STREAMS,
        limits::MAX_STREAMS
    )]
    Streams,
    /// See [`StreamConfig::initial_window`].
    #[error("for so many streams the window needs at least {least} bytes, and at most its maximum")]
    Window {
        /// The least initial window.
        least: u64,
    },
}
