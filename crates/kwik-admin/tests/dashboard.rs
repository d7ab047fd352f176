//! The dashboard in packaging/: its queries name what is there, and a real Prometheus answers them.

#![allow(clippy::unwrap_used, reason = "test code")]

mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kwik::{ClientConfig, Endpoint, Identity, METRICS, MetricKind, ServerConfig};
use kwik_admin::{Admin, Bound, OWN_METRICS, Place};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn dashboard() -> Value {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../packaging/grafana-dashboard.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// All PromQL of the dashboard: its panels', and its variables'.
fn queries() -> Vec<String> {
    fn find(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(query)) = fields.get("expr") {
                    found.push(query.clone());
                }
                fields.values().for_each(|value| find(value, found));
            }
            Value::Array(all) => all.iter().for_each(|value| find(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(&dashboard(), &mut found);
    found
}

/// The names that metrics have in a scrape, each with its labels.
fn exported() -> Vec<(String, BTreeSet<&'static str>)> {
    let all = METRICS.iter().chain(&OWN_METRICS);
    let names = all.flat_map(|(name, kind, labels, _)| {
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let mut labels: BTreeSet<_> = labels.chain(["job", "instance"]).collect();
        let ends: &[&str] = match kind {
            MetricKind::Counter => &["_total"],
            MetricKind::Gauge => &[""],
            MetricKind::Histogram => &["_bucket", "_sum", "_count"],
        };
        if *kind == MetricKind::Histogram {
            labels.insert("le");
        }
        ends.iter().map(move |end| (format!("{name}{end}"), labels.clone()))
    });
    names.collect()
}

fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// What stands between `begin` and the next `end`, each time.
fn between<'a>(query: &'a str, begin: &'a str, end: char) -> impl Iterator<Item = &'a str> {
    query.split(begin).skip(1).map(move |rest| rest.split(end).next().unwrap())
}

#[test]
fn each_query_of_the_dashboard_names_metrics_and_labels_that_there_are() {
    let exported = exported();
    let mut shown = BTreeSet::new();
    for query in queries() {
        let named: Vec<_> = words(&query).filter(|word| word.starts_with("kwik_")).collect();
        assert!(!named.is_empty(), "{query}");
        for name in named {
            let found = exported.iter().find(|(known, _)| known == name);
            let (_, labels) = found.unwrap_or_else(|| panic!("no metric {name}: {query}"));
            let grouped = between(&query, "by (", ')').flat_map(|list| list.split(", "));
            let matched = between(&query, "{", '}').flat_map(|list| list.split(", "));
            let matched = matched.map(|label| label.split('=').next().unwrap());
            for label in grouped.chain(matched) {
                assert!(labels.contains(label), "{name} has no label {label}: {query}");
            }
            let base = ["_total", "_bucket", "_sum", "_count"];
            let base = base.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            shown.insert(base.to_owned());
        }
    }
    // Nothing is left out.
    let all: BTreeSet<_> = METRICS.iter().chain(&OWN_METRICS).map(|(name, ..)| *name).collect();
    let missing: Vec<_> = all.iter().filter(|name| !shown.contains(**name)).collect();
    assert!(missing.is_empty(), "not in the dashboard: {missing:?}");
}

/// A Prometheus that ends with the test.
struct Prometheus {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Prometheus {
    /// None where there is none.
    fn start(target: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n  - \
             job_name: kwik\n    static_configs:\n      - targets: ['{target}']\n"
        );
        fs::write(&config, text).unwrap();
        // Free a moment ago: it says nowhere which one it took.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .ok()?;
        Some(Self { child, port, folder })
    }

    /// What a query gives now; none while it does not answer.
    async fn query(&self, query: &str) -> Option<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request =
            format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_answers_each_query_of_the_dashboard() {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let identity = Arc::new(Identity::from_seed([7; 32]));
    let key = identity.fingerprint();
    let server = Endpoint::server(ServerConfig::new(identity), loopback).unwrap();
    let client = Endpoint::client(loopback).unwrap();
    let bound = Bound::new(&Place::Tcp(loopback)).await.unwrap();
    let Some(Place::Tcp(address)) = bound.place() else { panic!("no port") };
    let admin = Admin::of(vec![server.clone(), client.clone()]);
    tokio::spawn(async move { admin.run(&bound).await });
    let Some(prometheus) = Prometheus::start(&address.to_string()) else {
        tools::skip("there is no prometheus on this machine: apt-get install prometheus");
        return;
    };
    let dial = client.connect_with(ClientConfig::pinned(key), server.local_addr().unwrap(), "");
    let accept = async { server.accept().await.unwrap().await.unwrap() };
    let (session, served) = tokio::join!(dial.unwrap(), accept);
    let session = session.unwrap();
    // Bytes go on for as long as it looks.
    let serving = tokio::spawn(async move {
        while let Ok(mut stream) = served.open_uni().await {
            if stream.write_all(&[7; 10_000]).await.is_err() || stream.finish().is_err() {
                break;
            }
        }
    });
    let reading = tokio::spawn(async move {
        while let Ok(mut stream) = session.accept_uni().await {
            stream.read_to_end(100_000).await.ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let started = Instant::now();
    let mut left = queries();
    let mut last = Value::Null;
    while !left.is_empty() {
        assert!(started.elapsed().as_secs() < 60, "{left:?} {last} {}", prometheus.log());
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut empty = Vec::new();
        for query in left {
            let asked = query.replace("$__rate_interval", "5s");
            let asked = asked.replace("$job", "kwik").replace("$instance", ".*");
            match prometheus.query(&asked).await {
                Some(answer) if answer["status"] == "success" => {
                    let found = answer["data"]["result"].as_array().unwrap();
                    if found.is_empty() {
                        (last, empty) = (answer, [empty, vec![query]].concat());
                    }
                }
                Some(answer) => panic!("{asked}: {answer}"),
                None => empty.push(query),
            }
        }
        left = empty;
    }
    // What it scraped is what went over.
    let received = prometheus.query("kwik_received_bytes_total{path=\"primary\"}").await.unwrap();
    let number = received["data"]["result"][0]["value"][1].as_str().unwrap();
    assert!(number.parse::<f64>().unwrap() > 10_000.0, "{received}");
    serving.abort();
    reading.abort();
}
