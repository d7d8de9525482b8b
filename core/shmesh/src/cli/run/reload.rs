//! Takes a new configuration while the sidecar runs. A bad one is refused and the last good one stays.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shmesh_engine::Engine;
use shmesh_policy::Snapshot;
use tracing::{error, info};

/// What became of a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Taken,
    Refused,
}

pub struct Reloader {
    file: Option<PathBuf>,
    engine: Arc<Engine>,
    /// What is in force.
    current: Arc<Snapshot>,
    /// As it was written, for a process that goes on with it.
    text: ConfigText,
}

/// The configuration in force, as it was written; `None`: the one without a file.
pub type ConfigText = Arc<Mutex<Option<String>>>;

impl Reloader {
    pub fn new(file: Option<PathBuf>, engine: Arc<Engine>, current: Arc<Snapshot>, text: ConfigText) -> Self {
        Self { file, engine, current, text }
    }

    /// Reads the file again and publishes what it says; logs what came of it.
    pub fn reload(&mut self, why: &str) -> Outcome {
        match self.try_reload() {
            Ok(()) => {
                info!(version = self.current.version, why, "configuration taken");
                Outcome::Taken
            }
            Err(lines) => {
                for line in lines.lines() {
                    error!("{line}");
                }
                error!(
                    version = self.current.version,
                    why, "new configuration refused, the last good one stays in force"
                );
                Outcome::Refused
            }
        }
    }

    /// The file does not say what is in force.
    pub fn is_outdated(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let in_force = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        shmesh_config::read_text(file).ok() != *in_force
    }

    /// Of the configuration in force.
    pub fn drain_timeout(&self) -> Duration {
        self.current.timeouts.drain
    }

    fn try_reload(&mut self) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Err("there is no file to read: this sidecar was started without --config".into());
        };
        let text = shmesh_config::read_text(file).map_err(|error| error.to_string())?;
        let mut new = shmesh_config::parse(&text, &file.display().to_string()).map_err(|error| error.to_string())?;
        if let Some(setting) = fixed_setting(&self.current, &new) {
            return Err(format!(
                "{}: {setting} cannot change while shmesh runs: restart it, or write the old value",
                file.display()
            ));
        }
        new.version = self.current.version + 1;
        let new = Arc::new(new);
        // Whoever reads the text waits for the snapshot that belongs to it.
        let mut in_force = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.publish(new.clone()).map_err(|error| format!("{}: {error}", file.display()))?;
        *in_force = Some(text);
        drop(in_force);
        self.current = new;
        Ok(())
    }
}

/// A setting that differs and is read at start only.
fn fixed_setting(current: &Snapshot, new: &Snapshot) -> Option<&'static str> {
    if current.admin != new.admin {
        Some("`admin`")
    } else if current.workers != new.workers {
        Some("`workers`")
    } else if current.upgrade_socket() != new.upgrade_socket() {
        Some("`upgrade_socket`")
    } else if current.access_log != new.access_log {
        Some("`access_log`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_at_start_is_named() {
        let current = Snapshot::default();
        assert_eq!(fixed_setting(&current, &Snapshot::default()), None);
        let mut new = Snapshot { workers: Some(2), ..Snapshot::default() };
        assert_eq!(fixed_setting(&current, &new), Some("`workers`"));
        new.admin.address.set_port(1);
        assert_eq!(fixed_setting(&current, &new), Some("`admin`"));
        let mut new = Snapshot::default();
        new.timeouts.drain = Duration::from_secs(1);
        assert_eq!(fixed_setting(&current, &new), None);
    }
}
