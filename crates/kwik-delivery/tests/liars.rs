//! Servers that send other bytes than the object's: found out, done without, and named.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{fs, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    MIB, Running, connect, content, identity,
    liar::{Checked, Liar, Lie, fetch_checked, groups, is_repair, one_byte, save_checked},
    name, source, start, start_all,
};
use kwik::{Accepted, Endpoint, PathId, ServerConfig};
use kwik_delivery::{
    Client, Edge, FailureCode, FetchError, Found, Manifest, Part, Progress, Request, Response,
    Source,
    limits::{GROUP_SIZE, QUARANTINE},
};
use tempfile::tempdir;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Enough for every path to be asked for some of it.
const SIZE: usize = 20 * MIB;

/// A primary with good edges and lying ones, in that order.
fn primary(object: &Bytes, source: Source, good: &[Running], liars: &[&Liar]) -> Running {
    assert!(!object.is_empty());
    let good = good.iter().map(|server| server.edge.clone());
    start(0, source, good.chain(liars.iter().map(|liar| liar.edge.clone())).collect())
}

fn objects(object: &Bytes) -> Source {
    source(&[("x", object.clone())])
}

async fn connect_all(primary: Running, paths: usize) -> (Client, Running) {
    let servers = [primary];
    let client = connect(&servers).await;
    while client.session().stats().paths.len() < paths {
        sleep(Duration::from_millis(1)).await;
    }
    let [primary] = servers;
    (client, primary)
}

