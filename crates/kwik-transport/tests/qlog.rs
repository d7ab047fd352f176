//! Files of qlog: complete, named by role and path, and bounded (10.2).

#![cfg(feature = "qlog")]
#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{LOOPBACK, accept_secondary, identity, object, serve_leases, until, within};
use kwik::{Accepted, ClientConfig, Endpoint, Qlog, QuicConfig, Sample, ServerConfig};
use serde_json::Value;

/// The files of a folder, once all that was traced there is written.
fn paths(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|it| it == "sqlog")).collect()
}

/// Waits until all handles are gone, with all that they had.
async fn written(folder: &Path) {
    until(|| Qlog::open(folder).is_ok()).await;
}

/// The records of each file, by what its name says beside time, process and number.
fn read(folder: &Path) -> BTreeMap<String, Vec<Value>> {
    let files = paths(folder).into_iter().map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let name = name.strip_prefix("kwik-").unwrap().strip_suffix(".sqlog").unwrap();
        let kind = name.splitn(4, '-').nth(3).unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with('\x1e'), "{path:?}");
        let records = text.split('\x1e').skip(1).map(|record| {
            assert!(record.ends_with('\n'), "{path:?}: {record}");
            serde_json::from_str(record).unwrap()
        });
        (kind, records.collect())
    });
    files.collect()
}

