//! A body between two processes: what a reader knew, as plain numbers, so that another goes on with the next byte.

use super::{BodyError, BodyReader, State};
use crate::http1::trailers::{TrailerRest, TrailerSection};

/// What a [`BodyReader`] knew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyRest {
    /// Which of its states.
    pub state: u32,
    /// Bytes of data that are left, or a chunk's size as far as it was read.
    pub number: u64,
    /// Bytes of the chunk's size line.
    pub line_bytes: u16,
    pub trailers: TrailerRest,
}

impl BodyReader {
    /// What another process needs to go on.
    pub fn rest(&self) -> BodyRest {
        let (state, number, line_bytes) = match self.state {
            State::Done => (0, 0, 0),
            State::Failed(_) => (1, 0, 0),
            State::Length { left } => (2, left, 0),
            State::UntilClose => (3, 0, 0),
            State::ChunkSize { size, line_bytes } => (4, size, line_bytes),
            State::ChunkSizeSpace { size, line_bytes } => (5, size, line_bytes),
            State::ChunkExtension { size, line_bytes } => (6, size, line_bytes),
            State::ChunkSizeLineFeed { size } => (7, size, 0),
            State::ChunkData { left } => (8, left, 0),
            State::ChunkDataReturn => (9, 0, 0),
            State::ChunkDataLineFeed => (10, 0, 0),
            State::Trailers => (11, 0, 0),
        };
        BodyRest { state, number, line_bytes, trailers: self.trailers.rest() }
    }

    /// Goes on where another process stopped; nothing if that cannot have been. (Why a body failed is forgotten.)
    pub fn go_on(rest: &BodyRest) -> Option<BodyReader> {
        let &BodyRest { state, number, line_bytes, .. } = rest;
        let state = match state {
            0 => State::Done,
            1 => State::Failed(BodyError::BadChunkEnd),
            2 => State::Length { left: number },
            3 => State::UntilClose,
            4 => State::ChunkSize { size: number, line_bytes },
            5 => State::ChunkSizeSpace { size: number, line_bytes },
            6 => State::ChunkExtension { size: number, line_bytes },
            7 => State::ChunkSizeLineFeed { size: number },
            8 => State::ChunkData { left: number },
            9 => State::ChunkDataReturn,
            10 => State::ChunkDataLineFeed,
            11 => State::Trailers,
            _ => return None,
        };
        Some(BodyReader { state, trailers: TrailerSection::go_on(&rest.trailers)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::BodyKind;

    fn read_all(kind: BodyKind, input: &[u8], moved_at: usize) -> (Vec<u8>, bool, Vec<u8>, usize) {
        let mut reader = BodyReader::new(kind);
        let (mut data, mut at, mut moved) = (Vec::new(), 0, false);
        loop {
            if at >= moved_at && !moved {
                moved = true;
                reader = BodyReader::go_on(&reader.rest()).expect("a state of a reader");
            }
            let end = if moved { input.len() } else { moved_at };
            let step = reader.read(&input[at..end]).expect("valid");
            data.extend_from_slice(&input[at..end][step.data]);
            at += step.consumed;
            if step.done || step.consumed == 0 && moved {
                return (data, reader.is_done(), reader.trailers().to_vec(), at);
            }
        }
    }

    #[test]
    fn goes_on_at_any_byte() {
        let chunked: &[u8] =
            b"5;a=b\r\nhello\r\n1 ; c\r\n!\r\n000\r\nX-One: 1\r\nVia: gone\r\nX-Two:  two \r\n\r\nnext";
        for (kind, input) in [
            (BodyKind::Chunked, chunked),
            (BodyKind::Length(7), &b"1234567next"[..]),
            (BodyKind::UntilClose, b"everything"),
            (BodyKind::None, b"next"),
        ] {
            let whole = read_all(kind, input, 0);
            for at in 0..=whole.3 {
                assert_eq!(read_all(kind, input, at), whole, "{kind:?} moved at {at}");
            }
        }
    }

    #[test]
    fn states_that_are_not_known_are_refused() {
        assert!(BodyReader::go_on(&BodyRest { state: 12, ..BodyRest::default() }).is_none());
        let trailers = TrailerRest { lines: b"a".to_vec(), line_start: 2, ..TrailerRest::default() };
        assert!(BodyReader::go_on(&BodyRest { trailers, ..BodyRest::default() }).is_none());
        let trailers = TrailerRest { place: 6, ..TrailerRest::default() };
        assert!(BodyReader::go_on(&BodyRest { trailers, ..BodyRest::default() }).is_none());
    }
}
