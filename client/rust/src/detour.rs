//! The paths of one call round the sidecar: which comes next, and whether one that failed leads on to it.

use std::sync::Arc;

use crate::direct::{Failed, Place, Rules, Why};
use crate::error::{CallError, Ran};

/// What the app is told of a body that is not as long as it announced.
pub(crate) const UNFIT: &str = "more or less body than was announced";

/// A path that a call may take, and what kind of path it is.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub place: Arc<Place>,
    pub by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Listener,
    CentralProxy,
    Endpoint,
}

/// One call on its way round the sidecar.
#[derive(Debug)]
pub(crate) struct Detour {
    paths: std::vec::IntoIter<Path>,
    pub rules: Rules,
    /// How often it is sent to endpoints at most.
    attempts: u32,
    sent: u32,
    ran: Ran,
}

impl Detour {
    /// `ran`: what became of it before.
    pub fn new(paths: Vec<Path>, rules: Rules, attempts: u32, ran: Ran) -> Detour {
        Detour { paths: paths.into_iter(), rules, attempts, sent: 0, ran }
    }

    /// The path to take now.
    pub fn next(&mut self) -> Option<Path> {
        self.paths.next()
    }

    /// A path failed. Whether the call is to be made on the next one.
    pub fn goes_on(&mut self, by: By, failed: &Failed) -> bool {
        let by_proxy = by != By::Endpoint;
        if failed.why == Why::Unfit {
            return false;
        }
        match failed.ran {
            Ran::No => failed.why != Why::Late,
            Ran::Maybe => {
                self.ran = Ran::Maybe;
                self.sent += if by_proxy { 0 } else { failed.sent };
                // An endpoint that is slow is no reason to ask another; a proxy is.
                self.rules.idempotent && (by_proxy || failed.why != Why::Late && self.sent < self.attempts)
            }
        }
    }

    /// What the caller is told when nothing comes after a path that failed.
    pub fn error(&self, by: By, failed: Failed) -> CallError {
        let (Failed { why, sentence, .. }, ran) = (failed, self.ran);
        match (why, by, ran) {
            (Why::Unfit, ..) => CallError::BadRequest(UNFIT),
            (Why::Late, ..) => CallError::Timeout { ran, sentence },
            (_, By::Listener, Ran::Maybe) => CallError::MaybeExecuted(sentence),
            _ => CallError::Direct { ran, sentence },
        }
    }
}
