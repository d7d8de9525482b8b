//! Raw payloads, back to back.

use super::payload::Payload;
use super::wire::{Answer, NOT_THE_ECHO, Step, Wire, unasked};

pub struct RawWire {
    payload: Payload,
    /// Of the answer that is coming in: bytes, and whether all were right.
    received: usize,
    right: bool,
}

impl RawWire {
    /// The payload has at least one byte: nothing else tells answers apart.
    pub fn new(payload: Payload) -> Self {
        Self { payload, received: 0, right: true }
    }
}

impl Wire for RawWire {
    fn request(&mut self, number: u64, out: &mut Vec<u8>) {
        self.payload.append(number, out);
    }

    fn answer(&mut self, input: &[u8], oldest: Option<u64>, _: &mut Vec<u8>) -> Result<Step, String> {
        if input.is_empty() {
            return Ok(Step::default());
        }
        let number = oldest.ok_or_else(unasked)?;
        let consumed = input.len().min(self.payload.len() - self.received);
        self.right &= self.payload.matches(number, self.received, &input[..consumed]);
        self.received += consumed;
        if self.received < self.payload.len() {
            return Ok(Step { consumed, answer: None });
        }
        let right = self.right;
        self.reset();
        Ok(Step {
            consumed,
            answer: Some(Answer { number, fault: (!right).then(|| NOT_THE_ECHO.to_owned()), close: false }),
        })
    }

    fn reset(&mut self) {
        self.received = 0;
        self.right = true;
    }
}
