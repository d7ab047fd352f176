//! Records as the schema of qlog 0.3 has them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::queue::Head;

/// Milliseconds since 1970, as qlog has times.
pub(super) fn millis(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

/// A record of a JSON text sequence (RFC 7464).
pub(super) fn record(value: &Value) -> String {
    format!("\x1e{value}\n")
}

/// The first record of a connection's file.
pub(super) fn header(head: &Head) -> Value {
    let title = format!("kwik {}, peer {}", head.name, head.remote);
    first(&title, head.side, "QUIC", millis(head.began))
}

/// The first record of a file of events.
pub(super) fn events_header(began: SystemTime) -> Value {
    first("kwik: what happened to sessions", "unknown", "KWIK", millis(began))
}

fn first(title: &str, side: &str, protocol: &str, began: f64) -> Value {
    json!({
        "qlog_version": "0.3",
        "qlog_format": "JSON-SEQ",
        "title": title,
        "trace": {
            "title": title,
            "vantage_point": { "name": "kwik", "type": side },
            "common_fields": {
                "time_format": "relative",
                "reference_time": began,
                "protocol_type": [protocol],
            },
        },
    })
}

/// Records of the QUIC library, mended; `last` is the time of the one before.
pub(super) fn records(bytes: &[u8], last: &mut f64) -> (String, u64) {
    let (mut text, mut count) = (String::with_capacity(bytes.len() + bytes.len() / 8), 0);
    for bytes in bytes.split_inclusive(|byte| *byte == b'\n') {
        let bytes = bytes.strip_prefix(b"\x1e").unwrap_or(bytes);
        // The library writes nothing else.
        let Ok(mut event) = serde_json::from_slice(bytes) else { continue };
        mend_event(&mut event, last);
        text.push_str(&record(&event));
        count += 1;
    }
    (text, count)
}

/// The schema has round trips in milliseconds, sizes of packets in `raw`, and rising times.
fn mend_event(event: &mut Value, last: &mut f64) {
    let time = event["time"].as_f64().unwrap_or_default();
    if time < *last {
        event["time"] = json!(*last);
    }
    *last = last.max(time);
    // One file is one connection. The library names it by its remote connection id, which changes
    // at a client, and qvis would take it for two.
    if let Some(event) = event.as_object_mut() {
        event.remove("group_id");
    }
    let Some(data) = event["data"].as_object_mut() else { return };
    for name in ["min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance"] {
        if let Some(rtt) = data.get_mut(name)
            && let Some(seconds) = rtt.as_f64()
        {
            *rtt = json!((seconds * 1e6).round() / 1e3);
        }
    }
    let header = data.get_mut("header").and_then(Value::as_object_mut);
    if let Some(length) = header.and_then(|header| header.remove("length")) {
        data.insert("raw".into(), json!({ "length": length }));
    }
}
