//! Events as JSON, and as a stream of server-sent events.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use kwik::{Event, EventField, Events};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use crate::State as Admin;
use crate::refusal::refuse;

/// An event with the names of fields that logs have.
pub(crate) fn show(event: &Event) -> Value {
    let time = event.at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut shown = json!({
        "time": time,
        "event": event.kind.name(),
        "session": event.session.map(|id| id.to_string()),
    });
    for (name, field) in event.kind.fields() {
        shown[name] = match field {
            EventField::Text(text) => json!(text),
            EventField::Number(number) => json!(number),
            EventField::Flag(flag) => json!(flag),
            EventField::Absent => Value::Null,
        };
    }
    shown
}

/// What one reader takes: events of all endpoints in turn, and alerts.
struct Reader {
    events: Vec<Events>,
    alerts: broadcast::Receiver<Value>,
    missed: u64,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The next event, as one message; first how many were missed, if any.
    async fn next(&mut self) -> String {
        let next = {
            let each = self.events.iter_mut().map(|events| Box::pin(events.next()));
            let alert = async {
                loop {
                    match self.alerts.recv().await {
                        Ok(alert) => return alert,
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            let events: Vec<_> = each.collect();
            tokio::select! {
                event = first(events) => show(&event),
                alert = alert => alert,
                // So that a connection that is gone is found out.
                () = tokio::time::sleep(std::time::Duration::from_secs(15)) => Value::Null,
            }
        };
        let missed: u64 = self.events.iter().map(Events::missed).sum();
        let news = std::mem::replace(&mut self.missed, missed);
        let mut text = String::new();
        if missed > news {
            text = message("missed", &json!({ "event": "missed", "count": missed - news }));
        }
        match next.get("event").and_then(Value::as_str) {
            Some(kind) => text + &message(kind, &next),
            None => text + ": still here\n\n",
        }
    }
}

/// The first event of several endpoints.
async fn first<F: Future<Output = Event> + Unpin>(events: Vec<F>) -> Event {
    match events.is_empty() {
        true => std::future::pending().await,
        false => futures_util::future::select_all(events).await.0,
    }
}

fn message(kind: &str, value: &Value) -> String {
    format!("event: {kind}\ndata: {value}\n\n")
}

/// `GET /api/v1/events`
pub(crate) async fn stream_events(State(admin): State<Arc<Admin>>) -> Response {
    let Ok(place) = Arc::clone(&admin.streams).try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open");
    };
    let reader = Reader {
        events: admin.endpoints.iter().map(kwik::Endpoint::events).collect(),
        alerts: admin.alert_events.subscribe(),
        missed: 0,
        _place: place,
    };
    let messages = stream::unfold(reader, |mut reader| async move {
        let message = reader.next().await;
        Some((Ok::<_, std::convert::Infallible>(message), reader))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(messages)).into_response()
}
