//! What is logged, and in what form.

use std::{
    env, fmt as text,
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::{Context, SubscriberExt},
    registry::Registry,
    util::SubscriberInitExt,
};

use crate::{
    args::{Command, admin::LogFormat},
    voice::json_line,
};

/// Logs warnings to standard error, or what `KWIK_LOG` says: off, error, warn, info, debug, trace.
/// A server says what becomes of requests, too, and when that was, unless the journal does.
pub(crate) fn start(command: Option<&Command>) {
    let serve = match command {
        Some(Command::Serve(serve)) => Some(serve),
        _ => None,
    };
    let given: Option<LevelFilter> = env::var("KWIK_LOG").ok().and_then(|level| level.parse().ok());
    let filter = match given {
        Some(level) => Targets::new().with_default(level),
        None if serve.is_some() => {
            let own = ["kwik_delivery", "kwik_admin"].map(|target| (target, LevelFilter::INFO));
            Targets::new().with_targets(own).with_default(LevelFilter::WARN)
        }
        None => Targets::new().with_default(LevelFilter::WARN),
    };
    let log = Registry::default().with(filter);
    if serve.is_some_and(|serve| serve.admin.log_format == LogFormat::Json) {
        log.with(JsonLines).init();
        return;
    }
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        // They would go to standard error too, and a failure there must not end the program.
        .log_internal_errors(false);
    if serve.is_some() && env::var_os("JOURNAL_STREAM").is_none() {
        log.with(lines).init();
    } else {
        log.with(lines.without_time()).init();
    }
}

/// Each event as an object on a line: `time`, `level`, `target`, `message`, and its fields.
struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let Fields(mut object) = fields;
        object.insert("time".into(), json!(since.map_or(0.0, |since| since.as_secs_f64())));
        object.insert("level".into(), json!(event.metadata().level().as_str()));
        object.insert("target".into(), json!(event.metadata().target()));
        let line = json_line(&Value::Object(object)) + "\n";
        // Who cannot be told is not told.
        std::io::stderr().write_all(line.as_bytes()).ok();
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn text::Debug) {
        self.add(field, json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, json!(value));
    }
}
