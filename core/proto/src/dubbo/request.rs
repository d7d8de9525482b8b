//! What routing reads of a request body: the strings in front, and if it must, the attachments behind.

use super::cursor::Cursor;
use super::flaw::{Flaw, PeekError, SkipError};
use super::hessian::{self, Text};
use super::hessian_walker::Walker;
use super::jsonb_walker::Entry;
use super::serialization::{COMPACTED_JAVA, FASTJSON2, FST, HESSIAN2, JAVA, KRYO, NATIVE_JAVA, PROTOSTUFF};
use super::{jsonb, jsonb_walker, strings};
use crate::Span;

/// Limit of what lies in front of the arguments, in bytes: as much as a sidecar has to buffer before it can route.
pub const PEEK_BYTES_MAX: u32 = 64 * 1024;

/// How many arguments a call may have: the limit that the JVM puts on methods.
pub const ARGUMENTS_MAX: u32 = 255;

/// What routing needs of a request body, as ranges of its [`texts`](Peek::texts).
///
/// The texts are UTF-8 (but for fastjson2 and protostuff, surrogate pairs take two times three bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Version of the protocol, "2.0.2" of every Dubbo since 2.6.3. Empty if it is null.
    pub dubbo_version: Span,
    /// The service's path, most often its interface.
    pub path: Span,
    /// The service's version; `None` for null. See [`service_version`].
    pub version: Option<Span>,
    pub method: Span,
    /// The parameter types in JVM form, one behind the other.
    pub descriptor: Span,
    /// Where the arguments start; means something in hessian2 and fastjson2 only.
    pub(super) arguments_at: u32,
    /// The texts where they do not lie in the body as they are.
    decoded: Vec<u8>,
}

impl Peek {
    /// Where the ranges lie: in the body that was peeked, or in a copy where the serialization writes texts in a form
    /// of its own.
    pub fn texts<'a>(&'a self, body: &'a [u8]) -> &'a [u8] {
        if self.decoded.is_empty() { body } else { &self.decoded }
    }

    /// How many bytes of the body the strings take; `None` where the serialization writes them in a form of its own. Each
    /// says where it ends, so any body that begins with these bytes is peeked in the same way.
    pub fn front_len(&self) -> Option<usize> {
        self.decoded.is_empty().then_some(self.arguments_at as usize)
    }
}

/// The outcome of a peek.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeekOutcome {
    Done(Peek),
    /// The bytes end before the arguments start; come again with more.
    NeedMore,
}

/// Reads the strings in front of the arguments, in the order of `DubboCodec.encodeRequestData`.
///
/// `body` may be the front of a body; `complete` says that it is all of it, so that running out is an error.
///
/// # Errors
/// The body is malformed, or written in a serialization that is not read here.
pub fn peek_request(serialization: u8, body: &[u8], complete: bool) -> Result<PeekOutcome, PeekError> {
    let max = PEEK_BYTES_MAX;
    let front = &body[..body.len().min(max as usize)];
    let peeked = match serialization {
        HESSIAN2 => peek(front, |cursor, _| hessian_text(cursor)),
        FASTJSON2 => peek(front, |cursor, _| jsonb_text(front, cursor)),
        JAVA | COMPACTED_JAVA => peek_java(front, strings::java_text),
        NATIVE_JAVA => peek_java(front, strings::native_java_text),
        KRYO => peek(front, strings::kryo_text),
        FST => peek(front, strings::fst_text),
        PROTOSTUFF => peek(front, |cursor, _| strings::protostuff_text(cursor)),
        other => return Err(PeekError::UnknownSerialization(other)),
    };
    match peeked {
        Ok(peek) => Ok(PeekOutcome::Done(peek)),
        Err(PeekError::Field { flaw: Flaw::End, .. }) if front.len() < body.len() || front.len() == max as usize => {
            Err(PeekError::TooLong { max })
        }
        Err(PeekError::Field { flaw: Flaw::End, .. }) if !complete => Ok(PeekOutcome::NeedMore),
        Err(error) => Err(error),
    }
}

