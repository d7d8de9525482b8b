//! What an app has to know to make calls alone: the fields of POLICY, docs/spec/shm-v1.md §6.1.

use std::time::Duration;

use crate::direct::Priority;
use crate::handshake::{Fields, HandshakeError};

const ENDPOINT: u16 = 1;
const CONNECT_TIMEOUT: u16 = 2;
const FIRST_BYTE_TIMEOUT: u16 = 3;
const REQUEST_TIMEOUT: u16 = 4;
const ATTEMPTS: u16 = 5;
const IDEMPOTENT: u16 = 6;
const LISTENER: u16 = 7;
const CENTRAL_PROXY: u16 = 8;
const APP_SOCKET: u16 = 9;
const PRIORITY: u16 = 10;

/// Where calls that are alike go, and by which rules. What is not said is up to the app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Taken in turn: `tcp:127.0.0.1:80`, `unix:/path`.
    pub endpoints: Vec<String>,
    /// Endpoints, too: the sockets on which apps that serve over shared memory listen themselves.
    pub app_sockets: Vec<String>,
    /// Unix listeners of the sidecar that take such calls.
    pub listeners: Vec<String>,
    /// The proxy that takes such calls for the whole mesh.
    pub central_proxy: Option<String>,
    pub connect_timeout: Option<Duration>,
    /// From the end of the request to the first byte of the answer.
    pub first_byte_timeout: Option<Duration>,
    /// For the whole call.
    pub request_timeout: Option<Duration>,
    /// How often one request is sent at most.
    pub attempts: Option<u32>,
    /// Whether making such a call twice does no harm.
    pub idempotent: Option<bool>,
    /// Which calls go round a sidecar first that has too much to do.
    pub priority: Option<Priority>,
}

impl Policy {
    /// Reads the fields; those with a tag that is not known are skipped.
    pub fn decode(bytes: &[u8]) -> Result<Policy, HandshakeError> {
        let mut fields = Fields(bytes);
        let mut policy = Policy::default();
        while fields.end().is_err() {
            let tag = fields.u16()?;
            let len = fields.u16()?;
            let value = fields.bytes(usize::from(len))?;
            policy.read(tag, value)?;
        }
        Ok(policy)
    }

    fn read(&mut self, tag: u16, value: &[u8]) -> Result<(), HandshakeError> {
        match tag {
            ENDPOINT => self.endpoints.push(text(value)?),
            APP_SOCKET => self.app_sockets.push(text(value)?),
            LISTENER => self.listeners.push(text(value)?),
            CENTRAL_PROXY => self.central_proxy = Some(text(value)?),
            CONNECT_TIMEOUT => self.connect_timeout = Some(micros(value)?),
            FIRST_BYTE_TIMEOUT => self.first_byte_timeout = Some(micros(value)?),
            REQUEST_TIMEOUT => self.request_timeout = Some(micros(value)?),
            ATTEMPTS => {
                let mut value = Fields(value);
                self.attempts = Some(value.u32()?);
                value.end()?;
            }
            IDEMPOTENT => {
                let mut value = Fields(value);
                self.idempotent = Some(value.flag()?);
                value.end()?;
            }
            PRIORITY => {
                let mut value = Fields(value);
                self.priority = Priority::from_u8(value.u8()?);
                value.end()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Appends the fields that are there.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let texts = [(ENDPOINT, &self.endpoints), (LISTENER, &self.listeners), (APP_SOCKET, &self.app_sockets)];
        for (tag, texts) in texts {
            texts.iter().try_for_each(|text| put(out, tag, text.as_bytes()))?;
        }
        if let Some(proxy) = &self.central_proxy {
            put(out, CENTRAL_PROXY, proxy.as_bytes())?;
        }
        let times = [
            (CONNECT_TIMEOUT, self.connect_timeout),
            (FIRST_BYTE_TIMEOUT, self.first_byte_timeout),
            (REQUEST_TIMEOUT, self.request_timeout),
        ];
        for (tag, time) in times {
            if let Some(time) = time {
                let micros = u64::try_from(time.as_micros()).map_err(|_| HandshakeError::Range)?;
                put(out, tag, &micros.to_le_bytes())?;
            }
        }
        if let Some(attempts) = self.attempts {
            put(out, ATTEMPTS, &attempts.to_le_bytes())?;
        }
        if let Some(idempotent) = self.idempotent {
            put(out, IDEMPOTENT, &[u8::from(idempotent)])?;
        }
        if let Some(priority) = self.priority {
            put(out, PRIORITY, &[priority as u8])?;
        }
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, tag: u16, value: &[u8]) -> Result<(), HandshakeError> {
    let len = u16::try_from(value.len()).map_err(|_| HandshakeError::Text)?;
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}

fn text(value: &[u8]) -> Result<String, HandshakeError> {
    String::from_utf8(value.to_vec()).map_err(|_| HandshakeError::Text)
}

fn micros(value: &[u8]) -> Result<Duration, HandshakeError> {
    let mut fields = Fields(value);
    let micros = fields.u64()?;
    fields.end()?;
    Ok(Duration::from_micros(micros))
}
