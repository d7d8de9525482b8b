//! A run over shared memory: a lane and a thread for each connection, every call one record.

use std::collections::VecDeque;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use shmesh_client::{
    Answer, Call, CallError, CallId, Client, DubboKey, Lane, Protocol, Response, Route, SubmitError, Target, Wait,
};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};

use super::dubbo;
use super::pace::Pace;
use super::payload::Payload;
use super::plan::{AWAKE_BEFORE, LOOK_EVERY, Plan};
use super::report::Tally;
use super::wire::NOT_THE_ECHO;

/// Lanes of one session; more connections attach more sessions.
const LANES_PER_SESSION: usize = 32;
/// Pause before another lane is asked for when the sidecar is gone.
const REATTACH_EVERY: Duration = Duration::from_millis(10);

/// What is called over every lane.
#[derive(Clone, Debug)]
pub enum Callee {
    Http { method: String, host: String },
    Dubbo(dubbo::Target),
    Raw { cluster: String },
}

/// One lane with its payloads.
pub struct Caller {
    client: Client,
    lane: Option<Lane>,
    callee: Callee,
    /// The routing key, interned on the lane unless it has no room for that.
    key: Vec<u8>,
    route: Option<Route>,
    payload: Payload,
    pace: Option<Pace>,
    /// Number of the next call.
    next: u64,
    outstanding: VecDeque<Outstanding>,
    message: Vec<u8>,
    scratch: Vec<u8>,
}

struct Outstanding {
    id: CallId,
    number: u64,
    start: Instant,
}

/// Attaches sessions enough for all connections.
pub fn attach(socket: &Path, connections: usize) -> Result<Client, CallError> {
    Client::builder()
        .socket(socket)
        // Who looks at a sidecar wants to see how slow it is.
        .hang_timeout(Duration::ZERO)
        .name("shmesh-bench")
        .lanes(connections.min(LANES_PER_SESSION) as u16)
        .sessions_max(connections.div_ceil(LANES_PER_SESSION))
        .fallback(false)
        .connect()
}

/// Runs all callers to the end of the plan; sums up what they counted.
pub fn run(callers: Vec<Caller>, plan: Plan) -> Tally {
    let running: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            thread::spawn(move || {
                // As over sockets: sleeps end when they should.
                let _ = nix::sys::prctl::set_timerslack(1);
                let mut tally = Tally::default();
                caller.run(&plan, &mut tally);
                tally
            })
        })
        .collect();
    let mut total = Tally::default();
    for thread in running {
        match thread.join() {
            Ok(tally) => total.merge(&tally),
            Err(_) => total.note("a thread of the run ended early", 1),
        }
    }
    total
}

