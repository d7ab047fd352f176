//! From source to destination without a network: catalogue, verification, partial files.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

use std::{
    fs, future::Future, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use kwik_delivery::{
    Asked, Catalogue, CatalogueError, Object, ObjectName, PageError, PartError, PartFile, Source,
    SourceError, hash_object,
    limits::{GROUP_SIZE, MAX_READ, PAGE_GROUPS},
};
use tempfile::tempdir;
use tokio::time::sleep;

fn name(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

fn content(size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data
}

async fn memory_object(data: &[u8]) -> Object {
    let data = Bytes::copy_from_slice(data);
    Source::memory([(name("x"), data)]).open(&name("x")).await.unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn manifests_verify_what_was_hashed() {
    let piece = usize::try_from(MAX_READ).unwrap();
    for size in [0, 1, 65_536, 65_537, piece - 1, piece, piece + 1, 2 * piece + 65_536, 3_000_000] {
        let data = content(size);
        let published = hash_object(&memory_object(&data).await).await.unwrap();
        let manifest = published.manifest();
        assert_eq!((manifest.size, manifest.root), (size as u64, blake3::hash(&data)));
        let (verifier, _) = published.page(0).await.unwrap();
        for index in 0..verifier.groups() {
            let range = verifier.group_range(index);
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            verifier.verify_group(index, &data[range]).unwrap();
        }
    }
}

#[tokio::test]
async fn published_manifests_outlive_the_server_and_are_not_hashed_again() {
    let (state, folder) = (tempdir().unwrap(), tempdir().unwrap());
    let path = folder.path().join("x");
    let data = content(200_000);
    fs::write(&path, &data).unwrap();
    let source = Source::folder(folder.path()).unwrap();
    let object = source.open(&name("x")).await.unwrap();
    let first = Catalogue::open(state.path()).unwrap().manifest(&object).await.unwrap();
    assert_eq!(first.manifest().root, blake3::hash(&data));
    let key = blake3::hash(b"x").to_hex().to_string();
    assert_eq!(files(&state.path().join("catalogue")), [key.as_str()]);

    // Another catalogue, and only what was written can still know.
    let entry = state.path().join("catalogue").join(&key);
    let written = fs::metadata(&entry).unwrap().modified().unwrap();
    let catalogue = Catalogue::open(state.path()).unwrap();
    assert_eq!(catalogue.known(object.stat()).await, Some(first.manifest().root));
    assert_eq!(catalogue.manifest(&object).await.unwrap(), first);
    assert_eq!(fs::metadata(&entry).unwrap().modified().unwrap(), written);

    // Other content renews it, also with the size and the time of before.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    sleep(Duration::from_millis(20)).await;
    fs::write(&path, vec![0; 200_000]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let changed = source.open(&name("x")).await.unwrap();
    assert_eq!(changed.stat().modified, modified);
    assert_eq!(catalogue.known(changed.stat()).await, None);
    let renewed = catalogue.manifest(&changed).await.unwrap();
    assert_eq!(renewed.manifest().root, blake3::hash(&[0; 200_000]));

    // What was opened before is gone: its new content is not published as its old state.
    drop(first);
    let error = catalogue.manifest(&object).await.unwrap_err();
    assert!(matches!(*error, CatalogueError::Source(SourceError::Changed { .. })), "{error}");
    assert_eq!(catalogue.manifest(&changed).await.unwrap(), renewed);
    assert_eq!(files(&state.path().join("catalogue")).len(), 1);
}

#[tokio::test]
async fn damaged_entries_are_made_anew() {
    let state = tempdir().unwrap();
    let object = memory_object(&content(300_000)).await;
    let catalogue = Catalogue::open(state.path()).unwrap();
    let good = catalogue.manifest(&object).await.unwrap();
    let entry = state.path().join("catalogue").join(blake3::hash(b"x").to_hex().as_str());
    let bytes = fs::read(&entry).unwrap();
    let mut damaged: Vec<_> =
        (0..bytes.len()).step_by(7).map(|end| bytes[..end].to_vec()).collect();
    damaged.extend((0..bytes.len()).step_by(5).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xff;
        bytes
    }));
    damaged.push([&bytes[..], b"more"].concat());
    let root = good.manifest().root;
    drop(good);
    for bad in damaged {
        fs::write(&entry, bad).unwrap();
        assert_eq!(catalogue.manifest(&object).await.unwrap().manifest().root, root);
        assert_eq!(fs::read(&entry).unwrap(), bytes);
    }
}

#[tokio::test]
async fn one_flipped_bit_in_an_entry_makes_no_object_unfetchable() {
    // One group: nothing but the entry's own hash can tell.
    let state = tempdir().unwrap();
    let object = memory_object(b"small").await;
    let catalogue = Catalogue::open(state.path()).unwrap();
    catalogue.manifest(&object).await.unwrap();
    let entry = state.path().join("catalogue").join(blake3::hash(b"x").to_hex().as_str());
    let bytes = fs::read(&entry).unwrap();
    for place in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[place] ^= 1 << (place % 8);
        fs::write(&entry, bad).unwrap();
        let published = catalogue.manifest(&object).await.unwrap();
        assert_eq!(published.manifest().root, blake3::hash(b"small"), "byte {place}");
    }
}

#[tokio::test]
async fn an_outboard_of_several_pages_stays_on_disk_and_is_shared() {
    let (state, folder) = (tempdir().unwrap(), tempdir().unwrap());
    // Sparse: two pages and a bit.
    let size = 2 * GROUP_SIZE * PAGE_GROUPS + 100_000;
    fs::File::create(folder.path().join("x")).unwrap().set_len(size).unwrap();
    let source = Source::folder(folder.path()).unwrap();
    let object = source.open(&name("x")).await.unwrap();
    let catalogue = Catalogue::open(state.path()).unwrap();
    let published = catalogue.manifest(&object).await.unwrap();
    let again = source.open(&name("x")).await.unwrap();
    assert!(Arc::ptr_eq(&published, &catalogue.manifest(&again).await.unwrap()));
    let outline = published.outline().unwrap();
    let group = vec![0; usize::try_from(GROUP_SIZE).unwrap()];
    for page in 0..3 {
        let (verifier, values) = published.page(page).await.unwrap();
        assert!(values.len() as u64 <= PAGE_GROUPS * 32);
        assert_eq!(outline.page_of(page * GROUP_SIZE * PAGE_GROUPS), page);
        verifier.verify_group(page * PAGE_GROUPS, &group).unwrap();
        assert!(verifier.verify_group(page * PAGE_GROUPS + 4096, &group).is_err());
    }
    assert!(published.page(3).await.is_err());
    // Read again by another, and damaged, it is noticed.
    drop(published);
    let catalogue = Catalogue::open(state.path()).unwrap();
    let published = catalogue.manifest(&object).await.unwrap();
    let entry = state.path().join("catalogue").join(blake3::hash(b"x").to_hex().as_str());
    let mut bytes = fs::read(&entry).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&entry, bytes).unwrap();
    assert!(published.page(0).await.is_ok());
    assert!(matches!(published.page(2).await, Err(PageError::Damaged(_))));
}

