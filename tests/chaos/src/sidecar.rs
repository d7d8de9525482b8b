//! The sidecar's process.

use std::fs::File;
use std::io::{BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmesh_client::Client;

use crate::Driver;

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a sidecar is started with, again and again.
pub struct Setup {
    pub shmesh: PathBuf,
    pub driver: Driver,
    pub folder: PathBuf,
}

pub struct Sidecar {
    child: Child,
}

impl Setup {
    /// With one cluster, the service that listens on `service` in the folder.
    pub fn new(shmesh: &Path, driver: Driver, folder: &Path) -> Setup {
        let folder = folder.to_owned();
        let at = folder.display();
        let config = format!(
            "admin: {{ address: \"127.0.0.1:{}\" }}\n\
             listeners: [ {{ name: apps, shm: {at}/apps.sock }} ]\n\
             routes: [ {{ match: {{ host: service }}, cluster: service }} ]\n\
             clusters: [ {{ name: service, endpoints: [ \"unix:{at}/service\" ] }} ]\n",
            free_port()
        );
        std::fs::write(folder.join("shmesh.yaml"), config).expect("a file");
        Setup { shmesh: shmesh.to_owned(), driver, folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("apps.sock")
    }

    /// Starts one, and waits until apps can attach.
    pub fn start(&self) -> Sidecar {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("a file");
        let child = Command::new(&self.shmesh)
            .args(["run", "--driver", self.driver.name(), "--config"])
            .arg(self.folder.join("shmesh.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo build --release` makes it", self.shmesh.display()));
        let mut sidecar = Sidecar { child };
        let late = Instant::now() + PATIENCE;
        while Client::builder().socket(self.socket()).fallback(false).connect().is_err() {
            if let Ok(Some(status)) = sidecar.child.try_wait() {
                panic!("the sidecar ended with {status}: {}", self.log());
            }
            assert!(Instant::now() < late, "no app can attach: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        sidecar
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Sidecar {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it was started here, and not waited for");
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        self.child.wait().expect("it was started here");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the sidecar runs on io_uring here.
pub fn can_use_uring(shmesh: &Path) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = Setup::new(shmesh, Driver::Uring, folder.path());
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
        if sidecar.child.try_wait().is_ok_and(|status| status.is_some()) {
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

/// A port of the loopback interface that nobody listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}
