//! The raw echo: bytes go back as they come.

use super::{Progress, Service};

pub struct RawEcho;

impl Service for RawEcho {
    fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        out.extend_from_slice(input);
        Progress { consumed: input.len(), close: false }
    }
}
