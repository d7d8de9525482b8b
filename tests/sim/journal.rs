//! What happened, in words: kept only while a failed seed is run once more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Lines that are kept.
const LINES_MAX: usize = 150;

thread_local! {
    static LINES: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    static RECORDING: Cell<bool> = const { Cell::new(false) };
    static ALOUD: Cell<bool> = const { Cell::new(false) };
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Keeps lines from now on; `aloud`: and prints them.
pub fn record(aloud: bool) {
    RECORDING.set(true);
    ALOUD.set(aloud);
    LINES.with_borrow_mut(VecDeque::clear);
}

/// The virtual time, for the lines that follow.
pub fn set_now(now: u64) {
    NOW.set(now);
}

/// A line, if anybody wants it.
pub fn note(line: impl FnOnce() -> String) {
    if !RECORDING.get() {
        return;
    }
    let us = NOW.get().saturating_sub(shmesh_io::sim::World::EPOCH) as f64 / 1000.0;
    let line = format!("{us:>12.3} µs  {}", line());
    if ALOUD.get() {
        println!("{line}");
    }
    LINES.with_borrow_mut(|lines| {
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    });
}

/// The last lines.
pub fn lines() -> Vec<String> {
    LINES.with_borrow_mut(|lines| lines.drain(..).collect())
}

/// What the engine logs, as lines.
pub struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        RECORDING.get()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        note(|| {
            let mut text = Text(format!("[{}]", event.metadata().level()));
            event.record(&mut text);
            text.0
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
