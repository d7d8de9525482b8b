//! What is asked and what comes back.

use std::time::Duration;

use shmesh_shm::key::DubboKey;
use shmesh_shm::{Priority, Protocol};

use crate::error::CallError;

/// A routing key that a lane has interned: calls that use it need not carry their key. Valid on its lane only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub(crate) id: u32,
    pub(crate) protocol: Protocol,
}

/// How a call is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// By a key that [`Lane::define`](crate::Lane::define) interned.
    Route(Route),
    /// By a key in the call itself (docs/spec/shm-v1.md §3.1): a request head, a Dubbo key, a cluster's name.
    Key(Protocol, &'a [u8]),
}

impl Target<'_> {
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Target::Route(route) => route.protocol,
            Target::Key(protocol, _) => *protocol,
        }
    }
}

/// A call as a lane takes it: one whole message.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub target: Target<'a>,
    /// The body, the Dubbo frame or the raw bytes, in pieces that are sent one after the other.
    pub payload: &'a [&'a [u8]],
    /// The sidecar ends the call after this; so does the shim, a little later.
    pub timeout: Option<Duration>,
    /// Dubbo: no answer but "forwarded" is wanted.
    pub one_way: bool,
}

impl<'a> Call<'a> {
    /// A two-way call without a timeout.
    pub fn new(target: Target<'a>, payload: &'a [&'a [u8]]) -> Call<'a> {
        Call { target, payload, timeout: None, one_way: false }
    }
}

/// A call in flight on a lane. Never used again for another call of that lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
}

/// A complete answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The HTTP or Dubbo status; 0 for raw and for one-way calls.
    pub status: u16,
    /// HTTP: status line and headers in text, without framing headers, with the empty line. Empty otherwise.
    pub head: Vec<u8>,
    /// HTTP: the body. Dubbo: the whole frame. Raw: the bytes.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, in any case, without the white space around its value.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(header, _)| header.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The headers in their order, as they came.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }

    pub(crate) fn clear(&mut self) {
        self.status = 0;
        self.head.clear();
        self.body.clear();
    }
}

/// The end of a call: its answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub id: CallId,
    pub outcome: Result<Response, CallError>,
}

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Only what is there already.
    No,
    /// At most so long.
    For(Duration),
    /// Until there is one.
    Forever,
}

/// Why a call was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No slot, ring entry or block is free now: receive answers, then try again.
    #[error("the lane is full: receive answers first")]
    Full,
    #[error(transparent)]
    Failed(#[from] CallError),
}

/// A unary request, ready to be called.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) kind: RequestKind<'a>,
    pub(crate) timeout: Option<Duration>,
    twice: Twice,
    /// What the caller says.
    priority: Option<Priority>,
    pub(crate) flaw: Option<&'static str>,
}

/// Whether a call may be made twice, as far as is known without its route.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Twice {
    by_method: bool,
    by_caller: Option<bool>,
}

impl Twice {
    /// `by_route` is what its route says.
    pub fn is_harmless(self, by_route: Option<bool>) -> bool {
        self.by_caller.or(by_route).unwrap_or(self.by_method)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum RequestKind<'a> {
    /// The head without its empty line.
    Http {
        head: Vec<u8>,
        body: &'a [u8],
    },
    Dubbo {
        key: DubboKey<'a>,
        frame: &'a [u8],
    },
    Raw {
        cluster: &'a str,
        bytes: &'a [u8],
    },
}

/// Headers that the shim and the sidecar write themselves.
const FRAMING: [&str; 7] = ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "upgrade"];

