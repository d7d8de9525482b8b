//! A neighbour that saturates its lane with large payloads: how long the records of another app wait in their ring.
//!
//! The wait is counted in the time that the worker works between the moment in which a record is published and the one in which it is
//! taken, and told in units of one large part's handling: what it works for each part of the neighbour's payloads.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh_client::{Call, Client, Protocol, Served, ServedResponse, Server, Target, Wait};
use shmesh_io::Nanos;
use shmesh_io::sim::World;
use shmesh_shm::Geometry;

use crate::call::{self, APP};
use crate::machine::{Machine, Pace};
use crate::random::Random;
use crate::sidecar::{SERVING, Settings, Sidecar};

/// The longest that a record may wait, in large parts.
const LIMIT: f64 = 2.0;

/// Payload of the neighbour's calls, both ways.
const LARGE: usize = 1 << 20;

/// Their parts, as the shim and the worker cut them.
const PART: usize = 64 << 10;

/// The neighbour's calls in flight.
const LARGE_IN_FLIGHT: usize = 16;

/// Payload of the calls that are looked at.
const SMALL: usize = 64;

/// How many of them.
const CALLS: usize = 150;

/// The longest that everything may take.
const PATIENCE: Nanos = 20_000_000_000;

/// Runs it with a seed; says how long a record waited at most, in large parts.
pub fn longest_wait(seed: u64, folder: &Path) -> Result<f64, String> {
    let mut random = Random::new(seed);
    let world = World::new(random.next());
    // A ring is heard with the next look at the driver, as on the others.
    world.set_look_every(1);
    let pace = Pace { steps: 1, store_depth: 0, yield_max: 8_000 };
    let machine = Machine::new(&world, pace, random.fork());
    let settings = Settings {
        socket: folder.join("sidecar.sock"),
        workers: 1,
        geometry: Geometry::default(),
        buffered: 256 * 1024,
        first_byte: Duration::from_secs(10),
        pool_slots: 32,
        calls_per_session: 4_096,
        calls_per_connection: 1_024,
    };
    let sidecar = Sidecar::start(&machine, &settings);
    let stop = Arc::new(AtomicBool::new(false));
    serve(&machine, &settings, &stop);
    machine.run(World::EPOCH + 50_000_000, || sidecar.sessions() > 0);
    machine.run(machine.now() + 1_000_000, || false);
    let watched = Rc::new(Watched::default());
    saturate(&machine, &settings, &stop, &watched);
    watch(&machine, &settings, &sidecar, &watched, random.fork());
    let done = watched.clone();
    if !machine.run(machine.now() + PATIENCE, || done.done.get()) && machine.failure().is_none() {
        machine.fail(format!("it never ends: {}", machine.places()));
    }
    let failure = machine.failure();
    stop.store(true, Ordering::Relaxed);
    machine.end();
    let parts = watched.large.get() * (2 * LARGE / PART);
    if failure.is_none() && parts < CALLS {
        return Err(format!("a neighbour that moves {parts} parts does not saturate anything"));
    }
    let handling = machine.worked(sidecar.process) as f64 / parts as f64;
    let longest = watched.waits.borrow().iter().copied().max().unwrap_or(Nanos::MAX);
    failure.map_or(Ok(longest as f64 / handling), Err)
}

/// Whether the wait is within the bound that holds, in words.
pub fn verdict(longest: f64) -> Result<String, String> {
    let found = format!("a record beside a saturating neighbour waits {longest:.1} large parts at most");
    if longest > LIMIT { Err(format!("{found}; {LIMIT} are allowed")) } else { Ok(found) }
}

#[derive(Default)]
struct Watched {
    waits: RefCell<Vec<Nanos>>,
    /// Calls of the neighbour that were answered.
    large: Cell<usize>,
    done: Cell<bool>,
}

fn serve(machine: &Machine, settings: &Settings, stop: &Arc<AtomicBool>) {
    let (socket, stop) = (settings.socket.clone(), stop.clone());
    machine.spawn(machine.process("provider"), "serve", move || {
        let mut server =
            Server::builder(&socket, SERVING).max_spin(Duration::from_micros(50)).attach().expect("a sidecar");
        let _ = server.serve_until(&stop, &mut |request: &mut Served<'_>, response: &mut ServedResponse| {
            response.body.extend_from_slice(request.body);
        });
    });
}

fn connect(settings: &Settings) -> Client {
    let builder = Client::builder().socket(&settings.socket).lanes(1).sessions_max(1).fallback(false);
    builder.max_wait_spin(Duration::from_micros(50)).connect().expect("a sidecar")
}

fn key() -> Vec<u8> {
    format!("PUT / HTTP/1.1\r\nHost: {APP}\r\n\r\n").into_bytes()
}

/// The neighbour.
fn saturate(machine: &Machine, settings: &Settings, stop: &Arc<AtomicBool>, watched: &Rc<Watched>) {
    let (owner, settings, stop, watched) = (machine.clone(), settings.clone(), stop.clone(), watched.clone());
    machine.spawn(machine.process("large"), "call", move || {
        let client = connect(&settings);
        let mut lane = client.lane().expect("a lane");
        let (key, body) = (key(), call::question(1, LARGE));
        while !stop.load(Ordering::Relaxed) {
            while lane.in_flight() < LARGE_IN_FLIGHT
                && lane.submit(&Call::new(Target::Key(Protocol::Http, &key), &[&body])).is_ok()
            {}
            match lane.receive(Wait::Forever) {
                Ok(Some(answer)) if answer.outcome.as_ref().is_ok_and(|answer| answer.body == body) => {
                    watched.large.set(watched.large.get() + 1);
                }
                other => return owner.fail(format!("a large call ended with {:?}", other.map(|_| "another answer"))),
            }
        }
    });
}

/// The app that is looked at: one small call after the other, with a pause before each.
fn watch(machine: &Machine, settings: &Settings, sidecar: &Sidecar, watched: &Rc<Watched>, mut random: Random) {
    let (owner, settings, watched) = (machine.clone(), settings.clone(), watched.clone());
    let worker = sidecar.process;
    machine.spawn(machine.process("small"), "call", move || {
        let machine = owner;
        let client = connect(&settings);
        let lane = Rc::new(RefCell::new(client.lane().expect("a lane")));
        let (key, body) = (key(), call::question(2, SMALL));
        // Until the neighbour is at it.
        machine.sleep(2_000_000);
        for _ in 0..CALLS {
            machine.sleep(random.range(1_000, 400_000));
            let published = machine.at_once(|| {
                let mut lane = lane.borrow_mut();
                let call = lane.submit(&Call::new(Target::Key(Protocol::Http, &key), &[&body]));
                lane.flush();
                call.map(|call| (call, machine.worked(worker)))
            });
            let Ok((call, began)) = published else { return machine.fail("a small call cannot be made") };
            let (looker, looked, watched) = (machine.clone(), lane.clone(), watched.clone());
            machine.wait(None, move || {
                let taken = looked.borrow().is_taken(call);
                if taken {
                    watched.waits.borrow_mut().push(looker.worked(worker) - began);
                }
                taken
            });
            match lane.borrow_mut().receive(Wait::Forever) {
                Ok(Some(answer)) if answer.outcome.as_ref().is_ok_and(|answer| answer.body == body) => {}
                _ => return machine.fail("a small call was not answered"),
            }
        }
        watched.done.set(true);
    });
}