/// The service version of a request, if it has one: null, "" and "0.0.0" (what Java sends when none is set) are none.
pub fn service_version<'a>(peek: &'a Peek, body: &'a [u8]) -> Option<&'a [u8]> {
    match peek.version?.of(peek.texts(body)) {
        b"" | b"0.0.0" => None,
        version => Some(version),
    }
}

/// Looks for one attachment. See [`attachments`].
///
/// # Errors
/// See [`attachments`].
pub fn attachment(serialization: u8, body: &[u8], peek: &Peek, key: &str) -> Result<Option<Span>, SkipError> {
    let mut value = [None];
    attachments(serialization, body, peek, &[key], &mut value)?;
    Ok(value[0])
}

/// Looks for several attachments in one walk over the arguments of a whole body.
///
/// Puts the ranges of their values, UTF-8 as it lies, to the places of their keys; `None` for what is absent, null, or no
/// text. Of a key that comes twice the last one counts, as it does when Java reads the map. Every key of the map is compared
/// with all of `keys`, so there should be few.
///
/// # Errors
/// An argument or the map is malformed or beyond the limits, or the serialization is not read here.
pub fn attachments<K: AsRef<str>>(
    serialization: u8,
    body: &[u8],
    peek: &Peek,
    keys: &[K],
    values: &mut [Option<Span>],
) -> Result<(), SkipError> {
    values.fill(None);
    let count = argument_count(peek.descriptor.of(peek.texts(body)))?;
    let mut cursor = Cursor::new(body, peek.arguments_at);
    match serialization {
        HESSIAN2 => {
            let mut walker = Walker::new();
            for index in 0..count {
                walker.skip(&mut cursor).map_err(|flaw| SkipError::Argument { index, flaw })?;
            }
            hessian_attachments(body, cursor, &mut walker, keys, values)
        }
        FASTJSON2 => {
            for index in 0..count {
                jsonb::field(&mut cursor).map_err(|flaw| SkipError::Argument { index, flaw })?;
            }
            jsonb_attachments(body, cursor, keys, values)
        }
        other => return Err(SkipError::UnknownSerialization(other)),
    }
    .map_err(|flaw| SkipError::Attachments { flaw })
}

/// The range of the first argument as it is encoded, so that an echo can copy it into a response: it is the first
/// value of the body, so it refers to nothing in front of it. With fastjson2 its length is part of it.
///
/// # Errors
/// There is no argument, it is malformed, or the serialization is not read here.
pub fn first_argument(serialization: u8, body: &[u8], peek: &Peek) -> Result<Span, SkipError> {
    if argument_count(peek.descriptor.of(peek.texts(body)))? == 0 {
        return Err(SkipError::NoArgument);
    }
    let mut cursor = Cursor::new(body, peek.arguments_at);
    let start = cursor.at();
    match serialization {
        HESSIAN2 => Walker::new().skip(&mut cursor),
        FASTJSON2 => jsonb::field(&mut cursor).map(|_| ()),
        other => return Err(SkipError::UnknownSerialization(other)),
    }
    .map_err(|flaw| SkipError::Argument { index: 0, flaw })?;
    let end = cursor.at();
    Ok(Span { start, end })
}