impl<'a> Request<'a> {
    /// An HTTP request. `authority` is the host that routes match, with or without a port; `path` begins with `/`.
    /// Idempotent by its method (RFC 9110 §9.2.2).
    pub fn http(method: &str, authority: &str, path: &str) -> Request<'a> {
        let flaw = match () {
            () if method.is_empty() || !method.bytes().all(is_token) => Some("the method is not a token"),
            () if authority.is_empty() || !authority.bytes().all(is_visible) => {
                Some("the authority is empty or has white space or control characters in it")
            }
            () if !path.starts_with('/') && path != "*" => Some("the path does not begin with `/`"),
            () if !path.bytes().all(is_visible) => Some("the path has white space or control characters in it"),
            () => None,
        };
        let mut head = Vec::with_capacity(64 + method.len() + authority.len() + path.len());
        for piece in [method, " ", path, " HTTP/1.1\r\nHost: ", authority, "\r\n"] {
            head.extend_from_slice(piece.as_bytes());
        }
        let by_method = matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE");
        let of = RequestKind::Http { head, body: &[] };
        Request { twice: Twice { by_method, by_caller: None }, ..Request::new(of, flaw) }
    }

    /// A Dubbo2 request: `frame` is whole, with its header of 16 bytes; the answer's frame has the same id. One-way if the
    /// frame says so. Not idempotent unless [`Request::idempotent`] says so.
    pub fn dubbo(key: DubboKey<'a>, frame: &'a [u8]) -> Request<'a> {
        let flaw = (frame.len() < 16 || frame[..2] != [0xda, 0xbb]).then_some("not a Dubbo2 frame");
        Request::new(RequestKind::Dubbo { key, frame }, flaw)
    }

    /// Bytes to a cluster: sent, then the sending side is closed; the answer is what comes until the end.
    pub fn raw(cluster: &'a str, bytes: &'a [u8]) -> Request<'a> {
        Request::new(RequestKind::Raw { cluster, bytes }, None)
    }

    fn new(kind: RequestKind<'a>, flaw: Option<&'static str>) -> Request<'a> {
        Request { kind, timeout: None, twice: Twice::default(), priority: None, flaw }
    }

    /// HTTP: adds a header. Host and framing headers (Content-Length, Transfer-Encoding, Connection …) are left out: the
    /// sidecar writes them.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request<'a> {
        let value = value.as_ref();
        if name.is_empty() || !name.bytes().all(is_token) {
            self.flaw = Some("a header's name is not a token");
        } else if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            self.flaw = Some("a header's value has a line break or NUL in it");
        } else if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
            return self;
        } else if let RequestKind::Http { head, .. } = &mut self.kind {
            for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(piece);
            }
        }
        self
    }

    /// HTTP: the body.
    #[must_use]
    pub fn body(mut self, bytes: &'a [u8]) -> Request<'a> {
        if let RequestKind::Http { body, .. } = &mut self.kind {
            *body = bytes;
        }
        self
    }

    /// Fail after so long.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Request<'a> {
        self.timeout = Some(timeout);
        self
    }

    /// Whether making the call twice does no harm: then it is made again when it may have been lost. Counts more than what the
    /// route says (`idempotent`), which counts more than the method.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Request<'a> {
        self.twice.by_caller = Some(idempotent);
        self
    }

    /// Which calls go round the sidecar first while it has too much to do: low before default before high. Counts more than what
    /// the route says (`priority`). A call for which no other way is known goes through it in any case.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Request<'a> {
        self.priority = Some(priority);
        self
    }

    /// The priority; `by_route` is what its route says.
    pub(crate) fn priority_by(&self, by_route: Option<Priority>) -> Priority {
        self.priority.or(by_route).unwrap_or_default()
    }

    /// Whether the call may be made twice.
    pub(crate) fn twice(&self) -> Twice {
        self.twice
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self.kind {
            RequestKind::Http { .. } => Protocol::Http,
            RequestKind::Dubbo { .. } => Protocol::Dubbo2,
            RequestKind::Raw { .. } => Protocol::Raw,
        }
    }

    pub(crate) fn payload(&self) -> &'a [u8] {
        match self.kind {
            RequestKind::Http { body, .. } => body,
            RequestKind::Dubbo { frame, .. } => frame,
            RequestKind::Raw { bytes, .. } => bytes,
        }
    }

    /// Dubbo: the two-way bit of the frame's header is not set.
    pub(crate) fn is_one_way(&self) -> bool {
        matches!(self.kind, RequestKind::Dubbo { frame, .. } if frame.len() > 2 && frame[2] & 0x40 == 0)
    }

    /// Appends the routing key.
    pub(crate) fn write_key(&self, out: &mut Vec<u8>) {
        match &self.kind {
            RequestKind::Http { head, .. } => {
                out.extend_from_slice(head);
                out.extend_from_slice(b"\r\n");
            }
            RequestKind::Dubbo { key, .. } => key.encode(out),
            RequestKind::Raw { cluster, .. } => out.extend_from_slice(cluster.as_bytes()),
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_visible(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: &Request<'_>) -> String {
        let mut out = Vec::new();
        request.write_key(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_http_key_is_a_head_without_framing() {
        let request = Request::http("PUT", "reviews:9080", "/a?b=c")
            .header("x-trace", "1")
            .header("Content-Length", "7")
            .header("HOST", "other")
            .body(b"hello");
        assert_eq!(key(&request), "PUT /a?b=c HTTP/1.1\r\nHost: reviews:9080\r\nx-trace: 1\r\n\r\n");
        assert_eq!((request.payload(), request.twice().is_harmless(None), request.flaw), (&b"hello"[..], true, None));
        assert!(!request.twice().is_harmless(Some(false)));
        let post = Request::http("POST", "h", "/");
        assert_eq!((post.twice().is_harmless(None), post.twice().is_harmless(Some(true))), (false, true));
        assert!(!post.idempotent(false).twice().is_harmless(Some(true)), "who calls knows best");
    }

    #[test]
    fn what_could_smuggle_a_line_is_a_flaw() {
        for request in [
            Request::http("GET /x HTTP/1.1\r\nA:", "h", "/"),
            Request::http("", "h", "/"),
            Request::http("GET", "h\r\nX: y", "/"),
            Request::http("GET", "", "/"),
            Request::http("GET", "h", "/a b"),
            Request::http("GET", "h", "http://h/"),
            Request::http("GET", "h", "/").header("a:b", "c"),
            Request::http("GET", "h", "/").header("a", "c\r\nd: e"),
            Request::dubbo(DubboKey { service: "s", method: "m", group: None, version: None, tag: None }, b"short"),
        ] {
            assert!(request.flaw.is_some(), "{request:?}");
        }
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let head = b"HTTP/1.1 200 OK\r\nX-One: 1\r\nx-two:  two words \r\nx-one: again\r\n\r\n".to_vec();
        let response = Response { status: 200, head, body: Vec::new() };
        assert_eq!(response.header("x-one"), Some(&b"1"[..]));
        assert_eq!(response.header("X-TWO"), Some(&b"two words"[..]));
        assert_eq!(response.header("x-three"), None);
        assert_eq!(response.headers().count(), 3);
    }
}
