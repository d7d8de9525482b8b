//! The admin interface over HTTP: what the sidecar is doing, for people, probes and Prometheus.
//!
//! A GET changes nothing, and what a POST changes no web page can ([`guard`]). What is shown comes from an [`AdminSource`]; this crate
//! knows paths, statuses and content types.

#![forbid(unsafe_code)]

mod answer;
mod guard;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;

use answer::{json, text};

/// The paths with what they show, as a wrong path is answered.
const PATHS: &str = "\
/ready     200 once every listener accepts, 503 with what is lacking
/live      200 as long as the process answers
/snapshot  the effective configuration, JSON
/sessions  the attached apps, JSON
/clusters  the clusters and their endpoints, JSON
/metrics   counters and histograms, Prometheus text
/direct    which share of their calls apps make round the sidecar, JSON; POST {\"share\": 0…1000, \"app\": NAME} changes it
";

/// Where the admin interface looks.
pub trait AdminSource: Send + Sync + 'static {
    /// Why no traffic should be sent here, a phrase each; ready if there is none.
    fn lacking(&self) -> Vec<String>;
    /// The effective configuration.
    fn snapshot(&self) -> Value;
    fn sessions(&self) -> Value;
    fn clusters(&self) -> Value;
    /// Which share of their calls apps are told to make round the sidecar.
    fn direct(&self) -> Value;
    /// Changes that, of one app or of all. The error is a sentence.
    fn set_direct(&self, app: Option<&str>, share: u16) -> Result<(), String>;
    /// Content type and text, in the format that a request's `Accept` asks for.
    fn metrics(&self, accept: Option<&str>) -> (&'static str, String);
}

/// Why the admin interface cannot listen; the message is a whole sentence.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "the admin address {0} is in use by another process, perhaps another shmesh: \
         end that one, or choose another address with `admin: {{ address: … }}`"
    )]
    InUse(SocketAddr),
    #[error("cannot listen on the admin address {address}: {error}")]
    Other { address: SocketAddr, error: io::Error },
}

/// Binds the address, so that a failure is known before anything else is started. Call it on a
/// tokio runtime.
///
/// # Errors
/// [`BindError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Other { address, error },
    })
}

/// Serves until `end` is done; answers in progress are completed.
///
/// # Errors
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn AdminSource>,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(source)).with_graceful_shutdown(end).await
}

type Source = State<Arc<dyn AdminSource>>;

fn router(source: Arc<dyn AdminSource>) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/snapshot", get(snapshot))
        .route("/sessions", get(sessions))
        .route("/clusters", get(clusters))
        .route("/metrics", get(metrics))
        .route("/direct", get(direct).post(set_direct))
        .method_not_allowed_fallback(wrong_method)
        .fallback(wrong_path)
        .with_state(source)
}

async fn ready(State(source): Source) -> Response {
    let lacking = source.lacking();
    match lacking.is_empty() {
        true => text(StatusCode::OK, "ready\n".to_owned()),
        false => {
            let lines = lacking.iter().map(|phrase| format!("not ready: {phrase}\n"));
            text(StatusCode::SERVICE_UNAVAILABLE, lines.collect())
        }
    }
}

async fn live() -> Response {
    text(StatusCode::OK, "live\n".to_owned())
}

async fn snapshot(State(source): Source) -> Response {
    json(&source.snapshot())
}

async fn sessions(State(source): Source) -> Response {
    json(&source.sessions())
}

async fn clusters(State(source): Source) -> Response {
    json(&source.clusters())
}

async fn metrics(State(source): Source, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (content_type, body) = source.metrics(accept);
    answer::typed(StatusCode::OK, content_type, body)
}

async fn direct(State(source): Source) -> Response {
    json(&source.direct())
}

async fn set_direct(State(source): Source, headers: HeaderMap, body: String) -> Response {
    if let Some(refusal) = guard::refusal(&headers) {
        return text(StatusCode::FORBIDDEN, format!("{refusal}\n"));
    }
    let Some((app, share)) = wanted_direct(&body) else {
        let sentence = "write {\"share\": 0…1000}, and \"app\": NAME if it is for one app\n";
        return text(StatusCode::BAD_REQUEST, sentence.to_owned());
    };
    match source.set_direct(app.as_deref(), share) {
        Ok(()) => json(&source.direct()),
        Err(sentence) => text(StatusCode::CONFLICT, format!("{sentence}\n")),
    }
}

/// The app and the share that are asked for.
fn wanted_direct(body: &str) -> Option<(Option<String>, u16)> {
    let value: Value = serde_json::from_str(body).ok()?;
    // A slip of the pen would be for all apps.
    if !value.as_object()?.keys().all(|key| ["share", "app"].contains(&key.as_str())) {
        return None;
    }
    let share = value.get("share")?.as_u64().filter(|share| *share <= 1000)? as u16;
    match value.get("app") {
        None | Some(Value::Null) => Some((None, share)),
        Some(app) => Some((Some(app.as_str()?.to_owned()), share)),
    }
}

async fn wrong_path(uri: Uri) -> Response {
    let body = format!("there is nothing at {}; there is:\n{PATHS}", uri.path());
    text(StatusCode::NOT_FOUND, body)
}

async fn wrong_method() -> Response {
    let body = "nothing here is changed in that way: use GET\n".to_owned();
    text(StatusCode::METHOD_NOT_ALLOWED, body)
}

#[cfg(test)]
mod tests;
