//! What the supervisor says in its log.

use std::fmt;
use std::time::Duration;

use crate::{End, Task};

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The sidecar ended by itself, and starts again.
    Ended { end: End, lived: Duration, pause: Duration },
    /// It does not know its arguments.
    WrongUsage,
    /// The supervisor was told to end.
    Stopping,
    /// The sidecar did not end in time.
    StopTimedOut,
    /// An upgrade begins with checks.
    UpgradeBegins,
    /// The new binary is not good; `said` is the first line of what it printed.
    UpgradeRefused { task: Task, end: End, said: String, in_time: bool },
    /// There is one already.
    UpgradeInUpgrade,
    /// The supervisor ends.
    UpgradeWhileEnding,
    /// The new sidecar ended before the old one had.
    TakeOverFailed { end: End, in_time: bool },
    /// The old sidecar has ended as it should when the new one has taken over.
    Upgraded,
    /// The old sidecar died while the new one was taking over.
    DiedInUpgrade(End),
    /// The new sidecar had not been given everything when the old one died.
    Orphaned,
    /// The new sidecar ended soon after it had taken over.
    RolledBack { end: End, lived: Duration },
    /// The new sidecar has lived long enough.
    Steady,
}

impl Note {
    pub fn level(&self) -> Level {
        match self {
            Note::Stopping | Note::UpgradeBegins | Note::Upgraded | Note::Steady => Level::Info,
            Note::UpgradeInUpgrade | Note::UpgradeWhileEnding | Note::Orphaned => Level::Warn,
            // Somebody asked it to end, and did not ask the supervisor.
            Note::Ended { end: End::Code(0), .. } => Level::Warn,
            Note::Ended { .. }
            | Note::WrongUsage
            | Note::StopTimedOut
            | Note::UpgradeRefused { .. }
            | Note::TakeOverFailed { .. }
            | Note::DiedInUpgrade(_)
            | Note::RolledBack { .. } => Level::Error,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Note::Ended { end, lived, pause } => {
                write!(f, "the sidecar {end} after {}; it starts again in {pause:?}", Seconds(*lived))
            }
            Note::WrongUsage => {
                f.write_str("the sidecar's binary does not know these arguments, and is not started again")
            }
            Note::Stopping => f.write_str("told to end, waiting for the sidecar"),
            Note::StopTimedOut => f.write_str("the sidecar has not ended in time, and is killed"),
            Note::UpgradeBegins => f.write_str("upgrade: checking the new binary"),
            Note::UpgradeRefused { task, end, said, in_time } => {
                let asked = match task {
                    Task::Version => "--version",
                    _ => "check",
                };
                write!(f, "upgrade refused, the sidecar goes on: asked `{asked}` the new binary ")?;
                match (in_time, end) {
                    (false, _) => f.write_str("gave no answer in time")?,
                    (true, End::Code(0)) => f.write_str("did not say that it is shmesh")?,
                    (true, end) => write!(f, "{end}")?,
                }
                match said.as_str() {
                    "" => Ok(()),
                    said => write!(f, ": {said}"),
                }
            }
            Note::UpgradeInUpgrade => f.write_str("upgrade refused: another one is under way"),
            Note::UpgradeWhileEnding => f.write_str("upgrade refused: the supervisor ends"),
            Note::TakeOverFailed { in_time: true, end } => {
                write!(f, "upgrade taken back, the sidecar goes on: the new one {end} before it had taken over")
            }
            Note::TakeOverFailed { in_time: false, .. } => f.write_str(
                "upgrade taken back, the sidecar goes on: the new one had not taken over in time, and was killed",
            ),
            Note::Upgraded => f.write_str("upgraded"),
            Note::DiedInUpgrade(end) => {
                write!(f, "the sidecar {end} while the new one was taking over; the new one goes on")
            }
            Note::Orphaned => {
                f.write_str("the new sidecar had not been given everything by the one that died, and starts anew")
            }
            Note::RolledBack { end, lived } => write!(
                f,
                "the new sidecar {end} {} after it had taken over; back to the binary before it",
                Seconds(*lived)
            ),
            Note::Steady => f.write_str("the new sidecar is steady; the binary before it is not kept any longer"),
        }
    }
}

/// As it is said of a process: `ended with code 1`.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            End::Code(code) => write!(f, "ended with code {code}"),
            End::Signal(number) => write!(f, "was ended by signal {number}"),
            End::NotStarted(why) => write!(f, "could not be started ({why})"),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}
