//! Every golden vector of `tests/vectors/dubbo2.md`, which Dubbo's own encoders made.

use crate::Span;
use crate::dubbo::cursor::Cursor;
use crate::dubbo::hessian::{self, Text};
use crate::dubbo::*;

/// A vector of the page: its name and its bytes.
pub(super) struct Vector {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Vector {
    pub fn is_frame(&self) -> bool {
        self.bytes.starts_with(&MAGIC)
    }

    pub fn header(&self) -> FrameHeader {
        let header = self.bytes.first_chunk().expect("16 bytes");
        FrameHeader::parse(header, DEFAULT_MAX_BODY).expect(&self.name)
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..]
    }
}

/// Reads the fenced blocks of the page: a line `# NAME key=value…`, then a line of hex.
pub(super) fn vectors() -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/dubbo2.md");
    let page = std::fs::read_to_string(path).expect(path);
    let mut vectors = Vec::new();
    for block in page.split("```\n").skip(1).step_by(2) {
        let mut lines = block.lines();
        let first = lines.next().expect("a block has lines");
        let (title, hex) = match first.strip_prefix("# ") {
            Some(title) => (title, lines.next().expect("hex follows the name")),
            None => ("", first),
        };
        let mut words = title.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let bytes = unhex(hex);
        for word in words {
            match word.split_once('=') {
                Some(("total", total)) => assert_eq!(total, bytes.len().to_string(), "{name}"),
                Some(("body", body)) if bytes.starts_with(&MAGIC) => {
                    assert_eq!(body, (bytes.len() - HEADER_LEN).to_string(), "{name}");
                }
                _ => {}
            }
        }
        vectors.push(Vector { name, bytes });
    }
    vectors
}

pub(super) fn vector(name: &str) -> Vector {
    let mut all = vectors().into_iter();
    all.find(|vector| vector.name == name).expect(name)
}

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect(hex)).collect()
}

/// What the page says about a request.
struct Call {
    service_version: Option<&'static str>,
    group: Option<&'static str>,
    two_way: bool,
    id: u64,
}

fn call(name: &str) -> Option<Call> {
    let (service_version, group, two_way, id) = match name {
        "REQ_H2" | "REQ_FJ2" => (Some("1.0.0"), Some("g1"), true, 1),
        "REQ_H2_NOGROUP" => (None, None, true, 2),
        "REQ_H2_ONEWAY" => (None, None, false, 3),
        "REQ_H2_NULLVER" => (None, None, true, 4),
        _ => return None,
    };
    Some(Call { service_version, group, two_way, id })
}

/// What the page says about a response.
fn answer(name: &str) -> Option<Reply> {
    let value = |text: &str| Reply::Value(text.to_owned());
    Some(match name {
        "RESP_OK4" | "RESP_OK1" | "RESP_FJ2_OK4" => value("hello shmesh"),
        "CAPTURED_H2_SAYHELLO_RESP" | "CAPTURED_FJ2_SAYHELLO_RESP" => value("hello shmesh"),
        "CAPTURED_H2_JOIN_RESP" | "CAPTURED_FJ2_JOIN_RESP" => {
            value("-7 1099511627776 2.5 true text [1, 70000] m:Mina p:Ada")
        }
        "CAPTURED_H2_PERSON_RESP" => value("<hessian2 value, 342 bytes>"),
        "CAPTURED_FJ2_PERSON_RESP" => value("<fastjson2 value, 315 bytes>"),
        "RESP_NULL5" | "RESP_NULL2" => Reply::Null,
        "RESP_EXC3" | "RESP_EXC0" => Reply::Exception("java.lang.RuntimeException: boom".to_owned()),
        "RESP_ERR70" => Reply::Error { status: status::SERVICE_ERROR, sentence: "boom".to_owned() },
        "RESP_ERR40" => Reply::Error { status: status::BAD_REQUEST, sentence: "bad request".to_owned() },
        _ => return None,
    })
}

