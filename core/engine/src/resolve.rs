//! Host names, as workers ask for them. Who looks them up is another crate (`control/names`): the engine hands on questions, and
//! takes answers by mail.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::mailbox::Postbox;

/// How long a name is left alone after name servers did not answer, or said that they cannot (RFC 9520 §3.2).
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Names of requests that a worker remembers.
pub const NAMES_MAX: usize = 4096;

/// What a worker asks.
pub struct Question {
    /// In lower case.
    pub host: Box<str>,
    /// Configured name servers; none: those of resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// A request names the host, not the configuration: so anybody may ask for any number of these.
    pub of_request: bool,
    pub(crate) port: u16,
    pub(crate) reply_to: Postbox,
}

impl Question {
    /// Tells the worker; again and again after [`Outcome::Late`], once otherwise.
    pub fn answer(&self, outcome: Outcome) {
        let host = HostName { host: self.host.clone(), port: self.port, of_request: self.of_request };
        self.reply_to.resolved(Answer { host, outcome });
    }
}

/// What it is told.
#[derive(Debug)]
pub(crate) struct Answer {
    pub host: HostName,
    pub outcome: Outcome,
}

/// A name in a worker's table. One that a request names is another one than the same in the configuration, so that
/// what requests name neither holds up nor displaces what is configured.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct HostName {
    /// In lower case.
    pub host: Box<str>,
    pub port: u16,
    pub of_request: bool,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its addresses, of one family first, never none; and how long they may be used.
    Found { addresses: Arc<[IpAddr]>, ttl: Duration },
    /// It does not exist, or has no address; and how long that may be believed.
    Absent { ttl: Duration },
    /// Nobody answered, or not with an answer.
    Failed,
    /// Nobody has answered yet; another outcome will follow.
    Late,
}

/// The way to who looks names up.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(Question) + Send + Sync>);

impl Resolver {
    /// `ask` is called on workers: it hands the question on and returns. A worker asks for a name again only when it has
    /// been answered.
    pub fn new(ask: impl Fn(Question) + Send + Sync + 'static) -> Resolver {
        Resolver(Arc::new(ask))
    }

    /// One that never answers.
    pub fn deaf() -> Resolver {
        Resolver::new(drop)
    }

    pub(crate) fn ask(&self, question: Question) {
        (self.0)(question);
    }
}
