//! A record's header: docs/spec/shm-v1.md §3. Read as six words once, validated, and from then on a plain value.

use crate::geometry::{BLOCK_ALIGN, Geometry, MAX_HEAD_BYTES};
use crate::violation::Violation;

/// In `route`: the key is in this record.
pub const INLINE_KEY: u32 = 0xFFFF_FFFF;
/// In `total`: the length of the body is not known.
pub const TOTAL_UNKNOWN: u64 = u64::MAX;
/// Route ids are below this.
pub const ROUTE_IDS: u32 = 1024;
/// The last generation of a slot.
pub const MAX_GENERATION: u64 = (1 << 48) - 1;
/// In `block`: the payload is inline.
pub(crate) const INLINE: u32 = 0xFFFF_FFFF;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// App → sidecar: a routing key gets an id.
    Define = 1,
    /// Opener → answerer: a call or stream begins.
    Open = 2,
    /// Answerer → opener: the answer begins.
    Answer = 3,
    /// The next part of the payload.
    Data = 4,
    /// More bytes may be sent towards the sender of this.
    Credit = 5,
    /// The call or stream is over at once.
    Reset = 6,
}

impl Kind {
    pub fn from_u8(value: u8) -> Option<Kind> {
        Some(match value {
            1 => Kind::Define,
            2 => Kind::Open,
            3 => Kind::Answer,
            4 => Kind::Data,
            5 => Kind::Credit,
            6 => Kind::Reset,
            _ => return None,
        })
    }

    fn flags(self) -> u8 {
        match self {
            Kind::Open => Flags::END.0 | Flags::STREAM.0 | Flags::ONE_WAY.0,
            Kind::Answer | Kind::Data => Flags::END.0,
            Kind::Define | Kind::Credit | Kind::Reset => 0,
        }
    }
}

/// The flags of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// The sender's last part.
    pub const END: Flags = Flags(1);
    /// OPEN begins a stream, not a call.
    pub const STREAM: Flags = Flags(2);
    /// No answer but "forwarded" is wanted.
    pub const ONE_WAY: Flags = Flags(4);

    pub fn end(self) -> bool {
        self.0 & Flags::END.0 != 0
    }

    pub fn stream(self) -> bool {
        self.0 & Flags::STREAM.0 != 0
    }

    pub fn one_way(self) -> bool {
        self.0 & Flags::ONE_WAY.0 != 0
    }

    /// These flags, with END when `end`.
    #[must_use]
    pub fn with_end(self, end: bool) -> Flags {
        if end { self | Flags::END } else { self }
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The protocol of a key or call: `code` of DEFINE and OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Protocol {
    Http = 1,
    Dubbo2 = 2,
    Raw = 3,
}

impl Protocol {
    pub fn from_u16(value: u16) -> Option<Protocol> {
        Some(match value {
            1 => Protocol::Http,
            2 => Protocol::Dubbo2,
            3 => Protocol::Raw,
            _ => return None,
        })
    }
}

/// Why a call or stream was reset: `code` of RESET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Reset {
    Cancelled = 1,
    NoRoute = 2,
    Refused = 3,
    Died = 4,
    Timeout = 5,
    Malformed = 6,
    Overloaded = 7,
    Draining = 8,
    Withdrawn = 9,
}

impl Reset {
    pub fn from_u16(value: u16) -> Option<Reset> {
        Some(match value {
            1 => Reset::Cancelled,
            2 => Reset::NoRoute,
            3 => Reset::Refused,
            4 => Reset::Died,
            5 => Reset::Timeout,
            6 => Reset::Malformed,
            7 => Reset::Overloaded,
            8 => Reset::Draining,
            9 => Reset::Withdrawn,
            _ => return None,
        })
    }

    /// The name in the page.
    pub fn name(self) -> &'static str {
        match self {
            Reset::Cancelled => "cancelled",
            Reset::NoRoute => "no-route",
            Reset::Refused => "refused",
            Reset::Died => "died",
            Reset::Timeout => "timeout",
            Reset::Malformed => "malformed",
            Reset::Overloaded => "overloaded",
            Reset::Draining => "draining",
            Reset::Withdrawn => "withdrawn",
        }
    }
}

/// A record's header without the place of its payload.
///
/// What [`LaneEnd::peek`](crate::LaneEnd::peek) returns was validated against the geometry; `length` is filled in by
/// [`LaneEnd::put`](crate::LaneEnd::put) from the payload that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub flags: Flags,
    /// By kind: a [`Protocol`], a status or a [`Reset`].
    pub code: u16,
    /// Below the lane's number of slots.
    pub slot: u32,
    /// 1 … [`MAX_GENERATION`]; 0 for DEFINE.
    pub generation: u64,
    /// Below [`ROUTE_IDS`], or [`INLINE_KEY`].
    pub route: u32,
    /// How many of the payload's first bytes are a head or key.
    pub head_len: u32,
    /// Bytes of payload in this record.
    pub length: u32,
    /// Microseconds from the moment of publishing; 0 = no deadline.
    pub deadline_us: u32,
    /// Bytes granted by CREDIT.
    pub credit: u32,
    /// Bytes of body over all parts, or [`TOTAL_UNKNOWN`].
    pub total: u64,
}

