//! Clients and services on sockets, with everything at the moment that a test wants.

mod app;

use std::net::SocketAddr;
use std::sync::Arc;

use app::turn;
use shmesh_engine::embed::{LoneWorker, Parts, WorkerPart, assemble};
use shmesh_io::sim::{ActorConn, ActorListener, Progress, SimDriver, World};
use shmesh_io::{Driver, Limits, Target};
use shmesh_policy::{
    Address, Bind, Cluster, ClusterId, HttpSpec, Listener, Priority, Protocol, Route, RouteMatch, Routes, Snapshot,
};
use shmesh_proto::dubbo::{Event, HEADER_LEN, Invocation, serialization, write_event, write_request};
use shmesh_shm::Geometry;

/// More than any exchange of a few messages takes.
const TURNS_MAX: u32 = 1_000;

/// A worker with one listener before one service.
struct Mesh {
    world: World,
    worker: LoneWorker<SimDriver>,
    service: ActorListener,
    at: SocketAddr,
}

impl Mesh {
    fn new(protocol: Protocol) -> Mesh {
        let world = World::new(1);
        let at: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        let upstream = "10.0.0.1:80".parse().expect("an address");
        let service = world.listen(&Target::Tcp(upstream)).expect("an address that is free");
        let listener = Listener {
            name: "in".into(),
            bind: Bind::Tcp(at),
            protocol,
            cluster: None,
            http: HttpSpec::default(),
            allow_uids: None,
        };
        let snapshot = Snapshot {
            version: 1,
            listeners: vec![listener],
            routes: Routes::new(vec![Route {
                matching: RouteMatch::default(),
                cluster: ClusterId(0),
                idempotent: None,
                priority: Priority::Default,
            }]),
            clusters: vec![Cluster::new("service", [Address::Tcp(upstream)])],
            ..Snapshot::default()
        };
        let socket = world.listener(&Target::Tcp(at)).expect("an address that is free");
        let driver = SimDriver::new(&world, "sidecar", Limits::default()).expect("a pool and an eventfd");
        let parts = Parts {
            snapshot: Arc::new(snapshot),
            workers: vec![WorkerPart { driver, listeners: vec![Some(socket)] }],
            session_sockets: Vec::new(),
            geometry: Geometry::default(),
        };
        let worker = assemble(parts).expect("an engine").workers.remove(0);
        Mesh { world, worker, service, at }
    }

    fn connect(&mut self) -> ActorConn {
        let conn = self.world.connect(&Target::Tcp(self.at));
        self.turns_until("a connection", |_| (conn.progress() == Progress::Connected).then_some(()));
        conn
    }

    fn turns_until<T>(&mut self, what: &str, mut found: impl FnMut(&Mesh) -> Option<T>) -> T {
        for _ in 0..TURNS_MAX {
            turn(&self.world, &mut self.worker);
            if let Some(found) = found(self) {
                return found;
            }
        }
        panic!("{what}: not in {TURNS_MAX} turns");
    }

    fn accepted(&mut self) -> ActorConn {
        self.turns_until("a connection to the service", |mesh| mesh.service.accept())
    }

    /// What came, once it ends so.
    fn heard(&mut self, conn: &ActorConn, end: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        self.turns_until(&format!("{:?}", String::from_utf8_lossy(end)), |_| {
            conn.recv(&mut heard);
            heard.ends_with(end).then_some(())
        });
        heard
    }
}

fn say(conn: &ActorConn, bytes: &[u8]) {
    assert_eq!(conn.send(bytes).expect("an open connection"), bytes.len(), "room for a small message");
}

/// What has passed through is forgotten: otherwise each message of a chat keeps a slot of the worker's buffers.
#[test]
fn what_passes_after_101_is_not_kept() {
    let mut mesh = Mesh::new(Protocol::Http);
    let client = mesh.connect();
    say(&client, b"GET / HTTP/1.1\r\nHost: service\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n");
    let service = mesh.accepted();
    mesh.heard(&service, b"\r\n\r\n");
    say(&service, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n");
    mesh.heard(&client, b"\r\n\r\n");
    let before = mesh.worker.driver().pool().held();
    for number in 0..100 {
        let message = format!("message {number}");
        say(&client, message.as_bytes());
        assert_eq!(mesh.heard(&service, message.as_bytes()), message.as_bytes());
    }
    let after = mesh.worker.driver().pool().held();
    assert!(after <= before + 2, "{after} slots are held, {before} before");
}

/// A provider says that it takes no new calls in the moment in which one is about to be forwarded: it goes elsewhere.
#[test]
fn a_call_that_meets_readonly_goes_over_another_connection() {
    let mut mesh = Mesh::new(Protocol::Dubbo);
    let consumer = mesh.connect();
    say(&consumer, &one_way());
    let first = mesh.accepted();
    let frame = one_way();
    mesh.heard(&first, &frame[HEADER_LEN..]);
    // Both arrive before the next turn, in either order.
    say(&consumer, &one_way());
    let mut readonly = Vec::new();
    write_event(&mut readonly, 0, serialization::HESSIAN2, Event::ReadOnly);
    say(&first, &readonly);
    mesh.world.advance_to(mesh.world.now() + 10_000_000);
    let second = mesh.accepted();
    mesh.heard(&second, &frame[HEADER_LEN..]);
}

fn one_way() -> Vec<u8> {
    let invocation = Invocation {
        path: "com.demo.GreetService",
        version: None,
        group: None,
        method: "tell",
        argument: Some(b"x"),
        timeout_ms: None,
        attachments: &[],
    };
    let mut frame = Vec::new();
    write_request(&mut frame, 7, false, serialization::HESSIAN2, &invocation);
    frame
}
