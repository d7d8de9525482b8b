//! Events: what neighbours on a connection tell each other beside calls.

use super::flaw::Flaw;
use super::header::FrameHeader;
use super::serialization::FASTJSON2;
use super::{cursor::Cursor, hessian, jsonb};

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A heartbeat or the answer to one; a request is answered by every hop.
    Heartbeat,
    /// A provider is about to leave: no new calls on this connection (`HeaderExchangeServer.sendChannelReadOnlyEvent`).
    ReadOnly,
    /// The provider takes calls again.
    Writeable,
    /// Nothing that shmesh knows; ignored.
    Other,
}

/// Text of the body of a READONLY and of a WRITEABLE event.
pub(super) const READ_ONLY: &str = "R";
pub(super) const WRITEABLE: &str = "W";

/// What the event frame with this header and body says. The body of a heartbeat is not looked at.
pub fn event(header: &FrameHeader, body: &[u8]) -> Event {
    if header.is_heartbeat() {
        return Event::Heartbeat;
    }
    match said(header.serialization, body) {
        Some(b"R") => Event::ReadOnly,
        Some(b"W") => Event::Writeable,
        _ => Event::Other,
    }
}

fn said(serialization: u8, body: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor::new(body, 0);
    let text: Result<_, Flaw> = if serialization == FASTJSON2 {
        jsonb::text_field(&mut cursor).map(|text| text.map(|text| text.span))
    } else {
        hessian::text(&mut cursor).map(|text| match text {
            hessian::Text::Whole(span) => Some(span),
            hessian::Text::Null | hessian::Text::Chunked => None,
        })
    };
    text.ok().flatten().map(|span| span.of(body))
}
