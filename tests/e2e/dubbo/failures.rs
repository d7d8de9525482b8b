//! Calls that fail: the status, the sentence, and what becomes of the connection.

use shmesh_proto::dubbo::{Invocation, serialization};

use super::{Frame, ask, before, call, echo_provider, invocation, provider, read_frame, request, vectors};
use crate::bytes::Noise;
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar, free_port};

on_each_driver!(
    no_route_is_status_60,
    what_is_no_frame_closes_the_connection,
    an_oversized_frame_is_status_40_and_the_end,
    a_request_that_cannot_be_read_is_status_40,
    a_provider_that_refuses_is_status_80,
    a_provider_that_never_answers_is_status_31,
    a_provider_that_dies_is_status_80,
    a_provider_that_talks_nonsense_is_status_50,
    the_next_endpoint_when_one_refuses,
    random_bytes_do_no_harm,
);

fn no_route_is_status_60(driver: Driver) {
    let service = echo_provider();
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
        let other = Invocation { path: "com.demo.Other", ..invocation("x") };
        let answer = ask(&mut wire, &request(7, true, serialization, &other));
        assert_eq!(answer.header.serialization, serialization, "in the caller's own serialization");
        let (status, sentence) = answer.error();
        assert_eq!(status, 60);
        assert!(sentence.starts_with("shmesh: no route"), "{sentence}");
        // One-way: nobody is told.
        wire.send(request(8, false, serialization, &other));
    }
    assert_eq!(ask(&mut wire, &call(9, "still here")).value(), "still here");
    assert_eq!(sidecar.requests("rpc", "-", 60), 4.0);
}

fn what_is_no_frame_closes_the_connection(driver: Driver) {
    let service = echo_provider();
    let sidecar = before(driver, &service.endpoint);
    let mut negative = call(1, "x");
    negative[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    let mut magic = call(1, "x");
    magic[1] = 0xbc;
    for bytes in [negative, magic, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), vec![0; 16]] {
        let mut wire = sidecar.connect("rpc");
        let _ = wire.try_send(&bytes);
        let (answer, _) = wire.rest();
        assert!(answer.is_empty(), "{answer:02x?}");
    }
    assert_eq!(sidecar.metric("shmesh_dubbo_malformed_total"), 4.0);
    assert_eq!(service.accepted(), 0);
    // Behind a good call, too: that one is answered before.
    let mut wire = sidecar.connect("rpc");
    assert_eq!(ask(&mut wire, &call(2, "good")).value(), "good");
    wire.send([0xff; 16]);
    wire.expect_closed();
}

fn an_oversized_frame_is_status_40_and_the_end(driver: Driver) {
    let service = echo_provider();
    let config = super::CONFIG.replace("8MiB", "64KiB");
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint), ("patience", "15s")]);
    let mut wire = sidecar.connect("rpc");
    assert_eq!(ask(&mut wire, &call(1, &"x".repeat(60_000))).value().len(), 60_000);
    wire.send(&call(2, &"x".repeat(70_000))[..]);
    let answer = read_frame(&mut wire).expect("an answer");
    let (status, sentence) = answer.error();
    assert_eq!((answer.header.id, status), (2, 40));
    assert!(sentence.contains("65536") && sentence.contains("dubbo_body_bytes"), "{sentence}");
    wire.expect_closed();
    // An answer may not be larger either: its call ends, and the provider's connection with it.
    let service = provider(|frame, wire| {
        let mut answer = frame.header;
        (answer.request, answer.two_way, answer.status, answer.body_len) = (false, false, 20, 70_000);
        wire.send(answer.encode());
        let _ = wire.try_send(&vec![0; 70_000]);
    });
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint), ("patience", "15s")]);
    assert_eq!(ask(&mut sidecar.connect("rpc"), &call(3, "x")).error().0, 50);
}

