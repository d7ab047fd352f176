//! From the stream to its destination: blocks are collected here, and verified and written off the
//! threads that run tasks. Blocks that do not verify are mended while others go on.

use std::{collections::BTreeMap, ops::Range, time::Instant};

use bytes::Buf;
use futures_util::{StreamExt, stream::FuturesUnordered};
use kwik::{Chunk, RecvStream};
use tokio::sync::mpsc;

use crate::{
    FetchError, Output, PartFile, Progress, Verifier,
    block::Block,
    fetch::ask::Answer,
    limits::{GROUP_SIZE, MAX_REPAIRS, READ_BATCH, RESUMED_BLOCKS, WRITE_BLOCK, WRITE_QUEUE},
    offload::offload,
    pages::Pages,
    repair::Mender,
    step::Step,
};

/// A range of an object that is coming.
#[derive(Debug)]
pub(crate) struct Coming {
    pub(crate) range: Range<u64>,
    pub(crate) recv: RecvStream,
    /// What the primary says when it cannot go on.
    pub(crate) answer: Answer,
}

/// Reads the whole of a stream, in order, into `output`; tells `progress`. When the stream breaks
/// off, what came before is written all the same.
pub(crate) async fn pump(
    mender: &Mender,
    pages: &mut Pages,
    coming: Coming,
    output: &Output,
    progress: &Progress,
) -> Result<(), FetchError> {
    let Coming { range, recv, mut answer } = coming;
    let (full, to_write) = mpsc::channel(WRITE_QUEUE);
    // Written blocks come back: faulting in fresh memory for each costs more than verifying it.
    let (empty, to_fill) = mpsc::channel(WRITE_QUEUE + 2);
    let next = range.start;
    let block_size =
        block_size(mender.manifest.size, output.part().is_some_and(PartFile::is_resumable));
    let in_order = output.is_in_order();
    let reader = Reader { mender, range, recv, block_size, in_order, full, to_fill, progress };
    let mut reading = Box::pin(reader.run());
    let waiting = BTreeMap::new();
    let writer = Writer { mender, pages, output, next, waiting, empty, progress };
    let mut writing = Box::pin(writer.run(to_write));
    let read = tokio::select! {
        read = &mut reading => read,
        // Before all is read, only when it fails.
        written = &mut writing => return written,
        failure = answer.failure() => Err(failure),
    };
    // No more blocks come.
    drop(reading);
    writing.await?;
    read
}

/// Collects blocks.
struct Reader<'a> {
    mender: &'a Mender,
    range: Range<u64>,
    recv: RecvStream,
    block_size: usize,
    /// Whether nothing is written before all that comes before it.
    in_order: bool,
    full: mpsc::Sender<Block>,
    to_fill: mpsc::Receiver<Vec<u8>>,
    progress: &'a Progress,
}

impl Reader<'_> {
    async fn run(mut self) -> Result<(), FetchError> {
        let start = self.range.start;
        let mut block = Block::new(start, Vec::with_capacity(self.block_size));
        let mut read = self.read(&mut block).await;
        let (end, all) = (block.range().end, self.range.end);
        if read.is_ok() && end != all {
            read = Err(FetchError::Length { received: end - start, size: all - start });
        }
        self.send_groups(block).await;
        // Behind a gap that nobody fills any more: whole groups of it need not come again.
        if !self.in_order && matches!(read, Err(FetchError::Read(_))) {
            self.read_behind_gaps().await;
        }
        read
    }

    /// Reads to the end; leaves the last block.
    async fn read(&mut self, block: &mut Block) -> Result<(), FetchError> {
        let mut batch = vec![Chunk::default(); READ_BATCH];
        let mut waits_since = None;
        loop {
            let reading = self.recv.read_sourced(&mut batch);
            let some = self.mender.client.patiently(Step::Object, reading).await?;
            let Some(count) = some? else { return Ok(()) };
            if let Some(since) = waits_since {
                self.progress.on_stall(Instant::now().saturating_duration_since(since));
            }
            let mut came = 0;
            for chunk in &mut batch[..count] {
                let chunk = std::mem::take(chunk);
                came += chunk.bytes.len();
                self.push(block, chunk).await?;
            }
            self.mender.client.spend(came).await;
            waits_since = Some(Instant::now());
        }
    }

    /// Reads what is here of the rest of a stream that broke off.
    async fn read_behind_gaps(&mut self) {
        let mut block = Block::default();
        while let Ok(Some(mut chunk)) = self.recv.read_chunk(usize::MAX, false).await {
            let mut offset = self.range.start.saturating_add(chunk.offset);
            if offset != block.range().end || block.data.is_empty() {
                // Only whole groups verify.
                let skipped = offset.next_multiple_of(GROUP_SIZE) - offset;
                let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
                chunk.bytes.advance(skipped.min(chunk.bytes.len()));
                offset += skipped as u64;
                self.send_groups(std::mem::replace(&mut block, Block::new(offset, Vec::new())))
                    .await;
            }
            if !chunk.bytes.is_empty() && self.push(&mut block, chunk).await.is_err() {
                return;
            }
        }
        self.send_groups(block).await;
    }

    /// Adds a chunk to a block, and sends each one that is full.
    async fn push(&mut self, block: &mut Block, chunk: Chunk) -> Result<(), FetchError> {
        let Chunk { mut bytes, path, .. } = chunk;
        self.progress.on_received(bytes.len() as u64);
        let (start, end) = (self.range.start, self.range.end);
        let (received, size) = (block.range().end + bytes.len() as u64 - start, end - start);
        if received > size {
            return Err(FetchError::Length { received, size });
        }
        while bytes.has_remaining() {
            let part = bytes.len().min(self.room(block));
            block.push(&bytes[..part], path);
            bytes.advance(part);
            if self.room(block) == 0 {
                let data = self.to_fill.try_recv();
                let data = data.unwrap_or_else(|_| Vec::with_capacity(self.block_size));
                let following = Block::new(block.range().end, data);
                // Nobody takes it once writing failed, which is reported there.
                self.progress.set_writing(true);
                self.full.send(std::mem::replace(block, following)).await.ok();
                self.progress.set_writing(false);
            }
        }
        Ok(())
    }

    /// Sends what a block has of whole groups, and of the object's end.
    async fn send_groups(&self, mut block: Block) {
        let end = block.range().end;
        if end != self.range.end {
            let whole = (end / GROUP_SIZE * GROUP_SIZE).saturating_sub(block.offset);
            block.truncate(usize::try_from(whole).unwrap_or(usize::MAX));
        }
        if !block.data.is_empty() {
            self.full.send(block).await.ok();
        }
    }

    /// What a block may still take: blocks end where multiples of their size do, also when the
    /// first one begins elsewhere, so that each lies in one page.
    fn room(&self, block: &Block) -> usize {
        let before = usize::try_from(block.offset % self.block_size as u64).unwrap_or(0);
        self.block_size - before - block.data.len()
    }
}

