//! Many consumers over one connection to a provider: ids, order, late answers, and providers that leave.

use std::collections::HashSet;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmesh_proto::dubbo::{Event, serialization, write_event};

use super::{Frame, ask, before, call, echo_provider, provider, read_frame};
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    ids_are_remapped_over_one_connection,
    more_calls_than_one_connection_takes_succeed,
    late_answers_are_dropped,
    answers_that_nobody_asked_for_are_dropped,
    a_provider_that_says_readonly_gets_no_new_calls,
    a_consumer_that_leaves_takes_only_its_own_calls,
    a_slow_call_does_not_hold_the_others,
    a_callback_is_refused,
);

/// 4 consumers, 50 calls each at once, all under the same 50 ids; the provider answers in another order.
fn ids_are_remapped_over_one_connection(driver: Driver) {
    const CONSUMERS: u64 = 4;
    const CALLS: u64 = 50;
    let waiting: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let service = provider(move |frame, wire| {
        let mut waiting = waiting.lock().expect("no panic");
        waiting.push(frame);
        if waiting.len() as u64 == CONSUMERS * CALLS {
            let ids: HashSet<u64> = waiting.iter().map(|frame| frame.header.id).collect();
            assert_eq!(ids.len(), waiting.len(), "each call has an id of its own");
            // 7 and the number of calls have no divisor in common, so that each is answered once.
            let count = waiting.len();
            for at in 0..count {
                wire.send(waiting[(at * 7 + 3) % count].echo());
            }
        }
    });
    let sidecar = before(driver, &service.endpoint);
    std::thread::scope(|scope| {
        for consumer in 0..CONSUMERS {
            let mut wire = sidecar.connect("rpc");
            scope.spawn(move || {
                for id in 0..CALLS {
                    wire.send(call(id, &format!("{consumer}/{id}")));
                }
                let mut open: HashSet<u64> = (0..CALLS).collect();
                while !open.is_empty() {
                    let answer = read_frame(&mut wire).expect("an answer");
                    let id = answer.header.id;
                    assert!(open.remove(&id), "{id} twice");
                    assert_eq!(answer.value(), format!("{consumer}/{id}"));
                }
            });
        }
    });
    assert_eq!(service.accepted(), 1);
    assert_eq!(sidecar.requests("rpc", "greeter", 20), (CONSUMERS * CALLS) as f64);
}

fn late_answers_are_dropped(driver: Driver) {
    let service = provider(|frame, wire| {
        if frame.value_of_argument() == "late" {
            let mut wire = wire.twin();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(600));
                wire.send(frame.echo());
            });
        } else {
            wire.send(frame.echo());
        }
    });
    let words = [("up", &*service.endpoint), ("patience", "200ms")];
    let sidecar = Sidecar::start(driver, super::CONFIG, &words);
    let mut wire = sidecar.connect("rpc");
    let (status, sentence) = ask(&mut wire, &call(1, "late")).error();
    assert_eq!(status, 31);
    assert!(sentence.starts_with("shmesh: "), "{sentence}");
    sidecar.expect_metric("shmesh_late_answers_total", 1.0);
    for id in 0..20 {
        assert_eq!(ask(&mut wire, &call(id, "in time")).value(), "in time");
    }
    assert_eq!(service.accepted(), 1, "the connection is as good as before");
    assert_eq!(sidecar.requests("rpc", "greeter", 31), 1.0);
}

