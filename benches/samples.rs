//! What the codecs are measured with: heads as curl and a browser-like client send them, and golden Dubbo frames.

use shmesh_proto::dubbo::{self, DEFAULT_MAX_BODY, FrameHeader, Peek, PeekOutcome};

pub const REQUEST_SHORT: &[u8] =
    b"PUT /orders/17 HTTP/1.1\r\nHost: reviews\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
    Content-Length: 64\r\n\r\n";

pub const REQUEST_LONG: &[u8] =
    b"GET /api/v2/reviews?product=4711&page=3&order=newest HTTP/1.1\r\nHost: reviews.shop.svc:9080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\
    Cookie: session=0f8a2c6be7134d1f9ac25d7735c81a04; theme=dark; basket=17%2C4%2C99\r\n\
    X-Request-Id: 5a1f0a1e-8f61-4c27-9a4e-3f9b7a7f5d10\r\n\
    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nCache-Control: no-cache\r\n\r\n";

pub const RESPONSE_SHORT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n";

pub const RESPONSE_LONG: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 11 Nov 2025 10:00:00 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\nContent-Length: 5120\r\nConnection: keep-alive\r\n\
    Last-Modified: Mon, 10 Nov 2025 09:00:00 GMT\r\nETag: \"69119a40-1400\"\r\nCache-Control: max-age=60, public\r\n\
    Vary: Accept-Encoding\r\nX-Request-Id: 5a1f0a1e-8f61-4c27-9a4e-3f9b7a7f5d10\r\nAccept-Ranges: bytes\r\n\r\n";

/// A frame of the golden vectors.
pub struct Frame {
    #[allow(dead_code)] // not every program says it
    pub name: String,
    pub header: FrameHeader,
    pub bytes: Vec<u8>,
}

pub fn parse_header(bytes: &[u8]) -> FrameHeader {
    let header = bytes.first_chunk().expect("16 bytes");
    FrameHeader::parse(header, DEFAULT_MAX_BODY).expect("a golden frame")
}

pub fn peek(serialization: u8, body: &[u8]) -> Peek {
    match dubbo::peek_request(serialization, body, true).expect("a golden frame") {
        PeekOutcome::Done(peek) => peek,
        PeekOutcome::NeedMore => panic!("the frame is whole"),
    }
}

/// The two-way requests of the page that are no events.
pub fn golden_requests() -> Vec<Frame> {
    let page = include_str!("../tests/vectors/dubbo2.md");
    let mut frames = Vec::new();
    for block in page.split("```\n").skip(1).step_by(2) {
        let mut lines = block.lines();
        let title = lines.next().and_then(|line| line.strip_prefix("# "));
        let (Some(title), Some(hex)) = (title, lines.next()) else { continue };
        let bytes = unhex(hex);
        if !bytes.starts_with(&dubbo::MAGIC) {
            continue;
        }
        let header = parse_header(&bytes);
        if header.request && header.two_way && !header.event {
            let name = title.split_whitespace().next().expect("a block has a name").to_lowercase();
            frames.push(Frame { name, header, bytes });
        }
    }
    assert!(frames.len() >= 4, "the page of vectors has changed its form");
    frames
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex")).collect()
}
