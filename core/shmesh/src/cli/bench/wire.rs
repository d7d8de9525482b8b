//! What differs between protocols: how a call is written, and how its answer is read and compared.

/// One protocol on one connection. Pure: bytes out, bytes in.
pub trait Wire: Send {
    /// Appends call `number`; numbers count up by one.
    fn request(&mut self, number: u64, out: &mut Vec<u8>);

    /// Takes what it can off the front of `input`, up to the end of one answer. `oldest` is the
    /// number of the oldest call without an answer. What must be said at once goes to `out`.
    ///
    /// # Errors
    /// The stream cannot be understood any more; a sentence.
    fn answer(&mut self, input: &[u8], oldest: Option<u64>, out: &mut Vec<u8>) -> Result<Step, String>;

    /// The answer that the end of the connection completes, if it does.
    fn end(&mut self) -> Option<Answer> {
        None
    }

    /// A new connection begins.
    fn reset(&mut self) {}
}

/// What was found at the front of the input.
#[derive(Debug, Default)]
pub struct Step {
    /// Bytes to take off.
    pub consumed: usize,
    /// Nothing, as long as `consumed` is 0, means that more bytes are needed.
    pub answer: Option<Answer>,
}

/// The answer to one call.
#[derive(Debug)]
pub struct Answer {
    pub number: u64,
    /// Why it is not the echo.
    pub fault: Option<String>,
    /// The service closes the connection after it.
    pub close: bool,
}

/// Said of an answer with other bytes than those that were sent.
pub const NOT_THE_ECHO: &str = "an answer was not the payload that was sent";

/// Said when bytes come that answer nothing.
pub fn unasked() -> String {
    "bytes came that answer no call".to_owned()
}
