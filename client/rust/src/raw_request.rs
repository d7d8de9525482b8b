//! A raw call on its way to the own socket of an app (docs/spec/shm-v1.md §6.1): pieces, each behind its length, and a length of 0 behind
//! the last one. Bytes that simply end would make a request that was cut off look like a shorter one.

/// Of a piece's length, a u64.
pub(crate) const LEN_BYTES: usize = size_of::<u64>();

/// Appends what comes before a piece of so many bytes; before none at all, it is the end.
pub(crate) fn write_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

/// A request that comes in.
#[derive(Debug, Default)]
pub(crate) struct RawRequest {
    pub body: Vec<u8>,
    /// Bytes of the piece that is coming in.
    left: usize,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Whole,
    /// More has to come first.
    Part,
    /// There are more bytes in it than are allowed.
    TooLong,
}

impl RawRequest {
    /// Takes what belongs to it off the front of `input`. Of its bytes there may be `most`.
    pub fn take(&mut self, input: &mut Vec<u8>, most: usize) -> Taken {
        let mut at = 0;
        let taken = loop {
            let rest = &input[at..];
            if self.left > 0 {
                let here = rest.len().min(self.left);
                self.body.extend_from_slice(&rest[..here]);
                self.left -= here;
                at += here;
                if self.left > 0 {
                    break Taken::Part;
                }
                continue;
            }
            let Some(len) = rest.first_chunk() else { break Taken::Part };
            at += LEN_BYTES;
            match usize::try_from(u64::from_le_bytes(*len)) {
                Ok(0) => break Taken::Whole,
                Ok(len) if len <= most - self.body.len() => self.left = len,
                Ok(_) | Err(_) => break Taken::TooLong,
            }
        };
        input.drain(..at);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            write_len(&mut out, piece.len());
            out.extend_from_slice(piece);
        }
        write_len(&mut out, 0);
        out
    }

    #[test]
    fn it_is_whole_with_its_last_byte_however_it_comes() {
        for parts in [&[][..], &[&b"a"[..]], &[b"hello", b"you"]] {
            let sent = pieces(parts);
            for step in 1..=sent.len() {
                let (mut request, mut input) = (RawRequest::default(), Vec::new());
                let mut came = 0;
                for piece in sent.chunks(step) {
                    came += piece.len();
                    input.extend_from_slice(piece);
                    let expected = if came == sent.len() { Taken::Whole } else { Taken::Part };
                    assert_eq!(request.take(&mut input, 8), expected, "{came} of {}", sent.len());
                }
                assert_eq!((request.body, input.len()), (parts.concat(), 0));
            }
        }
    }

    #[test]
    fn what_follows_is_left_and_what_is_too_long_is_refused() {
        let mut input = [&pieces(&[b"one"])[..], b"two"].concat();
        let mut request = RawRequest::default();
        assert_eq!((request.take(&mut input, 3), &input[..]), (Taken::Whole, &b"two"[..]));
        for too_long in [pieces(&[b"four"]), pieces(&[b"one", b"1"]), u64::MAX.to_le_bytes().to_vec()] {
            assert_eq!(RawRequest::default().take(&mut too_long.clone(), 3), Taken::TooLong);
        }
    }
}
