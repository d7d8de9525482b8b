//! A stream on a lane stands in for a connection, and is idle when that would be: when no byte passes in either direction.

mod app;

use std::sync::Arc;

use app::{App, engine_of, snapshot, turn, turn_until};
use shmesh_engine::embed::LoneWorker;
use shmesh_io::Target;
use shmesh_io::sim::{ActorConn, SimDriver, World};
use shmesh_policy::{Address, Cluster, Snapshot};
use shmesh_shm::{Flags, Geometry, Header, INLINE_KEY, Kind, Protocol};

const MINUTE: u64 = 60_000_000_000;
/// docs/LIMITS.md, `RAW_IDLE`.
const IDLE: u64 = 60 * MINUTE;
const TURNS_MAX: u32 = 1_000;

/// A raw stream of an app to a service.
struct Stream {
    world: World,
    worker: LoneWorker<SimDriver>,
    app: App,
    service: ActorConn,
}

impl Stream {
    fn open() -> Stream {
        let world = World::new(1);
        let address = "10.0.0.1:80".parse().expect("an address");
        let upstream = world.listen(&Target::Tcp(address)).expect("an address that is free");
        let clusters = vec![Cluster::new("local", [Address::Tcp(address)])];
        let mut engine = engine_of(&world, Arc::new(Snapshot { clusters, ..snapshot(1) }));
        let mut worker = engine.workers.remove(0);
        let mut app = App::attach(&mut worker, Geometry::default(), 1, "caller", false);
        let mut open = Header::new(Kind::Open, 0, 1);
        let key = b"local";
        (open.code, open.flags, open.route) = (Protocol::Raw as u16, Flags::STREAM, INLINE_KEY);
        open.head_len = key.len() as u32;
        app.put(&open, &[key]);
        app.publish();
        for _ in 0..TURNS_MAX {
            turn(&world, &mut worker);
            if let Some(service) = upstream.accept() {
                return Stream { world, worker, app, service };
            }
        }
        panic!("no connection in {TURNS_MAX} turns");
    }

    /// Time passes while the worker sleeps. (It must not turn meanwhile: a worker that waits for a timer takes the world's clock there.)
    fn pass(&mut self, time: u64) {
        self.world.advance_to(self.world.now() + time);
    }

    /// The next record for the app.
    fn record(&mut self) -> Header {
        turn_until(&self.world, &mut self.worker, &self.app);
        let record = self.app.end.peek().expect("a worker that keeps to the page").expect("a record");
        self.app.end.advance();
        self.app.publish();
        record
    }

    /// The service says something, and the app gets it.
    fn hears(&mut self, text: &[u8]) {
        self.service.send(text).expect("an open connection");
        let mut bytes = 0;
        while bytes < text.len() as u32 {
            let record = self.record();
            if record.kind != Kind::Credit {
                assert_eq!(record.kind, Kind::Data, "after {} minutes: {record:?}", self.world.now() / MINUTE);
                bytes += record.length;
            }
        }
        self.app.put(&Header::credit(0, 1, bytes), &[]);
        self.app.publish();
    }
}

#[test]
fn bytes_towards_the_app_alone_keep_a_stream_open() {
    let mut stream = Stream::open();
    for _ in 0..4 {
        stream.pass(IDLE - 10 * MINUTE);
        stream.hears(b"news");
    }
}

#[test]
fn a_stream_without_a_byte_is_ended() {
    let mut stream = Stream::open();
    stream.hears(b"news");
    stream.pass(IDLE + 10 * MINUTE);
    let mut record = stream.record();
    while record.kind == Kind::Credit {
        record = stream.record();
    }
    assert!(record.kind == Kind::Reset || record.flags.end(), "{record:?}");
}
