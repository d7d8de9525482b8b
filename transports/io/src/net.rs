//! Listening sockets that no two sidecars share by accident.
//!
//! TCP: the workers of one sidecar listen on one address each with a socket of their own (SO_REUSEPORT), but a second
//! sidecar must not slip in beside them. So the first socket claims the address alone, without the option, and gets it
//! only once it listens: from then on the kernel refuses whoever claims it the same way, and lets our others join.
//!
//! Unix: a socket file outlives its process. One that nobody answers is replaced; one that somebody answers is
//! refused. A lock beside it keeps two sidecars that start at the same time from replacing each other.
//!
//! A process that is killed leaves its listening sockets behind for some milliseconds if an io_uring held them. Whoever starts
//! again at once must not take that for somebody who serves.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname, getsockopt, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Pid;

use crate::socket::unix_addr;

/// Connections that the kernel queues for a listener (or `net.core.somaxconn`, if that is less).
pub const BACKLOG: i32 = 1024;

/// How long sockets may outlive their process: far longer than taking down a ring takes (8 to 40 ms were measured).
pub const REMAINS_MAX: Duration = Duration::from_secs(1);

/// Listens on a TCP address with `count` sockets (at least one), among which the kernel distributes the connections.
/// Port 0 stands for a free one, the same for all.
///
/// # Errors
/// [`ListenError::Served`] if anybody listens there already, another sidecar included.
pub fn listen_tcp(addr: SocketAddr, count: usize) -> Result<Vec<OwnedFd>, ListenError> {
    let failed = |errno: Errno| match errno {
        Errno::EADDRINUSE => ListenError::Served { address: format!("tcp:{addr}"), owner: owner_of_port(addr.port()) },
        errno => ListenError::System { address: format!("tcp:{addr}"), error: errno.into() },
    };
    let first = claim(addr).map_err(failed)?;
    if count <= 1 {
        return Ok(vec![first]);
    }
    setsockopt(&first, sockopt::ReusePort, &true).map_err(failed)?;
    // With the port that was found, if any would do.
    let bound: SockaddrStorage = getsockname(first.as_raw_fd()).map_err(failed)?;
    let mut sockets = vec![first];
    while sockets.len() < count {
        let next = tcp_socket(addr).map_err(failed)?;
        setsockopt(&next, sockopt::ReusePort, &true).map_err(failed)?;
        bind_and_listen(&next, &bound).map_err(failed)?;
        sockets.push(next);
    }
    Ok(sockets)
}