/// What qvis asks of a file, by its source: visualizations/src, `FileLoader`,
/// `TextSequenceJSONToQlog` and `QlogLoaderV2`. It takes a file for a text sequence by its name.
fn check(kind: &str, records: &[Value], side: &str) {
    let (header, events) = records.split_first().unwrap();
    let object = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    // Drafts are other names for it there.
    assert_eq!(header["qlog_version"], "0.3", "{kind}");
    assert_eq!(header["qlog_format"], "JSON-SEQ");
    let trace = &header["trace"];
    assert_eq!(trace["vantage_point"]["type"], side, "{kind}");
    // Else it takes the time of the first event for the beginning of all.
    assert_eq!(trace["common_fields"]["time_format"], "relative");
    assert!(trace["common_fields"]["reference_time"].as_f64().unwrap() > 1e12);
    assert!(trace.get("event_fields").is_none() && trace.get("configuration").is_none());
    // It reads the last event of a trace before it looks whether there is one.
    assert!(!events.is_empty(), "{kind}");
    // It sorts what goes back, and complains.
    let times: Vec<_> = events.iter().map(|event| event["time"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{kind}: {times:?}");
    for event in events {
        let (name, data) = (event["name"].as_str().unwrap(), &event["data"]);
        if kind == "events" {
            assert!(name.starts_with("kwik:"), "{name}");
            continue;
        }
        // It would take one connection for several.
        assert_eq!(object(event), ["time", "name", "data"], "{kind}");
        if name == "recovery:metrics_updated" {
            continue;
        }
        let known = ["transport:packet_sent", "transport:packet_received", "recovery:packet_lost"];
        assert!(known.contains(&name), "{name}");
        let types = ["initial", "handshake", "0RTT", "1RTT"];
        assert!(types.iter().any(|it| data["header"]["packet_type"] == *it), "{event}");
        assert!(data["header"]["packet_number"].is_u64(), "{event}");
        // What it says is no schema of any draft that it knows.
        for (of, field) in
            [("header", "packet_size"), ("header", "payload_length"), ("header", "length")]
        {
            assert!(data[of].get(field).is_none(), "{event}");
        }
        assert!(data.get("packet_type").is_none());
        // It leaves out what was sent without a size.
        assert!(name != "transport:packet_sent" || data["raw"]["length"].as_u64() > Some(0));
    }
}

const SIZE: u64 = 400_000;

/// A client fetches what an edge brings; all have ended when it returns.
async fn fetch([client, primary, edge]: &[QuicConfig; 3]) {
    within(async {
        let at = LOOPBACK.parse().unwrap();
        let config = ServerConfig::new(identity(0));
        let server = Endpoint::bind(at, Some(config), primary).unwrap();
        let mut config = ServerConfig::new(identity(1));
        config.trusted.insert(identity(0).fingerprint());
        let edge = Endpoint::bind(at, Some(config), edge).unwrap();
        let client = Endpoint::bind(at, None, client).unwrap();
        let pinned = ClientConfig::pinned(identity(0).fingerprint());
        let dial = client.connect_with(pinned, server.local_addr().unwrap(), "").unwrap();
        let accept = async { server.accept().await.unwrap().accept_any().await.unwrap() };
        let (session, accepted) = tokio::join!(dial, accept);
        let (session, Accepted::Primary(primary)) = (session.unwrap(), accepted) else {
            panic!("no primary")
        };
        let add = primary.add_path(edge.local_addr().unwrap(), identity(1).fingerprint());
        let (path, secondary) = tokio::join!(add, accept_secondary(&edge));
        serve_leases(secondary);
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(SIZE).unwrap();
        stream.finish().unwrap();
        let mut lease = primary.lease(stream.id(), extent, path.unwrap(), Bytes::new()).unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        let read = recv.read_to_end(SIZE as usize).await.unwrap();
        assert!(read == object(0..SIZE));
        lease.outcome().await.unwrap();
        drop((recv, stream, lease));
        session.close(0, b"done");
        until(|| primary.session().close_reason().is_some()).await;
        drop((session, primary));
        for endpoint in [client, server, edge] {
            endpoint.close(0, b"");
            endpoint.wait_idle().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_path_has_a_qlog_and_sessions_have_one_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let roles = ["client", "primary", "edge"].map(|name| folder.path().join(name));
    let quics = roles
        .each_ref()
        .map(|path| QuicConfig { qlog: Some(Qlog::open(path).unwrap()), ..QuicConfig::default() });
    fetch(&quics).await;
    drop(quics);
    for role in &roles {
        written(role).await;
    }
    let [client, primary, edge] = roles.map(|path| read(&path));
    let names = |files: &BTreeMap<String, Vec<Value>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&client), ["client-path0", "client-path1", "events"]);
    for (files, start) in [(&primary, "primary-path0-"), (&edge, "secondary-path1-")] {
        assert!(files.len() == 2 && names(files)[1].starts_with(start), "{:?}", names(files));
    }
    for (kind, records) in client.iter().chain(&primary).chain(&edge) {
        match kind.split('-').next().unwrap() {
            "events" => check(kind, records, "unknown"),
            "client" => check(kind, records, "client"),
            _ => check(kind, records, "server"),
        }
    }
    // Each packet is there, with its size, and round trips are milliseconds.
    let path = &client["client-path1"];
    let events = path[1..].iter().map(|event| event["name"].as_str().unwrap());
    let of_path: BTreeSet<_> = events.collect();
    assert!(of_path.contains("recovery:metrics_updated"), "{of_path:?}");
    let named = |name: &str| {
        let name = name.to_owned();
        path.iter().filter(move |event| event["name"] == *name)
    };
    assert!(named("transport:packet_received").count() as u64 > SIZE / 1500, "{}", path.len());
    let sent: Vec<_> = named("transport:packet_sent").collect();
    assert!(sent.iter().all(|event| event["data"]["raw"]["length"].as_u64().unwrap() > 10));
    let rtt = named("recovery:metrics_updated").find_map(|event| event["data"]["min_rtt"].as_f64());
    assert!((0.001..10_000.0).contains(&rtt.unwrap()), "{rtt:?}");
    // What happened to the session is told by both ends, by its name.
    let told = |files: &BTreeMap<String, Vec<Value>>, name: &str| {
        let events = files["events"].iter();
        events.filter(|event| event["name"] == name).cloned().collect::<Vec<_>>()
    };
    let lease = &told(&primary, "kwik:lease")[0];
    assert_eq!((&lease["data"]["outcome"], &lease["data"]["path"]), (&"done".into(), &1.into()));
    assert!(names(&primary)[1].ends_with(lease["group_id"].as_str().unwrap()));
    assert!(!told(&client, "kwik:session_ended").is_empty(), "{:?}", client["events"]);
    assert!(!told(&edge, "kwik:session_ended").is_empty(), "{:?}", edge["events"]);
}

/// A connection that leads nowhere is traced in this folder.
async fn dial_nobody(folder: &Path) {
    let qlog = Qlog::open(folder).unwrap();
    within(async {
        let quic = QuicConfig { qlog: Some(qlog), ..QuicConfig::default() };
        let at = LOOPBACK.parse().unwrap();
        let client = Endpoint::bind(at, None, &quic).unwrap();
        let nobody = client.local_addr().unwrap();
        let dial = client.connect_with(ClientConfig::pinned(identity(0).fingerprint()), nobody, "");
        drop(dial.unwrap());
        client.wait_idle().await;
        drop((client, quic));
        written(folder).await;
    })
    .await;
}

/// What leads nowhere at a server leaves nothing, so that a flood of it pushes nothing out.
#[tokio::test]
async fn handshakes_of_strangers_leave_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("kwik-20200101T000000Z-1-0001-x.sqlog");
    fs::write(&old, "").unwrap();
    within(async {
        let qlog = Some(Qlog::open(folder.path()).unwrap());
        let quic = QuicConfig { qlog, ..QuicConfig::default() };
        let at = LOOPBACK.parse().unwrap();
        let server = Endpoint::bind(at, Some(ServerConfig::new(identity(0))), &quic).unwrap();
        let client = Endpoint::bind(at, None, &QuicConfig::default()).unwrap();
        let accepting = server.clone();
        let accepting = tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move { drop(incoming.accept_any().await) });
            }
        });
        for _ in 0..20 {
            // It is not who they want, so they go away.
            let other = ClientConfig::pinned(identity(1).fingerprint());
            let dial = client.connect_with(other, server.local_addr().unwrap(), "").unwrap();
            assert!(dial.await.is_err());
        }
        until(|| failures(&server) >= 20).await;
        server.close(0, b"");
        server.wait_idle().await;
        accepting.await.unwrap();
        drop((server, quic));
        written(folder.path()).await;
    })
    .await;
    assert_eq!(paths(folder.path()), [old]);
}

