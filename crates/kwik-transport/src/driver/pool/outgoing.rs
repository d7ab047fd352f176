//! One QUIC stream that is written: opened with its first bytes, and never left within a message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::wire::StreamKind;

use crate::quic::{Connection, ConnectionError, SendStream, WriteError};

type Opening = Pin<Box<dyn Future<Output = Result<SendStream, ConnectionError>> + Send + Sync>>;

enum State {
    Unopened,
    /// Waiting for the peer to allow a QUIC stream.
    Opening(Opening),
    Open(SendStream),
    /// Its connection is gone, and another may come.
    Stalled,
    /// Finished or reset here.
    Ended,
    Failed(WriteError),
}

/// A QUIC stream, and what is to be written to it next.
pub(in crate::driver) struct Outgoing {
    connection: Connection,
    kind: StreamKind,
    state: State,
    priority: i32,
    pending: Vec<Bytes>,
    /// It waits for another connection when its own is gone.
    waits: bool,
}

impl Outgoing {
    pub(in crate::driver) fn new(connection: Connection, kind: StreamKind, priority: i32) -> Self {
        let (state, pending) = (State::Unopened, Vec::new());
        Self { connection, kind, state, priority, pending, waits: false }
    }

    /// The same, which goes on by [`Self::restart`] when its connection is gone.
    pub(in crate::driver) fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    /// Begins anew on another connection; what was pending is for the caller to repeat. False when
    /// it takes no more.
    pub(in crate::driver) fn restart(&mut self, connection: &Connection) -> bool {
        if self.is_over() {
            return false;
        }
        self.connection = connection.clone();
        self.pending.clear();
        self.state = State::Unopened;
        true
    }

    /// The connection that it is on.
    pub(in crate::driver) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Chunks to write in this order.
    pub(in crate::driver) fn pending(&mut self) -> &mut Vec<Bytes> {
        &mut self.pending
    }

    /// The peer allows no QUIC stream for the time being.
    pub(in crate::driver) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// The peer has allowed it, and it takes more.
    pub(in crate::driver) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// It takes no more.
    pub(in crate::driver) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Failed(_))
    }

    pub(in crate::driver) fn result(&self) -> Result<(), WriteError> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Opens it, and writes all that is pending. Once it is over, drops what is pending.
    pub(in crate::driver) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Unopened => {
                    let connection = self.connection.clone();
                    let opening = Box::pin(async move { connection.open_uni().await });
                    self.state = State::Opening(opening);
                }
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(stream) => {
                        let mut encoded = BytesMut::new();
                        self.kind.encode(&mut encoded);
                        self.pending.insert(0, encoded.freeze());
                        // Only one that is over refuses.
                        stream.set_priority(self.priority).ok();
                        self.state = State::Open(stream);
                    }
                    Err(error) => self.on_error(error.into()),
                },
                State::Open(_) if self.pending.is_empty() => return Poll::Ready(()),
                State::Open(stream) => {
                    match ready!(stream.poll_write_chunks(cx, &mut self.pending)) {
                        Ok(_) => self.pending.retain(|chunk| !chunk.is_empty()),
                        Err(error) => self.on_error(error),
                    }
                }
                State::Stalled => return Poll::Pending,
                State::Ended | State::Failed(_) => {
                    self.pending.clear();
                    return Poll::Ready(());
                }
            }
        }
    }

    fn on_error(&mut self, error: WriteError) {
        if self.waits && matches!(error, WriteError::ConnectionLost(_)) {
            self.state = State::Stalled;
            self.pending.clear();
        } else {
            self.fail(error);
        }
    }

    pub(in crate::driver) fn fail(&mut self, error: WriteError) {
        self.state = State::Failed(error);
        self.pending.clear();
    }

    /// Ends the QUIC stream; nothing is pending, since an end inside a message would break the
    /// protocol.
    pub(in crate::driver) fn end(&mut self) {
        debug_assert!(self.pending.is_empty(), "the rest of a message is lost");
        if let State::Open(stream) = &mut self.state {
            // An error means that the peer has stopped it.
            stream.finish().ok();
        }
        self.state = State::Ended;
    }
}