/// `text` reads one text, `None` for null; what it decodes it appends.
fn peek(
    body: &[u8],
    text: impl Fn(&mut Cursor<'_>, &mut Vec<u8>) -> Result<Option<Span>, Flaw>,
) -> Result<Peek, PeekError> {
    let mut cursor = Cursor::new(body, 0);
    let mut decoded = Vec::new();
    let mut next = |field| {
        text(&mut cursor, &mut decoded).map_err(|flaw| PeekError::Field { field, flaw }).map(|span| (field, span))
    };
    let given = |(field, span): (_, Option<Span>)| span.ok_or(PeekError::Null { field });
    let (_, dubbo_version) = next("protocol version")?;
    let path = given(next("path")?)?;
    let (_, version) = next("service version")?;
    let method = given(next("method")?)?;
    let descriptor = given(next("parameter descriptor")?)?;
    Ok(Peek {
        dubbo_version: dubbo_version.unwrap_or_default(),
        path,
        version,
        method,
        descriptor,
        arguments_at: cursor.at(),
        decoded,
    })
}

fn peek_java(body: &[u8], text: impl Fn(&mut Cursor<'_>) -> Result<Option<Span>, Flaw>) -> Result<Peek, PeekError> {
    let mut blocks = Vec::new();
    let ended =
        strings::java_blocks(body, &mut blocks).map_err(|flaw| PeekError::Field { field: "protocol version", flaw })?;
    let mut peek = peek(&blocks, |cursor, _| text(cursor)).map_err(|error| match error {
        // More bytes would not mend it.
        PeekError::Field { field, flaw: Flaw::End } if ended => {
            PeekError::Field { field, flaw: Flaw::Short { at: blocks.len() as u32 } }
        }
        error => error,
    })?;
    peek.decoded = blocks;
    Ok(peek)
}

fn hessian_text(cursor: &mut Cursor<'_>) -> Result<Option<Span>, Flaw> {
    let at = cursor.at();
    match hessian::text(cursor)? {
        Text::Null => Ok(None),
        Text::Whole(span) => Ok(Some(span)),
        Text::Chunked => Err(Flaw::Chunked { at }),
    }
}

fn jsonb_text(body: &[u8], cursor: &mut Cursor<'_>) -> Result<Option<Span>, Flaw> {
    match jsonb::text_field(cursor)? {
        None => Ok(None),
        Some(text) => text.comparable(body).map(Some),
    }
}

/// Counts the types of a descriptor such as `ILjava/lang/String;[J`.
fn argument_count(descriptor: &[u8]) -> Result<u32, SkipError> {
    let mut count = 0;
    let mut rest = descriptor.iter();
    while let Some(&first) = rest.next() {
        let mut kind = first;
        while kind == b'[' {
            kind = *rest.next().ok_or(SkipError::Descriptor)?;
        }
        match kind {
            b'B' | b'C' | b'D' | b'F' | b'I' | b'J' | b'S' | b'Z' => {}
            b'L' => {
                rest.find(|byte| **byte == b';').ok_or(SkipError::Descriptor)?;
            }
            _ => return Err(SkipError::Descriptor),
        }
        count += 1;
        if count > ARGUMENTS_MAX {
            return Err(SkipError::TooManyArguments { max: ARGUMENTS_MAX });
        }
    }
    Ok(count)
}

fn hessian_attachments<K: AsRef<str>>(
    body: &[u8],
    mut cursor: Cursor<'_>,
    walker: &mut Walker,
    keys: &[K],
    values: &mut [Option<Span>],
) -> Result<(), Flaw> {
    let cursor = &mut cursor;
    let at = cursor.at();
    match cursor.byte()? {
        hessian::NULL => return Ok(()),
        hessian::UNTYPED_MAP => {}
        hessian::TYPED_MAP => hessian::type_name(cursor)?,
        tag => {
            let expected = "a map";
            return Err(Flaw::Tag { at, tag, expected });
        }
    }
    while cursor.peek()? != hessian::END {
        let mut wanted = None;
        if hessian::is_text(cursor.peek()?) {
            let at = cursor.at();
            match hessian::text(cursor)? {
                Text::Whole(key) => wanted = keys.iter().position(|k| k.as_ref().as_bytes() == key.of(body)),
                Text::Chunked => return Err(Flaw::Chunked { at }),
                Text::Null => {}
            }
        } else {
            walker.skip(cursor)?;
        }
        match wanted {
            Some(index) if hessian::is_text(cursor.peek()?) => {
                values[index] = hessian_text(cursor)?;
            }
            Some(index) => {
                values[index] = None;
                walker.skip(cursor)?;
            }
            None => walker.skip(cursor)?,
        }
    }
    Ok(())
}

fn jsonb_attachments<K: AsRef<str>>(
    body: &[u8],
    mut cursor: Cursor<'_>,
    keys: &[K],
    values: &mut [Option<Span>],
) -> Result<(), Flaw> {
    let Some(mut entries) = jsonb_walker::Entries::open(jsonb::field(&mut cursor)?)? else {
        return Ok(());
    };
    while let Some(Entry { key, value }) = entries.next()? {
        let says = |wanted: &K| key.is_some_and(|key| key.says(body, wanted.as_ref()));
        if let Some(index) = keys.iter().position(says) {
            values[index] = value.map(|text| text.comparable(body)).transpose()?;
        }
    }
    Ok(())
}
