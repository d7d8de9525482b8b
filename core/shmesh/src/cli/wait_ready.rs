//! `shmesh wait-ready`: for postStart hooks, and whatever has to begin after the sidecar.

use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use shmesh_client::Client;

use super::{WaitReadyArgs, admin, fail};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One that says nothing for as long, twenty looks, does not answer any more.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// It looks once, however short the time.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Waits until the sidecar is ready; fails when it is not in time.
pub fn wait_ready(args: &WaitReadyArgs) -> ExitCode {
    let late = Instant::now() + args.timeout.max(TIMEOUT_MIN);
    // A sidecar that is stopped takes a connection and does not answer: whoever looks then is not waited for.
    let (tells, told) = channel();
    let looks_for = args.clone();
    thread::spawn(move || {
        while tells.send(is_ready(&looks_for)).is_ok() {
            thread::sleep(LOOK_EVERY);
        }
    });
    let (mut why, mut looked) = (String::new(), Instant::now());
    loop {
        match told.recv_timeout(late.saturating_duration_since(Instant::now())) {
            Ok(Ok(())) => return ExitCode::SUCCESS,
            Ok(Err(new)) => (why, looked) = (new, Instant::now()),
            Err(_) => break,
        }
    }
    if why.is_empty() {
        why = "it does not answer".to_owned();
    } else if looked.elapsed() > ANSWERS_WITHIN {
        why = format!("it does not answer any more; before that: {why}");
    }
    fail(&format!("the sidecar is not ready after {:?}: {why}", args.timeout))
}

/// Whether it is, and if not, why.
fn is_ready(args: &WaitReadyArgs) -> Result<(), String> {
    if let Some(socket) = &args.socket {
        // As an app does it.
        let attached = Client::builder().socket(socket).name("wait-ready").lanes(1).fallback(false).connect();
        return attached.map(drop).map_err(|error| error.to_string());
    }
    match admin::get(args.admin, "/ready") {
        Ok((200, _)) => Ok(()),
        Ok((_, why)) => Err(why.trim_end().to_owned()),
        Err(error) => Err(format!("http://{}/ready: {error}", args.admin)),
    }
}