/// Waits until an object's hashing is under way.
async fn hashing(asked: &Asked) {
    while asked.progress().0 == 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_waits_behind_no_large_one_and_hashing_outlives_its_client() {
    let (state, folder) = (tempdir().unwrap(), tempdir().unwrap());
    for large in ["a", "b", "c"] {
        let file = fs::File::create(folder.path().join(large)).unwrap();
        file.set_len(800_000_000).unwrap();
    }
    fs::write(folder.path().join("small"), b"small").unwrap();
    let source = Source::folder(folder.path()).unwrap();
    let catalogue = Catalogue::open(state.path()).unwrap();
    let object = source.open(&name("a")).await.unwrap();
    let first = catalogue.ask(&object).unwrap();
    hashing(&first).await;
    let mut large = Vec::new();
    for object in ["b", "c"] {
        let object = source.open(&name(object)).await.unwrap();
        large.push(catalogue.ask(&object).unwrap());
    }
    let small = source.open(&name("small")).await.unwrap();
    let published = catalogue.manifest(&small).await.unwrap();
    assert_eq!(published.manifest().size, 5);
    assert!(first.progress().0 < first.progress().1, "the large one is still under way");
    assert!(large.iter().all(|asked| asked.progress().0 == 0), "one after another");
    // All leave: the one under way is finished, the others are not begun.
    drop((first, large));
    let object = source.open(&name("a")).await.unwrap();
    while catalogue.known(object.stat()).await.is_none() {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(50)).await;
    let other = source.open(&name("b")).await.unwrap();
    assert_eq!(catalogue.ask(&other).unwrap().progress().0, 0);
    assert!(!files(&state.path().join("catalogue")).iter().any(|file| file.contains("part")));
}

#[tokio::test]
async fn who_asks_at_once_waits_for_one_result() {
    let state = tempdir().unwrap();
    let object = memory_object(&content(3_000_000)).await;
    let catalogue = Catalogue::open(state.path()).unwrap();
    let manifests = join_all((0..50).map(|_| catalogue.manifest(&object))).await;
    let first = manifests[0].as_ref().unwrap();
    assert!(manifests.iter().all(|each| Arc::ptr_eq(each.as_ref().unwrap(), first)));
}

/// Sixty-four sessions of sixteen requests each hold 1,024 objects: others are served beside them.
#[tokio::test]
async fn objects_that_some_hold_keep_nobody_from_another() {
    let catalogue = Catalogue::in_memory();
    let objects: Vec<_> = (0..1_100).map(|number| format!("o{number}")).collect();
    let source = Source::memory(objects.iter().map(|text| (name(text), content(100).into())));
    let mut held = Vec::new();
    for text in &objects {
        let object = source.open(&name(text)).await.unwrap();
        held.push(catalogue.manifest(&object).await.unwrap());
    }
    assert_eq!(held.len(), 1_100);
}

#[tokio::test]
async fn an_unwritable_catalogue_still_answers() {
    let state = tempdir().unwrap();
    let catalogue = Catalogue::open(state.path()).unwrap();
    fs::remove_dir(state.path().join("catalogue")).unwrap();
    let object = memory_object(b"data").await;
    let published = catalogue.manifest(&object).await.unwrap();
    assert_eq!(published.manifest().root, blake3::hash(b"data"));
    fs::write(state.path().join("file"), b"").unwrap();
    assert!(Catalogue::open(state.path().join("file")).is_err());
}

#[test]
fn futures_may_move_between_threads() {
    fn check(_: impl Future + Send) {}
    fn futures(catalogue: &Catalogue, object: &Object, source: &Source, name: &ObjectName) {
        check(catalogue.manifest(object));
        check(object.read(0..1));
        check(source.open(name));
        check(source.list(1));
    }
    let _: fn(&Catalogue, &Object, &Source, &ObjectName) = futures;
}

#[test]
fn files_take_their_name_only_when_complete() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    let part = PartFile::create(&target, 8).unwrap();
    let second = PartFile::create(&target, 8).unwrap();
    part.write_at(4, b"data").unwrap();
    part.write_at(0, b"some").unwrap();
    assert!(matches!(part.write_at(5, b"data"), Err(PartError::OutOfRange { .. })));
    assert!(matches!(part.write_at(u64::MAX, b"d"), Err(PartError::OutOfRange { .. })));
    assert!(!target.exists());
    let names = files(folder.path());
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.starts_with(".x.") && name.ends_with(".kwik-part")));
    part.finish().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"somedata");
    drop(second);
    assert_eq!(files(folder.path()), ["x"]);

    // It replaces what is there, in one step.
    PartFile::create(&target, 0).unwrap().finish().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"");
}

