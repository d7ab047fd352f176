//! What a primary may answer that it should not, row by row over real QUIC: each ends the fetch
//! with an error that is one harmless line, in its time, and no byte is written that is not the
//! object's.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

#[path = "../common/mod.rs"]
mod common;
mod edges;
mod rows;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{MIB, content, identity, liar::Checked, name};
use kwik::{Accepted, ClientConfig, Endpoint, PrimarySession, SendStream, ServerConfig, escape};
use kwik_delivery::{
    Attributes, Client, Found, Manifest, Output, Progress, Request, Response, Source, hash_object,
};
use rows::{
    A_BYTE_TOO_MANY, End, Lie, Row, honest, malformed, manifests, ranges, repairs, streams, twice,
};
use tokio::time::{sleep, timeout};

const SIZE: usize = 3 * MIB;

/// The object as it is.
struct Truth {
    object: Bytes,
    manifest: Manifest,
    outboard: Bytes,
}

impl Truth {
    async fn of(object: Bytes) -> Self {
        let memory = Source::memory([(name("x"), object.clone())]);
        let published = hash_object(&memory.open(&name("x")).await.unwrap()).await.unwrap();
        let (_, outboard) = published.page(0).await.unwrap();
        Self { object, manifest: published.manifest().clone(), outboard }
    }

    fn found(&self, stream_id: u64) -> Found {
        let Manifest { name, size, root } = self.manifest.clone();
        Found { name, size, root, stream_id, inline: false, attributes: Attributes::default() }
    }
}

/// A primary of one session, which answers the first request as `first` says, and others by the
/// lie. What the session before has brought is kept by the client.
async fn serve(primary: PrimarySession, truth: Arc<Truth>, cut: bool, lie: Lie) {
    let asked = AtomicUsize::new(0);
    while let Ok((send, mut recv)) = primary.session().accept_bi().await {
        let Ok(request) = recv.read_to_end(MIB).await else { return };
        let Ok(Some(request)) = Request::decode(&mut request.as_slice().into()) else { return };
        let Ok(mut stream) = primary.session().open_uni().await else { return };
        let id = stream.id().as_u64();
        let is_first = asked.fetch_add(1, Relaxed) == 0;
        let answer = if cut && is_first {
            honest(&truth, &request, id).with(&truth.object[..MIB], End::Reset)
        } else {
            lie(&truth, &request, id)
        };
        tokio::spawn(say(send, answer.ends, answer.told, answer.repeated));
        tokio::spawn(async move {
            stream.write_all(&answer.sent).await.ok();
            match answer.end {
                End::Finished => drop(stream.finish().ok()),
                End::Reset => {
                    // What was sent arrives first, or else nothing is resumed.
                    sleep(Duration::from_millis(300)).await;
                    stream.reset(1).ok();
                }
                End::Open => std::future::pending().await,
            }
        });
    }
}

async fn say(mut send: SendStream, ends: bool, told: Vec<u8>, repeated: Option<Response>) {
    send.write_all(&told).await.ok();
    if ends {
        send.finish().ok();
        return;
    }
    while let Some(response) = &repeated {
        if send.write_all(&response.encode()).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // The stream stays open.
    std::future::pending::<()>().await;
}

async fn suffer((what, lie, expected, is_slow): Row, truth: Arc<Truth>, goes_on: bool) {
    let endpoint =
        Endpoint::server(ServerConfig::new(identity(0)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let object = truth.object.clone();
    let serving = tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        serve(primary, truth, goes_on, lie).await;
    });
    let dialer = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let session = dialer.connect_with(config, address, "").unwrap().await.unwrap();
    let patience = if is_slow { Duration::from_millis(150) } else { Duration::from_secs(10) };
    let client = Client::new(session);
    let checked = Checked::new(&object);
    let output = Output::in_order(Box::new(checked.clone()));
    let (object, progress) = (name("x"), Progress::default());
    if goes_on {
        let fetch = client.fetch_to(&object, &output, &progress).await.unwrap();
        fetch.write(&output, &progress).await.unwrap_err();
        assert!(checked.written() > 0, "{what}: something came before");
    }
    let client = client.with_patience(patience);
    let fetching = async {
        let fetch = client.fetch_to(&object, &output, &progress).await?;
        fetch.write(&output, &progress).await
    };
    let error = timeout(Duration::from_secs(60), fetching).await;
    let error = error.unwrap_or_else(|_| panic!("{what}: waits for ever")).expect_err(what);
    assert!(expected(&error), "{what}: {error:?}");
    let shown = error.to_string();
    assert_eq!(escape(&shown).to_string(), shown, "{what}");
    // What comes before a byte too many is the object: it may be written by then.
    let most = SIZE - usize::from(what != A_BYTE_TOO_MANY);
    assert!(checked.written() <= most, "{what}");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_a_primary_is_believed_waited_for_or_obeyed() {
    let truth = Arc::new(Truth::of(content(SIZE)).await);
    let rows = || {
        let rows = malformed().into_iter().chain(manifests()).chain(twice());
        rows.chain(streams()).chain(repairs())
    };
    for row in rows() {
        suffer(row, truth.clone(), false).await;
    }
    println!("{} rows", rows().count());
}

/// The same, and more, to a client that has some already and asks for the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_to_a_client_that_goes_on_is_believed_waited_for_or_obeyed() {
    let truth = Arc::new(Truth::of(content(SIZE)).await);
    let rows = malformed().into_iter().chain(streams()).chain(ranges());
    let mut count = 0;
    for row in rows {
        suffer(row, truth.clone(), true).await;
        count += 1;
    }
    println!("{count} rows");
}