/// Bytes that are verified and written as one, a power of two. What is read and not written yet is
/// lost when a process is killed: of an object that another one goes on with, few blocks are a
/// small part.
fn block_size(object: u64, resumable: bool) -> usize {
    if !resumable {
        return WRITE_BLOCK;
    }
    let part = (object / RESUMED_BLOCKS).clamp(GROUP_SIZE, WRITE_BLOCK as u64);
    1 << part.ilog2()
}

/// Verifies and writes blocks.
struct Writer<'a> {
    mender: &'a Mender,
    pages: &'a mut Pages,
    output: &'a Output,
    /// Where writing in order goes on.
    next: u64,
    /// Verified, and ahead of that.
    waiting: BTreeMap<u64, Block>,
    empty: mpsc::Sender<Vec<u8>>,
    progress: &'a Progress,
}

impl Writer<'_> {
    async fn run(mut self, mut to_write: mpsc::Receiver<Block>) -> Result<(), FetchError> {
        let mender = self.mender;
        let mut mending = FuturesUnordered::new();
        let mut syncing = FuturesUnordered::new();
        let mut open = true;
        loop {
            // Each block that is mended, or waits behind one, is held.
            let room = mending.len() + self.waiting.len() < MAX_REPAIRS;
            tokio::select! {
                block = to_write.recv(), if open && room => match block {
                    Some(block) => {
                        let verifier = self.pages.verifier(mender, block.offset).await?;
                        if let Some((block, corrupt)) = self.take(block, verifier.clone()).await? {
                            mending.push(async move {
                                mender.mend(&verifier, block, &corrupt).await
                            });
                        }
                    }
                    None => open = false,
                },
                Some(mended) = mending.next() => self.put(mended?).await?,
                Some(synced) = syncing.next() => synced?,
                else => return Ok(()),
            }
            if let Some(part) = self.output.part()
                && part.is_sync_due()
                && syncing.is_empty()
            {
                let output = self.output.clone();
                let sync = move || output.part().map_or(Ok(()), PartFile::sync);
                syncing.push(async move { offload(sync).await });
            }
        }
    }

    /// Verifies a block, and writes it when it is its turn; gives it back with what of it is
    /// corrupt.
    async fn take(
        &mut self,
        block: Block,
        verifier: Verifier,
    ) -> Result<Option<(Block, Vec<Range<u64>>)>, FetchError> {
        let in_turn = !self.output.is_in_order() || block.offset == self.next;
        let work = move |output: &Output| {
            let corrupt = block.corrupt(&verifier);
            if corrupt.is_empty() && in_turn {
                output.write(&block)?;
            }
            Ok::<_, FetchError>((block, corrupt))
        };
        let (block, corrupt) = self.output.offload(work).await?;
        if !corrupt.is_empty() {
            return Ok(Some((block, corrupt)));
        }
        if in_turn {
            self.on_written(block);
        } else {
            self.waiting.insert(block.offset, block);
        }
        Ok(None)
    }

    /// Writes a verified block, and those that waited for it.
    async fn put(&mut self, block: Block) -> Result<(), FetchError> {
        self.waiting.insert(block.offset, block);
        while let Some(first) = self.waiting.first_entry() {
            if self.output.is_in_order() && *first.key() != self.next {
                break;
            }
            let block = first.remove();
            let work = move |output: &Output| output.write(&block).map(|()| block);
            let block = self.output.offload(work).await?;
            self.on_written(block);
        }
        Ok(())
    }

    fn on_written(&mut self, mut block: Block) {
        self.next = block.range().end;
        self.progress.on_verified(block.data.len() as u64);
        block.data.clear();
        // The reader may be done.
        self.empty.try_send(block.data).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_wait_are_a_small_part_of_an_object() {
        // One that is filled, one that is written, and those between.
        let waiting = |object| (block_size(object, true) * (WRITE_QUEUE + 2)) as u64;
        for object in [8 << 20, 9 << 20, 40 << 20, 127 << 20, 1 << 30, 1 << 40] {
            assert!(waiting(object) <= object / 20, "{object}");
        }
        for object in [0, 1, 1 << 20, 8 << 20] {
            assert_eq!(block_size(object, true) as u64, GROUP_SIZE);
            assert_eq!(block_size(object, false), WRITE_BLOCK);
        }
    }
}
