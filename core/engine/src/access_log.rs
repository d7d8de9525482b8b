//! The access log: JSON lines, written by a thread of its own so that no worker waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shmesh_policy::Snapshot;

use crate::counters::names;

/// Lines that may wait for the disk; more are dropped and counted.
pub const LINES_MAX: usize = 8192;

/// The way to the writer.
#[derive(Clone)]
pub struct AccessLog(SyncSender<Line>);

struct Line {
    at: SystemTime,
    listener: Arc<str>,
    cluster: Arc<str>,
    code: u16,
    took: Duration,
    request_id: Option<Box<[u8]>>,
}

impl AccessLog {
    /// Opens the file to append to it, and starts the writer.
    pub fn open(path: &Path) -> std::io::Result<AccessLog> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let (sender, lines) = sync_channel(LINES_MAX);
        thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&lines, file))?;
        Ok(AccessLog(sender))
    }

    /// Logs a call; false if the writer is behind and the line was dropped.
    pub fn write(
        &self,
        snapshot: &Snapshot,
        listener: u16,
        cluster: u32,
        code: u16,
        took: Duration,
        request_id: Option<Box<[u8]>>,
    ) -> bool {
        let (listener, cluster) = names(snapshot, listener, cluster);
        let line = Line { at: SystemTime::now(), listener, cluster, code, took, request_id };
        !matches!(self.0.try_send(line), Err(TrySendError::Full(_)))
    }
}

fn write_lines(lines: &Receiver<Line>, file: File) {
    let mut file = BufWriter::new(file);
    while let Ok(mut line) = lines.recv() {
        loop {
            let at = line.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let request_id = line
                .request_id
                .as_deref()
                .map_or_else(String::new, |id| format!(r#","request_id":{}"#, quoted(&String::from_utf8_lossy(id))));
            // Texts come from the configuration and from clients, and are escaped; the rest are numbers.
            let outcome = writeln!(
                file,
                r#"{{"unix_ms":{at},"listener":{},"cluster":{},"code":{},"duration_us":{}{request_id}}}"#,
                quoted(&line.listener),
                quoted(&line.cluster),
                line.code,
                line.took.as_micros()
            );
            if let Err(error) = outcome {
                tracing::error!(%error, "the access log cannot be written; it is off until the next start");
                return;
            }
            match lines.try_recv() {
                Ok(next) => line = next,
                Err(_) => break,
            }
        }
        if let Err(error) = file.flush() {
            tracing::error!(%error, "the access log cannot be written; it is off until the next start");
            return;
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(super::quoted("a\"b\\c\nd"), r#""a\"b\\c\u000ad""#);
    }
}
