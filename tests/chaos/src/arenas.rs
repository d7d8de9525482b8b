//! Shared memory that was used: a process that has touched much of it takes longer to die.

use std::time::Duration;

use shmesh_client::{Call, Client, Lane, Protocol, Target, Wait};

/// Calls at once on one lane, each with a block of the largest size: the whole arena of a lane, in both directions.
const CALLS: usize = 16;
const BLOCK: usize = 250_000;
/// A bound that is not reached.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a lane's arenas have, both together.
const LANE_MIB: usize = 8;
const KEY: &[u8] = b"PUT /large HTTP/1.1\r\nHost: service\r\n\r\n";

/// An app with `mib` MiB of arenas that it and the sidecar have written and read. They are there until it is dropped.
pub struct Touched {
    _lanes: Vec<Lane>,
}

impl Touched {
    pub fn new(client: &Client, mib: usize) -> Touched {
        let body = vec![b'x'; BLOCK];
        let mut lanes: Vec<Lane> = (0..mib / LANE_MIB).map(|_| client.lane().expect("a lane")).collect();
        // One after the other: each call at once is a connection to the service, and a thread of it that ends when the sidecar dies.
        for lane in &mut lanes {
            for _ in 0..CALLS {
                let payload = [&body[..]];
                let call = Call::new(Target::Key(Protocol::Http, KEY), &payload);
                lane.submit(&call).expect("room for it");
            }
            lane.flush();
            while let Some(answer) = lane.receive(Wait::For(PATIENCE)).expect("the sidecar is there") {
                let response = answer.outcome.expect("an answer");
                assert_eq!(response.body.len(), BLOCK);
                lane.recycle(response);
            }
        }
        Touched { _lanes: lanes }
    }

    /// Lanes that it needs.
    pub fn lanes(mib: usize) -> u16 {
        u16::try_from(mib / LANE_MIB).unwrap_or(u16::MAX).max(1)
    }
}
