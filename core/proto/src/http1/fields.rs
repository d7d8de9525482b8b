//! The header lines of a head, scanned once from front to back (RFC 9112 §5).

use super::error::HeadError;
use super::head::{HeadLimits, Header, HeaderKind, Status};
use super::octets::{field_value_end, is_ows, is_token};
use crate::span::Span;

/// Why a scan ended before the end of what it scans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The bytes ran out; nothing is wrong with them.
    Partial,
    Bad(HeadError),
}

impl From<HeadError> for Stop {
    fn from(error: HeadError) -> Stop {
        Stop::Bad(error)
    }
}

/// What a kind of message demands of its headers. Each is asked as soon as its part of a line
/// is there, so that a bad head is refused at the offending byte and not at the head's end.
pub(super) trait HeaderRules {
    /// The name and its colon have been seen.
    fn name(&mut self, kind: HeaderKind) -> Result<(), HeadError>;
    /// Only `front` of the value, without white space around it, has been seen so far.
    fn value_front(&self, kind: HeaderKind, front: &[u8]) -> Result<(), HeadError>;
    /// The line is complete.
    fn value(&mut self, header: &Header, value: &[u8]) -> Result<(), HeadError>;
}

/// A place in the bytes of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) buf: &'a [u8],
    pub(super) at: usize,
}

impl Cursor<'_> {
    #[inline]
    pub(super) fn peek(&self) -> Result<u8, Stop> {
        self.buf.get(self.at).copied().ok_or(Stop::Partial)
    }

    /// Takes CRLF; any other byte than CR or LF in its place is `otherwise`.
    #[inline]
    pub(super) fn line_end(&mut self, otherwise: HeadError) -> Result<(), Stop> {
        match self.peek()? {
            b'\r' => self.at += 1,
            b'\n' => return Err(HeadError::BareLf.into()),
            _ => return Err(otherwise.into()),
        }
        if self.peek()? != b'\n' {
            return Err(HeadError::BareCr.into());
        }
        self.at += 1;
        Ok(())
    }
}

/// Runs `scan` over as much of `buf` as a head may have. What `scan` leaves open when the limit
/// is reached can never become a valid head.
pub(super) fn within_limit(
    buf: &[u8],
    limit_bytes: u32,
    scan: impl FnOnce(&[u8]) -> Result<(), Stop>,
) -> Result<Status, HeadError> {
    let limit = limit_bytes as usize;
    match scan(&buf[..buf.len().min(limit)]) {
        Ok(()) => Ok(Status::Complete),
        Err(Stop::Partial) if buf.len() >= limit => Err(HeadError::HeadTooLarge),
        Err(Stop::Partial) => Ok(Status::Partial),
        Err(Stop::Bad(error)) => Err(error),
    }
}

/// Runs `scan` over the start line at the cursor, and not past the limit of its length.
pub(super) fn start_line<T>(
    cursor: &mut Cursor<'_>,
    limits: &HeadLimits,
    scan: impl FnOnce(&mut Cursor<'_>) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let limit = cursor.at.saturating_add(limits.start_line_bytes as usize);
    let mut line = Cursor { buf: &cursor.buf[..cursor.buf.len().min(limit)], at: cursor.at };
    match scan(&mut line) {
        Ok(value) => {
            cursor.at = line.at;
            Ok(value)
        }
        Err(Stop::Partial) if line.buf.len() == limit => Err(HeadError::StartLineTooLong.into()),
        Err(stop) => Err(stop),
    }
}

/// Takes `HTTP/` DIGIT `.` DIGIT (RFC 9112 §2.3); returns major and minor.
pub(super) fn version_digits(cursor: &mut Cursor<'_>) -> Result<(u8, u8), Stop> {
    // What nearly all have, in one comparison.
    if cursor.buf[cursor.at..].starts_with(b"HTTP/1.1") {
        cursor.at += 8;
        return Ok((1, 1));
    }
    for expected in *b"HTTP/" {
        if cursor.peek()? != expected {
            return Err(HeadError::BadVersion.into());
        }
        cursor.at += 1;
    }
    let mut digit = || match cursor.peek()? {
        digit @ b'0'..=b'9' => {
            cursor.at += 1;
            Ok(digit - b'0')
        }
        _ => Err(Stop::Bad(HeadError::BadVersion)),
    };
    let major = digit()?;
    if cursor.peek()? != b'.' {
        return Err(HeadError::BadVersion.into());
    }
    cursor.at += 1;
    let minor = match cursor.peek()? {
        digit @ b'0'..=b'9' => digit - b'0',
        _ => return Err(HeadError::BadVersion.into()),
    };
    cursor.at += 1;
    Ok((major, minor))
}

/// Takes all header lines and the empty line after them. Lines are pushed to `headers` as they
/// complete.
pub(super) fn header_lines(
    cursor: &mut Cursor<'_>,
    limits: &HeadLimits,
    headers: &mut Vec<Header>,
    rules: &mut impl HeaderRules,
) -> Result<(), Stop> {
    loop {
        match cursor.peek()? {
            b'\r' | b'\n' => return cursor.line_end(HeadError::BareCr),
            byte if is_ows(byte) && headers.is_empty() => {
                return Err(HeadError::LeadingWhitespace.into());
            }
            byte if is_ows(byte) => return Err(HeadError::ObsFold.into()),
            _ => {}
        }
        if headers.len() >= usize::from(limits.headers) {
            return Err(HeadError::TooManyHeaders.into());
        }
        let name = name_and_colon(cursor)?;
        let kind = HeaderKind::of(name.of(cursor.buf));
        rules.name(kind)?;
        let value = value_and_line_end(cursor, |front| rules.value_front(kind, front))?;
        let header = Header { name, value, kind };
        rules.value(&header, value.of(cursor.buf))?;
        headers.push(header);
    }
}

#[inline]
fn name_and_colon(cursor: &mut Cursor<'_>) -> Result<Span, Stop> {
    let start = cursor.at;
    let length = cursor.buf[start..].iter().position(|byte| !is_token(*byte));
    let Some(length) = length else {
        return Err(Stop::Partial);
    };
    let name = Span::new(start, start + length);
    cursor.at = start + length + 1;
    match cursor.buf[start + length] {
        b':' if length > 0 => Ok(name),
        b' ' | b'\t' => Err(HeadError::SpaceBeforeColon.into()),
        b'\n' => Err(HeadError::BareLf.into()),
        _ => Err(HeadError::BadHeaderName.into()),
    }
}

#[inline]
fn value_and_line_end(
    cursor: &mut Cursor<'_>,
    front_is_good: impl FnOnce(&[u8]) -> Result<(), HeadError>,
) -> Result<Span, Stop> {
    let buf = cursor.buf;
    let mut start = cursor.at;
    while buf.get(start).copied().is_some_and(is_ows) {
        start += 1;
    }
    let stop = field_value_end(buf, start);
    let mut end = stop;
    while end > start && is_ows(buf[end - 1]) {
        end -= 1;
    }
    cursor.at = stop;
    match cursor.line_end(HeadError::BadHeaderValue) {
        Ok(()) => Ok(Span::new(start, end)),
        Err(Stop::Partial) => {
            front_is_good(&buf[start..end])?;
            Err(Stop::Partial)
        }
        Err(stop) => Err(stop),
    }
}
