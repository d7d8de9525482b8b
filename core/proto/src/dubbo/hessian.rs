//! Hessian2: text, lengths and references; what the peeks read and what shmesh writes.
//!
//! The length of a text counts UTF-16 units, and its bytes are CESU-8: each half of a surrogate pair takes three
//! bytes of its own (`Hessian2Output.printString`). Four-byte UTF-8 is refused, as Java's reader refuses it
//! (`parseUTF8Char`): peers disagree on how many units it counts for.

use super::cursor::Cursor;
use super::flaw::Flaw;
use crate::Span;

pub(super) const NULL: u8 = b'N';
/// Ends maps and lists of variable length.
pub(super) const END: u8 = b'Z';
pub(super) const UNTYPED_MAP: u8 = b'H';
pub(super) const TYPED_MAP: u8 = b'M';

/// Units in the largest chunk that writers make; longer text is cut into chunks of this length.
const CHUNK_UNITS: usize = 0x8000;

/// Where a text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Null,
    Whole(Span),
    /// In several chunks, so not contiguous.
    Chunked,
}

/// Whether a value that starts with `tag` is a text.
pub(super) fn is_text(tag: u8) -> bool {
    matches!(tag, 0x00..=0x1f | 0x30..=0x33 | b'R' | b'S')
}

/// Goes over a text or null and says where the text lies.
pub(super) fn text(cursor: &mut Cursor<'_>) -> Result<Text, Flaw> {
    if cursor.peek()? == NULL {
        cursor.skip(1)?;
        return Ok(Text::Null);
    }
    let mut whole = Text::Whole(Span { start: cursor.at() + 1, end: cursor.at() + 1 });
    chunks(cursor, |chunk| match whole {
        Text::Whole(seen) if seen.is_empty() => whole = Text::Whole(chunk),
        _ if chunk.is_empty() => {}
        _ => whole = Text::Chunked,
    })?;
    Ok(whole)
}

/// Goes over a text that must not be null, and calls `each` with the range of each of its chunks.
pub(super) fn chunks(cursor: &mut Cursor<'_>, mut each: impl FnMut(Span)) -> Result<(), Flaw> {
    loop {
        let at = cursor.at();
        let tag = cursor.byte()?;
        let units = match tag {
            0x00..=0x1f => tag as usize,
            0x30..=0x33 => ((tag as usize - 0x30) << 8) | cursor.byte()? as usize,
            b'R' | b'S' => u16::from_be_bytes(cursor.array()?) as usize,
            _ => {
                let expected = "a text";
                return Err(Flaw::Tag { at, tag, expected });
            }
        };
        let start = cursor.at();
        skip_units(cursor, units)?;
        each(Span { start, end: cursor.at() });
        if tag != b'R' {
            return Ok(());
        }
    }
}

/// Goes over `units` UTF-16 units of CESU-8.
pub(super) fn skip_units(cursor: &mut Cursor<'_>, units: usize) -> Result<(), Flaw> {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let bytes = cursor.rest();
    let mut at = 0;
    let mut left = units;
    while left > 0 {
        if left >= 8
            && let Some(word) = bytes[at..].first_chunk::<8>()
            && u64::from_ne_bytes(*word) & HIGH_BITS == 0
        {
            at += 8;
            left -= 8;
            continue;
        }
        at += unit_len(&bytes[at..]).map_err(|flaw| match flaw {
            Malformed::End => Flaw::End,
            Malformed::Text => Flaw::Text { at: cursor.at() + at as u32 },
        })?;
        left -= 1;
    }
    cursor.skip(at)
}

/// Whether `text`, which lies at `at`, is CESU-8 and nothing else.
pub(super) fn check_units(text: &[u8], at: u32) -> Result<(), Flaw> {
    let mut rest = text;
    while !rest.is_empty() {
        let flaw = Flaw::Text { at: at + (text.len() - rest.len()) as u32 };
        rest = &rest[unit_len(rest).map_err(|_| flaw)?..];
    }
    Ok(())
}

enum Malformed {
    End,
    Text,
}

/// Bytes that the first UTF-16 unit of `bytes` takes; a surrogate counts as a unit of its own. Overlong forms are
/// refused, so that equal text has equal bytes.
fn unit_len(bytes: &[u8]) -> Result<usize, Malformed> {
    let Some(&lead) = bytes.first() else {
        return Err(Malformed::End);
    };
    let (len, second) = match lead {
        0x00..=0x7f => return Ok(1),
        0xc2..=0xdf => (2, 0x80..=0xbf),
        0xe0 => (3, 0xa0..=0xbf),
        0xe1..=0xef => (3, 0x80..=0xbf),
        _ => return Err(Malformed::Text),
    };
    match bytes.get(1..len) {
        None => Err(Malformed::End),
        Some(tail) if !second.contains(&tail[0]) => Err(Malformed::Text),
        Some(&[_, third]) if third & 0xc0 != 0x80 => Err(Malformed::Text),
        Some(_) => Ok(len),
    }
}

