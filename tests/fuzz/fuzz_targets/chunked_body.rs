//! A chunked body means the same however its bytes are cut up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_proto::http1::{BodyError, BodyKind, BodyReader};

/// What a body is: its bytes, how many bytes of input it took, and whether it is whole.
type Meaning = Result<(Vec<u8>, usize, bool), BodyError>;

fuzz_target!(|input: &[u8]| {
    let Some((&step, input)) = input.split_first() else { return };
    let whole = read(input, input.len().max(1));
    let cut = read(input, usize::from(step % 17) + 1);
    assert_eq!(whole, cut);
});

/// Reads pieces of this many bytes.
fn read(input: &[u8], step: usize) -> Meaning {
    let mut reader = BodyReader::new(BodyKind::Chunked);
    let (mut body, mut taken) = (Vec::new(), 0);
    for piece in input.chunks(step) {
        let mut rest = piece;
        loop {
            let looked = reader.read(rest)?;
            assert!(looked.consumed <= rest.len() && looked.data.end <= looked.consumed);
            body.extend_from_slice(&rest[looked.data.clone()]);
            taken += looked.consumed;
            rest = &rest[looked.consumed..];
            if looked.done {
                assert!(reader.is_done());
                return Ok((body, taken, true));
            }
            if looked.consumed == 0 || rest.is_empty() {
                break;
            }
        }
    }
    Ok((body, taken, false))
}
