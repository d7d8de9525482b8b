//! The strings in front of the arguments in the serializations of which nothing else is read here: Java's, kryo, fst
//! and protostuff.
//!
//! Sources: bodies that Dubbo 2.7.23 wrote (`tests/vectors/serializations.txt`); Java Object Serialization Stream
//! Protocol §6.4.2; `Output.writeString` of kryo 4.0; `FSTStreamEncoder` of fst 2.48.

use super::cursor::Cursor;
use super::flaw::Flaw;
use super::hessian::{check_units, skip_units};
use crate::Span;

/// Starts every stream of Java's serialization: its magic number and version 5.
const JAVA_STREAM: [u8; 4] = [0xac, 0xed, 0x00, 0x05];
/// A block of up to 255 bytes follows.
const BLOCK: u8 = 0x77;
/// A block of any length follows.
const LONG_BLOCK: u8 = 0x7a;

/// Takes Java's blocks, in which primitive values and the strings of `writeUTF` lie, apart from what they hold.
///
/// Gives the reader a body of its own, as a text may reach from one block into the next. Whether the blocks end there,
/// because an object follows, is told beside it.
pub(super) fn java_blocks(body: &[u8], decoded: &mut Vec<u8>) -> Result<bool, Flaw> {
    let mut cursor = Cursor::new(body, 0);
    for (at, expected) in JAVA_STREAM.into_iter().enumerate() {
        let tag = cursor.byte()?;
        if tag != expected {
            return Err(Flaw::Tag { at: at as u32, tag, expected: "a stream of Java objects" });
        }
    }
    loop {
        let len = match cursor.peek() {
            Ok(BLOCK) => {
                cursor.skip(1)?;
                cursor.byte().map(usize::from)
            }
            Ok(LONG_BLOCK) => {
                cursor.skip(1)?;
                cursor.array().map(|len| u32::from_be_bytes(len) as usize)
            }
            Ok(_) => return Ok(true),
            Err(_) => return Ok(false),
        };
        let Ok(len) = len else { return Ok(false) };
        let rest = cursor.rest();
        decoded.extend_from_slice(&rest[..len.min(rest.len())]);
        if cursor.skip(len).is_err() {
            return Ok(false);
        }
    }
}

/// Of `JavaObjectOutput`: the number of UTF-16 units, -1 for null, then as in [`native_java_text`].
pub(super) fn java_text(cursor: &mut Cursor<'_>) -> Result<Option<Span>, Flaw> {
    let at = cursor.at();
    match i32::from_be_bytes(cursor.array()?) {
        -1 => Ok(None),
        len if len < 0 => Err(Flaw::Length { at, len: len.into() }),
        _ => native_java_text(cursor),
    }
}

/// Of `DataOutput.writeUTF`: the number of bytes, and CESU-8. Java's reader takes longer forms of a letter for that
/// letter, so they would hide a name from whoever compares bytes: they are refused, also the one that is written for NUL.
pub(super) fn native_java_text(cursor: &mut Cursor<'_>) -> Result<Option<Span>, Flaw> {
    let len = u16::from_be_bytes(cursor.array()?);
    let at = cursor.at();
    let text = &cursor.rest()[..usize::from(len).min(cursor.remaining())];
    let span = cursor.take(len.into())?;
    check_units(text, at)?;
    Ok(Some(span))
}

/// A length and UTF-8.
pub(super) fn protostuff_text(cursor: &mut Cursor<'_>) -> Result<Option<Span>, Flaw> {
    let at = cursor.at();
    let len = i32::from_be_bytes(cursor.array()?);
    let bytes = usize::try_from(len).map_err(|_| Flaw::Length { at, len: len.into() })?;
    cursor.take(bytes).map(Some)
}

/// ASCII whose last byte has its high bit set; or one more than the number of UTF-16 units, in a first byte that has
/// it, and CESU-8.
pub(super) fn kryo_text(cursor: &mut Cursor<'_>, decoded: &mut Vec<u8>) -> Result<Option<Span>, Flaw> {
    const HIGH: u8 = 0x80;
    let start = decoded.len();
    if cursor.peek()? & HIGH == 0 {
        loop {
            let byte = cursor.byte()?;
            decoded.push(byte & !HIGH);
            if byte & HIGH != 0 {
                return Ok(Some(span_from(start, decoded)));
            }
        }
    }
    let at = cursor.at();
    let first = cursor.byte()?;
    let mut count = u64::from(first & 0x3f);
    let mut more = first & 0x40 != 0;
    let mut shift = 6;
    while more {
        let byte = cursor.byte()?;
        count |= u64::from(byte & 0x7f) << shift;
        more = byte & HIGH != 0;
        shift += 7;
        if more && shift > 27 {
            return Err(Flaw::Text { at });
        }
    }
    let Some(units) = count.checked_sub(1) else { return Ok(None) };
    let text = cursor.at() as usize;
    let bytes = cursor.rest();
    skip_units(cursor, usize::try_from(units).map_err(|_| Flaw::End)?)?;
    decoded.extend_from_slice(&bytes[..cursor.at() as usize - text]);
    Ok(Some(span_from(start, decoded)))
}

/// The number of UTF-16 units, each in one byte below 255, or in 255 and two bytes, the lower one first.
pub(super) fn fst_text(cursor: &mut Cursor<'_>, decoded: &mut Vec<u8>) -> Result<Option<Span>, Flaw> {
    const WIDE: u8 = 0xff;
    let start = decoded.len();
    let at = cursor.at();
    let units = match cursor.byte()? as i8 {
        -128 => i32::from(i16::from_le_bytes(cursor.array()?)),
        -127 => i32::from_le_bytes(cursor.array()?),
        short => short.into(),
    };
    for _ in 0..u32::try_from(units).map_err(|_| Flaw::Length { at, len: units.into() })? {
        let unit = match cursor.byte()? {
            WIDE => u16::from_le_bytes(cursor.array()?),
            narrow => narrow.into(),
        };
        push_cesu(decoded, unit);
    }
    Ok(Some(span_from(start, decoded)))
}

/// Half of a surrogate pair takes three bytes of its own, as in hessian2.
fn push_cesu(out: &mut Vec<u8>, unit: u16) {
    let tail = |shift: u16| 0x80 | (unit >> shift & 0x3f) as u8;
    match unit {
        0..0x80 => out.push(unit as u8),
        0x80..0x800 => out.extend([0xc0 | (unit >> 6) as u8, tail(0)]),
        _ => out.extend([0xe0 | (unit >> 12) as u8, tail(6), tail(0)]),
    }
}

fn span_from(start: usize, decoded: &[u8]) -> Span {
    Span { start: start as u32, end: decoded.len() as u32 }
}
