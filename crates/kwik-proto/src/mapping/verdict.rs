//! What becomes of a secondary stream.

use crate::Code;

/// What its receiver does with a secondary stream after a frame of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on.
    Take,
    /// Stops it with this code, once what came of it was admitted.
    Stop(Code),
    /// Reads it, and throws away what comes.
    Drain,
}
