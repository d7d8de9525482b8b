//! The access log: JSON lines, written by a thread of its own so that no worker waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shmesh_policy::Snapshot;

use crate::counters::names;

/// Lines that may wait for the disk; more are dropped and counted.
pub const LINES_MAX: usize = 8192;

/// Bytes of lines that are collected before they are written; a line more than that at most.
const WRITE_BYTES: usize = 32 * 1024;

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
        let file = append(path)?;
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

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_lines(lines: &Receiver<Line>, mut file: File) {
    let mut text = String::new();
    while let Ok(line) = lines.recv() {
        line.append_to(&mut text);
        while text.len() < WRITE_BYTES
            && let Ok(line) = lines.try_recv()
        {
            line.append_to(&mut text);
        }
        // Whole lines at once: while a sidecar is replaced the next one appends to the same file, and what one call appends stays together.
        if let Err(error) = file.write_all(text.as_bytes()) {
            tracing::error!(%error, "the access log cannot be written; it is off until the next start");
            return;
        }
        text.clear();
    }
}

impl Line {
    fn append_to(&self, text: &mut String) {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let request_id = self
            .request_id
            .as_deref()
            .map_or_else(String::new, |id| format!(r#","request_id":{}"#, quoted(&String::from_utf8_lossy(id))));
        // Texts come from the configuration and from clients, and are escaped; the rest are numbers.
        let line = format!(
            r#"{{"unix_ms":{at},"listener":{},"cluster":{},"code":{},"duration_us":{}{request_id}}}"#,
            quoted(&self.listener),
            quoted(&self.cluster),
            self.code,
            self.took.as_micros()
        );
        text.push_str(&line);
        text.push('\n');
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
    use super::*;

    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\u000ad""#);
    }

    /// As while a sidecar is replaced: both processes have the file open. Their lines wait already, so that both write as much as they can.
    #[test]
    fn two_that_append_to_one_file_do_not_tear_lines() {
        const ROUNDS: usize = 10;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let begin = std::sync::Barrier::new(2);
        let writer = |letter: u8| {
            for _ in 0..ROUNDS {
                let (sender, lines) = sync_channel(LINES_MAX);
                for number in 0..LINES_MAX {
                    // Of every length, so that lines end anywhere.
                    let id = vec![letter; 1 + number % 97];
                    let took = Duration::from_micros(number as u64);
                    let (listener, cluster) = ("in".into(), "service".into());
                    let line = Line { at: UNIX_EPOCH, listener, cluster, code: 200, took, request_id: Some(id.into()) };
                    sender.send(line).expect("room");
                }
                drop(sender);
                let file = append(&path).expect("a file");
                begin.wait();
                write_lines(&lines, file);
            }
        };
        thread::scope(|scope| {
            for letter in [b'a', b'b'] {
                let writer = &writer;
                scope.spawn(move || writer(letter));
            }
        });
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.lines().count(), 2 * ROUNDS * LINES_MAX);
        for line in text.lines() {
            let fields = line.strip_prefix(r#"{"unix_ms":0,"#).and_then(|rest| rest.strip_suffix(r#""}"#));
            let id = fields.and_then(|fields| fields.rsplit_once(r#","request_id":""#)).map(|(_, id)| id.as_bytes());
            let is_whole = id.is_some_and(|id| id.iter().all(|byte| *byte == id[0])) && line.matches('{').count() == 1;
            assert!(is_whole, "{line:?}");
        }
    }
}
