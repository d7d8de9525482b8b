//! A whole session with the engine in this process: the attacks of tests/hostile, told what to do by the fuzzer.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use shmesh_engine::{Choice, Engine, EngineOptions, Resolver};
use tempfile::TempDir;

#[allow(dead_code)]
#[path = "../../hostile/app.rs"]
mod app;
#[allow(dead_code)]
#[path = "../../hostile/attacker.rs"]
mod attacker;
#[allow(dead_code)]
#[path = "../../hostile/choices.rs"]
mod choices;
#[allow(dead_code)]
#[path = "../../hostile/corpus.rs"]
mod corpus;
#[allow(dead_code)]
#[path = "../../hostile/entry.rs"]
mod entry;
#[allow(dead_code)]
#[path = "../../hostile/mutation.rs"]
mod mutation;
#[allow(dead_code)]
#[path = "../../hostile/strict.rs"]
mod strict;
#[allow(dead_code)]
#[path = "../../hostile/upstream.rs"]
mod upstream;

use app::App;
use attacker::Attacker;
use choices::Choices;
use upstream::Upstream;

/// Rounds of one input at most.
const ROUNDS: usize = 64;

/// Longest that the engine may need to forget a session.
const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    engine: Engine,
    upstream: Upstream,
    folder: TempDir,
}

fuzz_target!(|input: &[u8]| {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    let scene = SCENE.get_or_init(Scene::start);
    let mut choices = Choices::Bytes(input);
    let serving = choices.one_in(2).then_some("hostile");
    let lanes = 1 + choices.below(2) as u16;
    let app = App::attach_patiently(&scene.folder.path().join("apps.sock"), lanes, serving);
    let mut attacker = Attacker::new(app, &mut choices);
    if attacker.run(ROUNDS) && attacker.settle() {
        attacker.use_all_slots();
    }
    attacker.search();
    drop(attacker);
    scene.forgets();
    scene.upstream.record.check();
});

impl Scene {
    fn start() -> Scene {
        let upstream = Upstream::start();
        let folder = TempDir::new().expect("a folder");
        let text = format!(
            "
listeners: [ {{ name: apps, shm: {}/apps.sock }} ]
routes:
  - {{ match: {{ host: service }}, cluster: service }}
  - {{ match: {{ host: flaky }}, cluster: flaky }}
  - {{ match: {{ host: local }}, cluster: local }}
  - {{ match: {{ service: com.demo.GreetService }}, cluster: greeter }}
clusters:
  - {{ name: service, endpoints: [ \"{}\" ] }}
  - {{ name: flaky, endpoints: [ \"{}\" ], first_byte_timeout: 1s }}
  - {{ name: greeter, endpoints: [ \"{}\" ] }}
  - {{ name: raw-service, endpoints: [ \"{}\" ] }}
  - {{ name: local, endpoints: [ \"shm:hostile\" ], first_byte_timeout: 100ms }}
",
            folder.path().display(),
            upstream.http,
            upstream.flaky,
            upstream.dubbo,
            upstream.raw
        );
        let mut snapshot = shmesh_config::parse(&text, "fuzz").expect("a configuration");
        snapshot.version = 1;
        let driver = match std::env::var("SHMESH_FUZZ_DRIVER").as_deref() {
            Ok("uring") => Choice::Uring,
            _ => Choice::Epoll,
        };
        let options = EngineOptions { driver, workers: Some(1) };
        let engine = Engine::start(Arc::new(snapshot), options, Resolver::deaf()).expect("it starts");
        Scene { engine, upstream, folder }
    }

    /// Nothing is left of a session once its app is gone.
    fn forgets(&self) {
        let late = Instant::now() + PATIENCE;
        while !self.engine.view().sessions.is_empty() || self.engine.in_flight() > 0 {
            assert!(Instant::now() < late, "something of a session is left");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
