//! `shmesh call`: one call, its answer on stdout. A curl for shared memory.

mod dubbo;
mod http;
mod shm;
mod url;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use shmesh_client::Client;

use crate::address::Address;
use crate::cli::{CallArgs, fail};
use crate::socket::Stream;

/// Makes the call that the arguments describe. A completed exchange is a success whatever it says.
pub fn call(args: &CallArgs) -> ExitCode {
    let done = match (&args.http, &args.dubbo) {
        (Some(words), _) => http_call(args, &words[0], &words[1]),
        (_, Some(words)) => dubbo::exchange(args, &words[0], &words[1]),
        (None, None) => Err("say what to call: --http METHOD URL or --dubbo IFACE METHOD".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&sentence),
    }
}

fn http_call(args: &CallArgs, method: &str, url: &str) -> Result<(), String> {
    let request = http::Request::from_args(args, method, url)?;
    let via = &args.via;
    if let Address::Shm(socket) = via {
        return shm::exchange(&attach(socket)?, request, args.verbose);
    }
    let reader = connect(via)?;
    let writer = reader.try_clone().map_err(|error| format!("cannot use the connection to {via}: {error}"))?;
    http::over_stream(reader, writer, request, args.verbose)
}

fn attach(socket: &Path) -> Result<Client, String> {
    Client::builder()
        .socket(socket)
        // Who looks at a sidecar wants to see how slow it is.
        .hang_timeout(Duration::ZERO)
        .name("shmesh-call")
        .lanes(1)
        .connect()
        .map_err(|error| format!("cannot attach to shm:{}: {error}", socket.display()))
}

fn connect(via: &Address) -> Result<Stream, String> {
    Stream::connect(via).map_err(|error| format!("cannot connect to {via}: {error}"))
}

/// Standard output without a buffer in between: bytes go out as they come, exactly.
struct Output(File);

impl Output {
    fn open() -> Result<Self, String> {
        let fd = io::stdout().as_fd().try_clone_to_owned();
        fd.map(|fd| Self(File::from(fd))).map_err(|error| format!("cannot write to stdout: {error}"))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.write_all(bytes).map_err(|error| format!("cannot write to stdout: {error}"))
    }
}
