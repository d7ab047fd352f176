//! See and steer a running KWIK endpoint (10.1 to 10.3): metrics for Prometheus, health, sessions
//! and paths as JSON, events, alerts, commands, and a page that shows them live.
//!
//! Everything is read from snapshots when somebody asks; the data plane never waits for it. It is
//! for this machine alone, a port of loopback or a Unix socket, unless it has TLS and a token
//! ([`Bound::with_tls`]). An application with an HTTP server
//! of its own nests [`Admin::router`] there, and decides itself who comes in.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use kwik_admin::{Admin, Bound, Place};
//!
//! let endpoint = kwik::Endpoint::client("127.0.0.1:0".parse()?)?;
//! let admin = Admin::new(endpoint);
//! let bound = Bound::new(&Place::Tcp("127.0.0.1:0".parse()?)).await?;
//! println!("http://{:?}", bound.place());
//! tokio::spawn(async move { admin.run(&bound).await });
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod alerts;
mod caller;
mod commands;
mod events;
mod guard;
pub mod limits;
mod metrics;
mod page;
mod refusal;
mod serve;
mod shared;
mod tls;
mod view;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State as Given};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use kwik::{Endpoint, Fingerprint};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, broadcast};

pub use alerts::{ALERTS, Thresholds};
pub use guard::{InvalidToken, Token};
pub use metrics::OWN as OWN_METRICS;
pub use serve::{Bound, Place, PlaceError};
pub use tls::{Tls, TlsError};

use alerts::Alerts;
use caller::Caller;
use metrics::Delays;
use refusal::refuse;
use shared::Shared;

/// What the server around the endpoints can do; by default nothing.
pub trait Service: Send + Sync {
    /// Takes no new sessions, and ends once the present ones have, or after the time that is
    /// returned; also if it does so already. None if it cannot.
    fn drain(&self) -> Option<Duration> {
        None
    }

    /// It takes no new sessions.
    fn is_draining(&self) -> bool {
        false
    }

    /// Reads lists and opens logs again: whether that was done. None if it cannot, or has none.
    fn reload(&self) -> Option<Reloading> {
        None
    }

    /// The servers that it brings in.
    fn edges(&self) -> Vec<EdgeRow> {
        Vec::new()
    }

    /// Gives an edge no new sessions, or does again; false when it is not known.
    fn set_edge_drained(&self, _: Fingerprint, _drained: bool) -> bool {
        false
    }

    /// Gives an edge another weight in sessions to come; false when it is not known.
    fn set_edge_weight(&self, _: Fingerprint, _weight: u32) -> bool {
        false
    }
}

/// Reads again what a service has read.
pub type Reloading = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A service that can do nothing.
struct Nothing;
impl Service for Nothing {}

/// A server that brings parts of what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeRow {
    /// Its key's pin.
    pub fingerprint: Fingerprint,
    /// Where it is.
    pub addresses: Vec<String>,
    /// Edges with more weight come first.
    pub weight: u32,
    /// Sessions that it is in.
    pub sessions: usize,
    /// It did not join when it was dialed last.
    pub unreached: bool,
    /// It gets no new sessions.
    pub drained: bool,
}

pub(crate) struct State {
    endpoints: Vec<Endpoint>,
    service: Arc<dyn Service>,
    token: Option<Arc<Token>>,
    thresholds: Thresholds,
    report_every: Option<Duration>,
    delays: Delays,
    alerts: Alerts,
    alert_events: broadcast::Sender<Value>,
    streams: Arc<Semaphore>,
    shared: Shared,
}

/// The administration interface of some endpoints.
pub struct Admin(State);

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// Of one endpoint, whose sessions are watched from now on.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self::of(vec![endpoint])
    }

    /// Of several endpoints.
    #[must_use]
    pub fn of(endpoints: Vec<Endpoint>) -> Self {
        endpoints.iter().for_each(Endpoint::watch);
        Self(State {
            endpoints,
            service: Arc::new(Nothing),
            token: None,
            thresholds: Thresholds::default(),
            report_every: None,
            delays: Delays::default(),
            alerts: Alerts::default(),
            alert_events: broadcast::channel(64).0,
            streams: Arc::new(Semaphore::new(limits::MAX_EVENT_STREAMS)),
            shared: Shared::default(),
        })
    }

    /// The same for a server that can do more.
    #[must_use]
    pub fn with_service(self, service: impl Service + 'static) -> Self {
        Self(State { service: Arc::new(service), ..self.0 })
    }

    /// Answers who has this token alone, but for health and the page, which asks for it.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self(State { token: Some(Arc::new(token)), ..self.0 })
    }

    /// Raises alerts at these thresholds.
    #[must_use]
    pub fn with_thresholds(self, thresholds: Thresholds) -> Self {
        Self(State { thresholds, ..self.0 })
    }

    /// Logs a line of figures this often.
    #[must_use]
    pub fn with_reports(self, every: Duration) -> Self {
        Self(State { report_every: Some(every), ..self.0 })
    }

    /// Everything as routes to nest, and what looks for alerts meanwhile: spawn it. The token is
    /// asked for; which `Host` and which origins may ask is the application's to check.
    pub fn router(self) -> (Router, impl Future<Output = ()> + Send + 'static) {
        let state = Arc::new(self.0);
        (router(&state), watch(state))
    }

    /// Answers on a listener for as long as it is polled.
    pub async fn run(mut self, bound: &Bound) {
        if let Some(token) = bound.token() {
            self = self.with_token(token.clone());
        }
        let (router, watching) = self.router();
        tokio::select! {
            () = bound.run(router) => {}
            () = watching => {}
        }
    }
}

