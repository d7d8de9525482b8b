use std::sync::Arc;
fn main() {
    tracing_subscriber::fmt().with_env_filter("debug").with_writer(std::io::stderr).init();
    let path = std::env::args().nth(1).unwrap();
    let snapshot = shmesh_config::load(std::path::Path::new(&path)).unwrap();
    let mut snapshot = snapshot; snapshot.version = 1;
    let engine = shmesh_engine::Engine::start(Arc::new(snapshot), shmesh_engine::EngineOptions{driver: shmesh_engine::Choice::Epoll, workers: Some(1)}).unwrap_or_else(|e| panic!("{e}"));
    loop { std::thread::sleep(std::time::Duration::from_secs(2)); let v = engine.view(); eprintln!("{:?} inflight {}", v.requests, engine.in_flight()); }
}
