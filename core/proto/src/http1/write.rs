//! Heads and chunk framing as they leave (RFC 9110 §7.6; RFC 9112 §3.2, §6, §7.1).

use super::date::Date;
use super::head::{Header, HeaderKind, Version};
use super::octets::list_elements;
use super::request::{RequestHead, TargetForm};
use super::response::ResponseHead;

/// The interim answer that lets a client send its body (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What follows the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// How the body of a message that leaves is framed; framing is ours, never copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// No body. In a response the declared length of one that HEAD or 304 leaves out is kept.
    None,
    /// Exactly this many bytes follow.
    Length(u64),
    /// Not for a peer that speaks HTTP/1.0.
    Chunked,
    /// Responses only; goes with [`ConnectionOption::Close`].
    UntilClose,
    /// Whatever carries the message says where it ends: no header speaks of it. For heads in records, and for heads
    /// that [`end_head`] completes later. In a response the declared length of one that HEAD or 304 leaves out is kept.
    Unframed,
}

/// What the Connection header of a message that leaves says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionOption {
    /// The default of HTTP/1.1, so that no header is written; to an HTTP/1.0 peer one is.
    KeepAlive,
    Close,
    /// Passes the Upgrade header on, which is stripped otherwise.
    Upgrade,
}

#[derive(Clone, Copy, Debug)]
pub struct RequestOut<'a> {
    pub framing: Framing,
    pub connection: ConnectionOption,
    /// Replaces Host; else it is the head's authority (RFC 9112 §3.2.2).
    pub host: Option<&'a [u8]>,
    /// `x-request-id`, for a request that has none ([`RequestHead::request_id`]).
    pub request_id: Option<&'a [u8]>,
    /// Who sent the request, if it is to be told.
    pub remote: Option<Remote<'a>>,
}

/// Who sent a request: its address goes to the end of `x-forwarded-for` (a peer without one leaves that as it is), its
/// scheme is that of `x-forwarded-proto`.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    pub address: Option<&'a [u8]>,
    pub scheme: &'a str,
}

/// A head in a record, or one that [`end_head`] completes, and nothing added.
impl Default for RequestOut<'_> {
    fn default() -> Self {
        RequestOut {
            framing: Framing::Unframed,
            connection: ConnectionOption::KeepAlive,
            host: None,
            request_id: None,
            remote: None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ResponseOut<'a> {
    pub framing: Framing,
    pub connection: ConnectionOption,
    /// Version of the peer that gets it.
    pub version: Version,
    /// The Date of a final answer that has none (RFC 9110 §6.6.1).
    pub date: Option<&'a Date>,
}

/// A head in a record, and nothing added.
impl Default for ResponseOut<'_> {
    fn default() -> Self {
        ResponseOut {
            framing: Framing::Unframed,
            connection: ConnectionOption::KeepAlive,
            version: Version::Http11,
            date: None,
        }
    }
}

/// Appends the head of a request as it leaves: HTTP/1.1, origin-form target, Host first,
/// hop-by-hop headers and all that Connection names stripped, Via added, our framing.
///
/// `buf` is what `head` was parsed from.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], how: &RequestOut<'_>) {
    out.reserve(head.len as usize + OWN_LINES_BYTES);
    out.extend_from_slice(head.method.of(buf));
    out.push(b' ');
    write_target(out, head, buf);
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(how.host.unwrap_or(head.authority.of(buf)));
    out.extend_from_slice(b"\r\n");
    // A request cannot end by closing (RFC 9112 §6.3): chunked at least cannot be misread.
    debug_assert_ne!(how.framing, Framing::UntilClose);
    let framing = match how.framing {
        Framing::UntilClose => Framing::Chunked,
        framing => framing,
    };
    let hop = HopOut {
        framing,
        connection: how.connection,
        named_by: head.connection_names_more.then_some(&head.headers[..]),
        counted: head.max_forwards.is_some(),
        identified: how.request_id.is_some(),
        remote: how.remote,
    };
    write_end_to_end(out, &head.headers, buf, &hop);
    if let Some(id) = how.request_id {
        out.extend_from_slice(b"x-request-id: ");
        out.extend_from_slice(id);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(remote) = how.remote {
        write_forwarded(out, &head.headers, buf, &hop, &remote);
    }
    if let Some(forwards) = head.max_forwards {
        out.extend_from_slice(b"max-forwards: ");
        write_decimal(out, forwards.saturating_sub(1));
        out.extend_from_slice(b"\r\n");
    }
    write_framing(out, framing);
    match how.connection {
        ConnectionOption::KeepAlive => {}
        ConnectionOption::Close => out.extend_from_slice(b"connection: close\r\n"),
        ConnectionOption::Upgrade => out.extend_from_slice(b"connection: upgrade\r\n"),
    }
    write_via_and_end(out, head.version);
}

