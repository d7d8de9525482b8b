//! The crate shmipc, made to write and read its bytes: a client that fills each request in shared memory and compares each
//! answer there, a service that compares each request where it lies and copies it into its answer.
//!
//! Fills and checks are those of `shmesh bench` and `shmesh echo --check`. Nothing else is done to the bytes: this is
//! shmipc's zero-copy way (`reserve`, `read_exact_bytes`), in its configuration for low latency: version 4 of its protocol,
//! eventfd wake-ups, memfds, and slices that hold a whole payload, as in the crate's own benchmark.

// The code that the other side of the comparison runs, tests left out.
#[allow(dead_code, unused_imports)]
#[path = "../../../core/shmesh/src/cli/bench/payload.rs"]
mod payload;

use std::os::unix::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use shmipc::buffer::BufferReader;
use shmipc::config::{Config, SizePercentPair};
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::stream::Stream;
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use shmipc::{Error, Listener};
use tokio::runtime::Runtime;

use super::number;
use payload::{Check, Payload};

/// What a slice has beside the payload, as in the crate's benchmark.
const SLICE_EXTRA: u32 = 256;
/// The crate's queue and shared memory, as in its benchmark; twice as much memory as there for its largest payload.
const QUEUE_ENTRIES: u32 = 65_536;
const MEMORY_BYTES: u32 = 256 << 20;
const MEMORY_BYTES_LARGE: u32 = 1 << 30;
const LARGE: u32 = 4 << 20;
/// Pause before a full queue is tried again.
const QUEUE_PAUSE: Duration = Duration::from_micros(1);
/// How long a session may take to be made: its memory is written once then, on a machine that does other things.
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long before an intended start a client stops sleeping, as in `shmesh bench`.
const AWAKE_BEFORE: Duration = Duration::from_micros(40);
/// Part of the duration that runs before anything counts, as in `shmesh bench`.
const WARM_UP_PART: f64 = 0.1;

fn config(bytes: u32) -> SessionManagerConfig {
    let mut config = SessionManagerConfig::new().with_config(Config::default().with_v4_eventfd()).with_session_num(1);
    let inner = config.config_mut();
    inner.queue_cap = QUEUE_ENTRIES;
    inner.initialize_timeout = SESSION_TIMEOUT;
    inner.share_memory_buffer_cap = if bytes >= LARGE { MEMORY_BYTES_LARGE } else { MEMORY_BYTES };
    inner.buffer_slice_sizes = vec![
        SizePercentPair { size: bytes + SLICE_EXTRA, percent: 70 },
        SizePercentPair { size: (16 << 10) + SLICE_EXTRA, percent: 20 },
        SizePercentPair { size: (64 << 10) + SLICE_EXTRA, percent: 10 },
    ];
    config
}

fn address(socket: &str) -> Result<SocketAddr, String> {
    SocketAddr::from_pathname(socket).map_err(|error| format!("{socket}: {error}"))
}

fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| format!("no runtime: {error}"))
}

/// Serves payloads of `bytes` at a Unix socket until it is ended.
pub fn serve(socket: &str, bytes: &str) -> Result<(), String> {
    let bytes: u32 = number(bytes)?;
    let address = address(socket)?;
    runtime()?.block_on(async {
        let config = config(bytes).config().clone();
        let mut listener =
            Listener::new(DefaultUnixListen, address, config).await.map_err(|error| error.to_string())?;
        eprintln!("{}", super::UP);
        loop {
            let stream = listener.accept().await.map_err(|error| error.to_string())?;
            tokio::spawn(async move {
                if let Err(error) = answer(stream, bytes as usize).await {
                    eprintln!("a stream ended: {error}");
                }
            });
        }
    })
}

