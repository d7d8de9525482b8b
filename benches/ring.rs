//! Benchmark `ring`: what one lane costs, without a sidecar.
//!
//! Workload: records with payloads of 64 bytes to 64 KiB through a real pair of lane ends over two sealed memfds, mapped as
//! in a session. `one-thread` writes, publishes, reads and gives back in turn: the bare cost of the copies and the
//! bookkeeping. Each size that can go inline is measured inline and in a block, which is how the default stride
//! (`docs/spec/shm-v1.md` §8) is chosen. `ping-pong` sends a record to another thread and waits for it to come back, once
//! yielding and once parking on the doorbells.
//! Peers: none; the side-by-side is `roundtrip`. Machine: whatever it runs on, so compare lines of one run only.
//!
//!     cargo bench -p shmesh-benches --bench ring
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shmesh_shm::{Dirty, DirtyWatch, Flags, Geometry, Header, Kind, LaneEnd, Mapping, Side, doorbell, segment};

/// Sizes that are measured inline and in a block, in bytes.
const EITHER_WAY: [u32; 6] = [64, 256, 448, 1024, 2048, 4032];
/// Sizes that only a block takes, in bytes.
const BLOCK_ONLY: [u32; 2] = [16 * 1024, 64 * 1024];
/// Sizes of `ping-pong`, in bytes; with the default geometry the first three go inline.
const PING_PONG: [u32; 6] = [64, 256, 448, 1024, 4096, 64 * 1024];
/// A stride that has room for 16 bytes: everything longer goes into a block.
const NOTHING_INLINE: u32 = 64;
/// The longest stride, which has room for 4,048 bytes.
const ALL_INLINE: u32 = 4096;
/// Wait for a doorbell before giving up, in milliseconds.
const BELL_TIMEOUT_MS: u16 = 5_000;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = one_thread, ping_pong
}
criterion_main!(benches);

/// Both ends in one thread: put, publish, peek, read, advance, publish.
fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/one-thread");
    for size in EITHER_WAY.into_iter().chain(BLOCK_ONLY) {
        group.throughput(Throughput::Bytes(u64::from(size)));
        let strides = [("inline", stride_for(size)), ("block", Some(NOTHING_INLINE))];
        for (place, stride) in strides {
            let Some(stride) = stride else { continue };
            let mut lane = Lane::new(Geometry { stride, ..Geometry::default() });
            let payload = vec![0x5a; size as usize];
            let mut read = vec![0; size as usize];
            let mut generation = 0;
            group.bench_function(BenchmarkId::new(place, size), |bencher| {
                bencher.iter(|| {
                    generation += 1;
                    lane.app.put(&data(generation), &[black_box(&payload)]).expect("the last one was given back");
                    lane.app.publish();
                    take(&mut lane.sidecar, &mut read);
                    lane.sidecar.publish();
                    black_box(&read);
                });
            });
            assert_eq!(read, payload);
        }
    }
}

/// One record there and back between two threads.
fn ping_pong(criterion: &mut Criterion) {
    for (name, wait) in [("ring/ping-pong-yield", Wait::Yield), ("ring/ping-pong-park", Wait::Park)] {
        let mut group = criterion.benchmark_group(name);
        for size in PING_PONG {
            let mut ping = Ping::start(wait);
            let payload = vec![0x5a; size as usize];
            let mut read = vec![0; size as usize];
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| ping.round_trip(black_box(&payload), &mut read));
            });
            assert_eq!(read, payload);
            ping.stop();
        }
    }
}

/// The shortest stride near the default that takes `size` bytes inline.
fn stride_for(size: u32) -> Option<u32> {
    let default = Geometry::default();
    [default.stride, ALL_INLINE].into_iter().find(|stride| size <= Geometry { stride: *stride, ..default }.inline_max())
}

fn data(generation: u64) -> Header {
    Header::new(Kind::Data, 0, generation)
}

/// Consumes the record that must be there.
fn take(lane: &mut LaneEnd, read: &mut [u8]) {
    let header = lane.peek().expect("a record of our own").expect("it was published");
    lane.read_payload(0, &mut read[..header.length as usize]).expect("within the payload");
    lane.advance();
}

/// The two ends of one lane, mapped as in a session: each side writes one memfd and only reads the other.
struct Lane {
    app: LaneEnd,
    sidecar: LaneEnd,
    dirty: Dirty,
    watch: DirtyWatch,
}

