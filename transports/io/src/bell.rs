//! A peer's doorbell: our end of a socketpair whose other end the peer waits on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Something to ring with [`Driver::ring`](crate::Driver::ring). Cheap to clone.
///
/// It is counted, because a driver that queues the ring in a batch has to keep the descriptor open until the batch
/// has left: a closed descriptor's number may by then belong to somebody's connection.
#[derive(Clone, Debug)]
pub struct Bell(Rc<OwnedFd>);

impl Bell {
    /// `socket`: one end of a `socketpair(AF_UNIX, SOCK_STREAM or SOCK_DGRAM)`.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Rc::new(socket))
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
