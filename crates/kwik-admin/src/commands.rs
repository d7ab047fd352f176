//! Changes: each is checked, answered with what changed, and logged with who asked.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use kwik::{Config, Fingerprint, LiveSession, PathId, PrimarySession, Session};
use serde_json::{Map, Value, json};

use crate::limits::{MAX_REASON, MIN_MEMORY_BUDGET};
use crate::refusal::refuse;
use crate::{Caller, State as Admin, answer, view};

type Answer = Result<Value, (StatusCode, String)>;

fn bad(error: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.into())
}

fn conflict(error: &impl ToString) -> (StatusCode, String) {
    (StatusCode::CONFLICT, error.to_string())
}

/// The body as an object that has no other fields than these.
fn fields(body: &[u8], known: &[&str]) -> Result<Map<String, Value>, (StatusCode, String)> {
    let body = if body.is_empty() { b"{}" } else { body };
    let value: Value =
        serde_json::from_slice(body).map_err(|error| bad(format!("no JSON: {error}")))?;
    let Value::Object(fields) = value else { return Err(bad("a JSON object is wanted")) };
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        Some(name) if name == "memory_budget" => {
            Err(bad("memory_budget is for all sessions of an endpoint together: change it at \
             /api/v1/settings, without a session"))
        }
        Some(_) => Err(bad(format!("unknown field: there are {}", known.join(", ")))),
        None => Ok(fields),
    }
}

fn primary(admin: &Admin, name: &str) -> Result<PrimarySession, (StatusCode, String)> {
    let (status, error) = view::UNKNOWN;
    match view::find(&admin.endpoints, name).map(|found| found.session) {
        Some(LiveSession::Primary(primary)) => Ok(primary),
        Some(_) => Err(conflict(&"this endpoint is not the primary of the session")),
        None => Err((status, error.into())),
    }
}

fn with_streams(admin: &Admin, name: &str) -> Result<Session, (StatusCode, String)> {
    let (status, error) = view::UNKNOWN;
    let found = view::find(&admin.endpoints, name).ok_or_else(|| (status, error.to_owned()))?;
    let session = found.session.session().cloned();
    session.ok_or_else(|| conflict(&"a secondary has no settings in a session"))
}

/// Answers, and logs who asked for what.
fn done(caller: &Caller, what: &str, answered: Answer) -> Response {
    let by = kwik::escape(&caller.0);
    match answered {
        Ok(changed) => {
            tracing::info!(%by, command = what, %changed, "administration");
            answer(&changed)
        }
        Err((status, error)) => {
            tracing::info!(%by, command = what, error = %kwik::escape(&error), "administration");
            refuse(status, &error)
        }
    }
}

/// `POST /api/v1/sessions/{name}/close`: `code` (0), `reason`.
pub(crate) async fn close(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let close = || {
        let fields = fields(&body, &["code", "reason"])?;
        let code = match fields.get("code") {
            None => 0,
            Some(code) => code
                .as_u64()
                .filter(|code| *code < 1 << 62)
                .ok_or_else(|| bad("code is a whole number below 2^62"))?,
        };
        let reason = fields.get("reason").map_or(Some("closed by the operator"), Value::as_str);
        let reason = reason
            .filter(|reason| reason.len() <= MAX_REASON)
            .ok_or_else(|| bad(format!("reason is a text of at most {MAX_REASON} bytes")))?;
        let (status, error) = view::UNKNOWN;
        let found = view::find(&admin.endpoints, &name).ok_or((status, error.to_owned()))?;
        match (&found.session, found.session.session()) {
            (LiveSession::Secondary(secondary), _) => secondary.close(code, reason.as_bytes()),
            (_, Some(session)) => session.close(code, reason.as_bytes()),
            _ => {}
        }
        Ok(json!({ "session": found.name, "closed": true, "code": code }))
    };
    done(&caller, "close", close())
}

