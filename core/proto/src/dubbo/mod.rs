//! Dubbo2: frame headers, the strings that routing looks at, and the few frames that shmesh writes itself.
//!
//! A frame is a 16-byte [`FrameHeader`] and a body in one of several serializations. A proxy reads the header, peeks
//! at the strings in front of a request's arguments ([`peek_request`]), and moves the rest. Only a route that asks
//! for something in the attachments, which lie behind the arguments, makes it walk over them ([`attachment`]), with
//! a walker that builds no objects and is bounded in depth, class definitions and bytes.
//!
//! Sources: `ExchangeCodec`, `DubboCodec`, `DecodeableRpcInvocation` of Dubbo Java 3.3; `Hessian2Input` and
//! `Hessian2Output` of hessian-lite 4.0; `JSONB` of fastjson2 2.0.

mod cursor;
mod event;
mod extension;
mod flaw;
mod header;
mod hessian;
mod hessian_walker;
mod jsonb;
mod jsonb_walker;
mod reply;
mod request;
mod strings;
mod write;

#[cfg(test)]
mod tests;

pub use event::{Event, event};
pub use extension::{
    EXTENSION_BYTES_MAX, EXTENSION_VERSION, Extension, ExtensionError, ExtensionWriter, Said, agrees_to_extension,
    is_of_extension_offer, write_extension_answer, write_extension_offer,
};
pub use flaw::{Flaw, PeekError, ReplyError, SkipError};
pub use header::{DEFAULT_MAX_BODY, FrameError, FrameHeader, HEADER_LEN, ID_AT, MAGIC};
pub use hessian_walker::{CLASS_DEFS_MAX, DEPTH_MAX, FIELDS_MAX};
pub use reply::{Reply, read_reply};
pub use request::{
    ARGUMENTS_MAX, PEEK_BYTES_MAX, Peek, PeekOutcome, attachment, attachments, first_argument, peek_request,
    service_version,
};
pub use write::{
    Invocation, write_error, write_event, write_heartbeat_reply, write_null_response, write_request,
    write_value_response,
};

/// How a body is written: the low five bits of a header's flags (`Constants` in dubbo-serialization-api).
pub mod serialization {
    pub const HESSIAN2: u8 = 2;
    pub const JAVA: u8 = 3;
    pub const COMPACTED_JAVA: u8 = 4;
    pub const FASTJSON: u8 = 6;
    pub const NATIVE_JAVA: u8 = 7;
    pub const KRYO: u8 = 8;
    pub const FST: u8 = 9;
    pub const PROTOSTUFF: u8 = 12;
    pub const GSON: u8 = 16;
    pub const PROTOBUF_JSON: u8 = 21;
    pub const PROTOBUF: u8 = 22;
    pub const FASTJSON2: u8 = 23;
    pub const MSGPACK: u8 = 27;
    pub const FURY: u8 = 28;
    /// Not a serialization of Dubbo's: between sidecars that agreed on it, the body starts with an extension header.
    pub const EXTENSION: u8 = 31;
}

/// Status of a response (`org.apache.dubbo.remoting.exchange.Response`). Any but [`OK`](status::OK) carries one
/// string as its body; an exception of the business method is `OK`.
pub mod status {
    pub const OK: u8 = 20;
    pub const SERIALIZATION_ERROR: u8 = 25;
    pub const CLIENT_TIMEOUT: u8 = 30;
    pub const SERVER_TIMEOUT: u8 = 31;
    pub const CHANNEL_INACTIVE: u8 = 35;
    pub const BAD_REQUEST: u8 = 40;
    pub const BAD_RESPONSE: u8 = 50;
    pub const SERVICE_NOT_FOUND: u8 = 60;
    pub const SERVICE_ERROR: u8 = 70;
    pub const SERVER_ERROR: u8 = 80;
    pub const CLIENT_ERROR: u8 = 90;
    pub const THREADPOOL_EXHAUSTED: u8 = 100;
}
