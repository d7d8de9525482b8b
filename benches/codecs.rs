//! Benchmark `codecs`: what reading and writing heads costs, without any I/O.
//!
//! Workload: HTTP/1.1 heads as curl and a browser-like client send them, a 64 KiB body in chunks, and every two-way request
//! of the golden Dubbo vectors (`tests/vectors/dubbo2.md`: hessian2 and fastjson2, made and captured from Dubbo Java).
//! `skip` is the walk over the arguments to the group in the attachments, `peek` is what all other routes need.
//! Peers: none. Machine: whatever it runs on, so compare lines of one run only.
//!
//!     cargo bench -p shmesh-benches --bench codecs
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shmesh_proto::dubbo::{self, DEFAULT_MAX_BODY, FrameHeader, HEADER_LEN, Peek, PeekOutcome};
use shmesh_proto::http1::{
    self, BodyKind, BodyReader, ConnectionOption, Framing, HeadLimits, RequestHead, RequestOut, ResponseHead,
    ResponseOut, Status, Version,
};

/// Bytes of the chunked body.
const BODY_BYTES: usize = 64 * 1024;
/// Bytes of one chunk of it.
const CHUNK_BYTES: usize = 4 * 1024;
/// What a worker receives at a time, in bytes.
const RECEIVED_BYTES: usize = 16 * 1024;

const REQUEST_SHORT: &[u8] = b"PUT /orders/17 HTTP/1.1\r\nHost: reviews\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
    Content-Length: 64\r\n\r\n";

const REQUEST_LONG: &[u8] =
    b"GET /api/v2/reviews?product=4711&page=3&order=newest HTTP/1.1\r\nHost: reviews.shop.svc:9080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\
    Cookie: session=0f8a2c6be7134d1f9ac25d7735c81a04; theme=dark; basket=17%2C4%2C99\r\n\
    X-Request-Id: 5a1f0a1e-8f61-4c27-9a4e-3f9b7a7f5d10\r\n\
    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nCache-Control: no-cache\r\n\r\n";

const RESPONSE_SHORT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n";

const RESPONSE_LONG: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 11 Nov 2025 10:00:00 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\nContent-Length: 5120\r\nConnection: keep-alive\r\n\
    Last-Modified: Mon, 10 Nov 2025 09:00:00 GMT\r\nETag: \"69119a40-1400\"\r\nCache-Control: max-age=60, public\r\n\
    Vary: Accept-Encoding\r\nX-Request-Id: 5a1f0a1e-8f61-4c27-9a4e-3f9b7a7f5d10\r\nAccept-Ranges: bytes\r\n\r\n";

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = http_requests, http_responses, chunked, dubbo_requests
}
criterion_main!(benches);

fn http_requests(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let how = RequestOut { framing: Framing::Length(64), connection: ConnectionOption::KeepAlive, host: None };
    for (name, bytes) in [("short", REQUEST_SHORT), ("long", REQUEST_LONG)] {
        let mut group = criterion.benchmark_group(format!("codecs/http1/request-{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut head = RequestHead::default();
        group.bench_function("parse", |bencher| {
            bencher.iter(|| assert_eq!(head.parse(black_box(bytes), &limits), Ok(Status::Complete)));
        });
        // `--exact` and filters may leave the measurement above out.
        assert_eq!(head.parse(bytes, &limits), Ok(Status::Complete));
        let mut out = Vec::new();
        group.bench_function("write", |bencher| {
            bencher.iter(|| {
                out.clear();
                http1::write_request(&mut out, black_box(&head), bytes, &how);
                black_box(out.len())
            });
        });
    }
}

fn http_responses(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let framing = Framing::Length(64);
    let how = ResponseOut { framing, connection: ConnectionOption::KeepAlive, version: Version::Http11 };
    for (name, bytes) in [("short", RESPONSE_SHORT), ("long", RESPONSE_LONG)] {
        let mut group = criterion.benchmark_group(format!("codecs/http1/response-{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut head = ResponseHead::default();
        group.bench_function("parse", |bencher| {
            bencher.iter(|| assert_eq!(head.parse(black_box(bytes), &limits, false), Ok(Status::Complete)));
        });
        assert_eq!(head.parse(bytes, &limits, false), Ok(Status::Complete));
        let mut out = Vec::new();
        group.bench_function("write", |bencher| {
            bencher.iter(|| {
                out.clear();
                http1::write_response(&mut out, black_box(&head), bytes, &how);
                black_box(out.len())
            });
        });
    }
}

/// A body in chunks: framing taken off as it arrives, and put on again.
fn chunked(criterion: &mut Criterion) {
    let body = vec![b'x'; BODY_BYTES];
    let mut framed = Vec::new();
    write_chunked(&mut framed, &body);
    let mut group = criterion.benchmark_group("codecs/http1/chunked");
    group.throughput(Throughput::Bytes(BODY_BYTES as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| assert_eq!(read_chunked(black_box(&framed)), BODY_BYTES));
    });
    let mut out = Vec::new();
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_chunked(&mut out, black_box(&body));
            black_box(out.len())
        });
    });
}

/// Bytes of body data in what arrives in pieces.
fn read_chunked(framed: &[u8]) -> usize {
    let mut reader = BodyReader::new(BodyKind::Chunked);
    let mut total = 0;
    for mut piece in framed.chunks(RECEIVED_BYTES) {
        while !piece.is_empty() {
            let step = reader.read(piece).expect("chunks of our own");
            total += step.data.len();
            piece = &piece[step.consumed..];
        }
    }
    assert!(reader.is_done());
    total
}

fn write_chunked(out: &mut Vec<u8>, body: &[u8]) {
    for chunk in body.chunks(CHUNK_BYTES) {
        let (line, len) = http1::chunk_line(chunk.len());
        out.extend_from_slice(&line[..len]);
        out.extend_from_slice(chunk);
        out.extend_from_slice(http1::CHUNK_END);
    }
    http1::write_last_chunk(out, b"");
}

fn dubbo_requests(criterion: &mut Criterion) {
    for Frame { name, header, bytes } in golden_requests() {
        let mut group = criterion.benchmark_group(format!("codecs/dubbo/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("header", |bencher| {
            bencher.iter(|| assert_eq!(parse_header(black_box(&bytes)), header));
        });
        let body = &bytes[HEADER_LEN..];
        group.bench_function("peek", |bencher| {
            bencher.iter(|| peek(header.serialization, black_box(body)));
        });
        let peeked = peek(header.serialization, body);
        group.bench_function(BenchmarkId::from_parameter("skip"), |bencher| {
            bencher.iter(|| {
                dubbo::attachment(header.serialization, black_box(body), &peeked, "group").expect("a golden frame")
            });
        });
    }
}

struct Frame {
    name: String,
    header: FrameHeader,
    bytes: Vec<u8>,
}

fn parse_header(bytes: &[u8]) -> FrameHeader {
    let header = bytes.first_chunk().expect("16 bytes");
    FrameHeader::parse(header, DEFAULT_MAX_BODY).expect("a golden frame")
}

fn peek(serialization: u8, body: &[u8]) -> Peek {
    match dubbo::peek_request(serialization, body, true).expect("a golden frame") {
        PeekOutcome::Done(peek) => peek,
        PeekOutcome::NeedMore => panic!("the frame is whole"),
    }
}

/// The two-way requests of the page that are no events.
fn golden_requests() -> Vec<Frame> {
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
