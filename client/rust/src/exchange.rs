//! One call whose bodies are streamed: for what is too large to be held whole.

use std::io::{self, Read, Write};

use crate::call::{CallId, Request, Twice};
use crate::calls::ReadOutcome;
use crate::client::Client;
use crate::detour::{By, Detour, Path, UNFIT};
use crate::direct::{Failed, Place, Why};
use crate::direct_exchange::DirectExchange;
use crate::direct_request::Message;
use crate::directory::Subject;
use crate::errand::Errand;
use crate::error::{CallError, Ran};
use crate::lane::Lane;
use crate::ways::Through;

/// Bytes of a request's body that are kept until the answer begins, so that the call can be made again. One with more of them stays where
/// it is.
const REPLAY_MAX: usize = 64 << 10;

/// A call in progress. Write the request's body, [`Exchange::finish`] it, ask for the [`Exchange::head`], read the answer's body. The
/// answer may begin before the request has ended. Dropping it in between gives the call up.
///
/// When the sidecar goes away before the app was told anything of the answer, the call is made again elsewhere, by the rules of
/// [`Client::call`], provided that no more than 64 KiB of its body were written by then.
#[derive(Debug)]
pub struct Exchange {
    way: Way,
    again: Again,
}

#[derive(Debug)]
enum Way {
    Sidecar(OverLane),
    Direct(Box<DirectExchange>, Path),
}

/// Through the sidecar.
#[derive(Debug)]
pub(crate) struct OverLane {
    pub lane: Lane,
    pub id: CallId,
    /// Whether that went well is to be told yet.
    pub through: Option<Through>,
}

/// What it takes to make the call again.
#[derive(Debug)]
struct Again {
    client: Client,
    subject: Subject,
    twice: Twice,
    message: Message,
    total: Option<u64>,
    deadline: Option<u64>,
    /// What was written of the body; none if that is too much, or the app knows something of the answer.
    body: Option<Vec<u8>>,
    finished: bool,
    detour: Option<Detour>,
}

/// Why a step on a way failed.
enum Met {
    Sidecar(CallError),
    Direct(Failed),
}

impl Exchange {
    /// Begins a call, whose deadline is in nanoseconds of the clock.
    pub(crate) fn begin(
        client: &Client,
        request: &Request<'_>,
        total: Option<u64>,
        deadline: Option<u64>,
    ) -> Result<Exchange, CallError> {
        let body = request.payload();
        let mut again = Again {
            client: client.clone(),
            subject: Errand::Call(request).subject(),
            twice: request.twice(),
            message: Message::of(request).ok_or(CallError::BadRequest("not a Dubbo2 frame"))?,
            total,
            deadline,
            body: (body.len() <= REPLAY_MAX).then(|| body.to_vec()),
            finished: false,
            detour: None,
        };
        let way = match client.open_exchange(request, total, deadline) {
            Some(Ok(over)) => Way::Sidecar(over),
            Some(Err(error)) => {
                again.body.get_or_insert_with(|| body.to_vec());
                again.after(Met::Sidecar(error), None)?
            }
            None => {
                again.body.get_or_insert_with(|| body.to_vec());
                match again.round(None) {
                    Some(Ok(way)) => way,
                    // The sidecar was not asked, and may be there all the same.
                    None | Some(Err(CallError::Direct { ran: Ran::No, .. })) => {
                        again.detour = None;
                        Way::Sidecar(client.exchange_through(client.lane_until(deadline), request, total, deadline)?)
                    }
                    Some(Err(error)) => return Err(error),
                }
            }
        };
        if body.len() > REPLAY_MAX {
            again.body = None;
        }
        Ok(Exchange { way, again })
    }

