//! A call of the simulation: everything about it follows from its id, so that every byte can be checked wherever it turns up.

use shmesh_client::{CallError, DubboKey, Ran, Request, Retry};
use shmesh_proto::dubbo::{Invocation, serialization, write_request};

use crate::random::Random;

/// Host that routes send to upstreams over TCP.
pub const WEB: &str = "web";
/// Host behind which an app serves.
pub const APP: &str = "app";
/// Host of a cluster whose first endpoint is not there.
pub const HALF: &str = "half";
/// The Dubbo service over TCP.
pub const SERVICE: &str = "sim.Echo";
/// The Dubbo service of the app that serves.
pub const SERVICE_APP: &str = "sim.EchoApp";
/// The raw cluster.
pub const RAW: &str = "raw";
/// The raw cluster of the app that serves.
pub const RAW_APP: &str = "raw-app";

/// Status, head and body of an answer.
pub type Parts = (u16, Vec<u8>, Vec<u8>);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    pub to: To,
    pub idempotent: bool,
    pub request_len: usize,
    pub answer_len: usize,
    /// Bytes of a header of the answer that is there to be long.
    pub padding: usize,
    pub manner: Manner,
    /// Dubbo: nobody waits for an answer.
    pub one_way: bool,
}

/// Over what, to which host, service or cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Http(&'static str),
    Dubbo(&'static str),
    Raw(&'static str),
}

/// How the upstream behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers with a Content-Length (a serving app: just answers).
    Plain,
    Chunked,
    /// The end of the connection is the end of the answer.
    UntilClose,
    /// Takes its time.
    Slow,
    /// Answers in small pieces with pauses.
    Dribble,
    /// Says that it closes, and does.
    Closes,
    /// Answers before it has read the request's body.
    Early,
    /// Dies in the middle of the answer.
    Dies,
    /// Closes without an answer.
    HangsUp,
    /// Never answers.
    Silent,
    /// Loses its power in the middle of the answer (a serving app: does not answer).
    Vanishes,
}

impl Manner {
    /// Whether a call to it ends with an answer when nothing goes wrong.
    pub fn answers(self) -> bool {
        !matches!(self, Manner::Dies | Manner::HangsUp | Manner::Silent | Manner::Vanishes)
    }
}

impl Spec {
    /// Draws one. `bytes_max` bounds its bodies; `tame`: to an upstream that answers.
    pub fn draw(random: &mut Random, to: To, bytes_max: u64, tame: bool) -> Spec {
        let calm = [Manner::Plain, Manner::Plain, Manner::Plain, Manner::Chunked, Manner::Slow, Manner::Dribble];
        let wild = [
            Manner::UntilClose,
            Manner::Closes,
            Manner::Early,
            Manner::Dies,
            Manner::HangsUp,
            Manner::Silent,
            Manner::Vanishes,
        ];
        let manner = if tame || random.percent(75) { random.pick(&calm) } else { random.pick(&wild) };
        // A longer text is sent in pieces, which are not looked for here.
        let is_dubbo = matches!(to, To::Dubbo(_));
        let bytes_max = if is_dubbo { bytes_max.min(20_000) } else { bytes_max };
        Spec {
            to,
            idempotent: random.percent(40),
            request_len: len(random, bytes_max),
            answer_len: len(random, bytes_max),
            padding: if !tame && random.percent(5) { random.sized(20_000) as usize } else { 0 },
            manner,
            one_way: is_dubbo && random.percent(25),
        }
    }

    pub fn method(&self) -> &'static str {
        match (self.idempotent, self.request_len) {
            (true, 0) => "GET",
            (true, _) => "PUT",
            (false, _) => "POST",
        }
    }
}

/// Of any order of magnitude; now and then the longest.
fn len(random: &mut Random, bytes_max: u64) -> usize {
    if random.percent(5) { bytes_max as usize } else { random.sized(bytes_max) as usize }
}

/// The body of the request of a call.
pub fn question(id: u64, len: usize) -> Vec<u8> {
    pattern(id.wrapping_mul(2), len)
}

/// The body of the answer to it.
pub fn answer(id: u64, len: usize) -> Vec<u8> {
    pattern(id.wrapping_mul(2) + 1, len)
}

/// The payload of a raw call: its id, then a pattern.
pub fn raw_question(id: u64, len: usize) -> Vec<u8> {
    [&id.to_be_bytes()[..], &question(id, len)].concat()
}

fn pattern(key: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(key);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The text that a Dubbo call carries, and gets back.
pub fn text(id: u64, len: usize) -> Vec<u8> {
    let mut out = format!("{id:016x}:").into_bytes();
    out.extend(pattern(id, len).iter().map(|byte| b'a' + byte % 26));
    out
}

/// The id in front of such a text.
pub fn id_of_text(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text.get(..16)?).ok()?, 16).ok()
}

