use proptest::prelude::*;

use crate::dubbo::serialization::{FASTJSON2, HESSIAN2};
use crate::dubbo::{
    DEFAULT_MAX_BODY, EXTENSION_BYTES_MAX, Event, Extension, ExtensionError, ExtensionWriter, FrameHeader, HEADER_LEN,
    Invocation, Said, agrees_to_extension, event, is_of_extension_offer, peek_request, serialization, write_event,
    write_extension_answer, write_extension_offer, write_heartbeat_reply, write_request,
};

/// The example of the page.
const EXAMPLE: &[u8] = b"\x40\x01\x00\x27\x02\x00\x01\x00\x01S\x02\x00\x02do\x03\x00\x01g\x04\x00\x031.0\
    \x05\x00\x00\x06\x00\x03\x01ab\x07\x00\x02\x01c";

fn example() -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ExtensionWriter::new(&mut out, HESSIAN2, b"S", b"do");
    writer.group(b"g");
    writer.version(b"1.0");
    writer.tag(b"");
    writer.attachment("a", Some(b"b"));
    writer.attachment("c", None);
    assert!(writer.finish());
    out
}

#[test]
fn the_bytes_are_those_of_the_page() {
    assert_eq!(example(), EXAMPLE);
    let page = include_str!("../../../../../docs/spec/dubbo-ext-v1.md");
    let hex: Vec<String> = EXAMPLE.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(page.split_whitespace().collect::<Vec<_>>().join(" ").contains(&hex.join(" ")), "{}", hex.join(" "));
}

#[test]
fn what_is_said_comes_back() {
    let body = [EXAMPLE, b"the rest"].concat();
    let (extension, len) = Extension::parse(&body).unwrap();
    assert_eq!(&body[len..], b"the rest");
    assert_eq!((extension.serialization, extension.service, extension.method), (HESSIAN2, &b"S"[..], &b"do"[..]));
    assert_eq!(
        (extension.version, extension.group, extension.tag),
        (Some(&b"1.0"[..]), Some(&b"g"[..]), Some(&b""[..]))
    );
    assert_eq!(extension.attachment("a"), Said::Is(b"b"));
    assert_eq!(extension.attachment("c"), Said::Absent);
    assert_eq!(extension.attachment("b"), Said::Nothing);
}

#[test]
fn what_is_no_header_is_refused() {
    let changed = |at: usize, byte: u8| {
        let mut body = EXAMPLE.to_vec();
        body[at] = byte;
        Extension::parse(&body).map(|_| ()).unwrap_err()
    };
    assert_eq!(changed(0, 0x41), ExtensionError::Start);
    assert_eq!(changed(1, 2), ExtensionError::Start);
    assert_eq!(changed(5, 1), ExtensionError::Start);
    assert_eq!(changed(2, 1), ExtensionError::Length(0x127));
    assert_eq!(changed(3, 5), ExtensionError::Length(5));
    assert_eq!(changed(3, 0x25), ExtensionError::Short);
    assert_eq!(changed(4, 31), ExtensionError::Serialization(31));
    assert_eq!(changed(4, 0), ExtensionError::Serialization(0));
    assert_eq!(changed(6, 2), ExtensionError::Twice(2));
    assert_eq!(changed(6, 9), ExtensionError::Missing);
    assert_eq!(changed(31, 3), ExtensionError::Short, "a name that runs past its field");
    for len in 0..EXAMPLE.len() {
        assert!(Extension::parse(&EXAMPLE[..len]).is_err(), "{len}");
    }
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    let mut body = EXAMPLE.to_vec();
    body.extend(b"\xc8\x00\x02??");
    body[3] = body.len() as u8;
    let (extension, len) = Extension::parse(&body).unwrap();
    assert_eq!((len, extension.method), (body.len(), &b"do"[..]));
}

#[test]
fn what_is_too_long_is_not_written() {
    for (len, fits) in [(EXTENSION_BYTES_MAX - 14, true), (EXTENSION_BYTES_MAX - 13, false), (70_000, false)] {
        let mut out = b"before".to_vec();
        let service = vec![b'S'; len];
        let mut writer = ExtensionWriter::new(&mut out, FASTJSON2, &service, b"do");
        writer.attachment(&"n".repeat(256), None);
        assert_eq!(writer.finish(), fits, "{len}");
        assert_eq!(out.len(), if fits { 6 + EXTENSION_BYTES_MAX } else { 6 });
    }
    for (serialization, service) in [(31, b"S"), (0, b"S")] {
        let mut out = Vec::new();
        assert!(!ExtensionWriter::new(&mut out, serialization, service, b"m").finish());
        assert!(out.is_empty());
    }
}

/// Its first byte is no text, and no value at all, in the serializations that a peer might take it for.
#[test]
fn nobody_takes_a_header_for_strings() {
    for serialization in [HESSIAN2, FASTJSON2, 3, 4, 7, 12] {
        assert!(peek_request(serialization, EXAMPLE, true).is_err(), "{serialization}");
    }
}