/// `POST /api/v1/sessions/{name}/paths`: `address`, `fingerprint`.
pub(crate) async fn add_path(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let add = async {
        let fields = fields(&body, &["address", "fingerprint"])?;
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let address: SocketAddr = text("address")
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| bad("address is IP:PORT"))?;
        let edge: Fingerprint = text("fingerprint")
            .and_then(|fingerprint| fingerprint.parse().ok())
            .ok_or_else(|| bad("fingerprint is what `kwik id` prints there"))?;
        let added = primary(&admin, &name)?.add_path(address, edge).await;
        let path = added.map_err(|error| conflict(&error))?;
        Ok(json!({ "session": name, "path": path.0, "added": true }))
    };
    done(&caller, "add path", add.await)
}

/// `POST /api/v1/sessions/{name}/paths/{path}/{change}`: `remove` or `kill`.
pub(crate) async fn change_path(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path((name, path, change)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    let changed = async {
        fields(&body, &[])?;
        let path = PathId(path.parse().map_err(|_| bad("a path is a whole number"))?);
        let primary = primary(&admin, &name)?;
        match change.as_str() {
            "remove" => {
                if primary.all_paths().iter().all(|info| info.id != path) {
                    return Err((StatusCode::NOT_FOUND, "no such path".to_owned()));
                }
                // It leaves once it has brought what it was asked for: who asks does not wait.
                let leaving = primary.clone();
                let mut leave = Box::pin(async move { leaving.remove_path(path).await });
                let at_once =
                    tokio::time::timeout(std::time::Duration::from_millis(200), &mut leave);
                match at_once.await {
                    Ok(left) => left.map_err(|error| conflict(&error))?,
                    Err(_) => drop(tokio::spawn(leave)),
                }
            }
            "kill" => primary.mark_dead(path).map_err(|error| conflict(&error))?,
            _ => return Err((StatusCode::NOT_FOUND, "there are remove and kill".to_owned())),
        }
        Ok(json!({ "session": name, "path": path.0, "change": change }))
    };
    done(&caller, "change path", changed.await)
}

/// Settings with changes: those that were, and the new ones.
fn changed(config: &Config, body: &[u8]) -> Result<(Config, Value), (StatusCode, String)> {
    let settings = config.settings();
    let known: Vec<_> = settings.iter().map(|(name, ..)| *name).collect();
    let fields = fields(body, &known)?;
    let mut new = config.clone();
    let mut shown = Map::new();
    for (name, value) in &fields {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err(bad(format!("{name} is a number, true, false, or the same as text"))),
        };
        new.set(name, &text).map_err(|error| bad(error.to_string()))?;
        let before = settings.iter().find(|(known, ..)| known == name).map(|(_, value, _)| value);
        shown.insert(name.clone(), json!({ "before": before, "now": text }));
    }
    Ok((new, Value::Object(shown)))
}

/// `PATCH /api/v1/sessions/{name}/settings`
pub(crate) async fn set_session(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let set = || {
        let session = with_streams(&admin, &name)?;
        let (new, shown) = changed(&session.config(), &body)?;
        session.set_config(new).map_err(|error| conflict(&error))?;
        Ok(json!({ "session": name, "changed": shown }))
    };
    done(&caller, "set session", set())
}

