//! The folder's bounds, and what a disk that is slow or broken costs.

use std::time::{Duration, UNIX_EPOCH};

use kwik_proto::limits::{MAX_QLOG_FILES, MAX_QLOG_OPEN, MAX_QLOG_QUEUE};
use serde_json::json;

use super::files::{Reason, compact};
use super::*;

const EVENT: &[u8] = b"\x1e{\"time\":1.5,\"name\":\"transport:packet_sent\",\"data\":{}}\n";

fn files(folder: &Path) -> (Files, Arc<AtomicU64>) {
    let lost = Arc::default();
    (Files::open(folder, Arc::clone(&lost)).unwrap(), lost)
}

fn records(number: u64, is_first: bool) -> Message {
    let head = Head {
        name: "client-path0".into(),
        side: "client",
        remote: "192.0.2.1:4433".into(),
        began: UNIX_EPOCH + Duration::from_secs(1_796_073_973),
    };
    let head = is_first.then(|| Box::new(head));
    Message::Records { number, head, bytes: EVENT.to_vec() }
}

fn event(now: Instant, at: SystemTime, number: u64) -> Message {
    let data = json!({ "number": number });
    Message::Event(Box::new(Happening { now, at, session: None, name: "path", data }))
}

/// Names of the files, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn names_have_the_time() {
    let at = |seconds| compact(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "19700101T000000Z");
    assert_eq!(at(1_796_073_973), "20261130T212613Z");
}

/// A folder stands for a file that cannot be removed.
#[test]
fn a_file_that_cannot_be_removed_makes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = |at: usize| folder.path().join(format!("kwik-20200101T000000Z-1-{at:04}-x.sqlog"));
    std::fs::create_dir(path(0)).unwrap();
    for at in 1..MAX_QLOG_FILES {
        std::fs::write(path(at), "").unwrap();
    }
    let (mut files, lost) = files(folder.path());
    files.take(records(1, true));
    assert_eq!(names(folder.path()).len(), MAX_QLOG_FILES);
    assert!(path(0).exists() && !path(1).exists() && path(2).exists());
    assert_eq!(files.said().iter().collect::<Vec<_>>(), [&Reason::NotRemoved]);
    assert_eq!(lost.load(Relaxed), 0);
}

#[test]
fn a_folder_of_which_nothing_can_go_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    for at in 0..MAX_QLOG_FILES {
        let name = format!("kwik-20200101T000000Z-1-{at:04}-x.sqlog");
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let (mut files, lost) = files(folder.path());
    files.take(records(1, true));
    files.take(records(1, false));
    assert_eq!(names(folder.path()).len(), MAX_QLOG_FILES);
    // Each reason is said by itself.
    assert_eq!(files.said().iter().collect::<Vec<_>>(), [&Reason::FullFolder, &Reason::NotRemoved]);
    assert_eq!(lost.load(Relaxed), 2);
}

#[tokio::test]
async fn the_file_of_events_takes_no_connections_place() {
    let folder = tempfile::tempdir().unwrap();
    let (mut files, lost) = files(folder.path());
    files.take(event(Runtime::tokio().now(), UNIX_EPOCH, 0));
    for number in 0..MAX_QLOG_OPEN as u64 {
        files.take(records(number, true));
    }
    assert!(files.said().is_empty() && files.open_traces() == MAX_QLOG_OPEN);
    files.take(records(10_000, true));
    assert_eq!(files.said().iter().collect::<Vec<_>>(), [&Reason::TooMany]);
    assert_eq!(lost.load(Relaxed), 1);
    // One that ends makes place.
    files.take(Message::End { number: 0 });
    files.take(records(10_001, true));
    assert_eq!((files.open_traces(), lost.load(Relaxed)), (MAX_QLOG_OPEN, 1));
}

#[tokio::test]
async fn events_keep_their_distance_when_the_time_of_day_steps_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut files, _) = files(folder.path());
    let (start, day) = (Runtime::tokio().now(), UNIX_EPOCH + Duration::from_secs(1_796_073_973));
    for second in 0..3 {
        let at = day - Duration::from_secs(3600 * second);
        files.take(event(start + Duration::from_secs(second), at, second));
    }
    drop(files);
    let [name] = &names(folder.path())[..] else { panic!("one file") };
    let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
    let times = text.split('\x1e').skip(2).map(|record| {
        let value: Value = serde_json::from_str(record).unwrap();
        value["time"].as_f64().unwrap()
    });
    assert_eq!(times.collect::<Vec<_>>(), [0.0, 1000.0, 2000.0]);
}

/// Nobody writes: what waits is bounded, the rest is counted, and nothing is out of order.
#[tokio::test]
async fn a_disk_that_stands_still_costs_records_and_nobody_waits() {
    let queue = Arc::new(Queue::default());
    let (start, mut taken) = (Runtime::tokio().now(), 0);
    let push = |number| queue.push(event(start, UNIX_EPOCH, number));
    while push(taken) {
        taken += 1;
    }
    assert!((100..100_000).contains(&taken), "{taken}");
    let large = Message::Records { number: 1, head: None, bytes: vec![0; MAX_QLOG_QUEUE] };
    assert!(!queue.push(large), "bounded in bytes");
    assert_eq!(queue.lost().load(Relaxed), 1);
    // That a connection is over is taken all the same, lest its file stays open.
    assert!(queue.push(Message::End { number: 1 }));
    queue.flush(Duration::from_millis(1));
    queue.close();
    let mut numbers = Vec::new();
    queue.each(|message| {
        if let Message::Event(event) = message {
            numbers.push(event.data["number"].as_u64().unwrap());
        }
    });
    assert_eq!(numbers, (0..taken).collect::<Vec<_>>());
    assert!(push(0), "there is room again");
}

/// What a stranger makes a server keep is bounded, and is forgotten with it.
#[test]
fn what_has_no_name_leaves_no_file_and_little_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let qlog = Qlog::open(folder.path()).unwrap();
    let mut writer = Writer {
        folder: Arc::clone(&qlog.0),
        number: 0,
        name: TraceName::default(),
        head: Some(Head {
            name: String::new(),
            side: "server",
            remote: String::new(),
            began: UNIX_EPOCH,
        }),
        in_header: true,
        bytes: Vec::new(),
        whole: 0,
        records: 0,
    };
    writer.write_all(b"\x1eits header\n").unwrap();
    for _ in 0..10_000 {
        writer.write_all(EVENT).unwrap();
    }
    assert!(writer.bytes.len() <= MAX_QLOG_UNNAMED, "{}", writer.bytes.len());
    let kept = writer.records;
    assert_eq!(qlog.left_out(), 10_000 - kept);
    writer.flush().unwrap();
    drop(writer);
    qlog.flush();
    assert_eq!(names(folder.path()), ["kwik-qlog.lock"]);
}
