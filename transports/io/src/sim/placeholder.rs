//! Descriptors that stand for sockets of a world: memfds which say which one.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::{pread, pwrite};

const NAME: &CStr = c"shmesh-sim-socket";

/// What it begins with.
const MARK: [u8; 8] = *b"SIMSOCK\n";

/// A placeholder for the socket with this number.
pub(super) fn make(number: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?;
    let mut text = [0; 16];
    text[..8].copy_from_slice(&MARK);
    text[8..].copy_from_slice(&number.to_le_bytes());
    if pwrite(&fd, &text, 0)? != text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(fd)
}

/// The number of the socket that the placeholder stands for.
///
/// # Errors
/// ENOTSOCK if it is none.
pub(super) fn number(fd: impl AsFd) -> io::Result<u64> {
    let mut text = [0; 16];
    let refused = || io::Error::from_raw_os_error(libc::ENOTSOCK);
    let len = pread(&fd, &mut text, 0).map_err(|_| refused())?;
    let (mark, number) = text.split_at(8);
    if len != text.len() || mark != MARK {
        return Err(refused());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(number);
    Ok(u64::from_le_bytes(bytes))
}
