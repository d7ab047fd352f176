//! Downloads that break off, and those that go on.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use common::{MIB, Running, connect, content, liar::Checked, name, source, start, start_all};
use kwik_delivery::{
    Client, FetchError, Output, PartError, PartFile, Place, Progress, Takeover, limits::GROUP_SIZE,
};
use tempfile::{TempDir, tempdir};
use tokio::time::{sleep, timeout};

fn claim(target: &Path) -> Output {
    Output::file(PartFile::claim(Place::new(target), true).unwrap())
}

async fn fetch(client: &Client, output: &Output, progress: &Progress) -> Result<(), FetchError> {
    let fetching = async {
        let fetch = client.fetch_to(&name("x"), output, progress).await?;
        fetch.write(output, progress).await
    };
    timeout(Duration::from_secs(60), fetching).await.unwrap()
}

/// Fetches until `bytes` are verified, and drops it there, as a process that ends does.
async fn fetch_some(client: &Client, output: &Output, bytes: u64) -> Progress {
    let progress = Progress::default();
    let enough = async {
        while progress.verified() < bytes {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = fetch(client, output, &progress) => panic!("{done:?}"),
        () = enough => {}
    }
    // What is being written ends.
    sleep(Duration::from_millis(300)).await;
    progress
}

struct Setting {
    folder: TempDir,
    data: Bytes,
    servers: Vec<Running>,
}

impl Setting {
    fn new(size: usize) -> Self {
        let data = content(size);
        let objects = [("x", data.clone())];
        let servers = start_all(&objects, vec![source(&objects)]);
        Self { folder: tempdir().unwrap(), data, servers }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join(".target.kwik-part")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Breaks a download off.
    async fn leave_half(&self) -> u64 {
        let output = claim(&self.target());
        fetch_some(&connect(&self.servers).await, &output, self.data.len() as u64 / 2).await;
        drop(output);
        assert_eq!(self.names(), [".target.kwik-part"]);
        PartFile::claim(Place::new(self.target()), true).unwrap().held().unwrap().1
    }

    /// Fetches the rest: what came from servers, and what became of what was there.
    async fn fetch_rest(&self) -> (u64, Option<Takeover>) {
        let (output, progress) = (claim(&self.target()), Progress::default());
        fetch(&connect(&self.servers).await, &output, &progress).await.unwrap();
        assert!(fs::read(self.target()).unwrap() == self.data);
        assert_eq!(self.names(), ["target"]);
        assert_eq!(progress.verified(), self.data.len() as u64);
        (progress.received(), progress.takeover())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_one_goes_on() {
    let place = Setting::new(40 * MIB);
    let size = place.data.len() as u64;
    let bytes = place.leave_half().await;
    assert!(bytes >= size / 2 && bytes < size, "{bytes}");
    let (received, takeover) = place.fetch_rest().await;
    assert_eq!(takeover, Some(Takeover::Kept { bytes, damaged: 0 }));
    assert_eq!(received, size - bytes);
}

/// A power cut may keep what says that bytes are there, and lose the bytes.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_lost_since_are_fetched_again_and_no_others() {
    let place = Setting::new(40 * MIB);
    let bytes = place.leave_half().await;
    let part = fs::File::options().write(true).open(place.part()).unwrap();
    // In one group, over the border of two, and the whole end of what was there.
    let groups = bytes / GROUP_SIZE;
    for at in [5, GROUP_SIZE * 40 - 1, bytes - 3 * GROUP_SIZE] {
        part.write_all_at(&[0; 2], at).unwrap();
    }
    let (received, takeover) = place.fetch_rest().await;
    let damaged = 4 * GROUP_SIZE;
    let bytes = groups * GROUP_SIZE - damaged;
    assert_eq!(takeover, Some(Takeover::Kept { bytes, damaged }));
    assert_eq!(received, place.data.len() as u64 - bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_which_bytes_are_there_may_be_lost_too() {
    let place = Setting::new(20 * MIB);
    let bytes = place.leave_half().await;
    let part = fs::File::options().write(true).open(place.part()).unwrap();
    let end = part.metadata().unwrap().len();
    part.write_all_at(&[0; 8192], end - 8192).unwrap();
    let (_, takeover) = place.fetch_rest().await;
    assert!(matches!(takeover, Some(Takeover::Kept { bytes: kept, .. }) if kept == bytes));
}

/// Killed between the last byte and the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_file_without_its_name_is_not_fetched_again() {
    let place = Setting::new(3 * MIB + 77);
    fs::write(place.part(), &place.data).unwrap();
    let bytes = place.data.len() as u64;
    let (received, takeover) = place.fetch_rest().await;
    assert_eq!((received, takeover), (0, Some(Takeover::Kept { bytes, damaged: 0 })));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_object_with_several_pages_the_rest_is_fetched() {
    let place = Setting::new(300 * MIB);
    let bytes = place.leave_half().await;
    let part = fs::File::options().write(true).open(place.part()).unwrap();
    part.write_all_at(b"wrong", 100 * MIB as u64).unwrap();
    let (received, takeover) = place.fetch_rest().await;
    let bytes = bytes - GROUP_SIZE;
    assert_eq!(takeover, Some(Takeover::Kept { bytes, damaged: GROUP_SIZE }));
    assert_eq!(received, place.data.len() as u64 - bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_begins_anew() {
    let mut place = Setting::new(20 * MIB);
    place.leave_half().await;
    place.data = content(20 * MIB + 1).slice(1..);
    place.servers = start_all(&[("x", place.data.clone())], Vec::new());
    let (received, takeover) = place.fetch_rest().await;
    let size = place.data.len() as u64;
    assert_eq!((received, takeover), (size, Some(Takeover::OtherVersion)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_costs_nothing_of_what_came() {
    let data = content(40 * MIB);
    let objects = [("x", data.clone())];
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    let checked = Checked::new(&data);
    for output in [claim(&target), Output::in_order(Box::new(checked.clone()))] {
        let progress = Progress::default();
        let mut servers = start_all(&objects, vec![source(&objects)]);
        let client = connect(&servers).await;
        let dying = async {
            while progress.verified() < 10 * MIB as u64 {
                sleep(Duration::from_millis(1)).await;
            }
            servers[0].endpoint.close(0, b"gone");
        };
        let (fetched, ()) = tokio::join!(fetch(&client, &output, &progress), dying);
        assert!(matches!(fetched, Err(FetchError::Read(_))), "{fetched:?}");
        let before = progress.verified();
        // But for groups that were not whole, at both ends of each gap.
        let lost = progress.received() - before;
        assert!(output.part().is_none() || lost < 2 * MIB as u64, "{lost}");
        servers = start_all(&objects, vec![source(&objects)]);
        let client = connect(&servers).await;
        fetch(&client, &output, &progress).await.unwrap();
        assert_eq!(progress.takeover(), None);
        assert!(before > 0 && progress.verified() == data.len() as u64);
    }
    assert!(fs::read(&target).unwrap() == data);
    assert_eq!(checked.written(), data.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_between_two_sessions_is_never_mixed() {
    let data = content(20 * MIB);
    let changed = content(20 * MIB + 1).slice(1..);
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    let checked = Checked::new(&data);
    for output in [claim(&target), Output::in_order(Box::new(checked.clone()))] {
        let server = start(0, source(&[("x", data.clone())]), Vec::new());
        fetch_some(&connect(&[server]).await, &output, 5 * MIB as u64).await;
        let server = start(0, source(&[("x", changed.clone())]), Vec::new());
        let client = connect(std::slice::from_ref(&server)).await;
        let fetched = fetch(&client, &output, &Progress::default()).await;
        match output.part() {
            Some(_) => fetched.unwrap(),
            None => assert!(matches!(fetched, Err(FetchError::Changed)), "{fetched:?}"),
        }
    }
    assert!(fs::read(&target).unwrap() == changed);
}

/// The session is lost while what is there is verified: its pages are asked for as they come.
#[tokio::test(flavor = "multi_thread")]
async fn claims_outlive_the_session_in_which_they_are_verified() {
    let place = Setting::new(300 * MIB);
    let bytes = place.leave_half().await;
    let (output, progress) = (claim(&place.target()), Progress::default());
    let client = connect(&place.servers).await;
    let fetch_it = client.fetch_to(&name("x"), &output, &progress).await.unwrap();
    client.session().close(0, b"gone");
    fetch_it.write(&output, &progress).await.unwrap_err();
    assert_eq!(output.part().unwrap().held().unwrap().1, bytes);
    fetch(&connect(&place.servers).await, &output, &progress).await.unwrap();
    assert!(fs::read(place.target()).unwrap() == place.data);
    assert_eq!(progress.received(), place.data.len() as u64 - bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_goes_on_without_a_word_of_what_is_there() {
    let place = Setting::new(300_000);
    let mut half = place.data.to_vec();
    half[100_000..].fill(0);
    fs::write(place.part(), half).unwrap();
    let (received, takeover) = place.fetch_rest().await;
    assert_eq!(takeover, Some(Takeover::Kept { bytes: GROUP_SIZE, damaged: 0 }));
    assert_eq!(received, place.data.len() as u64 - GROUP_SIZE);
}

/// It had room, but was killed before anything was written: nothing of that is damage.
#[tokio::test(flavor = "multi_thread")]
async fn room_that_was_only_reserved_is_not_taken_for_damaged_bytes() {
    for size in [300_000, 3 * MIB] {
        let place = Setting::new(size);
        fs::write(place.part(), vec![0; size]).unwrap();
        let (received, takeover) = place.fetch_rest().await;
        assert_eq!((received, takeover), (size as u64, None));
    }
}

#[test]
fn one_target_has_one_writer() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    let first = PartFile::claim(Place::new(&target), true).unwrap();
    let second = PartFile::claim(Place::new(&target), true).unwrap_err();
    let PartError::InUse { process, .. } = &second else { panic!("{second}") };
    assert_eq!(*process, Some(std::process::id()));
    assert!(second.to_string().contains("another kwik get"), "{second}");
    // Another target has another.
    PartFile::claim(Place::new(folder.path().join("y")), true).unwrap();
    drop(first);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays of nothing");
    PartFile::claim(Place::new(&target), true).unwrap();
}

/// In a folder for all users, others may put what they like under a name that they can foresee.
#[test]
fn what_is_no_part_file_of_ours_is_left_alone() {
    let folder = tempdir().unwrap();
    let (target, part) = (folder.path().join("x"), folder.path().join(".x.kwik-part"));
    let secret = folder.path().join("secret");
    fs::write(&secret, b"secret").unwrap();
    std::os::unix::fs::symlink(&secret, &part).unwrap();
    drop(PartFile::claim(Place::new(&target), true).unwrap());
    fs::remove_file(&part).unwrap();
    fs::hard_link(&secret, &part).unwrap();
    drop(PartFile::claim(Place::new(&target), true).unwrap());
    fs::remove_file(&part).unwrap();
    fs::create_dir(&part).unwrap();
    drop(PartFile::claim(Place::new(&target), true).unwrap());
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_other_names_stays_the_same_file() {
    let place = Setting::new(2 * MIB);
    let other = place.folder.path().join("other");
    fs::write(place.target(), vec![1; 5 * MIB]).unwrap();
    fs::set_permissions(place.target(), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(place.target(), &other).unwrap();
    let (output, progress) = (claim(&place.target()), Progress::default());
    fetch(&connect(&place.servers).await, &output, &progress).await.unwrap();
    assert!(fs::read(&other).unwrap() == place.data);
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o640);
    drop(output);
    assert_eq!(place.names().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_appears_meanwhile_stays_where_nothing_is_to_be_replaced() {
    let place = Setting::new(2 * MIB);
    let part = PartFile::claim(Place::new(place.target()).without_replacing(), true).unwrap();
    let output = Output::file(part);
    fs::write(place.target(), b"mine").unwrap();
    let client = connect(&place.servers).await;
    let error = fetch(&client, &output, &Progress::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::File(PartError::Exists { .. })), "{error}");
    assert_eq!(fs::read(place.target()).unwrap(), b"mine");
    drop(output);
    // All of it is there for whoever says what to do with it.
    let (received, takeover) = place.fetch_rest().await;
    assert!(matches!((received, takeover), (0, Some(Takeover::Kept { .. }))), "{takeover:?}");
}

#[test]
fn without_resume_what_is_there_goes() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("x");
    fs::write(folder.path().join(".x.kwik-part"), vec![3; 100_000]).unwrap();
    let part = PartFile::claim(Place::new(&target), false).unwrap();
    assert!(part.held().is_none() && !part.is_resumable());
    drop(part);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
