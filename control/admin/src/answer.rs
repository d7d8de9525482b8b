//! How answers are written.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// Plain text.
pub fn text(status: StatusCode, body: String) -> Response {
    typed(status, "text/plain; charset=utf-8", body)
}

/// JSON, indented: it is read by people as often as by programs.
pub fn json(value: &Value) -> Response {
    let body = format!("{value:#}\n");
    typed(StatusCode::OK, "application/json", body)
}

/// A body of a given type. Nothing here may be kept by a cache or guessed at by a browser.
pub fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, body).into_response()
}
