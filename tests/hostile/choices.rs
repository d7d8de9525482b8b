//! Where an attack's decisions come from: a seed, so that a run can be told to somebody else, or the bytes of a fuzzer.

/// A source of decisions.
pub enum Choices<'a> {
    Seeded(u64),
    Bytes(&'a [u8]),
}

impl Choices<'_> {
    /// The next 64 bits; 0 when the fuzzer's bytes are used up.
    pub fn word(&mut self) -> u64 {
        match self {
            // SplitMix64 (Steele, Lea, Flood 2014).
            Choices::Seeded(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            Choices::Bytes(_) => self.take(8),
        }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        let width = match n {
            0..=1 => return 0,
            2..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 8,
        };
        let word = if matches!(self, Choices::Bytes(_)) { self.take(width) } else { self.word() };
        word % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// No decisions are left: what follows would be all zeroes.
    pub fn is_spent(&self) -> bool {
        matches!(self, Choices::Bytes([]))
    }

    fn take(&mut self, width: usize) -> u64 {
        let Choices::Bytes(bytes) = self else { return 0 };
        let (now, rest) = bytes.split_at(width.min(bytes.len()));
        *bytes = rest;
        now.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }
}
