//! What the admin interface shows of a running sidecar.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use shmesh_admin::AdminSource;
use shmesh_engine::{DIRECT_APPS_MAX, Engine};
use shmesh_metrics::Format;
use tracing::info;

use super::direct::{DirectFile, to_json};
use super::families::families;
use super::reload::Outcome;

pub struct Status {
    engine: Arc<Engine>,
    direct: Mutex<DirectFile>,
    draining: AtomicBool,
    /// Reloads by what came of them.
    taken: AtomicU64,
    refused: AtomicU64,
}

impl Status {
    pub fn new(engine: Arc<Engine>, direct: DirectFile) -> Self {
        Self {
            engine,
            direct: Mutex::new(direct),
            draining: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub fn reloaded(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Taken => &self.taken,
            Outcome::Refused => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Not ready from here on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl AdminSource for Status {
    fn lacking(&self) -> Vec<String> {
        if self.draining.load(Ordering::Relaxed) {
            return vec!["shmesh was told to end and is draining".to_owned()];
        }
        match self.engine.is_ready() {
            true => Vec::new(),
            false => vec!["not every listener accepts".to_owned()],
        }
    }

    fn snapshot(&self) -> Value {
        shmesh_config::to_json(&self.engine.snapshot())
    }

    fn sessions(&self) -> Value {
        let sessions = self.engine.view().sessions;
        let shown = sessions.iter().map(|session| {
            json!({
                "id": session.id,
                "app": session.app,
                "uid": session.uid,
                "pid": session.pid,
                "lanes": session.lanes,
                "calling": session.calling,
                "serving": session.serving,
                "isolation": session.isolation,
                "since_unix_ms": session.since_unix_ms,
            })
        });
        shown.collect()
    }

    fn clusters(&self) -> Value {
        let clusters = self.engine.view().clusters;
        let shown = clusters.iter().map(|cluster| {
            let endpoints = cluster.endpoints.iter().map(|endpoint| {
                json!({
                    "address": endpoint.address,
                    "connections": endpoint.connections,
                    "failures": endpoint.failures,
                    "ejected": endpoint.ejected,
                    "ejections": endpoint.ejections,
                })
            });
            json!({ "name": cluster.name, "endpoints": endpoints.collect::<Vec<_>>() })
        });
        shown.collect()
    }

    fn direct(&self) -> Value {
        to_json(&self.engine.direct())
    }

    fn set_direct(&self, app: Option<&str>, share: u16) -> Result<(), String> {
        // One change after the other.
        let file = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        let mut direct = self.engine.direct();
        if !direct.set(app, share) {
            return Err(format!("{DIRECT_APPS_MAX} apps are told something of their own already"));
        }
        let changed = self.engine.unless_handing_over(|| {
            info!(app = app.unwrap_or("*"), share, "direct mode: of a thousand calls so many go round the sidecar");
            self.engine.set_direct(direct.clone());
            file.save(&direct)
        });
        let saved = changed.ok_or("another sidecar is taking over from this one: ask again")?;
        saved.map_err(|error| format!("it is so now, but cannot be kept for the next start: {error}"))
    }

    fn metrics(&self, accept: Option<&str>) -> (&'static str, String) {
        let format = Format::accepted(accept);
        let reloads =
            [("taken", self.taken.load(Ordering::Relaxed)), ("refused", self.refused.load(Ordering::Relaxed))];
        let families = families(self.engine.view(), self.engine.driver().name, reloads);
        (format.content_type(), shmesh_metrics::encode(families, format))
    }
}
