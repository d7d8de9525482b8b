//! An HTTP call over shared memory. A request of known, small size is one call, as an app would make
//! it; a large or unending body goes over a byte stream on the lane, so that answer and request can
//! move at the same time and neither is held whole.

use std::io::Read;

use shmesh_client::{Client, Protocol};

use super::Output;
use super::http::{self, Body, Request};

/// Request bodies up to here are sent as one call, in bytes.
const CALL_BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of the answer's body that are taken at a time.
const STEP_BYTES: usize = 64 * 1024;

/// Makes the call; writes the answer's body to stdout and with `verbose` its head to stderr.
///
/// # Errors
/// A sentence; an answer of any status is none.
pub fn exchange(client: &Client, mut request: Request, verbose: bool) -> Result<(), String> {
    let body = match &mut request.body {
        Body::None => Vec::new(),
        Body::Sized(source, length) if *length <= CALL_BODY_BYTES_MAX => {
            let mut body = Vec::with_capacity(*length as usize);
            let mut source = source.take(*length);
            let read = source.read_to_end(&mut body);
            read.map_err(|error| format!("cannot read the body: {error}"))?;
            body
        }
        Body::Sized(..) | Body::Unsized(_) => return over_stream(client, request, verbose),
    };
    as_call(client, &request, &body, verbose)
}

fn over_stream(client: &Client, request: Request, verbose: bool) -> Result<(), String> {
    let reader = client.stream(Protocol::Http, None).map_err(|error| error.to_string())?;
    let writer = reader.try_clone().map_err(|error| format!("cannot use the stream: {error}"))?;
    http::over_stream(reader, writer, request, verbose)
}

fn as_call(client: &Client, request: &Request, body: &[u8], verbose: bool) -> Result<(), String> {
    let Request { method, authority, target, headers, .. } = request;
    let mut call = shmesh_client::Request::http(method, authority, target).body(body);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    let sentence = |error: shmesh_client::CallError| error.to_string();
    let mut exchange = client.exchange(&call, Some(body.len() as u64)).map_err(sentence)?;
    exchange.finish().map_err(sentence)?;
    let (_, head) = exchange.head().map_err(sentence)?;
    if verbose {
        eprint!("{}", String::from_utf8_lossy(&head).replace('\r', ""));
    }
    let mut output = Output::open()?;
    let mut step = vec![0; STEP_BYTES];
    loop {
        match exchange.read_body(&mut step).map_err(sentence)? {
            0 => return Ok(()),
            n => output.write(&step[..n])?,
        }
    }
}
