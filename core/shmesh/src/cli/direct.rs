//! `shmesh direct`: tells the apps of a sidecar to go round it, or to come back.

use std::process::ExitCode;

use serde_json::json;

use super::{DirectArgs, Switch, admin, fail};

/// Turns it, and says what is so now.
pub fn direct(args: &DirectArgs) -> ExitCode {
    let answer = match &args.to {
        None => admin::get(args.admin, "/direct"),
        Some(to) => {
            let share = if *to == Switch::On { 1000 } else { 0 };
            admin::post(args.admin, "/direct", &json!({ "share": share, "app": args.app }).to_string())
        }
    };
    match answer {
        Ok((200, state)) => {
            print!("{state}");
            ExitCode::SUCCESS
        }
        Ok((status, why)) => fail(&format!("http://{}/direct answers {status}: {}", args.admin, why.trim_end())),
        Err(error) => fail(&format!("cannot reach http://{}/direct: {error}", args.admin)),
    }
}
