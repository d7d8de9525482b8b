//! The echo over shared memory: an app that serves under a name, calls and byte streams alike.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use shmesh_client::{Handler, Protocol, Reset, Served, ServedResponse, Server, StreamEvent, StreamId, StreamReply};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};

use super::{Service, dubbo, service};
use crate::cli::bench::payload::Check;
use crate::cli::{self, fail};

/// Pause before attaching again to a sidecar that went away.
const REATTACH_EVERY: Duration = Duration::from_millis(100);

/// Serves as `name` until the process is ended; waits for a new sidecar when one goes away.
pub fn serve(socket: &Path, name: &str, check: bool) -> ExitCode {
    let mut server = match Server::attach(socket, name) {
        Ok(server) => server,
        Err(error) => return fail(&format!("cannot serve as {name}: {error}")),
    };
    loop {
        eprintln!("listening on shm:{} as {name}", socket.display());
        let ended = server.serve_forever(&mut ShmEcho { check, streams: HashMap::new() });
        if let Err(error) = ended {
            eprintln!("no more calls come: {error}");
        }
        server = loop {
            thread::sleep(REATTACH_EVERY);
            if let Ok(server) = Server::attach(socket, name) {
                break server;
            }
        };
    }
}

/// Answers each call in the protocol that it came in.
struct ShmEcho {
    /// Whether payloads of HTTP calls are compared.
    check: bool,
    streams: HashMap<StreamId, ByteStream>,
}

/// A stream, served as a connection would be.
struct ByteStream {
    service: Box<dyn Service>,
    /// Bytes that came and are no whole message yet.
    input: Vec<u8>,
}

impl Handler for ShmEcho {
    fn call(&mut self, request: &mut Served<'_>, response: &mut ServedResponse) {
        match request.protocol {
            Protocol::Http if self.check && is_wrong(request.body) => {
                response.fail(Reset::Malformed, "the payload is not one that a bench sends");
            }
            Protocol::Http => {
                response.header("content-type", "application/octet-stream");
                if request.method() != b"HEAD" {
                    std::mem::swap(request.body, &mut response.body);
                }
            }
            Protocol::Raw => std::mem::swap(request.body, &mut response.body),
            Protocol::Dubbo2 => {
                if let Err(sentence) = answer_dubbo(request.body, &mut response.body) {
                    response.fail(Reset::Malformed, &sentence);
                }
            }
        }
    }

    fn stream(&mut self, event: StreamEvent<'_>, reply: &mut StreamReply) {
        match event {
            StreamEvent::Opened(id, protocol) => {
                let protocol = match protocol {
                    Protocol::Http => cli::Protocol::Http,
                    Protocol::Dubbo2 => cli::Protocol::Dubbo,
                    Protocol::Raw => cli::Protocol::Raw,
                };
                let stream = ByteStream { service: service(protocol, self.check), input: Vec::new() };
                self.streams.insert(id, stream);
            }
            StreamEvent::Data(id, bytes) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    reply.end = stream.take(bytes, &mut reply.bytes);
                }
            }
            StreamEvent::Ended(id) => {
                reply.end = true;
                self.streams.remove(&id);
            }
            StreamEvent::Reset(id, _) => {
                self.streams.remove(&id);
            }
        }
    }
}

impl ByteStream {
    /// Appends the answers to what came; true if nothing more will be answered.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        self.input.extend_from_slice(bytes);
        let mut consumed = 0;
        loop {
            let progress = self.service.handle(&self.input[consumed..], out);
            consumed += progress.consumed;
            if progress.close || progress.consumed == 0 {
                self.input.drain(..consumed);
                return progress.close;
            }
        }
    }
}

fn is_wrong(payload: &[u8]) -> bool {
    let mut check = Check::default();
    check.take(payload);
    check.is_wrong()
}

fn answer_dubbo(frame: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let Some((header, body)) = frame.split_first_chunk::<HEADER_LEN>() else {
        return Err("the call is no Dubbo frame".to_owned());
    };
    let header = FrameHeader::parse(header, u32::MAX).map_err(|error| error.to_string())?;
    dubbo::answer(&header, body, out);
    Ok(())
}
