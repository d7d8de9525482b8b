//! Reads responses for a person at a terminal and for shmesh's own clients; a proxy only moves them.

use super::cursor::Cursor;
use super::flaw::{Flaw, ReplyError};
use super::header::FrameHeader;
use super::hessian_walker::Walker;
use super::jsonb_walker::Entry;
use super::serialization::{FASTJSON2, HESSIAN2};
use super::write::{RESULT_EXCEPTION, RESULT_NULL, RESULT_VALUE, RESULT_WITH_ATTACHMENTS};
use super::{hessian, jsonb, jsonb_walker, status};

/// Field of `java.lang.Throwable` that holds its message.
const MESSAGE_FIELD: &[u8] = b"detailMessage";

/// What a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The text of a string, a number or truth value in digits or letters, and of anything else a short description
    /// in angle brackets.
    Value(String),
    Null,
    /// The method threw: class and message, or as much of these as can be seen.
    Exception(String),
    /// The call did not reach the method's end: a status other than OK, and what was said about it.
    Error {
        status: u8,
        sentence: String,
    },
}

/// Reads the body of a response.
///
/// # Errors
/// It is malformed, no response to a call, or in a serialization that is not read here.
pub fn read_reply(header: &FrameHeader, body: &[u8]) -> Result<Reply, ReplyError> {
    if header.request || header.event {
        return Err(ReplyError::NotAnAnswer);
    }
    let mut cursor = Cursor::new(body, 0);
    match header.serialization {
        HESSIAN2 => read_hessian(header.status, body, &mut cursor),
        FASTJSON2 => read_jsonb(header.status, body, &mut cursor),
        other => Err(ReplyError::UnknownSerialization(other)),
    }
}

fn read_hessian(status: u8, body: &[u8], cursor: &mut Cursor<'_>) -> Result<Reply, ReplyError> {
    if status != status::OK {
        let sentence = hessian_text(body, cursor)?.unwrap_or_default();
        return Ok(Reply::Error { status, sentence });
    }
    Ok(match result_kind(hessian::int(cursor)?)? {
        RESULT_VALUE => hessian_value(body, cursor)?,
        RESULT_NULL => Reply::Null,
        _ => Reply::Exception(match hessian_exception(body, *cursor) {
            Some(exception) => exception,
            None => short_form(cursor, "hessian2", |cursor| Walker::new().skip(cursor))?,
        }),
    })
}

fn read_jsonb(status: u8, body: &[u8], cursor: &mut Cursor<'_>) -> Result<Reply, ReplyError> {
    if status != status::OK {
        let sentence = jsonb::text_field(cursor)?.map(|text| text.decode(body));
        let sentence = sentence.unwrap_or_default();
        return Ok(Reply::Error { status, sentence });
    }
    let mut kind = jsonb::field(cursor)?;
    let kind = match kind.peek()? {
        jsonb::INT8 => i32::from(kind.array::<2>()?[1]),
        _ => jsonb::int(&mut kind)?,
    };
    Ok(match result_kind(kind)? {
        RESULT_VALUE => jsonb_value(body, &mut jsonb::field(cursor)?)?,
        RESULT_NULL => Reply::Null,
        _ => {
            let mut document = jsonb::field(cursor)?;
            Reply::Exception(match jsonb_exception(body, document) {
                Some(exception) => exception,
                None => short_form(&mut document, "fastjson2", jsonb_walker::skip)?,
            })
        }
    })
}

/// The kind of a result, whether or not attachments follow it.
fn result_kind(kind: i32) -> Result<i32, ReplyError> {
    match kind {
        RESULT_EXCEPTION..=RESULT_NULL => Ok(kind),
        3..=5 => Ok(kind - RESULT_WITH_ATTACHMENTS),
        _ => Err(ReplyError::ResultKind(kind)),
    }
}