/// Listens on a socket file with these permissions (as in chmod: 0o660).
///
/// # Errors
/// [`ListenError::Served`] if somebody answers there, or holds the lock; [`ListenError::NotASocket`] if something else
/// is there: it is left alone.
pub fn listen_unix(path: &Path, mode: u32) -> Result<UnixListening, ListenError> {
    let address = || format!("unix:{}", path.display());
    let failed = |error: io::Error| ListenError::System { address: address(), error };
    let Some(lock) = lock_beside(path).map_err(failed)? else {
        return Err(ListenError::Served { address: address(), owner: written_owner(path) });
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match ask(path).map_err(failed)? {
            Answer::Somebody(Some(owner)) if owner.has_ended() => fs::remove_file(path).map_err(failed)?,
            Answer::Somebody(owner) => return Err(ListenError::Served { address: address(), owner }),
            Answer::Nobody => fs::remove_file(path).map_err(failed)?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let socket = bind_file(path, mode).map_err(failed)?;
    let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
    Ok(UnixListening { socket, name: UnixName { path: path.to_owned(), inode, lock } })
}

/// A listening Unix socket.
#[derive(Debug)]
pub struct UnixListening {
    /// For the driver; several workers may share it, by way of `try_clone`.
    pub socket: OwnedFd,
    /// Its name in the file system, and the claim to it.
    pub name: UnixName,
}

/// The name of a listening Unix socket. Dropping it removes the file: nobody can connect any more.
#[derive(Debug)]
pub struct UnixName {
    path: PathBuf,
    inode: u64,
    // Given up last, after the socket file is gone.
    lock: LockFile,
}

impl UnixName {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The claim to the name, for a process that goes on with the socket. It is held as long as any process has this.
    pub fn claim(&self) -> BorrowedFd<'_> {
        self.lock.lock.as_fd()
    }

    /// Goes on with a name and the claim to it that another process had. That one must not drop its own. The socket file may be gone: somebody
    /// took it away.
    pub fn go_on(path: &Path, claim: OwnedFd) -> io::Result<UnixName> {
        let inode = fs::symlink_metadata(path).map_or(0, |found| found.ino());
        let lock = Flock::lock(File::from(claim), FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        let mut lock = LockFile { path: lock_path(path), lock };
        lock.write_owner()?;
        Ok(UnixName { path: path.to_owned(), inode, lock })
    }
}

impl Drop for UnixName {
    fn drop(&mut self) {
        // Only what we made: an administrator may have put something else there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("{address} is already served{}", by(.owner))]
    Served {
        address: String,
        /// As far as it can be learned: processes of other users, or in other containers, are not seen.
        owner: Option<Owner>,
    },
    /// There is a file which is no socket; it is not touched.
    #[error("{} exists and is not a socket: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The system's answer.
    #[error("{address}: {error}")]
    System {
        address: String,
        #[source]
        error: io::Error,
    },
}

/// A process, as it is seen from here.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Owner {
    pub pid: i32,
    /// Its name, if it can be seen.
    pub command: Option<String>,
}

impl Owner {
    fn of_pid(pid: i32) -> Self {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned());
        Self { pid, command }
    }

    /// Whether it is gone, although something of it still answers. (A process that cannot be seen has pid 0.)
    fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        // The state stands behind the command, which may hold anything (proc(5)).
        let state = stat
            .as_ref()
            .ok()
            .and_then(|stat| stat.rsplit_once(')'))
            .and_then(|(_, rest)| rest.trim_start().chars().next());
        let is_zombie = matches!(state, Some('Z' | 'X'));
        self.pid > 0 && (is_zombie || kill(Pid::from_raw(self.pid), None) == Err(Errno::ESRCH))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Some(command) => write!(f, "process {} ({command})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}

fn by(owner: &Option<Owner>) -> String {
    owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default()
}

fn tcp_socket(addr: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // Connections of a predecessor that linger in TIME_WAIT do not keep us from the port.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    if addr.is_ipv6() {
        // [::] and 0.0.0.0 are two addresses, whatever the system's default says.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(fd)
}

/// The first socket on an address. Waits for what a dead process left there, not for a living one.
fn claim(addr: SocketAddr) -> Result<OwnedFd, Errno> {
    let late = Instant::now() + REMAINS_MAX;
    loop {
        let fd = tcp_socket(addr)?;
        match bind_and_listen(&fd, &SockaddrStorage::from(addr)) {
            Err(Errno::EADDRINUSE) if owner_of_port(addr.port()).is_none() && Instant::now() < late => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result.map(|()| fd),
        }
    }
}

fn bind_and_listen(fd: &OwnedFd, addr: &SockaddrStorage) -> Result<(), Errno> {
    bind(fd.as_raw_fd(), addr)?;
    listen(fd, Backlog::new(BACKLOG)?)
}

fn bind_file(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let addr = unix_addr(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file is made with the mode of the socket (less the umask), so that it is never open to more than it should be.
    fchmod(&fd, Mode::from_bits_truncate(mode))?;
    bind(fd.as_raw_fd(), &addr)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

enum Answer {
    Nobody,
    Somebody(Option<Owner>),
}

/// Knocks at a socket file.
fn ask(path: &Path) -> io::Result<Answer> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &unix_addr(path)?) {
        Ok(()) => {
            // The credentials of whoever called listen(2).
            let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
            Ok(Answer::Somebody(Some(Owner::of_pid(peer.pid()))))
        }
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(Answer::Nobody),
        // Somebody listens, and has no room for another connection.
        Err(Errno::EAGAIN) => Ok(Answer::Somebody(written_owner(path))),
        Err(errno) => Err(errno.into()),
    }
}

/// A lock that is held, and the file it is held on. Removed when given up.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    lock: Flock<File>,
}

impl LockFile {
    fn write_owner(&mut self) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        writeln!(self.lock, "{}", std::process::id())
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // While it is still held: whoever opened it meanwhile finds out that it is no longer the one in place.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Takes the lock of a socket file, which holds the owner's pid; `None` if somebody else has it.
fn lock_beside(path: &Path) -> io::Result<Option<LockFile>> {
    let path = lock_path(path);
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        // Its last owner may have removed it between our opening and our locking.
        let in_place = fs::symlink_metadata(&path).is_ok_and(|found| {
            lock.metadata().is_ok_and(|locked| (found.dev(), found.ino()) == (locked.dev(), locked.ino()))
        });
        if in_place {
            let mut lock = LockFile { path, lock };
            lock.write_owner()?;
            return Ok(Some(lock));
        }
    }
}

/// Who wrote the lock of a socket file.
fn written_owner(path: &Path) -> Option<Owner> {
    let pid = fs::read_to_string(lock_path(path)).ok()?.trim().parse().ok()?;
    Some(Owner::of_pid(pid))
}

/// Who listens on a TCP port, looked up in /proc: only for a message.
fn owner_of_port(port: u16) -> Option<Owner> {
    let tables: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    let links: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| listening_inode(line, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            if let Ok(link) = fs::read_link(descriptor.path())
                && links.iter().any(|wanted| link.as_os_str() == wanted.as_str())
            {
                return Some(Owner::of_pid(pid));
            }
        }
    }
    None
}

/// The socket's inode, if a line of /proc/net/tcp (proc(5)) is about a listener on this port.
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let listens = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == LISTEN;
    listens.then(|| fields.get(9).copied()).flatten()
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
