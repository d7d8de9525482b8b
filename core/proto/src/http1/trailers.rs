//! The trailer section after the last chunk (RFC 9112 §7.1.2, RFC 9110 §6.5).

use super::error::BodyError;
use super::octets::{is_field_value, is_ows, is_token};

/// Bytes of a trailer section as it arrives, its final CRLF included.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Trailers that are dropped: what frames, routes, authenticates, modifies a request, describes
/// the content or concerns one hop has to be known before the body (RFC 9110 §6.5.1), and nothing
/// that a trailer says may reach a header.
const DROPPED: [&[u8]; 34] = [
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"http2-settings",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"keep-alive",
    b"location",
    b"max-forwards",
    b"pragma",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"vary",
    b"via",
    b"www-authenticate",
    b"x-forwarded-for",
];

/// Takes a trailer section byte by byte. Trailers are rare and short; no bytes, no allocation.
#[derive(Clone, Default, Debug)]
pub(super) struct TrailerSection {
    /// Lines that were kept, each `name: value\r\n`; the one being read comes last.
    lines: Vec<u8>,
    line_start: usize,
    /// Where the value of the line being read starts.
    value_start: usize,
    received_bytes: usize,
    place: Place,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Place {
    #[default]
    LineStart,
    Name,
    BeforeValue,
    Value,
    LineFeed,
    FinalLineFeed,
}

/// What a section knew of its bytes, for another process to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrailerRest {
    pub lines: Vec<u8>,
    pub line_start: usize,
    pub value_start: usize,
    pub received_bytes: usize,
    pub place: u32,
}

const PLACES: [Place; 6] =
    [Place::LineStart, Place::Name, Place::BeforeValue, Place::Value, Place::LineFeed, Place::FinalLineFeed];

impl TrailerSection {
    pub(super) fn rest(&self) -> TrailerRest {
        TrailerRest {
            lines: self.lines.clone(),
            line_start: self.line_start,
            // That of a line that was dropped means nothing.
            value_start: self.value_start.min(self.lines.len()),
            received_bytes: self.received_bytes,
            place: self.place as u32,
        }
    }

    pub(super) fn go_on(rest: &TrailerRest) -> Option<TrailerSection> {
        let len = rest.lines.len();
        let place = *PLACES.get(rest.place as usize)?;
        let inside = rest.line_start <= len && rest.value_start <= len && rest.received_bytes <= TRAILER_BYTES_MAX;
        inside.then(|| TrailerSection {
            lines: rest.lines.clone(),
            line_start: rest.line_start,
            value_start: rest.value_start,
            received_bytes: rest.received_bytes,
            place,
        })
    }

    /// Takes one byte; `true` when it was the section's last.
    pub(super) fn take(&mut self, byte: u8) -> Result<bool, BodyError> {
        self.received_bytes += 1;
        if self.received_bytes > TRAILER_BYTES_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        self.place = match (self.place, byte) {
            (Place::LineStart, b'\r') => Place::FinalLineFeed,
            (Place::LineStart | Place::Name, _) if is_token(byte) => {
                self.lines.push(byte);
                Place::Name
            }
            (Place::Name, b':') => {
                self.lines.extend_from_slice(b": ");
                self.value_start = self.lines.len();
                Place::BeforeValue
            }
            (Place::BeforeValue, _) if is_ows(byte) => Place::BeforeValue,
            (Place::BeforeValue | Place::Value, b'\r') => Place::LineFeed,
            (Place::BeforeValue | Place::Value, _) if is_field_value(byte) => {
                self.lines.push(byte);
                Place::Value
            }
            (Place::LineFeed, b'\n') => {
                self.end_line();
                Place::LineStart
            }
            (Place::FinalLineFeed, b'\n') => return Ok(true),
            (Place::LineFeed | Place::FinalLineFeed, _) | (_, b'\n') => {
                return Err(BodyError::BadLineEnd);
            }
            _ => return Err(BodyError::BadTrailer),
        };
        Ok(false)
    }

    /// The lines that were kept. Only complete once the section is.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines[..self.line_start]
    }

    fn end_line(&mut self) {
        while self.lines.len() > self.value_start && self.lines.last().copied().is_some_and(is_ows) {
            self.lines.pop();
        }
        let name = &self.lines[self.line_start..self.value_start - b": ".len()];
        if DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) {
            self.lines.truncate(self.line_start);
        } else {
            self.lines.extend_from_slice(b"\r\n");
            self.line_start = self.lines.len();
        }
    }
}
