//! The receiving side: an object, verified before it is written.

use std::{io, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use kwik::StreamId;

use crate::{
    Attributes, Client, Found, InvalidMessage, Manifest, ObjectName, Outline, Output, Part,
    PartFile, Response, Verifier,
    limits::MAX_INLINE,
    offload::offload,
    pages::Pages,
    partial::Begun,
    pump::{Coming, pump},
    repair::Mender,
    takeover::verify_claims,
};

pub(crate) mod ask;
mod error;
mod list;
mod news;
mod pack;
mod progress;

use ask::Answer;
pub use error::FetchError;
pub use list::{InvalidListing, Listing};
pub use news::News;
pub use pack::{PackFetch, Whole};
pub use progress::{Progress, Takeover};

impl Client {
    /// Asks for an object; its bytes begin to arrive with the answer. Cancel safety: when dropped,
    /// the object's stream may stay until the session ends.
    ///
    /// # Errors
    /// When the primary refuses, answers nonsense or nothing, or the session ends.
    pub async fn fetch(&self, name: &ObjectName) -> Result<Fetch, FetchError> {
        self.fetch_with(name, &Progress::default()).await
    }

    /// As [`fetch`](Self::fetch), and tells `progress` of what the primary has to do first. Cancel
    /// safety: as there.
    ///
    /// # Errors
    /// As there.
    pub async fn fetch_with(
        &self,
        name: &ObjectName,
        progress: &Progress,
    ) -> Result<Fetch, FetchError> {
        self.find(name, Part::Whole, progress).await
    }

    /// The same for an `output` that may have some of it already: its bytes begin to arrive with
    /// the answer only when it has not. Cancel safety: as there.
    ///
    /// # Errors
    /// As there.
    pub async fn fetch_to(
        &self,
        name: &ObjectName,
        output: &Output,
        progress: &Progress,
    ) -> Result<Fetch, FetchError> {
        let part = match output.may_go_on() {
            true => Part::Range { root: None, range: 0..0 },
            false => Part::Whole,
        };
        self.find(name, part, progress).await
    }

    /// Asks for an object which is small, most likely: one of a single group comes with the answer,
    /// and is in memory then. Cancel safety: as [`fetch`](Self::fetch).
    ///
    /// # Errors
    /// As there.
    pub async fn fetch_small(
        &self,
        name: &ObjectName,
        progress: &Progress,
    ) -> Result<Fetch, FetchError> {
        let most = u32::try_from(MAX_INLINE).unwrap_or(u32::MAX);
        self.find(name, Part::Inline { most }, progress).await
    }

    /// Asks what an object is, and for none of its bytes. Cancel safe.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn describe(
        &self,
        name: &ObjectName,
        progress: &Progress,
    ) -> Result<Manifest, FetchError> {
        let part = Part::Range { root: None, range: 0..0 };
        let fetch = self.find(name, part, progress).await?;
        Ok(fetch.manifest().clone())
    }

    async fn find(
        &self,
        name: &ObjectName,
        part: Part,
        progress: &Progress,
    ) -> Result<Fetch, FetchError> {
        let is_coming = matches!(part, Part::Whole | Part::Inline { .. });
        let may_be_inline = matches!(part, Part::Inline { .. });
        let mut answer = self.ask_with(name, part, progress).await?;
        let (found, first) = self.found(name, &mut answer).await?;
        let Found { name, size, root, stream_id, inline, attributes } = found;
        if inline && !may_be_inline {
            return Err(FetchError::Answer(InvalidMessage::Malformed));
        }
        let mut here = None;
        let coming = if inline {
            let data = self.read_outboard(&mut answer, size).await?;
            progress.on_received(data.len() as u64);
            self.spend(data.len()).await;
            here = Some(data);
            None
        } else if is_coming {
            let recv = self.stream(StreamId::from_u64(stream_id)).await?;
            Some(Coming { range: 0..size, recv, answer })
        } else {
            None
        };
        let pages = Pages::new(size, root, first)?;
        let manifest = Arc::new(Manifest { name, size, root });
        let mender = Mender { client: self.clone(), manifest };
        Ok(Fetch { mender, pages, coming, here, attributes })
    }

    /// What was found, and the first part of its outboard.
    async fn found(
        &self,
        name: &ObjectName,
        answer: &mut Answer,
    ) -> Result<(Found, Bytes), FetchError> {
        let found = match &answer.response {
            Response::Found(found) => found.clone(),
            other => return Err(other.clone().unexpected()),
        };
        if found.name != *name {
            return Err(FetchError::Answer(InvalidMessage::Malformed));
        }
        let first = self.read_outboard(answer, found.outboard_size()).await?;
        Ok((found, first))
    }

    /// A range of an object of which the rest is known.
    async fn range(&self, manifest: &Manifest, range: Range<u64>) -> Result<Coming, FetchError> {
        let Manifest { name, size, root } = manifest;
        let part = Part::Range { root: Some(*root), range: range.clone() };
        let mut answer = self.ask(name, part).await?;
        let (found, _) = self.found(name, &mut answer).await?;
        if (found.size, found.root) != (*size, *root) || found.inline {
            return Err(FetchError::Answer(InvalidMessage::Malformed));
        }
        let recv = self.stream(StreamId::from_u64(found.stream_id)).await?;
        Ok(Coming { range, recv, answer })
    }

    /// Page `index` of an outboard that has several.
    pub(crate) async fn page(
        &self,
        manifest: &Manifest,
        outline: &Outline,
        index: u64,
    ) -> Result<Verifier, FetchError> {
        let part = Part::Page { root: manifest.root, index };
        let mut answer = self.ask(&manifest.name, part).await?;
        let size = match answer.response {
            Response::Page { size } => size,
            other => return Err(other.unexpected()),
        };
        let values = self.read_outboard(&mut answer, size).await?;
        Ok(outline.page(index, values)?)
    }
}

