//! Streams of an app: what would be spoken on a socket, over shared memory.

use std::io::{Read, Write};
use std::net::Shutdown;

use shmesh_client::{Protocol, Stream};

use super::{before, client};
use crate::bytes::{KIB, MIB, Noise};
use crate::service::{Service, noise_service, saying};
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(
    http_is_spoken_on_a_stream,
    a_stream_that_ends_behind_its_answers_is_ended,
    raw_bytes_flow_both_ways_at_once,
    each_direction_of_a_stream_ends_by_itself,
    streams_that_are_dropped_leave_nothing,
);

fn read_some(stream: &mut Stream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

/// A head, byte by byte.
fn read_head(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read_some(stream, 1));
    }
    String::from_utf8(head).expect("text")
}

fn http_is_spoken_on_a_stream(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    let mut stream = client(&sidecar).stream(Protocol::Http, None).expect("a stream");
    for len in [0, 1, 1000, 300 * KIB, 4 * MIB] {
        stream
            .write_all(format!("PUT /take/9 HTTP/1.1\r\nHost: service\r\nContent-Length: {len}\r\n\r\n").as_bytes())
            .and_then(|()| stream.write_all(&Noise::new(9).take(len as usize)))
            .expect("it is taken");
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(read_some(&mut stream, len.to_string().len()), len.to_string().as_bytes());
        stream
            .write_all(format!("GET /give/3/{len}/length HTTP/1.1\r\nHost: service\r\n\r\n").as_bytes())
            .expect("it is taken");
        let head = read_head(&mut stream);
        assert!(head.to_ascii_lowercase().contains(&format!("content-length: {len}\r\n")), "{head}");
        Noise::new(3).check(&read_some(&mut stream, len as usize));
    }
    assert_eq!(sidecar.requests("apps", "service", 200), 10.0);
}

fn raw_bytes_flow_both_ways_at_once(driver: Driver) {
    const LEN: u64 = 8 * MIB;
    let service = Service::tcp(|mut wire| {
        let mut back = wire.twin();
        std::thread::spawn(move || {
            back.send(Noise::new(2).take(LEN as usize / 2));
            back.end();
        });
        let mut noise = Noise::new(1);
        wire.each_piece(u64::MAX, |piece| noise.check(piece)).expect("an end in order");
        assert_eq!(noise.made(), LEN);
    });
    let sidecar = before(driver, &service.endpoint);
    let mut stream = client(&sidecar).stream(Protocol::Raw, Some("service")).expect("a stream");
    let mut writer = stream.try_clone().expect("another handle");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut noise = Noise::new(1);
            while noise.made() < LEN {
                writer.write_all(&noise.take(65_536)).expect("it is taken");
            }
            writer.shutdown(Shutdown::Write).expect("an end");
        });
        let mut noise = Noise::new(2);
        let mut piece = vec![0; 30_000];
        loop {
            match stream.read(&mut piece).expect("bytes") {
                0 => break,
                n => noise.check(&piece[..n]),
            }
        }
        assert_eq!(noise.made(), LEN / 2);
    });
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn each_direction_of_a_stream_ends_by_itself(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        let (bytes, in_order) = wire.rest();
        assert!(in_order);
        wire.send(format!("{} bytes", bytes.len()));
    });
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for len in [0, 5, 100_000] {
        let mut stream = client.stream(Protocol::Raw, Some("service")).expect("a stream");
        stream.write_all(&vec![1; len]).expect("it is taken");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an end in order");
        assert_eq!(answer, format!("{len} bytes"));
    }
    let stream = client.stream(Protocol::Raw, Some("unknown"));
    let refused = stream.map_err(std::io::Error::from).and_then(|mut stream| stream.read_to_end(&mut Vec::new()));
    assert!(refused.is_err(), "there is no such cluster");
}

/// A stream that is dropped is like a socket that is closed: what was written still goes out. Nobody reads what comes, so
/// it ends at the latest when it has been idle for too long.
fn streams_that_are_dropped_leave_nothing(driver: Driver) {
    let service = noise_service();
    let config = super::CONFIG.replace("first_byte: 10s", "first_byte: 10s, idle: 500ms");
    let sidecar = Sidecar::start(driver, &config, &[("up", &service.endpoint), ("raw_cluster", "service")]);
    let client = client(&sidecar);
    for _ in 0..30 {
        let mut stream = client.stream(Protocol::Http, None).expect("a stream");
        stream
            .write_all(format!("GET /give/3/{}/length HTTP/1.1\r\nHost: service\r\n\r\n", 64 * MIB).as_bytes())
            .expect("it is taken");
        read_head(&mut stream);
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    let mut stream = client.stream(Protocol::Http, None).expect("a stream");
    stream.write_all(b"GET /give/3/5/length HTTP/1.1\r\nHost: service\r\n\r\n").expect("it is taken");
    read_head(&mut stream);
    Noise::new(3).check(&read_some(&mut stream, 5));
}

/// As on a socket: the one side has nothing more to ask, so the other has nothing more to say.
fn a_stream_that_ends_behind_its_answers_is_ended(driver: Driver) {
    let service = saying("ok");
    let sidecar = before(driver, &service.endpoint);
    let client = client(&sidecar);
    for exchanges in [0, 1, 3] {
        let mut stream = client.stream(Protocol::Http, None).expect("a stream");
        for _ in 0..exchanges {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: service\r\n\r\n").expect("it is taken");
            read_head(&mut stream);
            assert_eq!(read_some(&mut stream, 2), b"ok");
        }
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an end in order");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}
