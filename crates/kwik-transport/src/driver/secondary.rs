//! Reads one secondary stream (7.2): its data goes where data frames go, under the same admission.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use kwik_proto::mapping::{Inbound, Verdict};
use kwik_proto::wire::{SecondaryDecoder, SecondaryEvent, WireError};
use kwik_proto::{Code, CodedError, MetadataRecovery, PathId, StreamId};

use crate::quic::{Connection, RecvStream};

use super::chunks::{first_batch, next_batch};
use super::shared::AnyShared;
use super::sink::FrameSink;

/// Reads what follows the kind of the stream. A violation closes the path (7.7).
pub(super) async fn read(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    stream: &mut RecvStream,
    first: Vec<Bytes>,
) -> Result<(), CodedError> {
    let config = shared.look(|machine| machine.secondary_config());
    let mut reader = Reader {
        shared: shared.clone(),
        path,
        decoder: SecondaryDecoder::new(),
        inbound: Inbound::default(),
        sink: FrameSink::new(shared.clone(), path, connection),
        progress: Progress::default(),
        batch: config.batch_size(),
        verdict: Verdict::Take,
        late_at: shared.runtime.now() + config.metadata_timeout(),
        unclear: false,
        over: false,
    };
    let mut chunks = first_batch();
    let mut batch = first;
    loop {
        let mut handled = Ok(());
        for chunk in batch.drain(..) {
            handled = reader.handle_chunk(chunk);
            if handled.is_ok() {
                handled = reader.sink.end_turn().await;
            }
            if handled.is_err() {
                break;
            }
        }
        // What came before a violation counts.
        handled.and(reader.end_batch())?;
        if let Verdict::Stop(code) = reader.verdict {
            stream.stop(code.as_u64()).ok();
            return Ok(());
        }
        match reader.next(stream, &mut chunks).await {
            Next::Chunks(filled) => {
                batch.extend(chunks[..filled].iter_mut().map(std::mem::take));
            }
            Next::End => {
                let ended = reader.decoder.handle_fin().map_err(|error| violation(&error));
                return ended.or_else(|error| reader.give_up(error, None));
            }
            Next::Lost => return Ok(()),
            Next::Stop(code) => {
                if reader.unclear {
                    reader.lose(None);
                }
                reader.verdict = Verdict::Stop(code);
            }
        }
        reader.batch = shared.look(|machine| machine.secondary_config()).batch_size();
    }
}

fn violation(error: &WireError) -> CodedError {
    CodedError::new(Code::MetadataProtocolViolation, error.to_string())
}

/// What happens next to a secondary stream.
enum Next {
    /// So many chunks came.
    Chunks(usize),
    /// It ends.
    End,
    /// It was reset, or the path is over.
    Lost,
    /// It is to be stopped with this code.
    Stop(Code),
}

/// What came since the session was told.
#[derive(Default)]
struct Progress {
    bytes: u64,
    frames: usize,
    /// Where it goes on; none if nothing came.
    offset: Option<u64>,
}

struct Reader<'a> {
    shared: AnyShared,
    path: PathId,
    decoder: SecondaryDecoder,
    inbound: Inbound,
    sink: FrameSink<'a>,
    progress: Progress,
    /// Data frames after which the session is told.
    batch: usize,
    verdict: Verdict,
    /// When it is to have said where it writes.
    late_at: Instant,
    /// It is to say that again; until then nothing else counts.
    unclear: bool,
    /// It was given up: nothing of it is decoded any more.
    over: bool,
}

