//! HTTP/1.1 heads and body framing (RFC 9110, RFC 9112), strict by default.
//!
//! Heads are read and bodies are moved: a head is parsed into [`Span`]s over the
//! caller's buffer, a body only has its framing taken off. What leaves is written
//! anew by [`write_request`] and [`write_response`], and the framing of what leaves
//! is always ours. Ambiguous framing is refused, never repaired and forwarded.
//!
//! ```
//! use shmesh_proto::http1::{BodyKind, HeadLimits, RequestHead, Status};
//!
//! let buf = b"PUT /a HTTP/1.1\r\nHost: reviews\r\nContent-Length: 3\r\n\r\nabc";
//! let mut head = RequestHead::default();
//! assert_eq!(head.parse(buf, &HeadLimits::default()), Ok(Status::Complete));
//! assert_eq!(head.authority.of(buf), b"reviews");
//! assert_eq!(head.body, BodyKind::Length(3));
//! assert_eq!(&buf[head.len as usize..], b"abc");
//! ```

mod authority;
mod body;
mod date;
mod error;
mod fields;
mod head;
mod hop;
mod lenient;
mod octets;
mod own;
mod request;
mod response;
mod trailers;
mod write;

pub use crate::span::Span;
pub use authority::authority_parts;
pub use body::{BodyReader, BodyRest, BodyStep, CHUNK_LINE_BYTES_MAX};
pub use date::Date;
pub use error::{BodyError, HeadError};
pub use head::{BodyKind, HeadLimits, Header, HeaderKind, Status, Version};
pub use hop::CONNECTION_OPTIONS_MAX;
pub use lenient::{Lenient, Mended};
pub use own::{OwnOut, reason_phrase, write_connected, write_own_response, write_reflection};
pub use request::{METHOD_BYTES_MAX, RequestHead, TargetForm};
pub use response::ResponseHead;
pub use trailers::{TRAILER_BYTES_MAX, TrailerRest};
pub use write::{
    CHUNK_END, CONTINUE, ConnectionOption, Framing, Remote, RequestOut, ResponseOut, chunk_line, end_head,
    write_last_chunk, write_request, write_response,
};

#[cfg(test)]
mod tests;
