//! Requests that tell the next sidecar their routing key in front of their body: whether a provider's connection takes them
//! (docs/spec/dubbo-ext-v1.md). Nothing else is ever sent such a request.

use shmesh_io::{Driver, Slice};
use shmesh_proto::dubbo::{FrameHeader, agrees_to_extension, serialization};

use crate::conn::{Conn, Role};
use crate::slab::Key;
use crate::worker::Worker;

/// How far a provider's connection is.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// No request wanted to be extended so far.
    #[default]
    Unasked,
    /// An offer was sent; what answered it, if anything did, does not know of it.
    Offered,
    /// Requests may be extended.
    Agreed,
}

impl Agreement {
    /// Whether an offer is to be sent in front of a request that has this to tell; says so once.
    pub fn wants_offer(&mut self, told: &Slice) -> bool {
        let wants = *self == Agreement::Unasked && !told.is_empty();
        if wants {
            *self = Agreement::Offered;
        }
        wants
    }

    /// Writes a request's header, with what is told behind it if that is agreed, and within the limit of a body.
    pub fn write_header(self, out: &mut Vec<u8>, mut header: FrameHeader, told: &Slice, body_max: u32) {
        let len = header.body_len.saturating_add(told.len() as u32);
        let extended = self == Agreement::Agreed && !told.is_empty() && len <= body_max;
        if extended {
            header.serialization = serialization::EXTENSION;
            header.body_len = len;
        }
        out.extend_from_slice(&header.encode());
        if extended {
            out.extend_from_slice(told.as_slice());
        }
    }
}

impl<D: Driver> Worker<D> {
    /// A heartbeat of ours was answered, perhaps an offer.
    pub(crate) fn dubbo_extension_answered(&mut self, key: Key<Conn>, header: &FrameHeader, body: &[u8]) {
        if let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(key)
            && up.agreement == Agreement::Offered
            && agrees_to_extension(header, body)
        {
            up.agreement = Agreement::Agreed;
        }
    }
}
