//! An app that attaches many lanes, makes a few calls on each, and then does nothing.

use std::path::Path;
use std::thread;

use shmesh_client::{Call, Client, Protocol, Target, Wait};

use super::number;

/// Lanes of one session.
const LANES_PER_SESSION: usize = 50;
const KEY: &[u8] = b"PUT / HTTP/1.1\r\nHost: echo-shm\r\n\r\n";
/// Eight bytes are one word, and every word is a payload that a checking echo takes.
const PAYLOAD: &[u8] = b"payload.";

/// Attaches `lanes` to the sidecar at `session`, makes `calls` on each, and holds them until it is ended.
pub fn hold(session: &str, lanes: &str, calls: &str) -> Result<(), String> {
    let (lanes, calls): (usize, usize) = (number(lanes)?, number(calls)?);
    let client = Client::builder()
        .socket(Path::new(session))
        .name("idle-lanes")
        .lanes(lanes.min(LANES_PER_SESSION) as u16)
        .sessions_max(lanes.div_ceil(LANES_PER_SESSION))
        .fallback(false)
        .connect()
        .map_err(|error| format!("cannot attach: {error}"))?;
    let mut held = Vec::new();
    for _ in 0..lanes {
        let mut lane = client.lane().map_err(|error| format!("lane {}: {error}", held.len()))?;
        for _ in 0..calls {
            let call = Call::new(Target::Key(Protocol::Http, KEY), &[PAYLOAD]);
            lane.submit(&call).map_err(|error| format!("a call: {error}"))?;
            let answer = lane.receive(Wait::Forever).map_err(|error| format!("a call: {error}"))?;
            let response = answer.ok_or("a call has no answer")?.outcome.map_err(|error| format!("a call: {error}"))?;
            if response.status != 200 || response.body != PAYLOAD {
                return Err(format!("a call was answered {}", response.status));
            }
        }
        held.push(lane);
    }
    eprintln!("{}: {lanes} lanes", super::UP);
    loop {
        thread::park();
    }
}