fn short_form(
    cursor: &mut Cursor<'_>,
    serialization: &str,
    skip: impl FnOnce(&mut Cursor<'_>) -> Result<(), Flaw>,
) -> Result<String, Flaw> {
    let start = cursor.at();
    skip(cursor)?;
    Ok(format!("<{serialization} value, {} bytes>", cursor.at() - start))
}

fn hessian_value(body: &[u8], cursor: &mut Cursor<'_>) -> Result<Reply, Flaw> {
    let tag = cursor.peek()?;
    let value = match tag {
        hessian::NULL => return Ok(Reply::Null),
        b'T' => "true".to_owned(),
        b'F' => "false".to_owned(),
        _ if hessian::is_text(tag) => hessian_text(body, cursor)?.unwrap_or_default(),
        _ if hessian::is_int(tag) => hessian::int(cursor)?.to_string(),
        _ if hessian::is_long(tag) => hessian::long(cursor)?.to_string(),
        _ => short_form(cursor, "hessian2", |cursor| Walker::new().skip(cursor))?,
    };
    Ok(Reply::Value(value))
}

fn jsonb_value(body: &[u8], cursor: &mut Cursor<'_>) -> Result<Reply, Flaw> {
    let tag = cursor.peek()?;
    let value = match tag {
        jsonb::NULL => return Ok(Reply::Null),
        jsonb::FALSE => "false".to_owned(),
        jsonb::TRUE => "true".to_owned(),
        _ if jsonb::is_text(tag) => jsonb::text(cursor)?.decode(body),
        _ if jsonb::is_long(tag) => jsonb::long(cursor)?.to_string(),
        _ => short_form(cursor, "fastjson2", jsonb_walker::skip)?,
    };
    Ok(Reply::Value(value))
}

/// A text or null, decoded.
fn hessian_text(body: &[u8], cursor: &mut Cursor<'_>) -> Result<Option<String>, Flaw> {
    if cursor.peek()? == hessian::NULL {
        cursor.skip(1)?;
        return Ok(None);
    }
    let mut bytes = Vec::new();
    hessian::chunks(cursor, |chunk| bytes.extend(chunk.of(body)))?;
    Ok(Some(hessian::decode_text(bytes)))
}

/// Class and message of an object with its definition in front of it, as a serialized `Throwable` is.
fn hessian_exception(body: &[u8], mut cursor: Cursor<'_>) -> Option<String> {
    let cursor = &mut cursor;
    if cursor.byte().ok()? != b'C' {
        return None;
    }
    let class = hessian_text(body, cursor).ok()??;
    let message = hessian_message(body, cursor).ok().flatten();
    Some(exception(class, message))
}

/// The message of a `Throwable` whose class definition goes on behind its name.
fn hessian_message(body: &[u8], cursor: &mut Cursor<'_>) -> Result<Option<String>, Flaw> {
    let mut walker = Walker::new();
    let mut message_field = None;
    walker.define(cursor, |index, name| {
        if name.of(body) == MESSAGE_FIELD {
            message_field = Some(index);
        }
    })?;
    let Some(message_field) = message_field else {
        return Ok(None);
    };
    match cursor.byte()? {
        0x60 => {}
        b'O' if hessian::int(cursor)? == 0 => {}
        _ => return Ok(None),
    }
    for _ in 0..message_field {
        walker.skip(cursor)?;
    }
    hessian_text(body, cursor)
}

/// Class and message of a typed object.
fn jsonb_exception(body: &[u8], mut cursor: Cursor<'_>) -> Option<String> {
    let cursor = &mut cursor;
    if cursor.byte().ok()? != jsonb::TYPED {
        return None;
    }
    let class = jsonb::text(cursor).ok()?.decode(body);
    let message = jsonb::int(cursor).and_then(|_| {
        let Some(mut entries) = jsonb_walker::Entries::open(*cursor)? else {
            return Ok(None);
        };
        while let Some(Entry { key: name, value }) = entries.next()? {
            let named = |field| name.is_some_and(|name| name.says(body, field));
            if named("detailMessage") || named("message") {
                return Ok(value.map(|value| value.decode(body)));
            }
        }
        Ok(None)
    });
    Some(exception(class, message.ok().flatten()))
}

fn exception(class: String, message: Option<String>) -> String {
    match message {
        Some(message) => format!("{class}: {message}"),
        None => class,
    }
}
