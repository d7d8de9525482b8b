//! A sidecar under test, and what its admin interface says.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, shmesh, until};
use crate::wire::Wire;

/// More attempts show nothing more.
const UPGRADES_TRIED: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Epoll,
    Uring,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::Epoll => "epoll",
            Driver::Uring => "uring",
        }
    }

    /// Whether the sidecar can run on it here; asked once.
    pub fn is_available(self) -> bool {
        static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
        if self == Driver::Epoll {
            return true;
        }
        let refusal = REFUSAL.get_or_init(uring_refusal);
        let Some(refusal) = refusal else { return true };
        let required = std::env::var("SHMESH_TEST_URING").is_ok_and(|value| value == "require");
        assert!(!required, "io_uring is required, and refused: {refusal}");
        eprintln!("skipped: io_uring is refused here: {refusal}");
        false
    }
}

/// What `--driver uring` says where it cannot run.
fn uring_refusal() -> Option<String> {
    let mut sidecar = Sidecar::launch(Driver::Uring, CONFIG_OF_PROBE, &[], &[]);
    let mut refusal = None;
    until("the probe says whether io_uring works", || {
        if sidecar.process.ended().is_some() {
            refusal = Some(sidecar.log());
            return true;
        }
        sidecar.try_get("/ready").is_some_and(|(status, _)| status == 200)
    });
    if let Some(refusal) = &refusal {
        assert!(refusal.contains("--driver uring"), "the sidecar does not start for another reason: {refusal}");
    }
    refusal
}

const CONFIG_OF_PROBE: &str = "listeners: [ { name: a, unix: $dir/a.sock, protocol: http } ]";

/// A running sidecar with a configuration of its own.
pub struct Sidecar {
    pub process: Process,
    folder: TempDir,
    words: BTreeMap<String, String>,
    driver: Driver,
}

impl Sidecar {
    /// Starts one and waits until it is ready. In `config`, `$dir` is a folder of its own, `$name` a free port (the same for
    /// the same name), and what `words` says otherwise.
    pub fn start(driver: Driver, config: &str, words: &[(&str, &str)]) -> Sidecar {
        Self::start_with(driver, config, words, &[])
    }

    pub fn start_with(driver: Driver, config: &str, words: &[(&str, &str)], args: &[&str]) -> Sidecar {
        let mut sidecar = Self::launch(driver, config, words, args);
        sidecar.wait_ready();
        sidecar
    }

    /// Starts one that may refuse to.
    pub fn launch(driver: Driver, config: &str, words: &[(&str, &str)], args: &[&str]) -> Sidecar {
        Self::launch_as("run", driver, config, words, args)
    }

    /// Starts a supervisor, whose process it is then.
    pub fn supervise(driver: Driver, config: &str, words: &[(&str, &str)], args: &[&str]) -> Sidecar {
        Self::launch_as("supervise", driver, config, words, args)
    }

    fn launch_as(command: &str, driver: Driver, config: &str, words: &[(&str, &str)], args: &[&str]) -> Sidecar {
        let folder = TempDir::new().expect("a folder");
        let mut filled = BTreeMap::from([("dir".to_owned(), folder.path().display().to_string())]);
        filled.extend(words.iter().map(|&(word, value)| (word.to_owned(), value.to_owned())));
        let config = fill(&format!("admin: {{ address: \"127.0.0.1:$admin\" }}\n{config}"), &mut filled);
        let file = folder.path().join("shmesh.yaml");
        std::fs::write(&file, config).expect("a file");
        let process = run(command, driver, &folder, args);
        Sidecar { process, folder, words: filled, driver }
    }

