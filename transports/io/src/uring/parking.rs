//! Sockets that are watched by one epoll, of which the ring is one operation.
//!
//! Until they are readable: to receive from a thousand that rest costs nothing to give up then, and is made before it is needed. For those
//! that another process is about to have, or had.
//!
//! Until they end, while the ring receives: an operation that takes many pieces looks for another one only if the kernel said that there is
//! more, or if it was woken again meanwhile. So it can miss the end of a Unix socket (Linux 6.17 and later) and a reset over TCP that fall together with
//! bytes, and nothing follows that would wake it (liburing issue 1549, of which 6.18 still has a part). What takes one piece at a time finds both: so is asked from then on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::driver::SockId;

/// Sockets of which one system call tells.
const TOLD_AT_ONCE: usize = 64;

/// What a socket is watched for. It is told once.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Watch {
    Nothing,
    /// Bytes, or the end: then the ring receives.
    Readable,
    /// The peer sends no more.
    End,
    /// The connection is reset, or both directions have ended.
    Reset,
    /// One of these was told.
    Ended,
    /// The system has no room for that (`fs.epoll.max_user_watches`).
    Refused,
}

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

    /// Watches this one for something else than before.
    pub(super) fn turn(&self, watch: &mut Watch, to: Watch, id: SockId, socket: BorrowedFd<'_>) {
        let data = u64::from(id.index()) << 32 | u64::from(id.generation());
        let done = match (watch.flags(), to.flags()) {
            (None, None) => Ok(()),
            (None, Some(flags)) => self.epoll.add(socket, EpollEvent::new(flags, data)),
            (Some(_), Some(flags)) => self.epoll.modify(socket, &mut EpollEvent::new(flags, data)),
            // Closing does not do that: where another process has the socket, too, it stays.
            (Some(_), None) => self.epoll.delete(socket),
        };
        *watch = if done.is_ok() { to } else { Watch::Refused };
    }

    /// Those that have something to tell.
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

impl Watch {
    fn flags(self) -> Option<EpollFlags> {
        // A reset is told without being asked for.
        let asked = match self {
            Self::Nothing | Self::Ended | Self::Refused => return None,
            Self::Readable => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
            Self::End => EpollFlags::EPOLLRDHUP,
            Self::Reset => EpollFlags::empty(),
        };
        Some(asked | EpollFlags::EPOLLONESHOT)
    }
}
