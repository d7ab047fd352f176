//! From source to destination without a network: catalogue, verification, partial files.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

use std::{fs, future::Future, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use kwik_delivery::{
    Catalogue, CatalogueError, Object, ObjectName, PartError, PartFile, Source, SourceError,
    hash_object, limits::MAX_READ,
};
use tempfile::tempdir;

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
    Source::memory([(name("x"), data)]).await.unwrap().open(&name("x")).await.unwrap()
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
        let manifest = hash_object(&memory_object(&data).await).await.unwrap();
        assert_eq!((manifest.size, manifest.root), (size as u64, blake3::hash(&data)));
        let verifier = manifest.verifier().unwrap();
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
    assert_eq!(first.root, blake3::hash(&data));
    let key = blake3::hash(b"x").to_hex().to_string();
    assert_eq!(files(&state.path().join("catalogue")), [key.as_str()]);

    // Other content in the same state: only the catalogue can still know the old root.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, vec![0; 200_000]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let catalogue = Catalogue::open(state.path()).unwrap();
    assert_eq!(catalogue.manifest(&object).await.unwrap(), first);

    // A new modification time renews it.
    let later = modified + Duration::from_secs(1);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let changed = source.open(&name("x")).await.unwrap();
    let renewed = catalogue.manifest(&changed).await.unwrap();
    assert_eq!(renewed.root, blake3::hash(&[0; 200_000]));

    // What was opened before is gone: its new content is not published as its old state.
    let error = catalogue.manifest(&object).await.unwrap_err();
    assert!(matches!(error, CatalogueError::Source(SourceError::Changed { .. })), "{error}");
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
    for bad in damaged {
        fs::write(&entry, bad).unwrap();
        assert_eq!(catalogue.manifest(&object).await.unwrap(), good);
        assert_eq!(fs::read(&entry).unwrap(), bytes);
    }
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

#[tokio::test]
async fn an_unwritable_catalogue_still_answers() {
    let state = tempdir().unwrap();
    let catalogue = Catalogue::open(state.path()).unwrap();
    fs::remove_dir(state.path().join("catalogue")).unwrap();
    let object = memory_object(b"data").await;
    assert_eq!(catalogue.manifest(&object).await.unwrap().root, blake3::hash(b"data"));
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
