//! One session of an app that tells the truth most of the time: that is how far into the sidecar a lie gets.

use std::time::{Duration, Instant};

use shmesh_shm::MAX_GENERATION;
use shmesh_shm::geometry::{SLOT_WORDS, WITHDRAWN};

use crate::app::App;
use crate::choices::Choices;
use crate::corpus::Words;
use crate::entry::{
    ANSWER, BLOCK, CODE, CREDIT, CREDITS, DATA, DEFINE, DUBBO, END, Entry, FLAGS, GENERATION, HEAD_LEN, HTTP, KIND,
    LENGTH, NONE, ONE_WAY, OPEN, RAW, RESET, ROUTE, SLOT, STREAM,
};
use crate::mutation;

/// Slots that are used as a rule, so that calls meet each other.
const SLOTS: u64 = 6;

/// Longest that the sidecar may take to consume what was published, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often an attacker that waits rings again: it may have spoiled its own bell.
const RING_AGAIN: Duration = Duration::from_millis(2);

/// What nobody but the neighbours may ever read.
pub const SECRET: &[u8] = b"the neighbour's own words";

/// What an app does with the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Takes them and gives blocks back.
    Honest,
    /// Keeps every block.
    Hoarder,
    /// Takes nothing.
    Deaf,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub sessions: u64,
    /// Sessions that the sidecar ended.
    pub ended: u64,
    /// Records that the sidecar took.
    pub records: u64,
    pub fields: u64,
    pub payloads: u64,
    pub words: u64,
}

impl Tally {
    pub fn mutations(&self) -> u64 {
        self.fields + self.payloads + self.words
    }

    pub fn add(&mut self, other: &Tally) {
        self.sessions += other.sessions;
        self.ended += other.ended;
        self.records += other.records;
        self.fields += other.fields;
        self.payloads += other.payloads;
        self.words += other.words;
    }
}

/// What an app remembers of a slot.
#[derive(Clone, Default)]
struct Slot {
    generation: u64,
    /// Opened, and not reset since.
    open: bool,
    answered: bool,
    /// This side has said END.
    ended: bool,
    protocol: u64,
    /// Of a call that is served: what was asked.
    asked: Vec<u8>,
}

struct Lane {
    slots: Vec<Slot>,
    /// Protocols of the route ids that are defined.
    defined: Vec<u64>,
    /// Blocks put so far.
    blocks: u64,
}

pub struct Attacker<'a, 'c> {
    pub app: App,
    pub choices: &'a mut Choices<'c>,
    pub tally: Tally,
    lanes: Vec<Lane>,
    habit: Habit,
    /// Does what is wrong, and nothing that the page forbids if it can help it: to see what is left behind.
    gentle: bool,
}

impl<'a, 'c> Attacker<'a, 'c> {
    pub fn new(app: App, choices: &'a mut Choices<'c>) -> Attacker<'a, 'c> {
        let slots = app.geometry.slots as usize;
        let lane = |_| Lane { slots: vec![Slot::default(); slots], defined: Vec::new(), blocks: 0 };
        let lanes = (0..app.lanes.len()).map(lane).collect();
        let habit = choices.pick(&[Habit::Honest, Habit::Honest, Habit::Honest, Habit::Hoarder, Habit::Deaf]);
        let gentle = choices.one_in(3);
        let tally = Tally { sessions: 1, ..Tally::default() };
        Attacker { app, choices, tally, lanes, habit, gentle }
    }

    /// Attacks until the sidecar ends the session or the rounds are over; true if the session is still there.
    pub fn run(&mut self, rounds: usize) -> bool {
        for _ in 0..rounds {
            if self.choices.is_spent() {
                break;
            }
            for lane in 0..self.lanes.len() {
                self.listen(lane);
                self.round(lane);
                if !self.is_taken(lane) {
                    self.tally.ended += 1;
                    return false;
                }
            }
        }
        true
    }

