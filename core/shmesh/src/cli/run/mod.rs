//! `shmesh run`: the sidecar. Starts everything, follows the configuration, and ends without
//! breaking what is in flight.
//!
//! The main thread is the control thread: a tokio runtime that serves the admin interface and waits
//! for signals. Calls are handled by the engine's workers, which never wait for it.

mod direct;
mod families;
pub mod log;
mod reload;
mod status;
mod supervised;
mod upgrade;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shmesh_config::{ConfigError, Watcher};
use shmesh_engine::{Engine, EngineOptions, UpgradeSocket};
use shmesh_policy::Snapshot;
use shmesh_supervisor::PREDECESSOR_DIED;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::cli::{RunArgs, fail};
use direct::DirectFile;
pub use log::{Format, Level};
use reload::Reloader;
use status::Status;
pub use supervised::SUPERVISOR;
use upgrade::Upgrades;

/// How often the drain looks whether anything is in flight.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(5);
/// Time for admin answers in progress once the drain is over.
const ADMIN_END: Duration = Duration::from_millis(200);

/// Runs the sidecar until it is told to end.
pub fn run(args: &RunArgs) -> ExitCode {
    log::start(args.log_level, args.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the control thread cannot be set up: {error}")),
    };
    match runtime.block_on(serve(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal::Config(lines)) => {
            eprintln!("{lines}");
            ExitCode::FAILURE
        }
        Err(Refusal::Start(sentence)) => fail(&sentence),
        Err(Refusal::Orphaned(sentence)) => {
            fail(&sentence);
            ExitCode::from(PREDECESSOR_DIED)
        }
    }
}

/// Why the sidecar does not start.
enum Refusal {
    /// Lines of `file:line:column: …`.
    Config(String),
    Start(String),
    /// The sidecar from which it was to take over died.
    Orphaned(String),
}

impl Refusal {
    fn config(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }

    fn start(error: impl std::fmt::Display) -> Self {
        Self::Start(error.to_string())
    }
}

