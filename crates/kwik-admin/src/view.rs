//! What is shown of sessions, as JSON.

use std::time::Instant;

use axum::http::StatusCode;
use kwik::{
    BackpressureReason, Bottleneck, Decision, Endpoint, LiveSession, PathStats, PrimarySession,
    RecvStats, SendStats, Session, Snapshot, StreamId, StreamStats,
};
use serde_json::{Value, json};

use crate::limits::{MAX_LISTED, MAX_RANGES, MAX_STREAMS};

/// A session of one of the endpoints, by the name that it has here: `ENDPOINT-NUMBER`.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) session: LiveSession,
}

/// All sessions, endpoint by endpoint.
pub(crate) fn all(endpoints: &[Endpoint]) -> Vec<Found> {
    let each = endpoints.iter().enumerate();
    each.flat_map(|(at, endpoint)| {
        let sessions = endpoint.sessions().into_iter();
        sessions.map(move |(number, session)| Found { name: format!("{at}-{number}"), session })
    })
    .collect()
}

pub(crate) fn find(endpoints: &[Endpoint], name: &str) -> Option<Found> {
    all(endpoints).into_iter().find(|found| found.name == name)
}

/// Why a session is not shown.
pub(crate) const UNKNOWN: (StatusCode, &str) =
    (StatusCode::NOT_FOUND, "no such session: it is over, or never was");

/// The list of sessions.
pub(crate) fn list(endpoints: &[Endpoint]) -> Value {
    let all = all(endpoints);
    let shown: Vec<_> = all.iter().take(MAX_LISTED).map(summary).collect();
    json!({ "sessions": shown, "not_listed": all.len() - shown.len() })
}

fn summary(found: &Found) -> Value {
    let mut shown = json!({
        "name": found.name,
        "role": found.session.role().name(),
        "id": id(&found.session),
    });
    if let Some(session) = found.session.session() {
        let (snapshot, bottleneck) = session.judged();
        let goodput: u64 =
            snapshot.session.paths.iter().filter_map(|path| path.figures.goodput).sum();
        shown["remote"] = json!(session.remote_address().to_string());
        shown["paths"] = json!(snapshot.session.paths.len());
        shown["streams"] = json!(snapshot.session.streams);
        shown["leases"] = json!(snapshot.session.leases);
        shown["bytes_per_second"] = json!(goodput);
        shown["sent"] = json!(snapshot.session.sent);
        shown["limited_by"] = limit(&bottleneck);
    }
    shown
}

fn id(session: &LiveSession) -> Option<String> {
    match session {
        LiveSession::Primary(primary) => Some(primary.id().to_string()),
        LiveSession::Secondary(secondary) => Some(secondary.id().to_string()),
        _ => None,
    }
}

fn limit(bottleneck: &Bottleneck) -> Value {
    json!({ "cause": bottleneck.name(), "text": bottleneck.to_string() })
}

/// All of one session.
pub(crate) fn session(found: &Found) -> Value {
    let mut shown = json!({
        "name": found.name,
        "role": found.session.role().name(),
        "id": id(&found.session),
    });
    if let LiveSession::Secondary(secondary) = &found.session {
        shown["path"] = json!(secondary.path().0);
    }
    let Some(session) = found.session.session() else { return shown };
    let (snapshot, bottleneck) = session.judged();
    let stats = &snapshot.session;
    shown["remote"] = json!(session.remote_address().to_string());
    shown["limited_by"] = limit(&bottleneck);
    shown["rtt"] = json!(session.rtt().as_secs_f64());
    shown["window"] = json!({
        "size": stats.window,
        "granted": stats.granted,
        "unread": stats.held,
        "unacknowledged": stats.unacknowledged,
    });
    shown["sent"] = json!(stats.sent);
    shown["duplicates"] = json!({
        "received": stats.duplicates.received,
        "moved": stats.duplicates.moved,
        "budget": stats.duplicates.budget,
        "reclaimed": stats.duplicates.reclaimed,
    });
    shown["backpressure"] = json!({
        "session": stats.backpressure.session.map(BackpressureReason::name),
        "streams": stats.backpressure.streams,
    });
    shown["leases_live"] = json!(stats.leases);
    shown["pieces"] = json!(stats.pieces);
    shown["paths"] = paths(&snapshot, &found.session);
    let streams = snapshot.streams.iter().take(MAX_STREAMS);
    let streams: Vec<_> = streams.map(|stats| stream(session, stats, snapshot.at)).collect();
    shown["streams_not_shown"] = json!(snapshot.streams.len() - streams.len());
    shown["streams"] = json!(streams);
    if let LiveSession::Primary(primary) = &found.session {
        shown["leases"] = leases(primary);
    }
    shown["settings"] = settings(&session.config());
    shown
}

