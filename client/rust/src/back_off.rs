//! Addresses that failed a moment ago, and are not tried before the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shmesh_policy::Address;

use crate::clock;

/// How long an address comes last: longer than most calls take, short enough that a restart is noticed at once.
const BACK_OFF: Duration = Duration::from_millis(500);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 1024;

/// Who failed, and until when that counts.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    until: Mutex<HashMap<Address, u64>>,
    /// How many these are.
    count: AtomicUsize,
}

impl BackOff {
    /// It failed.
    pub fn failed(&self, address: &Address) {
        let now = clock::now();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, until| *until > now);
        if until.len() < ADDRESSES_MAX {
            until.insert(address.clone(), now.saturating_add(clock::nanos(BACK_OFF)));
        }
        self.count.store(until.len(), Ordering::Relaxed);
    }

    /// It failed lately.
    pub fn holds(&self, address: &Address) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(address).is_some_and(|until| *until > clock::now())
    }
}