fn said(name: &str) -> Option<Event> {
    Some(match name {
        // The one without a name is the heartbeat answer of Go and MOSN.
        "HB_REQ" | "HB_RESP" | "HB_REQ_FJ2" | "HB_RESP_FJ2" | "" => Event::Heartbeat,
        "CAPTURED_H2_HB" | "CAPTURED_H2_HB_RESP" => Event::Heartbeat,
        "CAPTURED_FJ2_HB" | "CAPTURED_FJ2_HB_RESP" => Event::Heartbeat,
        "READONLY" => Event::ReadOnly,
        "WRITEABLE" => Event::Writeable,
        _ => return None,
    })
}

#[test]
fn every_vector_is_known_and_says_what_the_page_says() {
    let all = vectors();
    assert!(all.len() >= 49, "only {} vectors were found", all.len());
    for vector in &all {
        let name = vector.name.as_str();
        if !vector.is_frame() {
            check_fragment(name, &vector.bytes);
            continue;
        }
        let header = vector.header();
        assert_eq!(header.body_len as usize, vector.body().len(), "{name}");
        assert_eq!(header.encode(), vector.bytes[..HEADER_LEN], "{name}");
        if let Some(call) = call(name) {
            check_call(name, &header, vector.body(), &call);
        } else if let Some(reply) = answer(name) {
            assert!(!header.request && !header.event, "{name}");
            assert_eq!(read_reply(&header, vector.body()), Ok(reply), "{name}");
        } else if let Some(event_said) = said(name) {
            assert!(header.event, "{name}");
            assert_eq!(event(&header, vector.body()), event_said, "{name}");
        } else if let Some(request) = captured(name) {
            check_captured(name, &header, vector.body(), request);
        } else {
            panic!("no test knows the vector {name}");
        }
    }
}

fn check_call(name: &str, header: &FrameHeader, body: &[u8], call: &Call) {
    assert!(header.request && !header.event, "{name}");
    assert_eq!((header.two_way, header.id), (call.two_way, call.id));
    let peek = done(peek_request(header.serialization, body, true));
    let said = |span: Span| std::str::from_utf8(span.of(body)).expect(name);
    assert_eq!(said(peek.dubbo_version), "2.0.2", "{name}");
    assert_eq!(said(peek.path), "com.demo.GreetService", "{name}");
    assert_eq!(said(peek.method), "sayHello", "{name}");
    assert_eq!(said(peek.descriptor), "Ljava/lang/String;", "{name}");
    let version = service_version(&peek, body).map(<[u8]>::to_vec);
    assert_eq!(version.as_deref(), call.service_version.map(str::as_bytes));
    assert_eq!(peek.version.is_none(), name == "REQ_H2_NULLVER");

    let keys = ["group", "path", "timeout", "absent"];
    let mut values = [None; 4];
    attachments(header.serialization, body, &peek, &keys, &mut values).expect(name);
    let values = values.map(|value| value.map(said));
    let expected = [call.group, Some("com.demo.GreetService"), Some("1000"), None];
    assert_eq!(values, expected, "{name}");
    let group = attachment(header.serialization, body, &peek, "group");
    assert_eq!(group.expect(name).map(said), call.group);

    let argument = first_argument(header.serialization, body, &peek).expect(name);
    let argument = argument.of(body);
    match header.serialization {
        serialization::HESSIAN2 => assert_eq!(argument, b"\x06shmesh"),
        _ => assert_eq!(argument, b"\0\0\0\x07\x4fshmesh"),
    }
    let mut echo = Vec::new();
    write_value_response(&mut echo, header, argument);
    let (header, body) = echo.split_first_chunk().expect("a frame");
    let header = FrameHeader::parse(header, DEFAULT_MAX_BODY).expect("a frame");
    assert_eq!(header.id, call.id);
    assert_eq!(read_reply(&header, body), Ok(Reply::Value("shmesh".to_owned())));
}

