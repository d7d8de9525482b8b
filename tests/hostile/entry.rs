//! A record's header as words, by hand from docs/spec/shm-v1.md §3: whatever the page forbids can be said in it.

/// Where a field lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    word: usize,
    shift: u32,
    bits: u32,
}

const fn field(offset: u32, bytes: u32) -> Field {
    Field { word: (offset / 8) as usize, shift: offset % 8 * 8, bits: bytes * 8 }
}

pub const KIND: Field = field(0, 1);
pub const FLAGS: Field = field(1, 1);
pub const CODE: Field = field(2, 2);
pub const SLOT: Field = field(4, 4);
pub const GENERATION: Field = field(8, 8);
pub const ROUTE: Field = field(16, 4);
pub const HEAD_LEN: Field = field(20, 4);
pub const LENGTH: Field = field(24, 4);
pub const BLOCK: Field = field(28, 4);
pub const DEADLINE: Field = field(32, 4);
pub const CREDIT: Field = field(36, 4);
pub const TOTAL: Field = field(40, 8);

pub const FIELDS: [Field; 12] =
    [KIND, FLAGS, CODE, SLOT, GENERATION, ROUTE, HEAD_LEN, LENGTH, BLOCK, DEADLINE, CREDIT, TOTAL];

pub const DEFINE: u64 = 1;
pub const OPEN: u64 = 2;
pub const ANSWER: u64 = 3;
pub const DATA: u64 = 4;
pub const CREDITS: u64 = 5;
pub const RESET: u64 = 6;

pub const END: u64 = 1;
pub const STREAM: u64 = 2;
pub const ONE_WAY: u64 = 4;

pub const HTTP: u64 = 1;
pub const DUBBO: u64 = 2;
pub const RAW: u64 = 3;

/// In `block`: the payload is inline. In `route`: the key is in the record.
pub const NONE: u64 = 0xFFFF_FFFF;

/// The six words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub words: [u64; 6],
}

impl Entry {
    pub fn new(kind: u64, slot: u64, generation: u64) -> Entry {
        let entry = Entry { words: [0; 6] };
        entry.with(KIND, kind).with(SLOT, slot).with(GENERATION, generation).with(BLOCK, NONE).with(TOTAL, u64::MAX)
    }

    pub fn get(&self, field: Field) -> u64 {
        self.words[field.word] >> field.shift & mask(field)
    }

    pub fn set(&mut self, field: Field, value: u64) {
        let word = &mut self.words[field.word];
        *word = *word & !(mask(field) << field.shift) | (value & mask(field)) << field.shift;
    }

    #[must_use]
    pub fn with(mut self, field: Field, value: u64) -> Entry {
        self.set(field, value);
        self
    }

    pub fn has(&self, flag: u64) -> bool {
        self.get(FLAGS) & flag != 0
    }
}

fn mask(field: Field) -> u64 {
    if field.bits == 64 { u64::MAX } else { (1 << field.bits) - 1 }
}
