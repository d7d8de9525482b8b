//! The sockets that tell apps that the sidecar is dead: one a session, each with its sidecar's end in the hands of a thread that has
//! a file table of its own and nothing else in it.
//!
//! When a process is killed, a file is closed by whoever drops it last: a descriptor of the common table waits for the slowest
//! thread, which may be one that is unmapping gigabytes, and one that io_uring knows waits for the ring. The table of this thread goes
//! with this thread, at once.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use shmesh_shm::descriptors;

/// Where a thread finds the numbers of its descriptors.
const OWN_DESCRIPTORS: &str = "/proc/thread-self/fd";

/// Descriptors below this are standard input, output and error, which stay: a socket under one of these numbers could be written to.
const STANDARD: RawFd = 3;

/// In place of a session's id: the descriptor is where copies of all ends are to go.
const ALL: u64 = u64::MAX;

/// The sidecar's ends of all liveness sockets.
pub struct Liveness {
    /// Where ends go, a message each: the session's id, with a descriptor when it begins, without when it is over.
    keeper: Option<OwnedFd>,
    /// Ends that the thread does not have.
    kept: BTreeMap<u64, OwnedFd>,
}

impl Liveness {
    /// Starts the thread. Where it may not have a file table of its own (a seccomp profile forbids `unshare`, say) the ends stay in
    /// the common one, and apps learn of a death some milliseconds later. Best called before much else is open.
    pub fn start() -> Liveness {
        match start_keeper() {
            Ok(keeper) => Liveness { keeper: Some(keeper), kept: BTreeMap::new() },
            Err(error) => {
                tracing::warn!(
                    %error,
                    "no thread with a file table of its own; apps learn of this sidecar's death some milliseconds later"
                );
                Liveness::without_thread()
            }
        }
    }

    /// The ends stay here.
    pub fn without_thread() -> Liveness {
        Liveness { keeper: None, kept: BTreeMap::new() }
    }

    /// A session begins: its liveness socket's end for the app.
    pub fn begin(&mut self, session: u64) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        // Nobody reads it: what an app wants to say there fails on its side.
        ours.shutdown(Shutdown::Read)?;
        self.keep(session, ours.into());
        Ok(theirs.into())
    }

    /// Goes on with a session's end that another process had.
    pub fn keep(&mut self, session: u64, ours: OwnedFd) {
        let told = match &self.keeper {
            Some(keeper) => descriptors::send(keeper.as_fd(), &session.to_le_bytes(), &[ours.as_fd()]).is_ok(),
            None => false,
        };
        if !told {
            self.kept.insert(session, ours);
        }
    }

    /// Copies of all ends, for a process that goes on with them. While one of these is there no app sees an end.
    pub fn copies(&self) -> io::Result<BTreeMap<u64, OwnedFd>> {
        let mut copies = BTreeMap::new();
        for (&session, end) in &self.kept {
            copies.insert(session, end.try_clone()?);
        }
        let Some(keeper) = &self.keeper else { return Ok(copies) };
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        descriptors::send(keeper.as_fd(), &ALL.to_le_bytes(), &[theirs.as_fd()])?;
        drop(theirs);
        let (mut id, mut came) = ([0; 8], Vec::new());
        while descriptors::receive(ours.as_fd(), &mut id, &mut came)? == id.len() {
            let end = came.pop().ok_or_else(|| io::Error::other("an end of a liveness socket did not arrive"))?;
            copies.insert(u64::from_le_bytes(id), end);
        }
        Ok(copies)
    }

    /// A session is over.
    pub fn end(&mut self, session: u64) {
        if self.kept.remove(&session).is_none()
            && let Some(keeper) = &self.keeper
        {
            // It cannot fail while the thread is there, and with the thread everything ends.
            let _ = descriptors::send(keeper.as_fd(), &session.to_le_bytes(), &[]);
        }
    }
}

