//! What waits for its turn on a provider's connection: whose may wait, what becomes of it when the connection ends, and what is
//! left of it when its caller gives up.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use shmesh_client::{Answer, Call, CallId, Client, DubboKey, Lane, Protocol, SubmitError, Target, Wait};
use shmesh_proto::dubbo::serialization;

use super::turns::Provider;
use super::{Frame, call, invocation, read_frame, request};
use crate::process::{PATIENCE, until};
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar, requests_name};
use crate::wire::Wire;

on_each_driver!(
    who_floods_a_connection_leaves_room_for_others,
    what_waits_goes_elsewhere_when_its_connection_ends,
    what_is_given_up_makes_room_at_once,
    what_timed_out_makes_room,
);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
routes: [ { match: { service: com.demo.GreetService, method: \"*\" }, cluster: greeter } ]
clusters: [ { name: greeter, endpoints: [ \"$up\" ], first_byte_timeout: $patience } ]
limits: { dubbo_body_bytes: 256KiB }
";

/// Of a large call's argument. Ten times as many wait on a connection at most as one of these takes.
const LARGE: usize = 200_000;

/// More of them than a consumer may let wait, and than the kernel takes besides.
const FLOOD: u64 = 20;

fn before(driver: Driver, endpoint: &str, patience: &str) -> Sidecar {
    // One worker on any machine, so that all share a connection.
    let words = [("up", endpoint), ("patience", patience)];
    Sidecar::start_with(driver, CONFIG, &words, &["--workers", "1"])
}

/// Calls that were answered for their callers by the sidecar, as a limit was reached or the provider died.
fn refused(sidecar: &Sidecar) -> u64 {
    let metrics = sidecar.metrics();
    let count = |listener| metrics.get(&requests_name(listener, "greeter", 80)).copied().unwrap_or(0.0);
    (count("rpc") + count("apps")) as u64
}

fn in_flight(sidecar: &Sidecar) -> u64 {
    sidecar.metric("shmesh_calls_in_flight") as u64
}

fn nothing_is_left(sidecar: &Sidecar) {
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

/// Who calls: over a socket, or on a lane.
enum Caller {
    Wire(Wire),
    Lane(OnLane),
}

struct OnLane {
    lane: Lane,
    ids: HashMap<CallId, u64>,
    answers: VecDeque<Answer>,
}

impl OnLane {
    /// Sends what did not fit before, and takes what is there.
    fn go_on(&mut self, wait: Wait) {
        let answer = self.lane.receive(wait).expect("a sidecar");
        self.answers.extend(answer);
    }

    fn submit(&mut self, id: u64, frame: &[u8]) {
        let mut key = Vec::new();
        let service = "com.demo.GreetService";
        DubboKey { service, method: "sayHello", group: Some("g1"), version: Some("1.0.0"), tag: None }.encode(&mut key);
        let late = Instant::now() + PATIENCE;
        let call = loop {
            match self.lane.submit(&Call::new(Target::Key(Protocol::Dubbo2, &key), &[frame])) {
                Ok(call) => break call,
                Err(error) => assert!(error == SubmitError::Full && Instant::now() < late, "{error}"),
            }
            self.go_on(A_MOMENT);
        };
        self.ids.insert(call, id);
        self.lane.flush();
    }

    fn answer(&mut self) -> Frame {
        if self.answers.is_empty() {
            self.go_on(Wait::For(PATIENCE));
        }
        let answer = self.answers.pop_front().expect("an answer in time");
        self.ids.remove(&answer.id).expect("a call of ours");
        Frame::parse(&answer.outcome.expect("an answer").body)
    }
}

const A_MOMENT: Wait = Wait::For(Duration::from_millis(1));

impl Caller {
    fn wire(sidecar: &Sidecar) -> Caller {
        Caller::Wire(sidecar.connect("rpc"))
    }

    fn lane(sidecar: &Sidecar) -> Caller {
        let client = Client::builder()
            .hang_timeout(crate::process::PATIENCE)
            .socket(sidecar.path("apps.sock"))
            .name("test")
            .connect()
            .expect("it attaches");
        let lane = client.lane().expect("a lane");
        Caller::Lane(OnLane { lane, ids: HashMap::new(), answers: VecDeque::new() })
    }

    fn send(&mut self, id: u64, argument: &str) {
        let frame = call(id, argument);
        match self {
            Caller::Wire(wire) => wire.send(frame),
            Caller::Lane(on_lane) => on_lane.submit(id, &frame),
        }
    }

    fn send_large(&mut self, ids: std::ops::Range<u64>) {
        for id in ids {
            self.send(id, &format!("{:10}{}", format!("large {id}"), "x".repeat(LARGE)));
        }
    }

    /// Waits until all that was sent has come, as the sidecar's numbers say.
    fn all_have_come(&mut self, mut come: impl FnMut() -> bool) {
        until("all calls have come", || {
            if let Caller::Lane(on_lane) = self {
                on_lane.go_on(A_MOMENT);
            }
            come()
        });
    }

    /// The next `count` answers: their status by their id.
    fn answers(&mut self, count: u64) -> BTreeMap<u64, u8> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let frame = match self {
                Caller::Wire(wire) => read_frame(wire).expect("an answer"),
                Caller::Lane(on_lane) => on_lane.answer(),
            };
            assert_eq!(answers.insert(frame.header.id, frame.header.status), None, "one answer each");
        }
        answers
    }

    /// Gives up everything that has no answer yet.
    fn leave(self) {
        match self {
            // Answers that nobody has read make this a reset.
            Caller::Wire(wire) => drop(wire),
            Caller::Lane(mut on_lane) => {
                for &call in on_lane.ids.keys() {
                    on_lane.lane.cancel(call);
                }
                on_lane.lane.flush();
            }
        }
    }
}

const CALLERS: [fn(&Sidecar) -> Caller; 2] = [Caller::wire, Caller::lane];

/// Sends more than may wait, and says how much of it does, once that is settled.
fn flood(sidecar: &Sidecar, caller: &mut Caller) -> u64 {
    let before = refused(sidecar);
    caller.send_large(0..FLOOD);
    caller.all_have_come(|| in_flight(sidecar) + refused(sidecar) - before == FLOOD);
    in_flight(sidecar)
}

fn count(answers: &BTreeMap<u64, u8>, status: u8) -> u64 {
    answers.values().filter(|&&of| of == status).count() as u64
}

fn who_floods_a_connection_leaves_room_for_others(driver: Driver) {
    for flooder in CALLERS {
        let provider = Provider::start();
        let sidecar = before(driver, &provider.endpoint, "60s");
        let mut flooder = flooder(&sidecar);
        let taken = flood(&sidecar, &mut flooder);
        assert!((3..FLOOD - 3).contains(&taken), "{taken} of {FLOOD} wait");
        let mut come = taken;
        let mut others = CALLERS.map(|caller| caller(&sidecar));
        for other in &mut others {
            for id in 0..3 {
                other.send(id, "small");
            }
            other.send(3, &"x".repeat(LARGE / 4));
            come += 4;
            other.all_have_come(|| in_flight(&sidecar) == come);
        }
        provider.let_read.send(()).expect("a provider");
        for other in &mut others {
            assert_eq!(other.answers(4), (0..4).map(|id| (id, 20)).collect());
        }
        let answers = flooder.answers(FLOOD);
        assert_eq!((count(&answers, 20), count(&answers, 80)), (taken, FLOOD - taken));
        nothing_is_left(&sidecar);
        // Then there is room as before.
        flooder.send(99, "small");
        assert_eq!(flooder.answers(1), BTreeMap::from([(99, 20)]));
    }
}

/// Only the one whose first bytes have left may have run.
fn what_waits_goes_elsewhere_when_its_connection_ends(driver: Driver) {
    let folder = tempfile::tempdir().expect("a folder");
    let (end, may_end) = channel::<()>();
    let (tell, heard) = channel();
    let first = Mutex::new(Some(may_end));
    let service = Service::unix(&folder.path().join("provider.sock"), move |mut wire| {
        if let Some(may_end) = first.lock().expect("no panic").take() {
            // A part of the first call has come by then.
            assert_eq!(wire.exactly(1), Some(vec![0xda]));
            let _ = may_end.recv();
            return;
        }
        while let Some(frame) = read_frame(&mut wire) {
            let text: String = frame.value_of_argument().chars().take(10).collect();
            let _ = tell.send(text.trim_end().to_owned());
            if frame.header.two_way {
                wire.send(frame.echo());
            }
        }
    });
    let config = CONFIG.replace("256KiB", "8MiB");
    let words = [("up", &*service.endpoint), ("patience", "60s")];
    let sidecar = Sidecar::start_with(driver, &config, &words, &["--workers", "1"]);
    let (mut one, mut lane, mut other) = (Caller::wire(&sidecar), Caller::lane(&sidecar), sidecar.connect("rpc"));
    // More than the kernel takes of a connection on which nobody reads.
    one.send(0, &"x".repeat(4 << 20));
    until("the first has come", || in_flight(&sidecar) == 1);
    one.send_large(1..4);
    other.send(request(7, false, serialization::HESSIAN2, &invocation("one-way 7")));
    lane.send_large(4..6);
    lane.send(6, "small 6");
    lane.all_have_come(|| in_flight(&sidecar) == 8);
    until("a provider has it", || service.accepted() == 1);
    end.send(()).expect("a provider");
    assert_eq!(one.answers(4), BTreeMap::from([(0, 80), (1, 20), (2, 20), (3, 20)]));
    assert_eq!(lane.answers(3), BTreeMap::from([(4, 20), (5, 20), (6, 20)]));
    let mut all: Vec<String> = (0..7).map(|_| heard.recv_timeout(PATIENCE).expect("each call")).collect();
    all.sort();
    assert_eq!(all, ["large 1", "large 2", "large 3", "large 4", "large 5", "one-way 7", "small 6"]);
    assert_eq!(service.accepted(), 2);
    nothing_is_left(&sidecar);
    assert_eq!(refused(&sidecar), 1);
    assert!(heard.try_recv().is_err(), "nothing runs twice");
}

fn what_is_given_up_makes_room_at_once(driver: Driver) {
    for caller in CALLERS {
        let provider = Provider::start();
        let sidecar = before(driver, &provider.endpoint, "60s");
        let mut taken = Vec::new();
        for _ in 0..3 {
            let mut caller = caller(&sidecar);
            taken.push(flood(&sidecar, &mut caller));
            caller.leave();
            nothing_is_left(&sidecar);
        }
        // The kernel has taken something for the first one only.
        assert!(taken[1] >= 3 && taken[1] == taken[2], "{taken:?} could wait");
        // Nothing of it leaves but what had begun to.
        provider.let_read.send(()).expect("a provider");
        let mut last = Caller::wire(&sidecar);
        last.send(1, "last");
        assert_eq!(last.answers(1), BTreeMap::from([(1, 20)]));
        let heard = provider.heard.try_iter().count() as u64;
        assert!(heard <= taken[0] - taken[1] + 1, "{heard} calls have left, {taken:?} could wait");
    }
}

fn what_timed_out_makes_room(driver: Driver) {
    let provider = Provider::start();
    let sidecar = before(driver, &provider.endpoint, "500ms");
    let mut caller = Caller::wire(&sidecar);
    caller.send_large(0..FLOOD);
    let answers = caller.answers(FLOOD);
    assert_eq!(count(&answers, 31) + count(&answers, 80), FLOOD);
    for id in 0..10 {
        caller.send_large(id..id + 1);
        assert_eq!(caller.answers(1), BTreeMap::from([(id, 31)]), "it may wait, and does in vain");
    }
    nothing_is_left(&sidecar);
}
