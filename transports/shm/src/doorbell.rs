//! Doorbells: docs/spec/shm-v1.md §7. An eventfd towards each worker, a socket towards each lane of the app.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// A worker's bell: an eventfd that the sidecar polls edge-triggered and never reads.
pub fn worker_bell() -> io::Result<OwnedFd> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    Ok(OwnedFd::from(bell))
}

/// A lane's bell: the sidecar's end and the app's end.
pub fn lane_bell() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?)
}

/// App: rings a worker. Mark the lane in [`Dirty`](crate::Dirty) first. A full counter counts as rung.
pub fn ring_worker(bell: impl AsFd) -> io::Result<()> {
    #[cfg(shmesh_sim)]
    if !enters_kernel() {
        return Ok(());
    }
    ignore_full(nix::unistd::write(bell, &1u64.to_ne_bytes()))
}

/// Sidecar: rings a lane. Never blocks, whatever flags the app set on its end; a full buffer counts as rung.
pub fn ring_lane(bell: impl AsFd) -> io::Result<()> {
    #[cfg(shmesh_sim)]
    if !enters_kernel() {
        return Ok(());
    }
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    ignore_full(send(bell.as_fd().as_raw_fd(), &[1], flags))
}

/// App: takes what was rung off a lane's bell, so that it becomes readable anew. False = the sidecar closed its end.
pub fn drain_lane(bell: impl AsFd) -> io::Result<bool> {
    let mut bytes = [0; 256];
    loop {
        match recv(bell.as_fd().as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Ok(false),
            Ok(len) if len < bytes.len() => return Ok(true),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What was stored before is seen by then. False: the process is dead.
#[cfg(shmesh_sim)]
fn enters_kernel() -> bool {
    crate::delayed::flush_stores();
    crate::host::is_alive()
}

fn ignore_full(outcome: nix::Result<usize>) -> io::Result<()> {
    match outcome {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_bell_rings_until_drained_and_never_blocks() {
        let (sidecar, app) = lane_bell().unwrap();
        for _ in 0..100_000 {
            ring_lane(&sidecar).unwrap();
        }
        while recv(app.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok() {
            assert!(drain_lane(&app).unwrap());
        }
        drop(sidecar);
        assert!(!drain_lane(&app).unwrap());
    }

    #[test]
    fn a_lane_bell_never_blocks_even_when_the_flag_is_cleared() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (sidecar, _app) = lane_bell().unwrap();
        fcntl(&sidecar, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        for _ in 0..100_000 {
            ring_lane(&sidecar).unwrap();
        }
    }

    #[test]
    fn a_full_worker_bell_counts_as_rung() {
        let bell = worker_bell().unwrap();
        nix::unistd::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        ring_worker(&bell).unwrap();
    }
}
