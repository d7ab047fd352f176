//! Nobody in who does not belong.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority};
use axum::middleware::Next;
use axum::response::Response;

use crate::caller::Caller;
use crate::limits::{MAX_SHOWN_PATH, MAX_TOKEN, MIN_TOKEN, SAY_REFUSED_EVERY};
use crate::page;
use crate::refusal::refuse;

/// A secret that commands and figures are shown for.
#[derive(Clone)]
pub struct Token(blake3::Hash);

/// A token that is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is 32 to 256 letters, digits, '-' and '_': make one with `openssl rand -hex 32`")]
pub struct InvalidToken;

impl Token {
    /// A token of at least 128 bits, as far as its length tells.
    ///
    /// # Errors
    /// It is too short, too long, or has other characters.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let fits = (MIN_TOKEN..=MAX_TOKEN).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if fits && plain { Ok(Self(blake3::hash(text.as_bytes()))) } else { Err(InvalidToken) }
    }

    /// In constant time, whatever was given.
    fn is(&self, given: &[u8]) -> bool {
        self.0 == blake3::hash(given)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Lets a request through that is for this machine, and that no page of another origin sent. Of the
/// listener here alone: an application that nests the router has names and origins of its own.
pub(crate) async fn check_origin(request: Request, next: Next) -> Response {
    let own = check_host(&request).map(|host| format!("http://{host}"));
    let checked = own.and_then(|own| check_page(request.headers(), &own));
    match checked {
        Ok(()) => next.run(request).await,
        Err((status, error)) => refuse(status, error),
    }
}

/// The same over TLS, where the certificate says who the host is.
pub(crate) async fn check_page_over_tls(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let checked = match (hosts.next().map(HeaderValue::to_str), hosts.next()) {
        (Some(Ok(host)), None) => check_page(request.headers(), &format!("https://{host}")),
        _ => Err((StatusCode::BAD_REQUEST, "a request names one Host")),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err((status, error)) => refuse(status, error),
    }
}

/// The token that is asked for, and who was refused for want of it.
#[derive(Debug)]
pub(crate) struct Gate {
    token: Option<Arc<Token>>,
    refused: Mutex<Refused>,
}

impl Gate {
    pub(crate) fn new(token: Option<Arc<Token>>) -> Arc<Self> {
        Arc::new(Self { token, refused: Mutex::default() })
    }

    /// Somebody guesses, or has forgotten it: an operator wants to know, and no guesser shall fill
    /// a disk.
    fn say(&self, request: &Request) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(others) = refused.note(Instant::now()) else { return };
        drop(refused);
        let who = request.extensions().get::<Caller>().map_or("unknown", |caller| &caller.0);
        let (method, path) = (request.method().as_str(), request.uri().path());
        let path: String = path.chars().take(MAX_SHOWN_PATH).collect();
        let (who, method, path) = (kwik::escape(who), kwik::escape(method), kwik::escape(path));
        tracing::warn!(%who, %method, %path, others, "refused: it has not the token");
    }
}

/// What was said of requests that were refused.
#[derive(Debug, Default)]
struct Refused {
    said: Option<Instant>,
    /// Since then.
    unsaid: u64,
}

impl Refused {
    /// Whether this one is said: then how many before it were not.
    fn note(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < SAY_REFUSED_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Lets a request through that has the token, if there is one, and that no form sent.
pub(crate) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let checked = check_body(&request).and_then(|()| check_token(gate.token.as_deref(), &request));
    if matches!(checked, Err((StatusCode::UNAUTHORIZED, _))) {
        gate.say(&request);
    }
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err((status, error)) => refuse(status, error),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Marks requests that may come from any user of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnyUser;

type Refusal = (StatusCode, &'static str);

/// The host of a request is this machine by a name that no other can take: else a page of a host
/// that resolves to this machine (DNS rebinding) could read what is here.
fn check_host(request: &Request) -> Result<String, Refusal> {
    let wrong = (
        StatusCode::MISDIRECTED_REQUEST,
        "the Host is not this machine: use localhost, 127.0.0.1 or [::1]",
    );
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(wrong) };
    let host = host.to_str().map_err(|_| wrong)?;
    let authority: Authority = host.parse().map_err(|_| wrong)?;
    // An address is no name that somebody else could resolve.
    let name = authority.host();
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let local = name.eq_ignore_ascii_case("localhost")
        || plain.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let is_plain = !host.contains('@');
    if local && is_plain { Ok(host.to_owned()) } else { Err(wrong) }
}

/// A page says where it comes from: only the one that is served here may ask.
fn check_page(headers: &HeaderMap, own: &str) -> Result<(), Refusal> {
    let wrong = (StatusCode::FORBIDDEN, "a page of another origin may not ask");
    if headers.get_all(header::ORIGIN).iter().any(|origin| origin.as_bytes() != own.as_bytes()) {
        return Err(wrong);
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(wrong),
    }
}

/// Commands are JSON, which a form of a foreign page cannot send without being asked first.
fn check_body(request: &Request) -> Result<(), Refusal> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    match kind {
        Some(kind) if kind.starts_with(b"application/json") => Ok(()),
        _ => Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json")),
    }
}

/// The page itself and what says that the server lives need no token. Commands need one but where
/// only the owner comes in.
fn check_token(token: Option<&Token>, request: &Request) -> Result<(), Refusal> {
    let Some(token) = token else {
        let looks = matches!(*request.method(), Method::GET | Method::HEAD);
        return match request.extensions().get::<AnyUser>() {
            Some(AnyUser) if !looks => Err((
                StatusCode::FORBIDDEN,
                "commands at a port need a token, as every user of this machine reaches it: \
                 --admin-token-file, or a socket",
            )),
            _ => Ok(()),
        };
    };
    let path = request.uri().path();
    let open = ["/", "/favicon.ico", "/healthz", "/readyz"];
    if open.contains(&path) || page::FILES.iter().any(|(name, ..)| path == *name) {
        return Ok(());
    }
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = given.and_then(|given| given.strip_prefix(b"Bearer "));
    if given.is_some_and(|given| token.is(given)) {
        return Ok(());
    }
    Err((StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_not_the_token_is_told_of_now_and_then_and_counted() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert_eq!(refused.note(start), Some(0));
        for _ in 0..1_000 {
            assert_eq!(refused.note(start + Duration::from_secs(1)), None);
        }
        assert_eq!(refused.note(start + SAY_REFUSED_EVERY), Some(1_000));
        assert_eq!(refused.note(start + SAY_REFUSED_EVERY * 2), Some(0));
    }
}
