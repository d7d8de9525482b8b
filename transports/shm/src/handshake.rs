//! The session socket: docs/spec/shm-v1.md §6. Messages are taken from and put into plain byte buffers, so that a blocking
//! shim and a nonblocking sidecar use the same code; [`send`] and [`receive`] move the bytes and descriptors.

pub use crate::descriptors::{MAX_DESCRIPTORS, receive, send};

pub use crate::policy::Policy;

use crate::geometry::{Geometry, GeometryError, MAX_LANES, MAX_LANES_PER_WORKER, MAX_WORKERS};
use crate::record::Protocol;

/// The version of the page that this crate implements.
pub const VERSION: u16 = 1;
/// Feature bit: a liveness socket comes with WELCOME, and the sidecar answers signs of life that are asked for.
pub const FEATURE_LIVENESS: u64 = 1;
/// First word of every message ("SHMS").
pub const MAGIC: u32 = 0x534D_4853;
/// Feature bit 1: LOOKUP is answered with POLICY instead of ENDPOINTS, and a serving app may say SERVES_AT.
pub const FEATURE_POLICY: u64 = 1 << 1;
/// Feature bit 2: the direct-mode word has a share of its own for each priority, and POLICY may name a priority.
pub const FEATURE_PRIORITY: u64 = 1 << 2;
/// Longest path in SERVES_AT, in bytes: what a socket's address holds.
pub const MAX_PATH_BYTES: usize = 107;
/// Bytes before a message's payload.
pub const MESSAGE_HEADER_BYTES: usize = 16;
/// Longest payload of a message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 65_536;
/// Longest name of a serving app, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// A session that says nothing for so long before WELCOME is closed, in milliseconds.
pub const SILENCE_MS_MAX: u64 = 5_000;

/// A message of the session socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Refused(Refused),
    Lookup(Lookup),
    Endpoints(Endpoints),
    GoAway,
    /// Sidecar → app, in place of ENDPOINTS: the answer to the look-up with this id.
    Policy(u32, Policy),
    /// App → sidecar: the serving app listens on this Unix socket, too.
    ServesAt(String),
}

/// App → sidecar: wants to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version_min: u16,
    pub version_max: u16,
    /// Calling lanes that are wanted.
    pub calling_lanes: u16,
    /// Wants one serving lane a worker, under `name`.
    pub serving: bool,
    pub features: u64,
    /// At most [`MAX_NAME_BYTES`]; required when serving.
    pub name: String,
}

/// Sidecar → app: attached. The descriptors that come with it: `to_proxy`, `to_app`, an eventfd a worker, a socket a lane, and
/// with [`FEATURE_LIVENESS`] a socket that ends when the sidecar does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub version: u16,
    pub workers: u16,
    pub features: u64,
    pub geometry: Geometry,
    pub lanes: Vec<LaneInfo>,
}

impl Welcome {
    /// Both sides know [`FEATURE_LIVENESS`].
    pub fn has_liveness(&self) -> bool {
        self.features & FEATURE_LIVENESS != 0
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        2 + usize::from(self.workers) + self.lanes.len() + usize::from(self.has_liveness())
    }
}

/// What a lane is for, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneInfo {
    pub serving: bool,
    pub worker: u8,
    /// Place in the worker's `dirty` word.
    pub bit: u8,
}

/// Sidecar → app: not attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A [`RefusedCode`], or one that is not known yet.
    pub code: u16,
    pub version_min: u16,
    pub version_max: u16,
    pub sentence: String,
}

/// Why a session was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RefusedCode {
    Version = 1,
    Identity = 2,
    Limit = 3,
    NameTaken = 4,
    Malformed = 5,
}

/// App → sidecar: where do calls with this key go?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    pub id: u32,
    pub protocol: Protocol,
    /// As in DEFINE.
    pub key: Vec<u8>,
}

/// Sidecar → app: there. Again whenever that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub id: u32,
    /// `tcp:127.0.0.1:80`, `unix:/path`.
    pub endpoints: Vec<String>,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer does not speak shm: wrong magic")]
    Magic,
    #[error("message type {0} is unknown")]
    Type(u16),
    #[error("a message of version {0} came, this is version 1")]
    Version(u16),
    #[error("a message of {0} bytes is over the limit of 65536")]
    TooLong(u32),
    #[error("a message is shorter than its fields, or longer")]
    Length,
    #[error("a text is not UTF-8, or a name is over 64 bytes, or a serving app has none")]
    Text,
    #[error("a field of a message is out of range")]
    Range,
    #[error("the geometry cannot be used: {0}")]
    Geometry(#[from] GeometryError),
}

const HELLO: u16 = 1;
const WELCOME: u16 = 2;
const REFUSED: u16 = 3;
const LOOKUP: u16 = 4;
const ENDPOINTS: u16 = 5;
const GOAWAY: u16 = 6;
const POLICY: u16 = 7;
const SERVES_AT: u16 = 8;