    /// Whether the call goes round the sidecar.
    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(..))
    }

    /// The request's body is complete.
    pub fn finish(&mut self) -> Result<(), CallError> {
        self.again.finished = true;
        self.go(Way::finish)
    }

    /// Waits for the answer to begin: its status, and for HTTP its head in text.
    pub fn head(&mut self) -> Result<(u16, Vec<u8>), CallError> {
        let is_new = self.again.body.is_some();
        match self.go(|way| way.head(is_new)) {
            Ok(head) => {
                self.told();
                Ok(head)
            }
            // What came of an answer is told, even though the rest will not come.
            Err(error) => {
                let begun = self.way.begun().ok_or(error)?;
                self.told();
                Ok(begun)
            }
        }
    }

    /// Reads bytes of the answer's body; 0 = it is complete.
    pub fn read_body(&mut self, into: &mut [u8]) -> Result<usize, CallError> {
        if into.is_empty() {
            return Ok(0);
        }
        let len = self.go(|way| way.read(into))?;
        self.told();
        Ok(len)
    }

    /// Writes bytes of the request's body: how many were taken, at least one. 0 = the answer is complete and no more is
    /// wanted.
    pub fn write_body(&mut self, bytes: &[u8]) -> Result<usize, CallError> {
        let len = self.go(|way| way.write(bytes))?;
        self.again.keep(&bytes[..len]);
        Ok(len)
    }

    /// The app knows something of the answer.
    fn told(&mut self) {
        self.again.body = None;
        if let Way::Sidecar(over) = &mut self.way {
            self.again.tell(over, None);
        }
    }

    /// Takes a step on the way that the call is on, and on the next one where that fails and may be left.
    fn go<T>(&mut self, mut step: impl FnMut(&mut Way) -> Result<T, Met>) -> Result<T, CallError> {
        loop {
            let met = match step(&mut self.way) {
                Ok(outcome) => return Ok(outcome),
                Err(met) => met,
            };
            let path = match &mut self.way {
                Way::Sidecar(over) => {
                    if let Met::Sidecar(error) = &met {
                        self.again.tell(over, Some(error));
                    }
                    None
                }
                Way::Direct(_, path) => Some(path.clone()),
            };
            self.way = self.again.after(met, path)?;
        }
    }
}

impl Way {
    fn finish(&mut self) -> Result<(), Met> {
        let (calls, id) = match self {
            Way::Sidecar(over) => (over.lane.calls_mut(), over.id),
            Way::Direct(direct, _) => return direct.finish().map_err(Met::Direct),
        };
        calls.end(id);
        loop {
            calls.turn();
            if calls.is_sent(id) {
                return Ok(());
            }
            calls.wait(None);
        }
    }

    /// `is_new`: of an answer that broke off nothing is to be told before it is known whether there is another one.
    fn head(&mut self, is_new: bool) -> Result<(u16, Vec<u8>), Met> {
        let (calls, id) = match self {
            Way::Sidecar(over) => (over.lane.calls_mut(), over.id),
            Way::Direct(direct, _) => return direct.head().map_err(Met::Direct),
        };
        loop {
            calls.turn();
            if is_new {
                calls.check_answer(id).map_err(Met::Sidecar)?;
            }
            if let Some((status, head)) = calls.head(id).map_err(Met::Sidecar)? {
                return Ok((status, head.to_vec()));
            }
            calls.wait(None);
        }
    }

