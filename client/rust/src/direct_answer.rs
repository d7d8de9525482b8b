//! An answer that comes in piece by piece, over a connection that carries one exchange at a time.

use std::io;

use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, write_heartbeat_reply};

use crate::direct_request::Message;
use crate::http_answer::HttpAnswer;
use crate::raw_request::LEN_BYTES;

/// Bytes of answers to heartbeats that a provider may leave unread.
const REPLIES_BYTES_MAX: usize = 64 << 10;

/// How far it is.
#[derive(Debug)]
pub(crate) enum DirectAnswer {
    Http(HttpAnswer),
    Dubbo(DubboAnswer),
    Raw(RawAnswer),
}

/// The frame with the request's id, among what else a provider says.
#[derive(Debug)]
pub(crate) struct DubboAnswer {
    id: u64,
    /// Of the answer, once it has begun.
    status: Option<u16>,
    /// Bytes of the frame that is coming in.
    left: u64,
    /// The heartbeats that wait to be answered.
    replies: Vec<u8>,
    /// No answer is sent.
    one_way: bool,
}

/// Bytes until the end, or behind their length.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    of_app: bool,
    /// Of an app's: bytes to come, once that is known.
    left: Option<u64>,
    begun: bool,
}

impl DirectAnswer {
    /// To such a request; `of_app`: on the own socket of an app.
    pub fn new(message: &Message, of_app: bool) -> DirectAnswer {
        match message {
            Message::Http(head) => DirectAnswer::Http(HttpAnswer::new(head.starts_with(b"HEAD "))),
            Message::Dubbo(FrameHeader { id, two_way, .. }) => DirectAnswer::Dubbo(DubboAnswer {
                id: *id,
                status: None,
                left: 0,
                replies: Vec::new(),
                one_way: !two_way,
            }),
            Message::Raw => DirectAnswer::Raw(RawAnswer { of_app, left: None, begun: false }),
        }
    }

    /// Takes what it can off the front of `received`, and appends what of it is body.
    pub fn take(&mut self, received: &mut Vec<u8>, body: &mut Vec<u8>) -> io::Result<()> {
        match self {
            DirectAnswer::Http(answer) => answer.take(received, body),
            DirectAnswer::Dubbo(answer) => answer.take(received, body),
            DirectAnswer::Raw(answer) => {
                answer.take(received, body);
                Ok(())
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        if let DirectAnswer::Raw(RawAnswer { of_app: false, begun, .. }) = self {
            *begun = true;
        }
    }

    /// The request is out. What is to be written behind it is appended.
    pub fn asked(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let DirectAnswer::Dubbo(answer) = self {
            out.append(&mut answer.replies);
            check_replies(out)?;
            if answer.one_way {
                answer.status = Some(0);
            }
        }
        Ok(())
    }

    /// What came last belongs to it.
    pub fn is_coming(&self) -> bool {
        !matches!(self, DirectAnswer::Dubbo(DubboAnswer { status: None, .. }))
    }

    /// Its status, and for HTTP its head in text, without framing headers.
    pub fn head(&self) -> Option<(u16, &[u8])> {
        match self {
            DirectAnswer::Http(answer) => answer.head(),
            DirectAnswer::Dubbo(answer) => answer.status.map(|status| (status, &[][..])),
            DirectAnswer::Raw(answer) => answer.begun.then_some((0, &[])),
        }
    }

    /// Nothing more belongs to it.
    pub fn is_done(&self) -> bool {
        match self {
            DirectAnswer::Http(answer) => answer.is_done(),
            DirectAnswer::Dubbo(answer) => answer.status.is_some() && answer.left == 0,
            DirectAnswer::Raw(answer) => answer.left == Some(0),
        }
    }

    /// It is whole if the connection ends now.
    pub fn may_end_here(&self) -> bool {
        match self {
            DirectAnswer::Http(answer) => answer.may_end_here(),
            DirectAnswer::Dubbo(_) => self.is_done(),
            DirectAnswer::Raw(answer) => !answer.of_app || self.is_done(),
        }
    }
}

impl DubboAnswer {
    fn take(&mut self, received: &mut Vec<u8>, body: &mut Vec<u8>) -> io::Result<()> {
        if self.one_way {
            received.clear();
        }
        loop {
            let len = received.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let part = received.drain(..len);
            if self.status.is_some() {
                body.extend(part);
            } else {
                drop(part);
            }
            self.left -= len as u64;
            if self.left > 0 || self.status.is_some() {
                return Ok(());
            }
            let Some(bytes) = received.first_chunk::<HEADER_LEN>() else { return Ok(()) };
            let header = FrameHeader::parse(bytes, u32::MAX)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.left = HEADER_LEN as u64 + u64::from(header.body_len);
            match (header.request, header.event) {
                (false, false) if header.id == self.id => self.status = Some(u16::from(header.status)),
                (true, true) if header.two_way => {
                    write_heartbeat_reply(&mut self.replies, &header);
                    check_replies(&self.replies)?;
                }
                // What else a provider says is nobody's here.
                _ => {}
            }
        }
    }
}

impl RawAnswer {
    fn take(&mut self, received: &mut Vec<u8>, body: &mut Vec<u8>) {
        if !self.of_app {
            self.begun |= !received.is_empty();
            return body.append(received);
        }
        if self.left.is_none()
            && let Some(len) = received.first_chunk()
        {
            self.left = Some(u64::from_le_bytes(*len));
            self.begun = true;
            received.drain(..LEN_BYTES);
        }
        if let Some(left) = &mut self.left {
            let len = received.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            body.extend(received.drain(..len));
            *left -= len as u64;
        }
    }
}

/// Who sends heartbeats and does not read what they are answered with would make it grow without a bound.
fn check_replies(unsent: &[u8]) -> io::Result<()> {
    if unsent.len() > REPLIES_BYTES_MAX {
        return Err(io::Error::other("it sends heartbeats and does not read the answers"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Request;
    use shmesh_shm::key::DubboKey;

    const HEARTBEAT: &[u8] = b"\xda\xbb\xe2\0\0\0\0\0\0\0\0\x09\0\0\0\x01N";

    fn answer() -> DirectAnswer {
        let key = DubboKey { service: "s", method: "m", group: None, version: None, tag: None };
        let request = Request::dubbo(key, b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x07\0\0\0\0");
        DirectAnswer::new(&Message::of(&request).unwrap(), false)
    }

    /// How many heartbeats are taken, each followed by this; no more than there is room for.
    fn taken(mut then: impl FnMut(&mut DirectAnswer) -> io::Result<()>) -> usize {
        let (mut answer, mut body) = (answer(), Vec::new());
        (0..=REPLIES_BYTES_MAX)
            .take_while(|_| answer.take(&mut HEARTBEAT.to_vec(), &mut body).and_then(|()| then(&mut answer)).is_ok())
            .count()
    }

    #[test]
    fn heartbeats_whose_answers_nobody_reads_end_it() {
        let most = REPLIES_BYTES_MAX / HEARTBEAT.len();
        assert_eq!(taken(|_| Ok(())), most, "before the request is out");
        let mut out = Vec::new();
        assert_eq!(taken(|answer| answer.asked(&mut out)), most, "behind it");
        let read = taken(|answer| answer.asked(&mut Vec::new()));
        assert!(read > REPLIES_BYTES_MAX, "{read} that were read");
    }
}
