//! The configuration file: one YAML text becomes one [`Snapshot`], or a list of faults with their places.
//!
//! A request to read goes through these modules in this order:
//!
//! 1. `syntax`: YAML to the keys of `file`; every scalar keeps its text and its place (`located`, `scalar`)
//! 2. `check`: names, addresses, references, expressions (`expression`) and bounds; all faults at once
//! 3. [`to_json`]: the other way, for the effective configuration of a running sidecar
//!
//! [`Watcher`] says when the file's content changed. docs/CONFIG.md lists every key; docs/config.schema.json is
//! [`schema`].

#![forbid(unsafe_code)]

mod check;
mod error;
mod expression;
mod file;
mod json;
mod located;
mod nearest;
mod scalar;
mod schema;
mod standard;
mod syntax;
mod watch;

use std::path::Path;

use shmesh_policy::Snapshot;

pub use error::{ConfigError, Fault};
pub use json::to_json;
pub use schema::schema;
pub use standard::{default_config, default_yaml};
pub use watch::{WatchError, Watcher};

/// Largest file that is read. 4 MiB: ten thousand routes have one; a wrong path (a log, a device) has more.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads and checks a file. The snapshot's version is 0 until somebody publishes it.
pub fn load(path: &Path) -> Result<Snapshot, ConfigError> {
    parse(&read_text(path)?, &path.display().to_string())
}

/// Reads a file that [`parse`] is to check.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    let bytes = read(path).map_err(|reason| ConfigError::Unreadable { file: file.clone(), reason })?;
    String::from_utf8(bytes).map_err(|error| {
        let fault = syntax::not_utf8(error.as_bytes(), error.utf8_error().valid_up_to());
        ConfigError::Invalid { file, faults: vec![fault] }
    })
}

/// Checks a text; `file_name` is what messages call it.
pub fn parse(text: &str, file_name: &str) -> Result<Snapshot, ConfigError> {
    syntax::read(text)
        .map_err(|fault| vec![fault])
        .and_then(check::check)
        .map_err(|faults| ConfigError::Invalid { file: file_name.into(), faults })
}

/// The bytes of a regular file (or of a pipe, as `/dev/stdin` is) of bounded size.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;

    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such file; write the path of one behind --config, or leave that out to run with the default"
                .to_owned()
        }
        _ => format!("it cannot be read: {error}"),
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is larger than 4 MiB; write the path of a configuration file".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