    /// A few records, of which some are not as they should be.
    fn round(&mut self, lane: usize) {
        let most = if self.choices.one_in(16) { 48 } else { 10 };
        for _ in 0..1 + self.choices.below(most) {
            let (mut entry, mut payload) = match self.app.lanes[lane].info.serving {
                true => match self.answer(lane) {
                    Some(record) => record,
                    None => break,
                },
                false => self.ask(lane),
            };
            let spoil = self.choices.below(8);
            if matches!(spoil, 0 | 1) && mutation::has_payload(&entry.with(LENGTH, payload.len() as u64)) {
                let head = entry.get(HEAD_LEN) as usize;
                let (changed, head) = mutation::payload(&mut payload, head, self.choices);
                self.tally.payloads += changed;
                entry.set(HEAD_LEN, head as u64);
            }
            entry = self.app.placed(lane, entry, payload.len());
            if matches!(spoil, 1..=5) {
                self.tally.fields += mutation::fields(&mut entry, &self.app.geometry, self.gentle, self.choices);
            }
            self.note(lane, &entry);
            self.app.put(lane, entry, &payload);
        }
        self.app.publish(lane);
        if self.choices.one_in(3) {
            self.tally.words += mutation::control(&self.app, lane, self.gentle, self.choices);
        }
        self.app.ring(lane);
    }

    /// A record in order on a calling lane.
    fn ask(&mut self, lane: usize) -> (Entry, Vec<u8>) {
        let index = self.choices.below(SLOTS) as usize;
        let state = &self.lanes[lane].slots[index];
        let (slot, generation) = (index as u64, state.generation);
        if !state.open {
            return self.open(lane, slot);
        }
        let record = |kind| Entry::new(kind, slot, generation);
        let ended = state.ended;
        match self.choices.below(10) {
            // Now and then once more after the end.
            0..=4 if !ended || !self.gentle && self.choices.one_in(32) => {
                let body = self.choices.pick(&[0, 1, 3, 44, 300, 500, 5_000]);
                let end = u64::from(self.choices.one_in(4));
                (record(DATA).with(FLAGS, end), vec![b'd'; body])
            }
            0..=6 => (record(CREDITS).with(CREDIT, self.choices.pick(&[0, 1, 65_536, 1 << 20])), Vec::new()),
            _ => (record(RESET).with(CODE, 1 + self.choices.below(9)), Vec::new()),
        }
    }

    fn open(&mut self, lane: usize, slot: u64) -> (Entry, Vec<u8>) {
        let generation = self.lanes[lane].slots[slot as usize].generation + 1;
        let open = Entry::new(OPEN, slot, generation).with(ROUTE, NONE);
        let end = END * u64::from(!self.choices.one_in(3));
        let mut words = Words(self.choices);
        let keyed =
            |entry: Entry, key: Vec<u8>, rest: Vec<u8>| (entry.with(HEAD_LEN, key.len() as u64), [key, rest].concat());
        match words.0.below(20) {
            0..=7 => {
                let body = words.body();
                let key = words.http_key((end != 0).then_some(body.len()), true);
                keyed(open.with(CODE, HTTP).with(FLAGS, end), key, body)
            }
            8..=9 => {
                let protocol = words.0.pick(&[HTTP, HTTP, DUBBO, RAW]);
                let key = match protocol {
                    HTTP => words.http_key(None, false),
                    DUBBO => words.dubbo_key(),
                    _ => b"raw-service".to_vec(),
                };
                let route = words.0.below(4);
                (Entry::new(DEFINE, 0, 0).with(CODE, protocol).with(ROUTE, route), key)
            }
            10..=12 => {
                let defined = &self.lanes[lane].defined;
                let route = words.0.below(4);
                let protocol = defined.get(route as usize).copied().unwrap_or(0);
                let payload = match protocol {
                    HTTP => words.body(),
                    DUBBO => words.dubbo_frame(true),
                    RAW => vec![b'r'; 10],
                    _ => return keyed(open.with(CODE, HTTP).with(FLAGS, END), words.http_key(None, true), Vec::new()),
                };
                (open.with(CODE, protocol).with(ROUTE, route).with(FLAGS, END), payload)
            }
            13..=14 => {
                let two_way = !words.0.one_in(4);
                let (key, frame) = (words.dubbo_key(), words.dubbo_frame(two_way));
                let one_way = if two_way { 0 } else { ONE_WAY };
                keyed(open.with(CODE, DUBBO).with(FLAGS, end | one_way), key, frame)
            }
            15 => keyed(open.with(CODE, RAW).with(FLAGS, end), b"raw-service".to_vec(), vec![b'r'; 20]),
            16..=17 => (open.with(CODE, HTTP).with(FLAGS, STREAM | end), words.http_bytes()),
            18 => (open.with(CODE, DUBBO).with(FLAGS, STREAM | end), words.dubbo_frame(true)),
            _ => keyed(open.with(CODE, RAW).with(FLAGS, STREAM | end), b"raw-service".to_vec(), vec![b'r'; 20]),
        }
    }

