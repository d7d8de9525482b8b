//! A request whose body is streamed, as it goes over a connection of its own.

use std::io;

use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN};
use shmesh_proto::http1::{self, CHUNK_END, chunk_line, end_head, write_last_chunk};

use crate::call::{Request, RequestKind};
use crate::direct::has_no_body_by_nature;
use crate::own_connection::RAW_CALL;
use crate::raw_request::write_len;

/// What kind of request it is, and what of it is known from the start.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// Its head, without framing and the empty line.
    Http(Vec<u8>),
    /// The header of the frame, which counts as body like the rest of it.
    Dubbo(FrameHeader),
    Raw,
}

impl Message {
    /// None: a frame without a proper header.
    pub fn of(request: &Request<'_>) -> Option<Message> {
        Some(match &request.kind {
            RequestKind::Http { head, .. } => Message::Http(head.clone()),
            RequestKind::Dubbo { frame, .. } => {
                Message::Dubbo(FrameHeader::parse(frame.first_chunk::<HEADER_LEN>()?, u32::MAX).ok()?)
            }
            RequestKind::Raw { .. } => Message::Raw,
        })
    }
}

/// How far it was written.
#[derive(Debug)]
pub(crate) struct DirectRequest {
    /// What goes before everything else; until it is written.
    head: Option<Vec<u8>>,
    framing: Framing,
    /// Bytes of the body that are to follow, if known.
    left: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Http(http1::Framing),
    /// Its own header says it.
    Frame,
    /// The end of the connection says it.
    UntilEnd,
    /// To the own socket of an app.
    Pieces,
}

impl DirectRequest {
    /// `total`: bytes of the body, if known.
    pub fn new(message: &Message, total: Option<u64>, to_app: bool) -> DirectRequest {
        let (head, framing, left) = match message {
            Message::Http(head) => {
                let framing = total.map_or(http1::Framing::Chunked, http1::Framing::Length);
                (Some(head.clone()), Framing::Http(framing), total)
            }
            Message::Dubbo(header) => (None, Framing::Frame, Some(HEADER_LEN as u64 + u64::from(header.body_len))),
            Message::Raw if to_app => (Some(vec![RAW_CALL]), Framing::Pieces, total),
            Message::Raw => (None, Framing::UntilEnd, total),
        };
        DirectRequest { head, framing, left }
    }

    /// The head goes before everything else.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(mut head) = self.head.take() {
            if let Framing::Http(framing) = self.framing {
                end_head(&mut head, framing);
            }
            out.append(&mut head);
        }
    }

    /// Appends bytes of the body, of which there are some.
    pub fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.begin(out);
        if let Some(left) = &mut self.left {
            let rest = left.checked_sub(bytes.len() as u64);
            *left = rest.ok_or_else(|| invalid("more body than was announced"))?;
        }
        match self.framing {
            Framing::Http(http1::Framing::Chunked) => {
                let (line, len) = chunk_line(bytes.len());
                out.extend_from_slice(&line[..len]);
                out.extend_from_slice(bytes);
                out.extend_from_slice(CHUNK_END);
                return Ok(());
            }
            Framing::Pieces => write_len(out, bytes.len()),
            Framing::Http(_) | Framing::Frame | Framing::UntilEnd => {}
        }
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// The body is complete.
    pub fn end(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        // Nothing was written: the body is empty, which needs no chunk to say so.
        if let Some(head) = &self.head
            && self.framing == Framing::Http(http1::Framing::Chunked)
        {
            let empty = if has_no_body_by_nature(head) { http1::Framing::None } else { http1::Framing::Length(0) };
            self.framing = Framing::Http(empty);
        }
        self.begin(out);
        if self.left.is_some_and(|left| left > 0) {
            return Err(invalid("less body than was announced"));
        }
        match self.framing {
            Framing::Http(http1::Framing::Chunked) => write_last_chunk(out, &[]),
            Framing::Pieces => write_len(out, 0),
            Framing::Http(_) | Framing::Frame | Framing::UntilEnd => {}
        }
        Ok(())
    }

    /// How it ends says whether it is whole.
    pub fn is_until_end(&self) -> bool {
        self.framing == Framing::UntilEnd
    }

    /// The sending side of the connection ends behind it.
    pub fn ends_connection(&self) -> bool {
        matches!(self.framing, Framing::UntilEnd | Framing::Pieces)
    }
}

fn invalid(sentence: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, sentence)
}
