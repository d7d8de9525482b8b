//! Walks over Hessian2 values without building them, to reach what lies behind.
//!
//! The only thing remembered is how many fields each class definition has, because objects refer to definitions that
//! came before, in this or an earlier argument. Every step consumes at least one byte and nothing is visited twice,
//! so a walk takes time linear in the bytes it goes over.

use super::cursor::Cursor;
use super::flaw::Flaw;
use super::hessian;
use crate::Span;

/// How deep values may be nested. The last element of a list or object does not count, so that a linked list is not
/// deep, however long it is.
pub const DEPTH_MAX: usize = 256;

/// How many classes one body may define.
pub const CLASS_DEFS_MAX: usize = 512;

/// How many fields a class may have.
pub const FIELDS_MAX: u32 = 4096;

/// What is open around the value that comes next.
#[derive(Clone, Copy, Debug)]
enum Open {
    /// That many values follow.
    Values(u32),
    /// Keys and values up to the end mark; the next one is a key.
    MapKey,
    MapValue,
    /// Values up to the end mark.
    List,
}

/// What starts with a tag.
enum Head {
    Leaf,
    /// A class definition, which is no value: one follows.
    Definition,
    Inside(Open),
}

/// The memory of a walk over the values of one body, in their order.
pub(super) struct Walker {
    fields: [u16; CLASS_DEFS_MAX],
    class_defs: usize,
}

impl Walker {
    pub fn new() -> Self {
        Walker { fields: [0; CLASS_DEFS_MAX], class_defs: 0 }
    }

