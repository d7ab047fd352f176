//! What a client does about sources that contradict each other (7.4, 9.2).

use std::time::Instant;

use crate::stream::{Dispute, ReadError};
use crate::sync::lock;
use crate::{AggregationFallback, Code, CodedError, StreamId};

use super::ClientSession;

impl ClientSession {
    /// Sees to what sources of a stream dispute, as
    /// [`Recovery::aggregation`](crate::Recovery::aggregation) says. The bytes were dropped where
    /// that was found.
    pub(super) fn settle_dispute(&mut self, stream: StreamId, now: Instant) {
        let recv = self.streams.halves(stream).and_then(|halves| halves.recv.clone());
        let Some((recv, dispute)) = recv.and_then(|recv| {
            let dispute = lock(&recv).take_dispute()?;
            Some((recv, dispute))
        }) else {
            return;
        };
        let Dispute { ranges, suspects, reason } = *dispute;
        let paths: Vec<_> = suspects.iter().map(|(path, _)| *path).collect();
        let asked = self.scheduler.on_disputed(stream, &ranges, &paths, &mut self.streams, now);
        // Under no lease nobody can be asked.
        if !asked && ranges.first().is_some() {
            let error = CodedError::new(Code::OffsetMismatch, reason.clone());
            lock(&recv).fail(ReadError::Failed(error));
        }
        if lock(&recv).has_failed() {
            self.scheduler.on_broken(stream, Code::OffsetMismatch, &mut self.streams, now);
        }
        if self.streams.config().recovery().aggregation() == AggregationFallback::IsolateSource {
            for path in paths {
                let error = CodedError::new(Code::SecondaryStreamIsolation, reason.clone());
                self.end_path(path, &error, now);
            }
        }
    }
}
