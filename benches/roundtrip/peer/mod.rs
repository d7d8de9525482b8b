//! Processes that the benchmark makes of itself: what is measured runs in a process of its own, and so do its neighbours.

mod forward;
mod hog;
mod lanes;
mod shmipc;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::processes::{Stage, Started, free_addresses};

/// The first argument of such a process.
pub const FLAG: &str = "--peer";
/// What such a process says on stderr once it is up.
pub const UP: &str = "peer is up";

/// Runs as a peer if the arguments (without the program's name) say so.
pub fn main(args: &[String]) -> Option<ExitCode> {
    let (flag, args) = args.split_first()?;
    if flag != FLAG {
        return None;
    }
    // It ends with the benchmark, even if that is killed; a program that takes its place, too.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = match args.as_slice() {
        ["exec", program, rest @ ..] => Err(format!("{program}: {}", Command::new(program).args(rest).exec())),
        ["forward", driver, listen, service] => forward::run(driver, listen, service),
        ["hog"] => hog::run(),
        ["lanes", session, lanes, calls] => lanes::hold(session, lanes, calls),
        ["shmipc-serve", socket, bytes] => shmipc::serve(socket, bytes),
        ["shmipc-call", rest @ ..] => shmipc::call(rest),
        _ => Err(format!("there is no peer {args:?}")),
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("roundtrip peer: {sentence}");
            ExitCode::FAILURE
        }
    })
}

/// A program, to be run in a way that it ends with the benchmark.
pub fn bound(program: impl Into<OsString>) -> Result<Command, String> {
    let line = command(&["exec"])?;
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).arg(program.into());
    Ok(command)
}

/// The command line of a peer.
pub fn command(args: &[&str]) -> Result<Vec<OsString>, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find the benchmark's executable: {error}"))?;
    let mut line = vec![own.into_os_string(), FLAG.into()];
    line.extend(args.iter().map(Into::into));
    Ok(line)
}

/// Starts a peer that stays.
pub fn start(stage: &Stage, what: &str, args: &[&str]) -> Result<Started, String> {
    let line = command(args)?;
    stage.start(what, line[0].as_ref(), &line[1..], UP)
}

/// Starts a forwarder that parses nothing, and says where it listens and as which process it runs.
pub fn start_forwarder(stage: &Stage, driver: &str, service: SocketAddr) -> Result<(SocketAddr, u32), String> {
    let [address] = free_addresses()?;
    let started = start(stage, "the forwarder", &["forward", driver, &address.to_string(), &service.to_string()])?;
    Ok((address, started.pid))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}
