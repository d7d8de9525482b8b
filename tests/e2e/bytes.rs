//! Bytes that can be made and checked in pieces, so that a test never holds a large body.

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A stream of bytes that a seed determines. Every 8 bytes differ from those before, so that a lost, doubled or moved
/// piece is seen.
pub struct Noise {
    state: u64,
    word: [u8; 8],
    used: usize,
    made: u64,
}

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, word: [0; 8], used: 8, made: 0 }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        self.made += out.len() as u64;
        let mut out = out;
        while !out.is_empty() {
            if self.used == 8 {
                self.word = self.step().to_le_bytes();
                self.used = 0;
            }
            let len = out.len().min(8 - self.used);
            out[..len].copy_from_slice(&self.word[self.used..self.used + len]);
            self.used += len;
            out = &mut out[len..];
        }
    }

    /// Fails if `bytes` are not the next ones.
    pub fn check(&mut self, bytes: &[u8]) {
        let at = self.made;
        let expected = self.take(bytes.len());
        if expected != bytes {
            let offset = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            panic!("byte {} differs: {:#04x} came, not {:#04x}", at + offset as u64, bytes[offset], expected[offset]);
        }
    }

    /// How many were made or checked.
    pub fn made(&self) -> u64 {
        self.made
    }

    fn step(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

/// `len` bytes of a seed.
pub fn noise(seed: u64, len: u64) -> Vec<u8> {
    Noise::new(seed).take(len as usize)
}
