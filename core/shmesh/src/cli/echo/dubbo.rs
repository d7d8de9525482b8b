//! The Dubbo echo: any method of any service returns its first argument, as it was encoded.

use shmesh_proto::dubbo::{
    FrameHeader, HEADER_LEN, PeekOutcome, SkipError, first_argument, peek_request, status, write_error,
    write_heartbeat_reply, write_null_response, write_value_response,
};

use super::{Progress, Service};

/// The longest request body, in bytes.
const BODY_BYTES_MAX: u32 = 64 * 1024 * 1024;

pub struct DubboEcho;

impl Service for DubboEcho {
    fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut consumed = 0;
        while let Some(header) = input[consumed..].first_chunk::<HEADER_LEN>() {
            let header = match FrameHeader::parse(header, BODY_BYTES_MAX) {
                Ok(header) => header,
                Err(error) => {
                    // Nothing after a frame that cannot be measured can be understood.
                    eprintln!("a connection was closed: {error}");
                    return Progress { consumed, close: true };
                }
            };
            let body_at = consumed + HEADER_LEN;
            let end = body_at + header.body_len as usize;
            let Some(body) = input.get(body_at..end) else {
                break;
            };
            answer(&header, body, out);
            consumed = end;
        }
        Progress { consumed, close: false }
    }
}

/// Appends the answer to one frame; events and one-way calls that want none get none.
pub fn answer(header: &FrameHeader, body: &[u8], out: &mut Vec<u8>) {
    if !header.request || !header.two_way {
        return;
    }
    if header.event {
        write_heartbeat_reply(out, header);
        return;
    }
    let value = match peek_request(header.serialization, body, true) {
        Ok(PeekOutcome::Done(peek)) => match first_argument(header.serialization, body, &peek) {
            Err(SkipError::NoArgument) => return write_null_response(out, header),
            argument => argument.map_err(|error| error.to_string()),
        },
        Ok(PeekOutcome::NeedMore) => Err("the request ends before its arguments".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match value {
        Ok(value) => write_value_response(out, header, value.of(body)),
        Err(sentence) => write_error(out, header, status::BAD_REQUEST, &sentence),
    }
}
