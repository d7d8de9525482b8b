//! What an attack changes: fields of a record in order, bytes of its payload, and words of the control pages.

use shmesh_shm::Geometry;
use shmesh_shm::geometry::{CONSUMED, PARKED, PUBLISHED, RELEASED, RELEASES_AT, SLOT_WORDS, WITHDRAWN, worker_word};

use crate::app::App;
use crate::choices::Choices;
use crate::corpus::{SMUGGLED, Words};
use crate::entry::{
    ANSWER, BLOCK, CODE, CREDIT, DATA, DEADLINE, DEFINE, Entry, FIELDS, FLAGS, Field, GENERATION, HEAD_LEN, KIND,
    LENGTH, NONE, OPEN, RESET, ROUTE, SLOT, TOTAL,
};

/// Fields that a session may survive being wrong, and so tries what comes after the first check.
const SOFT: [Field; 8] = [DEADLINE, TOTAL, CREDIT, CODE, ROUTE, HEAD_LEN, FLAGS, GENERATION];

/// How rare those are that no session survives.
const HARD_ONE_IN: u64 = 60;

/// Changes one to four fields; says how many. `gentle`: only those that the page may allow.
pub fn fields(entry: &mut Entry, geometry: &Geometry, gentle: bool, choices: &mut Choices) -> u64 {
    // Now and then what has to end the session at once; the rest is to get further than that.
    let hard = !gentle && choices.one_in(HARD_ONE_IN);
    // Of these mostly one at a time: the first check that strikes hides all others.
    let wanted = if hard && !choices.one_in(4) { 1 } else { 1 + choices.below(4) };
    let mut changed = 0;
    for _ in 0..wanted {
        let field = if hard { choices.pick(&FIELDS) } else { choices.pick(&SOFT) };
        let value = if hard { any(field, entry, geometry, choices) } else { plausible(field, entry, choices) };
        if entry.get(field) != value {
            entry.set(field, value);
            changed += u64::from(entry.get(field) == value);
        }
    }
    changed
}

/// A value that the page may allow, and the call does not.
fn plausible(field: Field, entry: &Entry, choices: &mut Choices) -> u64 {
    let now = entry.get(field);
    let length = entry.get(LENGTH);
    match field {
        DEADLINE => choices.pick(&[0, 1, 1_000, 50_000, u64::from(u32::MAX)]),
        TOTAL => match choices.below(6) {
            0 => 0,
            1 => length.wrapping_sub(1),
            2 => length + 1,
            3 => length,
            4 => u64::MAX - 1,
            _ => u64::MAX,
        },
        CREDIT => choices.pick(&[0, 1, 65_536, 1 << 20]),
        // Any status of an answer, any of the protocols and reasons.
        CODE => match entry.get(KIND) {
            DEFINE | OPEN => 1 + choices.below(3),
            RESET => 1 + choices.below(9),
            _ => choices.pick(&[0, 20, 99, 100, 101, 200, 204, 304, 999, 65_535]),
        },
        ROUTE => match entry.get(KIND) {
            OPEN if now == NONE => NONE,
            DEFINE | OPEN => choices.below(4),
            _ => choices.below(1 << 32),
        },
        HEAD_LEN if entry.get(KIND) == OPEN && entry.get(ROUTE) != NONE => 0,
        HEAD_LEN => match choices.below(4) {
            0 => 0,
            1 => length,
            2 => now.saturating_sub(1).min(length),
            _ => (now + 1).min(length),
        },
        FLAGS => match entry.get(KIND) {
            OPEN => choices.below(8),
            ANSWER | DATA => choices.below(2),
            _ => 0,
        },
        // An old one is ignored; OPEN needs a greater one.
        GENERATION if entry.get(KIND) == OPEN => now + choices.below(3),
        GENERATION if now > 1 => now - choices.below(2),
        _ => now,
    }
}

