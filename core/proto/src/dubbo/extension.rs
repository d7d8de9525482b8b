//! The routing key in front of a request's body, between sidecars that agreed on it: docs/spec/dubbo-ext-v1.md.
//!
//! Such a frame has the serialization id [`EXTENSION`]. Its body starts with a header that says how the rest is written,
//! and what the call is routed by; the rest is the body as its caller wrote it.

use super::event::Event;
use super::header::{FrameHeader, HEADER_LEN};
use super::serialization::{EXTENSION, HESSIAN2};
use super::write::{frame, write_event};
use super::{hessian, status};

/// Limit of an extension header in bytes. A key that does not fit is not sent; the frame goes as it is then.
pub const EXTENSION_BYTES_MAX: usize = 4096;

/// The version of the page that this is written from.
pub const EXTENSION_VERSION: u8 = 1;

/// In front of an offer's request id, "shmesh"; the version that is offered follows in two bytes.
const OFFER: u64 = 0x7368_6d65_7368_0000;

/// In front of the version, in the body of an answer to an offer. At most 15 bytes in all, as Dubbo Java reads no longer
/// event (`AbstractSerializingExchangeCodec`, `deserialization.event.size`).
const AGREED: &str = "shmesh-ext";

/// No value starts so in hessian2, which reserves it; and with fastjson2 it starts a length beyond every limit.
const FIRST_BYTE: u8 = 0x40;

/// Bytes in front of the fields.
const FIELDS_AT: usize = 6;

const SERVICE: u8 = 1;
const METHOD: u8 = 2;
const GROUP: u8 = 3;
const VERSION: u8 = 4;
const TAG: u8 = 5;
const ATTACHMENT: u8 = 6;
const NO_ATTACHMENT: u8 = 7;

/// What an extension header says. Texts are those of the body, byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// How the rest of the body is written.
    pub serialization: u8,
    pub service: &'a [u8],
    pub method: &'a [u8],
    /// `None`: the call has none.
    pub version: Option<&'a [u8]>,
    /// `None` does not say; empty: the call has none.
    pub group: Option<&'a [u8]>,
    /// As `group`.
    pub tag: Option<&'a [u8]>,
    /// All fields, well-formed.
    fields: &'a [u8],
}

/// What an extension header says of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// Nothing.
    Nothing,
    /// The call does not have it.
    Absent,
    /// Its text.
    Is(&'a [u8]),
}

/// Why the body of a frame with serialization [`EXTENSION`] has no good extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    #[error("the body does not start with an extension header of version {EXTENSION_VERSION}")]
    Start,
    #[error("the extension header is said to have {0} bytes")]
    Length(usize),
    #[error("the rest of the body is said to be in serialization {0}")]
    Serialization(u8),
    #[error("a field of the extension header runs past its end")]
    Short,
    #[error("field {0} of the extension header is there twice")]
    Twice(u8),
    #[error("the extension header names no service or no method")]
    Missing,
}

impl<'a> Extension<'a> {
    /// Reads the header in front of `body`; gives also how many bytes it has.
    ///
    /// # Errors
    /// See [`ExtensionError`]: the request is malformed.
    pub fn parse(body: &'a [u8]) -> Result<(Extension<'a>, usize), ExtensionError> {
        let Some(&[FIRST_BYTE, EXTENSION_VERSION, high, low, serialization, 0]) = body.first_chunk() else {
            return Err(ExtensionError::Start);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(FIELDS_AT..=EXTENSION_BYTES_MAX).contains(&len) || len > body.len() {
            return Err(ExtensionError::Length(len));
        }
        if serialization == 0 || serialization >= EXTENSION {
            return Err(ExtensionError::Serialization(serialization));
        }
        let fields = &body[FIELDS_AT..len];
        let mut known = [None; TAG as usize];
        let mut rest = Fields(fields);
        for field in &mut rest {
            let (tag, value) = field;
            match tag {
                SERVICE..=TAG if known[usize::from(tag) - 1].replace(value).is_some() => {
                    return Err(ExtensionError::Twice(tag));
                }
                ATTACHMENT | NO_ATTACHMENT => {
                    named(value).ok_or(ExtensionError::Short)?;
                }
                _ => {}
            }
        }
        if !rest.0.is_empty() {
            return Err(ExtensionError::Short);
        }
        let [service, method, group, version, tag] = known;
        let filled = |field: Option<&'a [u8]>| field.filter(|text| !text.is_empty());
        let extension = Extension {
            serialization,
            service: filled(service).ok_or(ExtensionError::Missing)?,
            method: filled(method).ok_or(ExtensionError::Missing)?,
            version: filled(version),
            group,
            tag,
            fields,
        };
        Ok((extension, len))
    }

    /// What it says of an attachment; of a name that comes twice the first one counts.
    pub fn attachment(&self, name: &str) -> Said<'a> {
        for (tag, value) in Fields(self.fields) {
            if !matches!(tag, ATTACHMENT | NO_ATTACHMENT) {
                continue;
            }
            if let Some((known, text)) = named(value)
                && known == name.as_bytes()
            {
                return if tag == ATTACHMENT { Said::Is(text) } else { Said::Absent };
            }
        }
        Said::Nothing
    }
}

