//! Dubbo calls, any number on one connection, told apart by their ids.

use shmesh_proto::dubbo::{
    FrameHeader, HEADER_LEN, Invocation, Reply, read_reply, serialization, status, write_heartbeat_reply, write_request,
};

use super::payload::Payload;
use super::wire::{Answer, NOT_THE_ECHO, Step, Wire};

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u32 = 128 * 1024 * 1024;

/// What is called. The payload is the call's one argument, a string of printable ASCII.
#[derive(Clone, Debug)]
pub struct Target {
    pub interface: String,
    pub method: String,
    pub group: Option<String>,
    pub version: Option<String>,
}

impl Target {
    /// Appends the frame of call `number`. `scratch` is reused for the payload.
    pub fn append(&self, number: u64, payload: &Payload, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        scratch.clear();
        payload.append(number, scratch);
        let invocation = Invocation {
            path: &self.interface,
            version: self.version.as_deref(),
            group: self.group.as_deref(),
            method: &self.method,
            argument: Some(scratch),
            ..Invocation::default()
        };
        write_request(out, number, true, serialization::HESSIAN2, &invocation);
    }
}

pub struct DubboWire {
    target: Target,
    payload: Payload,
    scratch: Vec<u8>,
}

impl DubboWire {
    pub fn new(target: Target, payload: Payload) -> Self {
        Self { target, payload, scratch: Vec::new() }
    }
}

impl Wire for DubboWire {
    fn request(&mut self, number: u64, out: &mut Vec<u8>) {
        self.target.append(number, &self.payload, &mut self.scratch, out);
    }

    fn answer(&mut self, input: &[u8], _: Option<u64>, out: &mut Vec<u8>) -> Result<Step, String> {
        let Some(header) = input.first_chunk::<HEADER_LEN>() else {
            return Ok(Step::default());
        };
        let header = FrameHeader::parse(header, ANSWER_BYTES_MAX)
            .map_err(|error| format!("an answer was not Dubbo: {error}"))?;
        let consumed = HEADER_LEN + header.body_len as usize;
        let Some(body) = input.get(HEADER_LEN..consumed) else {
            return Ok(Step::default());
        };
        let mut answer = None;
        if header.request {
            if header.is_heartbeat() {
                write_heartbeat_reply(out, &header);
            }
        } else if !header.event {
            answer =
                Some(Answer { number: header.id, fault: fault(&header, body, header.id, &self.payload), close: false });
        }
        Ok(Step { consumed, answer })
    }
}

/// Why an answer is not the echo of call `number`.
pub fn fault(header: &FrameHeader, body: &[u8], number: u64, payload: &Payload) -> Option<String> {
    if short_string(header, body, payload.len()).is_some_and(|text| payload.matches(number, 0, text)) {
        return None;
    }
    match read_reply(header, body) {
        Ok(Reply::Value(text)) if text.len() == payload.len() && payload.matches(number, 0, text.as_bytes()) => None,
        Ok(Reply::Error { status, sentence }) => Some(format!("dubbo status {status}: {sentence}")),
        Ok(Reply::Exception(text)) => Some(format!("the method threw {text}")),
        Ok(Reply::Value(_) | Reply::Null) => Some(NOT_THE_ECHO.to_owned()),
        Err(error) => Some(format!("an answer cannot be read: {error}")),
    }
}

/// The text of a value of `len` ASCII bytes as every Hessian encoder writes short ones (results 1
/// and 4 of `DubboCodec`, compact strings of Hessian 2.0 §4.14). Anything else is left to the decoder.
fn short_string<'a>(header: &FrameHeader, body: &'a [u8], len: usize) -> Option<&'a [u8]> {
    if header.status != status::OK || header.serialization != serialization::HESSIAN2 {
        return None;
    }
    let (flag, value) = body.split_first()?;
    if *flag != 0x91 && *flag != 0x94 {
        return None;
    }
    let text = match (len, value) {
        (0..=31, [tag, text @ ..]) if usize::from(*tag) == len => text,
        (32..=1023, [tag @ 0x30..=0x33, low, text @ ..]) if usize::from(tag - 0x30) << 8 | usize::from(*low) == len => {
            text
        }
        _ => return None,
    };
    text.get(..len)
}
