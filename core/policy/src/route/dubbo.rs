//! Dubbo routes, indexed by service, so that a call looks only at those that name its service and at those that name none.

use std::collections::HashMap;

use super::{Attached, DubboKey, DubboRoute, Route, RouteMatch, Way, looked};
use crate::pattern::Pattern;

/// What Dubbo writes for a service without a version (`org.apache.dubbo.remoting.Constants`, `DEFAULT_VERSION`).
pub(super) const NO_VERSION: &str = "0.0.0";

/// Positions in the list of routes, best first.
#[derive(Clone, Debug, Default)]
pub(super) struct DubboIndex {
    /// Of routes with an exact service.
    by_service: HashMap<Box<[u8]>, Vec<u32>>,
    /// Of all others.
    others: Vec<u32>,
}

impl DubboIndex {
    /// Adds a route in normal form, which is in the list at `at`; better ones come first.
    pub fn push(&mut self, matching: &RouteMatch, at: u32) {
        match matching.service.as_ref().and_then(Pattern::exact) {
            Some(service) => self.by_service.entry(service.as_bytes().into()).or_default().push(at),
            None => self.others.push(at),
        }
    }

    /// Where a call goes.
    pub fn route(&self, list: &[Route], key: &DubboKey<'_>) -> DubboRoute {
        looked();
        let named = self.by_service.get(key.service).map_or(&[][..], Vec::as_slice);
        for &at in named.iter().chain(&self.others) {
            looked();
            let route = &list[at as usize];
            match route.matching.takes_dubbo(key) {
                Some(true) => return DubboRoute::To(route.way()),
                Some(false) => {}
                None => return DubboRoute::NeedsAttachments,
            }
        }
        DubboRoute::NoRoute
    }

    /// Where the best route leads that asks for nothing of a call.
    pub fn of_unread(&self, list: &[Route]) -> Option<Way> {
        let mut routes = self.others.iter().map(|&at| &list[at as usize]);
        routes.find(|route| route.matching.takes_every_dubbo()).map(Route::way)
    }
}

impl RouteMatch {
    /// Whether no Dubbo call is left out, whatever it says.
    fn takes_every_dubbo(&self) -> bool {
        let RouteMatch { service, group, version, method, tag, attachments, .. } = self;
        [service, group, version, method, tag].into_iter().flatten().all(Pattern::is_everything)
            && attachments.is_empty()
    }

    /// `None` when only what nobody knows yet decides.
    fn takes_dubbo(&self, key: &DubboKey<'_>) -> Option<bool> {
        let version = match key.version {
            Some(version) if version != NO_VERSION.as_bytes() => version,
            _ => b"",
        };
        if !matches_key(&self.service, key.service)
            || !matches_key(&self.version, version)
            || !matches_key(&self.method, key.method)
        {
            return Some(false);
        }
        let conditions = match key.attachments {
            _ if self.attachments.is_empty() => Some(true),
            Some(fields) => Some(self.attachments.iter().all(|condition| condition.holds(fields))),
            None => None,
        };
        let attached = [matches_attached(&self.group, key.group), matches_attached(&self.tag, key.tag), conditions];
        if attached.contains(&Some(false)) {
            return Some(false);
        }
        attached.into_iter().all(|fits| fits == Some(true)).then_some(true)
    }
}

/// `None` when it depends on what nobody knows yet.
fn matches_attached(key: &Option<Pattern>, value: Attached<'_>) -> Option<bool> {
    match (key, value) {
        (None, _) => Some(true),
        (Some(pattern), _) if pattern.is_everything() => Some(true),
        (Some(_), Attached::Unknown) => None,
        (Some(pattern), Attached::None) => Some(pattern.matches(b"")),
        (Some(pattern), Attached::Is(text)) => Some(pattern.matches(text)),
    }
}

fn matches_key(key: &Option<Pattern>, bytes: &[u8]) -> bool {
    key.as_ref().is_none_or(|pattern| pattern.matches(bytes))
}
