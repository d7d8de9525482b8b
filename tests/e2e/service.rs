//! Services behind the sidecar: a handler runs on a thread for each connection.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::bytes::Noise;
use crate::wire::{Head, Stream, Wire};

/// How often a service that waits for connections looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Connections that wait to be accepted; the system's own bound is `net.core.somaxconn`.
const QUEUE: nix::sys::socket::Backlog = nix::sys::socket::Backlog::MAXALLOWABLE;

/// A running service; it takes no more connections once it is dropped.
pub struct Service {
    /// As a cluster names it.
    pub endpoint: String,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Service {
    /// On a free port of the loopback interface.
    pub fn tcp(handle: impl Fn(Wire) + Send + Sync + 'static) -> Service {
        Self::tcp_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), handle)
    }

    pub fn tcp_at(address: SocketAddr, handle: impl Fn(Wire) + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind(address).expect("a port");
        // The standard library's queue of 128 is full soon where this thread does not get its turn, and a SYN that is dropped costs the connect its time.
        nix::sys::socket::listen(&listener, QUEUE).expect("a listener");
        listener.set_nonblocking(true).expect("a socket");
        let endpoint = format!("tcp:{}", listener.local_addr().expect("bound"));
        let accept = move || {
            let (stream, _) = listener.accept().ok()?;
            stream.set_nonblocking(false).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
            Some(Stream::Tcp(stream))
        };
        Self::start(endpoint, accept, handle)
    }

    pub fn unix(path: &Path, handle: impl Fn(Wire) + Send + Sync + 'static) -> Service {
        let listener = UnixListener::bind(path).expect("a socket file");
        listener.set_nonblocking(true).expect("a socket");
        let accept = move || {
            let (stream, _) = listener.accept().ok()?;
            stream.set_nonblocking(false).expect("a socket");
            Some(Stream::Unix(stream))
        };
        Self::start(format!("unix:{}", path.display()), accept, handle)
    }

    fn start(
        endpoint: String,
        accept: impl Fn() -> Option<Stream> + Send + 'static,
        handle: impl Fn(Wire) + Send + Sync + 'static,
    ) -> Service {
        let accepted = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, ended, handle) = (accepted.clone(), stop.clone(), Arc::new(handle));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let Some(stream) = accept() else {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let handle = handle.clone();
                std::thread::spawn(move || handle(Wire::new(stream)));
            }
        });
        Service { endpoint, accepted, stop }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a service waits for before it answers.
#[derive(Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Until it is open.
    pub fn pass(&self) {
        let late = std::time::Instant::now() + crate::process::PATIENCE;
        while !self.0.load(Ordering::SeqCst) && std::time::Instant::now() < late {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// A service that answers each request of a connection with what `answer` writes.
pub fn http(answer: impl Fn(&Head, &mut Wire) + Send + Sync + 'static) -> Service {
    http_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answer)
}

fn http_at(address: SocketAddr, answer: impl Fn(&Head, &mut Wire) + Send + Sync + 'static) -> Service {
    Service::tcp_at(address, move |mut wire| {
        while let Some(head) = wire.head() {
            answer(&head, &mut wire);
        }
    })
}

/// A service that answers every request with the same text.
pub fn saying(text: &'static str) -> Service {
    saying_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), text)
}

/// The same on an address of its own.
pub fn saying_at(address: SocketAddr, text: &'static str) -> Service {
    http_at(address, move |head, wire| {
        wire.body(head, false, |_| ());
        let _ = wire.try_send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).as_bytes());
    })
}

/// A service that moves bytes of [`Noise`], which is told by the path:
///
/// * `/take/SEED` checks the body and answers with its length;
/// * `/give/SEED/LEN/length|chunked|close` answers with a body;
/// * `/echo` answers with the body while it comes.
pub fn noise_service() -> Service {
    Service::tcp(serve_noise)
}

pub fn serve_noise(mut wire: Wire) {
    while let Some(head) = wire.head() {
        let path = head.path().to_owned();
        let mut words = path.trim_start_matches('/').split('/');
        match words.next() {
            Some("take") => {
                let mut noise = Noise::new(words.next().and_then(|seed| seed.parse().ok()).expect("a seed"));
                wire.body(&head, false, |piece| noise.check(piece));
                let len = noise.made().to_string();
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{len}", len.len()));
            }
            Some("give") => {
                let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
                let (seed, len) = (number(), number());
                if !give(&mut wire, seed, len, words.next().expect("a framing")) {
                    return;
                }
            }
            Some("echo") => {
                let mut back = wire.twin();
                match head.length() {
                    Some(len) => back.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n")),
                    None => back.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
                }
                let chunked = head.length().is_none();
                wire.body(&head, false, |piece| match chunked {
                    true => back.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()),
                    false => back.send(piece),
                });
                if chunked {
                    back.send("0\r\n\r\n");
                }
            }
            _ => wire.send("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        }
    }
}

/// Answers with noise; false if the connection ends with it.
fn give(wire: &mut Wire, seed: u64, len: u64, framing: &str) -> bool {
    let head = match framing {
        "length" => format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n"),
        "chunked" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
        "close" => "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
        other => panic!("no framing {other}"),
    };
    wire.send(head);
    let mut noise = Noise::new(seed);
    let mut piece = vec![0; 50_000];
    let mut left = len;
    while left > 0 {
        let size = piece.len().min(left as usize);
        noise.fill(&mut piece[..size]);
        let sent = match framing {
            "chunked" => wire.try_send(&[format!("{size:X}\r\n").as_bytes(), &piece[..size], b"\r\n"].concat()),
            _ => wire.try_send(&piece[..size]),
        };
        if sent.is_err() {
            // The client went away, which some tests want.
            return false;
        }
        left -= size as u64;
    }
    if framing == "chunked" {
        wire.send("0\r\n\r\n");
    }
    framing != "close"
}
