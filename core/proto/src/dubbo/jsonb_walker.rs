//! Walks over JSONB values without building them. Documents do not refer to each other, so nothing is remembered.

use super::cursor::Cursor;
use super::flaw::Flaw;
use super::hessian_walker::DEPTH_MAX;
use super::jsonb::{
    ARRAY, BINARY, CHAR, FALSE, INT8, NULL, OBJECT, OBJECT_END, REFERENCE, SHORT_ARRAY, SYMBOL, TRUE, TYPED, Text, int,
    is_int, is_text, length, long, text,
};

/// Goes over one value with all that it holds; time linear in its bytes.
pub(super) fn skip(cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
    let Some(outermost) = value(cursor)? else {
        return Ok(());
    };
    let mut open = [outermost; DEPTH_MAX];
    let mut depth = 1;
    while let Some(next) = next_inside(&mut open, &mut depth, cursor)? {
        let inner = match next {
            Next::Name => name(cursor)?,
            Next::Value => value(cursor)?,
        };
        if let Some(inner) = inner {
            let at = cursor.at();
            let max = DEPTH_MAX as u32;
            *open.get_mut(depth).ok_or(Flaw::Depth { at, max })? = inner;
            depth += 1;
        }
    }
    Ok(())
}

/// An entry of a map.
pub(super) struct Entry {
    /// The key, if it is a text.
    pub key: Option<Text>,
    /// The value, if it is a text.
    pub value: Option<Text>,
}

/// The entries of a map at the front of a document, read one by one.
pub(super) struct Entries<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Entries<'a> {
    /// `None` for null. The type in front of a map, if there is one, is passed over.
    pub fn open(mut cursor: Cursor<'a>) -> Result<Option<Self>, Flaw> {
        if cursor.peek()? == TYPED {
            cursor.skip(1)?;
            type_name(&mut cursor)?;
        }
        let at = cursor.at();
        match cursor.byte()? {
            NULL => Ok(None),
            OBJECT => Ok(Some(Entries { cursor })),
            tag => {
                let expected = "a map";
                Err(Flaw::Tag { at, tag, expected })
            }
        }
    }

    /// Reads the next entry; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Entry>, Flaw> {
        let cursor = &mut self.cursor;
        let at = cursor.at();
        let tag = cursor.peek()?;
        if tag == OBJECT_END {
            return Ok(None);
        }
        let key = if is_text(tag) {
            Some(text(cursor)?)
        } else if tag == SYMBOL {
            cursor.skip(1)?;
            if is_int(cursor.peek()?) {
                // It names a key that was not kept; writers do not use symbols for the keys of this map.
                let expected = "a key";
                return Err(Flaw::Tag { at, tag, expected });
            }
            let key = text(cursor)?;
            int(cursor)?;
            Some(key)
        } else {
            skip(cursor)?;
            None
        };
        let value = if is_text(cursor.peek()?) {
            Some(text(cursor)?)
        } else {
            skip(cursor)?;
            None
        };
        Ok(Some(Entry { key, value }))
    }
}

/// What is open around the value that comes next.
#[derive(Clone, Copy, Debug)]
enum Open {
    /// That many values follow.
    Values(u32),
    /// Names and values up to the end mark; the next one is a name.
    ObjectName,
    ObjectValue,
}

enum Next {
    Name,
    Value,
}

/// What comes next inside the open ones; closes those that are complete.
fn next_inside(open: &mut [Open; DEPTH_MAX], depth: &mut usize, cursor: &mut Cursor<'_>) -> Result<Option<Next>, Flaw> {
    while let Some(top) = depth.checked_sub(1) {
        match &mut open[top] {
            Open::Values(0) => *depth = top,
            // The last one: closed before it is read, see DEPTH_MAX.
            Open::Values(1) => {
                *depth = top;
                return Ok(Some(Next::Value));
            }
            Open::Values(left) => {
                *left -= 1;
                return Ok(Some(Next::Value));
            }
            value @ Open::ObjectValue => {
                *value = Open::ObjectName;
                return Ok(Some(Next::Value));
            }
            name @ Open::ObjectName => {
                if cursor.peek()? != OBJECT_END {
                    *name = Open::ObjectValue;
                    return Ok(Some(Next::Name));
                }
                cursor.skip(1)?;
                *depth = top;
            }
        }
    }
    Ok(None)
}

