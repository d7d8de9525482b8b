//! A binary that can be started again after another one was put in its place.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An open file. It stays what it is while a new one is renamed over its path; who overwrites it in place changes this one, too.
pub struct Kept {
    path: PathBuf,
    file: File,
    /// Its interpreter has to open it as well.
    is_script: bool,
    len: u64,
    modified: Option<SystemTime>,
}

/// What to execute.
pub struct Program {
    pub path: PathBuf,
    /// Open in the child, too; nothing is executed without it.
    _inherited: Option<OwnedFd>,
}

impl Kept {
    /// Keeps what lies at the path now.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening something else may wait for ever.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut first = Vec::new();
        Read::by_ref(&mut file).take(2).read_to_end(&mut first)?;
        Ok(Self {
            path: path.to_owned(),
            is_script: first == b"#!",
            len: metadata.len(),
            modified: metadata.modified().ok(),
            file,
        })
    }

    /// By its path if it still lies there, so that it goes by its name in lists of processes; otherwise by its descriptor.
    pub fn program(&self) -> io::Result<Program> {
        let own = self.file.metadata()?;
        if fs::metadata(&self.path).is_ok_and(|there| is_same(&own, &there)) {
            return Ok(Program { path: self.path.clone(), _inherited: None });
        }
        let inherited = if self.is_script { Some(nix::unistd::dup(&self.file)?) } else { None };
        let descriptor = inherited.as_ref().map_or(self.file.as_raw_fd(), AsRawFd::as_raw_fd);
        Ok(Program { path: format!("/proc/self/fd/{descriptor}").into(), _inherited: inherited })
    }

    /// It is not any longer what it was when it was opened.
    pub fn is_overwritten(&self) -> bool {
        let now = self.file.metadata();
        now.is_ok_and(|now| now.len() != self.len || now.modified().ok() != self.modified)
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
