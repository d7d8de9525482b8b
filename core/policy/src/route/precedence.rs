//! Which route wins when several match.

use super::{HostMatch, PathMatch, RouteMatch};
use crate::pattern::{Pattern, Precision};

/// How closely a route says what it takes: the greater one wins, and among equals the one listed first.
///
/// Compared key by key, from the first field to the last; a later one counts only when all before it are equal:
///
/// - HTTP: `host` (exact before `*.suffix`, of these the longer one, any before none); then the path (see
///   [`PathPrecision`]); then `method`; then the number of conditions on headers; then that of conditions on the query.
/// - Dubbo: `service`, then `group`, then `version`, then `method`, then `tag`; then the number of conditions on
///   attachments.
///
/// `service`, `group`, `version`, `method` and `tag`: an exact text before a glob, a glob with more literal bytes before one
/// with fewer, and any glob (even `*`) before none.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specificity {
    /// A suffix counts as a glob of the bytes behind its `*`.
    pub host: Precision,
    pub path: PathPrecision,
    pub service: Precision,
    pub group: Precision,
    pub version: Precision,
    pub method: Precision,
    pub tag: Precision,
    /// How many conditions.
    pub headers: usize,
    /// How many conditions.
    pub query: usize,
    /// How many conditions.
    pub attachments: usize,
}

/// How closely a route says which paths it takes: nothing said < prefix (the longer, the more closely) < regular
/// expression (all alike) < exact.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathPrecision {
    /// Any path.
    Absent,
    /// `path_prefix`, and its bytes without a slash at the end.
    Prefix(usize),
    /// `path_regex`.
    Regex,
    /// `path`.
    Exact,
}

impl RouteMatch {
    /// How closely it says what it takes.
    pub fn specificity(&self) -> Specificity {
        let precision = |key: &Option<Pattern>| key.as_ref().map_or(Precision::Absent, Pattern::precision);
        Specificity {
            host: self.host.as_ref().map_or(Precision::Absent, HostMatch::precision),
            path: self.path.as_ref().map_or(PathPrecision::Absent, PathMatch::precision),
            service: precision(&self.service),
            group: precision(&self.group),
            version: precision(&self.version),
            method: precision(&self.method),
            tag: precision(&self.tag),
            headers: self.headers.len(),
            query: self.query.len(),
            attachments: self.attachments.len(),
        }
    }
}

impl HostMatch {
    fn precision(&self) -> Precision {
        match self {
            HostMatch::Exact(_) => Precision::Exact,
            // One byte more for the dot behind the `*`.
            HostMatch::Suffix(labels) => Precision::Glob(1 + labels.len()),
        }
    }
}

impl PathMatch {
    fn precision(&self) -> PathPrecision {
        match self {
            PathMatch::Exact(_) => PathPrecision::Exact,
            PathMatch::Regex(_) => PathPrecision::Regex,
            PathMatch::Prefix(prefix) => PathPrecision::Prefix(prefix.trim_end_matches('/').len()),
        }
    }
}