/// An object under way.
#[derive(Debug)]
pub struct Fetch {
    mender: Mender,
    pages: Pages,
    /// What comes already.
    coming: Option<Coming>,
    /// All of it, when it came with the answer: not verified yet.
    here: Option<Bytes>,
    attributes: Attributes,
}

impl Fetch {
    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.mender.manifest
    }

    /// What else the primary says of it.
    #[must_use]
    pub const fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// All of it, when that came with the answer and verifies.
    #[must_use]
    pub fn here(&self, progress: &Progress) -> Option<Bytes> {
        let Manifest { size, root, .. } = self.manifest();
        let fits = |data: &&Bytes| data.len() as u64 == *size && blake3::hash(data) == *root;
        let here = self.here.as_ref().filter(fits)?;
        progress.on_verified(*size);
        Some(here.clone())
    }

    /// Writes it to `target`, which appears, or is replaced, only when all of it is verified.
    /// Cancel safety: when dropped, nothing is left under either name.
    ///
    /// # Errors
    /// When bytes are missing or only liars could bring them, the session ends, or the file cannot
    /// be written.
    pub async fn save(self, target: &Path, progress: &Progress) -> Result<(), FetchError> {
        let (target, size) = (target.to_path_buf(), self.manifest().size);
        let file = offload(move || PartFile::create(target, size)).await?;
        self.write(&Output::file(file), progress).await
    }

    /// Writes it to `output` in order, each block once it is verified; `output` may block. When it
    /// fails, what came before is written already. Cancel safety: as when it fails.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn write_to(
        self,
        output: Box<dyn io::Write + Send>,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        self.write(&Output::in_order(output), progress).await
    }

    /// Writes what `output` has not of it yet, and finishes that. After a failure of the session
    /// or of a server, [`Client::fetch_to`] goes on. Cancel safety: as when it fails.
    ///
    /// # Errors
    /// As [`save`](Self::save), and when `output` is written in order and has the beginning of
    /// another version.
    pub async fn write(self, output: &Output, progress: &Progress) -> Result<(), FetchError> {
        let Self { mender, mut pages, mut coming, attributes, .. } = self;
        let manifest = Arc::clone(&mender.manifest);
        let begun = output.offload(move |output| output.begin(&manifest)).await?;
        let mut claimed = 0;
        if matches!(begun, Begun::TakesOver | Begun::Finds) {
            claimed = verify_claims(&mender, &mut pages, output, progress).await?;
        }
        progress.on_begun(begun, output.verified(), claimed);
        while let Some(range) = output.missing().into_iter().next() {
            let coming = match coming.take() {
                Some(coming) if coming.range == range => coming,
                _ => mender.client.range(&mender.manifest, range).await?,
            };
            pump(&mender, &mut pages, coming, output, progress).await?;
        }
        output.offload(move |output| output.finish(attributes)).await
    }
}
