//! The head of a request (RFC 9112 §3; RFC 9110 §7.1, §9).

use super::authority::{authority_parts, may_become_authority};
use super::error::HeadError;
use super::fields::{Cursor, HeaderRules, Stop, header_lines, start_line, version_digits, within_limit};
use super::head::{BodyKind, HeadLimits, Header, HeaderKind, Status, Version, find};
use super::hop::HopFields;
use super::octets::{is_token, list_elements, target_end};
use super::write::connection_names;
use crate::span::Span;

/// Bytes of a method; the longest registered one has 17.
pub const METHOD_BYTES_MAX: usize = 64;

/// Form of a request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum TargetForm {
    #[default]
    Origin,
    Absolute,
    /// Of CONNECT only.
    Authority,
    /// Of OPTIONS only.
    Asterisk,
}

/// A request's head. It is scratch: parsing the next one reuses the vector. What it says holds
/// only after [`Status::Complete`], and only for the buffer that was parsed.
#[derive(Clone, Default, Debug)]
pub struct RequestHead {
    /// Bytes of the whole head, an empty line in front and its final CRLF included.
    pub len: u32,
    pub method: Span,
    pub target: Span,
    pub version: Version,
    pub form: TargetForm,
    /// `host[:port]` as sent: of an absolute target or CONNECT's, else of Host. Valid, or empty if
    /// an HTTP/1.0 request has none.
    pub authority: Span,
    /// Path and query. For an absolute target it may be empty or start with `?`: then a `/`
    /// belongs in front. `*` stays `*`; CONNECT has none.
    pub path: Span,
    pub body: BodyKind,
    /// Whether the connection may serve another request after this one.
    pub keep_alive: bool,
    /// The client waits for a 100 before it sends the body.
    pub expect_continue: bool,
    /// `Connection: upgrade` with an Upgrade header, in HTTP/1.1. An offer of `h2c` does not count.
    pub upgrade: bool,
    /// Max-Forwards of OPTIONS and TRACE (RFC 9110 §7.6.2); at 0 the request goes no further.
    pub max_forwards: Option<u64>,
    pub headers: Vec<Header>,
    /// Some header is named by Connection and must be looked for when the head leaves.
    pub(super) connection_names_more: bool,
}

impl RequestHead {
    /// Parses the head at the start of `buf`.
    ///
    /// An error is final and comes as early as the offending byte is there; the head need not be
    /// complete. One CRLF in front of the request line is skipped (RFC 9112 §2.2).
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Status, HeadError> {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = RequestHead { headers, ..RequestHead::default() };
        within_limit(buf, limits.head_bytes, |buf| self.scan(buf, limits))
    }

    /// Whether doing it twice is as good as once (RFC 9110 §9.2.2); unknown methods are not.
    pub fn is_idempotent(&self, buf: &[u8]) -> bool {
        matches!(self.method.of(buf), b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
    }

    pub fn is_head(&self, buf: &[u8]) -> bool {
        self.method.of(buf) == b"HEAD"
    }

    pub fn is_connect(&self, buf: &[u8]) -> bool {
        self.method.of(buf) == b"CONNECT"
    }

    /// What all Upgrade headers together offer, as one list.
    pub fn upgrade_protocols(&self, buf: &[u8]) -> Vec<u8> {
        let headers = self.headers.iter().filter(|header| header.kind == HeaderKind::Upgrade);
        headers.flat_map(|header| list_elements(header.value.of(buf))).collect::<Vec<_>>().join(&b", "[..])
    }

    /// The first `x-request-id` that is handed on; an empty one is none.
    pub fn request_id<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let named = self.connection_names_more && connection_names(&self.headers, buf, b"x-request-id");
        let mut headers = self.headers.iter().filter(|header| header.kind == HeaderKind::XRequestId && !named);
        headers.next().map(|header| header.value.of(buf)).filter(|id| !id.is_empty())
    }

