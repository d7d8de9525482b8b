//! A few lines of C that do what our own direct client and service do (`benches/peers/pingpong.c`): if they are much faster,
//! then "direct" is no fair measure.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::processes::{Stage, free_addresses};
use crate::shmesh::{Load, Measured};

const SOURCE: &str = include_str!("../../peers/pingpong.c");
const HOW_TO_GET: &str = "needs a C compiler (apt install gcc libc6-dev)";
/// What its service says once it listens.
const UP: &str = "listening";

/// Its service, running.
pub struct PingPong {
    binary: PathBuf,
    port: u16,
}

impl PingPong {
    /// Compiles it and starts its service on TCP.
    pub fn start(stage: &Stage) -> Result<PingPong, String> {
        let source = stage.write("pingpong.c", SOURCE)?;
        let binary = PathBuf::from(stage.path("pingpong"));
        let compiled = Command::new("cc").args(["-O2", "-o"]).arg(&binary).arg(source).stdin(Stdio::null()).output();
        let compiled = compiled.map_err(|error| format!("{HOW_TO_GET}: {error}"))?;
        if !compiled.status.success() {
            return Err(format!("pingpong.c: {}", String::from_utf8_lossy(&compiled.stderr).trim()));
        }
        let [address] = free_addresses()?;
        let port = address.port();
        stage.start("the C service", &binary, &["serve", "tcp", &port.to_string()], UP)?;
        Ok(PingPong { binary, port })
    }

    /// Its client against its service, one call at a time.
    pub fn call(&self, load: &Load) -> Result<Measured, String> {
        let numbers = [self.port.to_string(), load.payload.to_string(), load.duration.as_secs_f64().to_string()];
        let output = Command::new(&self.binary).args(["call", "tcp"]).args(numbers).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("the C client cannot be started: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        match numbers.as_slice() {
            &[p50_ns, p99_ns, rps] => Ok(Measured { p50_ns, p99_ns, rps, answered: f64::NAN }),
            _ => Err(format!("the C client ended with {} and said {text:?}", output.status)),
        }
    }
}
