//! What verifies an object, page by page.

use blake3::Hash;
use bytes::Bytes;

use crate::{FetchError, InvalidOutboard, Outline, Verifier, repair::Mender};

/// An object's outboard, of which the page in use is held.
#[derive(Debug)]
pub(crate) struct Pages {
    outline: Outline,
    page: Option<(u64, Verifier)>,
}

impl Pages {
    /// From what came `first`: all of the outboard when that is one page, else what stands above.
    pub(crate) fn new(size: u64, root: Hash, first: Bytes) -> Result<Self, InvalidOutboard> {
        match Outline::new(size, root, Bytes::new()) {
            Ok(outline) => {
                let page = outline.page(0, first)?;
                Ok(Self { outline, page: Some((0, page)) })
            }
            // Several pages: they are asked for as they are needed.
            Err(_) => Ok(Self { outline: Outline::new(size, root, first)?, page: None }),
        }
    }

    /// The verifier of the block at `offset`.
    pub(crate) async fn verifier(
        &mut self,
        mender: &Mender,
        offset: u64,
    ) -> Result<Verifier, FetchError> {
        let index = self.outline.page_of(offset);
        if let Some((_, page)) = self.page.as_ref().filter(|(held, _)| *held == index) {
            return Ok(page.clone());
        }
        let page = mender.client.page(&mender.manifest, &self.outline, index).await?;
        self.page = Some((index, page.clone()));
        Ok(page)
    }
}
