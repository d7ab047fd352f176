//! What verifies an object, page by page.

use std::sync::Arc;

use blake3::Hash;
use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{FetchError, InvalidOutboard, Outline, Verifier, limits::PAGES_AHEAD, repair::Mender};

/// An object's outboard, of which the page in use is held, and some that come after it: the object
/// goes on without the primary for as long as they last.
#[derive(Debug)]
pub(crate) struct Pages {
    outline: Arc<Outline>,
    page: Option<(u64, Verifier)>,
    ahead: Option<Ahead>,
}

impl Pages {
    /// From what came `first`: all of the outboard when that is one page, else what stands above.
    pub(crate) fn new(size: u64, root: Hash, first: Bytes) -> Result<Self, InvalidOutboard> {
        let (outline, page) = match Outline::new(size, root, Bytes::new()) {
            Ok(outline) => {
                let page = outline.page(0, first)?;
                (outline, Some((0, page)))
            }
            // Several pages: they are asked for from the first that is needed on.
            Err(_) => (Outline::new(size, root, first)?, None),
        };
        Ok(Self { outline: Arc::new(outline), page, ahead: None })
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
        let mut ahead = match self.ahead.take() {
            Some(ahead) if ahead.next == index => ahead,
            _ => Ahead::new(mender, &self.outline, index),
        };
        let page = match ahead.take().await {
            Some(Ok(page)) => page,
            // What went wrong a while ago may be well by now.
            _ => mender.client.page(&mender.manifest, &self.outline, index).await?,
        };
        (self.page, self.ahead) = (Some((index, page.clone())), Some(ahead));
        Ok(page)
    }
}

/// Pages that are fetched before they are needed, in their order. Ends when it is dropped.
#[derive(Debug)]
struct Ahead {
    next: u64,
    pages: mpsc::Receiver<Result<Verifier, FetchError>>,
    _task: JoinSet<()>,
}

impl Ahead {
    /// Begins with page `first`.
    fn new(mender: &Mender, outline: &Arc<Outline>, first: u64) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let (mender, outline) = (mender.clone(), Arc::clone(outline));
        let mut task = JoinSet::new();
        task.spawn(async move {
            for index in first..outline.pages() {
                let page = mender.client.page(&mender.manifest, &outline, index).await;
                let failed = page.is_err();
                if sender.send(page).await.is_err() || failed {
                    break;
                }
            }
        });
        Self { next: first, pages, _task: task }
    }

    /// The next page; none after one that failed.
    async fn take(&mut self) -> Option<Result<Verifier, FetchError>> {
        self.next += 1;
        self.pages.recv().await
    }
}