    pub fn wait_ready(&mut self) {
        until("the sidecar is ready", || {
            if let Some(status) = self.process.ended() {
                panic!("the sidecar ended at its start with {status}: {}", self.log());
            }
            self.try_get("/ready").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Starts it again, after its end, with the same configuration.
    pub fn start_again(&mut self) {
        self.process = run("run", self.driver, &self.folder, &[]);
        self.wait_ready();
    }

    /// A new process takes over, and the one that ran is gone. One that has no time to come to rest goes on, as it should; then another one tries.
    pub fn upgrade(&mut self, driver: Driver) {
        for _ in 0..UPGRADES_TRIED {
            let next = self.successor(driver);
            let mut old = std::mem::replace(&mut self.process, next);
            until("one of the two processes ends", || self.process.ended().or_else(|| old.ended()).is_some());
            if self.process.ended().is_none() {
                assert!(old.wait().success());
                return self.wait_ready();
            }
            let (new, late) = (self.log(), "did not come in time");
            assert!(new.contains(late), "the new process does not take over: {new}{}", old.log());
            self.process = old;
        }
        panic!("the sidecar never comes to rest in time: {}", self.log());
    }

    /// A process that tries to take over.
    pub fn successor(&self, driver: Driver) -> Process {
        let config = self.config_file();
        let config = config.to_str().expect("a plain path");
        let args = ["run", "--config", config, "--driver", driver.name(), "--log-level", "debug", "--upgrade"];
        let log = tempfile::Builder::new().prefix("stderr").tempfile_in(self.folder.path()).expect("a file");
        let (_, log) = log.keep().expect("a file");
        Process::start("the successor", &log, &args)
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("shmesh.yaml")
    }

    /// Replaces the configuration, in the way of editors and of Kubernetes: all at once.
    pub fn write_config(&mut self, config: &str) {
        let config = fill(&format!("admin: {{ address: \"127.0.0.1:$admin\" }}\n{config}"), &mut self.words);
        let new = self.folder.path().join("shmesh.yaml.new");
        std::fs::write(&new, config).expect("a file");
        std::fs::rename(new, self.config_file()).expect("a file");
    }

    /// Loopback address of the port with this name.
    pub fn tcp(&self, port: &str) -> SocketAddr {
        let port = self.words.get(port).unwrap_or_else(|| panic!("no port ${port}"));
        SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().expect("a port")))
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client's connection to the TCP listener with this port.
    pub fn connect(&self, port: &str) -> Wire {
        Wire::tcp(self.tcp(port))
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `GET` on the admin interface: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap_or_else(|| panic!("the admin interface does not answer {path}"))
    }

    pub fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut wire = Wire::try_tcp(self.tcp("admin"))?;
        wire.try_send(format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
        let head = wire.head()?;
        let mut body = Vec::new();
        wire.body(&head, false, |piece| body.extend_from_slice(piece));
        Some((head.status(), String::from_utf8(body).expect("text")))
    }

    pub fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path} is not JSON ({error}): {body}"))
    }

    /// All numbers that `/metrics` shows, by name with labels as written.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
                (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
            })
            .collect()
    }

    /// One number; 0 if there is none of the name.
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics().get(name).copied().unwrap_or(0.0)
    }

    /// Waits until a number is what it should be.
    pub fn expect_metric(&self, name: &str, expected: f64) {
        let mut last = f64::NAN;
        let late = std::time::Instant::now() + crate::process::PATIENCE;
        while last != expected {
            assert!(std::time::Instant::now() < late, "{name} is {last}, not {expected}");
            last = self.metric(name);
        }
    }

    /// Calls that were counted for a listener, cluster and code.
    pub fn requests(&self, listener: &str, cluster: &str, code: u16) -> f64 {
        self.metric(&requests_name(listener, cluster, code))
    }
}

pub fn requests_name(listener: &str, cluster: &str, code: u16) -> String {
    format!("shmesh_requests_total{{listener=\"{listener}\",cluster=\"{cluster}\",code=\"{code}\"}}")
}

fn run(command: &str, driver: Driver, folder: &TempDir, args: &[&str]) -> Process {
    let config = folder.path().join("shmesh.yaml");
    let config = config.to_str().expect("a plain path");
    let mut all = vec![command, "--config", config, "--driver", driver.name(), "--log-level", "debug"];
    all.extend(args);
    Process::start("the sidecar", &folder.path().join("stderr"), &all)
}

/// Fills `$words`; an unknown one becomes a free port.
fn fill(text: &str, words: &mut BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let value = words.entry(rest[..end].to_owned()).or_insert_with(|| free_port().to_string());
        out.push_str(value);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// A port that nobody listens on. They come from below the range that the kernel gives to outgoing connections, so that none of
/// those takes it in between.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const PORTS: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run side by side begin at different places.
    let start = (std::process::id() % 200) as u16 * 100;
    for _ in 0..PORTS {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// `shmesh check` of a text: its exit code and what it wrote, with the file's name taken out.
pub fn check(config: &str) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, config).expect("a file");
    let file = file.to_str().expect("a plain path");
    let output = shmesh(&["check", "--config", file]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).replace(file, "c.yaml"))
}