async fn answer(mut stream: Stream, bytes: usize) -> Result<(), String> {
    loop {
        let request = match stream.read_exact_bytes(bytes).await {
            Ok(request) => request.into_bytes(),
            Err(Error::StreamClosed | Error::EndOfStream) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let mut check = Check::default();
        check.take(&request);
        if check.is_wrong() {
            return Err("a request was not what a client sends".to_owned());
        }
        stream.reserve(bytes).map_err(|error| error.to_string())?.copy_from_slice(&request);
        drop(request);
        stream.recv_buf().release_previous_read();
        flush(&mut stream).await?;
    }
}

async fn flush(stream: &mut Stream) -> Result<(), String> {
    loop {
        match stream.flush(false).await {
            Ok(()) => return Ok(()),
            Err(Error::QueueFull) => tokio::time::sleep(QUEUE_PAUSE).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Calls: SOCKET BYTES STREAMS SECONDS RATE, a rate of 0 meaning a closed loop; prints a report as `shmesh bench --json` does.
pub fn call(args: &[&str]) -> Result<(), String> {
    let &[socket, bytes, streams, seconds, rate] = args else { return Err(format!("{args:?}: five arguments")) };
    let (bytes, streams): (u32, usize) = (number(bytes)?, number(streams)?);
    let (seconds, rate): (f64, f64) = (number(seconds)?, number(rate)?);
    let address = address(socket)?;
    // As in `shmesh bench`: sleeps end when they should. The runtime's threads inherit it.
    let _ = nix::sys::prctl::set_timerslack(1);
    runtime()?.block_on(async {
        let manager =
            SessionManager::new(config(bytes), DefaultUnixConnect, address).await.map_err(|error| error.to_string())?;
        let starts = Instant::now();
        let begins = starts + Duration::from_secs_f64(seconds * WARM_UP_PART);
        let plan = Plan { starts, begins, ends: begins + Duration::from_secs_f64(seconds), rate };
        let mut running = Vec::new();
        for salt in 0..streams {
            let stream = manager.get_stream().map_err(|error| error.to_string())?;
            running.push(tokio::spawn(call_on(stream, Payload::new(salt as u64, bytes as usize, false), plan)));
        }
        let mut total = Tally::new();
        for task in running {
            total.merge(task.await.map_err(|error| error.to_string())??);
        }
        manager.close().await;
        println!("{}", total.report(seconds));
        Ok(())
    })
}

#[derive(Clone, Copy)]
struct Plan {
    starts: Instant,
    begins: Instant,
    ends: Instant,
    /// Calls a second; 0: each answer brings the next call.
    rate: f64,
}

struct Tally {
    answered: u64,
    latency_ns: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        // The bounds are constants within what the histogram takes.
        Tally { answered: 0, latency_ns: Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("valid bounds") }
    }

    fn merge(&mut self, other: Tally) {
        self.answered += other.answered;
        // Both have the same bounds, so the addition cannot fail.
        let _ = self.latency_ns.add(&other.latency_ns);
    }

    fn report(&self, seconds: f64) -> serde_json::Value {
        let ok = self.latency_ns.len();
        json!({
            "ok": ok,
            "sent": ok,
            "errors": 0,
            "answered": self.answered,
            "rps": ok as f64 / seconds,
            "latency_ns": {
                "p50": self.latency_ns.value_at_quantile(0.5),
                "p99": self.latency_ns.value_at_quantile(0.99),
            },
        })
    }
}

async fn call_on(mut stream: Stream, payload: Payload, plan: Plan) -> Result<Tally, String> {
    let mut tally = Tally::new();
    for number in 0.. {
        let mut start = Instant::now();
        if plan.rate > 0.0 {
            // Counted from the intended start, so that a late call does not hide what made it late.
            let intended = plan.starts + Duration::from_secs_f64(number as f64 / plan.rate);
            wait_until(intended).await;
            start = intended;
        }
        if start >= plan.ends {
            break;
        }
        one_call(&mut stream, payload, number).await?;
        tally.answered += 1;
        if start >= plan.begins {
            let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            tally.latency_ns.saturating_record(ns.max(1));
        }
    }
    // What it says is of no more use: everything was answered.
    let _ = stream.close().await;
    Ok(tally)
}

async fn one_call(stream: &mut Stream, payload: Payload, number: u64) -> Result<(), String> {
    let mut room = stream.reserve(payload.len()).map_err(|error| error.to_string())?;
    payload.write(number, |bytes| {
        let (front, rest) = std::mem::take(&mut room).split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        room = rest;
    });
    flush(stream).await?;
    let answer = stream.read_exact_bytes(payload.len()).await.map_err(|error| error.to_string())?;
    if !payload.matches(number, 0, &answer) {
        return Err("an answer was not the payload that was sent".to_owned());
    }
    drop(answer);
    stream.release_read_and_reuse();
    Ok(())
}

/// Sleeps as `shmesh bench` does. tokio's timers count in milliseconds, so the thread sleeps; there is nothing in flight, and
/// the runtime has others for what comes in.
async fn wait_until(when: Instant) {
    let pause = when.saturating_duration_since(Instant::now());
    if pause > AWAKE_BEFORE {
        std::thread::sleep(pause - AWAKE_BEFORE);
    }
    while Instant::now() < when {
        tokio::task::yield_now().await;
    }
}
