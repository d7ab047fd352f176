//! Many small objects, and what is in a folder, over one session.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use common::{MIB, connect, content, identity, name, source, start};
use kwik::{Accepted, ClientConfig, Endpoint, ServerConfig};
use kwik_delivery::{
    Call, Catalogue, Client, Door, Entry, EntryKind, FailureCode, FetchError, Found,
    InvalidListing, Listed, Listing, Output, Packed, PackedFile, PartFile, Progress, Response,
    Server, Source, Ticket, Visitor,
    limits::{MAX_INLINE, MAX_LISTED},
};
use tempfile::tempdir;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_comes_with_its_answer_and_a_larger_one_as_ever() {
    let most = usize::try_from(MAX_INLINE).unwrap();
    let sizes = [0, 1, most - 1, most, most + 1, 3 * MIB];
    let objects: Vec<_> = sizes.map(|size| (size.to_string(), content(size))).into();
    let objects: Vec<_> = objects.iter().map(|(name, data)| (&**name, data.clone())).collect();
    let servers = [start(0, source(&objects), Vec::new())];
    let client = connect(&servers).await;
    let folder = tempdir().unwrap();
    for (text, data) in &objects {
        let progress = Progress::default();
        let fetch = client.fetch_small(&name(text), &progress).await.unwrap();
        let here = fetch.here(&progress);
        assert_eq!(here.is_some(), data.len() <= most, "{text}");
        let received = match here {
            Some(here) => here,
            None => {
                let target = folder.path().join(text);
                fetch.save(&target, &progress).await.unwrap();
                fs::read(target).unwrap().into()
            }
        };
        assert!(received == data, "{text}");
        assert_eq!(
            (progress.verified(), progress.received()),
            (data.len() as u64, data.len() as u64)
        );
    }
    let none = client.fetch_small(&name("none"), &Progress::default()).await;
    assert!(matches!(none, Err(FetchError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_whole_in_several_answers() {
    let count = 2 * MAX_LISTED + 5;
    let objects = (0..count).map(|number| (name(&format!("f/{number:06}")), Bytes::new()));
    let servers = [start(0, Source::memory(objects), Vec::new())];
    let client = connect(&servers).await;
    for (folder, extra) in [(None, 1), (Some(name("f")), 0)] {
        let mut listing = Listing::new(folder, true);
        let mut came = Vec::new();
        while !listing.is_done() {
            came.extend(listing.page(&client).await.unwrap());
        }
        assert_eq!(came.len(), count + extra);
        assert_eq!(came.last().unwrap().name, name(&format!("f/{:06}", count - 1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_leads_to_lists_and_small_objects_of_its_part_alone() {
    let objects = ["a/b/x", "a/y", "ab", "c"].map(|text| (name(text), content(10)));
    let mut config = ServerConfig::new(identity(0));
    let door = Arc::new(Door::closed().unwrap().with_tickets(&identity(0)));
    config.authenticator = door.clone();
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, state) = (endpoint.local_addr().unwrap(), tempdir().unwrap());
    let catalogue = Catalogue::open(&state).unwrap();
    let server = Server::new(Source::memory(objects), catalogue, Vec::new()).with_door(door);
    let serving = tokio::spawn(async move { Arc::new(server).run(&endpoint).await });

    let client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connect = async |visitor: Visitor| {
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.credentials = Some(Arc::new(visitor));
        client.connect_with(config, address, "").unwrap().await
    };
    let ticket = |scope: Option<&str>| {
        let expires = SystemTime::now() + Duration::from_secs(3600);
        let pass = Ticket { expires, scope: scope.map(name) }.sign(&identity(0));
        Visitor { pass: Some(pass), identity: None }
    };
    if let Ok(session) = connect(Visitor::default()).await {
        let nobody = Client::new(session);
        assert!(Listing::new(None, true).page(&nobody).await.is_err());
        assert!(nobody.fetch_small(&name("c"), &Progress::default()).await.is_err());
    }
    let forbidden = |error: FetchError| match error {
        FetchError::Refused(failure) => failure.code == FailureCode::Forbidden,
        _ => false,
    };
    let inside = Client::new(connect(ticket(Some("a"))).await.unwrap());
    for text in ["a/b/x", "a/y"] {
        assert!(inside.fetch_small(&name(text), &Progress::default()).await.is_ok(), "{text}");
    }
    for folder in ["a", "a/b", "a/y"] {
        let came = Listing::new(Some(name(folder)), true).page(&inside).await;
        assert!(!came.unwrap().is_empty(), "{folder}");
    }
    let names = ["a/y", "c", "none", "a/none"].map(name);
    let progress = Progress::default();
    let came = inside.fetch_pack(&names, &[&progress; 4]).await.unwrap().files;
    assert_eq!(came.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, false]);
    // What is not there is as forbidden as what is.
    for text in ["ab", "c", "none"] {
        let refused = inside.fetch_small(&name(text), &Progress::default()).await;
        assert!(forbidden(refused.unwrap_err()), "{text}");
        let refused = Listing::new(Some(name(text)), true).page(&inside).await;
        assert!(forbidden(refused.unwrap_err()), "{text}");
    }
    for recursive in [false, true] {
        let refused = Listing::new(None, recursive).page(&inside).await;
        assert!(forbidden(refused.unwrap_err()));
    }
    let all = Client::new(connect(ticket(None)).await.unwrap());
    assert_eq!(Listing::new(None, true).page(&all).await.unwrap().len(), 6);
    serving.abort();
}

/// A primary that answers each request as `answer` says.
async fn with_primary(
    answer: impl Fn(Call, usize) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Client {
    let config = ServerConfig::new(identity(0));
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        let mut count = 0;
        while let Ok((mut send, mut recv)) = primary.session().accept_bi().await {
            let request = recv.read_to_end(MIB).await.unwrap();
            let call = Call::decode(&mut request.as_slice().into()).unwrap().unwrap();
            let Some(answer) = answer(call, count) else { break };
            count += 1;
            send.write_all(&answer).await.unwrap();
            send.finish().unwrap();
        }
        primary.session().closed().await;
    });
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(ClientConfig::pinned(identity(0).fingerprint()));
    let session = endpoint.connect(address, "").unwrap().await.unwrap();
    Client::new(session)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_bytes_that_are_not_the_objects_are_not_taken() {
    for wrong in [&b"wronger"[..], b"right and more", b"righ", b""] {
        let client = with_primary(move |call, _| {
            let Call::Object(request) = call else { return None };
            let root = blake3::hash(b"right");
            let found = Found { inline: true, ..Found::new(request.name, 5, root, 0) };
            Some([&Response::Found(found).encode()[..], wrong].concat())
        })
        .await;
        let progress = Progress::default();
        let fetch = client.fetch_small(&name("x"), &progress).await.unwrap();
        let taken = fetch.here(&progress);
        // What follows the object is left where it is.
        assert_eq!(taken.as_deref(), wrong.starts_with(b"right").then_some(&b"right"[..]));
        if taken.is_none() {
            assert_eq!(progress.verified(), 0);
            // It is asked for as any other, and what comes inline then is no answer.
            let folder = tempdir().unwrap();
            let part = PartFile::claim(kwik_delivery::Place::new(folder.path().join("x")), false);
            let written = fetch.write(&Output::file(part.unwrap()), &progress).await;
            assert!(matches!(written, Err(FetchError::Answer(_))));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_none_is_not_taken() {
    let file = |size| {
        let (root, attributes) = (blake3::hash(b"right"), Default::default());
        Some(PackedFile { size, root, attributes })
    };
    let packed = |files| Response::Packed(Packed { files, stream_id: 0 }).encode().to_vec();
    // Another number of files than was asked for, or no pack.
    let answers = [packed(vec![file(5); 3]), packed(vec![]), Response::Noted.encode().to_vec()];
    for answer in answers {
        let client = with_primary(move |call, _| {
            assert!(matches!(call, Call::Pack(_)));
            Some(answer.clone())
        })
        .await;
        let progress = Progress::default();
        let names = ["x", "y"].map(name);
        let fetched = client.fetch_pack(&names, &[&progress; 2]).await;
        assert!(matches!(fetched, Err(FetchError::Answer(_))), "{fetched:?}");
        assert_eq!(progress.verified(), 0);
    }
    let client = with_primary(move |_, _| Some(packed(vec![file(5)]))).await;
    let client = client.with_patience(Duration::from_millis(300));
    let progress = Progress::default();
    let fetched = client.fetch_pack(&[name("x")], &[&progress]).await;
    assert!(matches!(fetched, Err(FetchError::Silent { .. })), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_on_a_later_page_of_a_list_is_found_out() {
    let client = with_primary(|call, count| {
        let Call::List(list) = call else { return None };
        assert_eq!(list.after.is_some(), count > 0);
        let kind = EntryKind::File { size: 1 };
        // The second page begins where the first one did.
        let entry = Entry { name: name("b"), kind, attributes: Default::default() };
        let listed = Listed { entries: vec![entry], last: true, more: true, left_out: 0 };
        Some(Response::Listed(listed).encode().to_vec())
    })
    .await;
    let mut listing = Listing::new(None, true);
    assert_eq!(listing.page(&client).await.unwrap().len(), 1);
    let again = listing.page(&client).await;
    let order = |error: &InvalidListing| matches!(error, InvalidListing::Order { .. });
    assert!(matches!(again, Err(FetchError::Listing(error)) if order(&error)));
    assert_eq!(listing.count(), 1);
}
