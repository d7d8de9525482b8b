//! Connections, apps and calls that come and go while the sidecar is replaced: what was given ahead is not any more what it was then.

use std::iter;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use shmesh_client::{CallError, Client, Request};

use super::{before, drivers};
use crate::bytes::{KIB, Noise};
use crate::process::{PATIENCE, until};
use crate::service::noise_service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(what_comes_and_goes_is_not_mistaken_for_what_was_there);

const UPGRADES: usize = 10;

/// Connections that stay, and those of a thread that come and go.
const STAY: usize = 100;
const COME: usize = 40;

/// More than the buffers on the way take: there is some of it left when its caller goes.
const MUCH: u64 = 2_000 * KIB;

fn what_comes_and_goes_is_not_mistaken_for_what_was_there(driver: Driver) {
    let service = noise_service();
    let mut sidecar = before(driver, &service);
    let mut stay: Vec<Wire> = iter::repeat_with(|| sidecar.connect("web")).take(STAY).collect();
    stay.iter_mut().zip(0..).for_each(|(wire, seed)| small(wire, seed));
    let mut coming = Coming::default();
    for seed in 1..3 {
        coming.connections(&sidecar, seed);
    }
    coming.apps(&sidecar);
    coming.calls_given_up(&sidecar);
    for (driver, seed) in drivers(driver).zip((1000..).step_by(STAY)).take(UPGRADES) {
        coming.expect_more();
        sidecar.upgrade(driver);
        stay.iter_mut().step_by(7).zip(seed..).for_each(|(wire, seed)| small(wire, seed));
    }
    coming.expect_more();
    coming.finish();
    stay.iter_mut().zip(0..).for_each(|(wire, seed)| small(wire, seed));
    drop(stay);
    sidecar.expect_metric("shmesh_sessions", 0.0);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
    // Of all connections none is left but the idle ones to the service. (The last of an even number of upgrades was to the first driver.)
    let idle = before(driver, &service).process.descriptors() + 8;
    let pooled = |sidecar: &Sidecar| {
        let metrics = sidecar.metrics();
        let here = metrics.iter().filter(|(name, _)| name.starts_with("shmesh_endpoint_connections"));
        here.map(|(_, count)| count).sum::<f64>() as usize
    };
    until("every descriptor is given back", || sidecar.process.descriptors() <= idle + pooled(&sidecar));
}

/// A call over a connection, whose answer is checked.
fn small(wire: &mut Wire, seed: u64) {
    let len = 100 + seed % 1000;
    let answer = wire.ask(request(seed, len));
    expect(answer.head.status(), &answer.body, seed, len);
}

fn request(seed: u64, len: u64) -> String {
    format!("GET /give/{seed}/{len}/length HTTP/1.1\r\nhost: service\r\n\r\n")
}

fn expect(status: u16, body: &[u8], seed: u64, len: u64) {
    assert_eq!((status, body.len() as u64), (200, len));
    Noise::new(seed).check(body);
}

/// An app that goes round the sidecar by no means.
fn through(socket: &Path) -> Client {
    let builder = Client::builder().hang_timeout(PATIENCE).patience(PATIENCE).fallback(false);
    builder.socket(socket).name("comes").connect().expect("it attaches")
}

/// Threads that do so until they are told to stop; what fails in one fails the test.
#[derive(Default)]
struct Coming {
    stop: Arc<AtomicBool>,
    threads: Vec<(Arc<AtomicU64>, JoinHandle<()>)>,
}

impl Coming {
    fn connections(&mut self, sidecar: &Sidecar, seed: u64) {
        let (web, unix) = (sidecar.tcp("web"), sidecar.path("web.sock"));
        let mut random = Noise::new(seed);
        let mut number = move || u64::from_le_bytes(random.take(8).try_into().expect("eight bytes"));
        let mut wires: Vec<Option<Wire>> = iter::repeat_with(|| None).take(COME).collect();
        self.go_on(move || {
            let place = &mut wires[number() as usize % COME];
            match (place.take(), number() % 8) {
                (None, odd) => {
                    let mut wire = if odd % 2 == 0 { Wire::tcp(web) } else { Wire::unix(&unix) };
                    small(&mut wire, number() >> 32);
                    *place = Some(wire);
                }
                // It ends in order, with a request that nobody makes, or with an answer that nobody reads.
                (Some(_), 0) => {}
                (Some(mut wire), 1) => wire.send("GET /give/1/1/le"),
                (Some(mut wire), 2) => wire.send(request(number() >> 32, MUCH)),
                (Some(mut wire), 3) => {
                    wire.send(request(number() >> 32, 10));
                    wire.end();
                }
                (Some(mut wire), _) => {
                    small(&mut wire, number() >> 32);
                    *place = Some(wire);
                }
            }
        });
    }

    /// Apps that attach for a few calls.
    fn apps(&mut self, sidecar: &Sidecar) {
        let socket = sidecar.path("apps.sock");
        let mut seeds = 0..;
        self.go_on(move || {
            let client = through(&socket);
            for seed in seeds.by_ref().take(5) {
                let path = format!("/give/{seed}/5000/length");
                let answer = client.call(Request::http("GET", "service", &path).timeout(PATIENCE)).expect("an answer");
                expect(answer.status, &answer.body, seed, 5000);
            }
        });
    }

    /// Calls that their callers give up before they are answered, beside others that are.
    fn calls_given_up(&mut self, sidecar: &Sidecar) {
        let client = through(&sidecar.path("apps.sock"));
        let mut seeds = 0..;
        self.go_on(move || {
            let seed: u64 = seeds.next().expect("there is always another");
            let path = format!("/give/{seed}/{MUCH}/length");
            let soon = Duration::from_micros(300 + seed % 1000);
            match client.call(Request::http("GET", "service", &path).timeout(soon)) {
                Ok(answer) if answer.status == 504 => {}
                Ok(answer) => expect(answer.status, &answer.body, seed, MUCH),
                Err(error) => assert!(matches!(error, CallError::Timeout { .. }), "{error:?}"),
            }
            let path = format!("/give/{seed}/300/length");
            let answer = client.call(Request::http("GET", "service", &path).timeout(PATIENCE)).expect("an answer");
            expect(answer.status, &answer.body, seed, 300);
        });
    }

    /// Each has done more by then.
    fn expect_more(&self) {
        let done = || self.threads.iter().map(|(done, _)| done.load(Ordering::Relaxed));
        let before: Vec<u64> = done().collect();
        until("all go on", || {
            assert!(self.threads.iter().all(|(_, thread)| !thread.is_finished()), "one of them has failed");
            done().zip(&before).all(|(now, before)| now >= before + 5)
        });
    }

    fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.threads.drain(..) {
            thread.join().expect("everything is answered");
        }
    }

    fn go_on(&mut self, mut step: impl FnMut() + Send + 'static) {
        let (stop, done) = (self.stop.clone(), Arc::new(AtomicU64::new(0)));
        let count = done.clone();
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                step();
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        self.threads.push((done, thread::spawn(run)));
    }
}

impl Drop for Coming {
    /// They end with the test also if it fails.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
