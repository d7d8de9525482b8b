//! Lanes that have a call in flight when the sidecar is replaced, of which an answer has come in part.

use std::time::Duration;

use shmesh_client::{Call, Client, Lane, Protocol, Target, Wait};

use crate::service::IN_HALVES;
use crate::sidecar::Setup;
use crate::trouble::HANGS;

/// A bound that is not reached.
const PATIENCE: Duration = Duration::from_secs(120);

const BODY: usize = 4_000;

pub struct BusyLanes {
    lanes: Vec<Lane>,
    key: String,
    pub failed: u64,
    pub first: Option<String>,
}

impl BusyLanes {
    pub fn new(setup: &Setup, sessions: u16, lanes: u16) -> BusyLanes {
        let lanes_of = |_| {
            let builder = Client::builder().socket(setup.socket()).hang_timeout(HANGS).lanes(lanes);
            let client = builder.connect().expect("a session");
            (0..lanes).map(move |_| client.lane().expect("a lane")).collect::<Vec<_>>()
        };
        let key = format!("POST /run HTTP/1.1\r\nHost: service\r\n{IN_HALVES}\r\n");
        BusyLanes { lanes: (0..sessions).flat_map(lanes_of).collect(), key, failed: 0, first: None }
    }

    pub fn begin(&mut self) {
        let body = [b'x'; BODY];
        for lane in &mut self.lanes {
            let payload = [&body[..]];
            let call = Call::new(Target::Key(Protocol::Http, self.key.as_bytes()), &payload);
            if let Err(error) = lane.submit(&call) {
                self.failed += 1;
                self.first.get_or_insert_with(|| format!("a call over a lane was not taken: {error}"));
            }
            lane.flush();
        }
    }

    pub fn end(&mut self) {
        for lane in &mut self.lanes {
            let why = match lane.receive(Wait::For(PATIENCE)).map(|answer| answer.map(|answer| answer.outcome)) {
                Ok(Some(Ok(response))) if response.status == 200 && response.body == [b'x'; BODY] => {
                    lane.recycle(response);
                    continue;
                }
                other => format!("a call over a lane: {other:?}"),
            };
            self.failed += 1;
            self.first.get_or_insert(why);
        }
    }
}
