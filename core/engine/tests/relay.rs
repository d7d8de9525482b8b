//! Calls between two apps, each one record there and one back: what becomes of them when they turn out otherwise.

mod app;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use app::{App, engine, snapshot, turn, turn_until};
use shmesh_engine::embed::{Control, Inspect, LoneWorker};
use shmesh_io::sim::{SimDriver, World};
use shmesh_policy::{Address, Cluster, ClusterId, Condition, Priority, Route, RouteMatch, Routes, Snapshot, Test};
use shmesh_shm::{CallState, Flags, Geometry, Header, Kind, Protocol, Reset, TOTAL_UNKNOWN};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nServer: test\r\n\r\n";
const DEFINED: u32 = 0;

/// A caller, a worker, and an app that serves.
struct Pair {
    world: World,
    worker: LoneWorker<SimDriver>,
    control: Control,
    caller: App,
    server: App,
}

/// A record as an app finds it.
struct Record {
    header: Header,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Pair {
    /// Two apps, and a defined route to `/first`.
    fn new(geometry: Geometry) -> Pair {
        let world = World::new(1);
        let mut engine = engine(&world);
        let mut worker = engine.workers.remove(0);
        let caller = App::attach(&mut worker, geometry, 1, "caller", false);
        let server = App::attach(&mut worker, geometry, 2, "server", true);
        let mut pair = Pair { world, worker, control: engine.control, caller, server };
        pair.define("/first");
        pair.caller.publish();
        // The first call finds the serving lane, later ones know it.
        pair.open(0, 1, b"");
        pair.caller.publish();
        let first = pair.served();
        pair.answer(&first, OK, b"");
        pair.server.publish();
        assert_eq!(pair.answered().header.code, 200);
        pair
    }

    fn define(&mut self, path: &str) {
        let mut define = Header::new(Kind::Define, 0, 0);
        define.code = Protocol::Http as u16;
        define.route = DEFINED;
        self.caller.put(&define, &[format!("PUT {path} HTTP/1.1\r\nHost: local\r\n\r\n").as_bytes()]);
    }

    fn open(&mut self, slot: u32, generation: u64, body: &[u8]) {
        self.open_until(slot, generation, body, 0);
    }

    fn open_until(&mut self, slot: u32, generation: u64, body: &[u8], deadline_us: u32) {
        let mut open = Header::new(Kind::Open, slot, generation);
        open.code = Protocol::Http as u16;
        open.flags = Flags::END;
        open.route = DEFINED;
        open.deadline_us = deadline_us;
        self.caller.put(&open, &[body]);
    }

    /// The whole answer to what was served.
    fn answer(&mut self, to: &Record, head: &[u8], body: &[u8]) {
        let mut answer = answer_header(to, head);
        answer.flags = Flags::END;
        self.server.put(&answer, &[head, body]);
    }

    /// The next record for the serving app.
    fn served(&mut self) -> Record {
        next(&self.world, &mut self.worker, &mut self.server)
    }

    /// The next record for the caller.
    fn answered(&mut self) -> Record {
        next(&self.world, &mut self.worker, &mut self.caller)
    }

    /// A call that is with the serving app.
    fn under_way(&mut self, generation: u64) -> Record {
        self.open(0, generation, b"a question");
        self.caller.publish();
        self.served()
    }

    fn turns(&mut self, count: u32) {
        for _ in 0..count {
            turn(&self.world, &mut self.worker);
        }
    }

    /// Turns a little; then no call and no slot is left.
    fn is_quiet(&mut self) {
        self.turns(20);
        let Inspect { calls, slots_used, slots_lost, calls_waiting, .. } = self.worker.inspect();
        assert_eq!((calls, slots_used, slots_lost, calls_waiting), (0, 0, 0, 0), "calls, slots used, lost, waiting");
    }

    /// A call goes through.
    fn still_works(&mut self, generation: u64) {
        let asked = self.under_way(generation);
        self.answer(&asked, OK, b"an answer");
        self.server.publish();
        let answer = self.answered();
        assert_eq!((answer.header.kind, answer.header.generation, answer.header.code), (Kind::Answer, generation, 200));
        assert_eq!(answer.body, b"an answer");
        self.is_quiet();
    }
}

fn answer_header(to: &Record, head: &[u8]) -> Header {
    let mut answer = Header::new(Kind::Answer, to.header.slot, to.header.generation);
    answer.code = 200;
    answer.head_len = head.len() as u32;
    answer.total = TOTAL_UNKNOWN;
    answer
}

fn next(world: &World, worker: &mut LoneWorker<SimDriver>, app: &mut App) -> Record {
    if !app.end.has_work() {
        turn_until(world, worker, app);
    }
    let header = app.end.peek().expect("the worker keeps to the page").expect("a record");
    let mut body = vec![0; header.length as usize];
    app.end.read_payload(0, &mut body).expect("its payload");
    app.end.advance();
    app.publish();
    let rest = body.split_off(header.head_len as usize);
    Record { header, head: body, body: rest }
}

#[test]
fn a_call_leaves_with_the_key_that_it_was_opened_with() {
    let mut pair = Pair::new(Geometry::default());
    pair.open(1, 1, b"one");
    pair.define("/second");
    pair.open(2, 1, b"two");
    pair.caller.publish();
    for (path, body) in [("PUT /first ", b"one"), ("PUT /second ", b"two")] {
        let asked = pair.served();
        assert!(asked.head.starts_with(path.as_bytes()), "{}", String::from_utf8_lossy(&asked.head));
        assert_eq!(asked.body, body);
    }
}

#[test]
fn what_was_withdrawn_does_not_run() {
    let mut pair = Pair::new(Geometry::default());
    for slot in 1..4 {
        pair.open(slot, 1, &[slot as u8]);
    }
    pair.caller.end.withdraw(2, 1);
    pair.caller.publish();
    let told = pair.answered();
    assert_eq!((told.header.slot, told.header.reset_code()), (2, Some(Reset::Withdrawn)));
    for slot in [1, 3] {
        let asked = pair.served();
        assert_eq!(asked.body, [slot]);
        pair.answer(&asked, OK, &[slot]);
    }
    pair.server.publish();
    for slot in [1, 3] {
        assert_eq!(pair.answered().body, [slot]);
    }
    assert!(!pair.server.end.has_work());

    pair.open(1, 2, b"late");
    pair.caller.end.withdraw_lane();
    pair.caller.publish();
    assert_eq!(pair.answered().header.reset_code(), Some(Reset::Withdrawn));
    assert!(!pair.server.end.has_work());
    pair.is_quiet();
}

#[test]
fn requests_that_find_no_room_wait_for_it() {
    let geometry = Geometry { arena_bytes: 64 << 10, block_max: 16 << 10, window: 16 << 10, ..Geometry::default() };
    let mut pair = Pair::new(geometry);
    // With its head each is longer than 8 KiB and takes a block of 16, of which there are four.
    let calls = 8;
    for slot in 0..calls {
        pair.open(slot, 2, &[slot as u8; 8 << 10]);
    }
    pair.caller.publish();
    // What has to wait may come in parts.
    let mut whole = 0;
    let mut asked: HashMap<u32, Record> = HashMap::new();
    for _ in 0..calls {
        let done = loop {
            let part = pair.served();
            let (slot, end) = (part.header.slot, part.header.flags.end());
            whole += u32::from(part.header.kind == Kind::Open && end);
            match asked.entry(slot) {
                Entry::Occupied(mut begun) => begun.get_mut().body.extend_from_slice(&part.body),
                Entry::Vacant(place) => drop(place.insert(part)),
            }
            if end {
                break asked.remove(&slot).expect("what was begun");
            }
        };
        assert_eq!(done.body, [done.body[0]; 8 << 10]);
        pair.answer(&done, OK, &done.body[..1]);
        pair.server.publish();
    }
    assert!(0 < whole && whole < calls, "{whole} of {calls} were moved at once");
    let mut seen: Vec<u32> = (0..calls)
        .map(|_| {
            let answer = pair.answered();
            assert_eq!(answer.body, [answer.header.slot as u8]);
            answer.header.slot
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..calls).collect::<Vec<_>>());
    pair.is_quiet();
}

#[test]
fn the_deadline_of_a_call_ends_it() {
    let mut pair = Pair::new(Geometry::default());
    pair.open_until(0, 2, b"", 5_000);
    pair.open_until(1, 1, b"", 60_000);
    pair.caller.publish();
    let (first, second) = (pair.served(), pair.served());
    assert_eq!(first.header.deadline_us, 5_000);
    for (late, slot, ms) in [(first, 0, 10), (second, 1, 100)] {
        assert!(!pair.caller.end.has_work(), "before its time");
        pair.world.advance_to(pair.world.now() + ms * 1_000_000);
        let told = pair.answered();
        assert_eq!((told.header.kind, told.header.slot, told.header.code), (Kind::Answer, slot, 504));
        assert_eq!(pair.caller.end.state(slot).1, CallState::Answered);
        let told = pair.served();
        assert_eq!((told.header.slot, told.header.reset_code()), (late.header.slot, Some(Reset::Cancelled)));
        pair.answer(&late, OK, b"too late");
        pair.server.publish();
        pair.turns(5);
    }
    assert!(!pair.caller.end.has_work());
    pair.still_works(3);
}

#[test]
fn a_call_that_is_given_up_is_taken_from_the_app_that_serves() {
    let mut pair = Pair::new(Geometry::default());
    let asked = pair.under_way(2);
    pair.caller.put(&Header::reset(0, 2, Reset::Cancelled), &[]);
    pair.caller.publish();
    let told = pair.served();
    assert_eq!((told.header.kind, told.header.slot), (Kind::Reset, asked.header.slot));
    pair.answer(&asked, OK, b"nobody waits");
    pair.server.publish();
    pair.turns(5);
    // Both in one turn: it was opened, so it has to be taken back.
    pair.open(0, 3, b"");
    pair.caller.put(&Header::reset(0, 3, Reset::Cancelled), &[]);
    pair.caller.publish();
    assert_eq!(pair.served().header.kind, Kind::Open);
    assert_eq!(pair.served().header.kind, Kind::Reset);
    pair.still_works(4);
}

#[test]
fn a_call_that_is_given_up_before_there_was_room_for_it_is_never_opened() {
    let mut pair = Pair::new(Geometry { entries: 4, slots: 4, ..Geometry::default() });
    for slot in 0..4 {
        pair.open(slot, 2, b"");
    }
    pair.caller.publish();
    turn_until(&pair.world, &mut pair.worker, &pair.server);
    // Answered, and not taken: the slot is free, the ring is full.
    let header = pair.server.end.peek().expect("a worker that keeps to the page").expect("a record");
    let first = Record { header, head: Vec::new(), body: Vec::new() };
    pair.answer(&first, OK, b"");
    pair.server.publish();
    let slot = pair.answered().header.slot;
    pair.open(slot, 3, b"");
    pair.caller.put(&Header::reset(slot, 3, Reset::Cancelled), &[]);
    pair.caller.publish();
    while pair.caller.end.unconsumed() > 0 {
        pair.turns(1);
    }
    for number in 0..4 {
        let asked = pair.served();
        assert_eq!(asked.header.kind, Kind::Open);
        if number > 0 {
            pair.answer(&asked, OK, b"");
        }
    }
    pair.server.publish();
    for _ in 0..3 {
        assert_eq!(pair.answered().header.code, 200);
    }
    pair.is_quiet();
    let more = pair.server.end.peek().expect("a worker that keeps to the page");
    assert!(more.is_none(), "{more:?} of a call that nobody waits for");
    pair.still_works(4);
}

/// What one lane says in a turn keeps all the others waiting.
#[test]
fn a_turn_moves_so_many_bytes_and_no_more() {
    const LARGE: usize = 15 << 10;
    const CALLS: u32 = 32;
    let mut pair = Pair::new(Geometry::default());
    for slot in 0..CALLS {
        pair.open(slot, 2, &[0; LARGE]);
    }
    pair.caller.publish();
    turn_until(&pair.world, &mut pair.worker, &pair.server);
    let mut asked = Vec::new();
    while pair.server.end.has_work() {
        asked.push(pair.served());
    }
    assert!(asked.len() <= 6, "{} requests", asked.len());
    while asked.len() < CALLS as usize {
        asked.push(pair.served());
    }
    for (number, one) in asked.iter().enumerate() {
        // Some are read, some are known already.
        let number = number / 8;
        let field = format!("X-Number: {number}\r\n");
        let fill = format!("X-Fill: {}\r\n", "x".repeat(LARGE / 4)).repeat(3);
        pair.answer(one, format!("HTTP/1.1 200 OK\r\n{field}{fill}\r\n").as_bytes(), b"");
    }
    pair.server.publish();
    turn_until(&pair.world, &mut pair.worker, &pair.caller);
    let mut answered = 0;
    while pair.caller.end.has_work() {
        answered += 1;
        assert_eq!(pair.answered().header.code, 200);
    }
    assert!(answered <= 7, "{answered} answers");
    for _ in answered..CALLS {
        assert_eq!(pair.answered().header.code, 200);
    }
    pair.is_quiet();
}

#[test]
fn the_app_that_serves_may_refuse() {
    let mut pair = Pair::new(Geometry::default());
    for (why, status) in [(Reset::Overloaded, 503), (Reset::Timeout, 504), (Reset::Died, 502)] {
        let asked = pair.under_way(u64::from(status));
        pair.server.put(&Header::reset(asked.header.slot, asked.header.generation, why), &[]);
        pair.server.publish();
        assert_eq!(pair.answered().header.code, status);
        // Generations grow.
        pair = Pair::new(Geometry::default());
    }
    pair.still_works(2);
}

#[test]
fn an_answer_may_come_in_parts() {
    let mut pair = Pair::new(Geometry::default());
    let asked = pair.under_way(2);
    pair.server.put(&answer_header(&asked, OK), &[OK, b"one, "]);
    let mut data = Header::new(Kind::Data, asked.header.slot, asked.header.generation);
    pair.server.put(&data, &[b"two, "]);
    pair.server.publish();
    let begun = pair.answered();
    assert_eq!((begun.header.kind, begun.header.code, begun.header.flags.end()), (Kind::Answer, 200, false));
    data.flags = Flags::END;
    pair.server.put(&data, &[b"three"]);
    pair.server.publish();
    let mut text = begun.body;
    loop {
        let part = pair.answered();
        text.extend_from_slice(&part.body);
        if part.header.flags.end() {
            break;
        }
    }
    assert_eq!(text, b"one, two, three");
    pair.still_works(3);
}

#[test]
fn heads_that_are_alike_are_told_apart() {
    let mut pair = Pair::new(Geometry::default());
    let mut generation = 1;
    for len in 0..20 {
        for last in ["a", "b", "b"] {
            generation += 1;
            let value = "x".repeat(len) + last;
            let head = format!("HTTP/1.1 200 OK\r\nX: {value}\r\n\r\n");
            let asked = pair.under_way(generation);
            pair.answer(&asked, head.as_bytes(), b"body");
            pair.server.publish();
            let answer = pair.answered();
            let (told, said) = (String::from_utf8_lossy(&answer.head), format!("X: {value}\r\n"));
            assert!(told.contains(&said), "{said:?} became {told:?}");
            assert_eq!(answer.body, b"body");
        }
    }
    pair.is_quiet();
}

#[test]
fn a_session_that_ends_takes_its_calls_along() {
    // What was never opened is not answered: that ends a session.
    let wrong = Header::new(Kind::Data, 5, 99);
    let mut pair = Pair::new(Geometry::default());
    pair.under_way(2);
    pair.server.put(&wrong, &[]);
    pair.server.publish();
    assert_eq!(pair.answered().header.code, 502);
    pair.is_quiet();

    let mut pair = Pair::new(Geometry::default());
    let asked = pair.under_way(2);
    // This one is taken and forwarded before the fault is seen, and has to be taken back as well.
    pair.open(1, 1, b"");
    pair.caller.put(&wrong, &[]);
    pair.caller.publish();
    let opened = pair.served();
    assert_eq!(opened.header.kind, Kind::Open);
    let mut told = [pair.served(), pair.served()].map(|told| (told.header.kind, told.header.slot));
    told.sort_by_key(|told| told.1);
    let mut taken = [asked.header.slot, opened.header.slot].map(|slot| (Kind::Reset, slot));
    taken.sort_by_key(|taken| taken.1);
    assert_eq!(told, taken);
    pair.is_quiet();
}

#[test]
fn a_record_for_a_slot_that_was_never_used_ends_the_session() {
    let last = Geometry::default().slots - 1;
    for kind in [Kind::Data, Kind::Credit, Kind::Reset, Kind::Answer] {
        let mut wrong = Header::new(kind, last, 1);
        match kind {
            Kind::Credit => wrong.credit = 1,
            Kind::Reset => wrong.code = Reset::Cancelled as u16,
            Kind::Answer => (wrong.code, wrong.total) = (200, TOTAL_UNKNOWN),
            _ => {}
        }
        let mut pair = Pair::new(Geometry::default());
        pair.under_way(2);
        pair.server.put(&wrong, &[]);
        pair.server.publish();
        assert_eq!(pair.answered().header.code, 502, "{kind:?}");
        pair.is_quiet();

        let mut pair = Pair::new(Geometry::default());
        pair.under_way(2);
        pair.caller.put(&wrong, &[]);
        pair.caller.publish();
        assert_eq!(pair.served().header.kind, Kind::Reset, "{kind:?}");
        pair.is_quiet();
    }
}

#[test]
fn a_new_snapshot_changes_nothing_for_calls_under_way() {
    let mut pair = Pair::new(Geometry::default());
    let asked = pair.under_way(2);
    let route = |host: &str, cluster| Route {
        matching: RouteMatch { host: Some(host.into()), ..RouteMatch::default() },
        cluster: ClusterId(cluster),
        idempotent: None,
        priority: Priority::Default,
    };
    let other = Cluster::new("other", [Address::Shm("nobody".into())]);
    pair.control.publish(Arc::new(Snapshot {
        routes: Routes::new(vec![route("other", 0), route("local", 1)]),
        clusters: vec![other, Cluster::new("local", [Address::Shm("server".into())])],
        ..snapshot(2)
    }));
    pair.turns(5);
    pair.answer(&asked, OK, b"as before");
    pair.server.publish();
    assert_eq!(pair.answered().body, b"as before");
    pair.still_works(3);
}

/// Headers belong to the key, so that a call is relayed to where they lead; a later snapshot looks at them anew.
#[test]
fn headers_of_a_defined_key_lead_the_calls_that_use_it() {
    let mut pair = Pair::new(Geometry::default());
    let heads = ["PUT /a HTTP/1.1\r\nHost: local\r\nX-Tier: gold\r\n\r\n", "PUT /a HTTP/1.1\r\nHost: local\r\n\r\n"];
    for (id, head) in (1..).zip(heads) {
        let mut define = Header::new(Kind::Define, 0, 0);
        (define.code, define.route) = (Protocol::Http as u16, id);
        pair.caller.put(&define, &[head.as_bytes()]);
    }
    let gold = |not| Condition { name: "x-tier".into(), not, test: Test::Exact("gold".into()) };
    // Before the call of each generation: whether those with the header go to the app, as the others do otherwise.
    for (version, with_header) in [(2, true), (3, false), (4, true)] {
        let to_app =
            RouteMatch { host: Some("local".into()), headers: vec![gold(!with_header)], ..RouteMatch::default() };
        pair.control.publish(Arc::new(Snapshot {
            routes: Routes::new(vec![Route {
                matching: to_app,
                cluster: ClusterId(0),
                idempotent: None,
                priority: Priority::Default,
            }]),
            ..snapshot(version)
        }));
        pair.turns(5);
        // The first one of each looks the serving lane up.
        for generation in [2 * version, 2 * version + 1] {
            for (slot, id) in [(1, 1), (2, 2)] {
                let mut open = Header::new(Kind::Open, slot, generation);
                (open.code, open.flags, open.route) = (Protocol::Http as u16, Flags::END, id);
                pair.caller.put(&open, &[b"?"]);
            }
            pair.caller.publish();
            let (served, refused) = if with_header { (1, 2) } else { (2, 1) };
            let asked = pair.served();
            let text = String::from_utf8_lossy(&asked.head).to_lowercase();
            assert_eq!(text.contains("x-tier: gold"), with_header, "{text}");
            let answer = pair.answered();
            assert_eq!((answer.header.slot, answer.header.code), (refused, 404));
            pair.answer(&asked, OK, b"!");
            pair.server.publish();
            let answer = pair.answered();
            assert_eq!((answer.header.slot, answer.header.code, &answer.body[..]), (served, 200, &b"!"[..]));
            pair.is_quiet();
        }
    }
}
