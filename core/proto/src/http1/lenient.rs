//! What an operator may want tolerated in heads, by name. Each is put into the form that the RFC asks for, and what comes of it is
//! parsed by the same rules as everything else: so nothing that was mended can be read in two ways.

use super::error::HeadError;
use super::head::{HeadLimits, HeaderKind, Status};
use super::octets::{is_ows, list_elements, trim_ows};

/// Which flaws of a head are mended; none unless configured.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Lenient {
    /// A value that goes on in the next line, as one line (RFC 9112 §5.2). Not where it frames or routes the message.
    pub obs_fold: bool,
    /// A line that ends in LF alone (RFC 9112 §2.2).
    pub bare_lf: bool,
    /// Content-Length several times, or as a list, with one number in the same digits (RFC 9110 §8.6).
    pub repeated_content_length: bool,
    /// White space between a name and its colon, in answers (RFC 9112 §5.1).
    pub space_before_colon: bool,
}

/// A head as it should have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mended {
    pub bytes: Vec<u8>,
    /// Bytes of the head as it came.
    pub taken: usize,
}

impl Lenient {
    /// Parses the head at the start of `buf`; if it is refused, and its flaw may be mended, once more as it should have been.
    ///
    /// # Errors
    /// What `parse` says, of the mended head where there is one.
    pub fn parse(
        &self,
        buf: &[u8],
        limits: &HeadLimits,
        mut parse: impl FnMut(&[u8], &HeadLimits) -> Result<Status, HeadError>,
    ) -> Result<(Status, Option<Mended>), HeadError> {
        match parse(buf, limits) {
            Ok(status) => return Ok((status, None)),
            Err(flaw) if !self.tolerates(flaw) => return Err(flaw),
            Err(_) => {}
        }
        let limit = limits.head_bytes as usize;
        let mended = self.mend(&buf[..buf.len().min(limit)])?;
        // Longer by its mended line ends, it is not longer than it may be.
        let roomy = HeadLimits { head_bytes: u32::MAX, ..*limits };
        match parse(&mended.bytes, &roomy)? {
            Status::Complete => Ok((Status::Complete, Some(mended))),
            Status::Partial if buf.len() >= limit => Err(HeadError::HeadTooLarge),
            Status::Partial => Ok((Status::Partial, None)),
        }
    }

    fn tolerates(&self, flaw: HeadError) -> bool {
        match flaw {
            HeadError::ObsFold => self.obs_fold,
            HeadError::BareLf => self.bare_lf,
            HeadError::DuplicateContentLength | HeadError::BadContentLength => self.repeated_content_length,
            HeadError::SpaceBeforeColon => self.space_before_colon,
            _ => false,
        }
    }

    /// The head with its flaws mended, as far as its lines are complete. What is no flaw, or not to be mended, stays as it is.
    ///
    /// # Errors
    /// A line end that is none: lines cannot be told apart any more.
    fn mend(&self, buf: &[u8]) -> Result<Mended, HeadError> {
        let mut mending = Mending { out: Vec::with_capacity(buf.len() + buf.len() / 8), length: None, may_fold: false };
        let (mut at, mut lines) = (0, 0);
        while let Some(length) = buf[at..].iter().position(|byte| *byte == b'\n') {
            let line = &buf[at..at + length];
            at += length + 1;
            let line = match line.strip_suffix(b"\r") {
                Some(line) => line,
                None if self.bare_lf => line,
                None => return Err(HeadError::BareLf),
            };
            match lines {
                // An empty line in front of the first one.
                0 if line.is_empty() && at <= 2 => mending.put(&[]),
                0 => {
                    mending.put(line);
                    lines = 1;
                }
                _ if line.is_empty() => {
                    mending.put(&[]);
                    break;
                }
                _ => self.mend_header(line, &mut mending),
            }
        }
        Ok(Mended { bytes: mending.out, taken: at })
    }

    fn mend_header(&self, line: &[u8], mending: &mut Mending) {
        if line.first().copied().is_some_and(is_ows) {
            if self.obs_fold && mending.may_fold {
                mending.fold(trim_ows(line));
            } else {
                mending.put(line);
            }
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, rest) = line.split_at(colon);
        let name = if self.space_before_colon { trim_end(name) } else { name };
        let kind = HeaderKind::of(name);
        // These decide where a message ends or goes, or what its connection does.
        mending.may_fold = !matches!(
            kind,
            HeaderKind::Host
                | HeaderKind::ContentLength
                | HeaderKind::TransferEncoding
                | HeaderKind::Connection
                | HeaderKind::Upgrade
                | HeaderKind::Expect
                | HeaderKind::MaxForwards
        );
        if self.repeated_content_length
            && kind == HeaderKind::ContentLength
            && let Some(length) = one_number(rest)
        {
            if mending.length.as_deref() == Some(length) {
                return;
            }
            if mending.length.is_none() {
                mending.length = Some(length.to_vec());
                mending.put(&[name, b": ", length].concat());
                return;
            }
        }
        mending.put(&[name, rest].concat());
    }
}

/// A head while it is mended.
struct Mending {
    out: Vec<u8>,
    /// Digits of the first Content-Length.
    length: Option<Vec<u8>>,
    /// The last line may go on.
    may_fold: bool,
}

impl Mending {
    fn put(&mut self, line: &[u8]) {
        self.out.extend_from_slice(line);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Behind the last line, with one space between.
    fn fold(&mut self, text: &[u8]) {
        self.out.truncate(self.out.len() - b"\r\n".len());
        self.out.push(b' ');
        self.put(text);
    }
}

/// The number that `: 5` or `: 5, 5` comes to; `None` if it is not one.
fn one_number(rest: &[u8]) -> Option<&[u8]> {
    let value = trim_ows(rest.strip_prefix(b":")?);
    let first = list_elements(value).next()?;
    let same = value.split(|byte| *byte == b',').all(|element| trim_ows(element) == first);
    (same && first.iter().all(u8::is_ascii_digit)).then_some(first)
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [front @ .., last] = text
        && is_ows(*last)
    {
        text = front;
    }
    text
}
