//! What a head says about its own connection and framing (RFC 9112 §6, §9; RFC 9110 §7.6.1, §7.8).

use super::error::HeadError;
use super::head::{BodyKind, HeaderKind, Version};
use super::octets::{is_token_text, list_elements, trim_ows};

/// Options that the Connection headers of one head may list together. Every header's name is
/// compared with every option when a head is written, so that this bounds the product.
pub const CONNECTION_OPTIONS_MAX: u16 = 32;

/// Digits of a Content-Length, leading zeros included: what `i64::MAX` has.
const LENGTH_DIGITS_MAX: usize = 19;

/// Gathered while the header lines pass by.
#[derive(Clone, Copy, Debug)]
pub(super) struct HopFields {
    version: Version,
    content_length: ContentLength,
    codings: Codings,
    connection_options: u16,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    upgrade_field: bool,
    upgrade_h2c: bool,
    /// Connection names at least one header that is not hop-by-hop by itself.
    names_more: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ContentLength {
    Absent,
    /// Its name has been seen, its value not yet.
    Named,
    Is(u64),
}

/// What the elements of Transfer-Encoding come to, over all its lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Codings {
    Absent,
    /// The header is there, no coding in it yet.
    Empty,
    Chunked,
    Unknown,
    UnknownThenChunked,
}

impl HopFields {
    pub(super) fn new(version: Version) -> HopFields {
        HopFields {
            version,
            content_length: ContentLength::Absent,
            codings: Codings::Absent,
            connection_options: 0,
            close: false,
            keep_alive: false,
            upgrade_option: false,
            upgrade_field: false,
            upgrade_h2c: false,
            names_more: false,
        }
    }

    pub(super) fn name(&mut self, kind: HeaderKind) -> Result<(), HeadError> {
        match kind {
            HeaderKind::ContentLength if self.content_length != ContentLength::Absent => {
                Err(HeadError::DuplicateContentLength)
            }
            HeaderKind::ContentLength if self.codings != Codings::Absent => Err(HeadError::LengthAndTransferEncoding),
            HeaderKind::ContentLength => {
                self.content_length = ContentLength::Named;
                Ok(())
            }
            HeaderKind::TransferEncoding if self.content_length != ContentLength::Absent => {
                Err(HeadError::LengthAndTransferEncoding)
            }
            HeaderKind::TransferEncoding if self.version == Version::Http10 => Err(HeadError::TransferEncodingInHttp10),
            HeaderKind::TransferEncoding if self.codings == Codings::Absent => {
                self.codings = Codings::Empty;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn value_front(&self, kind: HeaderKind, front: &[u8]) -> Result<(), HeadError> {
        match kind {
            HeaderKind::ContentLength if !front.is_empty() => content_length(front).map(|_| ()),
            _ => Ok(()),
        }
    }

    pub(super) fn value(&mut self, kind: HeaderKind, value: &[u8]) -> Result<(), HeadError> {
        match kind {
            HeaderKind::ContentLength => {
                self.content_length = ContentLength::Is(content_length(value)?);
            }
            HeaderKind::TransferEncoding => {
                for coding in list_elements(value) {
                    self.codings = self.codings.followed_by(coding)?;
                }
            }
            HeaderKind::Connection => self.connection(value)?,
            // HTTP/2 in the clear would be a tunnel that nothing here can look into.
            HeaderKind::Upgrade => {
                for protocol in list_elements(value) {
                    self.upgrade_field = true;
                    self.upgrade_h2c |= protocol.eq_ignore_ascii_case(b"h2c");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), HeadError> {
        // Empty elements count too: they are compared as well.
        for option in value.split(|byte| *byte == b',').map(trim_ows) {
            self.connection_options += 1;
            if self.connection_options > CONNECTION_OPTIONS_MAX {
                return Err(HeadError::TooManyConnectionOptions);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade_option = true;
            } else if is_token_text(option) {
                self.names_more = true;
            } else if !option.is_empty() {
                // Not an option at all: whatever it was meant to say, do not rely on this connection.
                self.close = true;
            }
        }
        Ok(())
    }

    /// Body as the framing headers tell it; `None` when there are none of them.
    pub(super) fn body(&self) -> Result<Option<BodyKind>, HeadError> {
        match self.codings {
            Codings::Absent => Ok(self.declared_length().map(BodyKind::Length)),
            Codings::Chunked => Ok(Some(BodyKind::Chunked)),
            // RFC 9112 §6.3 rule 4.3 goes before §6.1's 501.
            Codings::Empty | Codings::Unknown => Err(HeadError::BadTransferEncoding),
            Codings::UnknownThenChunked => Err(HeadError::UnknownTransferCoding),
        }
    }

    pub(super) fn declared_length(&self) -> Option<u64> {
        match self.content_length {
            ContentLength::Is(length) => Some(length),
            ContentLength::Absent | ContentLength::Named => None,
        }
    }

    /// RFC 9112 §9.3: `close` wins, 1.1 persists, 1.0 only when it asks to.
    pub(super) fn keep_alive(&self) -> bool {
        !self.close && (self.version == Version::Http11 || self.keep_alive)
    }

    /// An Upgrade that Connection names, in a version that has Upgrade (RFC 9110 §7.8).
    pub(super) fn upgrade(&self) -> bool {
        self.upgrade_option && self.upgrade_field && !self.upgrade_h2c && self.version == Version::Http11
    }

    pub(super) fn names_more(&self) -> bool {
        self.names_more
    }
}

impl Codings {
    fn followed_by(self, coding: &[u8]) -> Result<Codings, HeadError> {
        let name_len = coding.iter().position(|byte| b"; \t".contains(byte));
        let name = &coding[..name_len.unwrap_or(coding.len())];
        if !is_token_text(name) {
            return Err(HeadError::BadTransferEncoding);
        }
        let chunked = name.eq_ignore_ascii_case(b"chunked");
        match (self, chunked) {
            // `chunked` takes no parameters (RFC 9112 §7.1).
            (_, true) if name.len() != coding.len() => Err(HeadError::BadTransferEncoding),
            (Codings::Absent | Codings::Empty, true) => Ok(Codings::Chunked),
            (Codings::Unknown, true) => Ok(Codings::UnknownThenChunked),
            (Codings::Absent | Codings::Empty | Codings::Unknown, false) => Ok(Codings::Unknown),
            // Chunked twice, or something after it.
            (Codings::Chunked | Codings::UnknownThenChunked, _) => Err(HeadError::BadTransferEncoding),
        }
    }
}

/// `1*DIGIT` and nothing else (RFC 9110 §8.6); a list of equal numbers is refused as well.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX {
        return Err(HeadError::BadContentLength);
    }
    let mut length = 0u64;
    for byte in value {
        if !byte.is_ascii_digit() {
            return Err(HeadError::BadContentLength);
        }
        // Nineteen digits fit in a u64.
        length = length * 10 + u64::from(byte - b'0');
    }
    if length > i64::MAX as u64 {
        return Err(HeadError::BadContentLength);
    }
    Ok(length)
}