impl Message {
    /// The message at the front of `bytes` and how many bytes it took; nothing while it is not complete.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, HandshakeError> {
        let Some((header, rest)) = bytes.split_at_checked(MESSAGE_HEADER_BYTES) else {
            return Ok(None);
        };
        let mut header = Fields(header);
        if header.u32()? != MAGIC {
            return Err(HandshakeError::Magic);
        }
        let (kind, version) = (header.u16()?, header.u16()?);
        let len = header.u32()?;
        // HELLO and REFUSED keep their layout in every version: they are how versions are settled.
        if version != VERSION && kind != HELLO && kind != REFUSED {
            return Err(HandshakeError::Version(version));
        }
        if len as usize > MAX_MESSAGE_BYTES {
            return Err(HandshakeError::TooLong(len));
        }
        let Some(payload) = rest.get(..len as usize) else {
            return Ok(None);
        };
        let mut fields = Fields(payload);
        let message = match kind {
            HELLO => Message::Hello(Hello::decode(&mut fields)?),
            WELCOME => Message::Welcome(Welcome::decode(&mut fields)?),
            REFUSED => Message::Refused(Refused::decode(&mut fields)?),
            LOOKUP => Message::Lookup(Lookup::decode(&mut fields)?),
            ENDPOINTS => Message::Endpoints(Endpoints::decode(&mut fields)?),
            GOAWAY => Message::GoAway,
            POLICY => Message::Policy(fields.u32()?, Policy::decode(fields.rest())?),
            SERVES_AT => Message::ServesAt(checked_path(fields.text16()?)?),
            other => return Err(HandshakeError::Type(other)),
        };
        fields.end()?;
        Ok(Some((message, MESSAGE_HEADER_BYTES + payload.len())))
    }

    /// Appends the message. Refuses what would not decode: over a limit, or out of range.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let start = out.len();
        out.extend_from_slice(&[0; MESSAGE_HEADER_BYTES]);
        let outcome = self.encode_payload(out);
        let len = out.len() - start - MESSAGE_HEADER_BYTES;
        let outcome = match outcome {
            Ok(_) if len > MAX_MESSAGE_BYTES => Err(HandshakeError::TooLong(len as u32)),
            other => other,
        };
        let kind = match outcome {
            Ok(kind) => kind,
            Err(error) => {
                out.truncate(start);
                return Err(error);
            }
        };
        let header = &mut out[start..start + MESSAGE_HEADER_BYTES];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..6].copy_from_slice(&kind.to_le_bytes());
        header[6..8].copy_from_slice(&VERSION.to_le_bytes());
        header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        Ok(())
    }

    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<u16, HandshakeError> {
        match self {
            Message::Hello(hello) => hello.encode(out).map(|()| HELLO),
            Message::Welcome(welcome) => welcome.encode(out).map(|()| WELCOME),
            Message::Refused(refused) => refused.encode(out).map(|()| REFUSED),
            Message::Lookup(lookup) => lookup.encode(out).map(|()| LOOKUP),
            Message::Endpoints(endpoints) => endpoints.encode(out).map(|()| ENDPOINTS),
            Message::GoAway => Ok(GOAWAY),
            Message::Policy(id, policy) => {
                out.extend_from_slice(&id.to_le_bytes());
                policy.encode(out).map(|()| POLICY)
            }
            Message::ServesAt(path) => put_text16(out, &checked_path(path.clone())?).map(|()| SERVES_AT),
        }
    }
}

impl Hello {
    fn decode(fields: &mut Fields<'_>) -> Result<Hello, HandshakeError> {
        let hello = Hello {
            version_min: fields.u16()?,
            version_max: fields.u16()?,
            calling_lanes: fields.u16()?,
            serving: fields.flag()?,
            features: {
                fields.u8()?;
                fields.u64()?
            },
            name: fields.text16()?,
        };
        hello.check()?;
        Ok(hello)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        self.check()?;
        put16(out, &[self.version_min, self.version_max, self.calling_lanes]);
        out.extend_from_slice(&[u8::from(self.serving), 0]);
        out.extend_from_slice(&self.features.to_le_bytes());
        put_text16(out, &self.name)
    }

    fn check(&self) -> Result<(), HandshakeError> {
        if self.version_min > self.version_max {
            return Err(HandshakeError::Range);
        }
        if self.name.len() > MAX_NAME_BYTES || self.serving && self.name.is_empty() {
            return Err(HandshakeError::Text);
        }
        Ok(())
    }
}

