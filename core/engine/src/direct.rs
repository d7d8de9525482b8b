//! The switch by which apps are told to go round this sidecar, and what they are told because it yields: the direct-mode word of
//! each session.

use std::collections::BTreeMap;

use shmesh_policy::Priority;
use shmesh_shm::DirectShares;

/// Of so many calls a share goes round.
pub const DIRECT_ALL: u16 = 1000;
/// Most apps that are told something else than the others.
pub const DIRECT_APPS_MAX: usize = 1024;

/// How many of each thousand calls go round the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Direct {
    /// Of apps that are not named.
    pub share: u16,
    /// Of apps by their name.
    pub apps: BTreeMap<String, u16>,
}

impl Direct {
    /// What an app is told.
    pub fn of(&self, app: &str) -> u16 {
        self.apps.get(app).copied().unwrap_or(self.share).min(DIRECT_ALL)
    }

    /// The same while a share of all calls is yielded: whatever is more. Only the switch says that all are to go round.
    pub fn shares(&self, app: &str, yielded: u16) -> DirectShares {
        let yielded = yielded.min(DIRECT_ALL - 1);
        let yielded = DirectShares {
            low: Priority::Low.share(yielded),
            default: Priority::Default.share(yielded),
            high: Priority::High.share(yielded),
        };
        yielded.or(DirectShares::all(self.of(app)))
    }

    /// Tells one app, or all of them, whatever they were told apart. False: too many apps are told something of their own.
    #[must_use]
    pub fn set(&mut self, app: Option<&str>, share: u16) -> bool {
        let share = share.min(DIRECT_ALL);
        match app {
            None => *self = Direct { share, apps: BTreeMap::new() },
            Some(app) if self.apps.len() >= DIRECT_APPS_MAX && !self.apps.contains_key(app) => return false,
            Some(app) => drop(self.apps.insert(app.to_owned(), share)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_yielded_and_what_the_switch_says_are_one_word() {
        let mut direct = Direct::default();
        assert!(direct.set(Some("a"), 700));
        assert_eq!(direct.shares("b", 0), DirectShares::default());
        assert_eq!(direct.shares("b", 400), DirectShares { low: 800, default: 400, high: 0 });
        assert_eq!(direct.shares("a", 400), DirectShares { low: 800, default: 700, high: 700 });
        assert_eq!(direct.shares("b", 1000), DirectShares { low: 1000, default: 999, high: 998 });
        assert!(direct.set(None, 1000) && direct.shares("b", 1000).is_all() && direct.shares("b", 0).is_all());
    }

    #[test]
    fn one_app_is_told_apart_until_all_are_told() {
        let mut direct = Direct::default();
        assert!(direct.set(Some("a"), 5000) && direct.set(Some("b"), 10));
        assert_eq!(["a", "b", "c"].map(|app| direct.of(app)), [1000, 10, 0]);
        assert!(direct.set(None, 1000) && direct.set(Some("b"), 0));
        assert_eq!(["a", "b", "c"].map(|app| direct.of(app)), [1000, 0, 1000]);
        assert!(direct.set(None, 0));
        assert_eq!(direct, Direct::default());
    }

    #[test]
    fn apps_of_their_own_are_bounded() {
        let mut direct = Direct::default();
        assert!((0..DIRECT_APPS_MAX).all(|app| direct.set(Some(&app.to_string()), 1)));
        assert!(!direct.set(Some("one more"), 1) && direct.set(Some("7"), 2) && direct.set(None, 3));
    }
}
