//! Reads one secondary stream (7.2): its data goes where data frames go, under the same admission.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use kwik_proto::mapping::{Inbound, Verdict};
use kwik_proto::wire::{SecondaryDecoder, SecondaryEvent, WireError};
use kwik_proto::{Code, CodedError, PathId};

use crate::quic::{Connection, RecvStream};

use super::AnyShared;
use super::chunks::{first_batch, next_batch};
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
        sink: FrameSink::new(shared.clone(), path),
        progress: Progress::default(),
        batch: config.batch_size(),
        verdict: Verdict::Take,
        late_at: shared.runtime.now() + config.metadata_timeout(),
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
        handled.and(reader.end_batch(connection))?;
        if let Verdict::Stop(code) = reader.verdict {
            stream.stop(code.as_u64()).ok();
            return Ok(());
        }
        match reader.next(stream, &mut chunks).await {
            Next::Chunks(filled) => {
                batch.extend(chunks[..filled].iter_mut().map(std::mem::take));
            }
            Next::End => return reader.decoder.handle_fin().map_err(|error| violation(&error)),
            Next::Lost => return Ok(()),
            Next::Stop(code) => reader.verdict = Verdict::Stop(code),
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

struct Reader {
    shared: AnyShared,
    path: PathId,
    decoder: SecondaryDecoder,
    inbound: Inbound,
    sink: FrameSink,
    progress: Progress,
    /// Data frames after which the session is told.
    batch: usize,
    verdict: Verdict,
    /// When it is to have said where it writes.
    late_at: Instant,
}

impl Reader {
    async fn next(&self, stream: &mut RecvStream, chunks: &mut Vec<Bytes>) -> Next {
        let (shared, id) = (&self.shared, self.inbound.id());
        let stopped = || {
            let key = (self.path, id?);
            shared.look(|machine| machine.secondary_stopped(key))
        };
        let mut stopped = pin!(shared.wait_for(&shared.waiters.secondary, stopped));
        let mut late = pin!(async {
            match id {
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
        self.decoder.handle_input(chunk);
        while let Some(event) = self.decoder.poll().map_err(|error| violation(&error))? {
            self.inbound.handle(&event)?;
            self.sink.count_frame()?;
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
        }
        Ok(())
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

    fn end_batch(&mut self, connection: &Connection) -> Result<(), CodedError> {
        self.sink.end_batch(connection)?;
        self.tell()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(id) = self.inbound.id() {
            self.shared.drive(|machine, _| machine.on_secondary_ended((self.path, id)));
        }
    }
}
