//! What two processes of an upgrade say to each other, over a Unix stream: frames of a kind, bytes and descriptors.
//!
//! A frame is a header of nine bytes (kind; length; number of descriptors; the numbers little-endian), its bytes, and then one byte more for
//! each batch of descriptors, which come with that byte.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use shmesh_shm::descriptors::{self, MAX_DESCRIPTORS};

/// Longest frame: a worker with a hundred thousand connections that all have kilobytes waiting.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

/// Most descriptors of a frame: as many as a process can have (fs.nr_open's default).
pub const FRAME_DESCRIPTORS_MAX: usize = 1 << 20;

/// Bytes of a frame's header.
const HEADER_BYTES: usize = 9;

/// How long to wait when more descriptors are on their way than the system allows.
const IN_FLIGHT_PAUSE: Duration = Duration::from_micros(200);

/// What a frame is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// New: let me take over. [`super::messages::Take`].
    Take = 1,
    /// Old: no; a sentence.
    Refused = 2,
    /// Old: what to prepare, with the listening sockets. [`super::messages::Plan`].
    Plan = 3,
    /// New: everything that takes time is done.
    Prepared = 4,
    /// Old: the sessions, with their sockets and memory files. [`super::messages::DeskState`].
    Desk = 5,
    /// New: they are mapped.
    Mapped = 6,
    /// Old: a worker at rest, with its sockets; one a worker, in their order. [`super::state::WorkerState`].
    Worker = 7,
    /// Old: what happened meanwhile. [`super::messages::Last`].
    Last = 8,
    /// New: it can go on with all of that.
    Restored = 9,
    /// New: it cannot; a sentence.
    Failed = 10,
    /// Old: go on; from here on everything is yours.
    Commit = 11,
    /// Old: do not; a sentence.
    Abort = 12,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        const ALL: [Kind; 12] = [
            Kind::Take,
            Kind::Refused,
            Kind::Plan,
            Kind::Prepared,
            Kind::Desk,
            Kind::Mapped,
            Kind::Worker,
            Kind::Last,
            Kind::Restored,
            Kind::Failed,
            Kind::Commit,
            Kind::Abort,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl Frame {
    /// Its bytes as a sentence.
    pub fn sentence(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// One end.
#[derive(Debug)]
pub struct Wire(UnixStream);

impl Wire {
    pub fn new(socket: UnixStream) -> io::Result<Wire> {
        socket.set_nonblocking(false)?;
        Ok(Wire(socket))
    }

    /// Sends a frame; fails if that is not done by then.
    pub fn send(&self, kind: Kind, bytes: &[u8], fds: &[BorrowedFd<'_>], until: Instant) -> io::Result<()> {
        if bytes.len() > FRAME_BYTES_MAX || fds.len() > FRAME_DESCRIPTORS_MAX {
            return Err(io::Error::other("there is more to hand over than fits a message"));
        }
        let mut header = [0; HEADER_BYTES];
        header[0] = kind as u8;
        header[1..5].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        header[5..9].copy_from_slice(&(fds.len() as u32).to_le_bytes());
        for mut part in [&header, bytes] {
            while !part.is_empty() {
                self.0.set_write_timeout(Some(left(until)?))?;
                match (&self.0).write(part) {
                    Ok(sent) => part = &part[sent..],
                    Err(error) => passing(error)?,
                }
            }
        }
        for batch in fds.chunks(MAX_DESCRIPTORS) {
            loop {
                self.0.set_write_timeout(Some(left(until)?))?;
                match descriptors::send(self.0.as_fd(), &[0], batch) {
                    Ok(_) => break,
                    // RLIMIT_NOFILE bounds those that nobody has received yet: the other side is at it.
                    Err(error) if error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32) => {
                        thread::sleep(IN_FLIGHT_PAUSE);
                    }
                    Err(error) => passing(error)?,
                }
            }
        }
        Ok(())
    }

    /// Sends a frame that is a sentence.
    pub fn say(&self, kind: Kind, sentence: &str, until: Instant) -> io::Result<()> {
        self.send(kind, sentence.as_bytes(), &[], until)
    }

    /// The next frame. `None`: the other side is gone, and said nothing more.
    pub fn receive(&self, until: Instant) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES];
        if !self.fill(&mut header, until)? {
            return Ok(None);
        }
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (len, count) = (number(1), number(5));
        let Some(kind) = Kind::of(header[0]).filter(|_| len <= FRAME_BYTES_MAX && count <= FRAME_DESCRIPTORS_MAX)
        else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "that is no message of an upgrade"));
        };
        // Grows with what comes, not with what is announced.
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let (from, part) = (bytes.len(), (len - bytes.len()).min(1 << 20));
            bytes.resize(from + part, 0);
            if !self.fill(&mut bytes[from..], until)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut descriptors = Vec::new();
        while descriptors.len() < count {
            self.0.set_read_timeout(Some(left(until)?))?;
            let before = descriptors.len();
            match descriptors::receive(self.0.as_fd(), &mut [0], &mut descriptors) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // The kernel drops those for which this process has no room.
                Ok(_) if descriptors.len() < count.min(before + MAX_DESCRIPTORS) => {
                    return Err(Errno::EMFILE.into());
                }
                Ok(_) => {}
                Err(error) => passing(error)?,
            }
        }
        Ok(Some(Frame { kind, bytes, descriptors }))
    }

    /// Waits for as long as it takes. `None`: the other side is gone.
    pub fn await_verdict(&self) -> io::Result<Option<Frame>> {
        loop {
            match self.receive(Instant::now() + Duration::from_secs(3600)) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                // It ended without having read all.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                other => return other,
            }
        }
    }

    /// False: the end came before the first byte.
    fn fill(&self, buffer: &mut [u8], until: Instant) -> io::Result<bool> {
        let mut at = 0;
        while at < buffer.len() {
            self.0.set_read_timeout(Some(left(until)?))?;
            match (&self.0).read(&mut buffer[at..]) {
                Ok(0) if at == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => at += read,
                Err(error) => passing(error)?,
            }
        }
        Ok(true)
    }
}

