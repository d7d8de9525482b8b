//! A Dubbo call: one frame out, heartbeats answered on the way, one frame in.

use std::io::{self, Read, Write};
use std::path::Path;

use shmesh_client::{DubboKey, Request};
use shmesh_proto::dubbo::{
    FrameHeader, HEADER_LEN, Invocation, Reply, read_reply, serialization, write_heartbeat_reply, write_request,
};

use super::{Output, attach, connect};
use crate::address::Address;
use crate::cli::CallArgs;
use crate::socket::Stream;

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u32 = 128 * 1024 * 1024;
/// Id of the one request.
const ID: u64 = 1;

/// Makes the call and prints its value; what went wrong on the way or in the method goes to stderr.
///
/// # Errors
/// A sentence, when no answer came.
pub fn exchange(args: &CallArgs, interface: &str, method: &str) -> Result<(), String> {
    let mut frame = Vec::new();
    let invocation = Invocation {
        path: interface,
        version: args.version.as_deref(),
        group: args.group.as_deref(),
        method,
        argument: args.arg.as_deref().map(str::as_bytes),
        ..Invocation::default()
    };
    write_request(&mut frame, ID, true, serialization::HESSIAN2, &invocation);
    let (header, body) = match &args.via {
        Address::Shm(socket) => {
            let (group, version) = (args.group.as_deref(), args.version.as_deref());
            let key = DubboKey { service: interface, method, group, version, tag: None };
            over_shm(socket, Request::dubbo(key, &frame))?
        }
        via => over_stream(&mut connect(via)?, &frame)?,
    };
    if args.verbose {
        eprintln!("dubbo status {}, serialization {}, {} bytes", header.status, header.serialization, header.body_len);
    }
    print(&header, &body)
}

/// Prints what an answer says.
fn print(header: &FrameHeader, body: &[u8]) -> Result<(), String> {
    let reply = read_reply(header, body).map_err(|error| format!("the answer cannot be read: {error}"))?;
    match reply {
        Reply::Value(text) => Output::open()?.write(format!("{text}\n").as_bytes())?,
        Reply::Null => Output::open()?.write(b"null\n")?,
        Reply::Exception(text) => eprintln!("the method threw {text}"),
        Reply::Error { status, sentence } => eprintln!("dubbo status {status}: {sentence}"),
    }
    Ok(())
}

fn over_shm(socket: &Path, request: Request<'_>) -> Result<(FrameHeader, Vec<u8>), String> {
    let response = attach(socket)?.call(request).map_err(|error| error.to_string())?;
    let Some((header, body)) = response.body.split_first_chunk::<HEADER_LEN>() else {
        return Err("the answer is not a Dubbo frame".to_owned());
    };
    let header =
        FrameHeader::parse(header, ANSWER_BYTES_MAX).map_err(|error| format!("the answer is not Dubbo: {error}"))?;
    Ok((header, body.to_vec()))
}

fn over_stream(stream: &mut Stream, frame: &[u8]) -> Result<(FrameHeader, Vec<u8>), String> {
    stream.write_all(frame).map_err(|error| format!("the call could not be sent: {error}"))?;
    receive(stream)
}

fn receive(stream: &mut Stream) -> Result<(FrameHeader, Vec<u8>), String> {
    loop {
        let mut bytes = [0; HEADER_LEN];
        read_exact(stream, &mut bytes)?;
        let header = FrameHeader::parse(&bytes, ANSWER_BYTES_MAX)
            .map_err(|error| format!("the answer is not Dubbo: {error}"))?;
        let mut body = vec![0; header.body_len as usize];
        read_exact(stream, &mut body)?;
        if header.request {
            if header.is_heartbeat() {
                let mut reply = Vec::new();
                write_heartbeat_reply(&mut reply, &header);
                // If the service is gone the next read says so.
                let _ = stream.write_all(&reply);
            }
        } else if header.id == ID && !header.event {
            return Ok((header, body));
        }
    }
}

fn read_exact(stream: &mut Stream, bytes: &mut [u8]) -> Result<(), String> {
    stream.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed before the answer came".into(),
        _ => format!("the connection broke: {error}"),
    })
}