#[test]
fn an_offer_is_a_heartbeat_and_is_answered_as_one() {
    let parse = |bytes: &[u8]| FrameHeader::parse(bytes.first_chunk().unwrap(), DEFAULT_MAX_BODY).unwrap();
    let (mut offer, mut plain) = (Vec::new(), Vec::new());
    write_extension_offer(&mut offer);
    let header = parse(&offer);
    assert!(is_of_extension_offer(&header));
    assert_eq!(header.id, 0x7368_6d65_7368_0001);
    write_event(&mut plain, header.id, HESSIAN2, Event::Heartbeat);
    assert_eq!(offer, plain);

    let mut answer = Vec::new();
    write_extension_answer(&mut answer, &header);
    let (answered, body) = (parse(&answer), &answer[HEADER_LEN..]);
    assert_eq!((answered.id, event(&answered, body)), (header.id, Event::Heartbeat));
    assert!(body.len() <= 15 && body == b"\x0bshmesh-ext1");
    assert!(agrees_to_extension(&answered, body));
    // Later versions are agreed to as far as they are known.
    let mut later = Vec::new();
    write_extension_answer(&mut later, &FrameHeader { id: header.id + 8, ..header });
    assert_eq!(later[HEADER_LEN..], answer[HEADER_LEN..]);

    // Who does not know of it answers so, or as Go and MOSN do.
    plain.clear();
    write_heartbeat_reply(&mut plain, &header);
    for body in [&plain[HEADER_LEN..], b"NN", b"", b"\x0bshmesh-ext2"] {
        assert!(!agrees_to_extension(&answered, body));
    }
    assert!(!agrees_to_extension(&FrameHeader { id: 1, ..answered }, body));
    assert!(!agrees_to_extension(&FrameHeader { status: 40, ..answered }, body));
}

/// `decodeFrame` of MOSN takes a frame by the length at offset 12, and then reads strings in hessian2, if the serialization
/// is that; `DubboCodec` of dubbo-go reads them whatever it is.
#[test]
fn parsers_in_the_manner_of_mosn_survive_a_stray_frame() {
    let invocation = Invocation { path: "S", method: "do", argument: Some(b"a"), ..Invocation::default() };
    let mut good = Vec::new();
    write_request(&mut good, 1, true, HESSIAN2, &invocation);
    let header = FrameHeader {
        serialization: serialization::EXTENSION,
        body_len: (EXAMPLE.len() + good.len() - HEADER_LEN) as u32,
        ..FrameHeader::parse(good.first_chunk().unwrap(), DEFAULT_MAX_BODY).unwrap()
    };
    let stream = [&good, &header.encode()[..], EXAMPLE, &good[HEADER_LEN..], &good].concat();
    for looks_at_serialization in [true, false] {
        let mut outcomes = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            assert_eq!(rest[..2], [0xda, 0xbb], "a frame starts where the one before ended");
            let len = u32::from_be_bytes(*rest[12..].first_chunk().unwrap()) as usize;
            let (frame, behind) = rest.split_at(HEADER_LEN + len);
            let refused = looks_at_serialization && frame[2] & 0x1f != HESSIAN2;
            outcomes.push(!refused && peek_request(HESSIAN2, &frame[HEADER_LEN..], true).is_ok());
            rest = behind;
        }
        assert_eq!(outcomes, [true, false, true]);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(fields in proptest::collection::vec(any::<u8>(), 0..200), rest in any::<u8>()) {
        let mut body = b"\x40\x01\x00\x00\x02\x00\x01\x00\x01S\x02\x00\x01m".to_vec();
        body.extend(&fields);
        body[3] = body.len() as u8;
        body.push(rest);
        if let Ok((extension, len)) = Extension::parse(&body) {
            prop_assert_eq!(len, body.len() - 1);
            prop_assert_eq!(extension.service, b"S");
            let _ = extension.attachment("a");
        }
    }

    #[test]
    fn any_key_comes_back(
        texts in proptest::array::uniform5(proptest::collection::vec(any::<u8>(), 1..100)),
        attachments in proptest::collection::btree_map("[a-c.]{1,3}", proptest::option::of("[a-z]{0,9}"), 0..8),
    ) {
        let [service, method, group, version, tag] = &texts;
        let mut out = Vec::new();
        let mut writer = ExtensionWriter::new(&mut out, FASTJSON2, service, method);
        writer.group(group);
        writer.version(version);
        writer.tag(tag);
        for (name, text) in &attachments {
            writer.attachment(name, text.as_ref().map(|text| text.as_bytes()));
        }
        prop_assert!(writer.finish());
        let (extension, len) = Extension::parse(&out).unwrap();
        prop_assert_eq!((len, extension.service, extension.method), (out.len(), &service[..], &method[..]));
        prop_assert_eq!(
            (extension.group, extension.version, extension.tag),
            (Some(&group[..]), Some(&version[..]), Some(&tag[..]))
        );
        for (name, text) in &attachments {
            let said = text.as_ref().map_or(Said::Absent, |text| Said::Is(text.as_bytes()));
            prop_assert_eq!(extension.attachment(name), said);
        }
    }
}
