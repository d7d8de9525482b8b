//! One connection of a run: starts calls, sends, receives, compares.

use std::io;
use std::time::{Duration, Instant};

use super::outstanding::Outstanding;
use super::pace::Pace;
use super::plan::Plan;
use super::report::Tally;
use super::wire::Wire;
use crate::address::Address;
use crate::socket::Stream;

/// At most one attempt to connect again in this time.
const RECONNECT_EVERY: Duration = Duration::from_millis(10);
/// Bytes that are received at a time, to begin with.
const INPUT_BYTES: usize = 16 * 1024;
/// Bytes of calls that are written ahead of the socket before no more are started.
const AHEAD_BYTES_MAX: usize = 4 * 1024 * 1024;

pub struct Connection<W> {
    address: Address,
    wire: W,
    pace: Option<Pace>,
    stream: Option<Stream>,
    /// The stream is another one than the last time that somebody asked.
    renewed: bool,
    connected_at: Instant,
    outstanding: Outstanding,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    start: usize,
    end: usize,
}

impl<W: Wire> Connection<W> {
    pub fn open(address: &Address, wire: W) -> io::Result<Self> {
        Ok(Self {
            address: address.clone(),
            wire,
            pace: None,
            stream: Some(Stream::connect(address)?),
            renewed: true,
            connected_at: Instant::now(),
            outstanding: Outstanding::default(),
            out: Vec::new(),
            sent: 0,
            input: vec![0; INPUT_BYTES],
            start: 0,
            end: 0,
        })
    }

    /// Calls start on a schedule from now on, not whenever there is room.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = Some(pace);
    }

    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// Whether the stream is a new one since the last call of this.
    pub fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Bytes wait for the socket to take them.
    pub fn wants_to_send(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Nothing more is to be sent or awaited.
    pub fn is_done(&self, now: Instant, plan: &Plan) -> bool {
        now >= plan.ends && self.outstanding.is_empty() && self.backlog_start(plan).is_none()
    }

    /// When this connection has something to do by itself.
    pub fn next_start(&self, plan: &Plan) -> Option<Instant> {
        if self.stream.is_none() {
            return Some(self.connected_at + RECONNECT_EVERY);
        }
        match self.has_room(plan) {
            true => self.backlog_start(plan),
            false => None,
        }
    }

    /// Connects again if need be, starts the calls that are due, and sends what the socket takes.
    pub fn turn(&mut self, now: Instant, plan: &Plan, tally: &mut Tally) {
        if self.stream.is_none() {
            self.reconnect(now, tally);
        }
        if self.stream.is_none() {
            return;
        }
        match &self.pace {
            None if now < plan.ends => {
                while self.has_room(plan) {
                    self.start_call(now);
                }
            }
            None => {}
            Some(_) => {
                while self.has_room(plan)
                    && let Some(intended) = self.backlog_start(plan)
                    && intended <= now
                {
                    self.start_call(intended);
                    if let Some(pace) = &mut self.pace {
                        pace.take();
                    }
                }
            }
        }
        self.send(plan, tally);
    }

    /// Receives once, waiting if asked to; compares what came. Returns whether the buffer was
    /// filled, so that more may be there.
    pub fn receive(&mut self, wait: bool, plan: &Plan, tally: &mut Tally) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        let room = &mut self.input[self.end..];
        let received = match wait {
            true => stream.receive(room),
            false => stream.receive_now(room),
        };
        match received {
            Ok(None) => false,
            Ok(Some(0)) => {
                self.ended(plan, tally);
                false
            }
            Ok(Some(n)) => {
                let filled = n == room.len();
                self.end += n;
                self.take_answers(plan, tally);
                self.make_room();
                filled
            }
            Err(error) => {
                self.lose(&format!("a connection broke: {error}"), plan, tally);
                false
            }
        }
    }

    /// What is still outstanding has failed.
    pub fn give_up(&mut self, plan: &Plan, tally: &mut Tally) {
        tally.give_up(self.outstanding.drain().map(|start| plan.counts(start)));
    }

    /// Calls that were to start in the measured time and never did.
    pub fn unsent(&self, plan: &Plan) -> u64 {
        self.pace.map_or(0, |pace| pace.left(plan))
    }

    fn has_room(&self, plan: &Plan) -> bool {
        self.outstanding.len() < plan.inflight && self.out.len() - self.sent < AHEAD_BYTES_MAX
    }

    /// Intended start of the next call of a schedule, if it lies before the end.
    fn backlog_start(&self, plan: &Plan) -> Option<Instant> {
        let next = self.pace.as_ref()?.next();
        (next < plan.ends).then_some(next)
    }

    fn start_call(&mut self, start: Instant) {
        let number = self.outstanding.begin(start);
        self.wire.request(number, &mut self.out);
    }

    fn send(&mut self, plan: &Plan, tally: &mut Tally) {
        let Some(stream) = &self.stream else {
            return;
        };
        if self.sent == self.out.len() {
            return;
        }
        match stream.send_now(&self.out[self.sent..]) {
            Ok(n) => self.sent += n,
            Err(error) => {
                self.lose(&format!("a connection broke: {error}"), plan, tally);
            }
        }
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
        }
    }

    fn take_answers(&mut self, plan: &Plan, tally: &mut Tally) {
        while self.start < self.end {
            let input = &self.input[self.start..self.end];
            let oldest = self.outstanding.oldest();
            let step = match self.wire.answer(input, oldest, &mut self.out) {
                Ok(step) => step,
                Err(sentence) => return self.lose(&sentence, plan, tally),
            };
            self.start += step.consumed;
            match step.answer {
                Some(answer) => {
                    self.judge(answer.number, answer.fault.as_deref(), plan, tally);
                    if answer.close {
                        return self.lose("a connection was closed by its service", plan, tally);
                    }
                }
                None if step.consumed == 0 => return,
                None => {}
            }
        }
    }

    fn judge(&mut self, number: u64, fault: Option<&str>, plan: &Plan, tally: &mut Tally) {
        tally.answer();
        match (self.outstanding.end(number), fault) {
            // Not one of ours, or answered before.
            (None, _) => tally.error("an answer came that no call waits for", 0),
            (Some(start), _) if !plan.counts(start) => {}
            (Some(start), None) => {
                let now = Instant::now();
                tally.ok(now - start, now);
            }
            (Some(_), Some(fault)) => tally.error(fault, 1),
        }
    }

    /// The service has closed.
    fn ended(&mut self, plan: &Plan, tally: &mut Tally) {
        if let Some(answer) = self.wire.end() {
            self.judge(answer.number, answer.fault.as_deref(), plan, tally);
        }
        self.lose("a connection was closed by its service", plan, tally);
    }

    /// The connection is gone, and with it the answers to what is outstanding.
    fn lose(&mut self, reason: &str, plan: &Plan, tally: &mut Tally) {
        let lost = self.outstanding.drain().filter(|&start| plan.counts(start));
        match lost.count() as u64 {
            0 => {}
            calls => tally.error(reason, calls),
        }
        self.stream = None;
        self.wire.reset();
        self.out.clear();
        (self.sent, self.start, self.end) = (0, 0, 0);
    }

    fn reconnect(&mut self, now: Instant, tally: &mut Tally) {
        if now < self.connected_at + RECONNECT_EVERY {
            return;
        }
        self.connected_at = now;
        match Stream::connect(&self.address) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.renewed = true;
            }
            Err(error) => tally.note(&format!("cannot connect to {}: {error}", self.address), 1),
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.input.len() - self.end < INPUT_BYTES / 2 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.input.len() - self.end < INPUT_BYTES / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }
}
