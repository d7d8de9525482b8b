//! What the sidecar said, in a file: for an app that starts while its sidecar is not there.
//!
//! It is a cache: whoever cannot read it does without. So it is not synced to the disk, and a checksum finds what a crash of the
//! machine made of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::libc::O_NOFOLLOW;
use shmesh_shm::Protocol;
use shmesh_shm::handshake::Policy;

use crate::clock;
use crate::directory::{Directory, Subject};

/// What the file begins with: its kind and version.
const MAGIC: &[u8; 8] = b"shmpol1\n";
/// Longest file. What does not fit is left out.
const FILE_BYTES_MAX: usize = 1 << 20;
/// The file is written no more often than this.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Tells the files apart that threads of this process write at the same time.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// The file, and whether it is up to date.
#[derive(Debug)]
pub(crate) struct PolicyFile {
    path: PathBuf,
    is_old: AtomicBool,
    /// When it was written last; whoever holds it writes.
    written_at: Mutex<Option<u64>>,
}

impl PolicyFile {
    pub fn new(path: PathBuf) -> PolicyFile {
        PolicyFile { path, is_old: AtomicBool::new(false), written_at: Mutex::default() }
    }

    /// Tells the directory what the file says. A file that is broken, or that others could have written, says nothing.
    pub fn load(&self, directory: &Directory) {
        let Ok(bytes) = read(&self.path) else { return };
        for (subject, policy) in decode(&bytes).unwrap_or_default() {
            directory.remember(subject, policy);
        }
    }

    /// Something was learned.
    pub fn outdate(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// Writes the file if it is old, at most once a second unless it is the `last` time.
    pub fn save_if_due(&self, directory: &Directory, now: u64, last: bool) {
        if !self.is_old.load(Ordering::Relaxed) {
            return;
        }
        // Another thread that writes at this moment does it for both.
        let mut written_at = match self.written_at.try_lock() {
            Ok(written_at) => written_at,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        let young = written_at.is_some_and(|at| now.saturating_sub(at) < clock::nanos(WRITE_EVERY));
        if young && !last {
            return;
        }
        *written_at = Some(now);
        self.is_old.store(false, Ordering::Relaxed);
        // A disk that is full may have room later, when there is something new to be written.
        let _ = write(&self.path, &encode(directory));
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)?;
    let about = file.metadata()?;
    let ours = about.uid() == nix::unistd::geteuid().as_raw() && about.mode() & 0o022 == 0;
    if !about.is_file() || !ours || about.len() > FILE_BYTES_MAX as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whoever looks sees the old file or the new one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.{}", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let beside = PathBuf::from(beside);
    let outcome =
        create(&beside).and_then(|mut file| file.write_all(bytes)).and_then(|()| std::fs::rename(&beside, path));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    outcome
}

fn create(path: &Path) -> io::Result<File> {
    // One that is there already was left by a process that had the same number.
    let _ = std::fs::remove_file(path);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The magic; for each subject its protocol (u8), and the rest of it and its policy, each behind a length (u32); a checksum (u64).
fn encode(directory: &Directory) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (subject, answer) in directory.answers() {
        let mut policy = Vec::new();
        if answer.policy.encode(&mut policy).is_err() {
            continue;
        }
        let fields = [&subject.of, &subject.detail, &policy];
        let len: usize = 1 + fields.iter().map(|field| 4 + field.len()).sum::<usize>();
        if out.len() + len + 8 > FILE_BYTES_MAX {
            continue;
        }
        out.push(subject.protocol as u8);
        for field in fields {
            out.extend_from_slice(&(field.len() as u32).to_le_bytes());
            out.extend_from_slice(field);
        }
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<(Subject, Policy)>> {
    let (body, sum) = bytes.split_last_chunk()?;
    if u64::from_le_bytes(*sum) != checksum(body) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut known = Vec::new();
    while let Some((protocol, fields)) = rest.split_first() {
        rest = fields;
        let mut field = || -> Option<&[u8]> {
            let (len, behind) = rest.split_first_chunk()?;
            let (field, behind) = behind.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = behind;
            Some(field)
        };
        let (of, detail, policy) = (field()?, field()?, field()?);
        let protocol = Protocol::from_u16(u16::from(*protocol))?;
        let subject = Subject { protocol, of: of.to_vec(), detail: detail.to_vec() };
        known.push((subject, Policy::decode(policy).ok()?));
    }
    Some(known)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn subject(of: &str) -> Subject {
        Subject { protocol: Protocol::Http, of: of.into(), detail: b"GET /".to_vec() }
    }

    fn policy() -> Policy {
        Policy { endpoints: vec!["tcp:127.0.0.1:80".into()], attempts: Some(2), ..Policy::default() }
    }

    fn known(path: &Path) -> usize {
        let directory = Directory::default();
        PolicyFile::new(path.to_owned()).load(&directory);
        directory.answers().len()
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.policy");
        let directory = Directory::default();
        directory.remember(subject("a"), policy());
        directory.remember(subject("b"), Policy::default());
        let file = PolicyFile::new(path.clone());
        file.save_if_due(&directory, 5, false);
        assert!(!path.exists(), "nothing was learned");
        file.outdate();
        file.save_if_due(&directory, 5, false);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        let again = Directory::default();
        again.remember(subject("b"), policy());
        PolicyFile::new(path.clone()).load(&again);
        assert_eq!(again.answer(&subject("a")).unwrap().policy, policy());
        assert_eq!(again.answer(&subject("b")).unwrap().policy, policy(), "what is known already counts more");

        // At most once a second, and then everything.
        directory.remember(subject("c"), policy());
        file.outdate();
        file.save_if_due(&directory, 6, false);
        assert_eq!(known(&path), 2);
        file.save_if_due(&directory, 5 + clock::nanos(WRITE_EVERY), false);
        assert_eq!(known(&path), 3);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_broken_or_open_to_others_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.policy");
        let directory = Directory::default();
        directory.remember(subject("a"), policy());
        let good = encode(&directory);
        write(&path, &good).unwrap();
        assert_eq!(known(&path), 1);
        for at in 0..good.len() {
            let mut broken = good.clone();
            broken[at] ^= 1;
            assert!(decode(&broken).is_none(), "byte {at}");
            assert!(decode(&good[..at]).is_none(), "cut at {at}");
        }
        // Whole, but of another version or with fields that are none.
        let sealed = |body: &[u8]| [body, &checksum(body).to_le_bytes()].concat();
        for body in [
            &b"shmpol2\n"[..],
            b"shmpol1\n\x01",
            b"shmpol1\n\x09\0\0\0\0\0\0\0\0\0\0\0\0",
            b"shmpol1\n\x01\xff\xff\xff\xff",
        ] {
            assert!(decode(&sealed(body)).is_none(), "{body:?}");
        }
        assert_eq!(decode(&sealed(MAGIC)).map(|known| known.len()), Some(0));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(known(&path), 0, "others may write it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!((known(&path), known(&link)), (1, 0));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let directory = Directory::default();
        for number in 0..100 {
            let endpoints = (0..1000).map(|port| format!("tcp:10.0.0.{number}:{}", 10_000 + port)).collect();
            directory.remember(subject(&number.to_string()), Policy { endpoints, ..Policy::default() });
        }
        let bytes = encode(&directory);
        assert!(bytes.len() <= FILE_BYTES_MAX);
        assert!(decode(&bytes).unwrap().len() > 30);
    }
}