/// A request of a live Dubbo Java: method, parameter descriptor and length of the encoded first argument.
fn captured(name: &str) -> Option<(&'static str, &'static str, usize)> {
    let join = "IJDZLjava/lang/String;[ILjava/util/Map;";
    Some(match name {
        "CAPTURED_H2_SAYHELLO" => ("sayHello", "Ljava/lang/String;", 7),
        "CAPTURED_H2_PERSON" => ("samePerson", "Lcom/demo/Person;", 342),
        "CAPTURED_H2_JOIN" => ("join", join, 1),
        "CAPTURED_FJ2_SAYHELLO" => ("sayHello", "Ljava/lang/String;", 4 + 7),
        "CAPTURED_FJ2_PERSON" => ("samePerson", "Lcom/demo/Person;", 4 + 315),
        "CAPTURED_FJ2_JOIN" => ("join", join, 4 + 1),
        _ => return None,
    })
}

fn check_captured(name: &str, header: &FrameHeader, body: &[u8], (method, descriptor, first): (&str, &str, usize)) {
    let peek = done(peek_request(header.serialization, body, true));
    let said = |span: Span| std::str::from_utf8(span.of(body)).expect(name);
    assert_eq!(said(peek.path), "com.demo.GreetService", "{name}");
    assert_eq!(service_version(&peek, body), Some(&b"1.0.0"[..]), "{name}");
    assert_eq!(said(peek.method), method, "{name}");
    assert_eq!(said(peek.descriptor), descriptor, "{name}");
    let keys = ["group", "interface", "remote.application"];
    let mut values = [None; 3];
    attachments(header.serialization, body, &peek, &keys, &mut values).expect(name);
    let expected = ["g1", "com.demo.GreetService", "caller"].map(Some);
    assert_eq!(values.map(|value| value.map(said)), expected, "{name}");
    let argument = first_argument(header.serialization, body, &peek).expect(name);
    assert_eq!(argument.len(), first, "{name}");
}

/// The vectors that are no frames: texts and maps.
fn check_fragment(name: &str, bytes: &[u8]) {
    match name {
        "NULLSTR" => assert_eq!(hessian::text(&mut Cursor::new(bytes, 0)), Ok(Text::Null)),
        "STR_LATIN" => check_text(bytes, "\u{e9}"),
        "STR_CN" => check_text(bytes, "中文"),
        "STR_EMOJI" => check_text(bytes, "\u{1f600}"),
        "STR_IFACE51" => check_text(bytes, "com.alibaba.nacos.example.dubbo.service.DemoService"),
        "MAP_EMPTY" => check_map(bytes, None),
        "MAP_LINKED" | "MAP_TREE" => check_map(bytes, Some(b"g1")),
        "FJ2_STR47" => check_jsonb_text(bytes, &"a".repeat(47)),
        "FJ2_STR48" => check_jsonb_text(bytes, &"a".repeat(48)),
        // The page gives only the front of this one.
        "FJ2_STR300" => {
            let mut whole = bytes.to_vec();
            whole.resize(4 + 0x12f, b'a');
            check_jsonb_text(&whole, &"a".repeat(300));
        }
        "FJ2_UTF8" => {
            let text = jsonb::text_field(&mut Cursor::new(bytes, 0));
            let text = text.expect(name).expect(name);
            assert_eq!(text.decode(bytes), "中文");
            assert!(text.says(bytes, "中文") && !text.says(bytes, "中"));
            assert!(text.comparable(bytes).is_err());
        }
        _ => panic!("no test knows the vector {name}"),
    }
}

fn check_text(bytes: &[u8], text: &str) {
    let mut cursor = Cursor::new(bytes, 0);
    let Ok(Text::Whole(span)) = hessian::text(&mut cursor) else {
        panic!("{text} is not read");
    };
    assert!(cursor.is_at_end());
    assert_eq!(hessian::decode_text(span.of(bytes).to_vec()), text);
    let mut written = Vec::new();
    hessian::write_text(&mut written, text);
    assert_eq!(written, bytes);
}