/// Writes an extension header, field by field.
#[derive(Debug)]
pub struct ExtensionWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    fits: bool,
}

impl<'a> ExtensionWriter<'a> {
    /// Begins a header behind what is in `out`, for a call whose body is in `serialization`.
    pub fn new(out: &'a mut Vec<u8>, serialization: u8, service: &[u8], method: &[u8]) -> ExtensionWriter<'a> {
        let start = out.len();
        out.extend([FIRST_BYTE, EXTENSION_VERSION, 0, 0, serialization, 0]);
        let mut writer = ExtensionWriter { out, start, fits: serialization != 0 && serialization < EXTENSION };
        writer.field(SERVICE, &[service]);
        writer.field(METHOD, &[method]);
        writer.fits &= !service.is_empty() && !method.is_empty();
        writer
    }

    /// The service version, if the call has one.
    pub fn version(&mut self, version: &[u8]) {
        self.field(VERSION, &[version]);
    }

    /// The group; empty: the call has none.
    pub fn group(&mut self, group: &[u8]) {
        self.field(GROUP, &[group]);
    }

    /// The tag; empty: the call has none.
    pub fn tag(&mut self, tag: &[u8]) {
        self.field(TAG, &[tag]);
    }

    /// An attachment, and its text if the call has it.
    pub fn attachment(&mut self, name: &str, text: Option<&[u8]>) {
        let Ok(name_len) = u8::try_from(name.len()) else { return };
        let tag = if text.is_some() { ATTACHMENT } else { NO_ATTACHMENT };
        self.field(tag, &[&[name_len], name.as_bytes(), text.unwrap_or_default()]);
    }

    /// Ends the header. False: it would be too long, or not one that is read; then nothing is written.
    pub fn finish(self) -> bool {
        let len = self.out.len() - self.start;
        if !self.fits {
            self.out.truncate(self.start);
            return false;
        }
        self.out[self.start + 2..self.start + 4].copy_from_slice(&(len as u16).to_be_bytes());
        true
    }

    fn field(&mut self, tag: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.fits &= self.out.len() - self.start + 3 + len <= EXTENSION_BYTES_MAX;
        if self.fits {
            self.out.push(tag);
            self.out.extend((len as u16).to_be_bytes());
            parts.iter().for_each(|part| self.out.extend_from_slice(part));
        }
    }
}

/// Writes an offer: a heartbeat like any other, but for its id.
pub fn write_extension_offer(out: &mut Vec<u8>) {
    write_event(out, OFFER | u64::from(EXTENSION_VERSION), HESSIAN2, Event::Heartbeat);
}

/// Whether this is an offer, or the answer to one, by its header.
pub fn is_of_extension_offer(header: &FrameHeader) -> bool {
    header.is_heartbeat() && header.id & !0xffff == OFFER && header.id != OFFER
}

/// Writes the answer to an offer: all versions from 1 to the one that it names.
pub fn write_extension_answer(out: &mut Vec<u8>, offer: &FrameHeader) {
    let version = u64::from(EXTENSION_VERSION).min(offer.id & 0xffff);
    let header = offer.answer(true, status::OK, HESSIAN2);
    frame(out, header, |out| hessian::write_text(out, &format!("{AGREED}{version}")));
}

/// Whether the answer to an offer agrees to it. Whoever does not know of offers answers as to any heartbeat.
pub fn agrees_to_extension(header: &FrameHeader, body: &[u8]) -> bool {
    let mut text = Vec::with_capacity(HEADER_LEN);
    hessian::write_text(&mut text, &format!("{AGREED}{EXTENSION_VERSION}"));
    is_of_extension_offer(header)
        && !header.request
        && header.status == status::OK
        && header.serialization == HESSIAN2
        && body == text
}

/// Takes fields apart; what remains when it ends is no field.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, high, low], rest) = self.0.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.0 = rest;
        Some((tag, value))
    }
}

/// The name and the text of an attachment.
fn named(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = value.split_first()?;
    rest.split_at_checked(usize::from(len))
}
