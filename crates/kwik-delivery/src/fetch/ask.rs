//! Requests, and the answers to them.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kwik::{RecvStream, WriteError};

use super::{FetchError, Progress};
use crate::{
    Client, InvalidMessage, ObjectName, Part, Request, Response, Step,
    limits::{MAX_MESSAGE, WORKING_PATIENCE},
};

/// An answer, and the stream on which more may follow.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    recv: RecvStream,
    /// What of it came already.
    buffer: BytesMut,
}

impl Client {
    pub(crate) async fn ask(&self, name: &ObjectName, part: Part) -> Result<Answer, FetchError> {
        self.ask_with(name, part, &Progress::default()).await
    }

    /// Sends a request and waits for its answer, for as long as the primary says that it works on
    /// that.
    pub(super) async fn ask_with(
        &self,
        name: &ObjectName,
        part: Part,
        progress: &Progress,
    ) -> Result<Answer, FetchError> {
        self.ask_for(Request { name: name.clone(), part }.encode(), progress).await
    }

    /// The same for any request.
    pub(crate) async fn ask_for(
        &self,
        request: Bytes,
        progress: &Progress,
    ) -> Result<Answer, FetchError> {
        let (mut send, recv) = self.patiently(Step::Answer, self.session().open_bi()).await??;
        match self.patiently(Step::Answer, send.write_all(&request)).await? {
            // A server that has read enough: its answer says more.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(error) => return Err(error.into()),
        }
        send.finish()?;
        self.read_answer(recv, BytesMut::new(), progress).await
    }

    /// What follows an answer on its stream.
    pub(crate) async fn more(&self, answer: Answer) -> Result<Answer, FetchError> {
        let Answer { recv, buffer, .. } = answer;
        self.read_answer(recv, buffer, &Progress::default()).await
    }

    async fn read_answer(
        &self,
        mut recv: RecvStream,
        mut buffer: BytesMut,
        progress: &Progress,
    ) -> Result<Answer, FetchError> {
        let mut work = Work { hashed: 0, since: Instant::now() };
        loop {
            match Response::decode(&mut buffer)? {
                Some(Response::Working { hashed, size }) => {
                    work.check(hashed.min(size), self.patience())?;
                    progress.on_hashed(hashed, size);
                }
                Some(response) => return Ok(Answer { response, recv, buffer }),
                None => {
                    let read = recv.read_chunk(MAX_MESSAGE, true);
                    match self.patiently(Step::Answer, read).await?? {
                        Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
                        None => return Err(FetchError::Answer(InvalidMessage::Malformed)),
                    }
                }
            }
        }
    }

    /// Reads `size` bytes, a page at the most; a wrong length shows in verification.
    pub(super) async fn read_outboard(
        &self,
        answer: &mut Answer,
        size: u64,
    ) -> Result<Bytes, FetchError> {
        let Answer { recv, buffer, .. } = answer;
        while (buffer.len() as u64) < size {
            let read = recv.read_chunk(MAX_MESSAGE, true);
            match self.patiently(Step::Outboard, read).await?? {
                Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
                None => break,
            }
        }
        let end = usize::try_from(size).unwrap_or(usize::MAX).min(buffer.len());
        Ok(buffer.split_to(end).freeze())
    }
}

/// What a primary has done for its answer.
struct Work {
    hashed: u64,
    /// Nothing was hashed since.
    since: Instant,
}

impl Work {
    /// It says that it works. Its word alone is no progress.
    fn check(&mut self, hashed: u64, patience: Duration) -> Result<(), FetchError> {
        if hashed > self.hashed {
            (self.hashed, self.since) = (hashed, Instant::now());
        }
        let waited = self.since.elapsed();
        if waited > patience.saturating_mul(WORKING_PATIENCE) {
            return Err(FetchError::Silent { step: Step::Answer, waited });
        }
        Ok(())
    }
}

impl Answer {
    /// What the primary says next, however long that takes; none when it has no more to say. Cancel
    /// safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>, FetchError> {
        loop {
            if let Some(response) = Response::decode(&mut self.buffer)? {
                return Ok(Some(response));
            }
            match self.recv.read_chunk(MAX_MESSAGE, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None => return Ok(None),
            }
        }
    }

    /// Waits until the primary says that it cannot go on; for ever when it does not. Cancel safe.
    pub(crate) async fn failure(&mut self) -> FetchError {
        match self.next().await {
            Ok(Some(response)) => response.unexpected(),
            Err(error @ FetchError::Answer(_)) => error,
            // It has no more to say: the object's stream says what becomes of it.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Response {
    /// Why it is no answer to what was asked.
    pub(crate) fn unexpected(self) -> FetchError {
        match self {
            Self::Failed(failure) => FetchError::Refused(failure),
            _ => FetchError::Answer(InvalidMessage::Malformed),
        }
    }
}