fn answers_that_nobody_asked_for_are_dropped(driver: Driver) {
    let service = provider(|frame, wire| {
        // Ids that no call has; one that the next call will have could not be told from its answer.
        for id in [u64::MAX, frame.header.id + 7, frame.header.id ^ (1 << 60)] {
            let mut stray = Frame::parse(&frame.echo());
            stray.header.id = id;
            wire.send(stray.bytes());
        }
        wire.send(frame.echo());
        // The same answer once more.
        wire.send(frame.echo());
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for id in 0..20 {
        let text = format!("call {id}");
        assert_eq!(ask(&mut wire, &call(id, &text)).value(), text);
    }
    // The last duplicate may still be on its way.
    assert!(sidecar.metric("shmesh_late_answers_total") >= 79.0);
}

fn a_provider_that_says_readonly_gets_no_new_calls(driver: Driver) {
    let (leave, told) = channel::<()>();
    let told = Mutex::new(told);
    let first = Mutex::new(true);
    let service = Service::tcp(move |mut wire| {
        let is_first = std::mem::take(&mut *first.lock().expect("no panic"));
        let Some(frame) = read_frame(&mut wire) else { return };
        if is_first {
            let mut readonly = Vec::new();
            write_event(&mut readonly, 0, serialization::HESSIAN2, Event::ReadOnly);
            wire.send(readonly);
            told.lock().expect("no panic").recv().expect("the test goes on");
            wire.send(frame.echo());
            assert!(read_frame(&mut wire).is_none(), "a new call after READONLY");
            return;
        }
        let mut frame = Some(frame);
        while let Some(call) = frame {
            wire.send(call.echo());
            frame = read_frame(&mut wire);
        }
    });
    let sidecar = before(driver, &service.endpoint);
    let mut old = sidecar.connect("rpc");
    old.send(call(1, "before"));
    crate::process::until("the first connection is made", || service.accepted() == 1);
    // Whether READONLY is understood shows in where the next call goes; until then calls would hang with the first.
    std::thread::sleep(Duration::from_millis(200));
    let mut wire = sidecar.connect("rpc");
    for id in 0..10 {
        assert_eq!(ask(&mut wire, &call(id, "after")).value(), "after");
    }
    assert_eq!(service.accepted(), 2);
    leave.send(()).expect("it waits");
    assert_eq!(read_frame(&mut old).expect("the old call ends in peace").value(), "before");
}

fn a_consumer_that_leaves_takes_only_its_own_calls(driver: Driver) {
    let held: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let service = provider(move |frame, wire| {
        let mut held = held.lock().expect("no panic");
        held.push(frame);
        if held.len() == 20 {
            for frame in held.drain(..) {
                wire.send(frame.echo());
            }
        }
    });
    let sidecar = before(driver, &service.endpoint);
    let (mut leaves, mut stays) = (sidecar.connect("rpc"), sidecar.connect("rpc"));
    for id in 0..10 {
        leaves.send(call(id, "nobody waits for this"));
    }
    for id in 0..9 {
        stays.send(call(id, "this is waited for"));
    }
    sidecar.expect_metric("shmesh_calls_in_flight", 19.0);
    drop(leaves);
    stays.send(call(9, "this is waited for"));
    for _ in 0..10 {
        assert_eq!(read_frame(&mut stays).expect("an answer").value(), "this is waited for");
    }
    assert_eq!(service.accepted(), 1);
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

fn a_slow_call_does_not_hold_the_others(driver: Driver) {
    let held: Mutex<Option<Frame>> = Mutex::new(None);
    let service = provider(move |frame, wire| {
        let mut held = held.lock().expect("no panic");
        match frame.value_of_argument().as_str() {
            "slow" => *held = Some(frame),
            "release" => {
                wire.send(frame.echo());
                wire.send(held.take().expect("a slow one").echo());
            }
            _ => wire.send(frame.echo()),
        }
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    wire.send(call(1000, "slow"));
    for id in 0..50 {
        assert_eq!(ask(&mut wire, &call(id, "quick")).value(), "quick");
    }
    assert_eq!(ask(&mut wire, &call(51, "release")).value(), "release");
    let answer = read_frame(&mut wire).expect("an answer");
    assert_eq!((answer.header.id, answer.value().as_str()), (1000, "slow"));
    // And an ordinary echo works on as before.
    let plain = echo_provider();
    let sidecar = before(driver, &plain.endpoint);
    assert_eq!(ask(&mut sidecar.connect("rpc"), &call(1, "x")).value(), "x");
}

/// A provider that calls back on its own connection is told at once that nobody takes it, and its answers pass as before.
fn a_callback_is_refused(driver: Driver) {
    let service = provider(|frame, wire| {
        // One that wants no answer is dropped.
        wire.send(super::request(76, false, serialization::HESSIAN2, &super::invocation("back")));
        wire.send(call(77, "back"));
        let refused = read_frame(wire).expect("an answer");
        assert_eq!((refused.header.id, refused.header.request), (77, false));
        let (status, sentence) = refused.error();
        assert_eq!(status, 40);
        assert!(sentence.starts_with("shmesh: callbacks"), "{sentence}");
        wire.send(frame.echo());
    });
    let sidecar = before(driver, &service.endpoint);
    let mut wire = sidecar.connect("rpc");
    for id in 0..3 {
        assert_eq!(ask(&mut wire, &call(id, "there")).value(), "there");
    }
    assert_eq!(service.accepted(), 1);
}

impl Frame {
    pub(super) fn value_of_argument(&self) -> String {
        Frame::parse(&self.echo()).value()
    }
}

/// One connection carries 1,024 calls at once; what is more than that goes elsewhere, and is not refused.
fn more_calls_than_one_connection_takes_succeed(driver: Driver) {
    const CONSUMERS: u64 = 30;
    const CALLS: u64 = 50;
    /// Calls that wait, and their connection.
    type Waiting = Vec<(Frame, usize)>;
    let all: Mutex<(Vec<Wire>, Waiting)> = Mutex::default();
    let service = Service::tcp(move |mut wire| {
        let connection = {
            let wires = &mut all.lock().expect("no panic").0;
            wires.push(wire.twin());
            wires.len() - 1
        };
        while let Some(frame) = read_frame(&mut wire) {
            let (wires, waiting) = &mut *all.lock().expect("no panic");
            waiting.push((frame, connection));
            if waiting.len() as u64 == CONSUMERS * CALLS {
                for (frame, connection) in waiting.drain(..) {
                    wires[connection].send(frame.echo());
                }
            }
        }
    });
    let sidecar = before(driver, &service.endpoint);
    let mut consumers: Vec<Wire> = (0..CONSUMERS).map(|_| sidecar.connect("rpc")).collect();
    for (consumer, wire) in consumers.iter_mut().enumerate() {
        wire.send((0..CALLS).flat_map(|id| call(id, &format!("{consumer}/{id}"))).collect::<Vec<u8>>());
    }
    for (consumer, wire) in consumers.iter_mut().enumerate() {
        for _ in 0..CALLS {
            let answer = read_frame(wire).expect("an answer");
            assert_eq!(answer.value(), format!("{consumer}/{}", answer.header.id));
        }
    }
    assert_eq!(sidecar.requests("rpc", "greeter", 20), (CONSUMERS * CALLS) as f64);
}
