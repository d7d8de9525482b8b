//! Takes the framing off a body, as its bytes arrive (RFC 9112 §6, §7.1).

mod rest;

use std::ops::Range;

use super::error::BodyError;
use super::head::BodyKind;
use super::octets::is_field_value;
use super::trailers::TrailerSection;

pub use rest::BodyRest;

/// Bytes of a chunk's size line, its extensions and CRLF included.
pub const CHUNK_LINE_BYTES_MAX: u16 = 4096;

/// Hexadecimal digits of a chunk size, leading zeros included.
const CHUNK_SIZE_DIGITS_MAX: u16 = 16;

/// Removes the framing of one body, incrementally. It holds no body data, and allocates only if
/// there are trailers.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    trailers: TrailerSection,
}

/// What one look at the input found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyStep {
    /// Bytes to take off the front of the input.
    pub consumed: usize,
    /// Which of these are body data.
    pub data: Range<usize>,
    /// The body ends with the last byte consumed; what follows is the next message.
    pub done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Done,
    Failed(BodyError),
    Length {
        left: u64,
    },
    UntilClose,
    ChunkSize {
        size: u64,
        line_bytes: u16,
    },
    /// White space behind the size; only an extension may follow it.
    ChunkSizeSpace {
        size: u64,
        line_bytes: u16,
    },
    ChunkExtension {
        size: u64,
        line_bytes: u16,
    },
    ChunkSizeLineFeed {
        size: u64,
    },
    ChunkData {
        left: u64,
    },
    ChunkDataReturn,
    ChunkDataLineFeed,
    Trailers,
}

impl BodyReader {
    pub fn new(kind: BodyKind) -> BodyReader {
        let state = match kind {
            BodyKind::None | BodyKind::Length(0) => State::Done,
            BodyKind::Length(left) => State::Length { left },
            BodyKind::Chunked => State::CHUNK_START,
            BodyKind::UntilClose => State::UntilClose,
        };
        BodyReader { state, trailers: TrailerSection::default() }
    }

    /// Looks at `input`; says what was consumed from its front and which part of that is body
    /// data. Call again with the rest until it consumes nothing.
    ///
    /// # Errors
    /// An error is final: every later call returns it again. Data in front of it in the same
    /// input may be lost, which does no harm, as the message cannot be completed.
    pub fn read(&mut self, input: &[u8]) -> Result<BodyStep, BodyError> {
        let mut consumed = 0;
        let mut data = 0..0;
        while let Some(left) = self.data_left() {
            if left > 0 {
                // A second run of data waits for the next call.
                if !data.is_empty() {
                    break;
                }
                let run = left.min((input.len() - consumed) as u64) as usize;
                data = consumed..consumed + run;
                consumed += run;
                self.data_taken(run as u64);
            }
            let Some(byte) = input.get(consumed) else {
                break;
            };
            if self.data_left() == Some(0) {
                self.state = self.framing(*byte).unwrap_or_else(State::Failed);
                consumed += 1;
            }
        }
        match self.state {
            State::Failed(error) => Err(error),
            state => Ok(BodyStep { consumed, data, done: state == State::Done }),
        }
    }

    /// Body data that comes next in any case, in front of whatever framing.
    pub fn run_left(&self) -> u64 {
        self.data_left().unwrap_or(0)
    }

    /// Body data that went elsewhere and is not shown to [`BodyReader::read`].
    ///
    /// # Panics
    /// If that is more than [`BodyReader::run_left`].
    pub fn skip(&mut self, count: u64) {
        assert!(count <= self.run_left(), "skip past the data");
        if count > 0 {
            self.data_taken(count);
        }
    }

