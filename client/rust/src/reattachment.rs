//! A serving app looks for a sidecar while there is none, and is held up by none that takes connections and does not answer.

use std::sync::Arc;
use std::time::Duration;

use crate::attachment::{Attachment, Progress};
use crate::clock;
use crate::session::{Attach, Session};
use crate::wire::Wire;

/// How often it looks, in nanoseconds.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// How often it looks whether a sidecar that it found has answered.
const WELCOME_LOOK: Duration = Duration::from_millis(20);

/// The search.
#[derive(Debug)]
pub(crate) struct Reattachment {
    attachment: Option<Attachment>,
    /// On the shim's clock.
    look_at: u64,
}

impl Reattachment {
    /// Begins with a look.
    pub fn new() -> Reattachment {
        Reattachment { attachment: None, look_at: clock::now() }
    }

    /// How long nothing is to be done.
    pub fn pause(&self) -> Duration {
        match self.attachment {
            Some(_) => WELCOME_LOOK,
            None => Duration::from_nanos(self.look_at.saturating_sub(clock::now())),
        }
    }

    /// Looks, if it is time. Some: there is a sidecar.
    pub fn advance(&mut self, attach: &Attach) -> Option<(Arc<Session>, Vec<Wire>)> {
        let begun = match self.attachment.take() {
            None if clock::now() < self.look_at => return None,
            None => Attachment::begin(attach),
            Some(attachment) => Ok(attachment),
        };
        let opened = match begun.and_then(Attachment::advance) {
            Ok(Progress::Pending(attachment)) => {
                self.attachment = Some(attachment);
                return None;
            }
            Ok(Progress::Done(welcomed)) => Session::open(welcomed, attach),
            Err(error) => Err(error),
        };
        self.look_at = clock::now().saturating_add(LOOK_EVERY_NS);
        opened.ok()
    }
}
