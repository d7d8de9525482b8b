//! The binary that is measured, and what is asked of it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, str};

use serde_json::Value;

use crate::path::Protocol;

/// The `shmesh` executable: client, service and sidecar of every path.
pub struct Shmesh {
    pub file: PathBuf,
    /// What `--version` says.
    pub version: String,
}

/// What a client is asked to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Bytes of each call's payload.
    pub payload: usize,
    pub connections: usize,
    pub inflight: usize,
    /// Calls a second whatever the answers do; `None`: each answer brings the next call.
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// One run of the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub p50_ns: f64,
    pub p99_ns: f64,
    /// Right answers per second.
    pub rps: f64,
    /// All answers of the run, its warm-up included.
    pub answered: f64,
}

impl Shmesh {
    /// `$SHMESH`, or what cargo builds now.
    pub fn find() -> Result<Shmesh, String> {
        let file = match env::var_os("SHMESH") {
            Some(file) => PathBuf::from(file),
            None => build()?,
        };
        let output = Command::new(&file).arg("--version").output();
        let output = output.map_err(|error| format!("cannot start {}: {error}", file.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Shmesh { file, version })
    }

    /// Runs the client to its end. An answer that is wrong or missing makes it an error.
    pub fn bench(&self, protocol: Protocol, via: &str, target: &str, load: &Load) -> Result<Measured, String> {
        let args = self.bench_command(protocol, via, target, load);
        measure(Command::new(&args[0]).args(&args[1..]))
    }

    /// The client's command line, its program first.
    pub fn bench_command(&self, protocol: Protocol, via: &str, target: &str, load: &Load) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![self.file.clone().into()];
        args.extend(
            ["bench", "--json", "--protocol", protocol.word(), "--via", via, "--target", target].map(Into::into),
        );
        let mut number = |name: &str, value: String| args.extend([name.into(), value.into()]);
        number("--payload", load.payload.to_string());
        number("--connections", load.connections.to_string());
        number("--inflight", load.inflight.to_string());
        number("--duration", format!("{}ms", load.duration.as_millis().max(1)));
        if let Some(rate) = load.rate {
            number("--rate", rate.to_string());
        }
        args
    }
}

/// Runs a command that is, or runs, a client, and reads its report.
pub fn measure(command: &mut Command) -> Result<Measured, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("the client cannot be started: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if !output.status.success() {
        return Err(if said.is_empty() { format!("the client ended with {}", output.status) } else { said });
    }
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("the client's report cannot be read: {error}"))?;
    let field = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        value.ok_or_else(|| format!("the client's report has no {pointer}"))
    };
    let errors = field("/errors")?;
    if errors != 0.0 {
        return Err(format!("{errors} of {} calls failed: {said}", field("/sent")?));
    }
    if !said.is_empty() {
        return Err(format!("the client complains: {said}"));
    }
    if field("/ok")? == 0.0 {
        return Err("not one call was answered".to_owned());
    }
    Ok(Measured {
        p50_ns: field("/latency_ns/p50")?,
        p99_ns: field("/latency_ns/p99")?,
        rps: field("/rps")?,
        answered: field("/answered")?,
    })
}

/// `cargo build --release -p shmesh`, and the executable that it names.
fn build() -> Result<PathBuf, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["build", "--release", "-p", "shmesh", "--bin", "shmesh", "--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}; set SHMESH to a shmesh binary"))?;
    if !output.status.success() {
        return Err("shmesh cannot be built; set SHMESH to a shmesh binary".to_owned());
    }
    let messages = str::from_utf8(&output.stdout).map_err(|error| format!("cargo's messages: {error}"))?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message.pointer("/executable").and_then(Value::as_str).map(PathBuf::from))
        .next_back();
    executable.ok_or_else(|| "cargo built shmesh and named no executable".to_owned())
}
