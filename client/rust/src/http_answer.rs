//! An HTTP answer that comes in piece by piece, over a connection that carries one exchange at a time.

use std::io;

use shmesh_proto::http1::{BodyKind, BodyReader, HeadLimits, ResponseHead, ResponseOut, Status, write_response};

/// How far it is.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    to_head: bool,
    head: Option<Head>,
    reader: BodyReader,
}

#[derive(Debug)]
struct Head {
    status: u16,
    text: Vec<u8>,
    keep_alive: bool,
}

impl HttpAnswer {
    /// Of a request with the method HEAD, or another.
    pub fn new(to_head: bool) -> HttpAnswer {
        HttpAnswer { to_head, head: None, reader: BodyReader::new(BodyKind::None) }
    }

    /// Takes what it can off the front of `received`, and appends what of it is body.
    pub fn take(&mut self, received: &mut Vec<u8>, body: &mut Vec<u8>) -> io::Result<()> {
        if self.head.is_none() && !self.take_head(received)? {
            return Ok(());
        }
        while !self.reader.is_done() {
            let step = self.reader.read(received).map_err(invalid)?;
            body.extend_from_slice(&received[step.data]);
            received.drain(..step.consumed);
            if step.consumed == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Its status and its head in text, without framing headers.
    pub fn head(&self) -> Option<(u16, &[u8])> {
        self.head.as_ref().map(|head| (head.status, &head.text[..]))
    }

    /// Nothing more belongs to it.
    pub fn is_done(&self) -> bool {
        self.head.is_some() && self.reader.is_done()
    }

    /// It is whole if the connection ends now.
    pub fn may_end_here(&self) -> bool {
        self.head.is_some() && self.reader.may_end_here()
    }

    /// The server keeps the connection, once the answer is done.
    pub fn keeps_alive(&self) -> bool {
        self.is_done() && self.head.as_ref().is_some_and(|head| head.keep_alive)
    }

    /// False: it is not complete.
    fn take_head(&mut self, received: &mut Vec<u8>) -> io::Result<bool> {
        let mut head = ResponseHead::default();
        loop {
            match head.parse(received, &HeadLimits::default(), self.to_head).map_err(invalid)? {
                Status::Complete if head.is_interim() => drop(received.drain(..head.len as usize)),
                Status::Complete => break,
                Status::Partial => return Ok(false),
            }
        }
        let mut text = Vec::new();
        write_response(&mut text, &head, received, &ResponseOut::default());
        received.drain(..head.len as usize);
        self.reader = BodyReader::new(head.body);
        self.head = Some(Head { status: head.status, text, keep_alive: head.keep_alive });
        Ok(true)
    }

    /// What was taken: status, head in text.
    pub fn into_head(self) -> (u16, Vec<u8>) {
        self.head.map(|head| (head.status, head.text)).unwrap_or_default()
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
