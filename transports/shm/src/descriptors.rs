//! Descriptors over the session socket (SCM_RIGHTS). A named unsafe module: what arrives is a number, and taking
//! ownership of it is a promise that nobody else has it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most descriptors of one message (the kernel's SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// Sends bytes and, with the first of them, descriptors. Says how many bytes went; never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    #[cfg(shmesh_sim)]
    if !crate::host::is_alive() {
        return Ok(bytes.len());
    }
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    retried(|| {
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)
    })
}

/// Receives bytes, and appends descriptors that came with them. 0 bytes = the peer is gone.
#[allow(unsafe_code)]
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], into: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MAX_DESCRIPTORS]);
    let mut got = Vec::new();
    let len = retried(|| {
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                got.extend(raw);
            }
        }
        Ok(message.bytes)
    })?;
    // SAFETY: each number was just installed into this process by recvmsg, for this call alone.
    into.extend(got.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
    Ok(len)
}

fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