/// All settings of sessions, by name.
pub(crate) fn settings(config: &kwik::Config) -> Value {
    let all = config.settings().into_iter();
    let all = all.map(|(name, value, live)| {
        (name.to_owned(), json!({ "value": value, "changes_live": live }))
    });
    Value::Object(all.collect())
}

fn paths(snapshot: &Snapshot, session: &LiveSession) -> Value {
    let mut shown: Vec<_> =
        snapshot.session.paths.iter().map(|path| path_row(path, snapshot)).collect();
    let others = match session {
        LiveSession::Primary(primary) => primary.all_paths(),
        _ => Vec::new(),
    };
    let rest = others.iter().filter(|info| snapshot.session.paths.iter().all(|p| p.id != info.id));
    shown.extend(rest.map(|info| {
        json!({
            "path": info.id.0,
            "address": info.address,
            "status": info.status.name(),
            "ended": info.ended,
            "reason": kwik::escape(&info.reason).to_string(),
        })
    }));
    json!(shown)
}

fn path_row(path: &PathStats, snapshot: &Snapshot) -> Value {
    let figures = path.figures;
    let schedule = snapshot.schedule.iter().find(|schedule| schedule.path == path.id);
    let queue = schedule.map(|schedule| schedule.queue.as_secs_f64());
    let queue = queue.or_else(|| {
        let rate = figures.goodput.filter(|rate| *rate > 0)?;
        Some(figures.outstanding as f64 / rate as f64)
    });
    json!({
        "path": path.id.0,
        "address": kwik::escape(&path.address).to_string(),
        "status": path.status.name(),
        "ended": false,
        "rtt": figures.rtt.as_secs_f64(),
        "bytes_per_second": figures.goodput,
        "received": figures.received,
        "outstanding": figures.outstanding,
        "window": path.congestion.map(|congestion| congestion.window),
        "queue_seconds": queue,
        "packets_sent": figures.sent_packets,
        "packets_lost": figures.lost_packets,
        "stalled": figures.stalled.as_secs_f64(),
        "udp_sent": path.udp_sent,
        "udp_received": path.udp_received,
        "decision": schedule.and_then(|s| s.decision).map(Decision::name),
    })
}

fn stream(session: &Session, stats: &StreamStats, now: Instant) -> Value {
    json!({
        "stream": stats.id.to_string(),
        "receives": stats.recv.as_ref().map(|recv| receiving(session, stats.id, recv, now)),
        "sends": stats.send.as_ref().map(sending),
    })
}

fn sending(send: &SendStats) -> Value {
    json!({
        "written": send.written,
        "credit": send.credit,
        "backpressure": send.backpressure.map(BackpressureReason::name),
    })
}

fn receiving(session: &Session, id: StreamId, recv: &RecvStats, now: Instant) -> Value {
    let map = session.stream_map(id).unwrap_or_default();
    let held = map.held.iter().take(MAX_RANGES);
    let held: Vec<_> = held
        .map(|(path, range)| json!([path.map(|path| path.0), range.start, range.end]))
        .collect();
    let asked = map.asked.iter().take(MAX_RANGES);
    let asked: Vec<_> =
        asked.map(|(path, range)| json!([path.0, range.start, range.end])).collect();
    let not_shown = map.held.len() + map.asked.len() - held.len() - asked.len();
    let sources: Vec<_> = recv.sources.iter().map(|(path, bytes)| json!([path.0, bytes])).collect();
    json!({
        "read": map.read,
        "end": map.end,
        "granted": map.granted,
        "size": map.size,
        "held": held,
        "asked": asked,
        "ranges_not_shown": not_shown,
        "sources": sources,
        "gaps": recv.buffer.gaps,
        "unread": recv.buffer.held,
        "duplicates": recv.duplicates,
        "conflicts": recv.conflicts,
        "waits_for": recv.gap.as_ref().map(|gap| json!({
            "from": gap.range.start,
            "to": gap.range.end,
            "seconds": crate::metrics::seconds_since(gap.since, now),
        })),
    })
}

fn leases(primary: &PrimarySession) -> Value {
    let leases = primary.leases();
    let shown = leases.iter().take(MAX_LISTED).map(|(id, lease)| {
        json!({
            "lease": id.0,
            "stream": lease.stream.to_string(),
            "path": lease.path.0,
            "from": lease.range.start,
            "to": lease.range.end,
        })
    });
    json!(shown.collect::<Vec<_>>())
}
