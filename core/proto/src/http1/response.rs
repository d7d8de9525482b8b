//! The head of a response (RFC 9112 §4, §6.3).

use super::error::HeadError;
use super::fields::{Cursor, HeaderRules, Stop, header_lines, start_line, version_digits, within_limit};
use super::head::{BodyKind, HeadLimits, Header, HeaderKind, Status, Version, find};
use super::hop::HopFields;
use super::octets::{field_value_end, list_elements};
use crate::span::Span;

/// A response's head. It is scratch: parsing the next one reuses the vector. What it says holds
/// only after [`Status::Complete`], and only for the buffer that was parsed.
#[derive(Clone, Default, Debug)]
pub struct ResponseHead {
    /// Bytes of the whole head, its final CRLF included.
    pub len: u32,
    /// 100 to 999.
    pub status: u16,
    /// May be empty.
    pub reason: Span,
    pub version: Version,
    /// How the body is delimited. A 2xx to CONNECT starts a tunnel whatever stands here.
    pub body: BodyKind,
    /// Whether the connection may carry another request after this response's body.
    pub keep_alive: bool,
    /// A 101 that names a protocol: the connection stops being HTTP after this head.
    pub upgrade: bool,
    /// Content-Length as it was sent. To HEAD and in a 304 it tells of a body that does not follow.
    pub declared_length: Option<u64>,
    pub headers: Vec<Header>,
    /// No body follows whatever the headers say.
    pub(super) bodiless: bool,
    /// Some header is named by Connection and must be looked for when the head leaves.
    pub(super) connection_names_more: bool,
}

impl ResponseHead {
    /// Parses the head at the start of `buf`. `to_head`: the request was HEAD, so that no body
    /// follows whatever the headers say.
    ///
    /// An error is final and comes as early as the offending byte is there.
    pub fn parse(&mut self, buf: &[u8], limits: &HeadLimits, to_head: bool) -> Result<Status, HeadError> {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = ResponseHead { headers, ..ResponseHead::default() };
        within_limit(buf, limits.head_bytes, |buf| self.scan(buf, limits, to_head))
    }

    /// A 1xx: another response to the same request follows (save after a 101).
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Value of the first header called `name` (any case).
    pub fn header<'a>(&self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        find(&self.headers, buf, name)
    }

    /// Whether what this 101 switches to is among `offered`, the list that the client sent.
    pub fn switches_to_one_of(&self, buf: &[u8], offered: &[u8]) -> bool {
        let answered = self.headers.iter().filter(|header| header.kind == HeaderKind::Upgrade);
        let mut protocols = answered.flat_map(|header| list_elements(header.value.of(buf)));
        self.upgrade && protocols.all(|one| list_elements(offered).any(|other| other.eq_ignore_ascii_case(one)))
    }

    fn scan(&mut self, buf: &[u8], limits: &HeadLimits, to_head: bool) -> Result<(), Stop> {
        let mut cursor = Cursor { buf, at: 0 };
        start_line(&mut cursor, limits, |line| self.status_line(line))?;
        let mut hop = HopFields::new(self.version);
        header_lines(&mut cursor, limits, &mut self.headers, &mut hop)?;
        self.take(&hop, to_head)?;
        self.len = cursor.at as u32;
        Ok(())
    }

    fn status_line(&mut self, line: &mut Cursor<'_>) -> Result<(), Stop> {
        self.version = match version_digits(line)? {
            (1, 0) => Version::Http10,
            (1, _) => Version::Http11,
            _ => return Err(HeadError::UnsupportedVersion.into()),
        };
        if line.peek()? != b' ' {
            return Err(HeadError::BadVersion.into());
        }
        line.at += 1;
        for place in 0..3 {
            match line.peek()? {
                b'0' if place == 0 => return Err(HeadError::BadStatusCode.into()),
                digit @ b'0'..=b'9' => self.status = self.status * 10 + u16::from(digit - b'0'),
                _ => return Err(HeadError::BadStatusCode.into()),
            }
            line.at += 1;
        }
        // The space belongs there even if no phrase follows (§4), but many servers leave it out,
        // and nothing becomes ambiguous by that.
        match line.peek()? {
            b' ' => line.at += 1,
            b'\r' | b'\n' => {}
            _ => return Err(HeadError::BadStatusCode.into()),
        }
        let start = line.at;
        line.at = field_value_end(line.buf, start);
        self.reason = Span::new(start, line.at);
        line.line_end(HeadError::BadReasonPhrase)
    }

    fn take(&mut self, hop: &HopFields, to_head: bool) -> Result<(), HeadError> {
        let framing = hop.body()?;
        // RFC 9110 §8.6, RFC 9112 §6.1: these may not even declare a body.
        let undeclarable = self.status < 200 || self.status == 204;
        self.bodiless = to_head || undeclarable || self.status == 304;
        self.body = match framing {
            _ if self.bodiless => BodyKind::None,
            Some(framing) => framing,
            None => BodyKind::UntilClose,
        };
        let contradicts = undeclarable && !matches!(framing, None | Some(BodyKind::Length(0)));
        self.keep_alive = hop.keep_alive() && self.body != BodyKind::UntilClose && !contradicts;
        self.upgrade = self.status == 101 && hop.upgrade();
        self.declared_length = hop.declared_length();
        self.connection_names_more = hop.names_more();
        Ok(())
    }
}

impl HeaderRules for HopFields {
    fn name(&mut self, kind: HeaderKind) -> Result<(), HeadError> {
        HopFields::name(self, kind)
    }

    fn value_front(&self, kind: HeaderKind, front: &[u8]) -> Result<(), HeadError> {
        HopFields::value_front(self, kind, front)
    }

    fn value(&mut self, header: &Header, value: &[u8]) -> Result<(), HeadError> {
        HopFields::value(self, header.kind, value)
    }
}
