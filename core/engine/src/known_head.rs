//! The head that a serving app's answers begin with: read once, and known again.

use shmesh_proto::http1::{BodyKind, HeadLimits, ResponseHead, ResponseOut, Status, write_response};
use shmesh_shm::{InPlace, LaneEnd};

/// An answer's head that a serving app said before, and what becomes of it. Servers say the same head again and again;
/// comparing is cheaper than parsing.
#[derive(Default)]
pub struct KnownHead {
    /// As it came.
    pub(crate) raw: Vec<u8>,
    /// As it leaves: without framing and hop-by-hop fields.
    pub(crate) out: Vec<u8>,
    pub(crate) status: u16,
    /// Its Content-Length, if it has one.
    pub(crate) declared: Option<u64>,
    /// The snapshot under whose limits it was read.
    pub(crate) version: u64,
}

impl KnownHead {
    /// What follows in the peeked record, if this is its head, in `head_len` bytes.
    #[inline]
    pub(crate) fn body(&self, lane: &LaneEnd, head_len: u32, version: u64) -> Option<InPlace> {
        let may_be = self.raw.len() == head_len as usize && self.version == version && head_len > 0;
        if may_be { lane.place_behind(&self.raw) } else { None }
    }

    /// Reads another head. False: it is not valid, or not one that goes this way; then nothing is known.
    pub(crate) fn learn(&mut self, raw: &[u8], version: u64, limits: &HeadLimits, head: &mut ResponseHead) -> bool {
        self.raw.clear();
        let complete = matches!(head.parse(raw, limits, false), Ok(Status::Complete)) && head.len as usize == raw.len();
        if !complete || head.is_interim() || matches!(head.status, 204 | 304) {
            return false;
        }
        self.declared = match head.body {
            BodyKind::None | BodyKind::UntilClose => None,
            BodyKind::Length(length) => Some(length),
            BodyKind::Chunked => return false,
        };
        let how = ResponseOut::default();
        self.out.clear();
        write_response(&mut self.out, head, raw, &how);
        self.raw.extend_from_slice(raw);
        self.status = head.status;
        self.version = version;
        true
    }
}
