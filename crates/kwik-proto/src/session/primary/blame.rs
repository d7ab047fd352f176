//! What a primary does about secondaries that its client isolated (9.2).

use crate::auth::Fingerprint;
use crate::wire::control;
use crate::{Code, CodedError, LogCursor, PathId, limits};

use super::super::Wake;
use super::{Blamed, PrimarySession};

impl PrimarySession {
    /// The client tells of a secondary; of one that is none, or that has left, it says nothing.
    pub(super) fn on_blamed(&mut self, m: control::Blamed) {
        let Some(server) = self.edges.get(&m.path_id).map(|edge| edge.key()) else { return };
        if self.isolated.len() < limits::MAX_PATH_HISTORY {
            self.isolated.insert(server);
        }
        let place = m.stream_id.map(|stream| (stream, m.range));
        let (path, reason) = (m.path_id, m.reason);
        self.events.blamed.push(Blamed { path, server, place, reason });
        self.outputs.wake(Wake::Path(path));
    }

    /// A reader of which secondaries the client isolates, from now on.
    #[must_use]
    pub fn blamed(&self) -> LogCursor {
        self.events.blamed.subscribe()
    }

    /// The next of them ([`Wake::Path`]).
    pub fn poll_blamed(&self, cursor: &mut LogCursor) -> Option<Blamed> {
        self.events.blamed.poll(cursor)
    }

    /// Refuses servers that were isolated.
    pub(super) fn check_trusted(&self, server: Fingerprint) -> Result<(), CodedError> {
        if !self.isolated.contains(&server) {
            return Ok(());
        }
        let context = "the client has isolated this server: ask another in this session";
        Err(CodedError::new(Code::SecondaryStreamIsolation, context))
    }

    /// The same of the server at the end of a path.
    pub(super) fn check_path_trusted(&self, path: PathId) -> Result<(), CodedError> {
        self.edges.get(&path).map_or(Ok(()), |edge| self.check_trusted(edge.key()))
    }
}
