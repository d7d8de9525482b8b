//! A body of a gigabyte passes, and the sidecar stays as small as it was: up and down, in each framing, over sockets and shared
//! memory, also when whoever takes it rests for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Ways, before};
use crate::bytes::MIB;
use crate::process::Process;
use crate::service::Service;
use crate::sidecar::Driver;
use crate::wire::{Head, Wire};

on_each_driver!(
    a_gigabyte_comes_down,
    a_gigabyte_goes_up,
    chunks_come_down,
    chunks_go_up,
    a_stream_over_shared_memory_comes_down,
    a_stream_over_shared_memory_goes_up,
);

const GIGABYTE: u64 = 1024 * MIB;
/// What is moved where a gigabyte would show nothing more.
const MUCH: u64 = 256 * MIB;
/// What goes first, so that all buffers have their size.
const FIRST: u64 = 32 * MIB;
/// What the sidecar may grow by while a body passes: buffers of both connections and of the kernel's rings, and what an
/// allocator keeps; a fraction of any of these bodies.
const GROWTH_MAX: u64 = 16 * MIB;
/// How long whoever takes a body rests in its middle: long enough for the other side to fill everything there is.
const REST: Duration = Duration::from_millis(500);
const PIECE: usize = 1024 * 1024;
/// How often the sidecar's size is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[derive(Copy, Clone, PartialEq)]
enum Framing {
    Length,
    Chunked,
}

impl Framing {
    fn field(self, len: u64) -> String {
        match self {
            Framing::Length => format!("content-length: {len}"),
            Framing::Chunked => "transfer-encoding: chunked".to_owned(),
        }
    }

    /// Sends a body of zeros.
    fn send(self, wire: &mut Wire, len: u64) {
        let zeros = vec![0; PIECE];
        for _ in 0..len / PIECE as u64 {
            match self {
                Framing::Length => wire.send(&zeros),
                Framing::Chunked => wire.send([format!("{PIECE:x}\r\n").as_bytes(), &zeros, b"\r\n"].concat()),
            }
        }
        if self == Framing::Chunked {
            wire.send("0\r\n\r\n");
        }
    }
}

/// Takes a body of `len` bytes, and rests in its middle.
fn take(wire: &mut Wire, head: &Head, len: u64) {
    let (mut taken, mut rested) = (0, false);
    wire.body(head, false, |piece| {
        taken += piece.len() as u64;
        if taken > len / 2 && !rested {
            rested = true;
            std::thread::sleep(REST);
        }
    });
    assert_eq!(taken, len);
}

/// `GET /LEN` gets a body, framed as the query says; `PUT /LEN` takes one.
fn service() -> Service {
    Service::tcp(|mut wire| {
        while let Some(head) = wire.head() {
            let (len, framing) = head.path().trim_start_matches('/').split_once('?').expect("a query");
            let len = len.parse().expect("a number");
            if head.method() == "PUT" {
                take(&mut wire, &head, len);
                wire.send("HTTP/1.1 204 No Content\r\n\r\n");
            } else {
                let framing = if framing == "chunked" { Framing::Chunked } else { Framing::Length };
                wire.send(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framing.field(len)));
                framing.send(&mut wire, len);
            }
        }
    })
}

fn query(framing: Framing) -> &'static str {
    if framing == Framing::Chunked { "chunked" } else { "length" }
}

fn down(wire: &mut Wire, len: u64, framing: Framing) {
    wire.send(format!("GET /{len}?{} HTTP/1.1\r\nHost: service\r\n\r\n", query(framing)));
    let head = wire.head().expect("an answer");
    assert_eq!(head.status(), 200);
    take(wire, &head, len);
}

fn up(wire: &mut Wire, len: u64, framing: Framing) {
    wire.send(format!("PUT /{len}?x HTTP/1.1\r\nHost: service\r\n{}\r\n\r\n", framing.field(len)));
    framing.send(wire, len);
    assert_eq!(wire.answer().status(), 204);
}

/// Moves a body one way, and looks how large the sidecar becomes.
fn stays_small(driver: Driver, way: &str, len: u64, framing: Framing, moves: fn(&mut Wire, u64, Framing)) {
    let service = service();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    let mut wire = ways.connect(way);
    moves(&mut wire, FIRST, framing);
    let size = sidecar.process.resident();
    let largest = while_watched(&sidecar.process, || moves(&mut wire, len, framing));
    let grown = largest.saturating_sub(size);
    println!("{} MiB, and {} KiB more at the most", size / MIB, grown / 1024);
    assert!(grown < GROWTH_MAX, "{} MiB, and {} MiB while the body passed", size / MIB, largest / MIB);
}

/// The largest size of a process while something happens.
fn while_watched(process: &Process, happens: impl FnOnce()) -> u64 {
    let (done, largest) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                largest.fetch_max(process.resident(), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        // Also if it panics, or the thread would go on for ever.
        let _end = OnDrop(|| done.store(true, Ordering::Relaxed));
        happens();
    });
    largest.into_inner()
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn a_gigabyte_comes_down(driver: Driver) {
    stays_small(driver, "tcp", GIGABYTE, Framing::Length, down);
}

fn a_gigabyte_goes_up(driver: Driver) {
    stays_small(driver, "tcp", GIGABYTE, Framing::Length, up);
}

fn chunks_come_down(driver: Driver) {
    stays_small(driver, "tcp", MUCH, Framing::Chunked, down);
}

fn chunks_go_up(driver: Driver) {
    stays_small(driver, "tcp", MUCH, Framing::Chunked, up);
}

fn a_stream_over_shared_memory_comes_down(driver: Driver) {
    stays_small(driver, "shm", MUCH, Framing::Length, down);
}

fn a_stream_over_shared_memory_goes_up(driver: Driver) {
    stays_small(driver, "shm", MUCH, Framing::Chunked, up);
}
