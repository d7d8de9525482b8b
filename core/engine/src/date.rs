//! The Date of answers, made once a second.

use std::time::{SystemTime, UNIX_EPOCH};

use shmesh_io::Nanos;
use shmesh_proto::http1::Date;

const SECOND: Nanos = 1_000_000_000;

/// What to write as Date, and for how long.
pub struct DateNow {
    date: Date,
    until: Nanos,
}

impl Default for DateNow {
    fn default() -> Self {
        DateNow { date: Date::at(0), until: 0 }
    }
}

impl DateNow {
    /// The date at `now`, of the driver's clock; the system's clock is looked at once a second.
    pub fn at(&mut self, now: Nanos) -> &Date {
        if now >= self.until {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.date = Date::at(since.as_secs());
            self.until = now + SECOND - Nanos::from(since.subsec_nanos());
        }
        &self.date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_once_a_second() {
        let mut now = DateNow::default();
        let first = now.at(5 * SECOND).clone();
        assert_ne!(first, Date::at(0));
        assert!(now.until > 5 * SECOND && now.until <= 6 * SECOND);
        now.date = Date::at(1);
        assert_eq!(*now.at(5 * SECOND), Date::at(1), "in the same second");
        assert_ne!(*now.at(6 * SECOND), Date::at(1));
    }
}