impl Caller {
    pub fn new(client: &Client, callee: Callee, payload: Payload) -> Result<Self, CallError> {
        let lane = client.lane()?;
        let mut key = Vec::new();
        match &callee {
            Callee::Http { method, host } => {
                key.extend_from_slice(format!("{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            }
            Callee::Dubbo(target) => DubboKey {
                service: &target.interface,
                method: &target.method,
                group: target.group.as_deref(),
                version: target.version.as_deref(),
                tag: None,
            }
            .encode(&mut key),
            Callee::Raw { cluster } => key.extend_from_slice(cluster.as_bytes()),
        }
        Ok(Self {
            client: client.clone(),
            lane: Some(lane),
            callee,
            key,
            route: None,
            payload,
            pace: None,
            next: 0,
            outstanding: VecDeque::new(),
            message: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Calls start on a schedule, not whenever there is room.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = Some(pace);
    }

    fn run(&mut self, plan: &Plan, tally: &mut Tally) {
        let mut now = Instant::now();
        while now < plan.gives_up && !self.is_done(now, plan) {
            self.start_calls(now, plan, tally);
            self.receive(now, plan, tally);
            now = Instant::now();
        }
        match self.unsent(plan) {
            0 => {}
            calls => tally.note(super::UNSENT, calls),
        }
        tally.give_up(self.outstanding.drain(..).map(|call| plan.counts(call.start)));
    }

    fn is_done(&self, now: Instant, plan: &Plan) -> bool {
        now >= plan.ends && self.outstanding.is_empty() && self.next_start(plan).is_none()
    }

    /// Intended start of the next call of a schedule, if it lies before the end.
    fn next_start(&self, plan: &Plan) -> Option<Instant> {
        let next = self.pace.as_ref()?.next();
        (next < plan.ends).then_some(next)
    }

    fn unsent(&self, plan: &Plan) -> u64 {
        self.pace.map_or(0, |pace| pace.left(plan))
    }

    fn start_calls(&mut self, now: Instant, plan: &Plan, tally: &mut Tally) {
        while self.outstanding.len() < plan.inflight {
            let start = match self.pace {
                None if now < plan.ends => now,
                None => return,
                Some(_) => match self.next_start(plan) {
                    Some(intended) if intended <= now => intended,
                    _ => return,
                },
            };
            match self.submit() {
                Ok(id) => {
                    let number = self.next;
                    self.outstanding.push_back(Outstanding { id, number, start });
                    self.next += 1;
                    if let Some(pace) = &mut self.pace {
                        pace.take();
                    }
                }
                // Answers make room; a lane with nothing outstanding always has some.
                Err(SubmitError::Full) => return,
                Err(SubmitError::Failed(error)) => {
                    self.lose(&error, plan, tally);
                    return;
                }
            }
        }
    }

    fn submit(&mut self) -> Result<CallId, SubmitError> {
        let lane = match &mut self.lane {
            Some(lane) => lane,
            none => none.insert(self.client.lane()?),
        };
        let protocol = match self.callee {
            Callee::Http { .. } => Protocol::Http,
            Callee::Dubbo(_) => Protocol::Dubbo2,
            Callee::Raw { .. } => Protocol::Raw,
        };
        if self.route.is_none() {
            self.route = lane.define(protocol, &self.key);
        }
        self.message.clear();
        match &self.callee {
            Callee::Dubbo(target) => {
                target.append(self.next, &self.payload, &mut self.scratch, &mut self.message);
            }
            _ => self.payload.append(self.next, &mut self.message),
        }
        let target = match self.route {
            Some(route) => Target::Route(route),
            None => Target::Key(protocol, &self.key),
        };
        lane.submit(&Call::new(target, &[&self.message]))
    }

    fn receive(&mut self, now: Instant, plan: &Plan, tally: &mut Tally) {
        let room = self.outstanding.len() < plan.inflight;
        let next = self.next_start(plan).filter(|_| room);
        // What is left of it near the intended start is waited for awake.
        let pause = next.map_or(LOOK_EVERY, |next| {
            next.saturating_duration_since(now).saturating_sub(AWAKE_BEFORE).min(LOOK_EVERY)
        });
        let Some(lane) = &mut self.lane else {
            return thread::sleep(REATTACH_EVERY);
        };
        let mut wait = Wait::For(pause);
        if pause.is_zero() {
            thread::yield_now();
            wait = Wait::No;
        }
        if self.outstanding.is_empty() {
            return thread::sleep(pause);
        }
        loop {
            match lane.receive(wait) {
                Ok(Some(Answer { id, outcome })) => {
                    let call = self.outstanding.iter().position(|call| call.id == id);
                    if let Some(call) = call.and_then(|index| self.outstanding.remove(index)) {
                        let judged = judge(&self.callee, &self.payload, call.number, outcome, lane);
                        count(&call, judged, plan, tally);
                    }
                }
                Ok(None) => return,
                Err(error) => return self.lose(&error, plan, tally),
            }
            // Whatever else is there already belongs to the same turn.
            wait = Wait::No;
        }
    }

    /// The lane is gone, and with it the answers to what is outstanding.
    fn lose(&mut self, error: &CallError, plan: &Plan, tally: &mut Tally) {
        let reason = error.to_string();
        let lost = self.outstanding.drain(..).filter(|call| plan.counts(call.start));
        match lost.count() as u64 {
            0 => tally.note(&reason, 1),
            calls => tally.error(&reason, calls),
        }
        self.lane = None;
        self.route = None;
    }
}

fn count(call: &Outstanding, judged: Result<(), String>, plan: &Plan, tally: &mut Tally) {
    tally.answer();
    if !plan.counts(call.start) {
        return;
    }
    match judged {
        Ok(()) => {
            let now = Instant::now();
            tally.ok(now - call.start, now);
        }
        Err(fault) => tally.error(&fault, 1),
    }
}

/// Whether an answer is the echo of call `number`.
fn judge(
    callee: &Callee,
    payload: &Payload,
    number: u64,
    outcome: Result<Response, CallError>,
    lane: &mut Lane,
) -> Result<(), String> {
    let response = outcome.map_err(|error| error.to_string())?;
    let body = &response.body;
    let fault = match callee {
        Callee::Http { .. } if response.status != 200 => Some(match response.header("x-shmesh-reason") {
            Some(reason) => {
                let reason = String::from_utf8_lossy(reason);
                format!("answered {} ({reason})", response.status)
            }
            None => format!("answered {}", response.status),
        }),
        Callee::Http { .. } | Callee::Raw { .. } => {
            let right = body.len() == payload.len() && payload.matches(number, 0, body);
            (!right).then(|| NOT_THE_ECHO.to_owned())
        }
        Callee::Dubbo(_) => dubbo_fault(body, payload, number),
    };
    lane.recycle(response);
    fault.map_or(Ok(()), Err)
}

fn dubbo_fault(frame: &[u8], payload: &Payload, number: u64) -> Option<String> {
    let Some((header, body)) = frame.split_first_chunk::<HEADER_LEN>() else {
        return Some("an answer was no Dubbo frame".to_owned());
    };
    match FrameHeader::parse(header, u32::MAX) {
        Ok(header) if header.id == number => dubbo::fault(&header, body, number, payload),
        Ok(_) => Some("an answer had another id than its call".to_owned()),
        Err(error) => Some(format!("an answer was not Dubbo: {error}")),
    }
}