/// Goes over a leaf, or over the front of a value that holds others.
fn value(cursor: &mut Cursor<'_>) -> Result<Option<Open>, Flaw> {
    let at = cursor.at();
    let tag = cursor.peek()?;
    if is_text(tag) {
        text(cursor)?;
        return Ok(None);
    }
    if is_int(tag) {
        int(cursor)?;
        return Ok(None);
    }
    cursor.skip(1)?;
    let payload = match tag {
        // null, true, false, the doubles 0 and 1, longs of one byte
        NULL | FALSE | TRUE | 0xb2 | 0xb3 | 0xd8..=0xef => 0,
        // int8, longs of two bytes
        INT8 | 0xc8..=0xd7 => 1,
        // int16, longs of three bytes
        0xbc | 0xc0..=0xc7 => 2,
        // date, seconds, minutes, float, long as int
        0xa9 | 0xac | 0xad | 0xb7 | 0xbf => 4,
        // milliseconds, double, long
        0xab | 0xb5 | 0xbe => 8,
        BINARY | 0xbb => length(cursor)?,
        _ => return composite(cursor, at, tag),
    };
    cursor.skip(payload)?;
    Ok(None)
}

/// The values that are made of other values.
fn composite(cursor: &mut Cursor<'_>, at: u32, tag: u8) -> Result<Option<Open>, Flaw> {
    match tag {
        CHAR | 0xb6 => int(cursor).map(|_| ())?,
        // double, decimal, big integer as a long
        0xb4 | 0xb8 | 0xba => long(cursor).map(|_| ())?,
        // decimal: scale and digits
        0xb9 => {
            int(cursor)?;
            return Ok(Some(Open::Values(1)));
        }
        // local time, local date and time, the same with a zone: calendar bytes, nanoseconds, zone
        0xa7 => {
            cursor.skip(3)?;
            int(cursor)?;
        }
        0xa8 => {
            cursor.skip(7)?;
            int(cursor)?;
        }
        0xaa => {
            cursor.skip(7)?;
            int(cursor)?;
            text(cursor)?;
        }
        // timestamp: seconds, nanoseconds
        0xae => {
            long(cursor)?;
            int(cursor)?;
        }
        REFERENCE => text(cursor).map(|_| ())?,
        TYPED => {
            type_name(cursor)?;
            return Ok(Some(Open::Values(1)));
        }
        SHORT_ARRAY..ARRAY => return Ok(Some(Open::Values(u32::from(tag - SHORT_ARRAY)))),
        ARRAY => {
            let items = length(cursor)?;
            if items > cursor.remaining() {
                return Err(Flaw::End);
            }
            return Ok(Some(Open::Values(items as u32)));
        }
        OBJECT => return Ok(Some(Open::ObjectName)),
        _ => {
            let expected = "a value";
            return Err(Flaw::Tag { at, tag, expected });
        }
    }
    Ok(None)
}

/// Goes over the name of an object's field or the key of a map: a text, a symbol, or, in maps, any value.
fn name(cursor: &mut Cursor<'_>) -> Result<Option<Open>, Flaw> {
    if cursor.peek()? != SYMBOL {
        return value(cursor);
    }
    cursor.skip(1)?;
    if !is_int(cursor.peek()?) {
        text(cursor)?;
    }
    int(cursor)?;
    Ok(None)
}

/// Goes over the type in front of a value: its name and number, or the number of one that was named before.
fn type_name(cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
    if cursor.peek()? == SYMBOL {
        cursor.skip(1)?;
    }
    if !is_int(cursor.peek()?) {
        text(cursor)?;
    }
    int(cursor).map(|_| ())
}
