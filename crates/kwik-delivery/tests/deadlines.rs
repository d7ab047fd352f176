//! A primary that falls silent, at each step of a fetch: the client waits for no step for ever.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{io, time::Duration};

use bytes::Bytes;
use common::{MIB, content, identity, name};
use kwik::{Accepted, ClientConfig, Endpoint, PrimarySession, SendStream, ServerConfig};
use kwik_delivery::{
    Client, FetchError, Found, Manifest, Progress, Request, Response, Source, Step, hash_object,
};
use tokio::time::{sleep, timeout};

/// Up to where a primary does what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silent {
    AtOnce,
    WithinTheAnswer,
    WithinTheOutboard,
    BeforeTheStream,
    BeforeTheLease,
    WithinTheObject,
}

const SIZE: usize = 3 * MIB;

async fn serve(primary: &PrimarySession, silent: Silent) -> Option<()> {
    let (mut send, mut recv) = primary.session().accept_bi().await.ok()?;
    let request = recv.read_to_end(MIB).await.ok()?;
    Request::decode(&mut request.as_slice().into()).unwrap().unwrap();
    let memory = Source::memory([(name("x"), content(SIZE))]);
    let published = hash_object(&memory.open(&name("x")).await.unwrap()).await.unwrap();
    let Manifest { name, size, root } = published.manifest().clone();
    let (_, outboard) = published.page(0).await.unwrap();
    let mut stream = None;
    let mut stream_id = 3;
    if silent != Silent::BeforeTheStream {
        let opened = primary.session().open_uni().await.ok()?;
        stream_id = opened.id().as_u64();
        stream = Some(opened);
    }
    let found = Response::Found(Found::new(name, size, root, stream_id)).encode();
    let told = match silent {
        Silent::AtOnce => Bytes::new(),
        Silent::WithinTheAnswer => found.slice(..5),
        Silent::WithinTheOutboard => [&found[..], &outboard[..100]].concat().into(),
        _ => [&found[..], &outboard].concat().into(),
    };
    send.write_all(&told).await.ok()?;
    match (silent, &mut stream) {
        (Silent::BeforeTheLease, Some(stream)) => {
            stream.reserve(size).unwrap();
            stream.finish().unwrap();
        }
        (Silent::WithinTheObject, Some(stream)) => {
            stream.write_all(&content(SIZE)[..MIB]).await.ok()?;
        }
        _ => {}
    }
    // Alive, and silent.
    let _kept: (SendStream, _) = (send, stream);
    primary.session().closed().await;
    None
}

async fn fetch(silent: Silent) -> FetchError {
    let endpoint =
        Endpoint::server(ServerConfig::new(identity(0)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        serve(&primary, silent).await;
    });
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let session = endpoint.connect_with(config, address, "").unwrap().await.unwrap();
    let client = Client::new(session).with_patience(Duration::from_millis(400));
    let fetching = async {
        let fetch = client.fetch(&name("x")).await?;
        fetch.write_to(Box::new(io::sink()), &Progress::default()).await
    };
    timeout(Duration::from_secs(20), fetching).await.expect("it ends").unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_falls_silent_is_waited_for_at_no_step_for_ever() {
    for (silent, waits_for) in [
        (Silent::AtOnce, Step::Answer),
        (Silent::WithinTheAnswer, Step::Answer),
        (Silent::WithinTheOutboard, Step::Outboard),
        (Silent::BeforeTheStream, Step::Stream),
        (Silent::BeforeTheLease, Step::Object),
        (Silent::WithinTheObject, Step::Object),
    ] {
        let error = fetch(silent).await;
        let FetchError::Silent { step, .. } = error else { panic!("{silent:?}: {error}") };
        assert_eq!(step, waits_for, "{silent:?}");
        assert!(error.to_string().contains("while waiting for the "), "{error}");
    }
}

/// Progress counts, not time: an answer that takes long is waited for while the primary says that
/// it works.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_says_that_it_works_is_waited_for() {
    let endpoint =
        Endpoint::server(ServerConfig::new(identity(0)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        let (mut send, _recv) = primary.session().accept_bi().await.unwrap();
        for hashed in 1..=5 {
            sleep(Duration::from_millis(250)).await;
            send.write_all(&Response::Working { hashed, size: 10 }.encode()).await.unwrap();
        }
        primary.session().closed().await;
    });
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let session = endpoint.connect_with(config, address, "").unwrap().await.unwrap();
    let client = Client::new(session).with_patience(Duration::from_millis(600));
    let progress = Progress::default();
    let object = name("x");
    let fetching = client.fetch_with(&object, &progress);
    let error = timeout(Duration::from_secs(20), fetching).await.expect("it ends").unwrap_err();
    assert!(matches!(error, FetchError::Silent { step: Step::Answer, .. }), "{error}");
    assert_eq!(progress.hashed(), Some((5, 10)));
}
