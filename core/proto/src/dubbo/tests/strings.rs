//! Bodies that Dubbo wrote in serializations of which only the strings in front are read.

use super::vectors::{done, unhex};
use crate::dubbo::hessian::decode_text;
use crate::dubbo::*;

/// A line of `tests/vectors/serializations.txt`.
struct Line {
    serialization: u8,
    path: String,
    version: Option<&'static str>,
    body: Vec<u8>,
}

fn lines() -> Vec<Line> {
    let page = include_str!("../../../../../tests/vectors/serializations.txt");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &'static str| {
        let mut words = line.split(' ');
        let mut word = || words.next().expect(line);
        Line {
            serialization: word().parse().expect(line),
            path: String::from_utf8(unhex(word().trim_end_matches('/'))).expect(line),
            version: Some(word()).filter(|version| *version != "null"),
            body: unhex(word()),
        }
    };
    lines.map(parse).collect()
}

#[test]
fn strings_are_read_as_dubbo_wrote_them() {
    let lines = lines();
    for serialization in [3, 4, 7, 8, 9, 12] {
        assert!(lines.iter().any(|line| line.serialization == serialization), "{serialization}");
    }
    for Line { serialization, path, version, body } in &lines {
        let peek = done(peek_request(*serialization, body, true));
        let texts = peek.texts(body);
        // Half surrogates are what they are in hessian2.
        assert_eq!(decode_text(peek.path.of(texts).to_vec()), *path, "{serialization}");
        assert_eq!(service_version(&peek, body), version.map(str::as_bytes), "{serialization}");
        assert_eq!(peek.dubbo_version.of(texts), b"2.0.2", "{serialization}");
        assert_eq!(peek.method.of(texts), b"sayHello", "{serialization}");
        assert_eq!(peek.descriptor.of(texts), b"Ljava/lang/String;", "{serialization}");
        let no_walk = Err(SkipError::UnknownSerialization(*serialization));
        assert_eq!(attachment(*serialization, body, &peek, "group"), no_walk);
    }
}

/// The front of a body says that there is more to come until all strings are there, and nothing else.
#[test]
fn the_front_of_a_body_is_not_enough() {
    for Line { serialization, path, body, .. } in lines() {
        let mut enough = false;
        for len in 0..body.len() {
            match peek_request(serialization, &body[..len], false) {
                Ok(PeekOutcome::NeedMore) => {
                    assert!(!enough, "{serialization} {path}: less is enough, {len} bytes are not");
                    let alone = peek_request(serialization, &body[..len], true);
                    assert!(matches!(alone, Err(PeekError::Field { flaw: Flaw::End, .. })), "{alone:?}");
                }
                Ok(PeekOutcome::Done(_)) => enough = true,
                Err(error) => panic!("{serialization} {path}, {len} bytes: {error}"),
            }
        }
        assert!(enough);
    }
}

#[test]
fn what_is_no_string_is_refused_where_it_lies() {
    let refused = |serialization, bytes: &[u8]| peek_request(serialization, bytes, true).unwrap_err().to_string();
    let cases: [(u8, &[u8], &str); 8] = [
        (3, b"\xac\xee", "the byte 0xee at 1 does not start a stream of Java objects"),
        (3, b"\xac\xed\0\x05\x77\x04\xff\xff\xff\xfe", "the length -2 at 0 is negative"),
        // An object comes before the strings have ended.
        (3, b"\xac\xed\0\x05\x77\x04\0\0\0\x01t", "the field at 4 is shorter than its value"),
        (12, b"\xff\xff\xff\xff", "the length -1 at 0 is negative"),
        (9, b"\xfe", "the length -2 at 0 is negative"),
        (9, b"\x81\0\0\0\x80", "the length -2147483648 at 0 is negative"),
        (
            8,
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "the text at 0 is not well-formed in the encoding that its tag names",
        ),
        (8, b"\x82\xff", "the text at 1 is not well-formed in the encoding that its tag names"),
    ];
    for (serialization, bytes, sentence) in cases {
        let expected = format!("the protocol version of the request is malformed: {sentence}");
        assert_eq!(refused(serialization, bytes), expected, "{serialization}: {bytes:02x?}");
    }
    assert_eq!(refused(8, b"\x81\x80"), "the path of the request is null");
}

/// Java's reader takes two bytes, or three, for a letter that has one: they are not another service, but no text.
#[test]
fn a_letter_has_one_form_only() {
    for serialization in [3, 4, 7] {
        let prefix: &[u8] = if serialization == 7 { b"" } else { &[0, 0, 0, 3] };
        for path in [&b"c\xc1\xafm"[..], b"c\xe0\x81\xafm", b"c\xc0\x80m", b"com\xc3", b"\xf0\x9f\x98\x80"] {
            let texts: [&[u8]; 2] = [b"2.0.2", path];
            let strings = texts.map(|text| [prefix, &(text.len() as u16).to_be_bytes(), text].concat()).concat();
            let body = [b"\xac\xed\0\x05\x77", &[strings.len() as u8][..], &strings].concat();
            let refused = peek_request(serialization, &body, true).unwrap_err();
            assert!(
                matches!(refused, PeekError::Field { field: "path", flaw: Flaw::Text { .. } }),
                "{serialization} {path:02x?}: {refused}"
            );
        }
    }
}
