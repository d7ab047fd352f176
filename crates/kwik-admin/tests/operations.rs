//! The tables of docs/operations.md are what the code says. `KWIK_WRITE_DOCS=1` writes them.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use kwik::{Config, EventKind, METRICS, MetricKind};
use kwik_admin::{ALERTS, OWN_METRICS};

fn metrics() -> String {
    let mut table = "| Metric | Kind | Labels | |\n|---|---|---|---|\n".to_owned();
    for (name, kind, labels, help) in METRICS.iter().chain(&OWN_METRICS) {
        let (name, kind) = match kind {
            MetricKind::Counter => (format!("{name}_total"), "counter"),
            MetricKind::Gauge => ((*name).to_owned(), "gauge"),
            MetricKind::Histogram => ((*name).to_owned(), "histogram"),
        };
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    table
}

fn events() -> String {
    let mut table = "| Event | |\n|---|---|\n".to_owned();
    for (name, help) in EventKind::NAMES {
        writeln!(table, "| `{name}` | {help} |").unwrap();
    }
    table
}

fn alerts() -> String {
    let mut table = "| Alert | What it means | What to do |\n|---|---|---|\n".to_owned();
    for (name, meaning, advice) in ALERTS {
        writeln!(table, "| `{name}` | {meaning} | {advice} |").unwrap();
    }
    table
}

fn settings() -> String {
    let mut table = "| Setting | Default | Changes live |\n|---|---|---|\n".to_owned();
    for (name, value, live) in Config::default().settings() {
        let live = if live { "yes" } else { "no" };
        writeln!(table, "| `{name}` | {value} | {live} |").unwrap();
    }
    table
}

#[test]
fn the_tables_are_what_the_code_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let mut text = fs::read_to_string(&path).unwrap();
    let before = text.clone();
    for (name, table) in [
        ("metrics", metrics()),
        ("events", events()),
        ("alerts", alerts()),
        ("settings", settings()),
    ] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let (head, rest) = text.split_once(&begin).expect(name);
        let (_, tail) = rest.split_once(&end).expect(name);
        text = format!("{head}{begin}{table}{end}{tail}");
    }
    if std::env::var_os("KWIK_WRITE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    } else {
        assert!(text == before, "KWIK_WRITE_DOCS=1 cargo test -p kwik-admin --test operations");
    }
}