/// A value at or beyond the edges of what the page allows.
fn any(field: Field, entry: &Entry, geometry: &Geometry, choices: &mut Choices) -> u64 {
    let now = entry.get(field);
    let edge = match field {
        KIND => choices.below(9),
        FLAGS => choices.below(256),
        SLOT => choices.pick(&[u64::from(geometry.slots) - 1, u64::from(geometry.slots), NONE, 0, 63]),
        GENERATION => choices.pick(&[0, 1, (1 << 48) - 1, 1 << 48, u64::MAX]),
        ROUTE => choices.pick(&[0, 7, 1023, 1024, NONE - 1, NONE]),
        HEAD_LEN => choices.pick(&[0, 65_536, 65_537, NONE]),
        LENGTH => choices.pick(&[
            0,
            u64::from(geometry.inline_max()),
            u64::from(geometry.inline_max()) + 1,
            u64::from(geometry.block_max),
            u64::from(geometry.block_max) + 1,
            NONE,
        ]),
        BLOCK => {
            let arena = u64::from(geometry.arena_bytes);
            let last = arena.saturating_sub(entry.get(LENGTH)) / 64 * 64;
            choices.pick(&[0, 1, 64, last, last + 64, arena - 64, arena - 64, arena, NONE - 63, NONE])
        }
        CREDIT => choices.pick(&[1 << 31, NONE]),
        _ => choices.word(),
    };
    match choices.below(4) {
        0 => now ^ 1 << choices.below(64),
        1 => now.wrapping_add(choices.pick(&[1, u64::MAX])),
        _ => edge,
    }
}

/// Changes a payload, whose first `head` bytes are a head; says how many changes. Its length stays if `fixed`.
pub fn payload(bytes: &mut Vec<u8>, head: usize, choices: &mut Choices) -> (u64, usize) {
    if bytes.is_empty() {
        return (0, head);
    }
    let at = choices.below(bytes.len() as u64) as usize;
    match choices.below(6) {
        0 | 1 => bytes[at] ^= 1 << choices.below(8),
        2 => bytes[at] = choices.pick(b"\r\n\0 :;0\xff"),
        3 if head > 0 => {
            let mut spoiled = bytes[..head].to_vec();
            Words(choices).spoil_head(&mut spoiled);
            let longer = spoiled.len();
            bytes.splice(..head, spoiled);
            return (1, longer);
        }
        4 if head > 0 => {
            // The second head counts as the first one's, or as its body.
            bytes.splice(head..head, SMUGGLED.bytes());
            let longer = if choices.one_in(2) { head + SMUGGLED.len() } else { head };
            return (1, longer);
        }
        _ => {
            let end = (at + 8).min(bytes.len());
            let word = choices.word().to_le_bytes();
            bytes[at..end].copy_from_slice(&word[..end - at]);
        }
    }
    (1, head)
}

/// Changes words of a lane's control page, of its release ring or of the session page; says how many. `gentle`: none of the counters.
pub fn control(app: &App, lane: usize, gentle: bool, choices: &mut Choices) -> u64 {
    let at = app.lanes[lane].at;
    let memory = &app.to_proxy;
    let put = app.lanes[lane].put;
    match choices.below(if gentle { 12 } else { 16 }) {
        0..=3 => memory.store(at + PARKED, choices.pick(&[0, 1, 2, 3, u64::MAX])),
        4..=7 => {
            let slot = choices.below(u64::from(app.geometry.slots)) as usize;
            let generation = if choices.one_in(2) { choices.below(4) } else { choices.word() };
            memory.store(at + SLOT_WORDS + 8 * slot, generation);
        }
        8..=9 => {
            let worker = choices.below(32) as u16;
            memory.store(worker_word(worker), choices.word());
        }
        10 => memory.store(at + WITHDRAWN, choices.below(3)),
        11 => {
            // What was not published yet may hold anything.
            let entry = app.entry_at(lane, put + choices.below(4));
            (0..6).for_each(|word| memory.store(entry + 8 * word, choices.word()));
            return 6;
        }
        12 => {
            let place = at + RELEASES_AT + 8 * choices.below(64) as usize;
            memory.store(place, choices.word());
        }
        13 => memory.store(at + PUBLISHED, near(put, choices)),
        14 => memory.store(at + CONSUMED, near(app.lanes[lane].taken, choices)),
        _ => memory.store(at + RELEASED, near(app.lanes[lane].released, choices)),
    }
    1
}

fn near(now: u64, choices: &mut Choices) -> u64 {
    match choices.below(6) {
        0 => now.wrapping_add(1),
        1 => now.wrapping_sub(1),
        2 => now + 128,
        3 => now + 129,
        4 => 0,
        _ => choices.word(),
    }
}

/// The kinds in which a part of a message travels.
pub fn has_payload(entry: &Entry) -> bool {
    entry.get(LENGTH) > 0 && matches!(entry.get(KIND), DEFINE..=DATA | RESET)
}