/// The text of CESU-8 bytes; half surrogate pairs become U+FFFD.
pub(super) fn decode_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|not_utf8| {
        let bytes = not_utf8.as_bytes();
        let mut at = 0;
        let units = std::iter::from_fn(|| {
            let len = unit_len(&bytes[at..]).ok()?;
            let unit = match bytes[at..at + len] {
                [a] => a as u16,
                [a, b] => (a as u16 & 0x1f) << 6 | (b as u16 & 0x3f),
                [a, b, c] => (a as u16) << 12 | (b as u16 & 0x3f) << 6 | (c as u16 & 0x3f),
                _ => return None,
            };
            at += len;
            Some(unit)
        });
        char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    })
}

/// Reads an int, the form of every length, count and reference.
pub(super) fn int(cursor: &mut Cursor<'_>) -> Result<i32, Flaw> {
    let at = cursor.at();
    let tag = cursor.byte()?;
    let head = tag as i32;
    Ok(match tag {
        0x80..=0xbf => head - 0x90,
        0xc0..=0xcf => ((head - 0xc8) << 8) + cursor.byte()? as i32,
        0xd0..=0xd7 => ((head - 0xd4) << 16) + u16::from_be_bytes(cursor.array()?) as i32,
        b'I' => i32::from_be_bytes(cursor.array()?),
        _ => {
            let expected = "an int";
            return Err(Flaw::Tag { at, tag, expected });
        }
    })
}

/// Whether a value that starts with `tag` is an int.
pub(super) fn is_int(tag: u8) -> bool {
    matches!(tag, 0x80..=0xd7 | b'I')
}

/// Whether a value that starts with `tag` is a long.
pub(super) fn is_long(tag: u8) -> bool {
    matches!(tag, 0xd8..=0xff | 0x38..=0x3f | 0x59 | b'L')
}

/// Reads a long.
pub(super) fn long(cursor: &mut Cursor<'_>) -> Result<i64, Flaw> {
    let at = cursor.at();
    let tag = cursor.byte()?;
    let head = i64::from(tag);
    Ok(match tag {
        0xd8..=0xef => head - 0xe0,
        0xf0..=0xff => ((head - 0xf8) << 8) + i64::from(cursor.byte()?),
        0x38..=0x3f => ((head - 0x3c) << 16) + i64::from(u16::from_be_bytes(cursor.array()?)),
        0x59 => i32::from_be_bytes(cursor.array()?).into(),
        b'L' => i64::from_be_bytes(cursor.array()?),
        _ => {
            let expected = "a long";
            return Err(Flaw::Tag { at, tag, expected });
        }
    })
}

/// Reads the number of things that follow, each of which takes at least one byte.
pub(super) fn count(cursor: &mut Cursor<'_>) -> Result<u32, Flaw> {
    let at = cursor.at();
    let len = int(cursor)?;
    match u32::try_from(len) {
        Ok(count) if count as usize <= cursor.remaining() => Ok(count),
        Ok(_) => Err(Flaw::End),
        Err(_) => Err(Flaw::Length { at, len: len.into() }),
    }
}

/// Goes over the type of a map or list: its name, or the number of a type that was named before.
pub(super) fn type_name(cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
    if is_text(cursor.peek()?) { chunks(cursor, |_| {}) } else { int(cursor).map(|_| ()) }
}

/// Writes a text as Java does: the shortest form, chunks of 32768 units, no chunk ends within a surrogate pair.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    loop {
        let (chunk, units) = first_chunk(rest);
        rest = &rest[chunk.len()..];
        match units {
            _ if !rest.is_empty() => {
                out.push(b'R');
                out.extend((units as u16).to_be_bytes());
            }
            0..=0x1f => out.push(units as u8),
            0x20..=0x3ff => out.extend([0x30 | (units >> 8) as u8, units as u8]),
            _ => {
                out.push(b'S');
                out.extend((units as u16).to_be_bytes());
            }
        }
        write_cesu8(out, chunk);
        if rest.is_empty() {
            return;
        }
    }
}

/// The front of `text` that fits into a chunk, and its length in UTF-16 units.
fn first_chunk(text: &str) -> (&str, usize) {
    let head = text.as_bytes();
    let head = &head[..head.len().min(CHUNK_UNITS)];
    if head.is_ascii() {
        return (&text[..head.len()], head.len());
    }
    let mut units = 0;
    for (at, char) in text.char_indices() {
        if units + char.len_utf16() > CHUNK_UNITS {
            return (&text[..at], units);
        }
        units += char.len_utf16();
    }
    (text, units)
}

fn write_cesu8(out: &mut Vec<u8>, text: &str) {
    if text.is_ascii() {
        out.extend(text.as_bytes());
        return;
    }
    let mut rest = text;
    while let Some(at) = rest.find(|char| char > '\u{ffff}') {
        let (plain, tail) = rest.split_at(at);
        out.extend(plain.as_bytes());
        let mut chars = tail.chars();
        if let Some(char) = chars.next() {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.extend([0xe0 | (*unit >> 12) as u8, 0x80 | (*unit >> 6 & 0x3f) as u8, 0x80 | (*unit & 0x3f) as u8]);
            }
        }
        rest = chars.as_str();
    }
    out.extend(rest.as_bytes());
}
