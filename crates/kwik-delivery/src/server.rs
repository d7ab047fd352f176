//! The serving side, the same for primaries and edges: a session's role says which one it is.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt, StreamExt,
    future::{FusedFuture, join, join_all},
    stream::FuturesUnordered,
};
use kwik::{
    Accepted, Endpoint, Incoming, LeaseWriter, PrimarySession, RecvStream, SecondarySession,
    SendStream,
};
use tokio::task::JoinSet;

use crate::{
    Catalogue, EdgeCommand, Failure, FailureCode, Fingerprint, Found, Manifest, Object, Request,
    Response, Source,
    limits::{MAX_FILLS, MAX_MESSAGE, MAX_REQUESTS},
};

mod extent;
mod fill;

use extent::Extent;
use fill::fill;

/// Another server with the same objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Its key's pin.
    pub fingerprint: Fingerprint,
}

/// Serves the objects of a source: as the primary of the sessions that clients open with it, and as
/// an edge in the sessions of other primaries.
#[derive(Debug)]
pub struct Server {
    source: Source,
    catalogue: Catalogue,
    edges: Vec<Edge>,
}

impl Server {
    /// A server of `source`. In its own sessions it brings in all `edges`.
    #[must_use]
    pub fn new(source: Source, catalogue: Catalogue, edges: Vec<Edge>) -> Self {
        Self { source, catalogue, edges }
    }

    /// Serves whoever comes, as many at once as the endpoint lets in, until it is closed. Needs a
    /// tokio runtime. Cancel safety: dropping it ends all sessions.
    pub async fn run(self: Arc<Self>, endpoint: &Endpoint) {
        let mut sessions = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            while let Some(ended) = sessions.try_join_next() {
                log_panic(ended);
            }
            let server = Arc::clone(&self);
            sessions.spawn(async move { server.accept(incoming).await });
        }
        while let Some(ended) = sessions.join_next().await {
            log_panic(ended);
        }
    }

    async fn accept(&self, incoming: Incoming) {
        let client = incoming.remote_address();
        match incoming.accept_any().await {
            Ok(Accepted::Primary(primary)) => self.serve_primary(&primary).await,
            Ok(Accepted::Secondary(secondary)) => self.serve_secondary(&secondary).await,
            Err(error) => tracing::debug!(%client, %error, "a client did not come in"),
        }
    }

    /// Answers a client's requests until the session ends. Cancel safety: dropping it abandons what
    /// is under way.
    pub async fn serve_primary(&self, primary: &PrimarySession) {
        let mut adding = pin!(self.add_edges(primary).fuse());
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                request = primary.session().accept_bi(), if answers.len() < MAX_REQUESTS => {
                    let Ok((send, recv)) = request else { break };
                    answers.push(self.answer(primary, send, recv));
                }
                Some(()) = answers.next() => {}
                () = &mut adding, if !adding.is_terminated() => {}
            }
        }
    }

    /// Fills an edge's leases until its path ends. Cancel safety: as
    /// [`serve_primary`](Self::serve_primary).
    pub async fn serve_secondary(&self, secondary: &SecondarySession) {
        let mut fills = FuturesUnordered::new();
        loop {
            tokio::select! {
                lease = secondary.accept_lease(), if fills.len() < MAX_FILLS => {
                    let Ok(lease) = lease else { break };
                    fills.push(self.fill_lease(lease));
                }
                Some(()) = fills.next() => {}
            }
        }
    }

    /// One edge that does not answer is no reason to do without the others.
    async fn add_edges(&self, primary: &PrimarySession) {
        let adding = self.edges.iter().map(|edge| async move {
            match primary.add_path(edge.address, edge.fingerprint).await {
                Ok(path) => tracing::debug!(edge = %edge.address, %path, "edge joined"),
                Err(error) => tracing::warn!(edge = %edge.address, %error, "edge did not join"),
            }
        });
        join_all(adding).await;
    }

    async fn answer(&self, primary: &PrimarySession, mut send: SendStream, mut recv: RecvStream) {
        let delivery = match self.prepare(&mut recv).await {
            Ok((object, manifest)) => self.deliver(primary, &mut send, &object, &manifest).await,
            Err(failure) => {
                tracing::info!(reason = failure.message, "request refused");
                reply(&mut send, [Response::Failed(failure).encode()]).await
            }
        };
        if let Err(error) = delivery {
            tracing::info!(error, "delivery ended early");
        }
    }

    async fn prepare(&self, recv: &mut RecvStream) -> Result<(Object, Arc<Manifest>), Failure> {
        let request = read_request(recv).await?;
        let object =
            self.source.open(&request.name).await.map_err(|error| Failure::from(&error))?;
        let manifest = self.catalogue.manifest(&object).await;
        Ok((object, manifest.map_err(|error| Failure::from(&error))?))
    }

    async fn deliver(
        &self,
        primary: &PrimarySession,
        send: &mut SendStream,
        object: &Object,
        manifest: &Manifest,
    ) -> Result<(), String> {
        let Manifest { name, size, root, outboard } = manifest.clone();
        let mut stream = primary.session().open_uni().await.map_err(|error| error.to_string())?;
        let stream_id = stream.id().as_u64();
        let command = EdgeCommand { name: name.clone(), size, root };
        let extent = Extent::reserve(primary, &mut stream, &command)?;
        let found = Response::Found(Found { name, size, root, stream_id });
        let (replied, delivered) =
            join(reply(send, [found.encode(), outboard]), extent.deliver(object)).await;
        replied.and(delivered)
    }

    async fn fill_lease(&self, lease: LeaseWriter) {
        match self.open_for(&lease).await {
            Ok(object) => fill(lease, &object).await,
            Err(reason) => {
                tracing::warn!(reason, "lease refused");
                lease.abandon(&reason);
            }
        }
    }

    /// The object that a lease asks for. Its hash is not looked at: the client verifies.
    async fn open_for(&self, lease: &LeaseWriter) -> Result<Object, String> {
        let command = EdgeCommand::decode(&lease.command()).map_err(|error| error.to_string())?;
        let object = self.source.open(&command.name).await.map_err(|error| error.to_string())?;
        let size = object.stat().size;
        if size != command.size || lease.range().end > size {
            return Err(format!("{:?} has {size} bytes here, not {}", command.name, command.size));
        }
        Ok(object)
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session failed");
    }
}

async fn read_request(recv: &mut RecvStream) -> Result<Request, Failure> {
    let invalid =
        |message: &str| Failure { code: FailureCode::InvalidRequest, message: message.to_owned() };
    let mut buffer = BytesMut::new();
    loop {
        match recv.read_chunk(MAX_MESSAGE, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(invalid("the request is not complete")),
            Err(error) => return Err(invalid(&error.to_string())),
        }
        if let Some(request) =
            Request::decode(&mut buffer).map_err(|error| Failure::from(&error))?
        {
            return Ok(request);
        }
    }
}

async fn reply(
    send: &mut SendStream,
    parts: impl IntoIterator<Item = Bytes>,
) -> Result<(), String> {
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        send.write_chunk(part).await.map_err(|error| error.to_string())?;
    }
    send.finish().map_err(|error| error.to_string())
}
