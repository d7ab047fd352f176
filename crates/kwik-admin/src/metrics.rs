//! Metrics as OpenMetrics text, and in the older form of Prometheus for who does not ask for that.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kwik::{Endpoint, Family, MetricKind, Sample, Value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// What this is sent as.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// ... and what the older form is sent as.
pub(crate) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics of this crate's own: name, kind, labels, help.
pub const OWN: [(&str, MetricKind, &str, &str); 3] = [
    ("kwik_build_info", MetricKind::Gauge, "version", "1, and the version in a label."),
    ("kwik_task_delay_seconds", MetricKind::Histogram, "", "How late a task ran that was due."),
    ("kwik_alerts", MetricKind::Gauge, "", "Alerts that are raised."),
];

/// Latencies of the runtime's tasks.
#[derive(Debug, Default)]
pub(crate) struct Delays(Mutex<kwik::Latencies>);

impl Delays {
    fn value(&self) -> kwik::Latencies {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Measures for as long as it is polled how late a task runs that sleeps.
    pub(crate) async fn measure(&self) {
        loop {
            let due = tokio::time::Instant::now() + Duration::from_millis(500);
            tokio::time::sleep_until(due).await;
            let late = tokio::time::Instant::now().saturating_duration_since(due);
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note(late);
        }
    }
}

/// All families of some endpoints, added up, as text.
///
/// # Errors
/// A bug here: into a string nothing else fails. Half a scrape is worse than none.
pub(crate) fn encode(
    endpoints: &[Endpoint],
    delays: &Delays,
    alerts: u64,
) -> Result<String, fmt::Error> {
    let mut families: Vec<Family> = Vec::new();
    for endpoint in endpoints {
        add(&mut families, endpoint.metrics());
    }
    let version =
        Sample { labels: vec![("version", env!("CARGO_PKG_VERSION"))], value: Value::Number(1) };
    let delay = Sample { labels: Vec::new(), value: Value::Times(delays.value()) };
    let alerts = Sample { labels: Vec::new(), value: Value::Number(alerts) };
    let own = OWN.iter().zip([version, delay, alerts]);
    families.extend(own.map(|(&(name, kind, _, help), sample)| Family {
        name,
        kind,
        help,
        samples: vec![sample],
    }));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(Arc::new(families))));
    let mut encoded = String::new();
    text::encode(&mut encoded, &registry)?;
    Ok(encoded)
}

/// The same in the older form of Prometheus, in which a counter's name has its `_total` in the
/// comments too.
pub(crate) fn as_plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    // A name's help comes before its kind.
    while let Some(line) = lines.next() {
        let name = line.strip_prefix("# HELP ").and_then(|rest| rest.split(' ').next());
        let counter = name.map(|name| format!("# TYPE {name} counter"));
        match (name, counter) {
            (Some(name), Some(counter)) if lines.peek() == Some(&&*counter) => {
                let rest = &line["# HELP ".len() + name.len()..];
                plain += &format!("# HELP {name}_total{rest}\n# TYPE {name}_total counter\n");
                lines.next();
            }
            _ if line == "# EOF" => {}
            _ => {
                plain += line;
                plain.push('\n');
            }
        }
    }
    plain
}

/// Adds the same families of another endpoint.
fn add(sums: &mut Vec<Family>, more: Vec<Family>) {
    for family in more {
        let Some(sum) = sums.iter_mut().find(|sum| sum.name == family.name) else {
            sums.push(family);
            continue;
        };
        for sample in family.samples {
            match sum.samples.iter_mut().find(|known| known.labels == sample.labels) {
                Some(known) => known.value = plus(known.value, sample.value),
                None => sum.samples.push(sample),
            }
        }
    }
}

fn plus(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => Value::Number(a + b),
        (Value::Time(a), Value::Time(b)) => Value::Time(a + b),
        (Value::Times(mut a), Value::Times(b)) => {
            a.add(&b);
            Value::Times(a)
        }
        (one, _) => one,
    }
}

#[derive(Debug)]
struct Families(Arc<Vec<Family>>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &*self.0 {
            let kind = match family.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
                MetricKind::Histogram => MetricType::Histogram,
            };
            let help = family.help.trim_end_matches('.');
            let mut metric = encoder.encode_descriptor(family.name, help, None, kind)?;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    encode_value(&mut metric, family.kind, sample.value)?;
                } else {
                    let labels = &sample.labels[..];
                    let mut one = metric.encode_family(&labels)?;
                    encode_value(&mut one, family.kind, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(
    metric: &mut MetricEncoder<'_>,
    kind: MetricKind,
    value: Value,
) -> Result<(), fmt::Error> {
    match (kind, value) {
        (_, Value::Times(times)) => {
            let bounds = kwik::Latencies::BOUNDS.iter().map(Duration::as_secs_f64);
            let buckets: Vec<_> =
                bounds.chain([f64::MAX]).zip(times.counts.iter().copied()).collect();
            let count = times.counts.iter().sum();
            metric.encode_histogram::<NoLabelSet>(times.total.as_secs_f64(), count, &buckets, None)
        }
        (MetricKind::Counter, Value::Number(number)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(&number, None)
        }
        (MetricKind::Counter, Value::Time(time)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(&time.as_secs_f64(), None)
        }
        (_, Value::Number(number)) => metric.encode_gauge(&number),
        (_, Value::Time(time)) => metric.encode_gauge(&time.as_secs_f64()),
    }
}

/// When something was, for JSON.
pub(crate) fn seconds_since(at: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(at).as_secs_f64()
}
