//! What requests and responses have in common: limits, header lines, how a body is framed.

use crate::span::Span;

/// Limits of one head. Reaching one is an error ([`super::HeadError::status`] 414 or 431), and
/// the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of a whole head with its final empty line; default 64 KiB.
    pub head_bytes: u32,
    /// Bytes of the request or status line with its CRLF; default 8 KiB.
    pub start_line_bytes: u32,
    /// Header lines of a head; default 128.
    pub headers: u16,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { head_bytes: 64 * 1024, start_line_bytes: 8 * 1024, headers: 128 }
    }
}

/// How far a head has come.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub enum Status {
    /// The whole head was there and is valid.
    Complete,
    /// What is there is valid so far; call again from the head's start when more has arrived.
    Partial,
}

/// Version of a message. A minor version above 1 counts as 1.1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// How the body that follows a head is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum BodyKind {
    /// No body, and no header that speaks of one.
    #[default]
    None,
    /// Exactly this many bytes; at most `i64::MAX`.
    Length(u64),
    Chunked,
    /// All bytes until the peer closes; responses only.
    UntilClose,
}

/// One header line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub name: Span,
    /// Without the white space around it.
    pub value: Span,
    pub kind: HeaderKind,
}

/// The headers that a proxy treats in some way of their own; names ignore case.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum HeaderKind {
    #[default]
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    Via,
    Expect,
    Date,
    MaxForwards,
    XRequestId,
    XForwardedFor,
    XForwardedProto,
}

impl HeaderKind {
    /// Kind of the header called `name`.
    #[inline]
    pub fn of(name: &[u8]) -> HeaderKind {
        use HeaderKind::*;
        // The length rules nearly everything out before any comparison.
        match name.len() {
            2 if is(name, b"te") => Te,
            3 if is(name, b"via") => Via,
            4 if is(name, b"host") => Host,
            4 if is(name, b"date") => Date,
            6 if is(name, b"expect") => Expect,
            7 if is(name, b"trailer") => Trailer,
            7 if is(name, b"upgrade") => Upgrade,
            10 if is(name, b"connection") => Connection,
            10 if is(name, b"keep-alive") => KeepAlive,
            12 if is(name, b"x-request-id") => XRequestId,
            12 if is(name, b"max-forwards") => MaxForwards,
            14 if is(name, b"content-length") => ContentLength,
            14 if is(name, b"http2-settings") => Http2Settings,
            15 if is(name, b"x-forwarded-for") => XForwardedFor,
            16 if is(name, b"proxy-connection") => ProxyConnection,
            17 if is(name, b"x-forwarded-proto") => XForwardedProto,
            17 if is(name, b"transfer-encoding") => TransferEncoding,
            _ => Other,
        }
    }
}

/// Whether a token is this one, which is in small letters: without a branch for each byte. No two bytes of tokens become the same by the bit
/// for small letters, but those of a letter.
#[inline]
fn is<const N: usize>(token: &[u8], small: &[u8; N]) -> bool {
    let Ok(token) = <&[u8; N]>::try_from(token) else { return false };
    token.iter().zip(small).fold(0, |differs, (byte, small)| differs | ((byte | 0x20) ^ small)) == 0
}

/// Value of the first header called `name` (any case).
pub(super) fn find<'a>(headers: &[Header], buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|header| header.name.of(buf).eq_ignore_ascii_case(name.as_bytes()))
        .map(|header| header.value.of(buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_ignore_case_and_take_no_neighbour() {
        use HeaderKind::*;
        let table = [
            ("Host", Host),
            ("Content-Length", ContentLength),
            ("Transfer-Encoding", TransferEncoding),
            ("Connection", Connection),
            ("Keep-Alive", KeepAlive),
            ("Proxy-Connection", ProxyConnection),
            ("TE", Te),
            ("Trailer", Trailer),
            ("Upgrade", Upgrade),
            ("HTTP2-Settings", Http2Settings),
            ("Via", Via),
            ("Expect", Expect),
            ("Date", Date),
            ("Max-Forwards", MaxForwards),
            ("X-Request-Id", XRequestId),
            ("X-Forwarded-For", XForwardedFor),
            ("X-Forwarded-Proto", XForwardedProto),
        ];
        for (name, kind) in table {
            assert_eq!(HeaderKind::of(name.as_bytes()), kind);
            assert_eq!(HeaderKind::of(name.to_lowercase().as_bytes()), kind);
            assert_eq!(HeaderKind::of(name.to_uppercase().as_bytes()), kind);
            assert_eq!(HeaderKind::of(format!("{name}s").as_bytes()), Other);
            assert_eq!(HeaderKind::of(format!("y{}", &name[1..]).as_bytes()), Other);
        }
        assert_eq!(HeaderKind::of(b""), Other);
    }
}