async fn serve(args: &RunArgs) -> Result<(), Refusal> {
    // Before anything is served, or a signal in between would end the process the hard way.
    let mut signals = Signals::register().map_err(Refusal::start)?;
    let upgrades = Upgrades::new();
    if !supervised::end_with_supervisor() {
        return Err(Refusal::start("the supervisor that started this process is gone"));
    }
    let changed = Arc::new(Notify::new());
    let _watcher = watch_file(args.config.clone(), &changed);
    let configured = Configured::read(args)?;
    raise_descriptor_limit();

    let predecessor = if args.upgrade { upgrade::predecessor(&configured.snapshot)? } else { None };
    let running = match predecessor {
        Some(predecessor) => upgrade::take_over(args, predecessor)?,
        None => start(args, configured).await?,
    };
    let Running { engine, configured: Configured { snapshot, text }, admin, direct, upgrade_socket } = running;
    announce(args, &snapshot, &engine);

    let over = Arc::new(Notify::new());
    let text = Arc::new(Mutex::new(text));
    let taken_over = upgrade_socket.is_some();
    upgrade::listen(&engine, &admin, &text, &over, upgrade_socket)?;
    let status = Arc::new(Status::new(engine.clone(), direct));
    let (ended, end) = watch::channel(false);
    let serving = tokio::spawn(shmesh_admin::serve(admin, status.clone(), until(end)));
    let mut reloader = Reloader::new(args.config.clone(), engine.clone(), snapshot, text);
    if taken_over && reloader.is_outdated() {
        status.reloaded(reloader.reload("the one in force was handed over"));
    }
    loop {
        tokio::select! {
            () = changed.notified() => status.reloaded(reloader.reload("the file changed")),
            _ = signals.hangup.recv() => status.reloaded(reloader.reload("SIGHUP")),
            _ = signals.upgrade.recv() => upgrades.begin(),
            () = over.notified() => {
                let _ = ended.send(true);
                upgrade::end(serving).await
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    status.begin_drain();
    drain(&engine, reloader.drain_timeout(), &mut signals).await;

    let _ = ended.send(true);
    // A client that keeps its admin connection does not keep the process.
    let _ = tokio::time::timeout(ADMIN_END, serving).await;
    drop((reloader, status));
    match Arc::try_unwrap(engine) {
        Ok(engine) => engine.stop(),
        // An admin answer still looks at it; the process ends now, and the engine with it.
        Err(_) => warn!("the engine is ended with the process"),
    }
    info!("ended");
    Ok(())
}

/// A configuration that is good.
struct Configured {
    snapshot: Arc<Snapshot>,
    /// As it was written; `None`: the one without a file.
    text: Option<String>,
}

impl Configured {
    fn read(args: &RunArgs) -> Result<Configured, Refusal> {
        let Some(file) = &args.config else { return Configured::of(None, "(default)", 1) };
        let text = shmesh_config::read_text(file).map_err(Refusal::config)?;
        Configured::of(Some(text), &file.display().to_string(), 1)
    }

    fn of(text: Option<String>, name: &str, version: u64) -> Result<Configured, Refusal> {
        let mut snapshot = match &text {
            Some(text) => shmesh_config::parse(text, name).map_err(Refusal::config)?,
            None => shmesh_config::default_config(),
        };
        snapshot.version = version;
        Ok(Configured { snapshot: Arc::new(snapshot), text })
    }
}

/// What serves, started here or gone on with.
struct Running {
    engine: Arc<Engine>,
    configured: Configured,
    admin: TcpListener,
    direct: DirectFile,
    /// That of the process which handed over.
    upgrade_socket: Option<io::Result<UpgradeSocket>>,
}

async fn start(args: &RunArgs, configured: Configured) -> Result<Running, Refusal> {
    let snapshot = &configured.snapshot;
    let admin = shmesh_admin::bind(snapshot.admin.address).await;
    let admin = admin.map_err(Refusal::start)?;
    let options = EngineOptions { driver: args.driver.into(), workers: args.workers };
    let resolver = shmesh_names::start().map_err(Refusal::start)?;
    let engine = Engine::start(snapshot.clone(), options, resolver).map_err(Refusal::start)?;
    let direct = DirectFile::of(snapshot);
    engine.set_direct(direct.load());
    Ok(Running { engine: Arc::new(engine), configured, admin, direct, upgrade_socket: None })
}

struct Signals {
    hangup: Signal,
    upgrade: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn register() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

fn watch_file(file: Option<PathBuf>, changed: &Arc<Notify>) -> Option<Watcher> {
    let file = file?;
    let changed = changed.clone();
    match Watcher::start(&file, move || changed.notify_one()) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!("{error}; changes are taken on SIGHUP only");
            None
        }
    }
}

/// A connection takes two descriptors, and the usual soft limit is 1,024: go to the hard limit.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!("the limit of open files stays as it is: {error}");
    }
}

fn announce(args: &RunArgs, snapshot: &Snapshot, engine: &Engine) {
    let driver = engine.driver();
    if let Some(reason) = &driver.stepped_down {
        warn!("io_uring cannot be used here, running on epoll: {reason}");
    }
    for listener in &snapshot.listeners {
        info!(listener = %listener.name, address = %listener.bind, "listening");
    }
    let config = match &args.config {
        Some(file) => file.display().to_string(),
        None => "(default)".to_owned(),
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config,
        driver = driver.name,
        admin = %format_args!("http://{}", snapshot.admin.address),
        "shmesh is ready"
    );
}

async fn until(mut end: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end as well.
    let _ = end.wait_for(|ended| *ended).await;
}

/// Waits for what is in flight, at most for the timeout; a second signal ends the wait.
async fn drain(engine: &Engine, timeout: Duration, signals: &mut Signals) {
    let in_flight = engine.in_flight();
    engine.begin_drain();
    info!(in_flight, ?timeout, "draining");
    let late = Instant::now() + timeout;
    while engine.in_flight() > 0 {
        if Instant::now() >= late {
            error!(calls = engine.in_flight(), "the drain timeout is over, calls are cut");
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(DRAIN_LOOK_EVERY) => {}
            _ = signals.terminate.recv() => return warn!("told to end again, calls are cut"),
            _ = signals.interrupt.recv() => return warn!("told to end again, calls are cut"),
        }
    }
}
