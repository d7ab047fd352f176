//! Small objects, many of them at once, from several servers.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use common::{MIB, Running, connect, content, liar::Liar, name, start, start_all, start_with};
use kwik_delivery::{
    AtOnce, Client, ObjectName, PackFetch, Progress, Source,
    limits::{MAX_INLINE, MAX_PACK, MAX_PACK_SIZE},
};
use tempfile::tempdir;
use tokio::time::sleep;

const SIZE: usize = 4096;

/// As many small objects as a pack has, of which no two are the same.
fn objects() -> Vec<(ObjectName, Bytes)> {
    let all = content(MAX_PACK * SIZE);
    let each =
        (0..MAX_PACK).map(|at| (name(&format!("f/{at}")), all.slice(at * SIZE..(at + 1) * SIZE)));
    each.collect()
}

async fn fetch(client: &Client, names: &[ObjectName]) -> PackFetch {
    let progress: Vec<_> = names.iter().map(|_| Progress::default()).collect();
    let progress: Vec<_> = progress.iter().collect();
    let fetched = client.fetch_pack(names, &progress).await.unwrap();
    for (file, progress) in fetched.files.iter().zip(progress) {
        assert_eq!(file.as_ref().map_or(0, |file| file.manifest.size), progress.verified());
    }
    fetched
}

async fn assert_whole(client: &Client, objects: &[(ObjectName, Bytes)]) {
    let names: Vec<_> = objects.iter().map(|(name, _)| name.clone()).collect();
    let PackFetch { files, damaged } = fetch(client, &names).await;
    assert!(!damaged);
    for (file, (name, data)) in files.into_iter().zip(objects) {
        let file = file.unwrap();
        assert_eq!((&file.manifest.name, file.manifest.root), (name, blake3::hash(data)));
        assert!(file.data == data);
    }
}

