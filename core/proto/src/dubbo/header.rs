//! The 16-byte header in front of every Dubbo2 frame (`ExchangeCodec` in Dubbo Java).

/// Length of a frame's header in bytes.
pub const HEADER_LEN: usize = 16;

/// Default limit of a frame's body in bytes: Dubbo's own default payload limit (8 MiB).
pub const DEFAULT_MAX_BODY: u32 = 8 * 1024 * 1024;

/// First two bytes of every frame.
pub const MAGIC: [u8; 2] = [0xda, 0xbb];

/// Where the eight bytes of the request id (big endian) lie in a header: a proxy rewrites them in place.
pub const ID_AT: usize = 4;

const FLAG_REQUEST: u8 = 0x80;
const FLAG_TWO_WAY: u8 = 0x40;
const FLAG_EVENT: u8 = 0x20;
const SERIALIZATION_MASK: u8 = 0x1f;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub request: bool,
    /// Of a request: an answer is expected.
    pub two_way: bool,
    /// A heartbeat or another event between neighbours; never forwarded.
    pub event: bool,
    /// How the body is written, see [`serialization`](super::serialization); five bits.
    pub serialization: u8,
    /// Of a response, see [`status`](super::status); 0 in requests.
    pub status: u8,
    /// Chosen by the requester, any 64 bits (Java sees it signed).
    pub id: u64,
    /// Length of the body in bytes.
    pub body_len: u32,
}

/// Why bytes are no acceptable header.
///
/// After [`BadMagic`](FrameError::BadMagic) and [`NegativeLength`](FrameError::NegativeLength) nothing that follows
/// can be understood: the connection is closed. [`TooLarge`](FrameError::TooLarge) carries the header, so that the
/// caller can still answer the request (status 40) before it closes or discards the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error(
        "the frame starts with {:02x} {:02x}, not with da bb: this is not Dubbo2", found[0], found[1]
    )]
    BadMagic { found: [u8; 2] },
    #[error("the body's length is {len}, which is negative")]
    NegativeLength { len: i32 },
    #[error("the body is {len} bytes long, the limit is {max}")]
    TooLarge { len: u32, max: u32, header: FrameHeader },
}

impl FrameHeader {
    /// Reads a header. `max_body` is the limit of the body in bytes.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(bytes: &[u8; HEADER_LEN], max_body: u32) -> Result<FrameHeader, FrameError> {
        let [m0, m1, flags, status, id @ .., l0, l1, l2, l3] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(FrameError::BadMagic { found: [m0, m1] });
        }
        let len = i32::from_be_bytes([l0, l1, l2, l3]);
        let Ok(body_len) = u32::try_from(len) else {
            return Err(FrameError::NegativeLength { len });
        };
        let header = FrameHeader {
            request: flags & FLAG_REQUEST != 0,
            two_way: flags & FLAG_TWO_WAY != 0,
            event: flags & FLAG_EVENT != 0,
            serialization: flags & SERIALIZATION_MASK,
            status,
            id: u64::from_be_bytes(id),
            body_len,
        };
        if body_len > max_body {
            return Err(FrameError::TooLarge { len: body_len, max: max_body, header });
        }
        Ok(header)
    }

    /// Writes the header. [`parse`](Self::parse) of the result gives the same header back, as long as `body_len` is
    /// at most `i32::MAX`.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = self.flags();
        bytes[3] = self.status;
        bytes[ID_AT..ID_AT + 8].copy_from_slice(&self.id.to_be_bytes());
        bytes[12..].copy_from_slice(&self.body_len.to_be_bytes());
        bytes
    }

    /// A heartbeat: an event that wants an answer, or the answer to one.
    ///
    /// The body is not looked at: Java sends `4e`, Go and MOSN answer `4e4e`. One-way event requests are READONLY and
    /// WRITEABLE, see [`event`](super::event()).
    pub fn is_heartbeat(&self) -> bool {
        self.event && (self.two_way || !self.request)
    }

    /// Header of an answer to this request.
    pub(super) fn answer(&self, event: bool, status: u8, serialization: u8) -> FrameHeader {
        FrameHeader { request: false, two_way: false, event, serialization, status, id: self.id, body_len: 0 }
    }

    fn flags(&self) -> u8 {
        let mut flags = self.serialization & SERIALIZATION_MASK;
        if self.request {
            flags |= FLAG_REQUEST;
        }
        if self.two_way {
            flags |= FLAG_TWO_WAY;
        }
        if self.event {
            flags |= FLAG_EVENT;
        }
        flags
    }
}