    /// A record in order on a serving lane, if anybody has called.
    fn answer(&mut self, lane: usize) -> Option<(Entry, Vec<u8>)> {
        let slots = &self.lanes[lane].slots;
        let open: Vec<usize> = (0..slots.len()).filter(|&slot| slots[slot].open && !slots[slot].ended).collect();
        let index = *open.get(self.choices.below(open.len().max(1) as u64) as usize)?;
        let state = &mut self.lanes[lane].slots[index];
        let record = |kind| Entry::new(kind, index as u64, state.generation);
        let mut words = Words(self.choices);
        let end = words.0.below(2);
        Some(match words.0.below(8) {
            0..=4 if !state.answered || words.0.one_in(16) => {
                state.answered = true;
                match state.protocol {
                    HTTP => {
                        let (head, body) = (words.answer_head(), words.answer_body());
                        let entry = record(ANSWER).with(CODE, 200).with(FLAGS, end).with(HEAD_LEN, head.len() as u64);
                        (entry, [head, body].concat())
                    }
                    DUBBO => (record(ANSWER).with(CODE, 20).with(FLAGS, end), words.dubbo_answer(&state.asked)),
                    _ => (record(ANSWER).with(FLAGS, end), words.answer_body()),
                }
            }
            // DATA without an ANSWER now and then.
            0..=5 => (record(DATA).with(FLAGS, end), words.answer_body()),
            6 => (record(CREDITS).with(CREDIT, 1_000), Vec::new()),
            _ => (record(RESET).with(CODE, 1 + words.0.below(9)), Vec::new()),
        })
    }

    /// Remembers what the sidecar will make of a record, so that the next ones fit.
    fn note(&mut self, lane: usize, entry: &Entry) {
        let state = &mut self.lanes[lane];
        if entry.get(BLOCK) != NONE {
            state.blocks += 1;
        }
        let route = entry.get(ROUTE) as usize;
        if entry.get(KIND) == DEFINE && route < 4 {
            state.defined.resize(4, 0);
            state.defined[route] = entry.get(CODE);
        }
        let Some(slot) = state.slots.get_mut(entry.get(SLOT) as usize) else { return };
        let generation = entry.get(GENERATION);
        match entry.get(KIND) {
            OPEN if generation <= MAX_GENERATION => {
                slot.generation = slot.generation.max(generation);
                slot.open = true;
                slot.ended = entry.has(END);
            }
            DATA | ANSWER => slot.ended |= entry.has(END),
            RESET if generation == slot.generation => {
                slot.open = false;
                slot.asked.clear();
            }
            _ => {}
        }
    }

    /// Takes what the sidecar says, as this app's habit is.
    fn listen(&mut self, lane: usize) {
        if self.habit == Habit::Deaf {
            return;
        }
        while let Some(taken) = self.app.take(lane) {
            self.heard(lane, &taken.entry, &taken.payload);
            if self.habit == Habit::Honest {
                self.app.release(lane, &taken.entry);
            }
        }
        self.app.consume(lane);
    }

    fn heard(&mut self, lane: usize, entry: &Entry, payload: &[u8]) {
        assert!(!holds_secret(payload), "another session's bytes came: {}", String::from_utf8_lossy(payload));
        let slot = &mut self.lanes[lane].slots[entry.get(SLOT) as usize];
        if self.app.lanes[lane].info.serving {
            match entry.get(KIND) {
                OPEN => {
                    let (generation, protocol) = (entry.get(GENERATION), entry.get(CODE));
                    *slot = Slot { generation, open: true, protocol, asked: payload.to_vec(), ..Slot::default() };
                }
                RESET if entry.get(GENERATION) == slot.generation => slot.open = false,
                _ => {}
            }
        } else if entry.get(GENERATION) == slot.generation && (entry.has(END) || entry.get(KIND) == RESET) {
            // The request may not have ended; a RESET for it is in order all the same, and another OPEN as well.
            slot.open = !self.choices.one_in(2);
        }
    }

