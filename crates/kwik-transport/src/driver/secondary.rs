//! Reads one secondary stream (7.2): its data goes where data frames go, under the same admission.

use bytes::Bytes;
use kwik_proto::mapping::Inbound;
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
    let mut reader = Reader {
        shared: shared.clone(),
        path,
        decoder: SecondaryDecoder::new(),
        inbound: Inbound::default(),
        sink: FrameSink::new(shared.clone(), path, connection),
        progress: None,
        wanted: true,
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
        if !reader.wanted {
            stream.stop(Code::SecondaryStreamIsolation.as_u64()).ok();
            return Ok(());
        }
        let Some(filled) = next_batch(stream, &mut chunks).await else { return Ok(()) };
        if filled == 0 {
            return reader.decoder.handle_fin().map_err(|error| violation(&error));
        }
        batch.extend(chunks[..filled].iter_mut().map(std::mem::take));
    }
}

fn violation(error: &WireError) -> CodedError {
    CodedError::new(Code::MetadataProtocolViolation, error.to_string())
}

struct Reader<'a> {
    shared: AnyShared,
    path: PathId,
    decoder: SecondaryDecoder,
    inbound: Inbound,
    sink: FrameSink<'a>,
    /// What came since the session was told: how much, and where it goes on.
    progress: Option<(u64, u64)>,
    wanted: bool,
}

impl Reader<'_> {
    fn handle_chunk(&mut self, chunk: Bytes) -> Result<(), CodedError> {
        self.decoder.handle_input(chunk);
        while let Some(event) = self.decoder.poll().map_err(|error| violation(&error))? {
            self.inbound.handle(&event)?;
            self.sink.count_frame()?;
            match event {
                SecondaryEvent::Data(m) => {
                    self.sink.aim(m.kwik_stream_id, m.offset)?;
                    let (bytes, _) = self.progress.unwrap_or_default();
                    let len = m.data.len() as u64;
                    self.sink.put(&mut [m.data])?;
                    self.progress = Some((bytes + len, m.offset + len));
                }
                SecondaryEvent::Unknown(_) => {}
                event => {
                    self.tell()?;
                    let wanted = self
                        .shared
                        .drive(|machine, now| machine.handle_secondary(self.path, &event, now))?;
                    self.wanted &= wanted;
                }
            }
        }
        Ok(())
    }

    /// Tells the session what came: first that it came, then how far the stream is.
    fn tell(&mut self) -> Result<(), CodedError> {
        self.sink.flush()?;
        let (Some((bytes, offset)), Some(id)) = (self.progress.take(), self.inbound.id()) else {
            return Ok(());
        };
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
