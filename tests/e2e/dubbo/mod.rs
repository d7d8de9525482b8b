//! Dubbo2: consumers and providers of the tests speak with shmesh's own codec, which is held to Dubbo's by golden vectors.

mod calls;
mod extension;
mod failures;
mod idempotent;
mod own_connections;
mod serializations;
mod shared_connection;
mod turns;
mod waiting;

use std::collections::BTreeMap;

use shmesh_proto::dubbo::{
    DEFAULT_MAX_BODY, FrameHeader, HEADER_LEN, Invocation, PeekOutcome, Reply, first_argument, peek_request,
    read_reply, serialization, write_request, write_value_response,
};

use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

/// One listener before one cluster.
const CONFIG: &str = "
listeners: [ { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo } ]
routes: [ { match: { service: com.demo.GreetService, method: \"*\" }, cluster: greeter } ]
clusters: [ { name: greeter, endpoints: [ \"$up\" ], first_byte_timeout: $patience } ]
limits: { dubbo_body_bytes: 8MiB }
";

fn before(driver: Driver, endpoint: &str) -> Sidecar {
    Sidecar::start(driver, CONFIG, &[("up", endpoint), ("patience", "15s")])
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: FrameHeader,
    body: Vec<u8>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        [&self.header.encode()[..], &self.body].concat()
    }

    fn parse(bytes: &[u8]) -> Frame {
        let header = bytes[..HEADER_LEN].try_into().expect("a header");
        let header = FrameHeader::parse(header, DEFAULT_MAX_BODY).expect("a good header");
        Frame { header, body: bytes[HEADER_LEN..].to_vec() }
    }

    /// Of a request, the argument and its answer.
    pub fn echo(&self) -> Vec<u8> {
        let serialization = self.header.serialization;
        let Ok(PeekOutcome::Done(peek)) = peek_request(serialization, &self.body, true) else {
            panic!("the provider got a request that cannot be read");
        };
        let argument = first_argument(serialization, &self.body, &peek).expect("an argument");
        let mut answer = Vec::new();
        write_value_response(&mut answer, &self.header, argument.of(&self.body));
        answer
    }

    fn reply(&self) -> Reply {
        read_reply(&self.header, &self.body).expect("an answer that can be read")
    }

    /// Text of a good answer.
    pub fn value(&self) -> String {
        match self.reply() {
            Reply::Value(text) => text,
            other => panic!("not a value: {other:?}"),
        }
    }

    /// Status and sentence of a bad one.
    fn error(&self) -> (u8, String) {
        match self.reply() {
            Reply::Error { status, sentence } => (status, sentence),
            other => panic!("not an error: {other:?}"),
        }
    }
}

/// The next frame; `None` if the peer ended before it, in order or not.
pub fn read_frame(wire: &mut Wire) -> Option<Frame> {
    let mut bytes = [0; HEADER_LEN];
    let mut at = 0;
    while at < HEADER_LEN {
        match wire.read(&mut bytes[at..]) {
            Ok(0) => return None,
            Ok(n) => at += n,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no frame came: {error}"),
        }
    }
    let header = FrameHeader::parse(&bytes, u32::MAX).expect("a good header");
    let body = wire.exactly(header.body_len as usize)?;
    Some(Frame { header, body })
}

/// A provider that does this with each frame.
fn provider(handle: impl Fn(Frame, &mut Wire) + Send + Sync + 'static) -> Service {
    Service::tcp(move |mut wire| {
        while let Some(frame) = read_frame(&mut wire) {
            handle(frame, &mut wire);
        }
    })
}

/// A provider that answers with the first argument.
pub fn echo_provider() -> Service {
    provider(|frame, wire| {
        assert!(frame.header.request && !frame.header.event, "{:?}", frame.header);
        if frame.header.two_way {
            wire.send(frame.echo());
        }
    })
}

/// A two-way call of `sayHello`.
pub fn call(id: u64, argument: &str) -> Vec<u8> {
    call_in(serialization::HESSIAN2, id, argument)
}

fn call_in(serialization: u8, id: u64, argument: &str) -> Vec<u8> {
    request(id, true, serialization, &invocation(argument))
}

fn invocation(argument: &str) -> Invocation<'_> {
    Invocation {
        path: "com.demo.GreetService",
        version: Some("1.0.0"),
        group: Some("g1"),
        method: "sayHello",
        argument: Some(argument.as_bytes()),
        timeout_ms: Some(1000),
        attachments: &[],
    }
}

fn request(id: u64, two_way: bool, serialization: u8, invocation: &Invocation<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_request(&mut bytes, id, two_way, serialization, invocation);
    bytes
}

/// Sends a call and reads the answer, whose id must be the call's.
pub fn ask(wire: &mut Wire, request: &[u8]) -> Frame {
    wire.send(request);
    let answer = read_frame(wire).expect("an answer");
    assert_eq!(answer.header.id, Frame::parse(&request[..HEADER_LEN]).header.id, "the caller's own id");
    assert!(!answer.header.request);
    answer
}

/// The golden vectors that are whole frames, by name.
fn vectors() -> BTreeMap<String, Vec<u8>> {
    let text = include_str!("../../vectors/dubbo2.md");
    let mut vectors = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((name, _)) = line.strip_prefix("# ").and_then(|rest| rest.split_once("  total=")) else { continue };
        let hex = lines.next().expect("bytes follow");
        let bytes = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"));
        let bytes: Vec<u8> = bytes.collect();
        let header = bytes.first_chunk().and_then(|header| FrameHeader::parse(header, DEFAULT_MAX_BODY).ok());
        if header.is_some_and(|header| bytes.len() == HEADER_LEN + header.body_len as usize) {
            vectors.insert(name.trim().to_owned(), bytes);
        }
    }
    assert!(vectors.len() > 10, "the vectors are found");
    vectors
}
