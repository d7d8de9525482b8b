use super::*;
use BodyError::*;

/// Reads `input` in one or two pieces; gives data, bytes consumed, trailers.
fn read_cut(kind: BodyKind, input: &[u8], cut: usize) -> Result<(Vec<u8>, usize, BodyReader), BodyError> {
    let mut reader = BodyReader::new(kind);
    let mut data = Vec::new();
    let mut at = 0;
    for end in [cut, input.len()] {
        loop {
            let step = reader.read(&input[at..end])?;
            assert!(step.data.end <= step.consumed && step.consumed <= end - at);
            data.extend_from_slice(&input[at..end][step.data]);
            at += step.consumed;
            assert_eq!(step.done, reader.is_done());
            if step.consumed == 0 {
                break;
            }
        }
        assert!(at == end || reader.is_done(), "stopped at {at} before {end}");
    }
    Ok((data, at, reader))
}

fn chunked(input: &[u8]) -> (Vec<u8>, usize, BodyReader) {
    let shown = input.escape_ascii().to_string();
    let (data, consumed, whole) = read_cut(BodyKind::Chunked, input, input.len()).expect(&shown);
    for cut in 0..input.len() {
        let (same, at, reader) = read_cut(BodyKind::Chunked, input, cut).expect(&shown);
        assert_eq!((&same, at), (&data, consumed), "{shown} cut at {cut}");
        assert_eq!(reader.trailers(), whole.trailers(), "{shown} cut at {cut}");
    }
    (data, consumed, whole)
}

#[test]
fn bodies_of_known_length() {
    let (data, consumed, reader) = read_cut(BodyKind::Length(3), b"abcNEXT", 2).unwrap();
    assert_eq!((&data[..], consumed), (&b"abc"[..], 3));
    assert!(reader.is_done() && reader.may_end_here());

    for kind in [BodyKind::None, BodyKind::Length(0)] {
        let mut reader = BodyReader::new(kind);
        assert!(reader.is_done());
        let step = reader.read(b"NEXT").unwrap();
        assert_eq!((step.consumed, step.done), (0, true));
    }

    let mut reader = BodyReader::new(BodyKind::Length(3));
    reader.read(b"ab").unwrap();
    assert!(!reader.is_done() && !reader.may_end_here());
}

#[test]
fn a_body_until_close_takes_all_and_is_never_done() {
    let (data, _, reader) = read_cut(BodyKind::UntilClose, b"abc\r\n\r\n", 4).unwrap();
    assert_eq!(data, b"abc\r\n\r\n");
    assert!(!reader.is_done() && reader.may_end_here());
}

#[test]
fn chunked_bodies() {
    // RFC 9112 7.1
    let table: &[(&[u8], &[u8])] = &[
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3\r\nabc\r\n00000a\r\n0123456789\r\n000\r\n\r\n", b"abc0123456789"),
        (b"A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n\r\n"),
        (b"2;a=b;c=\"d;\\\"e\"\r\nhi\r\n0;x\r\n\r\n", b"hi"),
        (b"2 \t; a = b\r\nhi\r\n0 ;\r\n\r\n", b"hi"),
    ];
    for (input, expected) in table {
        let next = [input, &b"GET / HTTP/1.1"[..]].concat();
        let (data, consumed, reader) = chunked(&next);
        assert_eq!(&data, expected);
        assert_eq!(consumed, input.len(), "takes nothing of the next message");
        assert!(reader.is_done() && reader.trailers().is_empty());
    }
    let (_, _, reader) = chunked(b"3\r\nabc\r\n");
    assert!(!reader.is_done() && !reader.may_end_here());
}

