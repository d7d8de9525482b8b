//! Payloads: each call's bytes are a function of its number, so that an answer is compared without
//! a copy of what was sent, from any offset, as it comes in.

/// Where words are odd multiples apart (the increment of splitmix64).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a word.
const WORD: usize = 8;

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
        let seed = self.seed(number);
        out.reserve(self.len);
        for index in 0..self.len / WORD {
            out.extend_from_slice(&self.word(seed, index));
        }
        let tail = self.word(seed, self.len / WORD);
        out.extend_from_slice(&tail[..self.len % WORD]);
    }

    /// Whether `bytes` are what call `number` sent from `offset` on.
    pub fn matches(&self, number: u64, offset: usize, bytes: &[u8]) -> bool {
        if bytes.len() > self.len.saturating_sub(offset) {
            return false;
        }
        let seed = self.seed(number);
        let first = (WORD - offset % WORD) % WORD;
        let (front, rest) = bytes.split_at(first.min(bytes.len()));
        let begin = offset % WORD;
        if front != &self.word(seed, offset / WORD)[begin..begin + front.len()] {
            return false;
        }
        let index = (offset + front.len()) / WORD;
        let (words, tail) = rest.as_chunks::<WORD>();
        for (i, word) in words.iter().enumerate() {
            if *word != self.word(seed, index + i) {
                return false;
            }
        }
        tail == &self.word(seed, index + words.len())[..tail.len()]
    }

    fn seed(&self, number: u64) -> u64 {
        mix(self.salt.wrapping_add(number.wrapping_mul(STEP)))
    }

    fn word(&self, seed: u64, index: usize) -> [u8; WORD] {
        let word = mix(seed.wrapping_add((index as u64).wrapping_mul(STEP)));
        match self.text {
            // Six bits a byte, from '0' (0x30) to 'o' (0x6f).
            true => (word & 0x3f3f_3f3f_3f3f_3f3f) + 0x3030_3030_3030_3030,
            false => word,
        }
        .to_le_bytes()
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
            for len in [0, 1, 7, 8, 9, 64, 100] {
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
    fn text_is_printable() {
        let text = bytes(&Payload::new(9, 4096, true), 1);
        assert!(text.iter().all(|b| (b'0'..=b'o').contains(b)));
    }
}
