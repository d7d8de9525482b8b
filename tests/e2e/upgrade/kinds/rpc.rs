//! Dubbo consumers that share a provider's connections: calls in flight, one of each consumer sent in part, and one answer on each connection sent
//! in part.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

use shmesh_proto::dubbo::{Invocation, serialization, write_request};

use super::Kind;
use crate::dubbo::{Frame, read_frame};
use crate::process::until;
use crate::service::Service;
use crate::sidecar::Sidecar;
use crate::wire::Wire;

/// More than there are workers: some share one.
const CONSUMERS: usize = 5;

/// Calls of each in each round; one of them is sent in part.
const CALLS: u64 = 4;

/// A provider, and what it was asked and has not answered.
pub struct Rpc {
    pub provider: Service,
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<Call>>>;

/// A call that waits for its answer.
struct Call {
    frame: Frame,
    connection: usize,
    wire: Wire,
}

impl Call {
    fn answer(mut self) {
        self.wire.send(self.frame.echo());
    }
}

impl Rpc {
    pub fn new() -> Rpc {
        let asked = Asked::default();
        let (calls, connections) = (asked.clone(), Mutex::new(0));
        let provider = Service::tcp(move |mut wire| {
            let connection = {
                let mut connections = connections.lock().expect("nobody panicked");
                *connections += 1;
                *connections
            };
            while let Some(frame) = read_frame(&mut wire) {
                assert!(frame.header.request && frame.header.two_way && !frame.header.event, "{:?}", frame.header);
                calls.lock().expect("nobody panicked").push(Call { frame, connection, wire: wire.twin() });
            }
        });
        Rpc { provider, asked }
    }

    pub fn consumers(&self, sidecar: &Sidecar) -> Consumers {
        let consumer = |number| Consumer {
            number,
            wire: sidecar.connect("rpc"),
            calls: 0,
            open: HashMap::new(),
            rest: Vec::new(),
        };
        Consumers { consumers: (0..CONSUMERS).map(consumer).collect(), asked: self.asked.clone(), begun: Vec::new() }
    }
}

pub struct Consumers {
    consumers: Vec<Consumer>,
    asked: Asked,
    /// Answers of which the first half was sent, with the other one.
    begun: Vec<(Wire, Vec<u8>)>,
}

struct Consumer {
    number: usize,
    wire: Wire,
    /// Calls ever.
    calls: u64,
    /// What they asked, by id.
    open: HashMap<u64, String>,
    /// The other half of the last one.
    rest: Vec<u8>,
}

impl Kind for Consumers {
    fn begin(&mut self) {
        for consumer in &mut self.consumers {
            let mut frames: Vec<Vec<u8>> = (0..CALLS).map(|_| consumer.next()).collect();
            let last = frames.last_mut().expect("there are some");
            consumer.rest = last.split_off(last.len() / 2);
            consumer.wire.send(frames.concat());
        }
        let mut asked = self.wait_for(CONSUMERS * (CALLS as usize - 1));
        let mut begun: HashMap<usize, Call> = HashMap::new();
        for call in std::mem::take(&mut *asked) {
            match begun.entry(call.connection) {
                Entry::Vacant(first) => {
                    first.insert(call);
                }
                Entry::Occupied(_) => asked.push(call),
            }
        }
        drop(asked);
        for mut call in begun.into_values() {
            let mut answer = call.frame.echo();
            let rest = answer.split_off(answer.len() / 2);
            call.wire.send(answer);
            self.begun.push((call.wire, rest));
        }
    }

    fn end(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        let waiting = CONSUMERS * CALLS as usize - begun.len();
        for (mut wire, rest) in begun {
            wire.send(rest);
        }
        for consumer in &mut self.consumers {
            let rest = std::mem::take(&mut consumer.rest);
            consumer.wire.send(rest);
        }
        let mut asked = self.wait_for(waiting);
        // The other way round.
        asked.drain(..).rev().for_each(Call::answer);
        drop(asked);
        self.consumers.iter_mut().for_each(Consumer::hear);
    }

    fn finish(self: Box<Self>) {}
}

impl Consumers {
    /// Until the provider has so many calls.
    fn wait_for(&self, calls: usize) -> MutexGuard<'_, Vec<Call>> {
        let asked = || self.asked.lock().expect("nobody panicked");
        until("the calls arrive", || asked().len() == calls);
        asked()
    }
}

impl Consumer {
    /// The frame of another call; some are long.
    fn next(&mut self) -> Vec<u8> {
        let id = self.calls;
        self.calls += 1;
        let text = format!("{}/{id} {}", self.number, "x".repeat((id % CALLS) as usize * 9_000));
        let invocation = Invocation {
            path: "com.demo.GreetService",
            version: Some("1.0.0"),
            group: None,
            method: "sayHello",
            argument: Some(text.as_bytes()),
            timeout_ms: None,
            attachments: &[],
        };
        let mut frame = Vec::new();
        write_request(&mut frame, id, true, serialization::HESSIAN2, &invocation);
        self.open.insert(id, text);
        frame
    }

    /// All answers.
    fn hear(&mut self) {
        while !self.open.is_empty() {
            let answer = read_frame(&mut self.wire).expect("an answer");
            let asked = self.open.remove(&answer.header.id);
            assert!(asked.as_deref() == Some(&*answer.value()), "call {} of {}", answer.header.id, self.number);
        }
    }
}
