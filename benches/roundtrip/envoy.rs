//! Envoy beside us: where its binary is, and its configuration (`benches/peers/`, written for this benchmark).

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::path::Protocol;
use crate::processes::Stage;

/// Where `benches/fetch-envoy.sh` leaves the binary.
const CACHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/envoy");
/// What is said of its paths when it is not there.
pub const HOW_TO_GET: &str = "Envoy is not here; benches/fetch-envoy.sh brings it";
/// What it logs once it serves.
const UP: &str = "starting main dispatch loop";

const HTTP: &str = include_str!("../peers/envoy-http.yaml");
const DUBBO: &str = include_str!("../peers/envoy-dubbo.yaml");

pub struct Envoy {
    file: PathBuf,
    /// As `--version` has it, such as `1.40.0`.
    version: String,
}

impl Envoy {
    /// `$ENVOY`, or the one that was fetched.
    pub fn find() -> Option<Envoy> {
        let file = env::var_os("ENVOY").map_or_else(|| PathBuf::from(CACHED), PathBuf::from);
        let output = Command::new(&file).arg("--version").output().ok()?;
        // `FILE  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
        let said = String::from_utf8_lossy(&output.stdout);
        let build = said.split("version:").nth(1).and_then(|build| build.split('/').nth(1));
        let version = build.unwrap_or("of unknown version").to_owned();
        Some(Envoy { file, version })
    }

    /// Starts one that listens on `listen` and forwards to `service`, with one worker as the sidecar has, and says what runs, and as which process.
    pub fn start(
        &self,
        protocol: Protocol,
        listen: SocketAddr,
        service: SocketAddr,
        stage: &Stage,
    ) -> Result<(String, u32), String> {
        let template = match protocol {
            Protocol::Http => HTTP,
            Protocol::Dubbo => DUBBO,
        };
        let text = template
            .replace("@LISTEN_PORT@", &listen.port().to_string())
            .replace("@SERVICE_PORT@", &service.port().to_string());
        let config = stage.write(&format!("envoy-{}.yaml", protocol.word()), &text)?;
        let args = ["-c", &config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "info"];
        let started = stage.start("Envoy", &self.file, &args, UP)?;
        Ok((format!("Envoy {}, 1 worker", self.version), started.pid))
    }
}
