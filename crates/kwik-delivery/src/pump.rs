//! From the stream to its destination: blocks are collected here, and verified and written off the
//! threads that run tasks.

use std::{io, time::Instant};

use bytes::{Buf, Bytes};
use futures_util::future::try_join;
use kwik::RecvStream;
use tokio::sync::mpsc;

use crate::{
    FetchError, PartFile, Progress, Verifier,
    limits::{GROUP_SIZE, READ_BATCH, WRITE_BLOCK, WRITE_QUEUE},
    offload::offload,
};

/// Where verified bytes go.
pub(crate) enum Sink {
    File(PartFile),
    Writer(Box<dyn io::Write + Send>),
}

impl Sink {
    fn write(&mut self, block: &Block) -> Result<(), FetchError> {
        match self {
            Self::File(file) => Ok(file.write_at(block.offset, &block.data)?),
            Self::Writer(output) => output.write_all(&block.data).map_err(FetchError::Output),
        }
    }

    fn finish(self) -> Result<(), FetchError> {
        match self {
            Self::File(file) => Ok(file.finish()?),
            Self::Writer(mut output) => output.flush().map_err(FetchError::Output),
        }
    }
}

/// Bytes of the object from `offset` on: whole groups, but for the object's end.
struct Block {
    offset: u64,
    data: Vec<u8>,
}

/// Reads the whole of `recv`, in order, into `sink`; tells `progress`.
pub(crate) async fn pump(
    recv: RecvStream,
    verifier: Verifier,
    sink: Sink,
    progress: &Progress,
) -> Result<(), FetchError> {
    let (full, to_write) = mpsc::channel(WRITE_QUEUE);
    // Written blocks come back: faulting in fresh memory for each costs more than verifying it.
    let (empty, to_fill) = mpsc::channel(WRITE_QUEUE + 2);
    let reading = read(recv, verifier.size(), full, to_fill, progress);
    let writing = write(verifier, sink, to_write, empty, progress);
    let ((), sink) = try_join(reading, writing).await?;
    offload(move || sink.finish()).await
}

async fn read(
    mut recv: RecvStream,
    size: u64,
    full: mpsc::Sender<Block>,
    mut to_fill: mpsc::Receiver<Vec<u8>>,
    progress: &Progress,
) -> Result<(), FetchError> {
    let mut batch = vec![Bytes::new(); READ_BATCH];
    let mut block = Block { offset: 0, data: Vec::with_capacity(WRITE_BLOCK) };
    let mut waits_since = None;
    while let Some(count) = recv.read_chunks(&mut batch).await? {
        if let Some(since) = waits_since {
            progress.on_stall(Instant::now().saturating_duration_since(since));
        }
        for slice in &mut batch[..count] {
            let mut slice = std::mem::take(slice);
            let end = block.offset + (block.data.len() + slice.len()) as u64;
            if end > size {
                return Err(FetchError::Length { received: end, size });
            }
            while slice.has_remaining() {
                let part = slice.len().min(WRITE_BLOCK - block.data.len());
                block.data.extend_from_slice(&slice[..part]);
                slice.advance(part);
                if block.data.len() == WRITE_BLOCK {
                    let data = to_fill.try_recv();
                    let data = data.unwrap_or_else(|_| Vec::with_capacity(WRITE_BLOCK));
                    let offset = block.offset + WRITE_BLOCK as u64;
                    // Nobody takes it once writing failed, which is reported there.
                    full.send(std::mem::replace(&mut block, Block { offset, data })).await.ok();
                }
            }
        }
        waits_since = Some(Instant::now());
    }
    let received = block.offset + block.data.len() as u64;
    if received != size {
        return Err(FetchError::Length { received, size });
    }
    if !block.data.is_empty() {
        full.send(block).await.ok();
    }
    Ok(())
}

async fn write(
    verifier: Verifier,
    mut sink: Sink,
    mut to_write: mpsc::Receiver<Block>,
    empty: mpsc::Sender<Vec<u8>>,
    progress: &Progress,
) -> Result<Sink, FetchError> {
    while let Some(mut block) = to_write.recv().await {
        let verifier = verifier.clone();
        let work = move || write_block(&verifier, &mut sink, &block).map(|()| (sink, block));
        (sink, block) = offload(work).await?;
        progress.on_verified(block.data.len() as u64);
        block.data.clear();
        // The reader may be done.
        empty.try_send(block.data).ok();
    }
    Ok(sink)
}

fn write_block(verifier: &Verifier, sink: &mut Sink, block: &Block) -> Result<(), FetchError> {
    let group = usize::try_from(GROUP_SIZE).expect("invariant: 64 KiB");
    for (index, data) in (verifier.group_of(block.offset)..).zip(block.data.chunks(group)) {
        verifier.verify_group(index, data)?;
    }
    sink.write(block)
}
