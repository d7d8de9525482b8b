//! An app that serves: HTTP, Dubbo and raw calls, and streams.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shmesh_client::{
    Client, Handler, Protocol, Reset, Served, ServedResponse, Server, StreamEvent, StreamId, StreamReply, Wait,
};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, write_value_response};

use crate::app::Plan;
use crate::call::{self, APP, Manner, Spec, To, WEB};
use crate::journal;
use crate::ledger::{End, Ledger};
use crate::machine::{Machine, ProcessId};
use crate::random::Random;
use crate::sidecar::SERVING;
use crate::upstream::argument;

/// The app.
#[derive(Clone)]
pub struct Provider {
    pub machine: Machine,
    pub ledger: Ledger,
    pub process: ProcessId,
    pub random: Random,
    pub plan: Plan,
    pub stop: Arc<AtomicBool>,
    /// Calls somebody itself while it serves a call.
    pub calls_back: bool,
}

impl Provider {
    pub fn run(mut self) {
        let apart = self.random.percent(30);
        while !self.stop.load(Ordering::Relaxed) {
            match Server::builder(&self.plan.socket, SERVING).max_spin(self.plan.max_spin).attach() {
                Ok(server) if apart => self.serve_apart(server),
                Ok(mut server) => {
                    let outcome = server.serve_until(&self.stop.clone(), &mut self.serving());
                    journal::note(|| format!("serving ends: {outcome:?}"));
                    if outcome.is_ok() {
                        self.ledger.keep(server.lent_blocks());
                    }
                }
                Err(error) => journal::note(|| format!("an app cannot serve: {error}")),
            }
            self.machine.sleep(1_000_000);
        }
    }

    /// A thread for each lane.
    fn serve_apart(&mut self, server: Server) {
        let left = Rc::new(Cell::new(0));
        for mut lane in server.into_lanes() {
            left.set(left.get() + 1);
            let (mut serving, stop, left) = (self.serving(), self.stop.clone(), left.clone());
            self.machine.spawn(self.process, "serve-lane", move || {
                let outcome = lane.serve_until(&stop, &mut serving);
                journal::note(|| format!("serving a lane ends: {outcome:?}"));
                drop(lane);
                left.set(left.get() - 1);
            });
        }
        self.machine.wait(None, move || left.get() == 0);
    }

    fn serving(&mut self) -> Serving {
        let app = Provider { random: self.random.fork(), ..self.clone() };
        Serving { app, client: None, streams: HashMap::new() }
    }
}

struct Serving {
    app: Provider,
    client: Option<Client>,
    /// What came on the streams that are open.
    streams: HashMap<StreamId, Vec<u8>>,
}

impl Handler for Serving {
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        match request.protocol {
            Protocol::Http => self.http(request, response),
            Protocol::Dubbo2 => self.dubbo(request, response),
            Protocol::Raw => self.raw(request, response),
        }
    }

    fn stream(&mut self, event: StreamEvent<'_>, reply: &mut StreamReply) {
        match event {
            StreamEvent::Opened(id, Protocol::Raw) => {
                if self.streams.insert(id, Vec::new()).is_some() {
                    self.app.machine.fail("a stream was opened twice");
                }
            }
            StreamEvent::Opened(..) => self.app.machine.fail("a stream that is not raw"),
            StreamEvent::Data(id, bytes) => self.stream_data(id, bytes, reply),
            StreamEvent::Ended(id) => self.stream_ended(id, reply),
            StreamEvent::Reset(id, _) => drop(self.streams.remove(&id)),
        }
    }
}

impl Serving {
    fn http(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        let Some(id) = call::id_of_path(request.path()) else {
            return self.app.machine.fail(format!("an app got {:?}", String::from_utf8_lossy(request.head)));
        };
        let Some(spec) = self.app.ledger.spec(id) else { return };
        if let Err(what) = call::same(&call::question(id, spec.request_len), request.body) {
            self.app.ledger.mixed_up(id, &format!("arrived with another body: {what}"));
        }
        if !self.runs(id, &spec, response) {
            return;
        }
        response.header("x-id", id.to_string()).header("x-padding", "p".repeat(spec.padding));
        response.body = call::answer(id, spec.answer_len);
    }

    fn dubbo(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        let parsed = request.body.first_chunk::<HEADER_LEN>().map(|bytes| FrameHeader::parse(bytes, u32::MAX));
        let Some(Ok(header)) = parsed else { return self.app.machine.fail("an app got what is no Dubbo frame") };
        let Some((id, value)) = argument(&header, &request.body[HEADER_LEN..]) else {
            return self.app.machine.fail("an app got a Dubbo request without its argument");
        };
        let Some(spec) = self.app.ledger.spec(id) else { return };
        let expected = call::text(id, spec.request_len);
        if !value.windows(expected.len()).any(|part| part == expected) {
            self.app.ledger.mixed_up(id, "arrived with another argument");
        }
        if header.two_way == spec.one_way || request.one_way != spec.one_way {
            self.app.ledger.mixed_up(id, "arrived as another kind of call");
        }
        if self.runs(id, &spec, response) && !spec.one_way {
            write_value_response(&mut response.body, &header, value);
        }
    }

