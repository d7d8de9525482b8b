//! nginx as a service: what a plain HTTP server on this machine takes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::wrk;
use crate::processes::{Stage, free_addresses};

const CONFIG: &str = include_str!("../../peers/nginx.conf");
/// What nginx logs once it serves.
const UP: &str = "getrlimit(RLIMIT_NOFILE)";
/// Where Debian has it, which is not in the path of every user.
const PLACES: [&str; 2] = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// A running nginx.
pub struct Nginx {
    pub address: SocketAddr,
    /// As `-v` has it.
    pub version: String,
}

impl Nginx {
    pub fn start(stage: &Stage) -> Result<Nginx, String> {
        let binary = PLACES.iter().map(Path::new).find(|place| place.exists()).unwrap_or(Path::new("nginx"));
        let said = Command::new(binary).arg("-v").stdin(Stdio::null()).output();
        let said = said.map_err(|error| format!("{}: {error}", wrk::HOW_TO_GET))?;
        let version = String::from_utf8_lossy(&said.stderr).trim().replace("nginx version: ", "");
        if !wrk::is_here() {
            return Err(wrk::HOW_TO_GET.to_owned());
        }
        let [address] = free_addresses()?;
        let folder = stage.path("");
        let config = CONFIG.replace("@FOLDER@", folder.trim_end_matches('/'));
        let config = stage.write("nginx.conf", &config.replace("@LISTEN_PORT@", &address.port().to_string()))?;
        stage.start("nginx", binary, &["-e", "stderr", "-c", &config], UP)?;
        Ok(Nginx { address, version })
    }
}
