//! What both drivers ask of the kernel about sockets: all by way of safe wrappers.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, UnixAddr,
    getpeername, getsockname, getsockopt, setsockopt, socket, sockopt,
};

use crate::driver::{PeerAddr, PeerCheck, Target};

/// A socket for `target`, close-on-exec, without TCP's delays, and the address to connect it to.
pub(crate) fn for_target(target: &Target, nonblocking: bool) -> io::Result<(OwnedFd, SockaddrStorage)> {
    let mut flags = SockFlag::SOCK_CLOEXEC;
    if nonblocking {
        flags |= SockFlag::SOCK_NONBLOCK;
    }
    match target {
        Target::Tcp(addr) => {
            let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let fd = socket(family, SockType::Stream, flags, None)?;
            setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
            Ok((fd, SockaddrStorage::from(*addr)))
        }
        Target::Unix(path) => {
            let addr = unix_addr(path)?;
            let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            Ok((fd, addr))
        }
    }
}

/// The address of a path; one that begins with a NUL byte is an abstract name.
pub(crate) fn unix_addr(path: &Path) -> io::Result<SockaddrStorage> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let addr = match bytes.split_first() {
        Some((0, name)) => UnixAddr::new_abstract(name)?,
        _ => UnixAddr::new(path)?,
    };
    crate::sys::storage_of_unix(&addr).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Whether the socket is of a family that wants TCP_NODELAY.
pub(crate) fn is_tcp(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let addr: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    Ok(matches!(addr.family(), Some(AddressFamily::Inet | AddressFamily::Inet6)))
}

/// Whom an accepted socket is connected to.
///
/// # Errors
/// The peer is gone already.
pub(crate) fn peer(socket: BorrowedFd<'_>, tcp: bool) -> io::Result<PeerAddr> {
    if !tcp {
        return Ok(PeerAddr::Unix);
    }
    let addr: SockaddrStorage = getpeername(socket.as_raw_fd())?;
    tcp_addr(&addr).map(PeerAddr::Tcp).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Where a connection was going before it was redirected to the socket that accepted it.
///
/// The connection's table of translations knows it (nf_conntrack). A connection that nothing redirected is not in there, or goes
/// to where it arrived.
pub(crate) fn original_dst(socket: impl AsFd) -> Option<SocketAddr> {
    let local: SockaddrStorage = getsockname(socket.as_fd().as_raw_fd()).ok()?;
    let local = tcp_addr(&local)?;
    let going_to = match local.ip() {
        IpAddr::V4(_) => {
            let found = getsockopt(&socket, sockopt::OriginalDst).ok()?;
            SocketAddr::from(SocketAddrV4::from(SockaddrIn::from(found)))
        }
        IpAddr::V6(_) => {
            let found = getsockopt(&socket, sockopt::Ip6tOriginalDst).ok()?;
            SocketAddr::from(SocketAddrV6::from(SockaddrIn6::from(found)))
        }
    };
    ((going_to.ip(), going_to.port()) != (local.ip(), local.port())).then_some(going_to)
}

fn tcp_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr.as_sockaddr_in().map(|&v4| SocketAddr::from(SocketAddrV4::from(v4)));
    v4.or_else(|| addr.as_sockaddr_in6().map(|&v6| SocketAddr::from(SocketAddrV6::from(v6))))
}

/// Questions without an answer after which a peer is gone, where nothing was sent and no other bound is set.
const PROBES: u32 = 4;

/// See [`Driver::check_peer`](crate::Driver::check_peer); for what is no TCP connection nothing happens.
pub(crate) fn check_peer(socket: impl AsFd, check: PeerCheck) -> io::Result<()> {
    if !is_tcp(socket.as_fd())? {
        return Ok(());
    }
    // The kernel takes 1 s to 32,767 s.
    let seconds = |time: Duration| u32::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).clamp(1, 32_767);
    let unacknowledged = check.unacknowledged.map_or(0, |time| time.as_millis().clamp(1, i32::MAX as u128) as u32);
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &seconds(check.probe_after))?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &seconds(check.probe_after / PROBES))?;
    setsockopt(&socket, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(&socket, sockopt::TcpUserTimeout, &unacknowledged)?;
    Ok(())
}

pub(crate) fn set_nodelay(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    Ok(())
}

pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Makes the coming close a reset (over TCP; elsewhere it changes nothing).
pub(crate) fn reset_on_close(socket: impl AsFd) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    // It fails only for what is no socket; then there is no connection to reset.
    let _ = setsockopt(&socket, sockopt::Linger, &at_once);
}

/// Sends the FIN. Fails only when the connection is gone: then there is nobody to tell.
pub(crate) fn shutdown_write(socket: impl AsFd) {
    let _ = nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write);
}

/// Ends the connection for the peer, whoever else has the socket; with a reset if it is `cut` (over TCP; elsewhere there is none). Fails only when
/// the connection is gone.
pub(crate) fn sever(socket: impl AsFd, cut: bool) {
    if !cut || is_tcp(socket.as_fd()).is_ok_and(|tcp| !tcp) || crate::sys::disconnect(socket.as_fd()).is_err() {
        let _ = nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// Receives what is there, without waiting whatever the socket's flags say.
pub(crate) fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
}

/// One byte into a doorbell: full or gone both count as done.
pub(crate) fn ring(bell: impl AsFd) {
    let _ = nix::sys::socket::send(bell.as_fd().as_raw_fd(), &RING, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// What a ring consists of.
pub(crate) static RING: [u8; 1] = [1];

/// Whether something failed because the process, or the system, is out of descriptors or memory: worth a pause.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC))
}

/// Whether accepting failed for one connection only, so that the next one may do.
///
/// accept(2): Linux passes already-pending network errors on the new socket.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM
                | libc::ETIMEDOUT
                | libc::ENOTCONN
        )
    )
}
