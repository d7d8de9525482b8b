//! A request and its answer through one codec, so often: what `benches/instructions.sh` counts the instructions of.
//!
//! `cargo bench -p shmesh-proto --bench codec-instructions -- CODEC ROUNDS`
#![forbid(unsafe_code)]

#[path = "samples.rs"]
mod samples;

use std::hint::black_box;

use samples::{Frame, REQUEST_LONG, REQUEST_SHORT, RESPONSE_LONG, RESPONSE_SHORT, golden_requests, parse_header, peek};
use shmesh_proto::dubbo::{self, HEADER_LEN, serialization};
use shmesh_proto::http1::{
    Framing, HeadLimits, RequestHead, RequestOut, ResponseHead, ResponseOut, Status, write_request, write_response,
};

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [codec, rounds] = arguments.as_slice() else { panic!("CODEC ROUNDS") };
    let rounds = rounds.parse().expect("how many rounds");
    match codec.as_str() {
        "http1-short" => http1(rounds, REQUEST_SHORT, RESPONSE_SHORT),
        "http1-long" => http1(rounds, REQUEST_LONG, RESPONSE_LONG),
        "dubbo-hessian2" => dubbo(rounds, &golden(serialization::HESSIAN2), false),
        "dubbo-hessian2-group" => dubbo(rounds, &golden(serialization::HESSIAN2), true),
        "dubbo-fastjson2" => dubbo(rounds, &golden(serialization::FASTJSON2), false),
        "dubbo-fastjson2-group" => dubbo(rounds, &golden(serialization::FASTJSON2), true),
        _ => panic!("there is no codec {codec}"),
    }
}

/// Heads read and written anew.
fn http1(rounds: u32, request: &[u8], response: &[u8]) {
    let limits = HeadLimits::default();
    let (mut request_head, mut response_head) = (RequestHead::default(), ResponseHead::default());
    let (mut request_out, mut response_out) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        request_out.clear();
        response_out.clear();
        http1_call(
            &limits,
            (&mut request_head, request, &mut request_out),
            (&mut response_head, response, &mut response_out),
        );
        assert!(request_out.ends_with(b"\r\n\r\n") && response_out.ends_with(b"\r\n\r\n"));
    }
}

#[inline(never)]
fn http1_call(
    limits: &HeadLimits,
    request: (&mut RequestHead, &[u8], &mut Vec<u8>),
    response: (&mut ResponseHead, &[u8], &mut Vec<u8>),
) {
    let framing = Framing::Length(64);
    let (head, bytes, out) = request;
    assert_eq!(head.parse(black_box(bytes), limits), Ok(Status::Complete));
    write_request(out, head, bytes, &RequestOut { framing, ..RequestOut::default() });
    let (head, bytes, out) = response;
    assert_eq!(head.parse(black_box(bytes), limits, false), Ok(Status::Complete));
    write_response(out, head, bytes, &ResponseOut { framing, ..ResponseOut::default() });
}

/// The first golden request of a serialization.
fn golden(serialization: u8) -> Frame {
    let frame = golden_requests().into_iter().find(|frame| frame.header.serialization == serialization);
    frame.expect("each serialization of Dubbo 3.3 has a frame")
}

fn dubbo(rounds: u32, frame: &Frame, group: bool) {
    let mut answer = frame.header;
    (answer.request, answer.two_way, answer.status) = (false, false, dubbo::status::OK);
    let answer = answer.encode();
    for round in 0..rounds {
        let ids = dubbo_call(&frame.bytes, &answer, u64::from(round), group);
        assert_eq!(ids, (u64::from(round), frame.header.id));
    }
}

/// The request is read and leaves under another id, its answer comes and gets its own id back.
#[inline(never)]
fn dubbo_call(request: &[u8], answer: &[u8; HEADER_LEN], id: u64, group: bool) -> (u64, u64) {
    let mut header = parse_header(black_box(request));
    let body = &request[HEADER_LEN..];
    let peeked = peek(header.serialization, body);
    if group {
        black_box(dubbo::attachment(header.serialization, body, &peeked, "group").expect("a golden frame"));
    }
    let own = std::mem::replace(&mut header.id, id);
    let sent = black_box(header.encode());
    let mut back = parse_header(black_box(answer));
    back.id = own;
    (parse_header(&sent).id, parse_header(&black_box(back.encode())).id)
}
