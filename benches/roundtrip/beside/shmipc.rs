//! The crate shmipc in two processes of its own, a service for each size of payload (`roundtrip/peer/shmipc.rs`).

use crate::peer;
use crate::processes::Stage;
use crate::scene::command_of;
use crate::shmesh::{self, Load, Measured};

/// A service for payloads of one size.
pub struct Shmipc {
    socket: String,
    payload: usize,
}

impl Shmipc {
    pub fn start(stage: &Stage, payload: usize) -> Result<Shmipc, String> {
        let socket = stage.path(&format!("shmipc-{payload}.sock"));
        peer::start(stage, "the shmipc service", &["shmipc-serve", &socket, &payload.to_string()])?;
        Ok(Shmipc { socket, payload })
    }

    /// Calls with as many streams as calls are to be in flight.
    pub fn call(&self, load: &Load) -> Result<Measured, String> {
        let line = peer::command(&[
            "shmipc-call",
            &self.socket,
            &self.payload.to_string(),
            &load.inflight.to_string(),
            &load.duration.as_secs_f64().to_string(),
            &load.rate.unwrap_or(0.0).to_string(),
        ])?;
        shmesh::measure(&mut command_of(&line))
    }
}