    /// The head of an answer that broke off.
    fn begun(&self) -> Option<(u16, Vec<u8>)> {
        let (status, head) = match self {
            Way::Sidecar(over) => over.lane.calls().head(over.id).ok().flatten()?,
            Way::Direct(direct, _) => direct.begun()?,
        };
        Some((status, head.to_vec()))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, Met> {
        let (calls, id) = match self {
            Way::Sidecar(over) => (over.lane.calls_mut(), over.id),
            Way::Direct(direct, _) => return direct.read(into).map_err(Met::Direct),
        };
        loop {
            calls.turn();
            match calls.read(id, into).map_err(Met::Sidecar)? {
                ReadOutcome::Bytes(len) => return Ok(len),
                ReadOutcome::End => return Ok(0),
                ReadOutcome::Empty => drop(calls.wait(None)),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Met> {
        let (calls, id) = match self {
            Way::Sidecar(over) => (over.lane.calls_mut(), over.id),
            Way::Direct(direct, _) => return direct.write(bytes).map_err(Met::Direct),
        };
        loop {
            calls.turn();
            match calls.write(id, bytes).map_err(Met::Sidecar)? {
                // Credit need not come any more once the answer is complete.
                0 if calls.is_sent(id) || calls.is_answered(id) || bytes.is_empty() => return Ok(0),
                0 => drop(calls.wait(None)),
                len => return Ok(len),
            }
        }
    }
}

impl Again {
    /// Another way after one that failed, with everything on it that was written so far.
    fn after(&mut self, met: Met, path: Option<Path>) -> Result<Way, CallError> {
        if let Met::Direct(Failed { why: Why::Unfit, .. }) = met {
            return Err(CallError::BadRequest(UNFIT));
        }
        match (met, path, self.detour.take()) {
            (Met::Direct(failed), Some(path), Some(mut detour)) => {
                let goes_on = self.failed(&mut detour, &path.place, path.by, &failed);
                if !goes_on || self.body.is_none() {
                    return Err(detour.error(path.by, failed));
                }
                self.walk(detour).unwrap_or_else(|detour| Err(detour.error(path.by, failed)))
            }
            (Met::Direct(Failed { ran, sentence, .. }), ..) => Err(CallError::Direct { ran, sentence }),
            (Met::Sidecar(error), ..) if self.body.is_none() => Err(error),
            (Met::Sidecar(error), ..) => self.round(Some(&error)).unwrap_or(Err(error)),
        }
    }

    /// Goes round the sidecar. None: there is no way, or none that may be taken.
    fn round(&mut self, met: Option<&CallError>) -> Option<Result<Way, CallError>> {
        self.body.as_ref()?;
        let detour = self.client.fallback()?.detour(&self.subject, self.twice, met, self.deadline)?;
        self.walk(detour).ok()
    }

    /// Takes the paths that are left, until one goes. The detour itself: there is none left.
    fn walk(&mut self, mut detour: Detour) -> Result<Result<Way, CallError>, Detour> {
        let Some(mut path) = detour.next() else { return Err(detour) };
        loop {
            let failed = match self.open(&path, &detour) {
                Ok(direct) => {
                    self.detour = Some(detour);
                    return Ok(Ok(Way::Direct(Box::new(direct), path)));
                }
                Err(failed) => failed,
            };
            let goes_on = self.failed(&mut detour, &path.place, path.by, &failed);
            match detour.next() {
                Some(next) if goes_on => path = next,
                _ => return Ok(Err(detour.error(path.by, failed))),
            }
        }
    }

    fn open(&self, path: &Path, detour: &Detour) -> Result<DirectExchange, Failed> {
        let body = self.body.as_deref().unwrap_or_default();
        // All of a body that is complete may as well be announced.
        let total = self.total.or(self.finished.then_some(body.len() as u64).filter(|len| *len > 0));
        let mut direct = DirectExchange::open(&path.place, &self.message, total, detour.rules)?;
        let mut sent = 0;
        while sent < body.len() {
            match direct.write(&body[sent..])? {
                0 => break,
                len => sent += len,
            }
        }
        if self.finished {
            direct.finish()?;
        }
        Ok(direct)
    }

    fn failed(&self, detour: &mut Detour, place: &Place, by: By, failed: &Failed) -> bool {
        self.client.fallback().is_some_and(|fallback| fallback.failed(detour, place, by, failed))
    }

    fn keep(&mut self, bytes: &[u8]) {
        match &mut self.body {
            Some(body) if body.len() + bytes.len() <= REPLAY_MAX => body.extend_from_slice(bytes),
            body => *body = None,
        }
    }

    /// Says once what became of the call at the sidecar.
    fn tell(&self, over: &mut OverLane, error: Option<&CallError>) {
        if let Some(through) = over.through.take() {
            self.client.tell(through, error);
        }
    }
}

impl Read for Exchange {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.read_body(into)?)
    }
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.write_body(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.way {
            Way::Sidecar(over) => over.lane.flush(),
            // What was written is written.
            Way::Direct(..) => {}
        }
        Ok(())
    }
}