fn check_jsonb_text(bytes: &[u8], text: &str) {
    let mut cursor = Cursor::new(bytes, 0);
    let read = jsonb::text_field(&mut cursor).expect(text).expect(text);
    assert!(cursor.is_at_end());
    assert_eq!(read.comparable(bytes).map(|span| span.of(bytes)), Ok(text.as_bytes()));
    let mut written = Vec::new();
    jsonb::write_text_field(&mut written, text);
    assert_eq!(written, bytes);
}

/// The map stands behind a request without arguments.
fn check_map(map: &[u8], group: Option<&[u8]>) {
    let mut body = b"\x052.0.2\x01p\x00\x01m\x00".to_vec();
    body.extend(map);
    let peek = done(peek_request(serialization::HESSIAN2, &body, true));
    let value = attachment(serialization::HESSIAN2, &body, &peek, "group");
    assert_eq!(value.map(|span| span.map(|s| s.of(&body))), Ok(group));
}

pub(super) fn done(outcome: Result<PeekOutcome, PeekError>) -> Peek {
    match outcome {
        Ok(PeekOutcome::Done(peek)) => peek,
        other => panic!("not peeked: {other:?}"),
    }
}

#[test]
fn what_shmesh_writes_is_what_java_writes() {
    let greet = Invocation {
        path: "com.demo.GreetService",
        version: Some("1.0.0"),
        group: Some("g1"),
        method: "sayHello",
        argument: Some(b"shmesh"),
        timeout_ms: Some(1000),
        attachments: &[],
    };
    let plain = Invocation { version: None, group: None, ..greet };
    let request = |name| vector(name).header();
    type Write<'a> = &'a dyn Fn(&mut Vec<u8>);
    let written: [(&str, Write<'_>); 14] = [
        ("REQ_H2", &|out| write_request(out, 1, true, serialization::HESSIAN2, &greet)),
        ("REQ_H2_NOGROUP", &|out| write_request(out, 2, true, serialization::HESSIAN2, &plain)),
        ("REQ_H2_ONEWAY", &|out| write_request(out, 3, false, serialization::HESSIAN2, &plain)),
        ("REQ_FJ2", &|out| write_request(out, 1, true, serialization::FASTJSON2, &greet)),
        ("RESP_OK1", &|out| write_value_response(out, &request("REQ_H2"), b"\x0chello shmesh")),
        ("RESP_NULL2", &|out| write_null_response(out, &request("REQ_H2"))),
        ("RESP_ERR70", &|out| write_error(out, &request("REQ_H2"), status::SERVICE_ERROR, "boom")),
        ("RESP_ERR40", &|out| write_error(out, &request("REQ_H2"), status::BAD_REQUEST, "bad request")),
        ("HB_REQ", &|out| write_event(out, 5, serialization::HESSIAN2, Event::Heartbeat)),
        ("HB_RESP", &|out| write_heartbeat_reply(out, &request("HB_REQ"))),
        ("READONLY", &|out| write_event(out, 6, serialization::HESSIAN2, Event::ReadOnly)),
        ("WRITEABLE", &|out| write_event(out, 6, serialization::HESSIAN2, Event::Writeable)),
        ("HB_REQ_FJ2", &|out| write_event(out, 5, serialization::FASTJSON2, Event::Heartbeat)),
        ("HB_RESP_FJ2", &|out| write_heartbeat_reply(out, &request("HB_REQ_FJ2"))),
    ];
    for (name, write) in written {
        // Something is in front, as when frames are gathered into one buffer.
        let mut out = b"front".to_vec();
        write(&mut out);
        assert_eq!(&out[5..], vector(name).bytes, "{name}");
    }
}

#[test]
fn a_truncated_request_needs_more_or_is_refused() {
    let is_request = |name: &str| call(name).is_some() || captured(name).is_some();
    let requests = vectors().into_iter().filter(|v| is_request(&v.name));
    for vector in requests {
        let serialization = vector.header().serialization;
        let whole = vector.body();
        let peek = done(peek_request(serialization, whole, true));
        for cut in 0..whole.len() {
            let body = &whole[..cut];
            let partial = peek_request(serialization, body, false);
            let complete = peek_request(serialization, body, true);
            if cut < peek.arguments_at as usize {
                assert_eq!(partial, Ok(PeekOutcome::NeedMore), "{}", vector.name);
                assert!(complete.is_err(), "{} at {cut}", vector.name);
                continue;
            }
            assert_eq!(partial, Ok(PeekOutcome::Done(peek.clone())));
            assert_eq!(complete, Ok(PeekOutcome::Done(peek.clone())));
            let group = attachment(serialization, body, &peek, "group");
            assert!(group.is_err(), "{} at {cut}: {group:?}", vector.name);
        }
    }
}

#[test]
fn a_truncated_response_is_refused_as_long_as_its_value_is_cut() {
    let answers = vectors().into_iter().filter(|v| answer(&v.name).is_some());
    for vector in answers {
        let header = vector.header();
        let whole = read_reply(&header, vector.body());
        for cut in 0..vector.body().len() {
            match read_reply(&header, &vector.body()[..cut]) {
                Err(error) => assert_eq!(error, ReplyError::Malformed(Flaw::End), "{cut}"),
                // Cut inside the attachments, which are not read, or inside an exception behind its class.
                Ok(Reply::Exception(text)) => {
                    assert!(text.starts_with("java.lang.RuntimeException"));
                }
                reply => assert_eq!(reply, whole, "{} at {cut}", vector.name),
            }
        }
    }
}

#[test]
fn headers_that_are_refused() {
    let good = *vector("REQ_H2").bytes.first_chunk().expect("16 bytes");
    let with = |at: usize, bytes: &[u8]| {
        let mut header: [u8; HEADER_LEN] = good;
        header[at..at + bytes.len()].copy_from_slice(bytes);
        FrameHeader::parse(&header, DEFAULT_MAX_BODY)
    };
    for magic in [[0xda, 0xba], [0xdb, 0xbb], *b"GE"] {
        assert_eq!(with(0, &magic), Err(FrameError::BadMagic { found: magic }));
    }
    assert_eq!(with(12, &(-1_i32).to_be_bytes()), Err(FrameError::NegativeLength { len: -1 }));
    assert_eq!(with(12, &i32::MIN.to_be_bytes()), Err(FrameError::NegativeLength { len: i32::MIN }));
    assert!(with(12, &DEFAULT_MAX_BODY.to_be_bytes()).is_ok());
    let Err(FrameError::TooLarge { len, max, header }) = with(12, &(DEFAULT_MAX_BODY + 1).to_be_bytes()) else {
        panic!("a body over the limit passes");
    };
    assert_eq!((len, max), (DEFAULT_MAX_BODY + 1, DEFAULT_MAX_BODY));
    let mut answer = Vec::new();
    write_error(&mut answer, &header, status::BAD_REQUEST, "too large");
    assert_eq!(answer[4..12], good[4..12], "the answer has the request's id");
}

#[test]
fn an_unknown_serialization_is_named_and_answered_in_hessian2() {
    let header =
        FrameHeader::parse(&unhex("dabbdf00000000000000000900000000").try_into().expect("16 bytes"), DEFAULT_MAX_BODY)
            .expect("the frame of section 8");
    assert_eq!(header.serialization, serialization::EXTENSION);
    let error = PeekError::UnknownSerialization(31);
    assert_eq!(peek_request(header.serialization, b"", false), Err(error));
    let mut answer = Vec::new();
    write_error(&mut answer, &header, status::BAD_REQUEST, &error.to_string());
    let (head, body) = answer.split_first_chunk().expect("a frame");
    let head = FrameHeader::parse(head, DEFAULT_MAX_BODY).expect("a frame");
    assert_eq!(head.serialization, serialization::HESSIAN2);
    assert_eq!(read_reply(&head, body), Ok(Reply::Error { status: status::BAD_REQUEST, sentence: error.to_string() }));
}