/// Appends the head of a response as it leaves; the status line says HTTP/1.1 to every peer
/// (RFC 9110 §2.5). `buf` is what `head` was parsed from.
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead, buf: &[u8], how: &ResponseOut<'_>) {
    debug_assert!(!(how.framing == Framing::Chunked && how.version == Version::Http10));
    out.reserve(head.len as usize + OWN_LINES_BYTES);
    write_status(out, head.status);
    out.extend_from_slice(head.reason.of(buf));
    out.extend_from_slice(b"\r\n");
    let hop = HopOut {
        framing: how.framing,
        connection: how.connection,
        named_by: head.connection_names_more.then_some(&head.headers[..]),
        counted: false,
        identified: false,
        remote: None,
    };
    let dated = write_end_to_end(out, &head.headers, buf, &hop);
    if !dated {
        write_date(out, how.date);
    }
    write_response_framing(out, head, how.framing);
    match (how.connection, how.version) {
        (ConnectionOption::KeepAlive, Version::Http11) => {}
        (ConnectionOption::KeepAlive, Version::Http10) => {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        (ConnectionOption::Close, _) => out.extend_from_slice(b"connection: close\r\n"),
        (ConnectionOption::Upgrade, _) => out.extend_from_slice(b"connection: upgrade\r\n"),
    }
    write_via_and_end(out, head.version);
}

/// The line in front of a chunk of `len` bytes, as (array, bytes used): `1f\r\n`. A length of 0
/// would end the body: that is [`write_last_chunk`]'s.
pub fn chunk_line(len: usize) -> ([u8; 18], usize) {
    debug_assert_ne!(len, 0);
    let mut line = [0u8; 18];
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1) as usize;
    for (place, byte) in line[..digits].iter_mut().rev().enumerate() {
        *byte = b"0123456789abcdef"[len >> (4 * place) & 0xf];
    }
    line[digits..digits + 2].copy_from_slice(b"\r\n");
    (line, digits + 2)
}

/// Appends the last chunk, the trailers (lines `name: value\r\n`, see
/// [`super::BodyReader::trailers`]) and the end of the body.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

/// Completes a head that was written as [`Framing::Unframed`] and lost its last CRLF.
pub fn end_head(out: &mut Vec<u8>, framing: Framing) {
    write_framing(out, framing);
    out.extend_from_slice(b"\r\n");
}

/// Room for the lines that are not in the head that came in.
const OWN_LINES_BYTES: usize = 128;

/// What decides which headers go on.
struct HopOut<'a> {
    framing: Framing,
    connection: ConnectionOption,
    /// The headers among which Connection names more than what is stripped anyway.
    named_by: Option<&'a [Header]>,
    /// Max-Forwards is counted down, and written anew.
    counted: bool,
    /// It is given an id, so one that it has says nothing.
    identified: bool,
    remote: Option<Remote<'a>>,
}

impl HopOut<'_> {
    /// RFC 9110 §7.6.1.
    fn keeps(&self, header: &Header, buf: &[u8]) -> bool {
        let keeps = match header.kind {
            // Written anew, from what was understood.
            HeaderKind::Host | HeaderKind::ContentLength | HeaderKind::TransferEncoding => false,
            HeaderKind::Connection
            | HeaderKind::KeepAlive
            | HeaderKind::ProxyConnection
            | HeaderKind::Te
            | HeaderKind::Http2Settings => false,
            HeaderKind::Upgrade => return self.connection == ConnectionOption::Upgrade,
            // Announces what only chunked framing carries.
            HeaderKind::Trailer => self.framing == Framing::Chunked,
            // Without content there is nothing to continue with (RFC 9110 §10.1.1).
            HeaderKind::Expect => self.framing != Framing::None,
            HeaderKind::XForwardedFor => self.remote.is_none_or(|remote| remote.address.is_none()),
            HeaderKind::XForwardedProto => self.remote.is_none(),
            HeaderKind::MaxForwards => !self.counted,
            HeaderKind::XRequestId => !self.identified,
            HeaderKind::Via | HeaderKind::Date | HeaderKind::Other => true,
        };
        keeps && !self.names(header, buf)
    }

    fn names(&self, header: &Header, buf: &[u8]) -> bool {
        self.named_by.is_some_and(|headers| connection_names(headers, buf, header.name.of(buf)))
    }
}

