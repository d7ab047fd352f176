use super::*;
use crate::presentation::BufferUsage;
use crate::stats::{PathFigures, SendStats};
use crate::wire::control::PathStatus;
use crate::{Dir, Side, StreamId};

const RTT: Duration = Duration::from_millis(20);

fn snapshot() -> Snapshot {
    Snapshot {
        at: crate::test_now(),
        established: true,
        session: SessionStats::default(),
        streams: Vec::new(),
        schedule: Vec::new(),
        joining: Vec::new(),
    }
}

fn stream(recv: Option<RecvStats>, send: Option<SendStats>) -> StreamStats {
    StreamStats { id: StreamId::new(Side::Client, Dir::Bi, 0), recv, send }
}

/// A stream that may have 1 MiB and has `contiguous` bytes to read.
fn waiting(contiguous: u64) -> StreamStats {
    let now = crate::test_now();
    let recv = RecvStats {
        buffer: BufferUsage {
            held: contiguous,
            contiguous,
            gaps: 0,
            largest_gap: 0,
            read_position: 0,
            write_position: contiguous,
        },
        allowance: 1 << 20,
        max_allowance: 1 << 20,
        granted: 1 << 20,
        final_size: None,
        duplicates: 0,
        conflicts: 0,
        contradicted: Vec::new(),
        sources: Vec::new(),
        backpressure: None,
        gap: None,
        awaited_from: None,
        times: Some((now, now)),
    };
    stream(Some(recv), None)
}

/// A path that owes bytes and brings them at this rate.
fn path(id: u32, rate: u64) -> PathStats {
    let figures = PathFigures {
        rtt: RTT,
        goodput: Some(rate),
        outstanding: 100_000,
        received: 1_000_000,
        sent_packets: 1_000,
        ..PathFigures::default()
    };
    PathStats {
        id: PathId(id),
        address: String::new(),
        status: PathStatus::Active,
        figures,
        data: None,
        congestion: None,
        udp_sent: 0,
        udp_received: 0,
        secondary: Default::default(),
    }
}

/// A client that fetches a stream over these paths.
fn fetching(paths: Vec<PathStats>) -> Snapshot {
    let mut now = snapshot();
    (now.session.paths, now.streams) = (paths, vec![waiting(0)]);
    now
}

#[test]
fn what_is_near_is_named_first() {
    let mut now = fetching(vec![path(0, 1_000_000)]);
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::PrimaryLink { rate: 1_000_000 });
    now.session.backpressure.session = Some(BackpressureReason::MemoryPressure);
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Memory);
    now.streams[0] = waiting(600_000);
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Reader { unread: 600_000 });
    now.established = false;
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Handshake);
}

#[test]
fn a_stalled_path_counts_when_the_reader_waits_for_it_or_no_other_brings_anything() {
    let mut slow = path(2, 0);
    slow.figures.stalled = Duration::from_secs(1);
    slow.figures.idle = Duration::from_millis(990);
    let silent = Bottleneck::SilentPath { path: PathId(2), lasted: slow.figures.idle };
    let mut now = fetching(vec![path(1, 1_000_000), slow]);
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Links { paths: 2, rate: 1_000_000 });
    now.streams[0].recv.as_mut().unwrap().awaited_from = Some(PathId(2));
    assert_eq!(Bottleneck::of(&now, None), silent);
    now.streams[0].recv.as_mut().unwrap().awaited_from = None;
    now.session.paths.remove(0);
    assert_eq!(Bottleneck::of(&now, None), silent);
    // It answers heartbeats.
    now.session.paths[0].figures.idle = Duration::from_millis(300);
    let lasted = Duration::from_secs(1);
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Server { path: PathId(2), lasted });
}

#[test]
fn the_window_is_full_when_round_trips_hold_as_much() {
    // 1 MiB in 20 ms are 52 MB/s.
    let window = |rate| Bottleneck::of(&fetching(vec![path(0, rate)]), None);
    assert_eq!(window(50_000_000), Bottleneck::Window { size: 1 << 20 });
    assert_eq!(window(20_000_000), Bottleneck::PrimaryLink { rate: 20_000_000 });
}

