//! The steps of a fetch.

use std::fmt;

/// What a fetch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The primary's answer.
    Answer,
    /// The hashes that verify the object.
    Outboard,
    /// The stream that carries it.
    Stream,
    /// Its next bytes.
    Object,
    /// Bytes that did not verify, once more.
    Again,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "the server's answer",
            Self::Outboard => "the object's hashes",
            Self::Stream => "the object's stream",
            Self::Object => "the object's next bytes",
            Self::Again => "bytes that are fetched again",
        })
    }
}
