//! Where a Dubbo call goes, by the cheapest source that says enough of it: the routing key of its record; what the sidecar
//! before told of it; the strings in front of its arguments; and last, where a route asks for them, the attachments behind these, in one walk for all of them.

use std::sync::Arc;

use shmesh_io::{Driver, Slice};
use shmesh_policy::route::{GROUP_KEY, TAG_KEY};
use shmesh_policy::{Attached, ClusterId, DubboKey, DubboRoute, Fields, Snapshot, Way};
use shmesh_proto::Span;
use shmesh_proto::dubbo::{
    Extension, ExtensionWriter, FrameHeader, Peek, PeekError, Said, SkipError, attachments, serialization,
    service_version,
};

use crate::call::Failure;
use crate::counters::WorkerCounters;
use crate::known_front::{FrontError, KnownFronts};
use crate::route_key::{RouteKey, is_no_version};
use crate::worker::Worker;

/// Where a Dubbo call goes.
pub struct Routed {
    pub way: Way,
    /// What the next sidecar is told in front of the body, if the cluster wants that.
    pub told: Slice,
}

impl Routed {
    /// To a cluster, which is told what is known of the call.
    pub fn to(snapshot: &Snapshot, way: Way, serialization: u8, key: &DubboKey<'_>) -> Routed {
        let wants = snapshot.cluster(way.cluster).is_some_and(|cluster| cluster.dubbo_extension);
        let told = if wants { tell(snapshot.routes.attachment_names(), serialization, key) } else { Slice::empty() };
        Routed { way, told }
    }

    /// With the place of a call that goes nowhere, and why it does.
    pub fn or_nowhere(routed: Result<Routed, Failure>) -> (Routed, Option<Failure>) {
        match routed {
            Ok(routed) => (routed, None),
            Err(failure) => (Routed { way: Way::to(ClusterId(u32::MAX)), told: Slice::empty() }, Some(failure)),
        }
    }
}

impl<D: Driver> Worker<D> {
    /// The cluster for a request of a consumer on a socket or stream. An extension header is taken off; `extended` says
    /// whether there may be one.
    pub(crate) fn dubbo_route(
        &mut self,
        extended: bool,
        header: &mut FrameHeader,
        body: &mut Slice,
    ) -> Result<Routed, Failure> {
        if header.serialization != serialization::EXTENSION {
            return self.dubbo_route_plain(header.serialization, body.as_slice(), None);
        }
        let whole = body.clone();
        let (said, len) = match Extension::parse(whole.as_slice()) {
            Ok(parsed) if extended => parsed,
            Ok(_) => return Err(Failure::MalformedRequest),
            Err(error) => {
                tracing::debug!(%error, "an extended Dubbo request is refused");
                return Err(Failure::MalformedRequest);
            }
        };
        body.advance(len);
        header.serialization = said.serialization;
        header.body_len -= len as u32;
        self.dubbo_route_plain(header.serialization, body.as_slice(), Some(&said))
    }

    /// The cluster for a request without extension header, of which one may have said something.
    fn dubbo_route_plain(
        &mut self,
        serialization: u8,
        body: &[u8],
        said: Option<&Extension<'_>>,
    ) -> Result<Routed, Failure> {
        let snapshot = &self.snapshot;
        let front = match self.fronts.front(serialization, body) {
            Ok((front, is_new)) => {
                self.counters.dubbo_fronts_read.add(u64::from(is_new));
                Some(front)
            }
            Err(FrontError::Flaw(PeekError::UnknownSerialization(_))) => None,
            Err(error) => {
                tracing::debug!(%error, "a Dubbo request cannot be peeked");
                return Err(Failure::MalformedRequest);
            }
        };
        let key = match (front.as_deref(), said) {
            (Some(front), None) => strings_of(&front.peek, body),
            (Some(front), Some(said)) => {
                let (strings, said) = (strings_of(&front.peek, body), said_in(said));
                if (strings.service, strings.method, strings.version) != (said.service, said.method, said.version) {
                    tracing::debug!("an extended Dubbo request says something else than its body");
                    return Err(Failure::MalformedRequest);
                }
                said
            }
            (None, Some(said)) => said_in(said),
            (None, None) => {
                let way = snapshot.route_unread_dubbo().ok_or(Failure::Unread)?;
                return Ok(Routed { way, told: Slice::empty() });
            }
        };
        let source = match said {
            Some(_) => &self.counters.dubbo_keys_of_extension,
            None => &self.counters.dubbo_keys_of_strings,
        };
        if said.is_none()
            && let Some(way) = front.as_deref().and_then(|front| front.routed(snapshot))
        {
            source.add(1);
            return Ok(Routed::to(snapshot, way, serialization, &key));
        }
        if let Some(routed) = decided(snapshot, serialization, &key) {
            source.add(1);
            if let (None, Some(front), Ok(routed)) = (said, front, &routed) {
                front.set_routed(snapshot, routed.way);
            }
            return routed;
        }
        let names = snapshot.routes.attachment_names();
        let says_all = |said: &&Extension<'_>| names.iter().all(|name| said_of(said, name) != Said::Nothing);
        if let Some(said) = said.filter(says_all) {
            source.add(1);
            let key = DubboKey { attachments: Some(&SaidFields(said)), ..key };
            return decided(snapshot, serialization, &key).unwrap_or(Err(Failure::NoRoute));
        }
        self.counters.dubbo_keys_of_skipper.add(1);
        let front = front.as_deref().ok_or(Failure::Unread)?;
        self.attachments.route(snapshot, serialization, body, &front.peek, key)
    }
}

