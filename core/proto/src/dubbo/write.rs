//! The complete frames that shmesh makes itself.

use super::event::{Event, READ_ONLY, WRITEABLE};
use super::header::{FrameHeader, HEADER_LEN};
use super::serialization::{FASTJSON2, HESSIAN2};
use super::{hessian, jsonb, status};

/// Protocol version that requests name, Dubbo Java's own since 2.6.3 (`Version.DEFAULT_DUBBO_PROTOCOL_VERSION`).
const PROTOCOL_VERSION: &str = "2.0.2";

/// What Java sends as the version of a service that has none.
const NO_VERSION: &str = "0.0.0";

/// Result of a call (`DubboCodec.RESPONSE_*`). The forms without attachments are understood by every version of
/// Dubbo, so shmesh writes those.
pub(super) const RESULT_EXCEPTION: i32 = 0;
pub(super) const RESULT_VALUE: i32 = 1;
pub(super) const RESULT_NULL: i32 = 2;
/// Added to a result that attachments follow.
pub(super) const RESULT_WITH_ATTACHMENTS: i32 = 3;

/// Writes the answer to a call that shmesh ends itself: a status other than OK and a sentence.
///
/// It is in the serialization of the request if that is hessian2 or fastjson2, in hessian2 otherwise.
pub fn write_error(out: &mut Vec<u8>, request: &FrameHeader, status: u8, sentence: &str) {
    let header = request.answer(false, status, spoken(request.serialization));
    frame(out, header, |out| write_text(out, header.serialization, sentence));
}

/// Writes the answer to a heartbeat: the same id and a null body.
pub fn write_heartbeat_reply(out: &mut Vec<u8>, request: &FrameHeader) {
    let header = request.answer(true, status::OK, spoken(request.serialization));
    frame(out, header, |out| write_null(out, header.serialization));
}

/// Writes an event of our own: a heartbeat that wants an answer, or a one-way READONLY or WRITEABLE.
/// [`Event::Other`] is written as a one-way null, which nobody acts on.
pub fn write_event(out: &mut Vec<u8>, id: u64, serialization: u8, event: Event) {
    let header = FrameHeader {
        request: true,
        two_way: event == Event::Heartbeat,
        event: true,
        serialization: spoken(serialization),
        status: 0,
        id,
        body_len: 0,
    };
    frame(out, header, |out| match event {
        Event::ReadOnly => write_text(out, header.serialization, READ_ONLY),
        Event::Writeable => write_text(out, header.serialization, WRITEABLE),
        Event::Heartbeat | Event::Other => write_null(out, header.serialization),
    });
}

/// A call of a method that takes one string, or nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Invocation<'a> {
    /// The service's path, which is also sent as its interface.
    pub path: &'a str,
    pub version: Option<&'a str>,
    pub group: Option<&'a str>,
    pub method: &'a str,
    /// UTF-8 text, sent as the only argument, of type `java.lang.String`; what is malformed is sent as U+FFFD.
    /// `None`: the method takes no arguments.
    pub argument: Option<&'a [u8]>,
    /// How long the caller will wait, in milliseconds.
    pub timeout_ms: Option<u32>,
    /// Further attachments: names and texts.
    pub attachments: &'a [(&'a str, &'a str)],
}

/// Writes a request, with the attachments that Dubbo Java sends. Serializations other than hessian2 and fastjson2
/// are written as hessian2.
pub fn write_request(out: &mut Vec<u8>, id: u64, two_way: bool, serialization: u8, invocation: &Invocation<'_>) {
    let serialization = spoken(serialization);
    let header = FrameHeader { request: true, two_way, event: false, serialization, status: 0, id, body_len: 0 };
    let version = invocation.version.unwrap_or(NO_VERSION);
    let descriptor = match invocation.argument {
        Some(_) => "Ljava/lang/String;",
        None => "",
    };
    frame(out, header, |out| {
        for text in [PROTOCOL_VERSION, invocation.path, version, invocation.method, descriptor] {
            write_text(out, serialization, text);
        }
        if let Some(argument) = invocation.argument {
            write_text(out, serialization, &String::from_utf8_lossy(argument));
        }
        let timeout = invocation.timeout_ms.map(|ms| ms.to_string());
        let entries = [
            ("path", Some(invocation.path)),
            ("interface", Some(invocation.path)),
            ("version", Some(version)),
            ("timeout", timeout.as_deref()),
            ("group", invocation.group),
        ];
        let given = entries.into_iter().filter_map(|(key, value)| Some((key, value?)));
        write_map(out, serialization, given.chain(invocation.attachments.iter().copied()));
    });
}

/// Writes a response whose value is already encoded in the serialization of the request, such as what
/// [`first_argument`](super::first_argument) found.
pub fn write_value_response(out: &mut Vec<u8>, request: &FrameHeader, encoded_value: &[u8]) {
    let header = request.answer(false, status::OK, request.serialization);
    frame(out, header, |out| {
        write_result(out, header.serialization, RESULT_VALUE);
        out.extend(encoded_value);
    });
}

/// Writes the response of a method that returned null or nothing.
pub fn write_null_response(out: &mut Vec<u8>, request: &FrameHeader) {
    let header = request.answer(false, status::OK, spoken(request.serialization));
    frame(out, header, |out| write_result(out, header.serialization, RESULT_NULL));
}

/// Writes a frame: its header, whose `body_len` is filled in, and what `body` writes.
pub(super) fn frame(out: &mut Vec<u8>, mut header: FrameHeader, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; HEADER_LEN]);
    body(out);
    header.body_len = (out.len() - start - HEADER_LEN) as u32;
    out[start..start + HEADER_LEN].copy_from_slice(&header.encode());
}

/// The serialization in which shmesh answers: that of the request, if shmesh writes it.
fn spoken(serialization: u8) -> u8 {
    match serialization {
        FASTJSON2 => FASTJSON2,
        _ => HESSIAN2,
    }
}

fn write_text(out: &mut Vec<u8>, serialization: u8, text: &str) {
    match serialization {
        FASTJSON2 => jsonb::write_text_field(out, text),
        _ => hessian::write_text(out, text),
    }
}

fn write_null(out: &mut Vec<u8>, serialization: u8) {
    match serialization {
        FASTJSON2 => jsonb::write_field(out, |out| out.push(jsonb::NULL)),
        _ => out.push(hessian::NULL),
    }
}

fn write_map<'a>(out: &mut Vec<u8>, serialization: u8, entries: impl Iterator<Item = (&'a str, &'a str)>) {
    if serialization == FASTJSON2 {
        jsonb::write_field(out, |out| jsonb::write_map(out, entries));
        return;
    }
    out.push(hessian::UNTYPED_MAP);
    for (key, value) in entries {
        hessian::write_text(out, key);
        hessian::write_text(out, value);
    }
    out.push(hessian::END);
}

/// Results are small: one byte in hessian2; fastjson2 has it as an int8 (`writeByte`).
fn write_result(out: &mut Vec<u8>, serialization: u8, result: i32) {
    match serialization {
        FASTJSON2 => jsonb::write_field(out, |out| out.extend([jsonb::INT8, result as u8])),
        _ => out.push(0x90 + result as u8),
    }
}
