//! `shmesh echo`: a service that answers what it is sent, to call and to measure against.
//!
//! One blocking thread a connection. The protocols are pure: bytes in, answer out.

pub mod dubbo;
pub mod http;
pub mod raw;
mod shm;

use std::io;
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::address::Address;
use crate::cli::{Protocol, fail};
use crate::socket::{Listener, Stream};

/// Connections that are served at a time; one more is closed at once.
const CONNECTIONS_MAX: usize = 8192;
/// What is received at a time, in bytes.
const RECEIVE_BYTES: usize = 128 * 1024;
/// Answers that a client leaves unread before its requests are left unread too, in bytes. Above
/// 64 MiB, so that a client that sends a large body whole before it reads does not lock up with us.
const PENDING_BYTES_MAX: usize = 80 * 1024 * 1024;
/// Buffers that grew beyond this for a large message are given back afterwards, in bytes.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Stack of a connection's thread, in bytes; the buffers are on the heap.
const STACK_BYTES: usize = 256 * 1024;
/// How long a client that was refused may still send before the connection goes (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_millis(500);
/// Pause after `accept` failed, for want of descriptors say.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// One protocol's side of one connection.
pub trait Service: Send {
    /// Takes whole messages, or parts that can be answered, off the front of `input` and appends
    /// the answers to `out`. It may stop early when `out` has become long.
    fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress;
}

/// What a service did with its input.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken off the front.
    pub consumed: usize,
    /// The connection ends once the answers have left.
    pub close: bool,
}

/// Serves until the process is ended. With `check`, requests must carry payloads of `shmesh bench`.
pub fn echo(protocol: Protocol, listen: &Address, name: Option<&str>, check: bool) -> ExitCode {
    if check && protocol != Protocol::Http {
        return fail("--check goes with --protocol http");
    }
    match (listen, name) {
        (Address::Shm(socket), Some(name)) => return shm::serve(socket, name, check),
        (Address::Shm(_), None) => {
            return fail("say under which name to serve over shared memory: --name APP");
        }
        (_, Some(_)) => {
            return fail("--name goes with --listen shm:SOCKET: other services have no name");
        }
        (_, None) => {}
    }
    let listener = match Listener::bind(listen) {
        Ok(listener) => listener,
        Err(error) => return fail(&format!("cannot listen on {listen}: {error}")),
    };
    eprintln!("listening on {}", listener.address(listen));
    accept(&listener, protocol, check)
}

fn accept(listener: &Listener, protocol: Protocol, check: bool) -> ExitCode {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(_) => {
                thread::sleep(ACCEPT_RETRY);
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            eprintln!("a connection was closed: {CONNECTIONS_MAX} are open already");
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let ended = open.clone();
        let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // A connection that fails is its client's matter; there is nobody else to tell.
            let _ = serve(&stream, service(protocol, check).as_mut());
            ended.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            open.fetch_sub(1, Ordering::Relaxed);
            eprintln!("a connection was closed: no thread for it: {error}");
        }
    }
}

fn service(protocol: Protocol, check: bool) -> Box<dyn Service> {
    match protocol {
        Protocol::Http => Box::new(http::HttpEcho::new(check)),
        Protocol::Dubbo => Box::new(dubbo::DubboEcho),
        Protocol::Raw => Box::new(raw::RawEcho),
    }
}

/// Moves bytes between a connection and its service until either ends.
fn serve(stream: &Stream, service: &mut dyn Service) -> io::Result<()> {
    let mut input = vec![0; RECEIVE_BYTES];
    let (mut start, mut end) = (0, 0);
    let mut out = Vec::new();
    let mut sent = 0;
    loop {
        let mut close = false;
        while start < end && !close && out.len() - sent < PENDING_BYTES_MAX {
            let progress = service.handle(&input[start..end], &mut out);
            start += progress.consumed;
            close = progress.close;
            if progress.consumed == 0 {
                break;
            }
        }
        if close {
            return finish(stream, &out[sent..], &mut input);
        }
        sent += stream.send_now(&out[sent..])?;
        if sent == out.len() {
            sent = 0;
            out.clear();
            out.shrink_to(KEPT_BYTES_MAX);
        }
        make_room(&mut input, &mut start, &mut end);
        let received = if out.is_empty() {
            stream.receive(&mut input[end..])?
        } else {
            let room = out.len() - sent < PENDING_BYTES_MAX;
            stream.wait(room, true, None)?;
            match room {
                true => stream.receive_now(&mut input[end..])?,
                false => None,
            }
        };
        match received {
            Some(0) => return finish(stream, &out[sent..], &mut input),
            Some(n) => end += n,
            None => {}
        }
    }
}

/// Sends the last answers and closes in a way that lets the client read them: a close with
/// received bytes unread would reset the connection and take the answer with it.
fn finish(stream: &Stream, rest: &[u8], scratch: &mut [u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < rest.len() {
        sent += stream.send_now(&rest[sent..])?;
        if sent < rest.len() {
            stream.wait(false, true, None)?;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(LINGER))?;
    while stream.receive(scratch)?.is_some_and(|n| n > 0) {}
    Ok(())
}

/// Moves what is unconsumed to the front, and makes the buffer larger when a message fills it.
fn make_room(input: &mut Vec<u8>, start: &mut usize, end: &mut usize) {
    if start == end {
        (*start, *end) = (0, 0);
        if input.len() > KEPT_BYTES_MAX {
            input.truncate(RECEIVE_BYTES);
            input.shrink_to_fit();
        }
    } else if input.len() - *end < RECEIVE_BYTES / 2 {
        input.copy_within(*start..*end, 0);
        *end -= *start;
        *start = 0;
        if input.len() - *end < RECEIVE_BYTES / 2 {
            input.resize(input.len() * 2, 0);
        }
    }
}