    fn raw(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        let Some(id) = request.body.first_chunk().map(|id| u64::from_be_bytes(*id)) else {
            return self.app.machine.fail("an app got a raw call without its id");
        };
        let Some(spec) = self.app.ledger.spec(id) else { return };
        if let Err(what) = call::same(&call::question(id, spec.request_len), &request.body[8..]) {
            self.app.ledger.mixed_up(id, &format!("arrived with other bytes: {what}"));
        }
        if self.runs(id, &spec, response) {
            response.body = call::answer(id, spec.answer_len);
        }
    }

    /// Does what the call is about; says whether it is answered.
    fn runs(&mut self, id: u64, spec: &Spec, response: &mut ServedResponse) -> bool {
        self.app.ledger.executed(id);
        if self.app.calls_back && self.app.random.percent(20) {
            self.app.call_back(&mut self.client);
        }
        if spec.manner == Manner::Slow {
            let time = self.app.random.range(1_000, 500_000);
            self.app.machine.sleep(time);
        }
        if !spec.manner.answers() {
            response.fail(Reset::Died, "no answer to this");
        }
        spec.manner.answers()
    }

    fn stream_data(&mut self, stream: StreamId, bytes: &[u8], reply: &mut StreamReply) {
        let Some(so_far) = self.streams.get_mut(&stream) else {
            return self.app.machine.fail("bytes on a stream that is not open");
        };
        let before = so_far.first_chunk::<8>().is_some();
        so_far.extend_from_slice(bytes);
        let Some(id) = so_far.first_chunk().map(|id| u64::from_be_bytes(*id)).filter(|_| !before) else { return };
        let Some(spec) = self.app.ledger.spec(id) else { return };
        // Its answer does not depend on the rest of the question, so it may come at once.
        if spec.manner == Manner::Early {
            reply.bytes = call::answer(id, spec.answer_len);
        }
    }

    fn stream_ended(&mut self, stream: StreamId, reply: &mut StreamReply) {
        let Some(bytes) = self.streams.remove(&stream) else {
            return self.app.machine.fail("the end of a stream that is not open");
        };
        let Some(id) = bytes.first_chunk().map(|id| u64::from_be_bytes(*id)) else {
            reply.reset = Some(Reset::Died);
            return;
        };
        let Some(spec) = self.app.ledger.spec(id) else { return };
        let expected = call::question(id, spec.request_len);
        if !self.app.ledger.is_calm() && bytes.len() - 8 < expected.len() && expected.starts_with(&bytes[8..]) {
            // Raw bytes have no framing: its client may have died.
            reply.reset = Some(Reset::Died);
            return;
        }
        if let Err(what) = call::same(&expected, &bytes[8..]) {
            self.app.ledger.mixed_up(id, &format!("arrived with other bytes: {what}"));
        }
        self.app.ledger.executed(id);
        match spec.manner {
            Manner::Early => reply.end = true,
            Manner::Dies => reply.reset = Some(Reset::Died),
            _ => {
                reply.end = true;
                if spec.manner.answers() {
                    reply.bytes = call::answer(id, spec.answer_len);
                }
            }
        }
    }
}

impl Provider {
    /// A calls B while B calls A: with a deadline, as this thread is the only one that serves.
    fn call_back(&mut self, kept: &mut Option<Client>) {
        if kept.is_none() {
            let builder = Client::builder().socket(&self.plan.socket).lanes(1).sessions_max(1).fallback(false);
            *kept = builder.patience(Duration::from_millis(5)).connect().ok();
        }
        let Some(client) = kept.clone() else { return };
        let to = if self.random.percent(30) { APP } else { WEB };
        let spec = Spec::draw(&mut self.random, To::Http(to), self.plan.bytes_max.min(2000), true);
        // It may time out: nobody must expect it to succeed.
        let spec = Spec { manner: if to == APP { Manner::Silent } else { spec.manner }, ..spec };
        if self.ledger.is_calm() && to == APP {
            return;
        }
        let id = self.ledger.begin(self.process, spec);
        let payload = call::payload(id, &spec);
        let timeout = Duration::from_millis(if self.ledger.is_calm() { 900 } else { 5 });
        let outcome = client.call(call::request(id, &spec, &payload).timeout(timeout));
        match outcome {
            Ok(response) => {
                self.ledger.answered(id, response.status, &response.head, &response.body);
                // What was taken is told when the lane is used next, which may be never.
                if let Ok(mut lane) = client.lane() {
                    let _ = lane.receive(Wait::No);
                }
            }
            Err(error) => {
                self.ledger.end(id, End::Failed(call::ran(&error), error.to_string()));
                // Nobody would take what still comes in this session.
                *kept = None;
            }
        }
    }
}
