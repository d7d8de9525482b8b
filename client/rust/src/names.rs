//! Host names on the way round the sidecar. The system's look-up cannot be bounded, so that it runs on a thread that is left alone when
//! it takes too long.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Look-ups that run at once, those that nobody waits for any more included.
const LOOKUPS_MAX: usize = 32;

/// Those of this process.
static RUNNING: Lookups = Lookups(AtomicUsize::new(0));

/// How many look-ups run.
struct Lookups(AtomicUsize);

/// One of them, until it is dropped.
struct Running(&'static Lookups);

/// The addresses of a host, if they are known in time.
pub(crate) fn look_up(host: &str, port: u16, longest: Duration) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    RUNNING.within(longest, move || (&*host, port).to_socket_addrs().map(Iterator::collect))
}

impl Lookups {
    fn within<T: Send + 'static>(
        &'static self,
        longest: Duration,
        look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let running = self.begin().ok_or_else(|| io::Error::other("too many host names are being looked up"))?;
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name("shmesh-names".to_owned()).spawn(move || {
            let found = look_up();
            drop(running);
            // Nobody may wait for it any more.
            let _ = tell.send(found);
        })?;
        told.recv_timeout(longest).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "its name is not known in time"),
                RecvTimeoutError::Disconnected => io::Error::other("its name cannot be looked up"),
            })
        })
    }

    fn begin(&'static self) -> Option<Running> {
        let more = |running| if running < LOOKUPS_MAX { Some(running + 1) } else { None };
        // Made only if there was a place: dropping it gives one back.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok().then(|| Running(self))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
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
        static LOOKUPS: Lookups = Lookups(AtomicUsize::new(0));
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
        let one_more = || LOOKUPS.within(Duration::from_secs(20), || Ok(()));
        for _ in 0..3 {
            assert!(one_more().unwrap_err().to_string().contains("too many"));
        }
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        while one_more().is_err() {
            thread::yield_now();
        }
    }
}
