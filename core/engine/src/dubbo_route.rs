//! Where a Dubbo call goes, by the cheapest source that says enough of it: the routing key of its record; the strings in
//! front of its arguments; and last, where a route asks for them, the attachments behind these, in one walk for all of them.

use std::sync::Arc;

use shmesh_io::Driver;
use shmesh_policy::route::{GROUP_KEY, TAG_KEY};
use shmesh_policy::{Attached, DubboKey, DubboRoute, Fields, Snapshot};
use shmesh_proto::Span;
use shmesh_proto::dubbo::{
    FrameHeader, Peek, PeekError, PeekOutcome, SkipError, attachments, peek_request, service_version,
};

use crate::call::Failure;
use crate::route_key::RouteKey;
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// The cluster for a request of a consumer on a socket or stream.
    pub(crate) fn dubbo_route(&mut self, header: &FrameHeader, body: &[u8]) -> Result<u32, Failure> {
        let snapshot = &self.snapshot;
        let peek = match peek_request(header.serialization, body, true) {
            Ok(PeekOutcome::Done(peek)) => peek,
            Ok(PeekOutcome::NeedMore) => return Err(Failure::MalformedRequest),
            Err(PeekError::UnknownSerialization(_)) => {
                return snapshot.route_unread_dubbo().map(|cluster| cluster.0).ok_or(Failure::Unread);
            }
            Err(error) => {
                tracing::debug!(%error, "a Dubbo request cannot be peeked");
                return Err(Failure::MalformedRequest);
            }
        };
        let texts = peek.texts(body);
        let key = DubboKey {
            service: peek.path.of(texts),
            method: peek.method.of(texts),
            version: service_version(&peek, body),
            group: Attached::Unknown,
            tag: Attached::Unknown,
            attachments: None,
        };
        if let Some(routed) = decided(snapshot.route_dubbo(&key)) {
            self.counters.dubbo_keys_of_strings.add(1);
            return routed;
        }
        self.counters.dubbo_keys_of_skipper.add(1);
        self.attachments.route(snapshot, header.serialization, body, &peek, key)
    }
}

/// What a walk over a request's arguments found behind them. Kept for its memory only.
#[derive(Default)]
pub struct Attachments {
    /// In the order of [`shmesh_policy::Routes::attachment_names`].
    values: Vec<Option<Span>>,
}

impl Attachments {
    /// The cluster for a call whose `key` does not say enough. What it says stands, the rest is looked for in the frame.
    pub fn route(
        &mut self,
        snapshot: &Snapshot,
        serialization: u8,
        body: &[u8],
        peek: &Peek,
        key: DubboKey<'_>,
    ) -> Result<u32, Failure> {
        let names = snapshot.routes.attachment_names();
        self.values.resize(names.len(), None);
        match attachments(serialization, body, peek, names, &mut self.values) {
            Ok(()) => {}
            Err(SkipError::UnknownSerialization(_)) => return Err(Failure::Unread),
            Err(error) => {
                tracing::debug!(%error, "the attachments of a Dubbo request cannot be found");
                return Err(Failure::MalformedRequest);
            }
        }
        let found = Found { names, values: &self.values, body };
        let key = DubboKey {
            group: known_or(key.group, found.attached(GROUP_KEY)),
            tag: known_or(key.tag, found.attached(TAG_KEY)),
            attachments: Some(&found),
            ..key
        };
        decided(snapshot.route_dubbo(&key)).unwrap_or(Err(Failure::NoRoute))
    }
}

/// Attachments by name, with its case.
struct Found<'a> {
    /// In order.
    names: &'a [Arc<str>],
    values: &'a [Option<Span>],
    body: &'a [u8],
}

impl<'a> Found<'a> {
    fn value(&self, name: &str) -> Option<&'a [u8]> {
        let at = self.names.binary_search_by(|known| (**known).cmp(name)).ok()?;
        Some(self.values[at]?.of(self.body))
    }

    /// An empty group or tag is none.
    fn attached(&self, name: &str) -> Attached<'a> {
        match self.value(name) {
            None | Some(b"") => Attached::None,
            Some(value) => Attached::Is(value),
        }
    }
}

impl Fields for Found<'_> {
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.value(name).is_some_and(fits)
    }
}

fn known_or<'a>(known: Attached<'a>, found: Attached<'a>) -> Attached<'a> {
    if known == Attached::Unknown { found } else { known }
}

/// `None` if the attachments decide.
fn decided(route: DubboRoute) -> Option<Result<u32, Failure>> {
    match route {
        DubboRoute::To(cluster) => Some(Ok(cluster.0)),
        DubboRoute::NoRoute => Some(Err(Failure::NoRoute)),
        DubboRoute::NeedsAttachments => None,
    }
}

/// The strings in front of a frame's arguments, if they are those of its key.
pub fn peek_agreeing(key: &RouteKey, serialization: u8, body: &[u8]) -> Option<Peek> {
    let Ok(PeekOutcome::Done(peek)) = peek_request(serialization, body, true) else { return None };
    let texts = peek.texts(body);
    key.agrees(peek.path.of(texts), peek.method.of(texts), service_version(&peek, body)).then_some(peek)
}
