//! The sidecar's process.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmesh_client::Client;

use crate::Driver;
use crate::calls::Way;
use crate::stream::Stream;

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ports below those that the system gives to outgoing connections.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;
/// As many as one run takes at most.
const PORTS_EACH: u16 = 100;

/// What a sidecar is started with, again and again.
#[derive(Clone)]
pub struct Setup {
    pub shmesh: PathBuf,
    pub driver: Driver,
    pub folder: PathBuf,
    pub http_port: u16,
}

pub struct Sidecar {
    child: Child,
}

impl Setup {
    /// With one cluster of these endpoints, of which `more` keys say how it deals with them.
    pub fn new(shmesh: &Path, driver: Driver, folder: &Path, endpoints: &[String], more: &str) -> Setup {
        let folder = folder.to_owned();
        let (http_port, admin_port) = (free_port(), free_port());
        let setup = Setup { shmesh: shmesh.to_owned(), driver, folder, http_port };
        let (apps, http, endpoints) = (setup.socket(), setup.unix_path(Way::Uds), endpoints.join("\", \""));
        let tunnel = setup.unix_path(Way::Tunnel);
        let (apps, http, tunnel) = (apps.display(), http.display(), tunnel.display());
        let config = format!(
            "admin: {{ address: \"127.0.0.1:{admin_port}\" }}\n\
             listeners:\n\
             - {{ name: apps, shm: {apps} }}\n\
             - {{ name: uds, unix: {http}, protocol: http }}\n\
             - {{ name: tunnel, unix: {tunnel}, protocol: raw, cluster: service }}\n\
             - {{ name: tcp, tcp: \"127.0.0.1:{http_port}\", protocol: http }}\n\
             routes: [ {{ match: {{ host: service }}, cluster: service }} ]\n\
             timeouts: {{ head_read: 10m }}\n\
             clusters: [ {{ name: service, endpoints: [ \"{endpoints}\" ], {more} }} ]\n",
        );
        std::fs::write(setup.folder.join("shmesh.yaml"), config).expect("a file");
        setup
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("apps.sock")
    }

    /// Where the next process connects that takes over.
    pub fn upgrade_socket(&self) -> PathBuf {
        self.folder.join("apps.sock.upgrade")
    }

    /// Connects to a listener. Whoever reads from it waits for `patience` at most.
    pub fn connect(&self, way: Way, patience: Duration) -> io::Result<Stream> {
        match way {
            Way::Tcp => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http_port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                Ok(Stream::Tcp(stream))
            }
            Way::Uds | Way::Tunnel => {
                let stream = UnixStream::connect(self.unix_path(way))?;
                stream.set_read_timeout(Some(patience))?;
                Ok(Stream::Unix(stream))
            }
            Way::Shm => unreachable!("apps attach to it"),
        }
    }

    fn unix_path(&self, way: Way) -> PathBuf {
        self.folder.join(if way == Way::Tunnel { "tunnel.sock" } else { "http.sock" })
    }

    /// Starts one, and waits until it takes apps and connections.
    pub fn start(&self) -> Sidecar {
        let mut sidecar = self.launch(&[]);
        let late = Instant::now() + PATIENCE;
        let is_ready = || {
            let attached = Client::builder().socket(self.socket()).fallback(false).connect();
            attached.is_ok() && self.connect(Way::Tcp, PATIENCE).is_ok()
        };
        while !is_ready() {
            if let Some(status) = sidecar.ended() {
                panic!("the sidecar ended with {status}: {}", self.log());
            }
            assert!(Instant::now() < late, "no app can attach: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        sidecar
    }

    /// Starts one with these arguments besides.
    pub fn launch(&self, arguments: &[&str]) -> Sidecar {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("a file");
        let child = Command::new(&self.shmesh)
            .args(["run", "--driver", self.driver.name(), "--config"])
            .arg(self.folder.join("shmesh.yaml"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo build --release` makes it", self.shmesh.display()));
        Sidecar { child }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Sidecar {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("it was started here, and not waited for");
    }

    /// Where it may have ended by itself.
    pub fn signal_if_there(&mut self, signal: Signal) {
        if self.ended().is_none() {
            self.signal(signal);
        }
    }

    /// Kills it.
    pub fn end(&mut self) {
        self.signal_if_there(Signal::SIGKILL);
        self.wait();
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it was started here")
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        self.child.wait().expect("it was started here");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether the sidecar runs on io_uring here.
pub fn can_use_uring(shmesh: &Path) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(shmesh, Driver::Uring, folder.path(), &["tcp:127.0.0.1:9".into()], "");
    let check = Command::new(&setup.shmesh)
        .args(["run", "--driver", "uring", "--config"])
        .arg(folder.path().join("shmesh.yaml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut sidecar = Sidecar { child: check.unwrap_or_else(|error| panic!("{}: {error}", shmesh.display())) };
    let late = Instant::now() + PATIENCE;
    while Client::builder().socket(setup.socket()).fallback(false).connect().is_err() {
        if sidecar.ended().is_some() {
            let mut said = String::new();
            let stderr = sidecar.child.stderr.take().expect("piped");
            BufReader::new(stderr).read_to_string(&mut said).expect("text");
            assert!(said.contains("--driver uring"), "the sidecar does not start for another reason: {said}");
            return false;
        }
        assert!(Instant::now() < late, "no app can attach");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// A port of the loopback interface that nobody listens on now, and that the system gives to no outgoing connection while the sidecar is gone.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Others that run at the same time begin elsewhere.
    let first = (std::process::id() % u32::from(PORTS / PORTS_EACH)) as u16 * PORTS_EACH;
    for _ in 0..PORTS {
        let port = FIRST_PORT + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("all ports are taken");
}
