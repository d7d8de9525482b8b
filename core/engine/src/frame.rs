//! Dubbo frames out of a byte stream, each held whole.

use shmesh_io::Slice;
use shmesh_proto::dubbo::{FrameError, FrameHeader, HEADER_LEN};

/// Bytes that are set aside for a frame before any of them came; more is taken as they come.
const RESERVE_MAX: usize = 64 * 1024;

/// Collects one frame after the other.
#[derive(Default)]
pub struct FrameReader {
    /// Header of the frame whose body is incomplete.
    header: Option<FrameHeader>,
    /// The bytes of the header or of the body that came so far, when they came in pieces.
    held: Vec<u8>,
}

/// A whole frame.
pub struct Frame {
    pub header: FrameHeader,
    pub body: Slice,
}

impl FrameReader {
    /// Takes the next whole frame from the front of `input`; `None` when more bytes are needed, with all of `input` taken.
    pub fn next(&mut self, input: &mut Slice, body_max: u32) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => match self.read_header(input, body_max)? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let length = header.body_len as usize;
        if self.held.is_empty() && input.len() >= length {
            self.header = None;
            return Ok(Some(Frame { header, body: input.split_to(length) }));
        }
        self.header = Some(header);
        if self.held.is_empty() {
            self.held.reserve(length.min(RESERVE_MAX));
        }
        let missing = (length - self.held.len()).min(input.len());
        self.held.extend_from_slice(&input.as_slice()[..missing]);
        input.advance(missing);
        if self.held.len() < length {
            return Ok(None);
        }
        self.header = None;
        Ok(Some(Frame { header, body: Slice::from_vec(std::mem::take(&mut self.held)) }))
    }

    /// The header of the frame whose body is incomplete, and the bytes that came of what is incomplete.
    pub fn rest(&self) -> (Option<FrameHeader>, &[u8]) {
        (self.header, &self.held)
    }

    /// Goes on where another process stopped.
    pub fn go_on(header: Option<FrameHeader>, held: Vec<u8>) -> FrameReader {
        FrameReader { header, held }
    }

    fn read_header(&mut self, input: &mut Slice, body_max: u32) -> Result<Option<FrameHeader>, FrameError> {
        if self.held.is_empty()
            && let Some(bytes) = input.as_slice().first_chunk::<HEADER_LEN>()
        {
            let header = FrameHeader::parse(bytes, body_max)?;
            input.advance(HEADER_LEN);
            return Ok(Some(header));
        }
        let missing = (HEADER_LEN - self.held.len()).min(input.len());
        self.held.extend_from_slice(&input.as_slice()[..missing]);
        input.advance(missing);
        let Some(bytes) = self.held.first_chunk::<HEADER_LEN>() else {
            // A wrong magic is refused at once: who speaks another protocol may never send sixteen bytes.
            let mut probe = [0u8; HEADER_LEN];
            probe[..2].copy_from_slice(&[0xda, 0xbb]);
            let known = self.held.len().min(2);
            probe[..known].copy_from_slice(&self.held[..known]);
            FrameHeader::parse(&probe, body_max)?;
            return Ok(None);
        };
        let header = FrameHeader::parse(bytes, body_max)?;
        self.held.clear();
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64, body: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            request: true,
            two_way: true,
            event: false,
            serialization: 2,
            status: 0,
            id,
            body_len: body.len() as u32,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn frames_come_out_whole_however_they_came_in() {
        let mut stream = frame(1, b"");
        stream.extend(frame(2, b"hello"));
        stream.extend(frame(3, &[7; 300]));
        for step in 1..stream.len() {
            let mut reader = FrameReader::default();
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                let mut input = Slice::from_vec(piece.to_vec());
                while let Some(frame) = reader.next(&mut input, 1000).unwrap() {
                    got.push((frame.header.id, frame.body.as_slice().to_vec()));
                }
                assert!(input.is_empty());
            }
            assert_eq!(got, [(1, vec![]), (2, b"hello".to_vec()), (3, vec![7; 300])], "step {step}");
        }
    }

    #[test]
    fn another_protocol_is_refused_at_its_first_byte() {
        let mut reader = FrameReader::default();
        assert!(reader.next(&mut Slice::from_vec(b"G".to_vec()), 1000).is_err());
    }
}
