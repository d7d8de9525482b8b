//! What a demo plays on: a folder of its own, free ports, and child processes that end with it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Time for a process to say that it is up.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Exit code of a process that an interrupt ended, as shells write it: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Ends its processes and removes its folder when dropped, or when the user interrupts.
pub struct Stage {
    props: Arc<Mutex<Props>>,
    folder: PathBuf,
    /// This executable: every process of the demo is a shmesh.
    shmesh: PathBuf,
}

#[derive(Default)]
struct Props {
    children: Vec<Child>,
    folder: Option<TempDir>,
}

impl Stage {
    pub fn set_up() -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("shmesh-demo-")
            .tempdir()
            .map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        let shmesh = std::env::current_exe().map_err(|error| format!("cannot find the shmesh executable: {error}"))?;
        let stage = Self {
            folder: folder.path().to_owned(),
            props: Arc::new(Mutex::new(Props { children: Vec::new(), folder: Some(folder) })),
            shmesh,
        };
        clear_on_interrupt(stage.props.clone());
        Ok(stage)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts a shmesh that stays, and waits for the line on stderr that says that it is up.
    pub fn start(&self, what: &str, args: &[&str], up: &str) -> Result<(), String> {
        let mut child = Command::new(&self.shmesh)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {what}: {error}"))?;
        let stderr = child.stderr.take();
        lock(&self.props).children.push(child);
        let (lines, said) = mpsc::channel();
        // Reads to the end, or the child would block on a full pipe.
        thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(line) = line else { return };
                // Nobody listens any more once the child is up.
                let _ = lines.send(line);
            }
        });
        let mut heard = String::new();
        loop {
            match said.recv_timeout(START_TIMEOUT) {
                Ok(line) if line.contains(up) => return Ok(()),
                Ok(line) => heard.push_str(&format!("\n  {line}")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{what} is not up after {START_TIMEOUT:?}{heard}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{what} ended at once{heard}"));
                }
            }
        }
    }

    /// Runs a shmesh to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output, String> {
        Command::new(&self.shmesh)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start {}: {error}", self.shmesh.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        lock(&self.props).clear();
    }
}

impl Props {
    fn clear(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
        self.folder = None;
    }
}

/// Addresses that nobody listens on at the moment; all different.
pub fn free_addresses<const N: usize>() -> Result<[SocketAddr; N], String> {
    let wrong = |error| format!("cannot find a free port: {error}");
    // Kept until all are found, or the same one would be found again.
    let mut listeners = Vec::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).map_err(wrong)?;
        *address = listener.local_addr().map_err(wrong)?;
        listeners.push(listener);
    }
    Ok(addresses)
}

/// A path as an argument or a line of configuration. The folder's name is ours and is text.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn clear_on_interrupt(props: Arc<Mutex<Props>>) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            lock(&props).clear();
            std::process::exit(INTERRUPTED);
        });
    });
}

/// A thread that panicked while it held the lock leaves nothing half done here.
fn lock(props: &Mutex<Props>) -> MutexGuard<'_, Props> {
    props.lock().unwrap_or_else(PoisonError::into_inner)
}
