//! Connections of every kind, each in the middle of a message whenever the sidecar is replaced. Every byte is checked, and nothing is connected anew.

mod rpc;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::drivers;
use crate::bytes::{KIB, MIB, Noise};
use crate::http::upgrade;
use crate::service::{Service, noise_service};
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;
use rpc::Rpc;

on_each_driver!(messages_are_replaced_in_their_middle);

const UPGRADES: usize = 10;

/// What moves between two upgrades on a connection.
const PART: usize = 300 * KIB as usize;

/// More than fits the buffers on the way, so that it is in its middle until the end.
const DOWNLOAD: u64 = 64 * MIB;

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: web, tcp: 127.0.0.1:$web, protocol: http }
  - { name: web-uds, unix: $dir/web.sock, protocol: http }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: echo }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, method: \"*\" }, cluster: greeter }
  - { match: { host: service }, cluster: chat }
  - { match: {}, cluster: noise }
clusters:
  - { name: noise, endpoints: [ \"$noise\" ], first_byte_timeout: 10m }
  - { name: chat, endpoints: [ \"$chat\" ] }
  - { name: echo, endpoints: [ \"$echo\" ] }
  - { name: greeter, endpoints: [ \"$greeter\" ], first_byte_timeout: 10m }
timeouts: { idle: 1h }
workers: 2
";

fn messages_are_replaced_in_their_middle(driver: Driver) {
    let (noise, chat, echo, rpc) = (noise_service(), upgrade::echo(), echo(), Rpc::new());
    let words = [("noise", &noise), ("chat", &chat), ("echo", &echo), ("greeter", &rpc.provider)];
    let words = words.map(|(word, service)| (word, service.endpoint.as_str()));
    let mut sidecar = Sidecar::start(driver, CONFIG, &words);

    let mut resting = sidecar.connect("web");
    rests(&mut resting);
    let mut kinds: Vec<Box<dyn Kind>> = vec![
        Box::new(Upload::new(Wire::unix(&sidecar.path("web.sock")), 1)),
        Box::new(Chunks::new(sidecar.connect("web"), 2)),
        Box::new(Download::new(sidecar.connect("web"), 3, "length")),
        Box::new(Download::new(sidecar.connect("web"), 4, "chunked")),
        Box::new(Tunnel::new(sidecar.connect("raw"), 5)),
        Box::new(Tunnel::upgraded(sidecar.connect("web"), 6)),
        Box::new(Tunnel::upgraded(Wire::unix(&sidecar.path("web.sock")), 7)),
        Box::new(rpc.consumers(&sidecar)),
    ];
    let mut connected = None;
    for driver in drivers(driver).take(UPGRADES) {
        kinds.iter_mut().for_each(|kind| kind.begin());
        let accepted = [&noise, &chat, &echo, &rpc.provider].map(Service::accepted);
        assert_eq!(*connected.get_or_insert(accepted), accepted, "services were connected to anew");
        sidecar.upgrade(driver);
        kinds.iter_mut().for_each(|kind| kind.end());
    }
    kinds.into_iter().for_each(|kind| kind.finish());
    rests(&mut resting);
}

/// Something that goes on over a connection.
trait Kind {
    /// Into the middle of a message.
    fn begin(&mut self);
    /// To its end.
    fn end(&mut self);
    /// No more of them.
    fn finish(self: Box<Self>);
}

/// A connection that is kept for later.
fn rests(wire: &mut Wire) {
    assert_eq!(wire.ask("GET /give/9/5/length HTTP/1.1\r\nhost: a\r\n\r\n").status(), 200);
}

fn echo() -> Service {
    Service::tcp(|mut wire| {
        let mut back = wire.twin();
        let _ = wire.each_piece(u64::MAX, |piece| back.send(piece));
    })
}

/// A request whose length is known.
struct Upload {
    wire: Wire,
    noise: Noise,
}

impl Upload {
    fn new(mut wire: Wire, seed: u64) -> Upload {
        let len = UPGRADES * PART;
        wire.send(format!("PUT /take/{seed} HTTP/1.1\r\nhost: a\r\ncontent-length: {len}\r\n\r\n"));
        Upload { wire, noise: Noise::new(seed) }
    }
}

impl Kind for Upload {
    fn begin(&mut self) {
        self.wire.send(self.noise.take(PART - 1));
    }

    fn end(&mut self) {
        self.wire.send(self.noise.take(1));
    }

    fn finish(mut self: Box<Self>) {
        assert_eq!(self.wire.answer().text(), self.noise.made().to_string());
    }
}

/// A request in chunks, cut by turns in a chunk's bytes and in its size.
struct Chunks {
    wire: Wire,
    noise: Noise,
    rest: Vec<u8>,
    in_size: bool,
}

impl Chunks {
    fn new(mut wire: Wire, seed: u64) -> Chunks {
        wire.send(format!("PUT /take/{seed} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"));
        Chunks { wire, noise: Noise::new(seed), rest: Vec::new(), in_size: false }
    }
}

impl Kind for Chunks {
    fn begin(&mut self) {
        let mut chunk = [format!("{PART:x}\r\n").as_bytes(), &self.noise.take(PART), b"\r\n"].concat();
        self.in_size = !self.in_size;
        self.rest = chunk.split_off(if self.in_size { 2 } else { PART / 2 });
        self.wire.send(chunk);
    }

    fn end(&mut self) {
        self.wire.send(std::mem::take(&mut self.rest));
    }

    fn finish(mut self: Box<Self>) {
        self.wire.send("0\r\n\r\n");
        assert_eq!(self.wire.answer().text(), self.noise.made().to_string());
    }
}

/// An answer that is read in parts.
struct Download {
    /// How much may be read.
    allowed: Arc<AtomicU64>,
    reader: JoinHandle<u64>,
}

impl Download {
    fn new(mut wire: Wire, seed: u64, framing: &str) -> Download {
        wire.send(format!("GET /give/{seed}/{DOWNLOAD}/{framing} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let allowed = Arc::new(AtomicU64::new(0));
        let limit = allowed.clone();
        let reader = thread::spawn(move || {
            let head = wire.head().expect("a head");
            let mut noise = Noise::new(seed);
            wire.body(&head, false, |piece| {
                while noise.made() > limit.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                noise.check(piece);
            });
            noise.made()
        });
        Download { allowed, reader }
    }
}

impl Kind for Download {
    fn begin(&mut self) {
        self.allowed.fetch_add(PART as u64, Ordering::Relaxed);
    }

    fn end(&mut self) {}

    fn finish(self: Box<Self>) {
        self.allowed.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(self.reader.join().expect("all of it came"), DOWNLOAD);
    }
}

/// Bytes that come back: what is not read is on its way all the while.
struct Tunnel {
    wire: Wire,
    said: Noise,
    heard: Noise,
}

impl Tunnel {
    fn new(wire: Wire, seed: u64) -> Tunnel {
        Tunnel { wire, said: Noise::new(seed), heard: Noise::new(seed) }
    }

    /// What it was before is an HTTP request that was answered with 101.
    fn upgraded(mut wire: Wire, seed: u64) -> Tunnel {
        upgrade::upgraded(&mut wire);
        Tunnel::new(wire, seed)
    }
}

impl Kind for Tunnel {
    fn begin(&mut self) {
        self.wire.send(self.said.take(PART));
    }

    fn end(&mut self) {
        self.heard.check(&self.wire.exactly(PART).expect("what was said"));
    }

    fn finish(mut self: Box<Self>) {
        self.wire.send(self.said.take(1));
        self.heard.check(&self.wire.exactly(1).expect("what was said"));
    }
}