    /// Value of the first header called `name` (any case).
    pub fn header<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        find(&self.headers, buf, name)
    }

    fn scan(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<(), Stop> {
        let mut cursor = Cursor { buf, at: 0 };
        if let b'\r' | b'\n' = cursor.peek()? {
            cursor.line_end(HeadError::BareCr)?;
        }
        start_line(&mut cursor, limits, |line| self.request_line(line))?;
        let mut rules = RequestRules {
            hop: HopFields::new(self.version),
            host: None,
            host_named: false,
            expect_continue: false,
            counted: matches!(self.method.of(buf), b"OPTIONS" | b"TRACE"),
            max_forwards: None,
        };
        header_lines(&mut cursor, limits, &mut self.headers, &mut rules)?;
        self.take(&rules)?;
        self.len = cursor.at as u32;
        Ok(())
    }

    fn request_line(&mut self, line: &mut Cursor<'_>) -> Result<(), Stop> {
        self.method = method_and_space(line)?;
        self.target = target_and_space(line)?;
        let (method, target) = (self.method.of(line.buf), self.target.of(line.buf));
        // The HTTP/2 preface begins like a request (RFC 9113 §3.4).
        let preface = method == b"PRI" && target == b"*";
        if !preface {
            let parts = target_parts(method, target)?;
            let offset = self.target.start as usize;
            let span = |(start, end)| Span::new(offset + start, offset + end);
            self.form = parts.form;
            self.authority = span(parts.authority);
            self.path = span(parts.path);
        }
        match version_digits(line)? {
            (2, 0) if preface => return Err(HeadError::Http2PriorKnowledge.into()),
            _ if preface => return Err(HeadError::BadTargetForm.into()),
            (1, 0) => self.version = Version::Http10,
            (1, _) => self.version = Version::Http11,
            _ => return Err(HeadError::UnsupportedVersion.into()),
        }
        line.line_end(HeadError::BadVersion)
    }

    fn take(&mut self, rules: &RequestRules) -> Result<(), HeadError> {
        if rules.host.is_none() && self.version == Version::Http11 {
            return Err(HeadError::MissingHost);
        }
        if matches!(self.form, TargetForm::Origin | TargetForm::Asterisk) {
            self.authority = rules.host.unwrap_or_default();
        }
        self.body = rules.hop.body()?.unwrap_or(BodyKind::None);
        self.keep_alive = rules.hop.keep_alive();
        // RFC 9110 §10.1.1: the expectation of an HTTP/1.0 request is ignored.
        self.expect_continue = rules.expect_continue && self.version == Version::Http11;
        self.upgrade = rules.hop.upgrade();
        self.max_forwards = rules.max_forwards;
        self.connection_names_more = rules.hop.names_more();
        Ok(())
    }
}

/// Rules for the headers of a request: those of the connection, and Host (RFC 9112 §3.2).
struct RequestRules {
    hop: HopFields,
    host: Option<Span>,
    host_named: bool,
    expect_continue: bool,
    /// The method is one of those whose forwards are counted.
    counted: bool,
    max_forwards: Option<u64>,
}

impl HeaderRules for RequestRules {
    fn name(&mut self, kind: HeaderKind) -> Result<(), HeadError> {
        if kind == HeaderKind::Host {
            if self.host_named {
                return Err(HeadError::DuplicateHost);
            }
            self.host_named = true;
        }
        self.hop.name(kind)
    }

    fn value_front(&self, kind: HeaderKind, front: &[u8]) -> Result<(), HeadError> {
        if kind == HeaderKind::Host && !may_become_authority(front) {
            return Err(HeadError::BadHost);
        }
        self.hop.value_front(kind, front)
    }

