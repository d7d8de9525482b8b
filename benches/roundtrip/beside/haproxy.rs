//! HAProxy as a sidecar, with one thread.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::processes::{Stage, free_addresses};

const CONFIG: &str = include_str!("../../peers/haproxy.cfg");
const HOW_TO_GET: &str = "needs HAProxy (apt install haproxy)";
/// What it says before it listens, and how long that takes at most.
const UP: &str = "Available filters";
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// Where Debian has it, which is not in the path of every user.
const PLACES: [&str; 2] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];

/// A running HAProxy.
pub struct HaProxy {
    pub address: SocketAddr,
    pub pid: u32,
    /// As `-v` has it, such as `2.6.12-1`.
    pub version: String,
}

impl HaProxy {
    /// Starts one that forwards to `service`.
    pub fn start(stage: &Stage, service: SocketAddr) -> Result<HaProxy, String> {
        let binary = PLACES.iter().map(Path::new).find(|place| place.exists()).unwrap_or(Path::new("haproxy"));
        let said = Command::new(binary).arg("-v").stdin(Stdio::null()).output();
        let said = said.map_err(|error| format!("{HOW_TO_GET}: {error}"))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let version = said.split_whitespace().nth(2).unwrap_or("of unknown version").to_owned();
        let [address] = free_addresses()?;
        let config = CONFIG
            .replace("@LISTEN_PORT@", &address.port().to_string())
            .replace("@SERVICE_PORT@", &service.port().to_string());
        let config = stage.write("haproxy.cfg", &config)?;
        let started = stage.start("HAProxy", binary, &["-V", "-db", "-f", &config], UP)?;
        let late = Instant::now() + LISTENS_WITHIN;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > late {
                return Err(format!("HAProxy does not listen on {address}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(HaProxy { address, pid: started.pid, version })
    }
}