    /// Waits until the sidecar has taken everything. False: it ended the session, and that has to be all that keeps it from it.
    fn is_taken(&mut self, lane: usize) -> bool {
        let began = Instant::now();
        let mut rung = began;
        let before = self.app.consumed(lane);
        loop {
            if self.app.consumed(lane) >= self.app.lanes[lane].put {
                self.tally.records += self.app.consumed(lane).saturating_sub(before);
                return true;
            }
            if self.app.is_over() {
                return false;
            }
            let now = Instant::now();
            assert!(now < began + PATIENCE, "the sidecar neither takes what was published nor ends the session");
            if now > rung + RING_AGAIN {
                rung = now;
                self.app.publish(lane);
                self.app.ring(lane);
            }
            std::thread::yield_now();
        }
    }

    /// Takes everything back that is under way. Afterwards the sidecar holds nothing of this session but its lanes: every block was
    /// given back. True if the session has lived to see it.
    pub fn settle(&mut self) -> bool {
        self.habit = Habit::Honest;
        for lane in 0..self.lanes.len() {
            self.listen(lane);
            self.app.ring(lane);
            let serving = self.app.lanes[lane].info.serving;
            for slot in 0..self.lanes[lane].slots.len() {
                let generation = self.lanes[lane].slots[slot].generation;
                if generation > 0 && !serving {
                    let reset = Entry::new(RESET, slot as u64, generation).with(CODE, 1);
                    self.app.put(lane, reset, &[]);
                    self.note(lane, &reset);
                }
            }
            self.app.publish(lane);
            self.app.ring(lane);
            if !self.is_taken(lane) {
                assert!(!self.gentle, "a session that keeps to the page was ended");
                self.tally.ended += 1;
                return false;
            }
            let late = Instant::now() + PATIENCE;
            let expected = self.lanes[lane].blocks;
            while self.app.given_back(lane) < expected && !serving {
                assert!(Instant::now() < late, "{} of {expected} blocks came back", self.app.given_back(lane));
                if self.app.is_over() {
                    assert!(!self.gentle, "a session that keeps to the page was ended");
                    self.tally.ended += 1;
                    return false;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        true
    }

    /// Uses every slot of the first lane once more, which has settled: none is lost.
    pub fn use_all_slots(&mut self) {
        let slots = self.lanes[0].slots.len();
        self.app.to_proxy.store(self.app.lanes[0].at + WITHDRAWN, 0);
        for slot in 0..slots {
            let state = &mut self.lanes[0].slots[slot];
            // Generations that are used up are no loss.
            let last = state.generation >= MAX_GENERATION;
            state.generation = if last { 0 } else { state.generation + 1 };
            state.open = !last;
            let key = b"GET /last HTTP/1.1\r\nHost: nowhere\r\n\r\n";
            if !last {
                self.app.to_proxy.store(self.app.lanes[0].at + SLOT_WORDS + 8 * slot, 0);
                let open = Entry::new(OPEN, slot as u64, state.generation).with(CODE, HTTP).with(FLAGS, END);
                self.app.say(0, open.with(ROUTE, NONE).with(HEAD_LEN, key.len() as u64), key);
            }
        }
        let mut left = self.lanes[0].slots.iter().filter(|slot| slot.open).count();
        while left > 0 {
            let taken = self.app.await_next(0, PATIENCE).expect("each slot answers");
            let slot = &mut self.lanes[0].slots[taken.entry.get(SLOT) as usize];
            if taken.entry.get(GENERATION) == slot.generation && taken.entry.get(KIND) == ANSWER {
                assert!(slot.open && taken.entry.get(CODE) == 404, "{taken:?}");
                slot.open = false;
                left -= 1;
            }
        }
    }

    /// Looks for other sessions' bytes in all of the first lane's ring, taken or not.
    pub fn search(&self) {
        let lane = &self.app.lanes[0];
        let mut ring = vec![0; self.app.geometry.entries as usize * self.app.geometry.stride as usize];
        self.app.to_app.read_bytes(lane.at + self.app.geometry.ring_at(), &mut ring);
        assert!(!holds_secret(&ring), "another session's bytes are in this one's memory");
    }
}

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}