#[test]
fn only_what_happened_since_the_marks_counts() {
    let mut now = fetching(vec![path(0, 1_000_000)]);
    now.session.paths[0].figures.lost_packets = 40;
    let lost = |now: &Snapshot, marks| match Bottleneck::of(now, marks) {
        Bottleneck::Loss { share, .. } => Some(share),
        _ => None,
    };
    assert_eq!(lost(&now, None), Some(0.04));
    let marks = now.marks(None);
    now.at += Duration::from_secs(1);
    let figures = &mut now.session.paths[0].figures;
    (figures.received, figures.sent_packets) = (3_000_000, 2_000);
    // Nobody asked it for what came: the rate is that of the time between.
    (figures.outstanding, figures.stalled) = (0, Duration::ZERO);
    let link = Bottleneck::PrimaryLink { rate: 2_000_000 };
    assert_eq!(Bottleneck::of(&now, Some(&marks)), link);
    now.session.paths[0].figures.outstanding = 1;
    let link = Bottleneck::PrimaryLink { rate: 1_000_000 };
    assert_eq!(Bottleneck::of(&now, Some(&marks)), link);
    now.session.paths[0].figures.lost_packets = 140;
    assert_eq!(lost(&now, Some(&marks)), Some(0.1));
    // Until the server tells of enough packets again, those count of which it told last.
    let marks = now.marks(Some(&marks));
    now.at += Duration::from_secs(1);
    assert_eq!(lost(&now, Some(&marks)), Some(0.1));
    let marks = now.marks(Some(&marks));
    now.at += Duration::from_secs(1);
    now.session.paths[0].figures.sent_packets += 50;
    assert_eq!(lost(&now, Some(&marks)), Some(0.1));
    let marks = now.marks(Some(&marks));
    now.at += Duration::from_secs(1);
    now.session.paths[0].figures.sent_packets += 50;
    assert_eq!(lost(&now, Some(&marks)), None);
}

#[test]
fn what_a_primary_sends_itself_counts_beside_its_edges() {
    let mut own = path(0, 0);
    own.figures.outstanding = 0;
    own.figures.goodput = None;
    let mut now = fetching(vec![own, path(1, 1_000_000)]);
    now.streams.clear();
    now.session.paths[0].address = String::new();
    (now.session.sent, now.session.unacknowledged) = (100, 10);
    let marks = now.marks(None);
    now.at += Duration::from_secs(2);
    now.session.sent += 4_000_000;
    assert_eq!(now.send_rate(Some(&marks)), Some(2_000_000));
    let links = Bottleneck::Links { paths: 2, rate: 3_000_000 };
    assert_eq!(Bottleneck::of(&now, Some(&marks)), links);
    assert_eq!(now.own_path().map(|path| path.id), Some(PathId(0)));
}

#[test]
fn what_was_written_waits_for_the_link_or_for_the_peer() {
    let mut now = snapshot();
    now.session.unacknowledged = 1;
    let sent = |credit, backpressure| Some(SendStats { written: 100, credit, backpressure });
    now.streams = vec![stream(None, sent(10, None))];
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Uplink);
    now.streams = vec![stream(None, sent(0, None))];
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Peer { reason: None });
    let reason = Some(BackpressureReason::SlowConsumer);
    now.streams = vec![stream(None, sent(10, reason))];
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Peer { reason });
}

#[test]
fn with_nothing_under_way_it_says_whose_turn_it_is() {
    let mut now = snapshot();
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Nothing);
    now.streams.push(waiting(0));
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Lease);
    now.joining.push((PathId(3), PathStatus::Connecting));
    assert_eq!(Bottleneck::of(&now, None), Bottleneck::Joining { path: PathId(3) });
}

#[test]
fn each_has_a_name_of_its_own_and_a_sentence() {
    let (path, lasted) = (PathId(2), Duration::from_millis(1_250));
    let all = [
        Bottleneck::Handshake,
        Bottleneck::Nothing,
        Bottleneck::Reader { unread: 1 << 20 },
        Bottleneck::Memory,
        Bottleneck::Window { size: 4 << 20 },
        Bottleneck::SilentPath { path, lasted },
        Bottleneck::Server { path, lasted },
        Bottleneck::Loss { path, share: 0.041 },
        Bottleneck::PrimaryLink { rate: 1_000_000 },
        Bottleneck::Links { paths: 3, rate: 1_000_000 },
        Bottleneck::Joining { path },
        Bottleneck::Lease,
        Bottleneck::Peer { reason: None },
        Bottleneck::Uplink,
    ];
    assert_eq!(all.map(|one| one.name()), Bottleneck::NAMES);
    assert_eq!(all[7].to_string(), "path 2 lost 4.1 %");
    assert!(all.iter().all(|one| one.to_string().len() < 80));
}