impl Welcome {
    fn decode(fields: &mut Fields<'_>) -> Result<Welcome, HandshakeError> {
        let version = fields.u16()?;
        let workers = fields.u16()?;
        let lanes = fields.u16()?;
        fields.u16()?;
        let features = fields.u64()?;
        let geometry = Geometry {
            entries: fields.u32()?,
            stride: fields.u32()?,
            slots: fields.u32()?,
            arena_bytes: fields.u32()?,
            block_min: fields.u32()?,
            block_max: fields.u32()?,
            window: fields.u32()?,
        };
        let release_entries = fields.u32()?;
        let lane = |fields: &mut Fields<'_>| -> Result<LaneInfo, HandshakeError> {
            let lane = LaneInfo { serving: fields.flag()?, worker: fields.u8()?, bit: fields.u8()? };
            fields.u8()?;
            Ok(lane)
        };
        let lanes = (0..lanes).map(|_| lane(fields)).collect::<Result<Vec<_>, _>>()?;
        let welcome = Welcome { version, workers, features, geometry, lanes };
        welcome.check()?;
        if release_entries != geometry.release_entries() {
            return Err(HandshakeError::Range);
        }
        Ok(welcome)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        self.check()?;
        put16(out, &[self.version, self.workers, self.lanes.len() as u16, 0]);
        out.extend_from_slice(&self.features.to_le_bytes());
        let g = &self.geometry;
        let sizes =
            [g.entries, g.stride, g.slots, g.arena_bytes, g.block_min, g.block_max, g.window, g.release_entries()];
        for size in sizes {
            out.extend_from_slice(&size.to_le_bytes());
        }
        for lane in &self.lanes {
            out.extend_from_slice(&[u8::from(lane.serving), lane.worker, lane.bit, 0]);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), HandshakeError> {
        self.geometry.validate()?;
        let workers = 1..=MAX_WORKERS;
        let lane_ok =
            |lane: &LaneInfo| u16::from(lane.worker) < self.workers && u16::from(lane.bit) < MAX_LANES_PER_WORKER;
        if !workers.contains(&self.workers) || self.lanes.is_empty() || self.lanes.len() > usize::from(MAX_LANES) {
            return Err(HandshakeError::Range);
        }
        if !self.lanes.iter().all(lane_ok) { Err(HandshakeError::Range) } else { Ok(()) }
    }
}

impl Refused {
    fn decode(fields: &mut Fields<'_>) -> Result<Refused, HandshakeError> {
        Ok(Refused {
            code: fields.u16()?,
            version_min: fields.u16()?,
            version_max: fields.u16()?,
            sentence: fields.text16()?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        put16(out, &[self.code, self.version_min, self.version_max]);
        put_text16(out, &self.sentence)
    }
}

impl Lookup {
    fn decode(fields: &mut Fields<'_>) -> Result<Lookup, HandshakeError> {
        let id = fields.u32()?;
        let protocol = Protocol::from_u16(u16::from(fields.u8()?)).ok_or(HandshakeError::Range)?;
        let len = fields.u32()?;
        Ok(Lookup { id, protocol, key: fields.bytes(len as usize)?.to_vec() })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.push(self.protocol as u8);
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.key);
        Ok(())
    }
}

impl Endpoints {
    fn decode(fields: &mut Fields<'_>) -> Result<Endpoints, HandshakeError> {
        let id = fields.u32()?;
        let count = fields.u16()?;
        let endpoints = (0..count).map(|_| fields.text16()).collect::<Result<Vec<_>, _>>()?;
        Ok(Endpoints { id, endpoints })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let count = u16::try_from(self.endpoints.len()).map_err(|_| HandshakeError::Range)?;
        out.extend_from_slice(&self.id.to_le_bytes());
        put16(out, &[count]);
        self.endpoints.iter().try_for_each(|endpoint| put_text16(out, endpoint))
    }
}

/// The rest of a payload that is taken apart.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// Everything that is left, taken.
    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], HandshakeError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(HandshakeError::Length)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HandshakeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(HandshakeError::Length)?;
        self.0 = rest;
        Ok(*array)
    }

    pub fn u8(&mut self) -> Result<u8, HandshakeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, HandshakeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, HandshakeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, HandshakeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn flag(&mut self) -> Result<bool, HandshakeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(HandshakeError::Range),
        }
    }

    fn text16(&mut self) -> Result<String, HandshakeError> {
        let len = self.u16()?;
        let bytes = self.bytes(usize::from(len))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| HandshakeError::Text)
    }

    pub fn end(&self) -> Result<(), HandshakeError> {
        if self.0.is_empty() { Ok(()) } else { Err(HandshakeError::Length) }
    }
}

/// A socket that others can connect to has an absolute path without NUL, and not a longer one.
fn checked_path(path: String) -> Result<String, HandshakeError> {
    let fits = path.starts_with('/') && path.len() <= MAX_PATH_BYTES && !path.contains('\0');
    if fits { Ok(path) } else { Err(HandshakeError::Range) }
}

fn put16(out: &mut Vec<u8>, values: &[u16]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_text16(out: &mut Vec<u8>, text: &str) -> Result<(), HandshakeError> {
    let len = u16::try_from(text.len()).map_err(|_| HandshakeError::Text)?;
    put16(out, &[len]);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}
