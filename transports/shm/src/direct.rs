//! The direct-mode word: docs/spec/shm-v1.md §2.

/// What a call is worth when not all can go through the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    Low = 0,
    #[default]
    Default = 1,
    High = 2,
}

impl Priority {
    /// From its number in POLICY; `None`: a later version's.
    pub fn from_u8(number: u8) -> Option<Priority> {
        [Priority::Low, Priority::Default, Priority::High].into_iter().find(|priority| *priority as u8 == number)
    }
}

/// A share that is all calls.
const ALL: u16 = 1000;

/// Of a thousand calls of each priority so many are to go round the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectShares {
    pub low: u16,
    pub default: u16,
    pub high: u16,
}

impl DirectShares {
    /// The same of all priorities.
    pub fn all(share: u16) -> DirectShares {
        DirectShares { low: share, default: share, high: share }
    }

    /// The larger ones of two.
    #[must_use]
    pub fn or(self, other: DirectShares) -> DirectShares {
        DirectShares {
            low: self.low.max(other.low),
            default: self.default.max(other.default),
            high: self.high.max(other.high),
        }
    }

    pub fn of(self, priority: Priority) -> u16 {
        match priority {
            Priority::Low => self.low,
            Priority::Default => self.default,
            Priority::High => self.high,
        }
    }

    /// The largest one.
    pub fn most(self) -> u16 {
        self.low.max(self.default).max(self.high)
    }

    /// Every call is to go round.
    pub fn is_all(self) -> bool {
        self.low.min(self.default).min(self.high) >= ALL
    }

    /// As the word has it; `priorities`: both sides know feature bit 2.
    pub fn word(self, priorities: bool) -> u64 {
        let others = u64::from(self.low) << 16 | u64::from(self.high) << 32;
        u64::from(self.default) | if priorities { others } else { 0 }
    }

    /// As [`DirectShares::word`] wrote it.
    pub fn from_word(word: u64, priorities: bool) -> DirectShares {
        // Bits that are not named are reserved.
        let default = word as u16;
        match priorities {
            true => DirectShares { low: (word >> 16) as u16, default, high: (word >> 32) as u16 },
            false => DirectShares::all(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_share_has_its_bits() {
        let shares = DirectShares { low: 1000, default: 0x0102, high: 3 };
        assert_eq!(shares.word(true), 0x0003_03e8_0102);
        assert_eq!(DirectShares::from_word(shares.word(true) | 7 << 48, true), shares);
        assert_eq!([Priority::Low, Priority::Default, Priority::High].map(|of| shares.of(of)), [1000, 0x0102, 3]);
        assert_eq!((shares.most(), shares.is_all()), (1000, false));
        assert!(DirectShares::all(1000).is_all() && !DirectShares::all(999).is_all());
    }

    #[test]
    fn who_does_not_know_priorities_has_one_share() {
        let shares = DirectShares { low: 1000, default: 500, high: 0 };
        assert_eq!(shares.word(false), 500);
        for word in [500, shares.word(true)] {
            assert_eq!(DirectShares::from_word(word, false), DirectShares::all(500));
        }
        assert_eq!(shares.or(DirectShares::all(600)), DirectShares { low: 1000, default: 600, high: 600 });
    }
}
