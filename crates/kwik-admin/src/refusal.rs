//! What is answered to who may not, or asks for what there is not.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An answer that says what is wrong, as JSON.
pub(crate) fn refuse(status: StatusCode, error: &str) -> Response {
    let body = format!("{}\n", json!({ "error": error }));
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
