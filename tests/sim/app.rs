//! Apps that call: the real shim, used as applications use it.

use std::time::Duration;

use shmesh_client::{Call, CallError, CallId, Client, Lane, Protocol, Ran, SubmitError, Target, Wait};

use crate::call::{self, APP, HALF, Parts, RAW, RAW_APP, SERVICE, SERVICE_APP, Spec, To, WEB};
use crate::journal;
use crate::ledger::{End, Ledger};
use crate::machine::{Machine, ProcessId};
use crate::random::Random;

/// How long a call may take when nothing is wrong.
const PROBE_PATIENCE: Duration = Duration::from_millis(50);

/// How one app calls.
#[derive(Clone, Debug)]
pub struct Plan {
    pub socket: std::path::PathBuf,
    pub rounds: u64,
    pub threads: usize,
    pub lanes: u16,
    pub bytes_max: u64,
    pub max_spin: Duration,
    /// A sidecar that is stopped for longer is left.
    pub hang_timeout: Duration,
    /// Somebody serves behind [`APP`].
    pub served: bool,
    pub fallback: bool,
    pub raw_streams: bool,
    /// Of calls that have one.
    pub deadline: Duration,
}

/// An app that calls.
pub struct Caller {
    pub machine: Machine,
    pub ledger: Ledger,
    pub process: ProcessId,
    pub random: Random,
    pub plan: Plan,
}

impl Caller {
    pub fn run(mut self) {
        let Some(client) = self.connect() else {
            self.ledger.rest(self.process);
            return;
        };
        if self.plan.threads > 1 {
            self.second_thread(client.clone());
        }
        self.work(&client);
        self.rest(&client);
    }

    /// Another thread of the app, with the same lanes.
    fn second_thread(&mut self, client: Client) {
        self.ledger.expect(self.process, 2);
        let mut other = Caller {
            machine: self.machine.clone(),
            ledger: self.ledger.clone(),
            process: self.process,
            random: self.random.fork(),
            plan: self.plan.clone(),
        };
        self.machine.spawn(self.process, "call-too", move || {
            other.work(&client);
            other.ledger.rest(other.process);
        });
    }

    fn work(&mut self, client: &Client) {
        for _ in 0..self.plan.rounds {
            match self.random.below(10) {
                0..=3 => self.unary(client),
                4..=7 => self.pipelined(client),
                8 => self.paced(client),
                _ => self.stream(client),
            }
            if self.random.percent(30) {
                let time = self.random.range(1_000, 3_000_000);
                self.machine.sleep(time);
            }
        }
    }

    fn connect(&mut self) -> Option<Client> {
        for _ in 0..50 {
            let builder = Client::builder()
                .socket(&self.plan.socket)
                .name("caller")
                .lanes(self.plan.lanes)
                .sessions_max(1)
                .patience(Duration::from_millis(50))
                .max_wait_spin(self.plan.max_spin)
                .hang_timeout(self.plan.hang_timeout)
                .fallback(self.plan.fallback);
            match builder.connect() {
                Ok(client) => return Some(client),
                Err(error) => journal::note(|| format!("an app cannot attach: {error}")),
            }
            self.machine.sleep(2_000_000);
        }
        if self.ledger.is_calm() {
            self.machine.fail("an app cannot attach though nothing is wrong");
        }
        None
    }

    pub fn spec(&mut self) -> Spec {
        let to = match self.random.below(10) {
            0..=3 => To::Http(WEB),
            4..=6 if self.plan.served => To::Http(APP),
            7 => To::Dubbo(self.service()),
            8 => To::Raw(self.raw_cluster()),
            _ => To::Http(if self.random.percent(70) { WEB } else { HALF }),
        };
        Spec::draw(&mut self.random, to, self.plan.bytes_max, self.ledger.is_calm())
    }

