//! Answers of HTTP servers that are received into the lane's blocks, and apps that give credit as they like.

mod app;

use std::sync::Arc;

use app::{App, engine_of, snapshot, turn};
use shmesh_io::Target;
use shmesh_io::sim::World;
use shmesh_policy::{Address, Cluster, Snapshot};
use shmesh_shm::{Flags, Geometry, Header, INLINE_KEY, Kind, Protocol};

const BODY: usize = 1 << 20;
const TURNS_MAX: u32 = 100_000;

/// docs/spec/shm-v1.md §3.3: a reader may wait until nothing is left of a window before it gives credit.
#[test]
fn credit_may_be_given_when_nothing_is_left_of_it() {
    for piece in [10_000, 60_000, 100_000] {
        let world = World::new(1);
        let address = "10.0.0.1:80".parse().expect("an address");
        let upstream = world.listen(&Target::Tcp(address)).expect("an address that is free");
        let clusters = vec![Cluster::new("local", [Address::Tcp(address)])];
        let mut engine = engine_of(&world, Arc::new(Snapshot { clusters, ..snapshot(1) }));
        let mut worker = engine.workers.remove(0);
        let mut app = App::attach(&mut worker, Geometry::default(), 1, "caller", false);
        let window = u64::from(Geometry::default().window);

        let mut open = Header::new(Kind::Open, 0, 1);
        let key = b"GET / HTTP/1.1\r\nHost: local\r\n\r\n";
        (open.code, open.flags, open.route) = (Protocol::Http as u16, Flags::END, INLINE_KEY);
        open.head_len = key.len() as u32;
        app.put(&open, &[key]);
        app.publish();

        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        let answer: Vec<u8> = head.into_bytes().into_iter().chain((0..BODY).map(|at| (at % 251) as u8)).collect();
        let (mut conn, mut sent, mut asked) = (None, 0, Vec::new());
        let (mut open_bytes, mut body, mut ended) = (window, Vec::new(), false);
        let mut turns = 0;
        while !ended {
            turns += 1;
            assert!(turns < TURNS_MAX, "stuck with {} bytes of {BODY}, {open_bytes} of credit left", body.len());
            turn(&world, &mut worker);
            conn = conn.or_else(|| upstream.accept());
            if let Some(conn) = &conn {
                conn.recv(&mut asked);
                if !asked.is_empty() {
                    sent += conn.send(&answer[sent..answer.len().min(sent + piece)]).unwrap_or_default();
                }
            }
            while let Some(record) = app.end.peek().expect("a worker that keeps to the page") {
                assert_ne!(record.kind, Kind::Reset, "after {} bytes, with credit for {open_bytes}", body.len());
                let from = body.len();
                body.resize(from + (record.length - record.head_len) as usize, 0);
                app.end.read_payload(record.head_len, &mut body[from..]).expect("its payload");
                app.end.advance();
                open_bytes -= u64::from(record.length);
                ended = record.flags.end();
            }
            if open_bytes == 0 && !ended {
                open_bytes = window;
                app.put(&Header::credit(0, 1, window as u32), &[]);
            }
            app.publish();
        }
        assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8) && body.len() == BODY);
    }
}