fn router(state: &Arc<State>) -> Router {
    let sessions = "/api/v1/sessions/{name}";
    let below = |rest: &str| format!("{sessions}/{rest}");
    page::router()
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/sessions", get(list))
        .route(sessions, get(one))
        .route(&below("close"), post(commands::close))
        .route(&below("paths"), post(commands::add_path))
        .route(&below("paths/{path}/{change}"), post(commands::change_path))
        .route(&below("settings"), patch(commands::set_session))
        .route("/api/v1/settings", get(settings).patch(commands::set_all))
        .route("/api/v1/edges", get(edges))
        .route("/api/v1/edges/{fingerprint}", post(commands::set_edge))
        .route("/api/v1/drain", post(commands::drain))
        .route("/api/v1/reload", post(commands::reload))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/events", get(events::stream_events))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "no such page") })
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "not by this method")
        })
        .layer(from_fn_with_state(state.clone(), command))
        .layer(from_fn_with_state(guard::Gate::new(state.token.clone()), guard::check))
        .with_state(state.clone())
}

/// A command's body comes in time, and the command is finished and logged also when who asked goes.
async fn command(Given(state): Given<Arc<State>>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let late = || refuse(StatusCode::REQUEST_TIMEOUT, "this took too long");
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, limits::MAX_BODY);
    let body = match tokio::time::timeout(limits::READ_TIMEOUT, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        Err(_) => return late(),
    };
    let request = Request::from_parts(head, Body::from(body));
    let done = tokio::spawn(async move {
        let answer = next.run(request).await;
        state.shared.forget().await;
        answer
    });
    match tokio::time::timeout(limits::COMMAND_TIMEOUT, done).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the command failed"),
        Err(_) => late(),
    }
}

/// A JSON answer.
pub(crate) fn answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from(format!("{value}\n"))).into_response()
}

async fn scrape(Given(state): Given<Arc<State>>, headers: HeaderMap) -> Response {
    let encoded = metrics::encode(&state.endpoints, &state.delays, state.alerts.count());
    let Ok(text) = encoded else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written");
    };
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("application/openmetrics-text")) {
        return ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response();
    }
    ([(header::CONTENT_TYPE, metrics::PLAIN)], metrics::as_plain(&text)).into_response()
}

async fn ready(Given(state): Given<Arc<State>>) -> Response {
    match state.service.is_draining() {
        false => "ready\n".into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

async fn list(Given(state): Given<Arc<State>>) -> Response {
    let look = || Some(view::list(&state.endpoints));
    shared(state.shared.answer(None, Instant::now(), look).await)
}

async fn one(Given(state): Given<Arc<State>>, Path(name): Path<String>) -> Response {
    let look = || view::find(&state.endpoints, &name).map(|found| view::session(&found));
    shared(state.shared.answer(Some(&name), Instant::now(), look).await)
}

fn shared(looked: Option<Bytes>) -> Response {
    let Some(body) = looked else { return refuse(view::UNKNOWN.0, view::UNKNOWN.1) };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn settings(Given(state): Given<Arc<State>>) -> Response {
    let config = state.endpoints.iter().find_map(Endpoint::config).unwrap_or_default();
    answer(&view::settings(&config))
}

async fn edges(Given(state): Given<Arc<State>>) -> Response {
    let edges = state.service.edges().into_iter().map(|edge| {
        json!({
            "fingerprint": edge.fingerprint.to_string(),
            "addresses": edge.addresses,
            "weight": edge.weight,
            "sessions": edge.sessions,
            "unreached": edge.unreached,
            "drained": edge.drained,
        })
    });
    answer(&json!({ "edges": edges.collect::<Vec<_>>() }))
}

async fn alerts(Given(state): Given<Arc<State>>) -> Response {
    answer(&state.alerts.show())
}

/// Looks for alerts, says the reports, and measures how late tasks run.
async fn watch(state: Arc<State>) {
    let looks = async {
        let mut ticks = tokio::time::interval(limits::LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported = tokio::time::Instant::now();
        loop {
            ticks.tick().await;
            let service = &*state.service;
            for change in state.alerts.look(&state.endpoints, service, &state.thresholds) {
                let (alert, text) = (change.name, &change.text);
                match change.raised {
                    true => tracing::warn!(alert, %text, "alert raised"),
                    false => tracing::warn!(alert, %text, "alert lifted"),
                }
                let event = if change.raised { "alert_raised" } else { "alert_lifted" };
                let told = json!({ "event": event, "alert": alert, "text": text });
                // Nobody may listen.
                state.alert_events.send(told).ok();
            }
            if state.report_every.is_some_and(|every| reported.elapsed() >= every) {
                reported = tokio::time::Instant::now();
                report(&state);
            }
        }
    };
    tokio::join!(looks, state.delays.measure());
}

/// A line of figures for the log.
fn report(state: &State) {
    let sessions = view::all(&state.endpoints);
    let mut rate = 0;
    let mut limits = std::collections::BTreeMap::<_, u64>::new();
    for session in sessions.iter().filter_map(|found| found.session.session()) {
        let (snapshot, bottleneck) = session.judged();
        rate += snapshot.session.paths.iter().filter_map(|path| path.figures.goodput).sum::<u64>();
        *limits.entry(bottleneck.name()).or_default() += 1;
    }
    let (sessions, alerts) = (sessions.len(), state.alerts.count());
    tracing::info!(sessions, bytes_per_second = rate, ?limits, alerts, "report");
}
