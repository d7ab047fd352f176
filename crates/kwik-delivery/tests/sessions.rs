//! Delivery over real sessions on loopback: a primary, its edges and a client.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    fs, io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{MIB, connect, content, name, source, start, start_all, start_with};
use futures_util::future::join_all;
use kwik::{RecvStream, SendStream};
use kwik_delivery::{
    Client, FailureCode, FetchError, Progress, Request, Response, Server, Source,
    limits::{GROUP_SIZE, PAGE_GROUPS},
};
use tempfile::{TempDir, tempdir};
use tokio::time::{sleep, timeout};

async fn save(client: &Client, object: &str, folder: &TempDir) -> Result<(), FetchError> {
    let progress = Progress::default();
    let target = folder.path().join("target");
    let fetch = client.fetch(&name(object)).await?;
    let size = fetch.manifest().size;
    timeout(Duration::from_secs(20), fetch.save(&target, &progress)).await.unwrap()?;
    assert_eq!(progress.verified(), size);
    Ok(())
}

fn is_empty(folder: &TempDir) -> bool {
    fs::read_dir(folder.path()).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_all_sizes_come_from_three_servers() {
    let sizes = [0, 1, 65_535, 65_536, 65_537, 5 * MIB];
    let names = sizes.map(|size| format!("folder/{size}"));
    let objects: Vec<_> = names.iter().map(String::as_str).zip(sizes.map(content)).collect();
    let edges = vec![source(&objects), source(&objects)];
    let servers = start_all(&objects, edges);
    let client = connect(&servers).await;
    for (object, data) in &objects {
        let folder = tempdir().unwrap();
        save(&client, object, &folder).await.unwrap();
        assert!(fs::read(folder.path().join("target")).unwrap() == *data, "{object}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    let paths = client.session().stats().paths;
    assert!(paths.iter().all(|path| path.figures.received > 0), "{paths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_do_not_mix() {
    let sizes: Vec<_> = (1..20).map(|number| number * 300_000).collect();
    let names: Vec<_> = sizes.iter().map(ToString::to_string).collect();
    let objects: Vec<_> =
        names.iter().map(String::as_str).zip(sizes.iter().map(|size| content(*size))).collect();
    let servers = start_all(&objects, vec![source(&objects)]);
    let client = connect(&servers).await;
    join_all(objects.iter().map(async |(object, data)| {
        let folder = tempdir().unwrap();
        save(&client, object, &folder).await.unwrap();
        assert!(fs::read(folder.path().join("target")).unwrap() == *data, "{object}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_refused() {
    let servers = start_all(&[("x", content(1))], Vec::new());
    let client = connect(&servers).await;
    let error = client.fetch(&name("y")).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Refused(failure) if failure.code == FailureCode::NotFound),
        "{error}"
    );

    // By hand, since no client of ours can even say it.
    let mut message = vec![0x0a, 4];
    message.extend_from_slice(b"../x");
    message.extend_from_slice(&[0x10, 1]);
    message.insert(0, u8::try_from(message.len()).unwrap());
    for request in [&message[..], b"\xff\xff\xff\xff", b"\x03abc", b""] {
        let (send, recv) = client.session().open_bi().await.unwrap();
        assert_eq!(answer(send, recv, request).await, FailureCode::InvalidRequest);
    }
    // The session is unharmed.
    assert!(client.fetch(&name("x")).await.is_ok());
}

async fn answer(mut send: SendStream, mut recv: RecvStream, request: &[u8]) -> FailureCode {
    send.write_all(request).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(MIB).await.unwrap();
    match Response::decode(&mut answer.as_slice().into()).unwrap() {
        Some(Response::Failed(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_without_the_object_is_done_without() {
    let objects = [("x", content(5 * MIB))];
    let shorter = [("x", content(5 * MIB - 1))];
    let edges = vec![source(&[]), source(&shorter)];
    let servers = start_all(&objects, edges);
    let (client, folder) = (connect(&servers).await, tempdir().unwrap());
    save(&client, "x", &folder).await.unwrap();
    assert!(fs::read(folder.path().join("target")).unwrap() == objects[0].1);
}

/// The outboard of a large object comes by pages, from first to last.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_several_pages_arrives_whole() {
    let folder = tempdir().unwrap();
    let size = GROUP_SIZE * PAGE_GROUPS + 3 * GROUP_SIZE + 5;
    let file = fs::File::create(folder.path().join("x")).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    let edge = start(1, Source::folder(folder.path()).unwrap(), Vec::new());
    let edges = vec![edge.edge.clone()];
    let servers = [start(0, Source::folder(folder.path()).unwrap(), edges), edge];
    let (client, output) = (connect(&servers).await, tempdir().unwrap());
    let progress = Progress::default();
    let target = output.path().join("target");
    let fetch = client.fetch(&name("x")).await.unwrap();
    timeout(Duration::from_secs(120), fetch.save(&target, &progress)).await.unwrap().unwrap();
    assert_eq!(progress.verified(), size);
    let mut end = [0; 4];
    fs::File::open(&target).unwrap().read_exact_at(&mut end, size - 4).unwrap();
    assert_eq!(end, *b"\0end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_dies_costs_nothing() {
    let objects = [("x", content(60 * MIB))];
    let edges = vec![source(&objects), source(&objects)];
    let servers = start_all(&objects, edges);
    let (client, folder) = (connect(&servers).await, tempdir().unwrap());
    let progress = Progress::default();
    let fetch = client.fetch(&name("x")).await.unwrap();
    let dying = async {
        while progress.verified() < 10 * MIB as u64 {
            sleep(Duration::from_millis(1)).await;
        }
        servers[1].endpoint.close(0, b"");
    };
    let target = folder.path().join("target");
    let (saved, ()) = tokio::join!(fetch.save(&target, &progress), dying);
    saved.unwrap();
    assert!(fs::read(target).unwrap() == objects[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_is_not_half_delivered() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, content(50 * MIB)).unwrap();
    let server = start(0, Source::folder(folder.path()).unwrap(), Vec::new());
    let servers = [server];
    let (client, output) = (connect(&servers).await, tempdir().unwrap());
    let fetch = client.fetch(&name("x")).await.unwrap();
    fs::write(&path, b"changed").unwrap();
    let progress = Progress::default();
    let target = output.path().join("target");
    let saving = fetch.save(&target, &progress);
    let error = timeout(Duration::from_secs(20), saving).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, FetchError::Refused(failure) if failure.code == FailureCode::Changed),
        "{error}"
    );
    assert!(is_empty(&output));
    // The session goes on.
    save(&client, "x", &output).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_fails_ends_the_fetch() {
    struct Full(usize);
    impl io::Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let servers = start_all(&[("x", content(20 * MIB))], Vec::new());
    let client = connect(&servers).await;
    let progress = Progress::default();
    let fetch = client.fetch(&name("x")).await.unwrap();
    let error = fetch.write_to(Box::new(Full(3 * MIB)), &progress).await.unwrap_err();
    assert!(matches!(error, FetchError::Output(_)), "{error}");
    assert_eq!(progress.verified(), 3 * MIB as u64);
    let fetch = client.fetch(&name("x")).await.unwrap();
    fetch.write_to(Box::new(io::sink()), &progress).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_come_in_pieces() {
    let servers = start_all(&[("x", content(100))], Vec::new());
    let client = connect(&servers).await;
    let (mut send, mut recv) = client.session().open_bi().await.unwrap();
    let request = Request::whole(name("x"));
    for byte in request.encode() {
        send.write_all(&[byte]).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    let chunk = recv.read_chunk(MIB, true).await.unwrap().unwrap();
    let found = Response::decode(&mut chunk.bytes[..].into()).unwrap().unwrap();
    assert!(matches!(found, Response::Found(found) if found.size == 100));
}

/// Nothing is lost silently: not the line of a request either whose client has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_leaves_has_its_line_too() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let configure = |server: Server| {
        server.with_access_log(move |access| log.lock().unwrap().push(access.clone()))
    };
    let big = source(&[("x", content(20 * MIB))]);
    let servers = [start_with(0, big, Vec::new(), configure)];
    let client = connect(&servers).await;
    let fetch = client.fetch(&name("x")).await.unwrap();
    client.session().close(0, b"enough");
    drop(fetch);
    while told.lock().unwrap().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let told = told.lock().unwrap();
    let [access] = &told[..] else { panic!("{told:?}") };
    assert!(access.outcome.is_err() && access.size == Some(20 * MIB as u64), "{access:?}");
}

/// Clients that ask and do not wait for the answer, again and again, beside one that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_given_up_at_once_keep_nobody_from_theirs() {
    let object = content(20 * MIB);
    let servers = start_all(&[("x", object.clone())], vec![source(&[("x", object)])]);
    let mut attackers = Vec::new();
    for attacker in 0..4 {
        let client = connect(&servers).await;
        attackers.push(tokio::spawn(async move {
            let session = client.session().clone();
            let streams = session.clone();
            // What comes of it is given up, too: else its own limits of streams stop it.
            let giving_up = tokio::spawn(async move {
                while let Ok(mut stream) = streams.accept_uni().await {
                    stream.stop(7).ok();
                }
            });
            for request in 0..600 {
                let (mut send, mut recv) = session.open_bi().await.unwrap();
                send.write_all(&Request::whole(name("x")).encode()).await.unwrap();
                match (attacker + request) % 3 {
                    0 => drop(send.reset(7)),
                    1 => drop(send.finish()),
                    _ => {}
                }
                recv.stop(7).ok();
            }
            assert!(session.close_reason().is_none());
            (client, giving_up)
        }));
    }
    let (honest, folder) = (connect(&servers).await, tempdir().unwrap());
    for _ in 0..3 {
        save(&honest, "x", &folder).await.unwrap();
        fs::remove_file(folder.path().join("target")).unwrap();
    }
    let attackers = join_all(attackers).await;
    // All is over, although the sessions go on.
    while servers[0].server.busy_sessions() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    drop((attackers, honest));
}
