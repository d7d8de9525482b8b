//! The processes of a run: a folder of their own, free ports, and an end with the run.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::peer;

/// Time for a process to say that it is up.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// A process that stays, once it is up.
#[derive(Clone, Debug)]
pub struct Started {
    pub pid: u32,
    /// The line with which it said that it is up.
    pub line: String,
}

/// Ends its processes and removes its folder when dropped.
pub struct Stage {
    children: RefCell<Vec<Child>>,
    folder: TempDir,
}

impl Stage {
    pub fn set_up() -> Result<Stage, String> {
        let folder = tempfile::Builder::new().prefix("shmesh-bench-").tempdir();
        let folder = folder.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
        Ok(Stage { children: RefCell::default(), folder })
    }

    /// A path in the folder, as text: the folder's name is ours.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {path}: {error}"))?;
        Ok(path)
    }

    /// Starts a process that stays, waits for a line on stderr that has `up` in it.
    pub fn start<A: AsRef<OsStr>>(&self, what: &str, file: &Path, args: &[A], up: &str) -> Result<Started, String> {
        let mut child = peer::bound(file)?
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {what}: {error}"))?;
        let stderr = child.stderr.take();
        let pid = child.id();
        self.children.borrow_mut().push(child);
        let (lines, said) = mpsc::channel();
        // Reads to the end, or the process would block on a full pipe.
        thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(line) = line else { return };
                // Nobody listens any more once the process is up.
                let _ = lines.send(line);
            }
        });
        let late = Instant::now() + START_TIMEOUT;
        let mut heard = String::new();
        loop {
            match said.recv_timeout(late.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(up) => return Ok(Started { pid, line }),
                Ok(line) => heard.push_str(&format!("\n    {line}")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{what} is not up after {START_TIMEOUT:?}{heard}"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("{what} ended at once{heard}")),
            }
        }
    }

    /// Ends what was started so far.
    pub fn clear(&self) {
        for mut child in self.children.borrow_mut().drain(..) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clear();
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
