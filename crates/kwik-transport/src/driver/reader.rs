//! Reads one unidirectional QUIC stream of a peer, whatever its kind.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use kwik_proto::wire::{DataDecoder, DataEvent, KindDecoder, RawDecoder, StreamKind, WireError};
use kwik_proto::{CodedError, PathId, StreamId};
use tokio::sync::oneshot;

use crate::quic::{Connection, RecvStream};

use super::chunks::{first_batch, next_batch};
use super::secondary;
use super::shared::AnyShared;
use super::sink::FrameSink;

/// Held by who still reads from a connection: its loss is told when all is read.
pub(super) type Reading = Arc<oneshot::Sender<Infallible>>;

/// Reads `stream` to its end. A violation closes the path.
#[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
pub(super) fn run(
    shared: AnyShared,
    path: PathId,
    connection: Connection,
    mut stream: RecvStream,
    reading: Reading,
) -> impl Future<Output = ()> {
    async move {
        let result = match read_kind(&mut stream).await {
            // Of the few that are of other kinds, readers keep no room.
            Ok(Some((StreamKind::Data, first))) => {
                read_data(&shared, path, &connection, &mut stream, first).await
            }
            Ok(Some((StreamKind::Raw, first))) => {
                Box::pin(read_raw(&shared, &mut stream, first, reading)).await
            }
            Ok(Some((StreamKind::Secondary, first)))
                if shared.look(|machine| machine.takes_secondary(path)) =>
            {
                Box::pin(secondary::read(&shared, path, &connection, &mut stream, first)).await
            }
            Ok(Some((StreamKind::Secondary | StreamKind::Unknown(_), _))) => {
                // Of a later version, or not for this role: nothing of it is wanted.
                stream.stop(0).ok();
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(%path, %error, "violation on a data stream");
            let on = (path, &connection);
            shared.drive_on(on, |machine, now| machine.handle_violation(path, &error, now));
        }
    }
}

fn violation(error: &WireError) -> CodedError {
    CodedError::new(error.code(), error.to_string())
}

/// The stream's kind, and what came with it; none when it ends before.
async fn read_kind(
    stream: &mut RecvStream,
) -> Result<Option<(StreamKind, Vec<Bytes>)>, CodedError> {
    let mut chunks = first_batch();
    let mut kind = KindDecoder::new();
    loop {
        let Some(filled) = next_batch(stream, &mut chunks).await.filter(|filled| *filled > 0)
        else {
            return Ok(None);
        };
        let mut rest = chunks[..filled].iter_mut().map(std::mem::take);
        while let Some(mut chunk) = rest.next() {
            if let Some(kind) = kind.poll(&mut chunk).map_err(|error| violation(&error))? {
                return Ok(Some((kind, [chunk].into_iter().chain(rest).collect())));
            }
        }
    }
}

async fn read_raw(
    shared: &AnyShared,
    stream: &mut RecvStream,
    first: Vec<Bytes>,
    reading: Reading,
) -> Result<(), CodedError> {
    let mut reading = Some(reading);
    let mut decoder = RawDecoder::new();
    let mut chunks = first_batch();
    let mut batch = first;
    loop {
        for chunk in batch.drain(..) {
            decoder.handle_input(chunk);
            while let Some(packet) = decoder.poll().map_err(|error| violation(&error))? {
                let room = || shared.look(|machine| machine.takes_raw().then_some(()));
                if room().is_none() {
                    // The application may never make any: that does not keep the end from it.
                    reading.take();
                }
                if shared.wait_for(&shared.waiters.raw, room).await.is_err() {
                    return Ok(());
                }
                shared.drive(|machine, _| machine.handle_raw(&packet))?;
            }
        }
        let Some(filled) = next_batch(stream, &mut chunks).await else { return Ok(()) };
        if filled == 0 {
            return decoder.handle_fin().map_err(|error| violation(&error));
        }
        batch.extend(chunks[..filled].iter_mut().map(std::mem::take));
    }
}

async fn read_data(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    stream: &mut RecvStream,
    mut first: Vec<Bytes>,
) -> Result<(), CodedError> {
    // A client whose server has not answered yet knows that with the change of the path's status.
    let options = || shared.look(|machine| machine.data_options(path));
    let Ok(options) = shared.wait_for(&shared.waiters.paths, options).await else { return Ok(()) };
    let sink = FrameSink::new(shared.clone(), path, connection);
    let mut reader = DataReader { sink, decoder: DataDecoder::new(options) };
    reader.handle_batch(&mut first).await?;
    drop(first);
    let mut chunks = first_batch();
    while let Some(filled) = next_batch(stream, &mut chunks).await {
        if filled == 0 {
            return reader.decoder.handle_fin().map_err(|error| violation(&error));
        }
        reader.handle_batch(&mut chunks[..filled]).await?;
    }
    Ok(())
}

struct DataReader<'a> {
    sink: FrameSink<'a>,
    decoder: DataDecoder,
}

impl DataReader<'_> {
    async fn handle_batch(&mut self, mut batch: &mut [Bytes]) -> Result<(), CodedError> {
        let mut handled = Ok(());
        while !batch.is_empty() && handled.is_ok() {
            // Most of bulk is chunks that a frame goes on behind.
            let inside = self.decoder.handle_payload(batch);
            let (now, later) = batch.split_at_mut(inside.max(1));
            handled = if inside > 0 { self.sink.put(now) } else { self.handle_chunk(&mut now[0]) };
            batch = later;
            if handled.is_ok() {
                handled = self.sink.end_turn().await;
            }
        }
        // What came before a violation counts.
        handled.and(self.sink.end_batch())
    }

    fn handle_chunk(&mut self, chunk: &mut Bytes) -> Result<(), CodedError> {
        self.decoder.handle_input(std::mem::take(chunk));
        while let Some(event) = self.decoder.poll().map_err(|error| violation(&error))? {
            match event {
                DataEvent::Frame(header) => {
                    self.sink.count_frame()?;
                    self.sink.aim(StreamId::from_u64(header.stream_id), header.offset)?;
                }
                DataEvent::Payload(data) => self.sink.put(&mut [data])?,
                DataEvent::FrameEnd { fin: true } => self.sink.put_fin()?,
                DataEvent::FrameEnd { fin: false } => {}
                DataEvent::PacketEnd { id, payload, fin } => {
                    if payload == 0 && !fin {
                        self.sink.count_frame()?;
                    } else {
                        self.sink.count_packet();
                    }
                    self.sink.note_packet(id, payload as u64, fin);
                }
            }
        }
        Ok(())
    }
}
