//! The command line: its words, and which module does what they ask.

pub mod admin;
pub mod bench;
pub mod call;
pub mod check;
pub mod demo;
pub mod direct;
pub mod echo;
pub mod run;
pub mod supervise;
pub mod wait_ready;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::address::Address;

/// A sidecar for RPC traffic over shared memory, Unix sockets and TCP.
#[derive(Parser)]
#[command(name = "shmesh", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar until SIGTERM.
    Run(RunArgs),
    /// Run the sidecar as a child process and keep it running: restarts, upgrades (SIGUSR2); for containers' entry points.
    Supervise(SuperviseArgs),
    /// Say whether a configuration file is good, and if not, where and why.
    Check(CheckArgs),
    /// See what each way to a service costs: starts services, a sidecar and clients, and ends by itself.
    Demo,
    /// Serve HTTP, Dubbo or raw bytes by sending back what comes.
    Echo(EchoArgs),
    /// Make one call and print the answer: a curl for shared memory.
    Call(CallArgs),
    /// Tell apps to make their calls without the sidecar, or through it again; without a word show what they are told.
    Direct(DirectArgs),
    /// Wait until a sidecar is ready.
    WaitReady(WaitReadyArgs),
    /// Measure calls to an echo service, directly or through a sidecar.
    Bench(BenchArgs),
}

/// What is spoken over a connection or in the records of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1
    Http,
    /// Dubbo2
    Dubbo,
    /// Bytes without any framing
    Raw,
}

#[derive(Args)]
pub struct RunArgs {
    /// Without a file: HTTP on 127.0.0.1:15001 to the host that a request names in absolute form,
    /// admin on 127.0.0.1:15000
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How workers do their I/O; auto steps down where io_uring is not allowed
    #[arg(long, value_enum, default_value = "auto")]
    pub driver: Driver,
    /// Worker threads [default: as configured, or by the CPU quota]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub workers: Option<usize>,
    /// Take over from the sidecar that runs, with every connection and session; starts as ever if there is none
    #[arg(long)]
    pub upgrade: bool,
    #[arg(long, value_name = "L", value_enum, default_value = "info")]
    pub log_level: run::Level,
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: run::Format,
}

#[derive(Args)]
pub struct SuperviseArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// What to run; SIGUSR2 upgrades to what lies there then [default: this program]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// How long the sidecar may take to end before it is killed; longer than its drain_timeout
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = parse_duration)]
    pub stop_timeout: Duration,
    /// How long a new sidecar may take to replace the old one before it is killed and the old one goes on
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub upgrade_timeout: Duration,
}

/// The drivers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    Auto,
    Uring,
    Epoll,
}

impl From<Driver> for shmesh_engine::Choice {
    fn from(driver: Driver) -> Self {
        match driver {
            Driver::Auto => Self::Auto,
            Driver::Uring => Self::Uring,
            Driver::Epoll => Self::Epoll,
        }
    }
}

#[derive(Args)]
struct CheckArgs {
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct EchoArgs {
    #[arg(long, value_enum)]
    protocol: Protocol,
    /// tcp:HOST:PORT (port 0: any), unix:PATH, or shm:SOCKET, the session socket of a sidecar
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
    /// Name to serve under over shared memory: a route reaches it as endpoint `shm:APP`
    #[arg(long, value_name = "APP")]
    name: Option<String>,
    /// Read every payload and refuse one that `shmesh bench` did not send; HTTP only
    #[arg(long)]
    check: bool,
}

#[derive(Args)]
#[command(group = ArgGroup::new("exchange").required(true))]
pub struct CallArgs {
    /// tcp:HOST:PORT or unix:PATH of a sidecar or a service, or shm:SOCKET of a sidecar
    #[arg(long, value_name = "ADDRESS")]
    pub via: Address,
    /// An HTTP call; the URL's host is the Host that routes look at
    #[arg(long, num_args = 2, value_names = ["METHOD", "URL"], group = "exchange")]
    pub http: Option<Vec<String>>,
    /// A header of the HTTP call, as often as needed
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "http")]
    pub headers: Vec<String>,
    /// Body of the HTTP call: TEXT, or @FILE for the bytes of a file (@- for stdin)
    #[arg(long, value_name = "@FILE|TEXT", requires = "http", allow_hyphen_values = true)]
    pub data: Option<OsString>,
    /// A Dubbo call
    #[arg(long, num_args = 2, value_names = ["IFACE", "METHOD"], group = "exchange")]
    pub dubbo: Option<Vec<String>>,
    /// Group of the Dubbo service
    #[arg(long, requires = "dubbo")]
    pub group: Option<String>,
    /// Version of the Dubbo service
    #[arg(long, requires = "dubbo")]
    pub version: Option<String>,
    /// The call's one argument, a java.lang.String; without it the method takes none
    #[arg(long, value_name = "TEXT", requires = "dubbo", allow_hyphen_values = true)]
    pub arg: Option<String>,
    /// Print status line and headers on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

