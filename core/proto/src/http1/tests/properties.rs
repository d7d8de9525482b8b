//! What holds for any bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Pieces from which heads, good and bad, are put together.
const PIECES: [&[u8]; 40] = [
    b"GET / HTTP/1.1\r\n",
    b"POST http://a:1/b?c HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 204 No Content\r\n",
    b"HTTP/1.1 304\r\n",
    b"Host: h\r\n",
    b"Host: [::1]:80\r\n",
    b"Content-Length: 5\r\n",
    b"content-length: 0005\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: , \r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, upgrade, x\r\n",
    b"Upgrade: websocket\r\n",
    b"X: \t y \r\n",
    b"x:\r\n",
    b"TE: trailers\r\n",
    b"Trailer: x\r\n",
    b"Expect: 100-continue\r\n",
    b"Via: 1.0 a\r\n",
    b"Name-Of-Some-Length: and a value of some length, too\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"a",
    b"0",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"f;x=y\r\n",
    b"\x00",
    b"\x7f",
    b"\xff",
];

/// Mostly well-formed text, with bytes overwritten here and there.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec(select(&PIECES[..]), 0..12).prop_map(|pieces| pieces.concat());
    let damage = vec((any::<Index>(), any::<u8>()), 0..3);
    (pieces, damage).prop_map(|(mut text, damage)| {
        if !text.is_empty() {
            for (at, byte) in damage {
                let at = at.index(text.len());
                text[at] = byte;
            }
        }
        text
    })
}

/// A head whose lines are all whole, so that many are valid.
fn lines(start: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let headers = vec(select(&PIECES[9..25]), 0..8);
    (select(start), headers)
        .prop_map(|(start, headers)| [start, &b"Host: h\r\n"[..], &headers.concat(), b"\r\n"].concat())
}

/// All data and the state after `input`, given to the reader in pieces that end at `cuts`.
fn read_in_pieces(input: &[u8], cuts: &[Index]) -> Result<(Vec<u8>, usize, Vec<u8>), BodyError> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let mut reader = BodyReader::new(BodyKind::Chunked);
    let (mut data, mut at) = (Vec::new(), 0);
    for end in ends {
        loop {
            let step = reader.read(&input[at..end])?;
            data.extend_from_slice(&input[at..end][step.data]);
            at += step.consumed;
            if step.consumed == 0 {
                break;
            }
        }
    }
    Ok((data, at, reader.trailers().to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_parsed_without_panic(text in prop_oneof![vec(any::<u8>(), 0..300), wire()], to_head: bool) {
        let _ = parse_request(&text);
        let _ = parse_response(&text, to_head);
        let _ = read_in_pieces(&text, &[]);
        let _ = authority_parts(&text);
    }

    #[test]
    fn a_verdict_never_changes_when_more_arrives(text in wire()) {
        let whole = parse_request(&text);
        for cut in 0..text.len() {
            match (parse_request(&text[..cut]), &whole) {
                (Ok((Status::Partial, _)), _) => {}
                (Ok((Status::Complete, head)), Ok((Status::Complete, same))) => {
                    prop_assert_eq!(format!("{head:?}"), format!("{same:?}"));
                }
                (Err(error), Err(same)) => prop_assert_eq!(error.status(), same.status()),
                (front, whole) => prop_assert!(false, "cut at {}: {:?}, whole: {:?}", cut, front, whole),
            }
        }
    }

    /// Whatever passes here means the same to another, more lenient parser.
    #[test]
    fn an_accepted_request_reads_the_same_elsewhere(text in prop_oneof![wire(), lines(&PIECES[..3])]) {
        let Ok((Status::Complete, head)) = parse_request(&text) else { return Ok(()) };
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut other = httparse::Request::new(&mut headers);
        let status = other.parse(&text);
        // It knows no minor version above 1.
        if status == Err(httparse::Error::Version) { return Ok(()) }
        prop_assert_eq!(status, Ok(httparse::Status::Complete(head.len as usize)));
        prop_assert_eq!(other.method.unwrap().as_bytes(), head.method.of(&text));
        prop_assert_eq!(other.path.unwrap().as_bytes(), head.target.of(&text));
        let theirs: Vec<_> = other.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
        let ours: Vec<_> = head.headers.iter().map(|h| (h.name.of(&text), h.value.of(&text))).collect();
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn what_is_written_is_accepted_and_means_the_same(text in lines(&PIECES[..4])) {
        let Ok((Status::Complete, head)) = parse_request(&text) else { return Ok(()) };
        let framing = match head.body {
            BodyKind::Length(length) => Framing::Length(length),
            BodyKind::Chunked => Framing::Chunked,
            _ => Framing::None,
        };
        let how = RequestOut { framing, ..RequestOut::default() };
        let mut out = Vec::new();
        write_request(&mut out, &head, &text, &how);
        let again = request(&out);
        prop_assert_eq!(again.len as usize, out.len());
        prop_assert_eq!(again.body, head.body);
        prop_assert_eq!(again.method.of(&out), head.method.of(&text));
        prop_assert_eq!(again.authority.of(&out), head.authority.of(&text));
        for header in &again.headers {
            use HeaderKind::*;
            prop_assert!(!matches!(header.kind, Connection | KeepAlive | ProxyConnection | Te | Upgrade));
            prop_assert!(!(head.connection_names_more && header.name.of(&out).eq_ignore_ascii_case(b"x")));
        }
        prop_assert_eq!(again.header(&out, "via").is_some(), true);
    }

    #[test]
    fn chunked_bodies_come_back_whole(
        chunks in vec(vec(any::<u8>(), 1..40), 0..8),
        cuts in vec(any::<Index>(), 0..6),
        trailer: bool,
    ) {
        let mut input = Vec::new();
        for chunk in &chunks {
            let (line, used) = chunk_line(chunk.len());
            input.extend_from_slice(&line[..used]);
            input.extend_from_slice(chunk);
            input.extend_from_slice(CHUNK_END);
        }
        let trailers: &[u8] = if trailer { b"a: b\r\n" } else { b"" };
        write_last_chunk(&mut input, trailers);
        let end = input.len();
        input.extend_from_slice(b"5\r\nnext");
        let (data, consumed, kept) = read_in_pieces(&input, &cuts).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(consumed, end);
        prop_assert_eq!(kept, trailers);
    }

    #[test]
    fn cuts_change_nothing_about_any_chunked_input(
        text in prop_oneof![wire(), vec(select(&b"05af;\r\n \"x:"[..]), 0..60)],
        cuts in vec(any::<Index>(), 0..6),
    ) {
        prop_assert_eq!(read_in_pieces(&text, &cuts), read_in_pieces(&text, &[]));
    }
}
