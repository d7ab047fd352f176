//! From the stream to its destination: blocks are collected here, and verified and written off the
//! threads that run tasks. Blocks that do not verify are mended while others go on.

use std::{collections::BTreeMap, io, ops::Range, time::Instant};

use bytes::Buf;
use futures_util::{StreamExt, future::try_join, stream::FuturesUnordered};
use kwik::{Chunk, RecvStream};
use tokio::sync::mpsc;

use crate::{
    Fetch, FetchError, Outline, PartFile, Progress, Verifier,
    block::Block,
    fetch::Step,
    limits::{MAX_REPAIRS, READ_BATCH, WRITE_BLOCK, WRITE_QUEUE},
    offload::offload,
    repair::Mender,
};

/// Where verified bytes go.
pub(crate) enum Sink {
    /// In any order.
    File(PartFile),
    /// In order.
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

/// Reads the whole of a fetch's stream, in order, into `sink`; tells `progress`.
pub(crate) async fn pump(fetch: Fetch, sink: Sink, progress: &Progress) -> Result<(), FetchError> {
    let Fetch { mender, outline, page, recv, mut answer } = fetch;
    let (full, to_write) = mpsc::channel(WRITE_QUEUE);
    // Written blocks come back: faulting in fresh memory for each costs more than verifying it.
    let (empty, to_fill) = mpsc::channel(WRITE_QUEUE + 2);
    let reading = read(&mender, recv, full, to_fill, progress);
    let writer = Writer {
        mender: &mender,
        outline,
        page: page.map(|page| (0, page)),
        sink,
        next: 0,
        waiting: BTreeMap::new(),
        empty,
        progress,
    };
    let all = try_join(reading, writer.run(to_write));
    let ((), sink) = tokio::select! {
        result = all => result?,
        failure = answer.failure() => return Err(failure),
    };
    offload(move || sink.finish()).await
}

async fn read(
    mender: &Mender,
    mut recv: RecvStream,
    full: mpsc::Sender<Block>,
    mut to_fill: mpsc::Receiver<Vec<u8>>,
    progress: &Progress,
) -> Result<(), FetchError> {
    let size = mender.manifest.size;
    let mut batch = vec![Chunk::default(); READ_BATCH];
    let mut block = Block::new(0, Vec::with_capacity(WRITE_BLOCK));
    let mut waits_since = None;
    loop {
        let some = mender.client.patiently(Step::Object, recv.read_sourced(&mut batch)).await?;
        let Some(count) = some? else { break };
        if let Some(since) = waits_since {
            progress.on_stall(Instant::now().saturating_duration_since(since));
        }
        for chunk in &mut batch[..count] {
            let Chunk { mut bytes, path, .. } = std::mem::take(chunk);
            let received = block.range().end + bytes.len() as u64;
            if received > size {
                return Err(FetchError::Length { received, size });
            }
            while bytes.has_remaining() {
                let part = bytes.len().min(WRITE_BLOCK - block.data.len());
                block.push(&bytes[..part], path);
                bytes.advance(part);
                if block.data.len() == WRITE_BLOCK {
                    let data = to_fill.try_recv();
                    let data = data.unwrap_or_else(|_| Vec::with_capacity(WRITE_BLOCK));
                    let following = Block::new(block.range().end, data);
                    // Nobody takes it once writing failed, which is reported there.
                    full.send(std::mem::replace(&mut block, following)).await.ok();
                }
            }
        }
        waits_since = Some(Instant::now());
    }
    let received = block.range().end;
    if received != size {
        return Err(FetchError::Length { received, size });
    }
    if !block.data.is_empty() {
        full.send(block).await.ok();
    }
    Ok(())
}

/// Verifies and writes blocks.
struct Writer<'a> {
    mender: &'a Mender,
    outline: Outline,
    /// The page in use.
    page: Option<(u64, Verifier)>,
    sink: Sink,
    /// Where writing in order goes on.
    next: u64,
    /// Verified, and ahead of that.
    waiting: BTreeMap<u64, Block>,
    empty: mpsc::Sender<Vec<u8>>,
    progress: &'a Progress,
}

impl Writer<'_> {
    async fn run(mut self, mut to_write: mpsc::Receiver<Block>) -> Result<Sink, FetchError> {
        let mender = self.mender;
        let mut mending = FuturesUnordered::new();
        let mut open = true;
        loop {
            // Each block that is mended, or waits behind one, is held.
            let room = mending.len() + self.waiting.len() < MAX_REPAIRS;
            tokio::select! {
                block = to_write.recv(), if open && room => match block {
                    Some(block) => {
                        let verifier = self.verifier(block.offset).await?;
                        let corrupt;
                        (self, corrupt) = self.take(block, verifier.clone()).await?;
                        if let Some((block, corrupt)) = corrupt {
                            mending.push(async move {
                                mender.mend(&verifier, block, &corrupt).await
                            });
                        }
                    }
                    None => open = false,
                },
                Some(mended) = mending.next() => self = self.put(mended?).await?,
                else => return Ok(self.sink),
            }
        }
    }

    /// The verifier of the block at `offset`.
    async fn verifier(&mut self, offset: u64) -> Result<Verifier, FetchError> {
        let index = self.outline.page_of(offset);
        if let Some((_, page)) = self.page.as_ref().filter(|(held, _)| *held == index) {
            return Ok(page.clone());
        }
        let Mender { client, manifest } = self.mender;
        let page = client.page(manifest, &self.outline, index).await?;
        self.page = Some((index, page.clone()));
        Ok(page)
    }

    /// Verifies a block, and writes it when it is its turn; gives it back with what of it is
    /// corrupt.
    async fn take(
        mut self,
        block: Block,
        verifier: Verifier,
    ) -> Result<(Self, Option<(Block, Vec<Range<u64>>)>), FetchError> {
        let in_turn = self.is_in_turn(&block);
        let mut sink = self.sink;
        let work = move || {
            let corrupt = block.corrupt(&verifier);
            if corrupt.is_empty() && in_turn {
                sink.write(&block)?;
            }
            Ok::<_, FetchError>((sink, block, corrupt))
        };
        let (sink, block, corrupt) = offload(work).await?;
        self.sink = sink;
        if !corrupt.is_empty() {
            return Ok((self, Some((block, corrupt))));
        }
        if in_turn {
            self.on_written(block);
        } else {
            self.waiting.insert(block.offset, block);
        }
        Ok((self, None))
    }

    /// Writes a verified block, and those that waited for it.
    async fn put(mut self, block: Block) -> Result<Self, FetchError> {
        self.waiting.insert(block.offset, block);
        while let Some(first) = self.waiting.first_entry() {
            if matches!(self.sink, Sink::Writer(_)) && *first.key() != self.next {
                break;
            }
            let block = first.remove();
            let mut sink = self.sink;
            let work = move || sink.write(&block).map(|()| (sink, block));
            let (sink, block) = offload(work).await?;
            self.sink = sink;
            self.on_written(block);
        }
        Ok(self)
    }

    fn is_in_turn(&self, block: &Block) -> bool {
        matches!(self.sink, Sink::File(_)) || block.offset == self.next
    }

    fn on_written(&mut self, mut block: Block) {
        self.next = block.range().end;
        self.progress.on_verified(block.data.len() as u64);
        block.data.clear();
        // The reader may be done.
        self.empty.try_send(block.data).ok();
    }
}
