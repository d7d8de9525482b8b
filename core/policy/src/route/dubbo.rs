//! Dubbo routes, indexed by service, so that a call looks only at those that name its service and at those that name none.

use std::collections::HashMap;

use super::{DubboKey, DubboRoute, Group, Route, RouteMatch, looked};
use crate::pattern::Pattern;
use crate::snapshot::ClusterId;

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
                Some(true) => return DubboRoute::To(route.cluster),
                Some(false) => {}
                None => return DubboRoute::NeedsGroup,
            }
        }
        DubboRoute::NoRoute
    }

    /// The cluster of the best route that asks for nothing of a call.
    pub fn of_unread(&self, list: &[Route]) -> Option<ClusterId> {
        let mut routes = self.others.iter().map(|&at| &list[at as usize]);
        routes.find(|route| route.matching.takes_every_dubbo()).map(|route| route.cluster)
    }
}

impl RouteMatch {
    /// Whether no Dubbo call is left out, whatever it says.
    fn takes_every_dubbo(&self) -> bool {
        let RouteMatch { service, group, version, method, .. } = self;
        [service, group, version, method].into_iter().flatten().all(Pattern::is_everything)
    }

    /// `None` when only the group decides, and nobody knows it.
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
        match (&self.group, key.group) {
            (None, _) => Some(true),
            (Some(group), _) if group.is_everything() => Some(true),
            (Some(_), Group::Unknown) => None,
            (Some(group), Group::None) => Some(group.matches(b"")),
            (Some(group), Group::Is(name)) => Some(group.matches(name)),
        }
    }
}

fn matches_key(key: &Option<Pattern>, bytes: &[u8]) -> bool {
    key.as_ref().is_none_or(|pattern| pattern.matches(bytes))
}
