//! Benchmark `codecs`: what reading and writing heads costs, without any I/O.
//!
//! Workload: HTTP/1.1 heads as curl and a browser-like client send them, a 64 KiB body in chunks, and every two-way request
//! of the golden Dubbo vectors (`tests/vectors/dubbo2.md`: hessian2 and fastjson2, made and captured from Dubbo Java).
//! `skip` is the walk over the arguments to the group in the attachments, `peek` is what all other routes need.
//! Peers: none. Machine: whatever it runs on, so compare lines of one run only.
//!
//!     cargo bench -p shmesh-benches --bench codecs
#![forbid(unsafe_code)]

#[path = "samples.rs"]
mod samples;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use samples::{Frame, REQUEST_LONG, REQUEST_SHORT, RESPONSE_LONG, RESPONSE_SHORT, golden_requests, parse_header, peek};
use shmesh_proto::dubbo::{self, HEADER_LEN};
use shmesh_proto::http1::{
    self, BodyKind, BodyReader, Framing, HeadLimits, RequestHead, RequestOut, ResponseHead, ResponseOut, Status,
};

/// Bytes of the chunked body.
const BODY_BYTES: usize = 64 * 1024;
/// Bytes of one chunk of it.
const CHUNK_BYTES: usize = 4 * 1024;
/// What a worker receives at a time, in bytes.
const RECEIVED_BYTES: usize = 16 * 1024;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = http_requests, http_responses, chunked, dubbo_requests
}
criterion_main!(benches);

fn http_requests(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let how = RequestOut { framing: Framing::Length(64), ..RequestOut::default() };
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
    let how = ResponseOut { framing, ..ResponseOut::default() };
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