impl Lane {
    fn new(geometry: Geometry) -> Lane {
        geometry.validate().expect("a geometry of the page");
        let len = geometry.segment_bytes(1);
        let [to_proxy, to_app] = ["to_proxy", "to_app"].map(|name| segment::create(name, len).expect("a memfd"));
        let write = |memfd: &OwnedFd| Arc::new(Mapping::read_write(memfd, len).expect("a mapping"));
        let read = |memfd: &OwnedFd| Arc::new(Mapping::read_only(memfd, len).expect("a mapping"));
        let of_app = (write(&to_proxy), read(&to_app));
        let of_sidecar = (read(&to_proxy), write(&to_app));
        Lane {
            app: LaneEnd::new(Side::App, &of_app.0, &of_app.1, &geometry, 0),
            sidecar: LaneEnd::new(Side::Sidecar, &of_sidecar.0, &of_sidecar.1, &geometry, 0),
            dirty: Dirty::new(&of_app.0, &of_app.1),
            watch: DirtyWatch::new(&of_sidecar.0, &of_sidecar.1, 0),
        }
    }
}

/// What a thread does while there is nothing to take.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    Yield,
    Park,
}

/// The app's end, and a thread that sends back what comes to the sidecar's end.
struct Ping {
    lane: LaneEnd,
    dirty: Dirty,
    worker_bell: OwnedFd,
    bell: OwnedFd,
    wait: Wait,
    generation: u64,
    echo: JoinHandle<()>,
}

impl Ping {
    fn start(wait: Wait) -> Ping {
        let Lane { app, sidecar, dirty, watch } = Lane::new(Geometry::default());
        let worker_bell = doorbell::worker_bell().expect("an eventfd");
        let (ring, bell) = doorbell::lane_bell().expect("a socket pair");
        let echo =
            Echo { lane: sidecar, watch, worker_bell: worker_bell.try_clone().expect("a descriptor"), ring, wait };
        let echo = thread::spawn(move || echo.run());
        Ping { lane: app, dirty, worker_bell, bell, wait, generation: 0, echo }
    }

    fn round_trip(&mut self, payload: &[u8], read: &mut [u8]) {
        self.send(payload, false);
        while !self.lane.has_work() {
            match self.wait {
                Wait::Yield => thread::yield_now(),
                Wait::Park => self.park(),
            }
        }
        take(&mut self.lane, read);
    }

    /// Ends the echo: its last record is marked END.
    fn stop(mut self) {
        self.send(&[], true);
        self.echo.join().expect("the echo ends well");
    }

    fn send(&mut self, payload: &[u8], last: bool) {
        self.generation += 1;
        let header = Header { flags: Flags::NONE.with_end(last), ..data(self.generation) };
        self.lane.put(&header, &[payload]).expect("one record at a time has room");
        if self.lane.publish() {
            self.dirty.mark(0, 0);
            doorbell::ring_worker(&self.worker_bell).expect("an eventfd of our own");
        }
    }

    fn park(&mut self) {
        if self.lane.park(false) {
            sleep_on(&self.bell);
            doorbell::drain_lane(&self.bell).expect("a socket of our own");
            self.lane.unpark();
        }
    }
}

struct Echo {
    lane: LaneEnd,
    watch: DirtyWatch,
    worker_bell: OwnedFd,
    ring: OwnedFd,
    wait: Wait,
}

impl Echo {
    fn run(mut self) {
        let mut payload = vec![0; Geometry::default().block_max as usize];
        loop {
            let Some(header) = self.lane.peek().expect("records of our own") else {
                self.idle();
                continue;
            };
            if header.flags.end() {
                return;
            }
            let payload = &mut payload[..header.length as usize];
            self.lane.read_payload(0, payload).expect("within the payload");
            self.lane.put(&data(header.generation), &[payload]).expect("one record at a time has room");
            self.lane.advance();
            if self.lane.publish() {
                doorbell::ring_lane(&self.ring).expect("a socket of our own");
            }
        }
    }

    fn idle(&mut self) {
        if self.wait == Wait::Yield {
            return thread::yield_now();
        }
        if self.lane.park(false) {
            sleep_on(&self.worker_bell);
            // A worker polls its eventfd edge-triggered and need not read it; `poll` is level-triggered.
            let _ = nix::unistd::read(&self.worker_bell, &mut [0; 8]);
            self.watch.take();
            self.lane.unpark();
        }
    }
}

fn sleep_on(bell: &OwnedFd) {
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    let woken = poll(&mut fds, PollTimeout::from(BELL_TIMEOUT_MS)).expect("a poll of our own");
    assert!(woken > 0, "a wake-up was lost");
}
