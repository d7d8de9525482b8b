//! An app makes room without a record and without a ring, as the worker is awake. What becomes possible by that has to be done before the
//! worker sleeps: nobody would wake it for that.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::app::{App, Taken};
use crate::entry::{
    ANSWER, CODE, CREDIT, CREDITS, DATA, END, Entry, FLAGS, GENERATION, HEAD_LEN, HTTP, KIND, NONE, OPEN, RESET, ROUTE,
    SLOT,
};
use crate::process::PATIENCE;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(credit_is_given_back, blocks_are_given_back);

const CONFIG: &str = "
listeners: [ { name: apps, shm: $dir/apps.sock } ]
routes: [ { match: { host: a }, cluster: a } ]
clusters: [ { name: a, endpoints: [ \"shm:a\" ] } ]
workers: 1
";

/// How often the caller's arena is filled and emptied: a call each time, and in one call.
const CALLS: u64 = 300;
const TURNS: u64 = 1_000;

/// By then a worker that was woken sleeps again.
const ASLEEP_NS: u64 = 131_000;

/// After so long without credit there will be none.
const FULL: Duration = Duration::from_micros(300);

/// Bytes of a part: each takes a block.
const PART: usize = 32 << 10;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// A call under way between two apps, both of them by hand.
struct Scene {
    calling: App,
    serving: App,
    /// The generation of the caller's slot 0.
    call: u64,
    /// Slot and generation on the serving lane.
    served: (u64, u64),
    /// What the serving app may say.
    credit: usize,
    /// Parts that it has said.
    parts: u64,
    _sidecar: Sidecar,
}

impl Scene {
    fn start(driver: Driver) -> Scene {
        let sidecar = Sidecar::start(driver, CONFIG, &[]);
        let path = sidecar.path("apps.sock");
        let serving = App::attach_patiently(&path, 0, Some("a"));
        let calling = App::attach_patiently(&path, 1, None);
        Scene { calling, serving, call: 0, served: (0, 0), credit: 0, parts: 0, _sidecar: sidecar }
    }

    /// The next call: its answer has begun, and its caller gives all the credit that one may.
    fn begin(&mut self) {
        self.call += 1;
        let key = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let open = Entry::new(OPEN, 0, self.call).with(CODE, HTTP).with(FLAGS, END).with(ROUTE, NONE);
        self.calling.say(0, open.with(HEAD_LEN, key.len() as u64), key);
        let opened = loop {
            let taken = self.serving.await_next(0, PATIENCE).expect("a call");
            if taken.entry.get(KIND) == OPEN {
                break taken.entry;
            }
        };
        self.served = (opened.get(SLOT), opened.get(GENERATION));
        self.calling.say(0, Entry::new(CREDITS, 0, self.call).with(CREDIT, 1 << 30), &[]);
        let answer = self.entry(ANSWER).with(CODE, 200).with(HEAD_LEN, HEAD.len() as u64);
        self.serving.say(0, answer, HEAD);
        self.credit = self.serving.geometry.window as usize - HEAD.len();
    }

    fn entry(&self, kind: u64) -> Entry {
        Entry::new(kind, self.served.0, self.served.1)
    }

    /// Says parts of the answer until there is no more credit: the caller's arena is full.
    fn say_all(&mut self) {
        let mut heard = Instant::now();
        while heard.elapsed() < FULL {
            self.hear_credit();
            if self.credit >= PART {
                self.credit -= PART;
                self.parts += 1;
                self.serving.say(0, self.entry(DATA), &[b'x'; PART]);
                heard = Instant::now();
            }
        }
    }

    fn hear_credit(&mut self) {
        while let Some(taken) = self.serving.take(0) {
            self.credit += taken.entry.get(CREDIT) as usize;
        }
        consume(&mut self.serving);
    }

    /// The worker wakes up, finds nothing that it could do, and goes to sleep again. At some moment of that the caller has taken everything.
    fn take_all(&mut self, round: u64, of: u64) -> Vec<Taken> {
        let taken: Vec<Taken> = std::iter::from_fn(|| self.calling.take(0)).collect();
        self.serving.say(0, self.entry(CREDITS).with(CREDIT, 1), &[]);
        let awake = Instant::now();
        while awake.elapsed() < Duration::from_nanos(ASLEEP_NS * round / of) {}
        for taken in &taken {
            assert_ne!(taken.entry.get(KIND), RESET, "in round {round}");
            self.calling.release(0, &taken.entry);
        }
        consume(&mut self.calling);
        taken
    }
}

/// Shows what was taken, and rings only if that is asked for.
fn consume(app: &mut App) {
    app.consume(0);
    fence(Ordering::SeqCst);
    if app.is_room_wanted(0) {
        app.ring(0);
    }
}

fn await_it(what: &str, round: u64, mut it: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE / 3;
    while !it() {
        assert!(
            Instant::now() < late,
            "there is room, and the sidecar sleeps: in round {round} it did not happen that {what}"
        );
    }
}

/// The serving app waits for credit, which is due when the caller has taken what was said.
fn credit_is_given_back(driver: Driver) {
    let mut scene = Scene::start(driver);
    scene.begin();
    let mut owed = 0;
    for round in 0..TURNS {
        scene.say_all();
        owed += scene.take_all(round, TURNS).iter().map(|taken| taken.payload.len() as u64).sum::<u64>();
        if owed > 1 << 29 {
            scene.calling.say(0, Entry::new(CREDITS, 0, scene.call).with(CREDIT, owed), &[]);
            owed = 0;
        }
        await_it("credit comes", round, || {
            scene.hear_credit();
            scene.credit >= PART
        });
    }
}

/// The serving app has answered in full, and waits for its blocks.
fn blocks_are_given_back(driver: Driver) {
    let mut scene = Scene::start(driver);
    let mut waited = 0;
    for round in 0..CALLS {
        scene.begin();
        scene.say_all();
        scene.serving.say(0, scene.entry(DATA).with(FLAGS, END), &[]);
        await_it("all is taken", round, || scene.serving.consumed(0) == scene.serving.lanes[0].put);
        waited += u64::from(scene.serving.given_back(0) < scene.parts);
        let taken = scene.take_all(round, CALLS);
        await_it("the blocks come back", round, || scene.serving.given_back(0) == scene.parts);
        let mut ended = taken.iter().any(|taken| taken.entry.has(END));
        await_it("the answer ends", round, || {
            ended |= scene.calling.next(0).is_some_and(|taken| taken.entry.has(END));
            ended
        });
    }
    assert!(waited > 0, "all of it fitted each time: this tests nothing");
}