/// Open descriptors of this process.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Makes the table of descriptors large enough for so many, before calls wait for that: a table that threads share is only made larger when
/// all CPUs have gone through the scheduler, which takes milliseconds each time that it doubles. Where it cannot be, that is all it costs.
pub fn make_room(descriptors: usize) {
    let grow = || {
        let file = std::fs::File::open("/dev/null")?;
        let at = descriptors.min(FRAME_DESCRIPTORS_MAX) as i32;
        let last = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(at))?;
        nix::unistd::close(last).map_err(io::Error::from)
    };
    if let Err(error) = grow() {
        tracing::debug!(%error, descriptors, "the table of descriptors grows when it has to");
    }
}

/// The time that is left.
fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "the other process takes too long")),
        left => Ok(left),
    }
}

/// Errors after which one tries again, as long as there is time.
fn passing(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Wire::new(one).expect("an end"), Wire::new(other).expect("an end"))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn frames_of_every_size_arrive_with_their_descriptors() {
        let (one, other) = pair();
        let sizes = [(0, 0), (1, 1), (3_000_000, 252), (10, 253), (0, 254), (70_000, 700)];
        let file = File::open("/proc/self/status").expect("a file");
        thread::scope(|scope| {
            scope.spawn(|| {
                for (len, count) in sizes {
                    let bytes: Vec<u8> = (0..len).map(|at: u32| (at % 251) as u8).collect();
                    one.send(Kind::Worker, &bytes, &vec![file.as_fd(); count], soon()).expect("it is sent");
                }
                drop(one);
            });
            for (len, count) in sizes {
                let frame = other.receive(soon()).expect("a frame").expect("a frame");
                assert_eq!(
                    (frame.kind, frame.bytes.len(), frame.descriptors.len()),
                    (Kind::Worker, len as usize, count)
                );
                assert!(frame.bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
                assert!(frame.descriptors.iter().all(|fd| fd.as_raw_fd() > 2));
            }
            assert!(other.receive(soon()).expect("the end").is_none());
        });
    }

    #[test]
    fn what_is_cut_off_or_nonsense_is_an_error_and_what_is_late_too() {
        let (one, other) = pair();
        (&one.0).write_all(&[7, 5, 0, 0, 0, 0, 0, 0, 0, 1, 2]).expect("it is sent");
        let late = other.receive(Instant::now() + Duration::from_millis(20)).expect_err("it is late");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let (one, other) = pair();
        (&one.0).write_all(&[7, 5, 0, 0, 0, 0, 0, 0, 0, 1, 2]).expect("it is sent");
        drop(one);
        assert_eq!(other.receive(soon()).expect_err("it is cut off").kind(), io::ErrorKind::UnexpectedEof);
        for nonsense in [[0, 0, 0, 0, 0, 0, 0, 0, 0], [99, 0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0xff, 0, 0, 0, 0]] {
            let (one, other) = pair();
            (&one.0).write_all(&nonsense).expect("it is sent");
            assert_eq!(other.receive(soon()).expect_err("nonsense").kind(), io::ErrorKind::InvalidData);
        }
    }
}
