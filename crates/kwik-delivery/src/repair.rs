//! Groups that do not verify: who brought them, and bringing them again from others.

use std::{
    collections::{BTreeSet, btree_map::Entry},
    ops::Range,
    sync::Arc,
};

use kwik::{PathId, RecvStream, StreamId, escape};

use crate::{
    Blame, FailureCode, FetchError, Manifest, Part, Repair, Response, Verifier,
    block::{Block, joined},
    client::Client,
    limits::{GROUP_SIZE, MAX_EXCLUDED, PATIENCE_AGAIN},
    step::Step,
};

/// Blocks that did not verify, at most, that are compared with what did in the end.
const MAX_COMPARED: usize = 4;

/// A verified download that mends what does not verify.
#[derive(Debug, Clone)]
pub(crate) struct Mender {
    pub(crate) client: Client,
    pub(crate) manifest: Arc<Manifest>,
}

/// What came of a range that was asked for again.
enum Again {
    /// All of it, verified or not.
    Came(Block),
    /// Nobody may bring it, or nobody could.
    Nobody,
}

impl Mender {
    /// Fetches the `corrupt` groups of `block` again, from others than brought them, until they
    /// verify. Tells the primary who lied.
    ///
    /// # Errors
    /// When only liars are left, or the session fails.
    pub(crate) async fn mend(
        &self,
        verifier: &Verifier,
        mut block: Block,
        corrupt: &[Range<u64>],
    ) -> Result<Block, FetchError> {
        let mut blamed = self.blame_sole_sources(verifier, &block, corrupt);
        for range in joined(corrupt) {
            let good = self.fetch_good(verifier, &block, &range, &mut blamed).await?;
            let place = block.place(&range);
            block.data[place].copy_from_slice(&good);
        }
        if !blamed.is_empty() {
            let nothing = block.offset..block.offset;
            match self.again(nothing, &BTreeSet::new(), blamed).await {
                // The bytes are good, whatever the primary says to that.
                Ok(_) | Err(FetchError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(block)
    }

    /// Whoever brought all of a group that does not verify has lied.
    fn blame_sole_sources(
        &self,
        verifier: &Verifier,
        block: &Block,
        corrupt: &[Range<u64>],
    ) -> Vec<Blame> {
        let mut blamed = Vec::new();
        for range in corrupt {
            let sources = block.sources(range);
            if let (Some(Some(path)), 1) = (sources.first(), sources.len()) {
                let data = &block.data[block.place(range)];
                let received = Some(verifier.hash(range.start / GROUP_SIZE, data));
                blamed.extend(self.note_liar(verifier, *path, range, received));
            }
        }
        blamed
    }

    /// Whoever brought bytes that differ from the `good` ones has lied.
    fn blame_by_comparison(
        &self,
        verifier: &Verifier,
        block: &Block,
        range: &Range<u64>,
        good: &[u8],
    ) -> Vec<Blame> {
        let start = block.place(range).start;
        let differs = |part: &Range<usize>| {
            block.data[part.clone()] != good[part.start - start..part.end - start]
        };
        let differing = block.parts(range).filter(|(part, _)| differs(part));
        let blame = |(part, path): (Range<usize>, Option<PathId>)| {
            let group = verifier.group_of(block.offset + part.start as u64);
            self.note_liar(verifier, path?, &verifier.group_range(group), None)
        };
        differing.filter_map(blame).collect()
    }

    /// None when that is known already.
    fn note_liar(
        &self,
        verifier: &Verifier,
        path: PathId,
        range: &Range<u64>,
        received: Option<[u8; 32]>,
    ) -> Option<Blame> {
        // Now: once the primary knows, the path is gone.
        let address = self.client.address(path);
        // Several blocks are mended at once: the first to find it names it.
        match self.client.liars().entry(path) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => {
                place.insert(address.clone());
            }
        }
        let (name, address) = (escape(&self.manifest.name), escape(address));
        tracing::warn!(
            %address, %path, %name, ?range,
            "a server sent other bytes than the object's: the others bring them again"
        );
        let expected = verifier.expected(range.start / GROUP_SIZE).unwrap_or_default();
        Some(Blame { path, range: range.clone(), expected, received })
    }

    /// The bytes of `range`, verified: from those that brought none of it, else from each one
    /// alone. Who brought others is blamed then.
    async fn fetch_good(
        &self,
        verifier: &Verifier,
        block: &Block,
        range: &Range<u64>,
        blamed: &mut Vec<Blame>,
    ) -> Result<Vec<u8>, FetchError> {
        let mut failed = Vec::new();
        let mut suspects: BTreeSet<_> = block.sources(range).into_iter().flatten().collect();
        let mut alone = None;
        let good = loop {
            suspects.extend(self.client.liars().keys());
            // A primary that names ever more edges which lie is not believed for ever.
            if suspects.len() >= MAX_EXCLUDED {
                return Err(self.only_liars(range, blamed).await);
            }
            let excluded = match &mut alone {
                None => suspects.clone(),
                Some(left) => match self.next_alone(left) {
                    Some(excluded) => excluded,
                    None => return Err(self.only_liars(range, blamed).await),
                },
            };
            match self.again(range.clone(), &excluded, std::mem::take(blamed)).await? {
                Again::Came(came) => {
                    let corrupt = came.corrupt(verifier);
                    if corrupt.is_empty() {
                        break came.data;
                    }
                    blamed.extend(self.blame_sole_sources(verifier, &came, &corrupt));
                    let known = suspects.len();
                    suspects.extend(came.sources(range).into_iter().flatten());
                    if suspects.len() == known {
                        alone.get_or_insert_with(|| self.client.paths());
                    }
                    failed.push(came);
                    if failed.len() > MAX_COMPARED {
                        failed.remove(0);
                    }
                }
                Again::Nobody => {
                    alone.get_or_insert_with(|| self.client.paths());
                }
            }
        };
        for block in failed.iter().chain([block]) {
            blamed.extend(self.blame_by_comparison(verifier, block, range, &good));
        }
        Ok(good)
    }

    /// The next path that is asked alone, as those whom that excludes; none when all were.
    fn next_alone(&self, left: &mut BTreeSet<PathId>) -> Option<BTreeSet<PathId>> {
        loop {
            let next = left.pop_first()?;
            if !self.client.liars().contains_key(&next) {
                return Some(
                    self.client.paths().into_iter().filter(|path| *path != next).collect(),
                );
            }
        }
    }

    /// Nobody is left: tells the primary of the last one too.
    async fn only_liars(&self, range: &Range<u64>, blamed: &mut Vec<Blame>) -> FetchError {
        let nothing = range.start..range.start;
        match self.again(nothing, &BTreeSet::new(), std::mem::take(blamed)).await {
            Err(error @ FetchError::Refused(_)) => return error,
            Err(error) => tracing::debug!(%error, "the primary was not told who lied"),
            Ok(_) => {}
        }
        let servers = self.client.liars().values().cloned().collect();
        FetchError::Liars { range: range.clone(), servers }
    }

    /// Asks for `range` once more.
    async fn again(
        &self,
        range: Range<u64>,
        excluded: &BTreeSet<PathId>,
        blamed: Vec<Blame>,
    ) -> Result<Again, FetchError> {
        let excluded = excluded.iter().copied().collect();
        let repair = Repair { root: self.manifest.root, range: range.clone(), excluded, blamed };
        // Another may bring it sooner than a server that says nothing.
        let client = self.client.clone().with_patience(self.client.patience().min(PATIENCE_AGAIN));
        match client.fetch_again(&self.manifest, repair).await {
            Ok(block) => Ok(Again::Came(block)),
            Err(FetchError::Refused(failure))
                if matches!(failure.code, FailureCode::NoSource | FailureCode::Unreadable) =>
            {
                Ok(Again::Nobody)
            }
            // Whoever should have brought it could not.
            Err(FetchError::Read(error)) if self.client.session().close_reason().is_none() => {
                tracing::debug!(%error, ?range, "a range did not come");
                Ok(Again::Nobody)
            }
            Err(FetchError::Silent { .. } | FetchError::Length { .. }) => Ok(Again::Nobody),
            Err(error) => Err(error),
        }
    }
}

impl Client {
    /// Asks for a range once more: what comes is verified by nobody.
    pub(crate) async fn fetch_again(
        &self,
        manifest: &Manifest,
        repair: Repair,
    ) -> Result<Block, FetchError> {
        let range = repair.range.clone();
        let mut answer = self.ask(&manifest.name, Part::Repair(repair)).await?;
        let stream_id = match answer.response {
            Response::Again { stream_id } if !range.is_empty() => stream_id,
            Response::Noted if range.is_empty() => return Ok(Block::new(range.start, Vec::new())),
            other => return Err(other.unexpected()),
        };
        let mut recv = self.stream(StreamId::from_u64(stream_id)).await?;
        tokio::select! {
            block = self.read_range(&mut recv, &range) => block,
            failure = answer.failure() => Err(failure),
        }
    }

    async fn read_range(
        &self,
        recv: &mut RecvStream,
        range: &Range<u64>,
    ) -> Result<Block, FetchError> {
        let size = range.end - range.start;
        let mut block = Block::new(range.start, Vec::new());
        loop {
            let chunk = self.patiently(Step::Again, recv.read_chunk(usize::MAX, true)).await?;
            let Some(chunk) = chunk? else { break };
            let received = (block.data.len() + chunk.bytes.len()) as u64;
            if received > size {
                return Err(FetchError::Length { received, size });
            }
            block.push(&chunk.bytes, chunk.path);
        }
        match block.data.len() as u64 {
            received if received < size => Err(FetchError::Length { received, size }),
            _ => Ok(block),
        }
    }
}