/// `PATCH /api/v1/settings`: of sessions to come, and `memory_budget` in bytes for all.
pub(crate) async fn set_all(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    body: Bytes,
) -> Response {
    let set = || {
        let mut all: Map<String, Value> = {
            let value: Value =
                serde_json::from_slice(&body).map_err(|error| bad(format!("no JSON: {error}")))?;
            let Value::Object(all) = value else { return Err(bad("a JSON object is wanted")) };
            all
        };
        let budget = all.remove("memory_budget");
        let budget = match budget {
            None => None,
            Some(bytes) => Some(
                bytes.as_u64().filter(|bytes| *bytes >= MIN_MEMORY_BUDGET).ok_or_else(|| {
                    bad(format!("memory_budget is a number of bytes, from {MIN_MEMORY_BUDGET} on"))
                })?,
            ),
        };
        let body = Value::Object(all).to_string();
        let mut shown = Value::Null;
        let mut news = Vec::new();
        for endpoint in &admin.endpoints {
            let config = endpoint.config().unwrap_or_default();
            let (new, changes) = changed(&config, body.as_bytes())?;
            new.validate().map_err(|error| conflict(&error))?;
            shown = changes;
            news.push(new);
        }
        // All are right, so none of them fails half way.
        for (endpoint, new) in admin.endpoints.iter().zip(news) {
            endpoint.set_config(new).map_err(|error| conflict(&error))?;
            if let Some(bytes) = budget {
                endpoint.set_memory_budget(bytes);
            }
        }
        if let Some(bytes) = budget {
            // What an endpoint shares among its sessions: each of them has as much.
            let endpoints = admin.endpoints.len();
            shown["memory_budget"] = json!({ "now": bytes, "of_each_endpoint": endpoints });
        }
        Ok(json!({ "changed": shown }))
    };
    done(&caller, "set", set())
}

/// `POST /api/v1/drain`
pub(crate) async fn drain(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    body: Bytes,
) -> Response {
    let drain = || {
        fields(&body, &[])?;
        let within = admin.service.drain();
        let within = within.ok_or_else(|| conflict(&"this server cannot be drained from here"))?;
        Ok(json!({
            "draining": true,
            "ends_within": within.as_secs_f64(),
            "sessions": view::all(&admin.endpoints).len(),
        }))
    };
    done(&caller, "drain", drain())
}

/// `POST /api/v1/edges/{fingerprint}`: `drained`, true or false, and `weight`, a whole number.
pub(crate) async fn set_edge(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    Path(edge): Path<String>,
    body: Bytes,
) -> Response {
    let set = || {
        let fields = fields(&body, &["drained", "weight"])?;
        let drained = fields
            .get("drained")
            .map(|drained| drained.as_bool().ok_or_else(|| bad("drained is true or false")));
        let weight = fields.get("weight").map(|weight| {
            let weight = weight.as_u64().and_then(|weight| u32::try_from(weight).ok());
            weight.ok_or_else(|| bad("weight is a whole number below 2^32"))
        });
        let (drained, weight) = (drained.transpose()?, weight.transpose()?);
        if drained.is_none() && weight.is_none() {
            return Err(bad("say drained, true or false, or weight, a whole number"));
        }
        let key: Fingerprint =
            edge.parse().map_err(|_| bad("an edge is named by its fingerprint"))?;
        let service = &admin.service;
        let known = drained.is_none_or(|drained| service.set_edge_drained(key, drained))
            && weight.is_none_or(|weight| service.set_edge_weight(key, weight));
        let mut changed = json!({ "edge": key.to_string() });
        drained.into_iter().for_each(|drained| changed["drained"] = json!(drained));
        weight.into_iter().for_each(|weight| changed["weight"] = json!(weight));
        known.then_some(changed).ok_or((StatusCode::NOT_FOUND, "no such edge".to_owned()))
    };
    done(&caller, "change edge", set())
}

/// `POST /api/v1/reload`: edges, lists and logs, as SIGHUP does.
pub(crate) async fn reload(
    State(admin): State<Arc<Admin>>,
    caller: Caller,
    body: Bytes,
) -> Response {
    let reload = async {
        fields(&body, &[])?;
        if admin.service.is_draining() {
            return Err(conflict(&"this server ends: nothing is read again"));
        }
        let none = || conflict(&"this server has nothing to read again");
        match admin.service.reload().ok_or_else(none)?.await {
            true => Ok(json!({ "reloaded": true })),
            false => Err(conflict(&"nothing was read again: the server ends")),
        }
    };
    done(&caller, "reload", reload.await)
}
