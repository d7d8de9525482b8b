//! No bytes crash the codec, and limits hold before memory is spent.

use proptest::prelude::*;

use super::vectors::{vector, vectors};
use crate::Span;
use crate::dubbo::cursor::Cursor;
use crate::dubbo::hessian_walker::Walker;
use crate::dubbo::serialization::{FASTJSON2, HESSIAN2};
use crate::dubbo::*;

/// Everything that reads a body reads this one; all ranges that come out lie in it.
fn read_all(bytes: &[u8]) {
    let lies_inside = |span: Span| assert!(span.start <= span.end && span.end as usize <= bytes.len());
    for serialization in [HESSIAN2, FASTJSON2, 3, 4, 7, 8, 9, 12, serialization::GSON] {
        for complete in [false, true] {
            let outcome = peek_request(serialization, bytes, complete);
            assert!(!(complete && outcome == Ok(PeekOutcome::NeedMore)));
            let Ok(PeekOutcome::Done(peek)) = outcome else {
                continue;
            };
            for span in [peek.dubbo_version, peek.path, peek.method, peek.descriptor] {
                assert!(span.start <= span.end && span.end as usize <= peek.texts(bytes).len());
            }
            let mut values = [None; 2];
            if attachments(serialization, bytes, &peek, &["group", "a"], &mut values).is_ok() {
                values.into_iter().flatten().for_each(lies_inside);
            }
            if let Ok(argument) = first_argument(serialization, bytes, &peek) {
                lies_inside(argument);
            }
        }
        for flags in 0..16_u8 {
            let header = FrameHeader {
                request: flags & 1 != 0,
                two_way: flags & 2 != 0,
                event: flags & 4 != 0,
                serialization,
                status: if flags & 8 != 0 { status::OK } else { 40 },
                id: 1,
                body_len: bytes.len() as u32,
            };
            let _ = event(&header, bytes);
            let _ = read_reply(&header, bytes);
        }
    }
    let _ = Walker::new().skip(&mut Cursor::new(bytes, 0));
    let _ = jsonb_walker::skip(&mut Cursor::new(bytes, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_header_is_read_or_refused(bytes: [u8; HEADER_LEN], max_body: u32) {
        let magic = [&MAGIC, &bytes[2..]].concat();
        for bytes in [bytes, magic.try_into().unwrap()] {
            if let Ok(header) = FrameHeader::parse(&bytes, max_body) {
                prop_assert!(header.body_len <= max_body);
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn any_body_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    #[test]
    fn any_change_of_a_vector_is_read_or_refused(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frames: Vec<_> = vectors().into_iter().filter(|v| v.is_frame()).collect();
        let which = which.index(frames.len());
        let mut body = frames.swap_remove(which).body().to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        read_all(&body);
    }
}

#[test]
fn the_front_of_a_request_is_bounded() {
    let max = PEEK_BYTES_MAX;
    // The method is a text of 65535 units, and its end lies behind the limit.
    let mut hessian = b"\x052.0.2\x01pNS\xff\xff".to_vec();
    hessian.resize(2 * max as usize, b'a');
    let mut fastjson2 = (max + 1).to_be_bytes().to_vec();
    fastjson2.resize(2 * max as usize, b'a');
    for (serialization, body) in [(HESSIAN2, hessian), (FASTJSON2, fastjson2)] {
        let (short, long) = (&body[..max as usize - 1], &body[..]);
        assert_eq!(peek_request(serialization, short, false), Ok(PeekOutcome::NeedMore));
        for complete in [false, true] {
            assert_eq!(peek_request(serialization, long, complete), Err(PeekError::TooLong { max }));
        }
    }
}

#[test]
fn null_in_front_is_refused_where_routing_needs_a_text() {
    for (body, field) in [
        (&b"\x052.0.2N"[..], "path"),
        (b"\x052.0.2\x01pNN", "method"),
        (b"\x052.0.2\x01pN\x01mN", "parameter descriptor"),
    ] {
        let outcome = peek_request(HESSIAN2, body, false);
        assert_eq!(outcome, Err(PeekError::Null { field }));
    }
    let outcome = peek_request(HESSIAN2, b"N\x01pN\x01m\x00", false);
    let Ok(PeekOutcome::Done(peek)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(peek.dubbo_version.is_empty() && peek.version.is_none());
}

#[test]
fn malformed_fields_of_fastjson2() {
    type Refused = (&'static [u8], fn(Flaw) -> bool);
    let refused: [Refused; 5] = [
        (b"\0\0\0\x02\x4fab", |flaw| matches!(flaw, Flaw::Short { at: 4 })),
        (b"\0\0\0\x03\x4aab", |flaw| matches!(flaw, Flaw::Surplus { at: 6 })),
        (b"\0\0\0\x02\x4a\xe9", |flaw| matches!(flaw, Flaw::Text { .. })),
        (b"\0\0\0\x03\x7a\x01\xe9", |flaw| matches!(flaw, Flaw::Text { .. })),
        (b"\0\0\0\x02\x79\xff", |flaw| matches!(flaw, Flaw::Length { len: -1, .. })),
    ];
    for (body, expected) in refused {
        match peek_request(FASTJSON2, body, false) {
            Err(PeekError::Field { flaw, .. }) if expected(flaw) => {}
            other => panic!("{body:02x?}: {other:?}"),
        }
    }
}

#[test]
fn events_that_nobody_knows() {
    let mut header = vector("READONLY").header();
    for body in [&b""[..], b"N", b"\x01X", b"\x02RR", b"R", b"\xff"] {
        assert_eq!(event(&header, body), Event::Other, "{body:02x?}");
    }
    header.serialization = FASTJSON2;
    assert_eq!(event(&header, b"\0\0\0\x02\x4aR"), Event::ReadOnly);
    assert_eq!(event(&header, b"\0\0\0\x02\x4aW"), Event::Writeable);
    // A two-way event is a heartbeat whatever its body says.
    header.two_way = true;
    assert_eq!(event(&header, b"\x01R"), Event::Heartbeat);
}
