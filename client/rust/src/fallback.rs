//! The way round a sidecar that is gone: straight to the endpoints that it named.
//!
//! For each distinct thing that routes look at (HTTP: method, authority and path; Dubbo: service, method, group and version; raw:
//! cluster) the shim asks the sidecar once, off the hot path, where such calls go, and keeps what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shmesh_policy::Address;

use crate::call::{Request, RequestKind, Response};
use crate::direct;
use crate::directory::{Directory, Subject};
use crate::error::{CallError, Ran};
use crate::session::Session;

/// How long a direct call without a timeout of its own may take.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What direct calls need.
#[derive(Debug)]
pub(crate) struct Fallback {
    directory: Arc<Directory>,
    answer_bytes_max: usize,
    turn: AtomicUsize,
}

impl Fallback {
    pub fn new(answer_bytes_max: usize) -> Fallback {
        Fallback { directory: Arc::default(), answer_bytes_max, turn: AtomicUsize::new(0) }
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// A request is about to be sent with this key: makes sure that the sidecar was asked about it.
    pub fn note(&self, session: &Arc<Session>, request: &Request<'_>, key: &[u8]) {
        self.directory.ask(session, subject(request), key);
    }

    /// Whether there is a way for such a request without the sidecar.
    pub fn knows(&self, request: &Request<'_>) -> bool {
        self.directory.endpoints(&subject(request)).is_some_and(|endpoints| !endpoints.is_empty())
    }

    /// Calls directly. None: there is no endpoint that can be reached without the sidecar.
    pub fn call(&self, request: &Request<'_>) -> Option<Result<Response, CallError>> {
        let endpoints = self.directory.endpoints(&subject(request))?;
        let mut addresses: Vec<Address> = endpoints.iter().filter_map(|text| text.parse().ok()).collect();
        addresses.retain(|address| !matches!(address, Address::Shm(_)));
        if addresses.is_empty() {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(turn);
        let timeout = request.timeout.unwrap_or(DIRECT_TIMEOUT);
        let mut outcome = None;
        for address in &addresses {
            let direct = direct::call(address, request, timeout, self.answer_bytes_max);
            let again = match &direct {
                Err(CallError::Direct { ran: Ran::No, .. }) => true,
                Err(CallError::Direct { ran: Ran::Maybe, .. }) => request.idempotent,
                _ => false,
            };
            outcome = Some(direct);
            if !again {
                break;
            }
        }
        outcome
    }
}

/// What the sidecar routes a request by.
fn subject(request: &Request<'_>) -> Subject {
    let (of, detail) = match &request.kind {
        RequestKind::Http { head, .. } => http_subject(head),
        RequestKind::Dubbo { key, .. } => {
            let mut detail = Vec::new();
            key.encode(&mut detail);
            (key.service.as_bytes().to_vec(), detail)
        }
        RequestKind::Raw { cluster, .. } => (cluster.as_bytes().to_vec(), Vec::new()),
    };
    Subject { protocol: request.protocol(), of, detail }
}

/// Authority, and method and path without the query, of a head that `Request::http` wrote.
fn http_subject(head: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let line = lines.next().unwrap_or_default().strip_suffix(b" HTTP/1.1").unwrap_or_default();
    let host = lines.next().and_then(|line| line.strip_prefix(b"Host: ")).unwrap_or_default();
    let path = line.split(|byte| *byte == b'?').next().unwrap_or_default();
    (host.to_ascii_lowercase(), path.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_asked_about_by_method_authority_and_path() {
        let of = |request: Request<'_>| subject(&request);
        let subject = of(Request::http("GET", "Reviews:80", "/a/b?c=d").header("x", "y"));
        assert_eq!((&subject.of[..], &subject.detail[..]), (&b"reviews:80"[..], &b"GET /a/b"[..]));
        assert_eq!(subject, of(Request::http("GET", "reviews:80", "/a/b?e")));
        assert_ne!(subject, of(Request::http("PUT", "reviews:80", "/a/b")));
    }
}
