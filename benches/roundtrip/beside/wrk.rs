//! wrk with one thread, as the client of what speaks HTTP over TCP.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::shmesh::Measured;

pub const HOW_TO_GET: &str = "needs wrk and nginx (apt install wrk nginx-light)";

pub fn is_here() -> bool {
    Command::new("wrk").arg("-v").stdin(Stdio::null()).output().is_ok()
}

/// GETs over so many connections, for whole seconds: it takes no others.
pub fn call(address: SocketAddr, connections: usize, duration: Duration) -> Result<Measured, String> {
    let duration = format!("-d{}s", duration.as_secs_f64().ceil());
    let url = format!("http://{address}/");
    let connections = format!("-c{connections}");
    let args = ["-t1", &connections, "--latency", &duration, &url];
    let output = Command::new("wrk").args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{HOW_TO_GET}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return Err(format!("wrk saw errors: {text}"));
    }
    let rps = after(&text, "Requests/sec:").and_then(|number| number.parse().ok());
    let (p50, p99) = (after(&text, "50%").and_then(time_ns), after(&text, "99%").and_then(time_ns));
    // `  123456 requests in 1.00s, 12.34MB read`
    let counted = text.lines().find(|line| line.contains(" requests in "));
    let answered = counted.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    match (rps, p50, p99, answered) {
        (Some(rps), Some(p50_ns), Some(p99_ns), Some(answered)) => Ok(Measured { p50_ns, p99_ns, rps, answered }),
        _ => Err(format!("wrk's report cannot be read: {text}")),
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