fn brought(client: &Client) -> Vec<u64> {
    client.session().stats().paths.iter().map(|path| path.udp_received).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_come_whole_and_edges_bring_some_of_them() {
    let objects = objects();
    let edges = (0..2).map(|_| Source::memory(objects.clone())).collect();
    let mut servers = start_all(&[], edges);
    let edges = servers[1..].iter().map(|server| server.edge.clone()).collect();
    // It has nothing to gain by edges that are as near, unless it is slow.
    servers[0] = start_with(0, Source::memory(objects.clone()), edges, |server| {
        server.with_join_policy(AtOnce).with_rate(2_000_000)
    });
    let client = connect(&servers).await;
    for _ in 0..100 {
        assert_whole(&client, &objects).await;
        if brought(&client).iter().filter(|bytes| **bytes > 100_000).count() > 1 {
            return;
        }
    }
    panic!("{:?}", brought(&client));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_into_a_pack_is_left_for_later() {
    let folder = tempdir().unwrap();
    let most = usize::try_from(MAX_INLINE).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for (name, size) in [("empty", 0), ("one", 1), ("most", most), ("more", most + 1)] {
        fs::write(folder.path().join(name), content(size)).unwrap();
    }
    let many: Vec<_> = (0..8).map(|at| format!("m{at}")).collect();
    for name in &many {
        fs::write(folder.path().join(name), content(most)).unwrap();
    }
    let whole = Source::folder(folder.path()).unwrap();
    let several = Source::several([(name("s"), whole.clone())]).unwrap();
    for (prefix, source) in [("", whole), ("s/", several)] {
        let servers = [start(0, source, Vec::new())];
        let client = connect(&servers).await;
        let names = |names: &[&str]| -> Vec<_> {
            names.iter().map(|it| name(&format!("{prefix}{it}"))).collect()
        };
        let given = names(&["none", "empty", "folder", "one", "more", "most"]);
        let PackFetch { files, damaged } = fetch(&client, &given).await;
        let sizes: Vec<_> = files.iter().map(|it| it.as_ref().map(|it| it.data.len())).collect();
        assert_eq!(sizes, [None, Some(0), None, Some(1), None, Some(most)]);
        assert!(!damaged && files[1].as_ref().unwrap().attributes.modified.is_some());
        // Nothing but empty ones, and nothing at all.
        assert!(fetch(&client, &names(&["empty"])).await.files[0].is_some());
        assert!(fetch(&client, &names(&["none"])).await.files[0].is_none());
        let many: Vec<_> = many.iter().map(|it| &**it).collect();
        let came = fetch(&client, &names(&many)).await.files;
        let size: usize = came.iter().flatten().map(|file| file.data.len()).sum();
        assert!(size as u64 <= MAX_PACK_SIZE && came.iter().flatten().count() == 4, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_in_a_pack_that_may_not_be_seen_alone() {
    let (folder, outside) = (tempdir().unwrap(), tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("keys")).unwrap();
    fs::create_dir(at(".dot")).unwrap();
    fs::create_dir(at("own")).unwrap();
    let files = ["a", ".hidden", ".dot/b", ".x.kwik-part", "keys/c", "keys/identity", "own/d"];
    for name in files {
        fs::write(at(name), content(32)).unwrap();
    }
    fs::set_permissions(at("keys/identity"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(outside.path().join("out"), b"out").unwrap();
    for (to, link) in [
        (at("a"), "in"),
        (outside.path().join("out"), "out"),
        (outside.path().to_path_buf(), "folder"),
        (at("own/d"), "to-own"),
    ] {
        symlink(to, at(link)).unwrap();
    }
    fs::hard_link(at("own/d"), at("hard")).unwrap();
    let source = Source::folder(folder.path()).unwrap();
    let source = source.excluding(at("own")).unwrap().excluding(at("own/d")).unwrap();
    let servers = [start(0, source, Vec::new())];
    let client = connect(&servers).await;
    let names = files.iter().chain(&["in", "out", "folder/out", "to-own", "hard"]);
    let names: Vec<_> = names.map(|it| name(it)).collect();
    let PackFetch { files, .. } = fetch(&client, &names).await;
    let seen: Vec<_> =
        names.iter().zip(files).filter_map(|(name, file)| file.map(|_| name)).collect();
    for name in &names {
        let alone = client.fetch_small(name, &Progress::default()).await.is_ok();
        assert_eq!(alone, seen.contains(&name), "{name}");
    }
    assert_eq!(seen, [&name("a"), &name("in")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_with_another_version_brings_nothing_of_a_pack() {
    let objects = objects();
    let mut other = objects.clone();
    other[7].1 = content(SIZE + 1).slice(1..);
    let missing = objects[1..].to_vec();
    for edge in [other, missing] {
        let edge = start(1, Source::memory(edge), Vec::new());
        let primary = start(0, Source::memory(objects.clone()), vec![edge.edge.clone()]);
        let servers = [primary, edge];
        let client = connect(&servers).await;
        for _ in 0..5 {
            assert_whole(&client, &objects).await;
        }
    }
}

async fn beside_liar(objects: &[(ObjectName, Bytes)], data: Bytes) -> (Client, Running, Liar) {
    let liar = Liar::start(9, data, Arc::new(|_, _, bytes| bytes.fill(0x55)));
    let primary = start(0, Source::memory(objects.to_vec()), vec![liar.edge.clone()]);
    let servers = [primary];
    let client = connect(&servers).await;
    while client.session().stats().paths.len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    let [primary] = servers;
    (client, primary, liar)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_liar_brings_of_a_pack_is_not_taken_and_comes_alone() {
    let objects = objects();
    let (client, _primary, _liar) = beside_liar(&objects, content(MAX_PACK * SIZE)).await;
    let names: Vec<_> = objects.iter().map(|(name, _)| name.clone()).collect();
    let mut lies = 0;
    for _ in 0..200 {
        let PackFetch { files, damaged } = fetch(&client, &names).await;
        for (file, (name, data)) in files.iter().zip(&objects) {
            let Some(file) = file else {
                lies += 1;
                let progress = Progress::default();
                let alone = client.fetch_small(name, &progress).await.unwrap();
                assert!(alone.here(&progress).unwrap() == data);
                continue;
            };
            assert!(file.data == data);
        }
        assert_eq!(damaged, files.iter().any(Option::is_none));
        if lies > 0 {
            return;
        }
    }
    panic!("it was asked for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_pack_a_large_object_comes_too() {
    let mut objects = objects();
    let large = content(3 * MIB);
    objects.push((name("large"), large.clone()));
    let servers = [start(0, Source::memory(objects.clone()), Vec::new())];
    let client = connect(&servers).await;
    let small = objects[..MAX_PACK].to_vec();
    let packs = async {
        for _ in 0..20 {
            assert_whole(&client, &small).await;
        }
    };
    let folder = tempdir().unwrap();
    let target = folder.path().join("large");
    let whole = async {
        let fetch = client.fetch(&name("large")).await.unwrap();
        fetch.save(&target, &Progress::default()).await.unwrap();
    };
    tokio::join!(packs, whole);
    assert!(fs::read(&target).unwrap() == large);
}