/// What the strings in front of the arguments say.
fn strings_of<'a>(peek: &'a Peek, body: &'a [u8]) -> DubboKey<'a> {
    let texts = peek.texts(body);
    DubboKey {
        service: peek.path.of(texts),
        method: peek.method.of(texts),
        version: service_version(peek, body),
        group: Attached::Unknown,
        tag: Attached::Unknown,
        attachments: None,
    }
}

/// What an extension header says.
fn said_in<'a>(said: &Extension<'a>) -> DubboKey<'a> {
    DubboKey {
        service: said.service,
        method: said.method,
        version: said.version.filter(|version| !is_no_version(version)),
        group: said.group.map_or(Attached::Unknown, Attached::of),
        tag: said.tag.map_or(Attached::Unknown, Attached::of),
        attachments: None,
    }
}

/// What an extension header says of an attachment, group and tag among them.
fn said_of<'a>(said: &Extension<'a>, name: &str) -> Said<'a> {
    match name {
        GROUP_KEY => said.group.map_or(Said::Nothing, Said::Is),
        TAG_KEY => said.tag.map_or(Said::Nothing, Said::Is),
        _ => said.attachment(name),
    }
}

/// The attachments that an extension header names.
struct SaidFields<'a>(&'a Extension<'a>);

impl Fields for SaidFields<'_> {
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        match self.0.attachment(name) {
            Said::Is(text) => fits(text),
            Said::Absent | Said::Nothing => false,
        }
    }
}

/// Writes an extension header; empty if it would be too long.
fn tell(names: &[Arc<str>], serialization: u8, key: &DubboKey<'_>) -> Slice {
    let mut told = Vec::new();
    let mut writer = ExtensionWriter::new(&mut told, serialization, key.service, key.method);
    if let Some(version) = key.version {
        writer.version(version);
    }
    match key.group {
        Attached::Unknown => {}
        Attached::None => writer.group(b""),
        Attached::Is(group) => writer.group(group),
    }
    match key.tag {
        Attached::Unknown => {}
        Attached::None => writer.tag(b""),
        Attached::Is(tag) => writer.tag(tag),
    }
    if let Some(attachments) = key.attachments {
        for name in names.iter().filter(|name| ![GROUP_KEY, TAG_KEY].contains(&&***name)) {
            let mut write = |text: &[u8]| {
                writer.attachment(name, Some(text));
                true
            };
            if !attachments.any(name, &mut write) {
                writer.attachment(name, None);
            }
        }
    }
    if writer.finish() { Slice::from_vec(told) } else { Slice::empty() }
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
    ) -> Result<Routed, Failure> {
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
        decided(snapshot, serialization, &key).unwrap_or(Err(Failure::NoRoute))
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

    fn attached(&self, name: &str) -> Attached<'a> {
        self.value(name).map_or(Attached::None, Attached::of)
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
fn decided(snapshot: &Snapshot, serialization: u8, key: &DubboKey<'_>) -> Option<Result<Routed, Failure>> {
    match snapshot.route_dubbo(key) {
        DubboRoute::To(way) => Some(Ok(Routed::to(snapshot, way, serialization, key))),
        DubboRoute::NoRoute => Some(Err(Failure::NoRoute)),
        DubboRoute::NeedsAttachments => None,
    }
}

/// The strings in front of a frame's arguments, if they are those of its key.
pub fn agreeing<'f>(
    fronts: &'f mut KnownFronts,
    counters: &WorkerCounters,
    key: &RouteKey,
    serialization: u8,
    body: &[u8],
) -> Option<&'f Peek> {
    let (front, is_new) = fronts.front(serialization, body).ok()?;
    counters.dubbo_fronts_read.add(u64::from(is_new));
    let strings = strings_of(&front.peek, body);
    key.agrees(strings.service, strings.method, strings.version).then_some(&front.peek)
}