    /// Whether the body has ended. A body without bytes is done at once; one until close never.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the message is whole if the peer closes now (RFC 9112 §8).
    pub fn may_end_here(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// The trailers of a body that is done, as lines `name: value\r\n`, ready for
    /// [`super::write_last_chunk`]. Those that may not be trailers (framing, routing, hop-by-hop,
    /// …) were dropped.
    pub fn trailers(&self) -> &[u8] {
        self.trailers.lines()
    }

    /// Body data that comes before the next byte of framing; 0 inside framing, `None` at the end.
    fn data_left(&self) -> Option<u64> {
        match self.state {
            State::Done | State::Failed(_) => None,
            State::Length { left } | State::ChunkData { left } => Some(left),
            State::UntilClose => Some(u64::MAX),
            _ => Some(0),
        }
    }

    fn data_taken(&mut self, count: u64) {
        self.state = match self.state {
            State::Length { left } if left == count => State::Done,
            State::Length { left } => State::Length { left: left - count },
            State::ChunkData { left } if left == count => State::ChunkDataReturn,
            State::ChunkData { left } => State::ChunkData { left: left - count },
            other => other,
        };
    }

    /// The state after one byte of framing.
    fn framing(&mut self, byte: u8) -> Result<State, BodyError> {
        match self.state {
            State::ChunkSize { size, line_bytes } => chunk_size(size, line_bytes, byte),
            State::ChunkSizeSpace { size, line_bytes } => {
                let line_bytes = longer(line_bytes)?;
                match byte {
                    b' ' | b'\t' => Ok(State::ChunkSizeSpace { size, line_bytes }),
                    b';' => Ok(State::ChunkExtension { size, line_bytes }),
                    b'\n' => Err(BodyError::BadLineEnd),
                    _ => Err(BodyError::BadChunkExtension),
                }
            }
            // Extensions are not looked into: a quoted string holds neither CR nor LF.
            State::ChunkExtension { size, line_bytes } => {
                let line_bytes = longer(line_bytes)?;
                match byte {
                    b'\r' => Ok(State::ChunkSizeLineFeed { size }),
                    b'\n' => Err(BodyError::BadLineEnd),
                    _ if is_field_value(byte) => Ok(State::ChunkExtension { size, line_bytes }),
                    _ => Err(BodyError::BadChunkExtension),
                }
            }
            State::ChunkSizeLineFeed { size } => match (byte, size) {
                (b'\n', 0) => Ok(State::Trailers),
                (b'\n', left) => Ok(State::ChunkData { left }),
                _ => Err(BodyError::BadLineEnd),
            },
            State::ChunkDataReturn if byte == b'\r' => Ok(State::ChunkDataLineFeed),
            State::ChunkDataLineFeed if byte == b'\n' => Ok(State::CHUNK_START),
            State::ChunkDataReturn | State::ChunkDataLineFeed => Err(BodyError::BadChunkEnd),
            State::Trailers => match self.trailers.take(byte)? {
                true => Ok(State::Done),
                false => Ok(State::Trailers),
            },
            // Only reached in framing.
            state => Ok(state),
        }
    }
}

impl State {
    const CHUNK_START: State = State::ChunkSize { size: 0, line_bytes: 0 };
}

/// `1*HEXDIG`, then an extension or the line's end.
fn chunk_size(size: u64, line_bytes: u16, byte: u8) -> Result<State, BodyError> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        let fits = line_bytes < CHUNK_SIZE_DIGITS_MAX && size <= (i64::MAX as u64) >> 4;
        return if fits {
            Ok(State::ChunkSize { size: size << 4 | u64::from(digit), line_bytes: line_bytes + 1 })
        } else {
            Err(BodyError::ChunkSizeTooLarge)
        };
    }
    let line_bytes = match line_bytes {
        0 => return Err(BodyError::BadChunkSize),
        digits => digits + 1,
    };
    match byte {
        b'\r' => Ok(State::ChunkSizeLineFeed { size }),
        b';' => Ok(State::ChunkExtension { size, line_bytes }),
        b' ' | b'\t' => Ok(State::ChunkSizeSpace { size, line_bytes }),
        b'\n' => Err(BodyError::BadLineEnd),
        _ => Err(BodyError::BadChunkSize),
    }
}

/// One more byte on a chunk's size line; the final LF is counted in.
fn longer(line_bytes: u16) -> Result<u16, BodyError> {
    if line_bytes + 2 > CHUNK_LINE_BYTES_MAX {
        return Err(BodyError::ChunkLineTooLong);
    }
    Ok(line_bytes + 1)
}