#[test]
fn a_part_file_whose_process_was_killed_goes_with_the_next_and_a_live_one_stays() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    let dead = folder.path().join(".x.0123456789abcdef.kwik-part");
    let other = folder.path().join(".x.y.0123456789abcdef.kwik-part");
    fs::write(&dead, b"dead").unwrap();
    fs::write(&other, b"of another target").unwrap();
    let live = PartFile::create(&target, 4).unwrap();
    assert!(!dead.exists() && other.exists());
    let second = PartFile::create(&target, 4).unwrap();
    live.write_at(0, b"live").unwrap();
    live.finish().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"live");
    drop(second);
    assert_eq!(files(folder.path()).len(), 2);
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for kept in [0o600, 0o444, 0o755] {
        fs::write(&target, b"old").ok();
        fs::set_permissions(&target, fs::Permissions::from_mode(kept)).unwrap();
        let part = PartFile::create(&target, 3).unwrap();
        let name = files(folder.path()).into_iter().find(|name| name.ends_with("part")).unwrap();
        assert_eq!(mode(&folder.path().join(name)) & 0o077 & !kept, 0, "never wider");
        part.write_at(0, b"new").unwrap();
        part.finish().unwrap();
        assert_eq!((mode(&target), fs::read(&target).unwrap()), (kept, b"new".to_vec()));
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn names_up_to_the_longest_can_be_written() {
    let folder = tempdir().unwrap();
    for name in ["x".repeat(255), "ü".repeat(127)] {
        PartFile::create(folder.path().join(&name), 1).unwrap().finish().unwrap();
        assert!(folder.path().join(name).exists());
    }
}

#[test]
fn failures_to_write_have_their_kinds_and_leave_nothing() {
    let folder = tempdir().unwrap();
    let create = |path: &Path| PartFile::create(path, 1).unwrap_err();
    assert!(matches!(create(folder.path()), PartError::TargetIsFolder { .. }));
    assert!(matches!(create(Path::new("..")), PartError::TargetIsFolder { .. }));
    assert!(matches!(create(&folder.path().join("no/x")), PartError::NoFolder { .. }));
    assert!(matches!(create(Path::new("/proc/x")), PartError::NoFolder { .. }));

    let target = folder.path().join("x");
    let part = PartFile::create(&target, 1).unwrap();
    fs::create_dir(&target).unwrap();
    assert!(matches!(part.finish(), Err(PartError::TargetIsFolder { .. })));
    assert_eq!(files(folder.path()), ["x"]);

    // More than any file may have.
    assert!(PartFile::create(folder.path().join("y"), u64::MAX / 2).is_err());
    assert_eq!(files(folder.path()), ["x"]);
}