/// A Dubbo frame. Its own id is that of the call too, on connections and lanes that have no other.
pub fn frame(id: u64, spec: &Spec) -> Vec<u8> {
    let mut out = Vec::new();
    let argument = text(id, spec.request_len);
    let path = if let To::Dubbo(service) = spec.to { service } else { SERVICE };
    let invocation = Invocation { path, method: "echo", argument: Some(&argument), ..Invocation::default() };
    write_request(&mut out, id, !spec.one_way, serialization::HESSIAN2, &invocation);
    out
}

pub const fn dubbo_key(service: &str) -> DubboKey<'_> {
    DubboKey { service, method: "echo", group: None, version: None, tag: None }
}

/// A request head up to, without, the empty line, as a client on a socket writes it.
pub fn head(id: u64, spec: &Spec, host: &str) -> String {
    format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", spec.method(), path(id))
}

/// The path of a call.
pub fn path(id: u64) -> String {
    format!("/c/{id}")
}

/// The id in a request line.
pub fn id_of_path(path: &[u8]) -> Option<u64> {
    std::str::from_utf8(path.strip_prefix(b"/c/")?).ok()?.parse().ok()
}

/// The same for the shim.
pub fn request<'a>(id: u64, spec: &Spec, payload: &'a [u8]) -> Request<'a> {
    let request = match spec.to {
        To::Http(host) => Request::http(spec.method(), host, &path(id)).body(payload),
        To::Dubbo(service) => Request::dubbo(dubbo_key(service), payload),
        To::Raw(cluster) => Request::raw(cluster, payload),
    };
    request.idempotent(spec.idempotent)
}

/// What goes out as payload over a lane.
pub fn payload(id: u64, spec: &Spec) -> Vec<u8> {
    match spec.to {
        To::Http(_) => question(id, spec.request_len),
        To::Dubbo(_) => frame(id, spec),
        To::Raw(_) => raw_question(id, spec.request_len),
    }
}

/// Whether this is the answer to the call, or what is wrong with it.
pub fn check(id: u64, spec: &Spec, status: u16, head: &[u8], body: &[u8]) -> Result<(), String> {
    match spec.to {
        To::Http(_) => {
            let expected = format!("x-id: {id}\r\n");
            let has_id = head.windows(expected.len()).any(|part| part.eq_ignore_ascii_case(expected.as_bytes()));
            if status != 200 || !has_id {
                return Err(format!("status {status}, head {:?}", String::from_utf8_lossy(head)));
            }
            same(&answer(id, spec.answer_len), body)
        }
        // It says that the frame was handed on.
        To::Dubbo(_) if spec.one_way => match (status, body) {
            (20, []) => Ok(()),
            _ => Err(format!("status {status}, {} bytes for a call that is one-way", body.len())),
        },
        To::Dubbo(_) => {
            let expected = text(id, spec.request_len);
            if status != 20 || !body.windows(expected.len()).any(|part| part == expected) {
                return Err(format!("status {status}, {} bytes without the text", body.len()));
            }
            if body.get(4..12) != Some(&id.to_be_bytes()[..]) {
                return Err("the frame has another id".into());
            }
            Ok(())
        }
        To::Raw(_) => same(&answer(id, spec.answer_len), body),
    }
}

/// An HTTP answer of the sidecar's own: why, and whether that means that the call did not run.
pub fn excuse(spec: &Spec, status: u16, head: &[u8]) -> Option<(Ran, String)> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let reason = text.split("x-shmesh-reason: ").nth(1)?.split("\r\n").next()?.to_owned();
    // A call that may run twice can have run at the first attempt.
    let never = !spec.idempotent
        && matches!(&*reason, "no-route" | "upstream-refused" | "connect-timeout" | "withdrawn" | "host-unresolved");
    (status >= 400).then_some((if never { Ran::No } else { Ran::Maybe }, reason))
}

/// Whether bytes are what they should be.
pub fn same(expected: &[u8], found: &[u8]) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or(expected.len().min(found.len()));
    Err(format!("{} bytes, expected {}, different from {at} on", found.len(), expected.len()))
}

/// What an error says about whether the call ran.
pub fn ran(error: &CallError) -> Ran {
    match error.retry() {
        Retry::Safe => Ran::No,
        Retry::IfIdempotent => Ran::Maybe,
        Retry::No => match error {
            CallError::Malformed { ran, .. } => *ran,
            CallError::BadRequest(_) | CallError::NoRoute(_) => Ran::No,
            _ => Ran::Maybe,
        },
    }
}
