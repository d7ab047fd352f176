//! The live page. All that it loads is in the binary, so it works where nothing else is reached.

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::refusal::refuse;

/// What the page loads: where that is, of which type, and its text. `uplot` is uPlot, which draws
/// the charts: page/vendor/ has its licence and its origin.
pub(crate) const FILES: [(&str, &str, &str); 5] = [
    ("/page.js", "text/javascript", include_str!("page/page.js")),
    ("/page.css", "text/css", include_str!("page/page.css")),
    ("/charts.js", "text/javascript", include_str!("page/charts.js")),
    ("/uplot.js", "text/javascript", include_str!("page/vendor/uPlot.iife.min.js")),
    ("/uplot.css", "text/css", include_str!("page/vendor/uPlot.min.css")),
];

/// The page, and what it loads.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new().route("/", get(page)), |router, (path, kind, text)| {
        router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }))
    })
}

/// What it loads is named from where it is itself, so that it can be nested anywhere, with a slash
/// at the end or without.
async fn page(OriginalUri(uri): OriginalUri) -> Response {
    let mut page = include_str!("page/page.html").to_owned();
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !last.bytes().all(plain) {
        return refuse(StatusCode::NOT_FOUND, "no such page");
    }
    let below = if last.is_empty() { String::new() } else { format!("{last}/") };
    for (path, ..) in FILES {
        let name = &path[1..];
        page = page.replace(&format!("=\"{name}\""), &format!("=\"{below}{name}\""));
    }
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}