impl Header {
    /// A header of this kind with nothing else set.
    pub const fn new(kind: Kind, slot: u32, generation: u64) -> Header {
        Header {
            kind,
            flags: Flags::NONE,
            code: 0,
            slot,
            generation,
            route: 0,
            head_len: 0,
            length: 0,
            deadline_us: 0,
            credit: 0,
            total: TOTAL_UNKNOWN,
        }
    }

    /// A RESET of a call.
    pub const fn reset(slot: u32, generation: u64, why: Reset) -> Header {
        let mut header = Header::new(Kind::Reset, slot, generation);
        header.code = why as u16;
        header
    }

    /// A CREDIT of so many bytes.
    pub const fn credit(slot: u32, generation: u64, bytes: u32) -> Header {
        let mut header = Header::new(Kind::Credit, slot, generation);
        header.credit = bytes;
        header
    }

    /// The protocol that a DEFINE or OPEN names.
    pub fn protocol(&self) -> Option<Protocol> {
        match self.kind {
            Kind::Define | Kind::Open => Protocol::from_u16(self.code),
            _ => None,
        }
    }

    /// Why a RESET came.
    pub fn reset_code(&self) -> Option<Reset> {
        match self.kind {
            Kind::Reset => Reset::from_u16(self.code),
            _ => None,
        }
    }
}

/// A header with the place of its payload: what lies in a ring entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub header: Header,
    /// Arena offset, or [`INLINE`].
    pub block: u32,
}

impl Header {
    /// The words of an entry with this header and its payload of `length` bytes at `block`.
    #[inline]
    pub(crate) fn encode(&self, length: u32, block: u32) -> [u64; 6] {
        [
            self.kind as u64 | u64::from(self.flags.0) << 8 | u64::from(self.code) << 16 | u64::from(self.slot) << 32,
            self.generation,
            pair(self.route, self.head_len),
            pair(length, block),
            pair(self.deadline_us, self.credit),
            self.total,
        ]
    }
}

impl Entry {
    /// Stands where there is none.
    pub const NONE: Entry = Entry { header: Header::new(Kind::Reset, 0, 0), block: INLINE };

    /// Takes the words apart and refuses whatever the page does not allow; then this entry means nothing. `from_app`: the app wrote
    /// them.
    #[inline]
    pub fn decode(&mut self, words: [u64; 6], geometry: &Geometry, from_app: bool) -> Result<(), Violation> {
        self.header = Header {
            kind: Kind::from_u8(words[0] as u8).ok_or(Violation::Kind)?,
            flags: Flags((words[0] >> 8) as u8),
            code: (words[0] >> 16) as u16,
            slot: (words[0] >> 32) as u32,
            generation: words[1],
            route: words[2] as u32,
            head_len: (words[2] >> 32) as u32,
            length: words[3] as u32,
            deadline_us: words[4] as u32,
            credit: (words[4] >> 32) as u32,
            total: words[5],
        };
        self.block = (words[3] >> 32) as u32;
        self.check_call(geometry, from_app)?;
        self.check_payload(geometry)
    }

    #[inline]
    fn check_call(&self, geometry: &Geometry, from_app: bool) -> Result<(), Violation> {
        let h = &self.header;
        if h.flags.0 & !h.kind.flags() != 0 {
            return Err(Violation::Flags);
        }
        if h.kind == Kind::Define {
            return match h {
                _ if !from_app => Err(Violation::Direction),
                _ if h.slot != 0 => Err(Violation::Slot),
                _ if h.generation != 0 => Err(Violation::Generation),
                _ if h.route >= ROUTE_IDS => Err(Violation::Route),
                _ if h.protocol().is_none() => Err(Violation::Code),
                _ => Ok(()),
            };
        }
        if h.slot >= geometry.slots {
            return Err(Violation::Slot);
        }
        if h.generation == 0 || h.generation > MAX_GENERATION {
            return Err(Violation::Generation);
        }
        match h.kind {
            Kind::Open if h.protocol().is_none() => Err(Violation::Code),
            Kind::Open if h.route >= ROUTE_IDS && h.route != INLINE_KEY => Err(Violation::Route),
            Kind::Open if h.route != INLINE_KEY && h.head_len != 0 => Err(Violation::Head),
            Kind::Reset if h.reset_code().is_none() => Err(Violation::Code),
            _ => Ok(()),
        }
    }

    #[inline]
    fn check_payload(&self, geometry: &Geometry) -> Result<(), Violation> {
        let h = &self.header;
        if h.head_len > h.length || h.head_len > MAX_HEAD_BYTES {
            return Err(Violation::Head);
        }
        if self.block == INLINE {
            return if h.length > geometry.inline_max() { Err(Violation::Length) } else { Ok(()) };
        }
        if h.length > geometry.block_max {
            return Err(Violation::Length);
        }
        let end = u64::from(self.block) + u64::from(h.length);
        if !self.block.is_multiple_of(BLOCK_ALIGN)
            || self.block >= geometry.arena_bytes
            || end > u64::from(geometry.arena_bytes)
        {
            return Err(Violation::Block);
        }
        Ok(())
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
