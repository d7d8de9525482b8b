//! The system calls that have no safe wrapper, each behind a safe function.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{SockaddrLike, SockaddrStorage, UnixAddr};
use shmesh_shm::OpenBlock;

use crate::chunk::Chunks;
use crate::driver::Nanos;

/// Pieces handed to the kernel in one call; a send of more takes several. (IOV_MAX is 1024; past some tens the call's
/// own cost no longer matters.)
pub(crate) const PIECES_PER_SEND: usize = 64;

/// Takes the next connection of a listening socket.
pub(crate) fn accept(listener: BorrowedFd<'_>, nonblocking: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::SOCK_CLOEXEC;
    if nonblocking {
        flags |= libc::SOCK_NONBLOCK;
    }
    // SAFETY: no address is asked for, so both pointers may be null.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ends a TCP connection with a reset, while the socket stays open.
pub(crate) fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all zeroes is an address of the family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { mem::zeroed() };
    // SAFETY: the address lives longer than the call, and its size is that of its type.
    let done = unsafe { libc::connect(socket.as_raw_fd(), &nowhere, mem::size_of_val(&nowhere) as libc::socklen_t) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends the first pieces of `chunks` without waiting; returns how many bytes left.
pub(crate) fn send(socket: BorrowedFd<'_>, chunks: &Chunks) -> io::Result<usize> {
    // Most sends are a head and a body: no need to lay out room for dozens of pieces.
    if chunks.iter().len() <= PIECES_OF_MOST_SENDS {
        send_pieces::<PIECES_OF_MOST_SENDS>(socket, chunks)
    } else {
        send_pieces::<PIECES_PER_SEND>(socket, chunks)
    }
}

const PIECES_OF_MOST_SENDS: usize = 4;

fn send_pieces<const N: usize>(socket: BorrowedFd<'_>, chunks: &Chunks) -> io::Result<usize> {
    let mut pieces = [EMPTY_PIECE; N];
    let count = list_pieces(chunks, &mut pieces);
    // SAFETY: all zeroes is an empty msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = count as _;
    // SAFETY: the pieces lie in `chunks`, which is borrowed for the call; the kernel only reads them, so that a peer
    // which changes a shared one meanwhile changes what is sent and nothing else.
    // JUSTIFICATION: IoSlice would need a `&[u8]` over shared memory.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}

/// Receives what is there into a block, without waiting.
pub(crate) fn receive(socket: BorrowedFd<'_>, block: &mut OpenBlock) -> io::Result<usize> {
    // SAFETY: the block is as long as said, keeps its segment mapped, and is borrowed exclusively for the call: no other
    // bytes of ours are there, and none that anybody has a reference to.
    // JUSTIFICATION: a safe wrapper would need a `&mut [u8]` over shared memory.
    let received = unsafe { libc::recv(socket.as_raw_fd(), block.ptr().cast(), block.len(), libc::MSG_DONTWAIT) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

pub(crate) const EMPTY_PIECE: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

/// Writes where the first chunks lie into `pieces`; returns how many.
pub(crate) fn list_pieces(chunks: &Chunks, pieces: &mut [libc::iovec]) -> usize {
    let mut count = 0;
    for (piece, chunk) in pieces.iter_mut().zip(chunks.iter()) {
        piece.iov_base = chunk.as_ptr().cast_mut().cast();
        piece.iov_len = chunk.len();
        count += 1;
    }
    count
}

/// Waits for readiness; `None` waits for ever. An interruption by a signal is no readiness.
pub(crate) fn epoll_wait(
    epoll: impl AsFd,
    ready: &mut [libc::epoll_event],
    timeout: Option<Nanos>,
) -> io::Result<usize> {
    /// epoll_pwait2 came with Linux 5.11; where it is missing (or filtered), milliseconds must do.
    static NANOSECONDS_REFUSED: AtomicBool = AtomicBool::new(false);

    let fd = epoll.as_fd().as_raw_fd();
    let whole = timeout.is_none_or(|nanos| nanos % 1_000_000 == 0);
    // Relaxed: only saves a call; nothing else depends on it.
    let count = if whole || NANOSECONDS_REFUSED.load(Ordering::Relaxed) {
        let millis = match timeout {
            None => -1,
            // Rounded up: a turn that comes early would find its timer not due and wait again.
            Some(nanos) => nanos.div_ceil(1_000_000).min(i32::MAX as u64) as i32,
        };
        // SAFETY: `ready` is as long as said.
        i64::from(unsafe { libc::epoll_wait(fd, ready.as_mut_ptr(), ready.len() as i32, millis) })
    } else {
        let nanos = timeout.unwrap_or(0);
        let time = libc::timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ };
        // SAFETY: `ready` is as long as said, `time` lives through the call, no signal mask is given.
        // JUSTIFICATION: the C library has no wrapper on the oldest systems that we link for.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                fd,
                ready.as_mut_ptr(),
                ready.len() as i32,
                &time as *const libc::timespec,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        }
    };
    if count >= 0 {
        return Ok(count as usize);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(0),
        Some(libc::ENOSYS | libc::EPERM) if !whole => {
            NANOSECONDS_REFUSED.store(true, Ordering::Relaxed);
            epoll_wait(epoll, ready, timeout)
        }
        _ => Err(error),
    }
}

/// A Unix address as the type that holds any address.
pub(crate) fn storage_of_unix(addr: &UnixAddr) -> Option<SockaddrStorage> {
    // SAFETY: pointer and length are those of one valid address.
    unsafe { SockaddrStorage::from_raw(addr.as_ptr().cast(), Some(addr.len())) }
}

/// Gives memory that was freed back to the system, where the allocator has a way to do that; it keeps it for later by itself. Other
/// threads that allocate meanwhile may wait for some milliseconds.
pub fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; the allocator locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