fn a_request_that_cannot_be_read_is_status_40(driver: Driver) {
    let service = echo_provider();
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    // A string that runs past the end of the body.
    let mut past_end = call(1, "x");
    let path = past_end.windows(4).position(|four| four == b"com.").expect("the path") - 1;
    past_end.truncate(path + 10);
    past_end[path] = 0x1f;
    let mut unknown = call(2, "x");
    unknown[2] = 0xc0 | serialization::KRYO; // In which these bytes are no string.
    let mut empty = call(3, "x");
    empty.truncate(16);
    let mut old_string = call(4, "x");
    old_string[16] = b's';
    for mut bytes in [past_end, unknown, empty, old_string] {
        let len = (bytes.len() - 16) as u32;
        bytes[12..16].copy_from_slice(&len.to_be_bytes());
        let answer = ask(&mut wire, &bytes);
        assert_eq!(answer.header.status, 40, "{:02x?}", &bytes[..20.min(bytes.len())]);
    }
    assert_eq!(ask(&mut wire, &call(5, "still here")).value(), "still here");
    assert_eq!(sidecar.metric("shmesh_dubbo_malformed_total"), 4.0);
}

fn a_provider_that_refuses_is_status_80(driver: Driver) {
    let sidecar = before(driver, &format!("tcp:127.0.0.1:{}", free_port()));
    let mut wire = sidecar.connect("rpc");
    for id in 0..3 {
        let (status, sentence) = ask(&mut wire, &call(id, "x")).error();
        assert_eq!(status, 80);
        assert!(sentence.starts_with("shmesh: no endpoint"), "{sentence}");
    }
    assert_eq!(sidecar.requests("rpc", "greeter", 80), 3.0);
}

fn a_provider_that_never_answers_is_status_31(driver: Driver) {
    let service = provider(|_, _| ());
    let whole = super::CONFIG.replace("first_byte_timeout: $patience", "request_timeout: $patience");
    for (config, says) in [(super::CONFIG, "did not answer in time"), (&whole, "took longer")] {
        let sidecar = Sidecar::start(driver, config, &[("up", &service.endpoint), ("patience", "200ms")]);
        let mut wire = sidecar.connect("rpc");
        for id in 0..3 {
            let (status, sentence) = ask(&mut wire, &call(id, "x")).error();
            assert_eq!(status, 31);
            assert!(sentence.contains(says), "{sentence}");
        }
    }
}

fn a_provider_that_dies_is_status_80(driver: Driver) {
    // With several calls open: each caller is told.
    let service = Service::tcp(|mut wire| {
        for _ in 0..5 {
            read_frame(&mut wire);
        }
        // Half an answer.
        wire.send(&vectors()["RESP_OK4"][..20]);
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for round in 0..2 {
        for id in 0..5 {
            wire.send(call(id, "x"));
        }
        for _ in 0..5 {
            let (status, sentence) = read_frame(&mut wire).expect("an answer").error();
            assert_eq!(status, 80, "round {round}");
            assert!(sentence.contains("closed the connection"), "{sentence}");
        }
    }
    assert_eq!(service.accepted(), 2);
}

fn a_provider_that_talks_nonsense_is_status_50(driver: Driver) {
    let service = provider(|_, wire| wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for id in 0..3 {
        assert_eq!(ask(&mut wire, &call(id, "x")).error().0, 50);
    }
}

fn the_next_endpoint_when_one_refuses(driver: Driver) {
    let service = echo_provider();
    let config = super::CONFIG.replace("\"$up\"", &format!("\"tcp:127.0.0.1:{}\", \"$up\"", free_port()));
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint), ("patience", "15s")]);
    let mut wire = sidecar.connect("rpc");
    for id in 0..10 {
        assert_eq!(ask(&mut wire, &call(id, "x")).value(), "x");
    }
}

fn random_bytes_do_no_harm(driver: Driver) {
    let service = echo_provider();
    let mut sidecar = before(driver, &service.endpoint);
    let mut noise = Noise::new(7);
    for len in 0..60 {
        let mut wire = sidecar.connect("rpc");
        let mut bytes = noise.take(len * 5);
        // A good header, and anything behind it; a good request with one byte changed.
        if len % 3 == 1 {
            let mut header = Frame::parse(&call(1, "x")).header;
            header.body_len = bytes.len() as u32;
            bytes.splice(0..0, header.encode());
        } else if len % 3 == 2 {
            let at = bytes[0] as usize % 60;
            let mut call = call(1, "x");
            call[16 + at] ^= bytes[1] | 1;
            bytes = call;
        }
        let _ = wire.try_send(&bytes);
        wire.end();
        let _ = wire.rest();
    }
    assert!(sidecar.process.ended().is_none());
    assert_eq!(ask(&mut sidecar.connect("rpc"), &call(1, "still here")).value(), "still here");
}
