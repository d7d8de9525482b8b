//! wrk → nginx over 64 connections: what a plain HTTP client and server on this machine take.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::processes::{Stage, free_addresses};
use crate::shmesh::{Load, Measured};

const CONFIG: &str = include_str!("../../peers/nginx.conf");
const HOW_TO_GET: &str = "needs wrk and nginx (apt install wrk nginx-light)";
/// What nginx logs once it serves.
const UP: &str = "getrlimit(RLIMIT_NOFILE)";
/// Where Debian has it, which is not in the path of every user.
const PLACES: [&str; 2] = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// A running nginx.
pub struct Nginx {
    address: SocketAddr,
    /// As `-v` has it.
    pub version: String,
}

impl Nginx {
    pub fn start(stage: &Stage) -> Result<Nginx, String> {
        let binary = PLACES.iter().map(Path::new).find(|place| place.exists()).unwrap_or(Path::new("nginx"));
        let said = Command::new(binary).arg("-v").stdin(Stdio::null()).output();
        let said = said.map_err(|error| format!("{HOW_TO_GET}: {error}"))?;
        let version = String::from_utf8_lossy(&said.stderr).trim().replace("nginx version: ", "");
        if Command::new("wrk").arg("-v").stdin(Stdio::null()).output().is_err() {
            return Err(HOW_TO_GET.to_owned());
        }
        let [address] = free_addresses()?;
        let folder = stage.path("");
        let config = CONFIG.replace("@FOLDER@", folder.trim_end_matches('/'));
        let config = stage.write("nginx.conf", &config.replace("@LISTEN_PORT@", &address.port().to_string()))?;
        stage.start("nginx", binary, &["-e", "stderr", "-c", &config], UP)?;
        Ok(Nginx { address, version })
    }

    /// wrk with one thread and 64 connections, for whole seconds: it takes no others.
    pub fn call(&self, load: &Load) -> Result<Measured, String> {
        let duration = format!("-d{}s", load.duration.as_secs_f64().ceil());
        let url = format!("http://{}/", self.address);
        let output =
            Command::new("wrk").args(["-t1", "-c64", "--latency", &duration, &url]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{HOW_TO_GET}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("Socket errors") || text.contains("Non-2xx") {
            return Err(format!("wrk saw errors: {text}"));
        }
        let rps = after(&text, "Requests/sec:").and_then(|number| number.parse().ok());
        let (p50, p99) = (after(&text, "50%").and_then(time_ns), after(&text, "99%").and_then(time_ns));
        match (rps, p50, p99) {
            (Some(rps), Some(p50_ns), Some(p99_ns)) => Ok(Measured { p50_ns, p99_ns, rps, answered: f64::NAN }),
            _ => Err(format!("wrk's report cannot be read: {text}")),
        }
    }
}

/// The word behind a name at the beginning of a line.
fn after<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).and_then(|rest| rest.split_whitespace().next())
}

/// `123.45us`, `1.20ms`, `1.00s`.
fn time_ns(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic())?;
    let unit = match &text[digits..] {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some(text[..digits].parse::<f64>().ok()? * unit)
}