/// Fetches beside one liar and `good` good edges, to a file and in order.
async fn all_verified_beside(lie: Lie, good: u8) {
    let object = content(SIZE);
    let mut edges = Vec::new();
    for seed in 1..=good {
        edges.push(start(seed, objects(&object), Vec::new()));
    }
    let liar = Liar::start(9, object.clone(), lie);
    for in_order in [false, true] {
        let source = objects(&object);
        let primary = primary(&object, source, &edges, &[&liar]);
        let (client, _primary) = connect_all(primary, usize::from(good) + 2).await;
        let result = if in_order {
            fetch_checked(&client, &object).await
        } else {
            save_checked(&client, &object).await
        };
        result.unwrap();
        let found: Vec<_> = client.liars_found().into_iter().map(|(_, address)| address).collect();
        assert_eq!(found, [liar.edge.addresses[0].to_string()]);
        // It brings nothing more: its path is gone.
        while client.session().stats().paths.len() > usize::from(good) + 1 {
            sleep(Duration::from_millis(1)).await;
        }
        // And what comes now is good at once.
        save_checked(&client, &object).await.unwrap();
        assert_eq!(client.liars_found().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_mended_beside_one_good_server() {
    all_verified_beside(Arc::new(|_, _, bytes| bytes.fill(0x55)), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_mended_beside_two_good_servers() {
    all_verified_beside(Arc::new(|_, _, bytes| bytes.fill(0x55)), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_second_group_is_mended_beside_one_good_server() {
    all_verified_beside(groups(|_, group| group % 2 == 1), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_second_group_is_mended_beside_two_good_servers() {
    all_verified_beside(groups(|_, group| group % 2 == 1), 1).await;
}

/// An edge of which one byte is wrong, in a group that it is made to bring.
#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_byte_is_mended() {
    let object = content(SIZE);
    let liar = Liar::start(9, object.clone(), one_byte());
    let primary = primary(&object, objects(&object), &[], &[&liar]);
    let (client, _primary) = connect_all(primary, 2).await;
    save_checked(&client, &object).await.unwrap();
    assert_eq!(client.liars_found().len(), 1);
}

/// One lies always, another only in what is asked of it twice.
#[tokio::test(flavor = "multi_thread")]
async fn who_lies_only_when_asked_again_is_found_too() {
    let object = content(SIZE);
    let always = Liar::start(8, object.clone(), Arc::new(|_, _, bytes| bytes.fill(1)));
    let repairs = groups(|lease, _| is_repair(lease, SIZE));
    let twice = Liar::start(9, object.clone(), repairs);
    let primary = primary(&object, objects(&object), &[], &[&always, &twice]);
    let (client, _primary) = connect_all(primary, 3).await;
    fetch_checked(&client, &object).await.unwrap();
    let found: Vec<_> = client.liars_found().into_iter().map(|(_, address)| address).collect();
    assert!(found.contains(&always.edge.addresses[0].to_string()), "{found:?}");
    assert!(!found.iter().any(|address| *address == client.session().remote_address().to_string()));
}

/// A stale copy, served by an honest server: the primary looks into it, and keeps it out from then
/// on.
#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_the_same_size_is_found_out_once_for_all_sessions() {
    let object = content(SIZE);
    let other = objects(&Bytes::from(vec![7; SIZE]));
    let servers = start_all(&[("x", object.clone())], vec![other, objects(&object)]);
    let client = connect(&servers).await;
    save_checked(&client, &object).await.unwrap();
    assert_eq!(client.liars_found().len(), 1);
    assert_eq!(client.liars_found()[0].1, servers[1].edge.addresses[0].to_string());
    // Another client is brought the good edge alone, once the primary has looked into it.
    timeout(Duration::from_secs(20), async {
        loop {
            let second = connect(&servers[..1]).await;
            sleep(Duration::from_millis(200)).await;
            let paths = second.session().stats().paths;
            if paths.len() == 2 {
                let stale = servers[1].edge.addresses[0].to_string();
                assert!(paths.iter().all(|path| path.address != stale));
                save_checked(&second, &object).await.unwrap();
                assert!(second.liars_found().is_empty());
                break;
            }
        }
    })
    .await
    .unwrap();
    assert!(QUARANTINE > Duration::from_secs(60));
}

/// An edge by hand that lies in leases alone: the primary sees it too.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_lies_in_leases_alone_is_kept_out_of_later_sessions() {
    let object = content(SIZE);
    let liar = Liar::start(9, object.clone(), groups(|_, group| group % 2 == 1));
    let servers = [primary(&object, objects(&object), &[], &[&liar])];
    let client = connect(&servers).await;
    while client.session().stats().paths.len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    save_checked(&client, &object).await.unwrap();
    assert_eq!(client.liars_found().len(), 1);
    timeout(Duration::from_secs(20), async {
        loop {
            let later = connect(&servers).await;
            sleep(Duration::from_millis(200)).await;
            if later.session().stats().paths.len() == 1 {
                save_checked(&later, &object).await.unwrap();
                assert!(later.liars_found().is_empty());
                break;
            }
        }
    })
    .await
    .unwrap();
}

/// A client that blames an honest edge harms its own session alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_blames_an_honest_edge_harms_nobody_else() {
    use kwik_delivery::{Blame, Repair};
    let object = content(MIB);
    let servers = start_all(&[("x", object.clone())], vec![objects(&object)]);
    let client = connect(&servers).await;
    let blame =
        Blame { path: PathId(1), range: 0..GROUP_SIZE, expected: [1; 32], received: Some([2; 32]) };
    let (excluded, root) = (vec![PathId(1)], blake3::hash(&object));
    let repair = Repair { root, range: 0..GROUP_SIZE, excluded, blamed: vec![blame] };
    let request = Request { name: name("x"), part: Part::Repair(repair) };
    let (mut send, mut recv) = client.session().open_bi().await.unwrap();
    send.write_all(&request.encode()).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(MIB).await.unwrap();
    let answer = Response::decode(&mut answer.as_slice().into()).unwrap().unwrap();
    assert!(matches!(answer, Response::Again { .. }), "{answer:?}");
    while client.session().stats().paths.len() > 1 {
        sleep(Duration::from_millis(1)).await;
    }
    // Others keep it, also once it was looked into.
    for _ in 0..5 {
        sleep(Duration::from_millis(100)).await;
        let other = connect(&servers).await;
        save_checked(&other, &object).await.unwrap();
    }
}

/// Two liars, and a primary that lies as well: nobody is left, and all are named.
#[tokio::test(flavor = "multi_thread")]
async fn only_liars_left_are_named() {
    let object = content(SIZE);
    let garbage: Lie = Arc::new(|_, _, bytes| bytes.fill(3));
    let liar = Liar::start(9, object.clone(), garbage);
    let primary = lying_primary(object.clone(), liar.edge.clone());
    let (client, _primary) = {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = kwik::ClientConfig::pinned(primary.0.fingerprint);
        let session =
            endpoint.connect_with(config, primary.0.addresses[0], "").unwrap().await.unwrap();
        (Client::new(session), primary)
    };
    let output = Checked::new(&object);
    let fetch = client.fetch(&name("x")).await.unwrap();
    let progress = Progress::default();
    let writing = fetch.write_to(Box::new(output.clone()), &progress);
    let error = timeout(Duration::from_secs(30), writing).await.unwrap().unwrap_err();
    let FetchError::Liars { servers, .. } = &error else { panic!("{error}") };
    assert!(servers.contains(&client.session().remote_address().to_string()), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

/// States the object's manifest, and sends something else, whatever is asked.
fn lying_primary(object: Bytes, edge: Edge) -> (Edge, JoinHandle<()>) {
    let config = ServerConfig::new(identity(0));
    let fingerprint = config.identity.fingerprint();
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let here = Edge::new(endpoint.local_addr().unwrap(), fingerprint);
    let task = tokio::spawn(async move {
        let Some(incoming) = endpoint.accept().await else { return };
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        primary.add_path(edge.addresses[0], edge.fingerprint).await.ok();
        let memory = Source::memory([(name("x"), object)]);
        let opened = memory.open(&name("x")).await.unwrap();
        let published = kwik_delivery::hash_object(&opened).await.unwrap();
        let Manifest { name, size, root } = published.manifest().clone();
        let (_, outboard) = published.page(0).await.unwrap();
        while let Ok((mut send, mut recv)) = primary.session().accept_bi().await {
            let request = recv.read_to_end(MIB).await.unwrap();
            let request = Request::decode(&mut request.as_slice().into()).unwrap().unwrap();
            let range = match request.part {
                Part::Repair(repair) => repair.range,
                _ => 0..size,
            };
            let Range { start, end } = range;
            if start == end {
                send.write_all(&Response::Noted.encode()).await.unwrap();
                send.finish().unwrap();
                continue;
            }
            let mut stream = primary.session().open_uni().await.unwrap();
            let stream_id = stream.id().as_u64();
            let whole = end - start == size;
            let answer = if whole {
                let found = Found::new(name.clone(), size, root, stream_id);
                [&Response::Found(found).encode()[..], &outboard].concat()
            } else {
                Response::Again { stream_id }.encode().to_vec()
            };
            send.write_all(&answer).await.unwrap();
            send.finish().unwrap();
            tokio::spawn(async move {
                let length = usize::try_from(end - start).unwrap();
                stream.write_all(&vec![9; length]).await.ok();
                stream.finish().ok();
                // Until the session ends.
                std::future::pending::<()>().await;
            });
        }
    });
    (here, task)
}

/// A primary whose file is not what its catalogue says, though size and times are the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_own_bytes_do_not_fit_hashes_anew_and_says_so() {
    let folder = tempdir().unwrap();
    let object = content(3 * MIB);
    fs::write(folder.path().join("x"), &object).unwrap();
    let server = start(0, Source::folder(folder.path()).unwrap(), Vec::new());
    let servers = [server];
    save_checked(&connect(&servers).await, &object).await.unwrap();
    rot(&folder.path().join("x"), &servers[0].state().join("catalogue"));
    let rotten = Bytes::from(fs::read(folder.path().join("x")).unwrap());
    let client = connect(&servers).await;
    let error = save_checked(&client, &object).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Refused(failure) if failure.code == FailureCode::Changed),
        "{error}"
    );
    assert!(error.to_string().contains("hashed it anew"), "{error}");
    save_checked(&client, &rotten).await.unwrap();
}

/// Changes a byte of a file, and has its entry in the catalogue say that it was so when it was
/// hashed.
fn rot(path: &std::path::Path, catalogue: &std::path::Path) {
    use std::os::unix::fs::MetadataExt;
    let state = || {
        let meta = fs::metadata(path).unwrap();
        format!(
            "{:x}-{:x}-{:x}-{:x}-{:x}-{:x}-{:x}",
            meta.dev(),
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        )
    };
    let before = state();
    let entry = fs::read_dir(catalogue).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&entry).unwrap();
    // Until the state has as many digits as before.
    loop {
        let mut data = fs::read(path).unwrap();
        data[MIB] ^= 1;
        data[MIB + 1] = data[MIB + 1].wrapping_add(1);
        fs::write(path, data).unwrap();
        if state().len() == before.len() {
            break;
        }
    }
    let mut rest = &bytes[..];
    let length = prost::decode_length_delimiter(&mut rest).unwrap();
    let start = bytes.len() - rest.len();
    let mut head = rest[..length].to_vec();
    let at = head.windows(before.len()).position(|part| part == before.as_bytes()).unwrap();
    head[at..at + before.len()].copy_from_slice(state().as_bytes());
    let hash = *blake3::hash(&head).as_bytes();
    let all = [&bytes[..start], &head, &hash, &rest[length + 32..]].concat();
    fs::write(entry, all).unwrap();
}
