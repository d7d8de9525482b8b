//! JSONB, fastjson2's binary form of JSON, as Dubbo's `FastJson2ObjectOutput` frames it: every field of a body is a
//! big-endian u32 length and one JSONB document (`com.alibaba.fastjson2.JSONB.Constants`).

use super::cursor::Cursor;
use super::flaw::Flaw;
use crate::Span;

pub(super) const NULL: u8 = 0xaf;
pub(super) const FALSE: u8 = 0xb0;
pub(super) const TRUE: u8 = 0xb1;
pub(super) const INT8: u8 = 0xbd;
pub(super) const CHAR: u8 = 0x90;
pub(super) const BINARY: u8 = 0x91;
pub(super) const TYPED: u8 = 0x92;
pub(super) const REFERENCE: u8 = 0x93;
pub(super) const SHORT_ARRAY: u8 = 0x94;
pub(super) const ARRAY: u8 = 0xa4;
pub(super) const OBJECT_END: u8 = 0xa5;
pub(super) const OBJECT: u8 = 0xa6;
const SHORT_TEXT: u8 = 0x49;
const SHORT_TEXT_MAX: u8 = 0x78;
const ASCII: u8 = 0x79;
const UTF8: u8 = 0x7a;
const UTF16LE: u8 = 0x7c;
const UTF16BE: u8 = 0x7d;
const GB18030: u8 = 0x7e;
pub(super) const SYMBOL: u8 = 0x7f;

/// How the bytes of a text are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    Ascii,
    Utf8,
    Utf16Le,
    Utf16Be,
    Other,
}

/// A text: its bytes as they lie, and how to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub span: Span,
    pub charset: Charset,
}

impl Text {
    /// The range of a text that can be compared with UTF-8 byte by byte.
    pub fn comparable(&self, body: &[u8]) -> Result<Span, Flaw> {
        let at = self.span.start;
        let bytes = self.span.of(body);
        let well_formed = match self.charset {
            Charset::Ascii => bytes.is_ascii(),
            Charset::Utf8 => std::str::from_utf8(bytes).is_ok(),
            _ => return Err(Flaw::Charset { at }),
        };
        if well_formed { Ok(self.span) } else { Err(Flaw::Text { at }) }
    }

    /// Whether this text says `key`, in whatever charset.
    pub fn says(&self, body: &[u8], key: &str) -> bool {
        let bytes = self.span.of(body);
        let utf16 = |unit: fn([u8; 2]) -> u16| {
            let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
            bytes.len().is_multiple_of(2) && units.eq(key.encode_utf16())
        };
        match self.charset {
            Charset::Utf16Le => utf16(u16::from_le_bytes),
            Charset::Utf16Be => utf16(u16::from_be_bytes),
            _ => bytes == key.as_bytes(),
        }
    }

