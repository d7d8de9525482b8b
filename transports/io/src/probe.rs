//! Which driver this system allows.
//!
//! io_uring may be missing (ENOSYS), forbidden by a seccomp profile, as in Docker's and containerd's default ones, or
//! by `kernel.io_uring_disabled` (EPERM), or too old for what is needed (EINVAL). Whatever the reason, `epoll` does.
//!
//! The simulated driver is no choice here: it has no network, and is made by whoever makes its world.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use crate::chunk::Chunks;
use crate::driver::{Driver, Event, Limits, Wait};
use crate::pool::SLOTS_MIN;
use crate::slice::Slice;
use crate::uring::UringDriver;

/// Which driver is asked for.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub enum Choice {
    /// `uring` if the system allows it, else `epoll`.
    #[default]
    Auto,
    Uring,
    Epoll,
}

/// Tries out io_uring: a ring, its operations, provided buffers, and a byte sent and received.
///
/// # Errors
/// What was refused first.
pub fn uring() -> Result<(), Refusal> {
    let limits = Limits { pool_slots: SLOTS_MIN };
    let mut driver = UringDriver::new(limits)?;
    try_out(&mut driver).map_err(Refusal::at(Step::Traffic))
}

fn try_out(driver: &mut dyn Driver) -> io::Result<()> {
    /// Enough on any machine: nothing leaves this process.
    const PATIENCE_NANOS: u64 = 2_000_000_000;

    let (one, other) = UnixStream::pair()?;
    let one = driver.adopt(one.into(), 1)?;
    let other = driver.adopt(other.into(), 2)?;
    driver.start_recv(other);
    driver.send(one, Chunks::from(Slice::from_vec(b"probe".to_vec())));
    let deadline = driver.refresh_clock() + PATIENCE_NANOS;
    let mut events = Vec::new();
    let (mut sent, mut received) = (false, 0);
    while !sent || received < 5 {
        if driver.now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        driver.poll(Wait::Until(deadline), &mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Sent { result, .. } => {
                    result?;
                    sent = true;
                }
                Event::Received { data, .. } => received += data.len(),
                Event::Ended { error, .. } => {
                    return Err(error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// What of io_uring the system refused.
#[derive(Debug)]
pub struct Refusal {
    step: Step,
    error: io::Error,
}

/// Where it ended.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Step {
    Memory,
    Setup,
    Operations,
    ProvidedBuffers,
    Traffic,
}

impl Refusal {
    pub(crate) fn at(step: Step) -> impl FnOnce(io::Error) -> Refusal {
        move |error| Refusal { step, error }
    }

    /// The system's answer.
    pub fn error(&self) -> &io::Error {
        &self.error
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Memory => "memory and descriptors for it cannot be had",
            Step::Setup => "the system refuses to set up a ring",
            Step::Operations => "the kernel lacks operations that are needed (Linux 6.0 has them)",
            Step::ProvidedBuffers => "the kernel refuses a ring of provided buffers",
            Step::Traffic => "a first byte did not get through",
        };
        let why = match (self.step, self.error.raw_os_error()) {
            (Step::Setup, Some(libc::EPERM)) => "; a seccomp profile or the sysctl kernel.io_uring_disabled forbids it",
            (Step::Setup, Some(libc::ENOSYS)) => "; this kernel has no io_uring",
            (Step::Setup, Some(libc::ENOMEM)) => "; the limit of locked memory may be too low",
            _ => "",
        };
        write!(f, "io_uring cannot be used: {step}: {}{why}", self.error)
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        io::Error::new(refusal.error.kind(), refusal)
    }
}

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, UnknownChoice> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(UnknownChoice),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

/// No driver has that name: it is auto, uring or epoll.
#[derive(Copy, Clone, Debug, thiserror::Error)]
#[error("no driver has that name: it is auto, uring or epoll")]
pub struct UnknownChoice;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoll_driver_passes_the_same_trial() {
        let limits = Limits { pool_slots: SLOTS_MIN };
        let mut driver = crate::EpollDriver::new(limits).unwrap();
        try_out(&mut driver).unwrap();
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let refusal = Refusal::at(Step::Setup)(io::Error::from_raw_os_error(libc::EPERM));
        let line = refusal.to_string();
        assert!(line.contains("set up a ring"), "{line}");
        assert!(line.contains("seccomp"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn choices_have_names() {
        for choice in [Choice::Auto, Choice::Uring, Choice::Epoll] {
            assert_eq!(choice.to_string().parse::<Choice>().unwrap(), choice);
        }
        "poll".parse::<Choice>().unwrap_err();
    }
}
