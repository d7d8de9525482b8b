//! The switch between through and round the sidecar, kept in a file so that it survives a restart.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shmesh_engine::{DIRECT_ALL, Direct};
use shmesh_policy::{Bind, Snapshot};
use tracing::warn;

/// Longest file that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Beside the first session socket; nowhere if there is none, as then nobody is told.
pub struct DirectFile {
    path: Option<PathBuf>,
}

impl DirectFile {
    pub fn of(snapshot: &Snapshot) -> DirectFile {
        let socket = snapshot.listeners.iter().find_map(|listener| match &listener.bind {
            Bind::Shm(path) => Some(path),
            Bind::Tcp(_) | Bind::Unix(_) => None,
        });
        let beside = |socket: &Path| {
            let mut path = socket.as_os_str().to_owned();
            path.push(".direct");
            PathBuf::from(path)
        };
        DirectFile { path: socket.map(|socket| beside(socket)) }
    }

    /// What it says; off if it is not there, or cannot be read.
    pub fn load(&self) -> Direct {
        let Some(path) = &self.path else { return Direct::default() };
        match read(path) {
            Ok(direct) => direct,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Direct::default(),
            Err(error) => {
                warn!(%error, file = %path.display(), "the file of the direct mode cannot be read; it is off");
                Direct::default()
            }
        }
    }

    /// Replaces it, all at once.
    pub fn save(&self, direct: &Direct) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        // One that a crash has left may have another mode.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(format!("{}\n", to_json(direct)).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    }
}

/// As the admin interface and the file show it.
pub fn to_json(direct: &Direct) -> Value {
    json!({ "share": direct.share, "apps": direct.apps })
}

fn read(path: &Path) -> io::Result<Direct> {
    let bytes = fs::metadata(path)?.len();
    if bytes > BYTES_MAX {
        return Err(io::Error::other(format!("{bytes} bytes are too many")));
    }
    let value: Value = serde_json::from_slice(&fs::read(path)?)?;
    let share = |value: &Value| value.as_u64().filter(|share| *share <= DIRECT_ALL.into()).map(|share| share as u16);
    let parsed = || {
        let mut direct = Direct { share: share(value.get("share")?)?, ..Direct::default() };
        let apps = value.get("apps")?.as_object()?;
        apps.iter().all(|(app, of)| share(of).is_some_and(|of| direct.set(Some(app), of))).then_some(direct)
    };
    parsed().ok_or_else(|| io::Error::other("it is not what shmesh writes"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_cannot_be_read_is_off() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("s.direct");
        let file = DirectFile { path: Some(path.clone()) };
        assert_eq!(file.load(), Direct::default());
        let mut direct = Direct::default();
        assert!(direct.set(None, 250) && direct.set(Some("a \"b\"\n"), 1000));
        file.save(&direct).expect("it is written");
        assert_eq!(file.load(), direct);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
        for wrong in ["", "{", "{}", "[1]", r#"{"share":1001,"apps":{}}"#, r#"{"share":1,"apps":{"a":-1}}"#] {
            fs::write(&path, wrong).expect("it is written");
            assert_eq!(file.load(), Direct::default(), "{wrong}");
        }
    }
}
