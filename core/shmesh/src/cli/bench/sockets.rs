//! A run over stream sockets: as many threads as there are processors, each with its share of the
//! connections. A thread with one connection does blocking writes and reads and nothing else.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;

use super::connection::Connection;
use super::plan::{AWAKE_BEFORE, LOOK_EVERY, Plan};
use super::report::Tally;
use super::wire::Wire;

/// Events that are taken from the system at a time.
const EVENTS: usize = 256;

/// Runs all connections to the end of the plan; sums up what they counted.
pub fn run<W: Wire + 'static>(connections: Vec<Connection<W>>, plan: Plan) -> Tally {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut shares: Vec<Vec<Connection<W>>> = Vec::new();
    shares.resize_with(threads.min(connections.len()), Vec::new);
    for (i, connection) in connections.into_iter().enumerate() {
        let share = i % shares.len();
        shares[share].push(connection);
    }
    let running: Vec<_> = shares.into_iter().map(|share| thread::spawn(move || run_share(share, &plan))).collect();
    let mut total = Tally::default();
    for thread in running {
        match thread.join() {
            Ok(tally) => total.merge(&tally),
            Err(_) => total.note("a thread of the run ended early", 1),
        }
    }
    total
}

fn run_share<W: Wire>(mut share: Vec<Connection<W>>, plan: &Plan) -> Tally {
    // Sleeps end when they should: the default slack of 50 µs would be seen in every latency.
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut tally = Tally::default();
    let ended = match share.as_mut_slice() {
        [connection] => run_one(connection, plan, &mut tally),
        connections => run_many(connections, plan, &mut tally),
    };
    if let Err(error) = ended {
        tally.note(&format!("a thread of the run cannot wait: {error}"), 1);
    }
    let unsent = share.iter().map(|c| c.unsent(plan)).sum();
    if unsent > 0 {
        tally.note(super::UNSENT, unsent);
    }
    for connection in &mut share {
        connection.give_up(plan, &mut tally);
    }
    tally
}

fn run_one<W: Wire>(connection: &mut Connection<W>, plan: &Plan, tally: &mut Tally) -> io::Result<()> {
    let mut now = Instant::now();
    while now < plan.gives_up && !connection.is_done(now, plan) {
        connection.turn(now, plan, tally);
        if connection.take_renewed()
            && let Some(stream) = connection.stream()
        {
            stream.set_read_timeout(Some(LOOK_EVERY))?;
        }
        let next = connection.next_start(plan);
        match connection.stream() {
            None => thread::sleep(pause(now, next)),
            Some(_) if next.is_none() && !connection.wants_to_send() => {
                connection.receive(true, plan, tally);
            }
            Some(stream) => {
                let pause = pause(now, next);
                match pause > AWAKE_BEFORE {
                    true => {
                        let write = connection.wants_to_send();
                        stream.wait(true, write, Some(pause - AWAKE_BEFORE))?;
                    }
                    false => thread::yield_now(),
                }
                connection.receive(false, plan, tally);
            }
        }
        now = Instant::now();
    }
    Ok(())
}

fn run_many<W: Wire>(connections: &mut [Connection<W>], plan: &Plan, tally: &mut Tally) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut interests = vec![EpollFlags::empty(); connections.len()];
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut now = Instant::now();
    while now < plan.gives_up {
        let mut next: Option<Instant> = None;
        let mut done = true;
        for (i, connection) in connections.iter_mut().enumerate() {
            connection.turn(now, plan, tally);
            watch(&epoll, i as u64, connection, &mut interests[i])?;
            done &= connection.is_done(now, plan);
            next = earlier(next, connection.next_start(plan));
        }
        if done {
            return Ok(());
        }
        let ready = wait(&epoll, &mut events, pause(now, next), next.is_some())?;
        for event in &events[..ready] {
            let connection = &mut connections[event.data() as usize];
            while connection.receive(false, plan, tally) {}
        }
        now = Instant::now();
    }
    Ok(())
}

/// Tells the system what a connection waits for, if that has changed.
fn watch<W: Wire>(
    epoll: &Epoll,
    index: u64,
    connection: &mut Connection<W>,
    interest: &mut EpollFlags,
) -> io::Result<()> {
    let renewed = connection.take_renewed();
    let Some(stream) = connection.stream() else {
        return Ok(());
    };
    let mut wanted = EpollFlags::EPOLLIN;
    wanted.set(EpollFlags::EPOLLOUT, connection.wants_to_send());
    if renewed {
        epoll.add(stream, EpollEvent::new(wanted, index))?;
    } else if wanted != *interest {
        epoll.modify(stream, &mut EpollEvent::new(wanted, index))?;
    }
    *interest = wanted;
    Ok(())
}

/// Waits for events, `pause` at most; exactly if a call is due then.
fn wait(epoll: &Epoll, events: &mut [EpollEvent], pause: Duration, exactly: bool) -> io::Result<usize> {
    let timeout = match exactly {
        false => EpollTimeout::try_from(pause).unwrap_or(EpollTimeout::ZERO),
        true if pause > AWAKE_BEFORE => {
            // `epoll_wait` counts in milliseconds; a poll of the epoll itself in nanoseconds.
            let mut fds = [PollFd::new(epoll.0.as_fd(), PollFlags::POLLIN)];
            let timeout = TimeSpec::from_duration(pause - AWAKE_BEFORE);
            match ppoll(&mut fds, Some(timeout), None) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => EpollTimeout::ZERO,
                Err(errno) => return Err(errno.into()),
            }
        }
        true => {
            thread::yield_now();
            EpollTimeout::ZERO
        }
    };
    match epoll.wait(events, timeout) {
        Ok(ready) => Ok(ready),
        Err(nix::errno::Errno::EINTR) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

fn pause(now: Instant, next: Option<Instant>) -> Duration {
    next.map_or(LOOK_EVERY, |next| next.saturating_duration_since(now).min(LOOK_EVERY))
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