    /// Goes over one value with all that it holds.
    pub fn skip(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Flaw> {
        match self.value(cursor)? {
            None => Ok(()),
            Some(outermost) => self.skip_inside(cursor, outermost),
        }
    }

    /// Goes over what `outermost` holds.
    fn skip_inside(&mut self, cursor: &mut Cursor<'_>, outermost: Open) -> Result<(), Flaw> {
        let mut open = [outermost; DEPTH_MAX];
        let mut depth = 1;
        while more_inside(&mut open, &mut depth, cursor)? {
            if let Some(inner) = self.value(cursor)? {
                let at = cursor.at();
                let max = DEPTH_MAX as u32;
                *open.get_mut(depth).ok_or(Flaw::Depth { at, max })? = inner;
                depth += 1;
            }
        }
        Ok(())
    }

    /// Goes over a leaf, or over the front of a value that holds others.
    fn value(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Open>, Flaw> {
        loop {
            match self.head(cursor)? {
                Head::Leaf => return Ok(None),
                Head::Definition => {}
                Head::Inside(inner) => return Ok(Some(inner)),
            }
        }
    }

    /// Reads the fields of a class definition, behind its name, calling `field` with the number and name of each
    /// (each chunk of it). Returns how many there are.
    pub fn define(&mut self, cursor: &mut Cursor<'_>, mut field: impl FnMut(u32, Span)) -> Result<u32, Flaw> {
        let at = cursor.at();
        let fields = hessian::count(cursor)?;
        let max = FIELDS_MAX;
        if fields > max {
            return Err(Flaw::Fields { at, fields, max });
        }
        for index in 0..fields {
            hessian::chunks(cursor, |chunk| field(index, chunk))?;
        }
        *self.fields.get_mut(self.class_defs).ok_or(Flaw::ClassDefs { max: CLASS_DEFS_MAX as u32 })? = fields as u16;
        self.class_defs += 1;
        Ok(fields)
    }

    fn head(&mut self, cursor: &mut Cursor<'_>) -> Result<Head, Flaw> {
        let at = cursor.at();
        let tag = cursor.peek()?;
        if hessian::is_text(tag) {
            hessian::chunks(cursor, |_| {})?;
            return Ok(Head::Leaf);
        }
        cursor.skip(1)?;
        let payload = match tag {
            // null, true, false; small ints; small longs; the doubles 0 and 1
            b'N' | b'T' | b'F' | 0x80..=0xbf | 0xd8..=0xef | 0x5b | 0x5c => 0,
            // ints and longs of two bytes, double of a byte
            0xc0..=0xcf | 0xf0..=0xff | 0x5d => 1,
            // ints and longs of three bytes, double of a short
            0xd0..=0xd7 | 0x38..=0x3f | 0x5e => 2,
            // int, long as int, double in thousandths, date in minutes
            b'I' | 0x59 | 0x5f | 0x4b => 4,
            // long, double, date in milliseconds
            b'L' | b'D' | 0x4a => 8,
            0x20..=0x2f => tag as usize - 0x20,
            0x34..=0x37 => ((tag as usize - 0x34) << 8) | cursor.byte()? as usize,
            b'A' | b'B' => {
                skip_chunks_of_binary(cursor, tag)?;
                0
            }
            b'Q' => {
                hessian::int(cursor)?;
                0
            }
            _ => return self.composite(cursor, at, tag),
        };
        cursor.skip(payload)?;
        Ok(Head::Leaf)
    }

    fn composite(&mut self, cursor: &mut Cursor<'_>, at: u32, tag: u8) -> Result<Head, Flaw> {
        let inner = match tag {
            b'C' => {
                hessian::chunks(cursor, |_| {})?;
                self.define(cursor, |_, _| {})?;
                return Ok(Head::Definition);
            }
            b'O' => {
                let index = hessian::int(cursor)?;
                self.object(at, index)?
            }
            0x60..=0x6f => self.object(at, i32::from(tag) - 0x60)?,
            hessian::UNTYPED_MAP => Open::MapKey,
            hessian::TYPED_MAP => {
                hessian::type_name(cursor)?;
                Open::MapKey
            }
            0x55 => {
                hessian::type_name(cursor)?;
                Open::List
            }
            0x57 => Open::List,
            b'V' => {
                hessian::type_name(cursor)?;
                Open::Values(hessian::count(cursor)?)
            }
            0x58 => Open::Values(hessian::count(cursor)?),
            0x70..=0x77 => {
                hessian::type_name(cursor)?;
                Open::Values(u32::from(tag) - 0x70)
            }
            0x78..=0x7f => Open::Values(u32::from(tag) - 0x78),
            _ => {
                let expected = "a value";
                return Err(Flaw::Tag { at, tag, expected });
            }
        };
        Ok(Head::Inside(inner))
    }

    fn object(&self, at: u32, index: i32) -> Result<Open, Flaw> {
        let defined = &self.fields[..self.class_defs];
        match usize::try_from(index).ok().and_then(|i| defined.get(i)) {
            Some(&fields) => Ok(Open::Values(fields.into())),
            None => Err(Flaw::UnknownClass { at, index }),
        }
    }
}

/// Whether a value comes next inside the open ones; closes those that are complete.
fn more_inside(open: &mut [Open; DEPTH_MAX], depth: &mut usize, cursor: &mut Cursor<'_>) -> Result<bool, Flaw> {
    while let Some(top) = depth.checked_sub(1) {
        match &mut open[top] {
            Open::Values(0) => *depth = top,
            // The last one: closed before it is read, see DEPTH_MAX.
            Open::Values(1) => {
                *depth = top;
                return Ok(true);
            }
            Open::Values(left) => {
                *left -= 1;
                return Ok(true);
            }
            value @ Open::MapValue => {
                *value = Open::MapKey;
                return Ok(true);
            }
            ended => {
                if cursor.peek()? != hessian::END {
                    if matches!(ended, Open::MapKey) {
                        *ended = Open::MapValue;
                    }
                    return Ok(true);
                }
                cursor.skip(1)?;
                *depth = top;
            }
        }
    }
    Ok(false)
}

/// Goes over a binary value behind the tag of its first chunk.
fn skip_chunks_of_binary(cursor: &mut Cursor<'_>, first: u8) -> Result<(), Flaw> {
    let mut tag = first;
    loop {
        let len = match tag {
            b'A' | b'B' => u16::from_be_bytes(cursor.array()?) as usize,
            0x20..=0x2f => tag as usize - 0x20,
            0x34..=0x37 => ((tag as usize - 0x34) << 8) | cursor.byte()? as usize,
            _ => {
                let at = cursor.at() - 1;
                let expected = "a chunk of bytes";
                return Err(Flaw::Tag { at, tag, expected });
            }
        };
        cursor.skip(len)?;
        if tag != b'A' {
            return Ok(());
        }
        tag = cursor.byte()?;
    }
}