    pub fn service(&mut self) -> &'static str {
        if self.plan.served && self.random.percent(50) { SERVICE_APP } else { SERVICE }
    }

    pub fn raw_cluster(&mut self) -> &'static str {
        if self.plan.served && self.random.percent(50) { RAW_APP } else { RAW }
    }

    fn timeout(&mut self) -> Option<Duration> {
        (!self.ledger.is_calm() && self.random.percent(25)).then(|| {
            let most = self.plan.deadline.as_nanos() as u64;
            Duration::from_nanos(self.random.range(most / 50, most))
        })
    }

    fn unary(&mut self, client: &Client) {
        let spec = self.spec();
        let timeout = self.timeout();
        let id = self.ledger.begin(self.process, spec);
        let payload = call::payload(id, &spec);
        let mut request = call::request(id, &spec, &payload);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let outcome = client.call(request);
        self.settle(id, outcome.map(|response| (response.status, response.head, response.body)));
    }

    /// Many calls in flight on one lane.
    fn pipelined(&mut self, client: &Client) {
        let mut lane = match client.lane() {
            Ok(lane) => lane,
            Err(error) => return journal::note(|| format!("an app gets no lane: {error}")),
        };
        let mut left = self.random.range(1, 12);
        let mut flying: Vec<(CallId, u64, Spec)> = Vec::new();
        loop {
            while left > 0 && self.random.percent(80) {
                left -= 1;
                match self.submit(&mut lane) {
                    Ok(call) => flying.push(call),
                    Err(SubmitError::Full) => break,
                    Err(SubmitError::Failed(_)) => left = 0,
                }
            }
            if flying.is_empty() && left == 0 {
                return;
            }
            if !self.ledger.is_calm() && self.random.percent(8) && !flying.is_empty() {
                let at = self.random.below(flying.len() as u64) as usize;
                let (call, id, _) = flying.swap_remove(at);
                let ran = lane.cancel(call);
                self.ledger.end(id, End::GivenUp(ran));
            }
            if !self.ledger.is_calm() && self.random.percent(15) && !flying.is_empty() {
                // At any moment of its life, most often just when it may be forwarded.
                let at = self.random.below(flying.len() as u64) as usize;
                let (call, id, _) = flying.swap_remove(at);
                lane.flush();
                let longest = self.random.pick(&[8_000, 8_000, 200_000, 4_000_000]);
                let moment = self.random.sized(longest);
                self.machine.sleep(moment);
                let ran = lane.cancel(call);
                self.ledger.end(id, End::GivenUp(ran));
            }
            if self.random.percent(2) && !self.ledger.is_calm() {
                // Goes away with calls in flight: they are given up.
                for (call, id, _) in flying.drain(..) {
                    self.ledger.end(id, End::GivenUp(lane.cancel(call)));
                }
                return;
            }
            let wait = if flying.is_empty() { Wait::No } else { Wait::Forever };
            match lane.receive(wait) {
                Ok(Some(answer)) => {
                    let Some(at) = flying.iter().position(|(call, ..)| *call == answer.id) else {
                        return self.machine.fail("an answer to a call that is not in flight");
                    };
                    let (_, id, _) = flying.swap_remove(at);
                    let outcome = answer.outcome.map(|response| (response.status, response.head, response.body));
                    self.settle(id, outcome);
                }
                Ok(None) if flying.is_empty() => {}
                Ok(None) => return self.machine.fail("nothing comes though calls are in flight"),
                Err(error) => {
                    if !flying.is_empty() {
                        self.machine.fail(format!("the lane was lost ({error}) with {} calls in flight", flying.len()));
                    }
                    return;
                }
            }
        }
    }

    fn submit(&mut self, lane: &mut Lane) -> Result<(CallId, u64, Spec), SubmitError> {
        let spec = self.spec();
        let timeout = self.timeout();
        let id = self.ledger.begin(self.process, spec);
        let payload = call::payload(id, &spec);
        let mut key = Vec::new();
        let protocol = match spec.to {
            To::Http(host) => {
                key.extend_from_slice(call::head(id, &spec, host).as_bytes());
                key.extend_from_slice(b"\r\n");
                Protocol::Http
            }
            To::Dubbo(service) => {
                call::dubbo_key(service).encode(&mut key);
                Protocol::Dubbo2
            }
            To::Raw(cluster) => {
                key.extend_from_slice(cluster.as_bytes());
                Protocol::Raw
            }
        };
        let route = if self.random.percent(50) { lane.define(protocol, &key) } else { None };
        let target = route.map_or(Target::Key(protocol, &key), Target::Route);
        let cut = self.random.below(payload.len() as u64 + 1) as usize;
        let pieces = [&payload[..cut], &payload[cut..]];
        let call = Call { target, payload: &pieces, timeout, one_way: spec.one_way };
        match lane.submit(&call) {
            Ok(call) => Ok((call, id, spec)),
            Err(error) => {
                self.ledger.forget(id);
                Err(error)
            }
        }
    }

    /// One call with bodies in pieces.
    fn paced(&mut self, client: &Client) {
        let mut spec = self.spec();
        if !matches!(spec.to, To::Http(_)) {
            spec = Spec { to: To::Http(WEB), one_way: false, ..spec };
        }
        let timeout = self.timeout();
        let id = self.ledger.begin(self.process, spec);
        let body = call::question(id, spec.request_len);
        let patience = self.patience();
        match self.exchange(client, id, &spec, &body, timeout, patience) {
            Err(None) => self.ledger.end(id, End::GivenUp(Ran::Maybe)),
            Err(Some(error)) => self.settle(id, Err(error)),
            Ok(parts) => self.settle(id, Ok(parts)),
        }
    }

    /// Pieces that are written and read before a call is given up.
    pub fn patience(&mut self) -> u64 {
        if !self.ledger.is_calm() && self.random.percent(25) { self.random.sized(40) } else { u64::MAX }
    }

    fn exchange(
        &mut self,
        client: &Client,
        id: u64,
        spec: &Spec,
        body: &[u8],
        timeout: Option<Duration>,
        mut patience: u64,
    ) -> Result<Parts, Option<CallError>> {
        let mut goes_on = || {
            patience = patience.saturating_sub(1);
            if patience > 0 { Ok(()) } else { Err(None) }
        };
        let mut request = call::request(id, spec, &[]);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let total = self.random.percent(50).then_some(body.len() as u64);
        let mut exchange = client.exchange(&request, total)?;
        let mut rest = body;
        while !rest.is_empty() {
            goes_on()?;
            let len = (self.random.sized(rest.len() as u64) as usize).max(1).min(rest.len());
            match exchange.write_body(&rest[..len])? {
                0 => break,
                taken => rest = &rest[taken..],
            }
            if self.random.percent(10) {
                self.machine.sleep(20_000);
            }
        }
        goes_on()?;
        // Also when the answer came before everything was written.
        exchange.finish()?;
        let (status, head) = exchange.head()?;
        let mut answer = Vec::new();
        let mut piece = vec![0; self.random.range(1, 3000) as usize];
        loop {
            goes_on()?;
            match exchange.read_body(&mut piece)? {
                0 => return Ok((status, head, answer)),
                len => answer.extend_from_slice(&piece[..len]),
            }
        }
    }

    fn settle(&mut self, id: u64, outcome: Result<Parts, CallError>) {
        match outcome {
            Ok((status, head, body)) => self.ledger.answered(id, status, &head, &body),
            Err(error) => self.ledger.end(id, End::Failed(call::ran(&error), error.to_string())),
        }
    }

    /// Nothing is wrong any more, so these calls succeed.
    fn probe(&mut self, client: &Client, hosts: &[&'static str]) {
        for host in hosts {
            let spec = Spec::draw(&mut self.random, To::Http(host), self.plan.bytes_max.min(2_000), true);
            let id = self.ledger.begin(self.process, spec);
            let payload = call::payload(id, &spec);
            match client.call(call::request(id, &spec, &payload).timeout(PROBE_PATIENCE)) {
                Ok(response) if response.status == 200 => {
                    self.ledger.answered(id, response.status, &response.head, &response.body);
                }
                other => {
                    let found = other.map(|response| String::from_utf8_lossy(&response.head).into_owned());
                    self.machine.fail(format!("a call to {host} fails though everything is well again: {found:?}"));
                }
            }
        }
        self.ledger.probed(self.process);
    }

    /// Nothing more to call: keeps its lanes, takes what still comes, until it may go.
    fn rest(&mut self, client: &Client) {
        let mut lanes: Vec<Lane> = Vec::new();
        // The other thread may still have some.
        self.ledger.rest(self.process);
        while !self.ledger.is_released() {
            let hosts = self.ledger.due_probes(self.process);
            if !hosts.is_empty() {
                lanes.clear();
                self.probe(client, &hosts);
            }
            if self.ledger.rests(self.process) {
                while lanes.len() < usize::from(self.plan.lanes)
                    && let Ok(lane) = client.lane()
                {
                    lanes.push(lane);
                }
            }
            for lane in &mut lanes {
                let _ = lane.receive(Wait::No);
            }
            let ledger = self.ledger.clone();
            let until = Some(self.machine.now() + 20_000_000);
            self.machine.wait(until, move || ledger.is_released());
        }
        let kept = lanes.iter_mut().filter(|lane| !lane.is_lost()).map(Lane::lent_blocks).sum();
        self.ledger.keep(kept);
    }
}