#[test]
fn one_step_takes_the_framing_around_the_data() {
    let mut reader = BodyReader::new(BodyKind::Chunked);
    let step = reader.read(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nX").unwrap();
    assert_eq!(step, BodyStep { consumed: 11, data: 3..6, done: false });
    let step = reader.read(b"de\r\n0\r\n\r\nX").unwrap();
    assert_eq!(step, BodyStep { consumed: 9, data: 0..2, done: true });
}

#[test]
fn chunked_framing_rules() {
    let table: &[(&str, &[u8], BodyError)] = &[
        ("RFC 9112 7.1 size is there", b"\r\n", BadChunkSize),
        ("RFC 9112 7.1 size is there", b";a\r\n", BadChunkSize),
        ("RFC 9112 7.1 hex", b"g\r\n", BadChunkSize),
        ("RFC 9112 7.1 hex", b"0x1\r\n", BadChunkSize),
        ("RFC 9112 7.1 hex", b"-1\r\n", BadChunkSize),
        ("RFC 9112 7.1 hex", b"+1\r\n", BadChunkSize),
        ("RFC 9112 7.1 hex", b" 1\r\n", BadChunkSize),
        ("RFC 9112 7.1 hex", b"1_0\r\n", BadChunkSize),
        ("RFC 9112 7.1 overflow", b"8000000000000000\r\n", ChunkSizeTooLarge),
        ("RFC 9112 7.1 overflow", b"10000000000000003\r\n", ChunkSizeTooLarge),
        ("RFC 9112 7.1 digits", b"00000000000000003\r\n", ChunkSizeTooLarge),
        ("RFC 9112 2.2 bare LF", b"3\nabc\r\n", BadLineEnd),
        ("RFC 9112 2.2 bare CR", b"3\rabc\r\n", BadLineEnd),
        ("RFC 9112 7.1.1 bare LF", b"3;a\nabc\r\n", BadLineEnd),
        ("RFC 9112 7.1.1 bare CR", b"3;a\rb\r\nabc\r\n", BadLineEnd),
        ("RFC 9112 7.1.1 bare LF in quotes", b"3;a=\"\n\"\r\nabc\r\n", BadLineEnd),
        ("RFC 9112 7.1.1 control byte", b"3;a\x00\r\nabc\r\n", BadChunkExtension),
        ("RFC 9112 7.1.1 only before a semicolon", b"3 \r\nabc\r\n", BadChunkExtension),
        ("RFC 9112 7.1.1 semicolon", b"3 a\r\nabc\r\n", BadChunkExtension),
        ("RFC 9112 7.1 data end", b"3\r\nabcd\r\n", BadChunkEnd),
        ("RFC 9112 7.1 data end", b"3\r\nabc\n0\r\n\r\n", BadChunkEnd),
        ("RFC 9112 7.1 data end", b"3\r\nabc\rX", BadChunkEnd),
        ("RFC 9112 7.1 data end", b"3\r\nab\r\n0\r\n\r\n", BadChunkEnd),
        ("RFC 9112 7.1.2 bare LF", b"0\r\n\n", BadLineEnd),
        ("RFC 9112 7.1.2 bare CR", b"0\r\n\rX", BadLineEnd),
        ("RFC 9112 7.1.2 bare LF", b"0\r\na: b\n\r\n", BadLineEnd),
        ("RFC 9112 7.1.2 bare CR", b"0\r\na: b\rc\r\n\r\n", BadLineEnd),
        ("RFC 9112 7.1.2 name", b"0\r\n: b\r\n\r\n", BadTrailer),
        ("RFC 9112 7.1.2 space", b"0\r\na : b\r\n\r\n", BadTrailer),
        ("RFC 9112 7.1.2 fold", b"0\r\na: b\r\n c\r\n\r\n", BadTrailer),
        ("RFC 9112 7.1.2 colon", b"0\r\na\r\n\r\n", BadTrailer),
        ("RFC 9112 7.1.2 NUL", b"0\r\na: \x00\r\n\r\n", BadTrailer),
        ("RFC 9112 7.1.2 not a request", b"0\r\nGET / HTTP/1.1\r\n\r\n", BadTrailer),
    ];
    for (rule, input, expected) in table {
        let shown = input.escape_ascii().to_string();
        for cut in 0..=input.len() {
            let error = read_cut(BodyKind::Chunked, input, cut).unwrap_err();
            assert_eq!(error, *expected, "{rule}: {shown} cut at {cut}");
        }
        assert_eq!(expected.status(), 400);
    }
}

#[test]
fn an_error_is_final() {
    let mut reader = BodyReader::new(BodyKind::Chunked);
    assert_eq!(reader.read(b"zz"), Err(BadChunkSize));
    assert_eq!(reader.read(b"3\r\nabc\r\n0\r\n\r\n"), Err(BadChunkSize));
    assert!(!reader.is_done() && !reader.may_end_here());
}

#[test]
fn the_largest_sizes() {
    let mut reader = BodyReader::new(BodyKind::Chunked);
    let step = reader.read(b"7fffffffffffffff\r\nab").unwrap();
    assert_eq!(step.data, 18..20);
    let mut reader = BodyReader::new(BodyKind::Length(i64::MAX as u64));
    assert_eq!(reader.read(b"ab").unwrap().data, 0..2);
}

#[test]
fn chunk_lines_are_bounded() {
    let line = |bytes: usize| [b"1;".as_slice(), &vec![b'x'; bytes - 4], b"\r\n"].concat();
    let max = usize::from(CHUNK_LINE_BYTES_MAX);
    let mut reader = BodyReader::new(BodyKind::Chunked);
    assert_eq!(reader.read(&line(max)).map(|step| step.consumed), Ok(max));
    assert_eq!(BodyReader::new(BodyKind::Chunked).read(&line(max + 1)), Err(ChunkLineTooLong));
    // Never an unbounded line, even if it never ends.
    let endless = [b"1;".as_slice(), &vec![b'x'; max]].concat();
    assert_eq!(BodyReader::new(BodyKind::Chunked).read(&endless), Err(ChunkLineTooLong));
    let spaces = [b"1".as_slice(), &vec![b' '; max]].concat();
    assert_eq!(BodyReader::new(BodyKind::Chunked).read(&spaces), Err(ChunkLineTooLong));
}

#[test]
fn trailers_are_kept_in_canonical_form() {
    // RFC 9112 7.1.2, RFC 9110 6.5.1
    let input = b"1\r\nx\r\n0\r\nGrpc-Status:0\r\nContent-Length: 5\r\nEmpty: \t\r\nhOST: evil\r\n\
        transfer-encoding: chunked\r\nX-Sum: \t a b \t\r\nConnection: close\r\n\r\nNEXT";
    let (data, consumed, reader) = chunked(input);
    assert_eq!(data, b"x");
    assert_eq!(consumed, input.len() - 4);
    assert_eq!(reader.trailers(), b"Grpc-Status: 0\r\nEmpty: \r\nX-Sum: a b\r\n");
}

#[test]
fn trailers_are_bounded() {
    // "a: " value CRLF CRLF: exactly the limit, then one more; dropped trailers count too.
    let section = |name: &str, bytes: usize| {
        let value = "v".repeat(bytes - name.len() - 6);
        format!("0\r\n{name}: {value}\r\n\r\n").into_bytes()
    };
    for name in ["a", "host"] {
        let fits = section(name, TRAILER_BYTES_MAX);
        let step = BodyReader::new(BodyKind::Chunked).read(&fits).unwrap();
        assert_eq!((step.consumed, step.done), (fits.len(), true));
        let error = BodyReader::new(BodyKind::Chunked).read(&section(name, TRAILER_BYTES_MAX + 1));
        assert_eq!(error, Err(TrailersTooLarge));
    }
    assert_eq!(TrailersTooLarge.status(), 431);
}