/// Round the sidecar, or through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Args)]
pub struct DirectArgs {
    #[arg(value_enum)]
    pub to: Option<Switch>,
    /// Only the app with this name; without it all apps, whatever they were told apart
    #[arg(long, value_name = "NAME", requires = "to")]
    pub app: Option<String>,
    /// The sidecar's admin interface
    #[arg(long, value_name = "ADDRESS", default_value = admin::ADDRESS)]
    pub admin: SocketAddr,
}

#[derive(Args, Clone)]
pub struct WaitReadyArgs {
    /// How long to wait, such as 30s, 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// The sidecar's admin interface
    #[arg(long, value_name = "ADDRESS", default_value = admin::ADDRESS)]
    pub admin: SocketAddr,
    /// Attach to this session socket instead of asking the admin interface
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    pub socket: Option<PathBuf>,
}

#[derive(Args)]
pub struct BenchArgs {
    /// tcp:HOST:PORT or unix:PATH of a sidecar or a service, or shm:SOCKET of a sidecar
    #[arg(long, value_name = "ADDRESS")]
    pub via: Address,
    #[arg(long, value_enum)]
    pub protocol: Protocol,
    /// Host (http), interface (dubbo) or cluster (raw over shared memory)
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// Method to call [http: PUT, dubbo: sayHello]
    #[arg(long)]
    pub method: Option<String>,
    /// Group of the Dubbo service
    #[arg(long)]
    pub group: Option<String>,
    /// Version of the Dubbo service
    #[arg(long)]
    pub version: Option<String>,
    /// Bytes of each call's payload
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub payload: usize,
    /// Calls outstanding on each connection at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count)]
    pub inflight: usize,
    /// Connections, or lanes over shared memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count)]
    pub connections: usize,
    /// Calls per second over all connections, or `max`: each answer brings the next call
    #[arg(long, value_name = "max|N", default_value = "max", value_parser = parse_rate)]
    pub rate: Rate,
    /// How long calls are started and counted, such as 5s, 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Also say where the sidecar's workers spent the time, stage by stage; its configuration needs `stages: true`
    #[arg(long, value_name = "ADMIN", num_args = 0..=1, default_missing_value = "127.0.0.1:15000")]
    pub stages: Option<SocketAddr>,
    /// Print one JSON object on stdout and nothing else
    #[arg(long)]
    pub json: bool,
}

/// How calls are started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Closed loop: whenever an answer makes room.
    Max,
    /// Open loop: so many per second, whatever the answers do.
    PerSecond(f64),
}

/// Runs what the arguments of the process ask for.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Supervise(args) => supervise::supervise(&args),
        Command::Demo => demo::demo(),
        Command::Check(args) => check::check(&args.config),
        Command::Echo(args) => echo::echo(args.protocol, &args.listen, args.name.as_deref(), args.check),
        Command::Call(args) => call::call(&args),
        Command::Direct(args) => direct::direct(&args),
        Command::WaitReady(args) => wait_ready::wait_ready(&args),
        Command::Bench(args) => bench::bench(&args),
    }
}

/// Says on stderr why nothing more can be done.
pub fn fail(sentence: &str) -> ExitCode {
    eprintln!("shmesh: {sentence}");
    ExitCode::FAILURE
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number of at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Rate::PerSecond(rate)),
        _ => Err("write max, or a number of calls per second above 0".to_owned()),
    }
}

/// A number with `ms`, `s`, `m` or `h`; a bare number means seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time such as 5s, 500ms or 2m".to_owned();
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(number * seconds_per_unit) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, millis) in [("5s", 5000), ("500ms", 500), ("2m", 120_000), ("1.5s", 1500), ("3", 3000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "0s", "5x", "5 s", "1e400s", "nan"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("max"), Ok(Rate::Max));
        assert_eq!(parse_rate("2500"), Ok(Rate::PerSecond(2500.0)));
        for text in ["", "0", "-5", "inf", "NaN", "fast"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