/// The end through which the thread is told. It lives as long as that.
fn start_keeper() -> io::Result<OwnedFd> {
    // Whole messages, in order.
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let number = theirs.as_raw_fd();
    let (sender, separate) = channel();
    thread::Builder::new().name("liveness".into()).spawn(move || keep(theirs, &sender))?;
    match separate.recv() {
        Ok(Ok(())) => {
            // The thread owns the copy in its own table; this is the one in the common table, which would outlive it.
            nix::unistd::close(number)?;
            Ok(ours)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the thread ended before it began")),
    }
}

/// The thread: holds what it is given.
fn keep(channel: OwnedFd, separate: &Sender<io::Result<()>>) {
    let outcome = separate_table(channel.as_raw_fd());
    let failed = outcome.is_err();
    let _ = separate.send(outcome);
    if failed {
        return;
    }
    let mut ends: BTreeMap<u64, OwnedFd> = BTreeMap::new();
    loop {
        let (mut id, mut came) = ([0; 8], Vec::new());
        match descriptors::receive(channel.as_fd(), &mut id, &mut came) {
            Ok(len) if len == id.len() => {}
            // The session thread is gone, and with it the process.
            Ok(_) | Err(_) => return,
        }
        let session = u64::from_le_bytes(id);
        match came.pop() {
            Some(asks) if session == ALL => {
                for (id, end) in &ends {
                    // Whoever asked finds those missing that did not arrive.
                    let _ = descriptors::send(asks.as_fd(), &id.to_le_bytes(), &[end.as_fd()]);
                }
            }
            Some(end) => drop(ends.insert(session, end)),
            None => drop(ends.remove(&session)),
        }
    }
}

/// Gives the calling thread a file table of its own and closes everything in it but standard descriptors and `keep`.
fn separate_table(keep: RawFd) -> io::Result<()> {
    // Looked at before, as there is no way back: a table full of copies would keep everything open that the others close.
    fs::read_dir(OWN_DESCRIPTORS)?;
    unshare(CloneFlags::CLONE_FILES)?;
    let numbers: Vec<RawFd> = fs::read_dir(OWN_DESCRIPTORS)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= STANDARD && *number != keep)
        .collect();
    for number in numbers {
        // The one through which the folder was read is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Reads until the end, which must not be there before `end` was called.
    fn ends_with(liveness: &mut Liveness) {
        let first = UnixStream::from(liveness.begin(1).expect("a socket"));
        let second = UnixStream::from(liveness.begin(2).expect("a socket"));
        let gone = |mut socket: &UnixStream| {
            socket.set_nonblocking(true).expect("a flag");
            matches!(socket.read(&mut [0]), Ok(0))
        };
        assert!(!gone(&first) && !gone(&second));
        liveness.end(1);
        first.set_nonblocking(false).expect("a flag");
        assert_eq!((&first).read(&mut [0]).expect("the end"), 0);
        assert!(!gone(&second));
    }

    #[test]
    fn an_app_sees_the_end_of_its_own_session() {
        let mut liveness = Liveness::start();
        assert!(liveness.keeper.is_some(), "a thread may have a file table of its own here");
        ends_with(&mut liveness);
        assert!(liveness.kept.is_empty());
        ends_with(&mut Liveness::without_thread());
    }

    #[test]
    fn who_goes_on_with_copies_keeps_the_apps_from_seeing_an_end() {
        for mut liveness in [Liveness::start(), Liveness::without_thread()] {
            let apps: Vec<UnixStream> = (0..300).map(|id| liveness.begin(id).expect("a socket").into()).collect();
            liveness.end(7);
            let copies = liveness.copies().expect("copies");
            assert!(copies.keys().copied().eq((0..300).filter(|&id| id != 7)));
            let mut next = Liveness::start();
            copies.into_iter().for_each(|(id, end)| next.keep(id, end));
            drop(liveness);
            for (id, app) in apps.iter().enumerate().filter(|(id, _)| *id != 7) {
                app.set_nonblocking(true).expect("a flag");
                assert!(
                    matches!((&mut &*app).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock),
                    "{id}"
                );
            }
            next.end(8);
            apps[8].set_nonblocking(false).expect("a flag");
            assert_eq!((&apps[8]).read(&mut [0]).expect("the end"), 0);
        }
    }

    #[test]
    fn the_thread_keeps_nothing_open_but_the_sockets() {
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        let liveness = Liveness::start();
        drop(writer);
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0, "its copy is closed");
        drop(liveness);
    }

    #[test]
    fn no_descriptor_of_the_common_table_holds_an_end() {
        let mut liveness = Liveness::start();
        let app = liveness.begin(7).expect("a socket");
        drop(liveness);
        // The thread ends with the one that tells it; nobody else has the end.
        assert_eq!(UnixStream::from(app).read(&mut [0]).expect("the end"), 0);
    }
}