    /// The text for a person to read; what is malformed, or in a charset that is not read here, becomes U+FFFD.
    pub fn decode(&self, body: &[u8]) -> String {
        let bytes = self.span.of(body);
        let utf16 = |unit: fn([u8; 2]) -> u16| {
            let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        };
        match self.charset {
            Charset::Utf16Le => utf16(u16::from_le_bytes),
            Charset::Utf16Be => utf16(u16::from_be_bytes),
            _ => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

/// The document of the next field; goes behind it.
pub(super) fn field<'a>(cursor: &mut Cursor<'a>) -> Result<Cursor<'a>, Flaw> {
    let len = u32::from_be_bytes(cursor.array()?);
    cursor.field(len as usize)
}

/// Reads a field that holds a text or null and nothing else.
pub(super) fn text_field(cursor: &mut Cursor<'_>) -> Result<Option<Text>, Flaw> {
    let mut document = field(cursor)?;
    let at = document.at();
    // A field that lies here in whole but ends inside its text is wrong, and more bytes would not mend it.
    let text = text_or_null(&mut document).map_err(|flaw| match flaw {
        Flaw::End => Flaw::Short { at },
        flaw => flaw,
    })?;
    if document.is_at_end() {
        Ok(text)
    } else {
        let at = document.at();
        Err(Flaw::Surplus { at })
    }
}

fn text_or_null(cursor: &mut Cursor<'_>) -> Result<Option<Text>, Flaw> {
    if cursor.peek()? == NULL {
        cursor.skip(1)?;
        return Ok(None);
    }
    text(cursor).map(Some)
}

/// Whether a value that starts with `tag` is a text.
pub(super) fn is_text(tag: u8) -> bool {
    matches!(tag, SHORT_TEXT..=GB18030)
}

/// Reads a text that must not be null.
pub(super) fn text(cursor: &mut Cursor<'_>) -> Result<Text, Flaw> {
    let at = cursor.at();
    let tag = cursor.byte()?;
    let (len, charset) = match tag {
        SHORT_TEXT..=SHORT_TEXT_MAX => ((tag - SHORT_TEXT) as usize, Charset::Ascii),
        ASCII => (length(cursor)?, Charset::Ascii),
        UTF8 => (length(cursor)?, Charset::Utf8),
        UTF16LE => (length(cursor)?, Charset::Utf16Le),
        UTF16BE => (length(cursor)?, Charset::Utf16Be),
        0x7b | GB18030 => (length(cursor)?, Charset::Other),
        _ => {
            let expected = "a text";
            return Err(Flaw::Tag { at, tag, expected });
        }
    };
    let span = cursor.take(len)?;
    Ok(Text { span, charset })
}

/// Whether a value that starts with `tag` is an int32.
pub(super) fn is_int(tag: u8) -> bool {
    matches!(tag, 0xf0..=0xff | 0x00..=0x48)
}

/// Reads an int32, also the form of lengths, counts and symbol numbers.
pub(super) fn int(cursor: &mut Cursor<'_>) -> Result<i32, Flaw> {
    let at = cursor.at();
    let tag = cursor.byte()?;
    let head = i32::from(tag);
    Ok(match tag {
        0xf0..=0xff => head - 0x100,
        0x00..=0x2f => head,
        0x30..=0x3f => ((head - 0x38) << 8) + i32::from(cursor.byte()?),
        0x40..=0x47 => ((head - 0x44) << 16) + i32::from(u16::from_be_bytes(cursor.array()?)),
        0x48 => i32::from_be_bytes(cursor.array()?),
        _ => {
            let expected = "an int";
            return Err(Flaw::Tag { at, tag, expected });
        }
    })
}

/// Whether a value that starts with `tag` is an int64 or int32.
pub(super) fn is_long(tag: u8) -> bool {
    is_int(tag) || matches!(tag, 0xbe..=0xef)
}

/// Reads an int64 in any of its forms, the int32 ones included.
pub(super) fn long(cursor: &mut Cursor<'_>) -> Result<i64, Flaw> {
    let at = cursor.at();
    let tag = cursor.peek()?;
    if is_int(tag) {
        return int(cursor).map(i64::from);
    }
    cursor.skip(1)?;
    let head = i64::from(tag);
    Ok(match tag {
        0xd8..=0xef => head - 0xe0,
        0xc8..=0xd7 => ((head - 0xd0) << 8) + i64::from(cursor.byte()?),
        0xc0..=0xc7 => ((head - 0xc4) << 16) + i64::from(u16::from_be_bytes(cursor.array()?)),
        0xbf => i32::from_be_bytes(cursor.array()?).into(),
        0xbe => i64::from_be_bytes(cursor.array()?),
        _ => {
            let expected = "a long";
            return Err(Flaw::Tag { at, tag, expected });
        }
    })
}

/// Reads the length of what follows: an int32 that is not negative.
pub(super) fn length(cursor: &mut Cursor<'_>) -> Result<usize, Flaw> {
    let at = cursor.at();
    let len = int(cursor)?;
    usize::try_from(len).map_err(|_| Flaw::Length { at, len: len.into() })
}

/// Writes a field that holds `text`.
pub(super) fn write_text_field(out: &mut Vec<u8>, text: &str) {
    write_field(out, |out| write_text(out, text));
}

/// Writes a field: its length and what `document` writes.
pub(super) fn write_field(out: &mut Vec<u8>, document: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    document(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Writes a map of texts.
pub(super) fn write_map<'a>(out: &mut Vec<u8>, entries: impl IntoIterator<Item = (&'a str, &'a str)>) {
    out.push(OBJECT);
    for (key, value) in entries {
        write_text(out, key);
        write_text(out, value);
    }
    out.push(OBJECT_END);
}

/// Writes a text: ASCII if it is, else UTF-8.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    if !text.is_ascii() {
        out.push(UTF8);
        write_int(out, len as i32);
    } else if len <= (SHORT_TEXT_MAX - SHORT_TEXT) as usize {
        out.push(SHORT_TEXT + len as u8);
    } else {
        out.push(ASCII);
        write_int(out, len as i32);
    }
    out.extend(text.as_bytes());
}

/// Writes an int32 in its shortest form.
pub(super) fn write_int(out: &mut Vec<u8>, value: i32) {
    match value {
        -0x10..=0x2f => out.push(value as u8),
        -0x800..=0x7ff => out.extend([(0x38 + (value >> 8)) as u8, value as u8]),
        -0x40000..=0x3ffff => out.extend([(0x44 + (value >> 16)) as u8, (value >> 8) as u8, value as u8]),
        _ => {
            out.push(0x48);
            out.extend(value.to_be_bytes());
        }
    }
}
