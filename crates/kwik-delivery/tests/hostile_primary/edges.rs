//! A primary that always names one more edge, which lies as the others did.

use std::{env, sync::Arc, time::Duration};

use bytes::Bytes;
use kwik::{Accepted, ClientConfig, Endpoint, PathId, PrimarySession, ServerConfig};
use kwik_delivery::{
    Attributes, Client, EdgeCommand, Failure, FailureCode, FetchError, Part, Progress, Repair,
    Request, Response, limits::MAX_EXCLUDED,
};
use tokio::time::{sleep, timeout};

use crate::{
    MIB, SIZE, Truth,
    common::{
        content, identity,
        liar::{Checked, Liar},
        name,
    },
    rows::honest,
};

/// Brings in one more edge, and has it alone bring what is asked for again.
async fn bring_again(
    primary: &PrimarySession,
    truth: &Truth,
    repair: Repair,
    many: bool,
    liars: &mut Vec<(PathId, Liar)>,
) -> Bytes {
    if let Some((before, _)) = liars.last() {
        primary.remove_path(*before).await.ok();
    }
    let lie = Arc::new(|_: &EdgeCommand, _, bytes: &mut [u8]| bytes.fill(1));
    let liar = Liar::start(u8::try_from(liars.len() + 1).unwrap(), truth.object.clone(), lie);
    if many {
        // The client dials four in ten seconds, and waits for no edge for so long.
        sleep(Duration::from_millis(2600)).await;
    }
    let path = primary.add_path(liar.edge.addresses[0], liar.edge.fingerprint).await.unwrap();
    while !primary.active_paths().iter().any(|info| info.id == path) {
        primary.path_changed().await;
    }
    liars.push((path, liar));
    let mut stream = primary.session().open_uni().await.unwrap();
    let length = repair.range.end - repair.range.start;
    let range = stream.reserve(length).unwrap();
    stream.finish().unwrap();
    let command = EdgeCommand {
        name: name("x"),
        size: SIZE as u64,
        root: truth.manifest.root,
        offset: repair.range.start,
        attributes: Attributes::default(),
        pack: Vec::new(),
    };
    primary.lease(stream.id(), range, path, command.encode()).unwrap();
    Response::Again { stream_id: stream.id().as_u64() }.encode()
}

/// Names up to `most` edges. How many it named.
async fn serve(primary: PrimarySession, truth: Truth, most: usize) -> usize {
    let mut liars = Vec::new();
    while let Ok((mut send, mut recv)) = primary.session().accept_bi().await {
        let request = recv.read_to_end(MIB).await.unwrap();
        let request = Request::decode(&mut request.as_slice().into()).unwrap().unwrap();
        let told = match request.part.clone() {
            Part::Repair(repair) if !repair.range.is_empty() && liars.len() == most => {
                let message = "no more".to_owned();
                Response::Failed(Failure { code: FailureCode::NoSource, message }).encode()
            }
            Part::Repair(repair) if !repair.range.is_empty() => {
                bring_again(&primary, &truth, repair, most > 3, &mut liars).await
            }
            _ => {
                let mut stream = primary.session().open_uni().await.unwrap();
                let answer = honest(&truth, &request, stream.id().as_u64());
                let mut sent = answer.sent;
                // One group is wrong.
                if let Some(byte) = sent.get_mut(777) {
                    *byte ^= 1;
                }
                tokio::spawn(async move {
                    stream.write_all(&sent).await.ok();
                    stream.finish().ok();
                });
                answer.told.into()
            }
        };
        send.write_all(&told).await.ok();
        send.finish().ok();
    }
    liars.len()
}

/// `KWIK_EDGES=80` shows the bound, in some three minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_names_ever_more_liars_is_believed_only_so_often() {
    let most = env::var("KWIK_EDGES").ok().map_or(3, |edges| edges.parse().unwrap());
    let truth = Truth::of(content(SIZE)).await;
    let object = truth.object.clone();
    let endpoint =
        Endpoint::server(ServerConfig::new(identity(0)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else {
            panic!("a client")
        };
        serve(primary, truth, most).await
    });
    let dialer = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let session = dialer.connect_with(config, address, "").unwrap().await.unwrap();
    let client = Client::new(session);
    let checked = Checked::new(&object);
    let progress = Progress::default();
    let fetch = client.fetch(&name("x")).await.unwrap();
    let writing = fetch.write_to(Box::new(checked.clone()), &progress);
    let error = timeout(Duration::from_secs(600), writing).await.expect("it ends").unwrap_err();
    assert!(matches!(error, FetchError::Liars { .. }), "{error:?}");
    client.session().close(0, b"");
    let brought = serving.await.unwrap();
    println!("{brought} edges");
    assert_eq!(brought, most.min(MAX_EXCLUDED - 1));
}
