//! A Dubbo header that was read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, event, read_reply};

const BODY_MAX: u32 = 8 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = input.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(parsed) = FrameHeader::parse(header, BODY_MAX) else { return };
    assert!(parsed.body_len <= BODY_MAX);
    assert_eq!(FrameHeader::parse(&parsed.encode(), BODY_MAX), Ok(parsed));
    let body = &body[..body.len().min(parsed.body_len as usize)];
    if parsed.event {
        let _ = event(&parsed, body);
    } else if !parsed.request {
        let _ = read_reply(&parsed, body);
    }
});
