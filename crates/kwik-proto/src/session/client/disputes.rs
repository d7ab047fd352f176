//! What a client does about sources that contradict each other (7.4, 9.2).

use std::ops::Range;
use std::time::Instant;

use crate::stream::{Dispute, ReadError};
use crate::sync::lock;
use crate::wire::clip;
use crate::wire::control::{Blamed, ControlMessage};
use crate::{AggregationFallback, Code, CodedError, PathId, StreamId, limits};

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
            for (path, range) in suspects {
                let error = CodedError::new(Code::SecondaryStreamIsolation, reason.clone());
                self.isolate(path, Some((stream, range)), &error, now);
            }
        }
    }

    /// Closes a secondary's path for what it brought or said; the primary is told (9.2).
    fn isolate(
        &mut self,
        path: PathId,
        place: Option<(StreamId, Range<u64>)>,
        error: &CodedError,
        now: Instant,
    ) {
        let (stream_id, range) = place.map_or((None, 0..0), |(id, range)| (Some(id), range));
        // Its bytes may lie where no stream reaches.
        let range = range.start.min(limits::MAX_OFFSET)..range.end.min(limits::MAX_OFFSET);
        let reason = clip(&error.to_string()).to_owned();
        let blamed = Blamed { path_id: path, stream_id, range, reason };
        self.send(PathId::PRIMARY, &ControlMessage::Blamed(blamed), now);
        self.end_path(path, error, now);
    }

    /// A secondary broke the protocol.
    pub(super) fn end_violator(&mut self, path: PathId, error: &CodedError, now: Instant) {
        // Who is slow, or asks for too much, may be asked again.
        if error.code == Code::LimitExceeded {
            return self.end_path(path, error, now);
        }
        let place = self.streams.iter().find_map(|halves| {
            let range = lock(halves.recv.as_ref()?).offence_of(path)?;
            Some((halves.id, range))
        });
        self.isolate(path, place, error, now);
    }
}
