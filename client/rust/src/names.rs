//! Host names on the way round the sidecar. The system's look-up cannot be bounded, so that it runs on a thread that is left alone when
//! it takes too long.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Look-ups that run at once, those that nobody waits for any more included; others wait for their turn.
const LOOKUPS_MAX: usize = 32;

/// Those of this process.
static RUNNING: Lookups = Lookups::new();

/// How many look-ups run.
struct Lookups {
    running: Mutex<usize>,
    ended: Condvar,
}

/// One of them, until it is dropped.
struct Running(&'static Lookups);

/// The addresses of a host, if they are known in time.
pub(crate) fn look_up(host: &str, port: u16, longest: Duration) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    RUNNING.within(longest, move || (&*host, port).to_socket_addrs().map(Iterator::collect))
}

impl Lookups {
    const fn new() -> Lookups {
        Lookups { running: Mutex::new(0), ended: Condvar::new() }
    }

    fn within<T: Send + 'static>(
        &'static self,
        longest: Duration,
        look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let late = Instant::now() + longest;
        let running = self.begin(longest).ok_or_else(|| io::Error::other("too many host names are being looked up"))?;
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name("shmesh-names".to_owned()).spawn(move || {
            let found = look_up();
            drop(running);
            // Nobody may wait for it any more.
            let _ = tell.send(found);
        })?;
        told.recv_timeout(late.saturating_duration_since(Instant::now())).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "its name is not known in time"),
                RecvTimeoutError::Disconnected => io::Error::other("its name cannot be looked up"),
            })
        })
    }

    /// A place, as soon as there is one.
    fn begin(&'static self, longest: Duration) -> Option<Running> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(running, longest, |running| *running >= LOOKUPS_MAX);
        let (mut running, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *running += 1;
        Some(Running(self))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    #[test]
    fn names_that_are_known_are_found() {
        let found = look_up("localhost", 80, Duration::from_secs(20)).unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80) && !found.is_empty());
    }

    #[test]
    fn those_that_take_too_long_are_left_alone_and_are_not_many() {
        static LOOKUPS: Lookups = Lookups::new();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        for _ in 0..LOOKUPS_MAX {
            let gate = gate.clone();
            let held = move || {
                let open = gate.0.lock().unwrap();
                drop(gate.1.wait_while(open, |open| !*open).unwrap());
                Ok(())
            };
            let error = LOOKUPS.within(Duration::from_millis(1), held).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        for _ in 0..3 {
            let error = LOOKUPS.within(Duration::from_millis(1), || Ok(())).unwrap_err();
            assert!(error.to_string().contains("too many"));
        }
        // More than there are places: each has its turn.
        let waiting: Vec<_> = (0..3 * LOOKUPS_MAX)
            .map(|_| thread::spawn(|| LOOKUPS.within(Duration::from_secs(60), || Ok(()))))
            .collect();
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        for one in waiting {
            one.join().unwrap().unwrap();
        }
    }
}