/// Whether some Connection header names `name`.
pub(super) fn connection_names(headers: &[Header], buf: &[u8], name: &[u8]) -> bool {
    headers
        .iter()
        .filter(|header| header.kind == HeaderKind::Connection)
        .flat_map(|connection| list_elements(connection.value.of(buf)))
        .any(|option| option.eq_ignore_ascii_case(name))
}

fn write_target(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8]) {
    let path = head.path.of(buf);
    match (head.form, path.first()) {
        (TargetForm::Authority, _) => out.extend_from_slice(head.target.of(buf)),
        // OPTIONS for the server as a whole (RFC 9112 §3.2.4).
        (TargetForm::Absolute, None) if head.method.of(buf) == b"OPTIONS" => out.push(b'*'),
        (_, None) => out.push(b'/'),
        (_, Some(b'?')) => {
            out.push(b'/');
            out.extend_from_slice(path);
        }
        (_, Some(_)) => out.extend_from_slice(path),
    }
}

/// Copies the headers that are kept, neighbours in one go; whether Date was among them.
fn write_end_to_end(out: &mut Vec<u8>, headers: &[Header], buf: &[u8], hop: &HopOut<'_>) -> bool {
    let mut dated = false;
    // What is to be copied next: from the start of a name to the end of a value.
    let mut run: Option<(usize, usize)> = None;
    for header in headers {
        if !hop.keeps(header, buf) {
            continue;
        }
        dated |= header.kind == HeaderKind::Date;
        let (start, end) = (header.name.start as usize, header.value.end as usize);
        run = match run {
            Some((first, last)) if start == last + 2 && buf[last..start] == *b"\r\n" => Some((first, end)),
            other => {
                write_run(out, buf, other);
                Some((start, end))
            }
        };
    }
    write_run(out, buf, run);
    dated
}

/// One line with what came and the peer's address behind it, as many readers look at one line only.
fn write_forwarded(out: &mut Vec<u8>, headers: &[Header], buf: &[u8], hop: &HopOut<'_>, remote: &Remote<'_>) {
    if let Some(address) = remote.address {
        out.extend_from_slice(b"x-forwarded-for: ");
        for header in headers.iter().filter(|header| header.kind == HeaderKind::XForwardedFor) {
            let value = header.value.of(buf);
            if !value.is_empty() && !hop.names(header, buf) {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(address);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"x-forwarded-proto: ");
    out.extend_from_slice(remote.scheme.as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_date(out: &mut Vec<u8>, date: Option<&Date>) {
    if let Some(date) = date {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn write_run(out: &mut Vec<u8>, buf: &[u8], run: Option<(usize, usize)>) {
    if let Some((start, end)) = run {
        out.extend_from_slice(&buf[start..end]);
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose | Framing::Unframed => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

/// RFC 9110 §8.6, RFC 9112 §6.1: an interim response and a 204 declare nothing; where no body
/// follows although there is one, its length stays known; any other response says that it is empty.
fn write_response_framing(out: &mut Vec<u8>, head: &ResponseHead, framing: Framing) {
    let framing = match framing {
        _ if head.is_interim() || head.status == 204 => Framing::None,
        Framing::None | Framing::Unframed if head.bodiless => {
            head.declared_length.map_or(Framing::None, Framing::Length)
        }
        Framing::None => Framing::Length(0),
        framing => framing,
    };
    write_framing(out, framing);
}

/// The received protocol's version, and who passes it on (RFC 9110 §7.6.3).
fn write_via_and_end(out: &mut Vec<u8>, received: Version) {
    out.extend_from_slice(match received {
        Version::Http10 => b"via: 1.0 shmesh\r\n\r\n",
        Version::Http11 => b"via: 1.1 shmesh\r\n\r\n",
    });
}

pub(super) fn write_status(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
}

fn write_decimal(out: &mut Vec<u8>, mut value: u64) {
    // A u64 has at most 20 digits.
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}
