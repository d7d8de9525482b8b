//! The service behind the sidecar: runs what it is asked, and writes down what it ran and for whom: the sidecar, or the app itself, which is this
//! process. It can die, so that what is connected to it is reset and what connects is refused, and live again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};

use crate::http;
use crate::own;
use crate::random::Random;
use crate::stream::Stream;

/// The longest time in µs that it takes for a call that comes through the sidecar, so that some are always in flight. Others are answered at
/// once: how long it takes to find another way is what is measured.
pub const SLOW: u64 = 1_500;

/// Where the sidecar alone is to cost time.
pub const AT_ONCE: u64 = 1;

/// A request with this line in its head is answered in two halves, the second one when the gate is open.
pub const IN_HALVES: &str = "x-halves: 1\r\n";

/// Nobody waits at it for longer.
const GATE_OPENS_WITHIN: Duration = Duration::from_secs(300);

/// What services have run, all of them together. A table that is made anew as it grows would hold up all calls meanwhile: a million of them for 45 ms.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<BTreeMap<u64, Runs>>>);

/// How often a call ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    pub through_sidecar: u32,
    pub direct: u32,
}

impl Runs {
    pub fn all(self) -> u32 {
        self.through_sidecar + self.direct
    }
}

impl Record {
    pub fn runs(&self, call: u64) -> Runs {
        locked(&self.0).get(&call).copied().unwrap_or_default()
    }

    fn ran(&self, call: u64, direct: bool) {
        let mut record = locked(&self.0);
        let runs = record.entry(call).or_default();
        *if direct { &mut runs.direct } else { &mut runs.through_sidecar } += 1;
    }
}

/// Before the second halves of answers.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *locked(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub fn close(&self) {
        *locked(&self.0.0) = false;
    }

    fn wait(&self) {
        drop(self.0.1.wait_timeout_while(locked(&self.0.0), GATE_OPENS_WITHIN, |is_open| !*is_open));
    }
}

/// Where a service listens.
#[derive(Clone, Debug)]
pub enum At {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl At {
    /// As the sidecar's configuration has it.
    pub fn endpoint(&self) -> String {
        match self {
            At::Unix(path) => format!("unix:{}", path.display()),
            At::Tcp(address) => format!("tcp:{address}"),
        }
    }
}

pub struct Service {
    at: At,
    record: Record,
    slow_us: u64,
    gate: Gate,
    listening: Option<Listening>,
}

struct Listening {
    listener: Arc<Listener>,
    accepting: JoinHandle<()>,
    connections: Connections,
}

/// A service that answers no SYN.
pub struct Silent {
    listener: Listener,
    _waiting: Vec<TcpStream>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Those that are open, by number.
type Connections = Arc<Mutex<HashMap<u64, Arc<Stream>>>>;

impl Service {
    /// Listens.
    pub fn start(at: At, record: &Record, slow_us: u64) -> Service {
        let mut service = Service { at, record: record.clone(), slow_us, gate: Gate::default(), listening: None };
        service.live();
        service
    }

    pub fn live(&mut self) {
        self.accept(self.listen(Backlog::MAXALLOWABLE));
    }

    /// Listens, over TCP, and answers no SYN: connections wait in its queue already, as many as it takes.
    pub fn listen_silently(&self) -> Silent {
        let listener = self.listen(Backlog::new(0).expect("a backlog"));
        let At::Tcp(address) = self.at else { panic!("{:?} knows no SYN", self.at) };
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        Silent { listener, _waiting: waiting }
    }

    /// Takes what waits, and all that comes.
    pub fn end_silence(&mut self, silent: Silent) {
        let Listener::Tcp(listener) = &silent.listener else { unreachable!("it listens silently") };
        listen(listener, Backlog::MAXALLOWABLE).expect("it listens");
        self.accept(silent.listener);
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub fn at(&self) -> &At {
        &self.at
    }

    fn listen(&self, backlog: Backlog) -> Listener {
        Listener::bind(&self.at, backlog).unwrap_or_else(|error| panic!("{:?}: {error}", self.at))
    }

    fn accept(&mut self, listener: Listener) {
        let listener = Arc::new(listener);
        let connections = Connections::default();
        let (accepts, opened) = (listener.clone(), connections.clone());
        let (record, gate, slow_us) = (self.record.clone(), self.gate.clone(), self.slow_us);
        let accepting = thread::spawn(move || {
            // It ends when nobody listens any more.
            for number in 0.. {
                let stream = match accepts.accept() {
                    Ok(stream) => Arc::new(stream),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(_) => break,
                };
                locked(&opened).insert(number, stream.clone());
                let (record, gate, opened) = (record.clone(), gate.clone(), opened.clone());
                thread::spawn(move || {
                    // A connection that breaks is the sidecar's end, or the service's own.
                    let pause = |random: &mut Random| Duration::from_micros(random.below(slow_us));
                    _ = serve(&stream, &record, &gate, Random::new(number), pause);
                    locked(&opened).remove(&number);
                });
            }
        });
        self.listening = Some(Listening { listener, accepting, connections });
    }

    /// Resets all its connections, and listens no more.
    pub fn die(&mut self) {
        let Some(Listening { listener, accepting, connections }) = self.listening.take() else { return };
        listener.end();
        accepting.join().expect("it accepts");
        if let At::Unix(path) = &self.at {
            fs::remove_file(path).expect("its own socket");
        }
        for (_, stream) in locked(&connections).drain() {
            stream.reset();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.die();
    }
}

impl Listener {
    fn bind(at: &At, backlog: Backlog) -> io::Result<Listener> {
        Ok(match at {
            At::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listen(&listener, backlog)?;
                Listener::Unix(listener)
            }
            At::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listen(&listener, backlog)?;
                Listener::Tcp(listener)
            }
        })
    }

    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Listener::Unix(listener) => Stream::Unix(listener.accept()?.0),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        })
    }

    /// Whoever accepts gets an error, whoever connects is refused.
    fn end(&self) {
        let descriptor = match self {
            Listener::Unix(listener) => listener.as_raw_fd(),
            Listener::Tcp(listener) => listener.as_raw_fd(),
        };
        shutdown(descriptor, Shutdown::Both).expect("it listens");
    }
}

fn serve(
    stream: &Stream,
    record: &Record,
    gate: &Gate,
    mut random: Random,
    pause: impl Fn(&mut Random) -> Duration,
) -> io::Result<()> {
    let direct = own::is(stream)?;
    let mut input = Vec::new();
    let mut both = stream;
    while let Some(request) = http::receive(&mut both, &mut input)? {
        if let Some(call) = request.number("x-call") {
            record.ran(call, direct);
            if !direct {
                thread::sleep(pause(&mut random));
            }
        }
        let answer = http::answer(&request.body);
        if request.number("x-halves").is_none() {
            both.write_all(&answer)?;
            continue;
        }
        // At least one byte of the body is in the first half.
        let (first, second) = answer.split_at(answer.len() - request.body.len() / 2);
        both.write_all(first)?;
        gate.wait();
        both.write_all(second)?;
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
