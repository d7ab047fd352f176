//! Several small objects at once.

use bytes::{Bytes, BytesMut};
use kwik::{RecvStream, StreamId};

use super::{FetchError, Progress};
use crate::{
    Attributes, Client, Manifest, ObjectName, Pack, Packed, Response, Step, limits::MAX_MESSAGE,
};

/// An object that came whole, and verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// What it is.
    pub manifest: Manifest,
    /// What else the primary says of it.
    pub attributes: Attributes,
    /// All of it.
    pub data: Bytes,
}

/// What came of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFetch {
    /// Of each name; none of those that are to be asked for alone: they are not there, or too
    /// large, or did not verify.
    pub files: Vec<Option<Whole>>,
    /// Some did not verify: a server lies, or a file changed as it was read.
    pub damaged: bool,
}

impl Client {
    /// Asks for small objects, at most [`MAX_PACK`](crate::limits::MAX_PACK): they come one behind
    /// the other, from all servers. Each one's `progress` is told. Who lied is not found out here:
    /// what is asked for alone shows that. Cancel safety: as [`fetch`](Self::fetch).
    ///
    /// # Errors
    /// As there; a primary of an older version refuses.
    pub async fn fetch_pack(
        &self,
        names: &[ObjectName],
        progress: &[&Progress],
    ) -> Result<PackFetch, FetchError> {
        let request = Pack { names: names.to_vec() }.encode();
        let mut answer = self.ask_for(request, &Progress::default()).await?;
        let packed = match std::mem::replace(&mut answer.response, Response::Noted) {
            Response::Packed(packed) if packed.files.len() == names.len() => packed,
            other => return Err(other.unexpected()),
        };
        let size = packed.size();
        let mut data = Bytes::new();
        if size > 0 {
            let recv = self.stream(StreamId::from_u64(packed.stream_id)).await?;
            data = tokio::select! {
                data = self.read_pack(recv, size) => data?,
                failure = answer.failure() => return Err(failure),
            };
        }
        Ok(take_apart(names, packed, data, progress))
    }

    async fn read_pack(&self, mut recv: RecvStream, size: u64) -> Result<Bytes, FetchError> {
        let mut data = BytesMut::new();
        loop {
            let read = recv.read_chunk(MAX_MESSAGE, true);
            let Some(chunk) = self.patiently(Step::Object, read).await?? else { break };
            data.extend_from_slice(&chunk.bytes);
            self.spend(chunk.bytes.len()).await;
            if data.len() as u64 > size {
                break;
            }
        }
        let received = data.len() as u64;
        if received != size {
            return Err(FetchError::Length { received, size });
        }
        Ok(data.freeze())
    }
}

/// Each object of a pack, if it is as the primary said.
fn take_apart(
    names: &[ObjectName],
    packed: Packed,
    mut data: Bytes,
    progress: &[&Progress],
) -> PackFetch {
    let mut damaged = false;
    let each = names.iter().zip(packed.files).enumerate();
    let files = each.map(|(at, (name, file))| {
        let file = file?;
        let size = usize::try_from(file.size).unwrap_or(usize::MAX).min(data.len());
        let data = data.split_to(size);
        if let Some(progress) = progress.get(at) {
            progress.on_received(data.len() as u64);
        }
        if blake3::hash(&data) != file.root {
            damaged = true;
            return None;
        }
        if let Some(progress) = progress.get(at) {
            progress.on_verified(data.len() as u64);
        }
        let manifest = Manifest { name: name.clone(), size: file.size, root: file.root };
        Some(Whole { manifest, attributes: file.attributes, data })
    });
    let files = files.collect();
    PackFetch { files, damaged }
}
