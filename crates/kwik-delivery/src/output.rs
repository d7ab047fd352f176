//! Where a fetch writes.

use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    Attributes, FetchError, Manifest, PartFile, block::Block, offload::offload, partial::Begun,
};

/// Where verified bytes go, and which of them are there already: it outlives the session that a
/// fetch has, so that another one goes on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Output(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    /// In any order.
    File(PartFile),
    InOrder(Mutex<InOrder>),
}

/// What is written in order.
struct InOrder {
    output: Box<dyn io::Write + Send>,
    manifest: Option<Manifest>,
    next: u64,
}

impl Output {
    /// A file, in any order.
    #[must_use]
    pub fn file(part: PartFile) -> Self {
        Self(Arc::new(Kind::File(part)))
    }

    /// A pipe, say: in order, each block once it is verified. Writing may block.
    #[must_use]
    pub fn in_order(output: Box<dyn io::Write + Send>) -> Self {
        Self(Arc::new(Kind::InOrder(Mutex::new(InOrder { output, manifest: None, next: 0 }))))
    }

    /// The file, if it is one.
    #[must_use]
    pub fn part(&self) -> Option<&PartFile> {
        match &*self.0 {
            Kind::File(part) => Some(part),
            Kind::InOrder(_) => None,
        }
    }

    /// Runs `work`, which may block, off the threads that run tasks.
    pub(crate) async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let output = self.clone();
        offload(move || work(&output)).await
    }

    /// Whether some of the object may be there, so that not all of it is to be asked for.
    pub(crate) fn may_go_on(&self) -> bool {
        match &*self.0 {
            Kind::File(part) => part.may_go_on(),
            Kind::InOrder(output) => lock(output).next > 0,
        }
    }

    pub(crate) fn begin(&self, manifest: &Manifest) -> Result<Begun, FetchError> {
        let mut output = match &*self.0 {
            Kind::File(part) => return Ok(part.begin(manifest)?),
            Kind::InOrder(output) => lock(output),
        };
        let version = |manifest: &Manifest| (manifest.size, manifest.root);
        let same = output.manifest.as_ref().map(|held| version(held) == version(manifest));
        if same == Some(false) && output.next > 0 {
            return Err(FetchError::Changed);
        }
        output.manifest = Some(manifest.clone());
        Ok(if output.next > 0 { Begun::GoesOn } else { Begun::Fresh })
    }

    pub(crate) fn verified(&self) -> u64 {
        match &*self.0 {
            Kind::File(part) => part.verified(),
            Kind::InOrder(output) => lock(output).next,
        }
    }

    /// What is missing, once it has begun.
    pub(crate) fn missing(&self) -> Vec<Range<u64>> {
        let output = match &*self.0 {
            Kind::File(part) => return part.missing(),
            Kind::InOrder(output) => lock(output),
        };
        let size = output.manifest.as_ref().map_or(0, |manifest| manifest.size);
        Some(output.next..size).filter(|range| !range.is_empty()).into_iter().collect()
    }

    pub(crate) fn is_in_order(&self) -> bool {
        matches!(&*self.0, Kind::InOrder(_))
    }

    pub(crate) fn write(&self, block: &Block) -> Result<(), FetchError> {
        let mut output = match &*self.0 {
            Kind::File(part) => return Ok(part.write_verified(block.offset, &block.data)?),
            Kind::InOrder(output) => lock(output),
        };
        output.output.write_all(&block.data).map_err(FetchError::Output)?;
        output.next = block.range().end;
        Ok(())
    }

    pub(crate) fn finish(&self, attributes: Attributes) -> Result<(), FetchError> {
        match &*self.0 {
            Kind::File(part) => Ok(part.complete(attributes)?),
            Kind::InOrder(output) => lock(output).output.flush().map_err(FetchError::Output),
        }
    }
}

impl fmt::Debug for InOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("InOrder");
        debug.field("manifest", &self.manifest).field("next", &self.next).finish_non_exhaustive()
    }
}

fn lock(output: &Mutex<InOrder>) -> MutexGuard<'_, InOrder> {
    // A panic may have come between a write and what was noted of it: then the bytes that follow
    // would be wrong, but the panic goes on in whoever waited for the write.
    output.lock().unwrap_or_else(PoisonError::into_inner)
}
