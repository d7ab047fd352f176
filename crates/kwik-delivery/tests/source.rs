//! Sources: what they give, and what they keep to themselves.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use kwik_delivery::{EntryKind, List, ObjectName, Source, SourceError, limits::MAX_READ};
use tempfile::{TempDir, tempdir};

fn name(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

fn folder() -> (TempDir, Source) {
    let folder = tempdir().unwrap();
    fs::create_dir_all(folder.path().join("sub/deep")).unwrap();
    fs::write(folder.path().join("a#1"), b"alpha").unwrap();
    fs::write(folder.path().join("sub/deep/b"), b"beta").unwrap();
    let source = Source::folder(folder.path()).unwrap();
    (folder, source)
}

async fn is_not_found(source: &Source, object: &str) -> bool {
    matches!(source.open(&name(object)).await, Err(SourceError::NotFound { .. }))
}

fn assert_send_sync<T: Send + Sync>() {}

#[tokio::test]
async fn objects_are_found_and_read_anywhere() {
    assert_send_sync::<Source>();
    let (_folder, source) = folder();
    let stat = source.head(&name("a#1")).await.unwrap();
    assert_eq!((stat.name.to_str(), stat.size), (Some("a#1"), 5));
    let object = source.open(&name("sub/deep/b")).await.unwrap();
    assert_eq!(object.read(1..3).await.unwrap(), "et");
    assert_eq!(object.read(4..4).await.unwrap(), "");
    for range in [3..5, 0..MAX_READ + 1, u64::MAX - 1..u64::MAX] {
        assert!(matches!(object.read(range).await, Err(SourceError::OutOfRange { .. })));
    }
    assert_eq!(source.list(9).await.unwrap(), [name("a#1"), name("sub/deep/b")]);
    assert_eq!(source.list(1).await.unwrap(), [name("a#1")]);
    for missing in ["c", "sub", "a#1/x", "sub/deep", &"x".repeat(300)] {
        assert!(is_not_found(&source, missing).await, "{missing}");
    }
}

#[tokio::test]
async fn links_lead_inside_but_not_out() {
    let (folder, source) = folder();
    let outside = tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink(outside.path().join("secret"), at("file")).unwrap();
    symlink(outside.path(), at("out")).unwrap();
    symlink("../../../../../../etc/passwd", at("passwd")).unwrap();
    symlink("sub/deep/b", at("inside")).unwrap();
    symlink("nowhere", at("broken")).unwrap();
    symlink("loop", at("loop")).unwrap();
    symlink(".", at("here")).unwrap();

    for hidden in ["file", "out/secret", "passwd", "broken"] {
        assert!(is_not_found(&source, hidden).await, "{hidden}");
    }
    assert!(source.open(&name("loop")).await.is_err());
    for shown in ["inside", "here/inside", "here/here/sub/deep/b"] {
        let object = source.open(&name(shown)).await.unwrap();
        assert_eq!(object.read(0..4).await.unwrap(), "beta");
    }
    assert_eq!(source.list(9).await.unwrap(), [name("a#1"), name("inside"), name("sub/deep/b")]);
}

#[tokio::test]
async fn only_regular_whole_files_are_objects() {
    let (folder, source) = folder();
    assert!(Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap().success());
    fs::write(folder.path().join(".x.1-0.kwik-part"), b"partial").unwrap();
    assert!(is_not_found(&source, "pipe").await);
    assert!(is_not_found(&source, ".x.1-0.kwik-part").await);
    assert_eq!(source.list(9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_file_alone_is_the_only_object() {
    let (folder, _) = folder();
    let source = Source::folder(folder.path().join("a#1")).unwrap();
    assert_eq!(source.list(9).await.unwrap(), [name("a#1")]);
    assert_eq!(source.head(&name("a#1")).await.unwrap().size, 5);
    assert!(is_not_found(&source, "sub/deep/b").await);

    // Replaced by another file it is the new one; by a link out, none.
    fs::write(folder.path().join("new"), b"other").unwrap();
    fs::rename(folder.path().join("new"), folder.path().join("a#1")).unwrap();
    let object = source.open(&name("a#1")).await.unwrap();
    assert_eq!(object.read(0..5).await.unwrap(), "other");
    fs::remove_file(folder.path().join("a#1")).unwrap();
    symlink("sub/deep/b", folder.path().join("a#1")).unwrap();
    assert!(is_not_found(&source, "a#1").await);
}

#[tokio::test]
async fn several_sources_are_folders_of_one() {
    let (folder, source) = folder();
    let (other, _) = self::folder();
    let alone = Source::folder(other.path().join("a#1")).unwrap();
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"from a pipe", 0).unwrap();
    let held = Source::held(name("inner"), file).unwrap();
    let sources = [("one", source.clone()), ("two", alone), ("three", held)];
    let all = Source::several(sources.map(|(text, it)| (name(text), it))).unwrap();
    let names = all.list(99).await.unwrap();
    for expected in ["one/a#1", "one/sub/deep/b", "two", "three"] {
        assert!(names.contains(&name(expected)), "{names:?}");
        assert_eq!(all.head(&name(expected)).await.unwrap().name, name(expected));
    }
    assert_eq!(all.list(2).await.unwrap().len(), 2);
    let object = all.open(&name("three")).await.unwrap();
    assert_eq!(object.read(0..11).await.unwrap(), "from a pipe");
    for missing in ["one", "four", "a#1", "two/x", "three/inner", "one/none", "inner"] {
        assert!(is_not_found(&all, missing).await, "{missing}");
        let error = all.head(&name(missing)).await.unwrap_err().to_string();
        assert!(error.contains(missing), "{error}");
    }
    // What is excluded is so by all its ways.
    let all = all.excluding(folder.path().join("sub")).unwrap();
    assert!(is_not_found(&all, "one/sub/deep/b").await);
    assert!(all.head(&name("one/a#1")).await.is_ok());
    for names in [["x", "x"], ["a/b", "c"]] {
        let both = names.map(|text| (name(text), source.clone()));
        assert!(Source::several(both).is_err(), "{names:?}");
    }
}

/// All of a list, in pages of `most`: folders with `/` behind their names, and how much was left
/// out.
async fn listed(source: &Source, folder: &str, recursive: bool, most: usize) -> Vec<String> {
    let folder = (!folder.is_empty()).then(|| name(folder));
    let mut list = List { folder, recursive, after: None };
    let (mut names, mut left_out) = (Vec::new(), 0);
    loop {
        let page = source.page(&list, most).await.unwrap();
        assert!(page.last && page.entries.len() <= most);
        assert!(!page.more || !page.entries.is_empty());
        left_out += page.left_out;
        list.after = page.entries.last().map(|entry| entry.name.clone());
        names.extend(page.entries.iter().map(|entry| match entry.kind {
            EntryKind::File { size } => format!("{} {size}", entry.name),
            EntryKind::Folder => format!("{}/", entry.name),
            EntryKind::Unreadable => format!("{}!", entry.name),
        }));
        if !page.more {
            names.push(left_out.to_string());
            return names;
        }
    }
}

#[tokio::test]
async fn several_sources_are_listed_as_folders_of_one() {
    let (one, two) = (folder(), folder());
    // What cannot be fetched stands before, between and behind what can.
    for link in ["0", "a1", "z"] {
        symlink("none", one.0.path().join(link)).unwrap();
    }
    let alone = Source::folder(two.0.path().join("a#1")).unwrap();
    let memory = Source::memory([(name("x/y"), Bytes::new()), (name("z"), Bytes::new())]);
    let sources =
        [("one", one.1), ("two", two.1), ("alone", alone), ("mem", memory), ("in", folder().1)];
    let all = Source::several(sources.map(|(text, it)| (name(text), it))).unwrap();
    for most in 1..20 {
        let names = listed(&all, "", true, most).await;
        assert_eq!(
            names,
            [
                "alone 5",
                "in!",
                "mem/",
                "mem/x/",
                "mem/x/y 0",
                "mem/z 0",
                "one/",
                "one/a#1 5",
                "one/sub/",
                "one/sub/deep/",
                "one/sub/deep/b 4",
                "two/",
                "two/a#1 5",
                "two/sub/",
                "two/sub/deep/",
                "two/sub/deep/b 4",
                "3"
            ],
            "{most}"
        );
        let names = listed(&all, "", false, most).await;
        assert_eq!(names, ["alone 5", "in/", "mem/", "one/", "two/", "0"], "{most}");
        let names = listed(&all, "one/sub", true, most).await;
        assert_eq!(names, ["one/sub/deep/", "one/sub/deep/b 4", "0"], "{most}");
        assert_eq!(listed(&all, "one", false, most).await, ["one/a#1 5", "one/sub/", "3"]);
        assert_eq!(listed(&all, "alone", true, most).await, ["alone 5", "0"]);
        assert_eq!(listed(&all, "one/a#1", true, most).await, ["one/a#1 5", "0"]);
    }
    for missing in ["none", "alone/x", "one/none", "sub", "mem/none"] {
        let list = List { folder: Some(name(missing)), ..List::default() };
        let error = all.page(&list, 9).await.unwrap_err();
        assert!(matches!(error, SourceError::NotFound { .. }), "{missing}: {error}");
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[tokio::test]
async fn what_has_no_name_below_a_source_is_left_out_of_its_list() {
    let segment = "s".repeat(250);
    let long = [&*segment; 4].join("/");
    let objects = [&*format!("{long}/{}", "a".repeat(20)), &*format!("{long}/b"), "c"];
    let memory = Source::memory(objects.map(|text| (name(text), Bytes::new())));
    let root = "r".repeat(15);
    let all = Source::several([(name(&root), memory)]).unwrap();
    for most in [1, 2, 100] {
        let names = listed(&all, "", true, most).await;
        assert!(names.contains(&format!("{root}/{long}/b 0")), "{names:?}");
        assert!(names.contains(&format!("{root}/c 0")), "{names:?}");
        assert!(names.iter().all(|name| !name.contains("aaa")), "{names:?}");
        assert_eq!(names.last().unwrap(), "1");
    }
}

#[tokio::test]
async fn what_is_excluded_is_not_there_by_whatever_name() {
    let (folder, source) = folder();
    let at = |name: &str| folder.path().join(name);
    symlink("sub", at("way")).unwrap();
    symlink("sub/deep/b", at("file")).unwrap();
    let source = source.excluding(at("sub")).unwrap();
    for secret in ["sub/deep/b", "way/deep/b", "file"] {
        assert!(is_not_found(&source, secret).await, "{secret}");
    }
    assert_eq!(source.list(9).await.unwrap(), [name("a#1")]);
    // It is the folder, not its name; and its name stays kept back as well.
    fs::rename(at("sub"), at("moved")).unwrap();
    fs::create_dir_all(at("sub/deep")).unwrap();
    fs::write(at("sub/deep/b"), b"new").unwrap();
    for secret in ["moved/deep/b", "sub/deep/b"] {
        assert!(is_not_found(&source, secret).await, "{secret}");
    }
    let refused = Source::folder(at("moved/deep")).unwrap().excluding(at("moved")).unwrap_err();
    assert!(refused.to_string().contains("secret key"), "{refused}");
    let refused = Source::folder(at("moved/deep/b")).unwrap().excluding(at("moved"));
    assert!(refused.is_err());
}

/// The state of any server that lies in what is served, whoever started it.
#[tokio::test]
async fn no_servers_key_is_an_object_nor_what_lies_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, source) = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("state/catalogue")).unwrap();
    fs::write(at("state/catalogue/x"), b"x").unwrap();
    fs::write(at("state/identity"), [7; 32]).unwrap();
    // Not like one yet: others may read it.
    fs::set_permissions(at("state/identity"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(source.open(&name("state/catalogue/x")).await.is_ok());
    fs::set_permissions(at("state/identity"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("state", at("way")).unwrap();
    for secret in ["state/identity", "state/catalogue/x", "way/identity"] {
        assert!(is_not_found(&source, secret).await, "{secret}");
    }
    assert_eq!(source.list(9).await.unwrap().len(), 2);
    // By another name, it is the same file.
    fs::hard_link(at("state/identity"), at("innocent")).unwrap();
    assert!(source.open(&name("innocent")).await.is_ok());
    let source = source.excluding(at("state/identity")).unwrap();
    assert!(is_not_found(&source, "innocent").await);
}

#[tokio::test]
async fn hidden_files_are_objects_by_option_only() {
    let (folder, source) = folder();
    let at = |name: &str| folder.path().join(name);
    assert_eq!(source.find_hidden(), None);
    fs::create_dir(at(".git")).unwrap();
    fs::write(at(".git/config"), b"x").unwrap();
    fs::write(at("sub/.env"), b"x").unwrap();
    symlink(".git/config", at("way")).unwrap();
    assert!(source.find_hidden().is_some());
    for hidden in [".git/config", "sub/.env", "way"] {
        assert!(is_not_found(&source, hidden).await, "{hidden}");
    }
    assert_eq!(source.list(9).await.unwrap().len(), 2);
    let shown = source.with_hidden(true);
    for hidden in [".git/config", "sub/.env", "way"] {
        assert!(shown.open(&name(hidden)).await.is_ok(), "{hidden}");
    }
    assert_eq!(shown.list(9).await.unwrap().len(), 5);
    // Who names one file means it.
    let alone = Source::folder(at("sub/.env")).unwrap();
    assert!(alone.open(&name(".env")).await.is_ok());
}

#[test]
fn a_missing_folder_is_said_at_once() {
    let error = Source::folder("/no/such/folder").unwrap_err().to_string();
    assert!(error.starts_with("cannot read /no/such/folder: "), "{error}");
    assert!(Source::folder("/dev/null").is_err());
    assert!(Source::folder("/").is_ok());
}

async fn is_changed(object: &kwik_delivery::Object) -> bool {
    matches!(object.read(0..2).await, Err(SourceError::Changed { .. }))
}

#[tokio::test]
async fn changed_files_are_not_read_on() {
    let (folder, source) = folder();
    let path = folder.path().join("a#1");
    let touch = |path: &Path, seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let object = source.open(&name("a#1")).await.unwrap();
    touch(&path, 1);
    assert!(is_changed(&object).await);

    let object = source.open(&name("a#1")).await.unwrap();
    fs::File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert!(is_changed(&object).await);

    let object = source.open(&name("a#1")).await.unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
    assert!(is_changed(&object).await);

    // A replaced file is read to its end as it was.
    let object = source.open(&name("a#1")).await.unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(object.read(0..1).await.unwrap(), "a");
}

#[tokio::test]
async fn objects_in_memory_are_found_and_read() {
    let source = Source::memory([(name("a/b"), Bytes::from_static(b"beta"))]);
    let object = source.open(&name("a/b")).await.unwrap();
    assert_eq!(object.read(1..3).await.unwrap(), "et");
    assert_eq!(source.list(9).await.unwrap(), [name("a/b")]);
    assert!(is_not_found(&source, "a").await);
}

#[cfg(feature = "object_store")]
#[tokio::test]
async fn stores_give_objects_and_notice_changes() {
    use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
    let store: std::sync::Arc<dyn ObjectStore> = std::sync::Arc::new(InMemory::new());
    let path = |name: &str| Path::parse(name).unwrap();
    store.put(&path("a/b"), "beta".into()).await.unwrap();
    store.put(&path("x"), "old".into()).await.unwrap();
    let source = Source::store(std::sync::Arc::clone(&store));
    assert_eq!(source.open(&name("a/b")).await.unwrap().read(1..3).await.unwrap(), "et");
    assert_eq!(source.list(9).await.unwrap(), [name("a/b"), name("x")]);
    assert!(is_not_found(&source, "a").await);

    let object = source.open(&name("x")).await.unwrap();
    store.put(&path("x"), "new".into()).await.unwrap();
    assert!(is_changed(&object).await);
}