/// Handshakes that failed at a server.
fn failures(server: &Endpoint) -> u64 {
    let families = server.metrics();
    let failed = families.iter().filter(|family| family.name == "kwik_handshake_failures");
    let number = |sample: &Sample| match sample.value {
        kwik::Value::Number(number) => number,
        _ => 0,
    };
    failed.flat_map(|family| &family.samples).map(number).sum()
}

/// Two that write to one folder would not know of each other's files.
#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let qlog = Qlog::open(folder.path()).unwrap();
    let error = Qlog::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("each process needs a folder of its own"), "{error}");
    drop(qlog);
    Qlog::open(folder.path()).unwrap();
}

/// Files that are there already count, and go first.
#[tokio::test]
async fn a_folder_of_qlogs_stays_within_its_bounds() {
    use kwik_proto::limits::{MAX_QLOG_BYTES, MAX_QLOG_FILES};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for at in 0..3 {
        // Holes: they count, and take no room.
        let file = fs::File::create(path(&format!("kwik-20200101T00000{at}Z-1-0001-x.sqlog")));
        file.unwrap().set_len(MAX_QLOG_BYTES / 3).unwrap();
    }
    for at in 0..MAX_QLOG_FILES - 3 {
        fs::write(path(&format!("kwik-20200102T000000Z-1-{at:04}-x.sqlog")), "").unwrap();
    }
    fs::write(path("mine.sqlog"), "not ours").unwrap();
    dial_nobody(folder.path()).await;
    assert!(!path("kwik-20200101T000000Z-1-0001-x.sqlog").exists());
    assert!(path("kwik-20200102T000000Z-1-0000-x.sqlog").exists());
    assert!(path("mine.sqlog").exists());
    let (mut count, mut bytes) = (0, 0);
    for path in paths(folder.path()) {
        (count, bytes) = (count + 1, bytes + fs::metadata(path).unwrap().len());
    }
    // And one that is not ours.
    assert!(count <= MAX_QLOG_FILES + 1 && bytes <= MAX_QLOG_BYTES, "{count} {bytes}");
}

/// Few files, but full to the last byte: what is written makes room for itself.
#[tokio::test]
async fn a_full_folder_of_qlogs_loses_its_oldest() {
    use kwik_proto::limits::MAX_QLOG_BYTES;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("qlog");
    drop(Qlog::open(&folder).unwrap());
    let path = |at: usize| folder.join(format!("kwik-20200101T00000{at}Z-1-0001-x.sqlog"));
    for at in 0..2 {
        fs::File::create(path(at)).unwrap().set_len(MAX_QLOG_BYTES / 2).unwrap();
    }
    dial_nobody(&folder).await;
    assert!(!path(0).exists() && path(1).exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut bytes = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        bytes += entry.metadata().unwrap().len();
        assert!(entry.path() == path(1) || mode(&entry.path()) == 0o600, "{entry:?}");
    }
    assert!(bytes <= MAX_QLOG_BYTES, "{bytes}");
}
