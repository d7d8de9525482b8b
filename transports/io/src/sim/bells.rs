//! The doorbells that a simulated driver watches: real descriptors, looked at without waiting.
//!
//! A real driver hears the edge and never reads. Here, reading is what makes the next edge visible: it sets an
//! eventfd's counter to 0. A descriptor that is not one (an app may pass what it likes) is read from in the same
//! way; one that has ended, or that cannot be read, is rung once and not listened to any more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::driver::SockId;

#[derive(Default)]
pub(super) struct Bells {
    watched: Vec<Watched>,
}

struct Watched {
    id: SockId,
    fd: OwnedFd,
    /// It will never be quiet again.
    deaf: bool,
}

impl Bells {
    pub fn watch(&mut self, id: SockId, fd: OwnedFd) {
        self.watched.push(Watched { id, fd, deaf: false });
    }

    pub fn forget(&mut self, id: SockId) {
        self.watched.retain(|watched| watched.id != id);
    }

    pub fn ids(&self) -> impl ExactSizeIterator<Item = SockId> {
        self.watched.iter().map(|watched| watched.id)
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.watched.iter().filter(|watched| !watched.deaf).map(|watched| watched.fd.as_fd())
    }

    /// Appends those that were rung since the last look, in the order in which they were watched.
    pub fn look(&mut self, rung: &mut Vec<SockId>) {
        if self.watched.is_empty() {
            return;
        }
        let readable: Vec<bool> = {
            let mut fds: Vec<PollFd<'_>> =
                self.watched.iter().map(|watched| PollFd::new(watched.fd.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::ZERO) {
                // A signal: there will be another look.
                Ok(0) | Err(_) => return,
                Ok(_) => fds.iter().map(|fd| fd.any().unwrap_or(true)).collect(),
            }
        };
        for (watched, _) in
            self.watched.iter_mut().zip(readable).filter(|(watched, readable)| *readable && !watched.deaf)
        {
            // It is readable and nobody else reads: this does not wait, whatever its flags.
            let mut counter = [0; 8];
            match nix::unistd::read(&watched.fd, &mut counter) {
                Ok(0) => watched.deaf = true,
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => watched.deaf = true,
            }
            rung.push(watched.id);
        }
    }
}
