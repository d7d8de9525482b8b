//! A call or a stream that is to be made, as far as it matters for its way: what the sidecar routes it by.

use shmesh_shm::key::DubboKey;
use shmesh_shm::{Priority, Protocol};

use crate::call::{Request, RequestKind};
use crate::directory::Subject;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errand<'a> {
    Call(&'a Request<'a>),
    /// To the cluster if it is raw, else to a listener.
    Stream(Protocol, &'a str),
}

impl Errand<'_> {
    /// What the sidecar is asked about.
    pub fn subject(&self) -> Subject {
        match self {
            Errand::Call(request) => {
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
            // No request has an empty authority or service.
            Errand::Stream(protocol, cluster) => {
                Subject { protocol: *protocol, of: (*cluster).into(), detail: Vec::new() }
            }
        }
    }

    /// How it is asked. What comes in streams of HTTP and Dubbo is routed message by message, so that any key tells who does that.
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        match self {
            Errand::Call(request) => request.write_key(&mut key),
            Errand::Stream(Protocol::Http, _) => {
                key.extend_from_slice(b"GET / HTTP/1.1\r\nHost: any.invalid\r\n\r\n");
            }
            Errand::Stream(Protocol::Dubbo2, _) => {
                DubboKey { service: "any", method: "any", group: None, version: None, tag: None }.encode(&mut key);
            }
            Errand::Stream(Protocol::Raw, cluster) => key.extend_from_slice(cluster.as_bytes()),
        }
        key
    }

    /// `by_route` is what its route says.
    pub fn priority(&self, by_route: Option<Priority>) -> Priority {
        match self {
            Errand::Call(request) => request.priority_by(by_route),
            Errand::Stream(..) => by_route.unwrap_or_default(),
        }
    }
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
        let of = |request: Request<'_>| Errand::Call(&request).subject();
        let subject = of(Request::http("GET", "Reviews:80", "/a/b?c=d").header("x", "y"));
        assert_eq!((&subject.of[..], &subject.detail[..]), (&b"reviews:80"[..], &b"GET /a/b"[..]));
        assert_eq!(subject, of(Request::http("GET", "reviews:80", "/a/b?e")));
        assert_ne!(subject, of(Request::http("PUT", "reviews:80", "/a/b")));
    }
}
