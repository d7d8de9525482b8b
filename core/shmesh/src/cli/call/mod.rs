//! `shmesh call`: one call, its answer on stdout. A curl for shared memory.

mod dubbo;
mod http;
mod url;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::address::Address;
use crate::cli::{CallArgs, fail};
use crate::socket::Stream;

/// Makes the call that the arguments describe. A completed exchange is a success whatever it says.
pub fn call(args: &CallArgs) -> ExitCode {
    let done = match (&args.http, &args.dubbo) {
        (Some(words), _) => http::Request::from_args(args, &words[0], &words[1])
            .and_then(|request| http::exchange(&args.via, request, args.verbose)),
        (_, Some(words)) => dubbo::exchange(args, &words[0], &words[1]),
        (None, None) => Err("say what to call: --http METHOD URL or --dubbo IFACE METHOD".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&sentence),
    }
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
