//! Payloads: each call's bytes are a function of its number, so that an answer is compared without
//! a copy of what was sent, from any offset, as it comes in.
//!
//! Word *i* of a payload is `seed + i · STEP`: no two words of a payload are the same, another call has another seed,
//! and filling and checking run about as fast as memory does. Everything that is measured beside shmesh fills and checks
//! with this code (or, in C, with the same sum), so that it costs all of them the same.

/// What words are apart, an odd number (the increment of splitmix64).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a word.
const WORD: usize = 8;
/// Words that are written and compared at a time, and their bytes: a cache line.
const GROUP: usize = 8;
const GROUP_BYTES: usize = GROUP * WORD;

/// The payloads of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    salt: u64,
    len: usize,
    text: bool,
}

impl Payload {
    /// Payloads of `len` bytes, others for every `salt`; `text` keeps to printable ASCII.
    pub fn new(salt: u64, len: usize, text: bool) -> Self {
        Self { salt, len, text }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends the payload of call `number`.
    pub fn append(&self, number: u64, out: &mut Vec<u8>) {
        out.reserve(self.len);
        self.write(number, |bytes| out.extend_from_slice(bytes));
    }

    /// Hands the payload of call `number` over, a few words at a time.
    pub fn write(&self, number: u64, mut take: impl FnMut(&[u8])) {
        let words = self.words(number);
        let groups = self.len / GROUP_BYTES;
        for group in 0..groups {
            take(&words.group(group * GROUP));
        }
        take(&words.group(groups * GROUP)[..self.len % GROUP_BYTES]);
    }

    /// Whether `bytes` are what call `number` sent from `offset` on.
    pub fn matches(&self, number: u64, offset: usize, bytes: &[u8]) -> bool {
        bytes.len() <= self.len.saturating_sub(offset) && self.words(number).match_at(offset, bytes)
    }

    fn words(&self, number: u64) -> Words {
        Words { seed: mix(self.salt.wrapping_add(number.wrapping_mul(STEP))), text: self.text }
    }
}

/// Whether bytes are the payload of *some* call, for who does not know which: the first word tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    first: [u8; WORD],
    taken: usize,
    wrong: bool,
}

impl Check {
    /// Looks at the next bytes of a payload (not one of text).
    pub fn take(&mut self, bytes: &[u8]) {
        let missing = WORD.saturating_sub(self.taken).min(bytes.len());
        let (first, rest) = bytes.split_at(missing);
        self.first[self.taken.min(WORD)..][..missing].copy_from_slice(first);
        self.taken += missing;
        if !rest.is_empty() {
            let words = Words { seed: u64::from_le_bytes(self.first), text: false };
            self.wrong |= !words.match_at(self.taken, rest);
            self.taken += rest.len();
        }
    }

    /// Some byte was not what the first word had promised.
    pub fn is_wrong(&self) -> bool {
        self.wrong
    }
}

/// The words of one payload.
#[derive(Clone, Copy)]
struct Words {
    seed: u64,
    text: bool,
}

impl Words {
    fn word(self, index: usize) -> [u8; WORD] {
        let word = self.seed.wrapping_add((index as u64).wrapping_mul(STEP));
        match self.text {
            // Six bits a byte, from '0' (0x30) to 'o' (0x6f).
            true => (word & 0x3f3f_3f3f_3f3f_3f3f) + 0x3030_3030_3030_3030,
            false => word,
        }
        .to_le_bytes()
    }

    /// The words from `index` on.
    #[inline]
    fn group(self, index: usize) -> [u8; GROUP_BYTES] {
        let mut group = [0; GROUP_BYTES];
        for (i, place) in group.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
            *place = self.word(index + i);
        }
        group
    }

    fn match_at(self, offset: usize, bytes: &[u8]) -> bool {
        let begin = offset % WORD;
        let first = (WORD - begin) % WORD;
        let (front, rest) = bytes.split_at(first.min(bytes.len()));
        if !front.is_empty() && front != &self.word(offset / WORD)[begin..begin + front.len()] {
            return false;
        }
        let index = (offset + front.len()) / WORD;
        let (groups, rest) = rest.as_chunks::<GROUP_BYTES>();
        if groups.iter().enumerate().any(|(i, group)| self.differ(index + i * GROUP, group)) {
            return false;
        }
        let index = index + groups.len() * GROUP;
        let (words, tail) = rest.as_chunks::<WORD>();
        !self.differ(index, rest) && (tail.is_empty() || tail == &self.word(index + words.len())[..tail.len()])
    }

    /// Whether any of the whole words of `bytes` is another than those from `index` on.
    #[inline]
    fn differ(self, index: usize, bytes: &[u8]) -> bool {
        let words = bytes.as_chunks::<WORD>().0.iter().enumerate();
        words.fold(0, |differences, (i, word)| {
            differences | (u64::from_le_bytes(*word) ^ u64::from_le_bytes(self.word(index + i)))
        }) != 0
    }
}

/// The output function of splitmix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(payload: &Payload, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        payload.append(number, &mut out);
        out
    }

    #[test]
    fn every_part_of_a_payload_matches_and_no_other() {
        for text in [false, true] {
            for len in [0, 1, 7, 8, 9, 64, 100, 150] {
                let payload = Payload::new(42, len, text);
                let sent = bytes(&payload, 5);
                assert_eq!(sent.len(), len);
                for from in 0..=len {
                    for to in from..=len {
                        assert!(payload.matches(5, from, &sent[from..to]), "{len} {from} {to}");
                    }
                }
                for at in 0..len {
                    let mut wrong = sent.clone();
                    wrong[at] ^= 1;
                    assert!(!payload.matches(5, 0, &wrong), "{len} {at}");
                }
                let mut long = sent;
                long.push(0);
                assert!(!payload.matches(5, 0, &long));
                assert!(!payload.matches(5, len + 1, b"x"));
            }
        }
    }

    #[test]
    fn payloads_differ_between_calls_and_connections() {
        let all: std::collections::HashSet<_> = (0..4)
            .flat_map(|salt| (0..1000).map(move |number| bytes(&Payload::new(salt, 16, false), number)))
            .collect();
        assert_eq!(all.len(), 4000);
    }

    #[test]
    fn a_check_needs_no_number_and_finds_every_wrong_byte() {
        for len in [8, 16, 64, 150] {
            let sent = bytes(&Payload::new(7, len, false), 3);
            let wrong_in_parts = |bytes: &[u8], part: usize| {
                let mut check = Check::default();
                bytes.chunks(part).for_each(|bytes| check.take(bytes));
                check.is_wrong()
            };
            for part in [1, 3, 8, 64, 150] {
                assert!(!wrong_in_parts(&sent, part), "{len} in parts of {part}");
                for at in 0..len {
                    let mut wrong = sent.clone();
                    wrong[at] ^= 1;
                    // The first word by itself is as good as any other.
                    assert_eq!(wrong_in_parts(&wrong, part), len > WORD, "{len} {at} in parts of {part}");
                }
            }
        }
    }

    #[test]
    fn text_is_printable() {
        let text = bytes(&Payload::new(9, 4096, true), 1);
        assert!(text.iter().all(|b| (b'0'..=b'o').contains(b)));
    }
}
