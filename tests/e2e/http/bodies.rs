//! Byte for byte: bodies of every size, framed in each way, up and down, through each listener.

use std::io::Read;
use std::process::{Command, Stdio};

use super::before;
use crate::bytes::{KIB, MIB, Noise};
use crate::process::{SHMESH, shmesh_ok};
use crate::service::noise_service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    small_bodies_over_tcp,
    small_bodies_over_a_unix_socket,
    small_bodies_over_shared_memory,
    large_bodies_over_tcp,
    large_bodies_over_a_unix_socket,
    large_bodies_over_shared_memory,
    bodies_of_every_size_around_the_buffers,
    an_echo_flows_both_ways_at_once,
);

const SMALL: [u64; 7] = [0, 1, 100, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, MIB];
const LARGE: u64 = 64 * MIB;

fn small_bodies_over_tcp(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    small_bodies(&mut wire);
    assert_eq!(service.accepted(), 1, "keep-alive on the way up, too");
}

fn small_bodies_over_a_unix_socket(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    small_bodies(&mut Wire::unix(&sidecar.path("web.sock")));
}

/// Every size, up and down, in every framing, on one connection.
fn small_bodies(wire: &mut Wire) {
    for len in SMALL {
        for method in ["PUT", "POST"] {
            for chunked in [false, true] {
                upload(wire, method, len, chunked);
            }
        }
        for framing in ["length", "chunked"] {
            download(wire, len, framing);
        }
    }
}

fn large_bodies_over_tcp(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let before = sidecar.process.resident();
    let mut wire = sidecar.connect("web");
    large_bodies(&mut wire);
    download(&mut wire, LARGE, "close");
    let grown = sidecar.process.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{} MiB more in memory", grown / MIB);
}

fn large_bodies_over_a_unix_socket(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    large_bodies(&mut Wire::unix(&sidecar.path("web.sock")));
}

fn large_bodies(wire: &mut Wire) {
    upload(wire, "PUT", LARGE, false);
    upload(wire, "PUT", LARGE, true);
    download(wire, LARGE, "length");
    download(wire, LARGE, "chunked");
}

/// Sizes just below, at and above powers of two, at which buffers, blocks and windows end.
fn bodies_of_every_size_around_the_buffers(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    let mut wire = sidecar.connect("web");
    for power in 5..19 {
        for len in [(1 << power) - 1, 1 << power, (1 << power) + 1, (3 << power) / 2] {
            upload(&mut wire, "PUT", len, power % 2 == 0);
            download(&mut wire, len, if power % 2 == 0 { "length" } else { "chunked" });
        }
    }
}

fn an_echo_flows_both_ways_at_once(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    for chunked in [false, true] {
        let mut wire = sidecar.connect("web");
        let up = wire.twin();
        std::thread::scope(|scope| {
            // The answer begins before the request has ended, and nobody holds the whole.
            scope.spawn(|| send_request(up, "PUT", "/echo", 1, 8 * MIB, chunked));
            let head = wire.head().expect("an answer");
            assert_eq!(head.status(), 200);
            let mut noise = Noise::new(1);
            wire.body(&head, false, |piece| noise.check(piece));
            assert_eq!(noise.made(), 8 * MIB);
        });
    }
}

fn upload(wire: &mut Wire, method: &str, len: u64, chunked: bool) {
    let seed = len + 7;
    let path = format!("/take/{seed}");
    send_request(wire.twin(), method, &path, seed, len, chunked);
    let answer = wire.answer();
    assert_eq!((answer.status(), answer.text()), (200, len.to_string()), "{method} of {len} bytes, chunked: {chunked}");
}

/// Sends a whole request on a connection.
fn send_request(mut wire: Wire, method: &str, path: &str, seed: u64, len: u64, chunked: bool) {
    let framing = if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {len}") };
    wire.send(format!("{method} {path} HTTP/1.1\r\nhost: service\r\n{framing}\r\n\r\n"));
    let mut noise = Noise::new(seed);
    let mut left = len;
    while left > 0 {
        let piece = noise.take(left.min(60_001) as usize);
        left -= piece.len() as u64;
        match chunked {
            true => wire.send([format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat()),
            false => wire.send(piece),
        }
    }
    if chunked {
        wire.send("0\r\n\r\n");
    }
}

fn download(wire: &mut Wire, len: u64, framing: &str) {
    let seed = len + 11;
    wire.send(format!("GET /give/{seed}/{len}/{framing} HTTP/1.1\r\nhost: service\r\n\r\n"));
    let head = wire.head().expect("an answer");
    assert_eq!(head.status(), 200);
    let expected = (framing == "length").then_some(len);
    assert_eq!(head.length(), expected, "{framing}");
    let mut noise = Noise::new(seed);
    wire.body(&head, false, |piece| noise.check(piece));
    assert_eq!(noise.made(), len, "{framing}");
}

fn small_bodies_over_shared_memory(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    for len in SMALL {
        call_up(&sidecar, len);
        for framing in ["length", "chunked", "close"] {
            call_down(&sidecar, len, framing);
        }
    }
}

fn large_bodies_over_shared_memory(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &[&service.endpoint]);
    call_up(&sidecar, LARGE);
    call_down(&sidecar, LARGE, "length");
    call_down(&sidecar, LARGE, "chunked");
}

/// `shmesh call` with a body from a file.
fn call_up(sidecar: &Sidecar, len: u64) {
    let seed = len + 7;
    let file = sidecar.path("body");
    std::fs::write(&file, Noise::new(seed).take(len as usize)).expect("a file");
    let via = format!("shm:{}", sidecar.path("apps.sock").display());
    let (url, data) = (format!("http://service/take/{seed}"), format!("@{}", file.display()));
    let answer = shmesh_ok(&["call", "--via", &via, "--http", "PUT", &url, "--data", &data]);
    assert_eq!(String::from_utf8_lossy(&answer), len.to_string());
}

/// `shmesh call`, whose stdout is compared as it comes.
fn call_down(sidecar: &Sidecar, len: u64, framing: &str) {
    let seed = len + 11;
    let via = format!("shm:{}", sidecar.path("apps.sock").display());
    let url = format!("http://service/give/{seed}/{len}/{framing}");
    let mut call = Command::new(SHMESH)
        .args(["call", "--via", &via, "--http", "GET", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdout = call.stdout.take().expect("it is piped");
    let mut noise = Noise::new(seed);
    let mut piece = vec![0; 64 * 1024];
    loop {
        match stdout.read(&mut piece).expect("a pipe") {
            0 => break,
            n => noise.check(&piece[..n]),
        }
    }
    assert!(call.wait().expect("it ends").success());
    assert_eq!(noise.made(), len, "{framing}");
}
