//! Sockets that are watched by one epoll until they are readable: to receive from a thousand that rest is one operation of the ring then, which costs
//! nothing to give up, and is made before it is needed. For those that another process is about to have, or had.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::driver::SockId;

/// Sockets of which one system call tells.
const TOLD_AT_ONCE: usize = 64;

/// Told once: then the ring receives.
const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLONESHOT);

pub(super) struct Parking {
    epoll: Epoll,
    /// The ring tells when it has something to say.
    pub(super) watched: bool,
}

impl Parking {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, watched: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Watches this one. False: the system has no room for that.
    pub(super) fn park(&self, id: SockId, socket: BorrowedFd<'_>) -> bool {
        let data = u64::from(id.index()) << 32 | u64::from(id.generation());
        self.epoll.add(socket, EpollEvent::new(READABLE, data)).is_ok()
    }

    /// Not any more. Nobody else does that: where another process has the socket, too, it stays when it is closed here.
    pub(super) fn leave(&self, socket: BorrowedFd<'_>) {
        let _ = self.epoll.delete(socket);
    }

    /// Those that are readable, or have ended.
    pub(super) fn told(&self, mut each: impl FnMut(SockId)) {
        let mut events = [EpollEvent::empty(); TOLD_AT_ONCE];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            let ids = events[..count].iter().map(EpollEvent::data);
            ids.for_each(|data| each(SockId::new((data >> 32) as u32, data as u32)));
            if count < TOLD_AT_ONCE {
                return;
            }
        }
    }
}