impl Reader<'_> {
    async fn next(&self, stream: &mut RecvStream, chunks: &mut Vec<Bytes>) -> Next {
        let (shared, id) = (&self.shared, self.inbound.id());
        let stopped = || {
            let key = (self.path, id?);
            // What is drained is stopped no more.
            shared.look(|machine| machine.secondary_stopped(key)).filter(|_| !self.over)
        };
        let mut stopped = pin!(shared.wait_for(&shared.waiters.secondary, stopped));
        let mut late = pin!(async {
            match id.filter(|_| !self.unclear || self.over) {
                Some(_) => pending().await,
                None => shared.runtime.sleep_until(self.late_at).await,
            }
        });
        let mut batch = pin!(next_batch(stream, chunks));
        poll_fn(|cx| {
            if let Poll::Ready(filled) = batch.as_mut().poll(cx) {
                return Poll::Ready(match filled {
                    Some(0) => Next::End,
                    Some(filled) => Next::Chunks(filled),
                    None => Next::Lost,
                });
            }
            if let Poll::Ready(stopped) = stopped.as_mut().poll(cx) {
                return Poll::Ready(stopped.map_or(Next::Lost, Next::Stop));
            }
            late.as_mut().poll(cx).map(|()| Next::Stop(Code::MetadataProtocolViolation))
        })
        .await
    }

    fn handle_chunk(&mut self, chunk: Bytes) -> Result<(), CodedError> {
        if self.over {
            return Ok(());
        }
        self.decoder.handle_input(chunk);
        while !self.over {
            let event = match self.decoder.poll() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => return self.give_up(violation(&error), None),
            };
            self.sink.count_frame()?;
            let awaited = matches!(&event, SecondaryEvent::Update(m)
                if Some(m.secondary_stream_id) == self.inbound.id());
            if self.unclear && !awaited {
                continue;
            }
            self.unclear = false;
            match self.inbound.handle(&event) {
                Ok(()) => self.take(event)?,
                Err(error) => self.recover(event, error)?,
            }
        }
        Ok(())
    }

    /// A frame in its order.
    fn take(&mut self, event: SecondaryEvent) -> Result<(), CodedError> {
        match event {
            SecondaryEvent::Data(m) => {
                self.sink.aim(m.kwik_stream_id, m.offset)?;
                let len = m.data.len() as u64;
                self.sink.put(&mut [m.data])?;
                self.progress.bytes += len;
                self.progress.frames += 1;
                self.progress.offset = Some(m.offset + len);
                if self.progress.frames >= self.batch {
                    self.tell()?;
                }
            }
            SecondaryEvent::Unknown(_) => {}
            event => {
                self.tell()?;
                let verdict = self
                    .shared
                    .drive(|machine, now| machine.handle_secondary(self.path, &event, now))?;
                if self.verdict == Verdict::Take {
                    self.verdict = verdict;
                }
            }
        }
        Ok(())
    }

    /// A frame that contradicts what was said before (9.2).
    fn recover(&mut self, event: SecondaryEvent, error: CodedError) -> Result<(), CodedError> {
        self.tell()?;
        let place = match &event {
            SecondaryEvent::Data(m) => Some((m.kwik_stream_id, m.offset)),
            SecondaryEvent::Update(m) => Some((m.kwik_stream_id, m.offset)),
            _ => None,
        };
        let shared = self.shared.clone();
        match (shared.look(|machine| machine.metadata_recovery()), self.inbound.id()) {
            (MetadataRecovery::Resend, Some(id)) => {
                let key = (self.path, id);
                shared.drive(|machine, now| machine.request_mapping(key, now));
                let timeout = shared.look(|machine| machine.secondary_config()).metadata_timeout();
                self.late_at = shared.runtime.now() + timeout;
                self.unclear = true;
                Ok(())
            }
            (MetadataRecovery::UseDefaults, _) => {
                let lease = |stream, offset| {
                    let lease = shared.look(|machine| machine.lease_at(self.path, stream, offset));
                    lease.unwrap_or_default()
                };
                for event in self.inbound.repair(event, lease) {
                    self.inbound.handle(&event)?;
                    self.take(event)?;
                }
                Ok(())
            }
            _ => self.give_up(error, place),
        }
    }

    /// Nothing more of it counts: the path is closed with it, or the stream alone is over.
    fn give_up(
        &mut self,
        error: CodedError,
        place: Option<(StreamId, u64)>,
    ) -> Result<(), CodedError> {
        let recovery = self.shared.look(|machine| machine.metadata_recovery());
        self.verdict = match recovery {
            MetadataRecovery::ClosePath => return Err(error),
            MetadataRecovery::IgnoreStream => Verdict::Drain,
            _ => Verdict::Stop(error.code),
        };
        tracing::debug!(path = %self.path, %error, "a secondary stream is given up");
        self.over = true;
        self.lose(place);
        Ok(())
    }

    fn lose(&mut self, place: Option<(StreamId, u64)>) {
        let (path, id) = (self.path, self.inbound.id());
        self.shared.drive(|machine, now| machine.on_metadata_violation(path, id, place, now));
    }

    /// Tells the session what came: first that it came, then how far the stream is.
    fn tell(&mut self) -> Result<(), CodedError> {
        self.sink.flush()?;
        let Progress { bytes, offset, .. } = std::mem::take(&mut self.progress);
        let (Some(offset), Some(id)) = (offset, self.inbound.id()) else { return Ok(()) };
        let bytes = (bytes, bytes.saturating_sub(self.sink.take_twice()));
        let key = (self.path, id);
        self.shared.drive(|machine, now| machine.on_mapped(key, bytes, offset, now));
        Ok(())
    }

    fn end_batch(&mut self) -> Result<(), CodedError> {
        self.sink.end_batch()?;
        self.tell()
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.inbound.id() {
            self.shared.drive(|machine, _| machine.on_secondary_ended((self.path, id)));
        }
    }
}