    fn value(&mut self, header: &Header, value: &[u8]) -> Result<(), HeadError> {
        match header.kind {
            HeaderKind::Host => {
                authority_parts(value).ok_or(HeadError::BadHost)?;
                self.host = Some(header.value);
            }
            HeaderKind::Expect => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
            HeaderKind::MaxForwards if self.counted => {
                if self.max_forwards.is_some() {
                    return Err(HeadError::BadMaxForwards);
                }
                self.max_forwards = Some(max_forwards(value)?);
            }
            _ => {}
        }
        self.hop.value(header.kind, value)
    }
}

/// `1*DIGIT`; more than fits counts as what fits, as no request is forwarded so often.
fn max_forwards(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::BadMaxForwards);
    }
    let digits = value.iter().map(|digit| u64::from(digit - b'0'));
    Ok(digits.fold(0, |count: u64, digit| count.saturating_mul(10).saturating_add(digit)))
}

fn method_and_space(line: &mut Cursor<'_>) -> Result<Span, Stop> {
    let start = line.at;
    loop {
        match line.peek()? {
            // RFC 9112 §3: longer than any that is served means not implemented.
            byte if is_token(byte) && line.at - start >= METHOD_BYTES_MAX => {
                return Err(HeadError::MethodTooLong.into());
            }
            byte if is_token(byte) => line.at += 1,
            b' ' if line.at > start => break,
            _ => return Err(HeadError::BadMethod.into()),
        }
    }
    line.at += 1;
    Ok(Span::new(start, line.at - 1))
}

fn target_and_space(line: &mut Cursor<'_>) -> Result<Span, Stop> {
    let start = line.at;
    line.at = target_end(line.buf, start);
    match line.peek()? {
        b' ' if line.at > start => {}
        b'\r' | b'\n' if line.at > start => return Err(HeadError::MissingVersion.into()),
        _ => return Err(HeadError::BadTarget.into()),
    }
    line.at += 1;
    Ok(Span::new(start, line.at - 1))
}

/// Where in a target its parts lie, as (start, end).
struct TargetParts {
    form: TargetForm,
    authority: (usize, usize),
    path: (usize, usize),
}

fn target_parts(method: &[u8], target: &[u8]) -> Result<TargetParts, HeadError> {
    const NOWHERE: (usize, usize) = (0, 0);
    let whole = (0, target.len());
    let (form, authority, path) = match (method, target) {
        // RFC 9110 §9.3.6: both host and port, and the port is a number.
        (b"CONNECT", _) => match authority_parts(target) {
            Some((_, Some(port))) if port != 0 => (TargetForm::Authority, whole, NOWHERE),
            _ => return Err(HeadError::BadTargetForm),
        },
        (_, [b'/', ..]) => (TargetForm::Origin, NOWHERE, whole),
        (b"OPTIONS", b"*") => (TargetForm::Asterisk, NOWHERE, whole),
        _ => {
            let start = absolute_authority_start(target)?;
            let length = target[start..].iter().position(|byte| matches!(byte, b'/' | b'?'));
            let end = length.map_or(target.len(), |length| start + length);
            authority_parts(&target[start..end]).ok_or(HeadError::BadAuthority)?;
            (TargetForm::Absolute, (start, end), (end, target.len()))
        }
    };
    Ok(TargetParts { form, authority, path })
}

/// Where the authority of an absolute-form target starts. Only http: an https target on an
/// unsecured connection is not to be served (RFC 9110 §7.4).
fn absolute_authority_start(target: &[u8]) -> Result<usize, HeadError> {
    const HTTP: &[u8] = b"http://";
    let front = &target[..target.len().min(HTTP.len())];
    if front.eq_ignore_ascii_case(HTTP) {
        return Ok(HTTP.len());
    }
    let scheme_len = target.iter().position(|byte| *byte == b':').unwrap_or(0);
    let (scheme, rest) = target.split_at(scheme_len);
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    if is_scheme && rest.starts_with(b"://") {
        Err(HeadError::UnsupportedScheme)
    } else {
        Err(HeadError::BadTargetForm)
    }
}
