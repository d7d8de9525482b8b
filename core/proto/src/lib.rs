//! Pure protocol codecs: bytes in, events out.
//!
//! Nothing here does I/O, reads a clock or keeps a connection: a codec is told
//! which bytes lie in front of it and says what they mean, where the message
//! ends, or what is wrong with it.

#![forbid(unsafe_code)]

pub mod dubbo;
pub mod http1;
pub mod span;

pub use span::Span;
