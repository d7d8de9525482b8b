//! The client: connects, calls, and goes round a sidecar that is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shmesh_shm::Protocol;
use shmesh_shm::handshake::MAX_NAME_BYTES;
use shmesh_shm::wait::default_max_spin;

use crate::call::{Call, CallId, Request, Response, SubmitError, Target, Wait};
use crate::calls::{Calls, MAX_ANSWER_BYTES, Opening};
use crate::clock;
use crate::direct_stream::DirectStream;
use crate::errand::Errand;
use crate::error::{CallError, Ran};
use crate::exchange::{Exchange, OverLane};
use crate::fallback::Fallback;
use crate::lane::Lane;
use crate::lane_stream::LaneStream;
use crate::peer::Peer;
use crate::pool::Pool;
use crate::session::Attach;
use crate::stream::Stream;
use crate::ways::{Through, Ways};

/// Calling lanes of a session unless set otherwise.
const LANES: u16 = 4;
/// Sessions of a client unless set otherwise.
const SESSIONS_MAX: usize = 8;
/// How long [`ClientBuilder::connect`] waits for a sidecar that is there and does not answer.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// How long a sidecar may give no sign of life while a call waits, unless set otherwise.
const HANG_TIMEOUT: Duration = Duration::from_millis(200);
/// How long to wait for a lane when all are in use.
const PATIENCE: Duration = Duration::from_secs(5);

/// An app's access to its sidecar. Cheap to clone; all clones share their lanes.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// Where a stream goes.
enum Opened {
    Lane(Lane, CallId),
    Direct(Peer),
}

#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    fallback: Option<Arc<Fallback>>,
    ways: Ways,
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    attach: Attach,
    sessions_max: usize,
    patience: Duration,
    answer_bytes_max: usize,
    fallback: bool,
    policy_file: Option<PathBuf>,
}

impl Client {
    /// Attaches to the sidecar at this session socket.
    pub fn connect(socket: impl AsRef<Path>) -> Result<Client, CallError> {
        Client::builder().socket(socket).connect()
    }

    /// Settings first.
    pub fn builder() -> ClientBuilder {
        let attach = Attach {
            socket: PathBuf::new(),
            name: String::new(),
            calling_lanes: LANES,
            serving: false,
            max_spin: default_max_spin(1),
            fallback: None,
            hang_timeout: HANG_TIMEOUT,
        };
        ClientBuilder {
            attach,
            sessions_max: SESSIONS_MAX,
            patience: PATIENCE,
            answer_bytes_max: MAX_ANSWER_BYTES,
            fallback: true,
            policy_file: None,
        }
    }

    /// Calls and waits for the whole answer. While the sidecar is gone or hung, calls go directly to the endpoints that it named,
    /// provided that they did not run or are idempotent; when it is back a share of them goes through it again, which grows while
    /// that goes well.
    pub fn call(&self, request: Request<'_>) -> Result<Response, CallError> {
        if let Some(flaw) = request.flaw {
            return Err(CallError::BadRequest(flaw));
        }
        let deadline = deadline_of(&request);
        let Some(fallback) = &self.shared.fallback else {
            return self.call_through(self.lane_until(deadline)?, &request, deadline);
        };
        match self.call_sidecar(fallback, &request, deadline) {
            Some(Err(error)) => fallback.call(&request, Some(&error), deadline).unwrap_or(Err(error)),
            Some(outcome) => outcome,
            None => match fallback.call(&request, None, deadline) {
                // The sidecar was not asked, and may be there all the same.
                None | Some(Err(CallError::Direct { ran: Ran::No, .. })) => {
                    self.call_through(self.lane_until(deadline)?, &request, deadline)
                }
                Some(outcome) => outcome,
            },
        }
    }

    /// Calls through the sidecar, if the call is to go there now. None: it is to go round it.
    fn call_sidecar(
        &self,
        fallback: &Fallback,
        request: &Request<'_>,
        deadline: Option<u64>,
    ) -> Option<Result<Response, CallError>> {
        let (lane, through) = self.lane_through(fallback, &Errand::Call(request), deadline)?;
        let outcome = lane.and_then(|lane| self.call_through(lane, request, deadline));
        self.tell(through, outcome.as_ref().err());
        Some(outcome)
    }

    /// A lane for what is to go through the sidecar now, and to be told of. None: it is to go round it.
    fn lane_through(
        &self,
        fallback: &Fallback,
        errand: &Errand<'_>,
        deadline: Option<u64>,
    ) -> Option<(Result<Lane, CallError>, Through)> {
        let Shared { pool, ways, .. } = &*self.shared;
        let through = ways.choose()?;
        let lane = match pool.take_attached(deadline) {
            Ok(Some(calls)) if self.is_to_go_round(fallback, &calls, errand) => {
                ways.not_yet(through);
                pool.give_back(calls);
                return None;
            }
            Ok(Some(calls)) => Ok(Lane::new(calls, pool.clone())),
            Ok(None) => {
                ways.not_yet(through);
                if fallback.knows(&errand.subject()) {
                    return None;
                }
                self.lane_until(deadline)
            }
            Err(error) => Err(error),
        };
        Some((lane, through))
    }

    /// What became of a call that went through the sidecar.
    pub(crate) fn tell(&self, through: Through, error: Option<&CallError>) {
        self.shared.ways.tell(through, error);
    }

    pub(crate) fn fallback(&self) -> Option<&Fallback> {
        self.shared.fallback.as_deref()
    }

    /// Whether the sidecar has said where such calls go without it. It is asked with the first of them.
    pub fn knows_way_round(&self, request: &Request<'_>) -> bool {
        self.fallback().is_some_and(|fallback| fallback.priority_told(&Errand::Call(request).subject()).is_some())
    }

    /// A lane of one's own, for pipelined calls from one thread. It leads through the sidecar, and takes no calls while all are to go round it.
    pub fn lane(&self) -> Result<Lane, CallError> {
        Ok(Lane::new(self.shared.pool.take()?, self.shared.pool.clone()))
    }

    /// A call whose bodies are streamed both ways; `total` is the length of the request's body if it is known. The body of `request`
    /// itself is sent first: of a Dubbo frame, all of which is body, at least its header. Goes round a sidecar that is gone as
    /// [`Client::call`] does.
    pub fn exchange(&self, request: &Request<'_>, total: Option<u64>) -> Result<Exchange, CallError> {
        if let Some(flaw) = request.flaw {
            return Err(CallError::BadRequest(flaw));
        }
        Exchange::begin(self, request, total, deadline_of(request))
    }

    /// Begins an exchange through the sidecar, if it is to go there now. None: it is to go round it.
    pub(crate) fn open_exchange(
        &self,
        request: &Request<'_>,
        total: Option<u64>,
        deadline: Option<u64>,
    ) -> Option<Result<OverLane, CallError>> {
        let Some(fallback) = self.fallback() else {
            return Some(self.exchange_through(self.lane_until(deadline), request, total, deadline));
        };
        let (lane, through) = self.lane_through(fallback, &Errand::Call(request), deadline)?;
        let opened = self.exchange_through(lane, request, total, deadline);
        Some(match opened {
            Ok(opened) => Ok(OverLane { through: Some(through), ..opened }),
            Err(error) => {
                self.tell(through, Some(&error));
                Err(error)
            }
        })
    }

    pub(crate) fn exchange_through(
        &self,
        lane: Result<Lane, CallError>,
        request: &Request<'_>,
        total: Option<u64>,
        deadline: Option<u64>,
    ) -> Result<OverLane, CallError> {
        let mut lane = lane?;
        let mut key = Vec::new();
        request.write_key(&mut key);
        if let Some(fallback) = self.fallback() {
            fallback.note(&lane.calls().wire.session, &Errand::Call(request));
        }
        let payload = [request.payload()];
        let target = Target::Key(request.protocol(), &key);
        let call = Call { timeout: time_left(deadline)?, ..call_of(request, target, &payload) };
        let id = submit(lane.calls_mut(), &call, Opening::Paced(total))?;
        Ok(OverLane { lane, id, through: None })
    }

    /// A byte stream that stands in for a connection: with [`Protocol::Http`] or [`Protocol::Dubbo2`] to a listener of the sidecar, with
    /// [`Protocol::Raw`] to the cluster. It has a lane to itself until it is dropped.
    ///
    /// When the sidecar is gone it is a connection of its own: raw to an endpoint of the cluster; HTTP and Dubbo to a Unix
    /// listener of the sidecar or to the central proxy, and without these there is no way, as nobody routes what comes in it.
    pub fn stream(&self, protocol: Protocol, cluster: Option<&str>) -> Result<Stream, CallError> {
        Ok(match self.open_stream(protocol, cluster)? {
            Opened::Lane(lane, id) => Stream::over_lane(LaneStream::new(lane, id)?),
            Opened::Direct(peer) => Stream::direct(DirectStream::new(peer)),
        })
    }

    /// As [`Client::stream`], for a tokio runtime, which must be entered. Opening one blocks for as long as it takes to have a lane, or a
    /// connection.
    #[cfg(feature = "tokio")]
    pub fn async_stream(&self, protocol: Protocol, cluster: Option<&str>) -> Result<crate::AsyncStream, CallError> {
        match self.open_stream(protocol, cluster)? {
            Opened::Lane(lane, id) => crate::AsyncStream::over_lane(lane, id),
            Opened::Direct(peer) => crate::AsyncStream::direct(peer),
        }
    }

    fn open_stream(&self, protocol: Protocol, cluster: Option<&str>) -> Result<Opened, CallError> {
        if (protocol == Protocol::Raw) != cluster.is_some() {
            return Err(CallError::BadRequest("a raw stream names its cluster, others do not"));
        }
        let cluster = cluster.unwrap_or("");
        let Some(fallback) = self.fallback() else { return self.stream_through(self.lane(), protocol, cluster) };
        match self.lane_through(fallback, &Errand::Stream(protocol, cluster), None) {
            Some((lane, through)) => {
                let opened = self.stream_through(lane, protocol, cluster);
                self.tell(through, opened.as_ref().err());
                opened.or_else(|error| {
                    fallback.stream(protocol, cluster, Some(&error)).unwrap_or(Err(error)).map(Opened::Direct)
                })
            }
            None => match fallback.stream(protocol, cluster, None) {
                Some(Ok(peer)) => Ok(Opened::Direct(peer)),
                // The sidecar was not asked, and may be there all the same.
                None | Some(Err(_)) => self.stream_through(self.lane(), protocol, cluster),
            },
        }
    }

    fn stream_through(
        &self,
        lane: Result<Lane, CallError>,
        protocol: Protocol,
        cluster: &str,
    ) -> Result<Opened, CallError> {
        let mut lane = lane?;
        let session = &lane.calls().wire.session;
        // A stream stays where it is opened, so it is worth a look whether somebody is there.
        session.look();
        if session.is_gone() {
            return Err(CallError::SidecarGone("its end of the session is closed".into()));
        }
        if let Some(fallback) = self.fallback() {
            fallback.note(session, &Errand::Stream(protocol, cluster));
        }
        let target = Target::Key(protocol, cluster.as_bytes());
        let id = submit(lane.calls_mut(), &Call::new(target, &[]), Opening::Stream)?;
        lane.flush();
        Ok(Opened::Lane(lane, id))
    }

    /// The sidecar says so, of this one as one of many. What it has said no other way of goes through it all the same.
    fn is_to_go_round(&self, fallback: &Fallback, calls: &Calls, errand: &Errand<'_>) -> bool {
        let session = &calls.wire.session;
        let shares = session.direct_shares();
        if shares.most() == 0 {
            return false;
        }
        let drawn = self.shared.ways.draw();
        if drawn >= shares.most().into() {
            return false;
        }
        let Some(by_route) = fallback.priority_told(&errand.subject()) else { return false };
        let goes_round = drawn < shares.of(errand.priority(by_route)).into();
        if goes_round {
            // An earlier session may have told that. Where nothing goes through this one, nothing else would ask there, and it is not said what
            // changed since.
            fallback.note(session, errand);
        }
        goes_round
    }

    /// A lane, for a call that has time until then.
    pub(crate) fn lane_until(&self, deadline: Option<u64>) -> Result<Lane, CallError> {
        let Some(deadline) = deadline else { return self.lane() };
        match self.shared.pool.take_until(deadline)? {
            Some(calls) => Ok(Lane::new(calls, self.shared.pool.clone())),
            None => Err(too_late("the sidecar did not answer")),
        }
    }

    fn call_through(
        &self,
        mut lane: Lane,
        request: &Request<'_>,
        deadline: Option<u64>,
    ) -> Result<Response, CallError> {
        let mut key = Vec::with_capacity(256);
        request.write_key(&mut key);
        let protocol = request.protocol();
        if let Some(fallback) = &self.shared.fallback
            && !lane.calls().knows(protocol, &key)
        {
            fallback.note(&lane.calls().wire.session, &Errand::Call(request));
        }
        let target = match lane.calls_mut().route_of(protocol, &key) {
            Some(route) => Target::Route(route),
            None => Target::Key(protocol, &key),
        };
        let payload = [request.payload()];
        let call = Call { timeout: time_left(deadline)?, ..call_of(request, target, &payload) };
        let id = submit(lane.calls_mut(), &call, Opening::Whole)?;
        match lane.receive(Wait::Forever)? {
            Some(answer) if answer.id == id => answer.outcome,
            // Nothing else was in flight on this lane.
            Some(_) | None => Err(CallError::SidecarGone("the call was lost".into())),
        }
    }
}

impl ClientBuilder {
    /// The sidecar's session socket.
    #[must_use]
    pub fn socket(mut self, socket: impl AsRef<Path>) -> ClientBuilder {
        self.attach.socket = socket.as_ref().to_owned();
        self
    }

    /// Lanes of a session, so many calls or streams that do not share one; more sessions are attached when they do not
    /// suffice. 4 unless set.
    #[must_use]
    pub fn lanes(mut self, lanes: u16) -> ClientBuilder {
        self.attach.calling_lanes = lanes.max(1);
        self
    }

    /// Most sessions. 8 unless set.
    #[must_use]
    pub fn sessions_max(mut self, sessions: usize) -> ClientBuilder {
        self.sessions_max = sessions;
        self
    }

    /// The app's name, for the sidecar's metrics and messages. At most 64 bytes; the rest is cut off.
    #[must_use]
    pub fn name(mut self, name: &str) -> ClientBuilder {
        let mut end = name.len().min(MAX_NAME_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        self.attach.name = name[..end].to_owned();
        self
    }

    /// Longest time to spin for an answer before sleeping; 0 = sleep at once. 100 µs unless set.
    #[must_use]
    pub fn max_wait_spin(mut self, spin: Duration) -> ClientBuilder {
        self.attach.max_spin = spin;
        self
    }

    /// How long to wait for a lane when all are in use. 5 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> ClientBuilder {
        self.patience = patience;
        self
    }

    /// How long the sidecar may give no sign of life while a call waits for it: then it is hung, or stopped, and left as if it were
    /// dead. It is asked for one when half of this has passed without anything coming. 200 ms unless set; zero = never.
    #[must_use]
    pub fn hang_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.attach.hang_timeout = timeout;
        self
    }

    /// Longest answer, in bytes of body. 128 MiB unless set.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> ClientBuilder {
        self.answer_bytes_max = bytes;
        self
    }

    /// Whether calls go directly to the service when the sidecar is gone. They do unless set.
    #[must_use]
    pub fn fallback(mut self, fallback: bool) -> ClientBuilder {
        self.fallback = fallback;
        self
    }

    /// The file in which is kept what the sidecar said of where calls go and by which rules, for a time when this app starts and
    /// its sidecar is not there. Only its owner may write it, and each app has one of its own. Unless set: `NAME.policy` in the
    /// folder that the environment's `SHMESH_POLICY_DIR` names, `NAME` being the app's name; without either no file is written,
    /// as nobody but its owner knows a folder that outlives the app and that nobody else can write to.
    #[must_use]
    pub fn policy_file(mut self, path: impl AsRef<Path>) -> ClientBuilder {
        self.policy_file = Some(path.as_ref().to_owned());
        self
    }

    /// Attaches the first session. With [`ClientBuilder::fallback`] it need not be there yet: if nobody answers on the socket within a
    /// second, calls go round it where a way is known, and through it as soon as it is there. Being refused is an error in any case.
    pub fn connect(mut self) -> Result<Client, CallError> {
        let file = self.policy_file.take().or_else(|| policy_file_of(&self.attach.name));
        let fallback = self.fallback.then(|| Arc::new(Fallback::new(self.answer_bytes_max, file)));
        self.attach.fallback = fallback.clone();
        let pool = Pool::new(self.attach, self.sessions_max, self.patience, self.answer_bytes_max);
        let shared = Shared { pool, fallback, ways: Ways::new() };
        match shared.fallback {
            None => shared.pool.give_back(shared.pool.take()?),
            Some(_) => match shared.pool.take_until(clock::now().saturating_add(clock::nanos(CONNECT_WAIT))) {
                Ok(attached) => attached.into_iter().for_each(|calls| shared.pool.give_back(calls)),
                Err(CallError::Connect(why)) if why.is_absence() => {}
                Err(error) => return Err(error),
            },
        }
        Ok(Client { shared: Arc::new(shared) })
    }
}

/// The policy file of an app that named none.
fn policy_file_of(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("SHMESH_POLICY_DIR").filter(|folder| !folder.is_empty())?);
    let is_plain = !name.is_empty() && !name.contains(['/', '\0']);
    is_plain.then(|| folder.join(format!("{name}.policy")))
}

/// When a call's time is over, in nanoseconds of the clock.
fn deadline_of(request: &Request<'_>) -> Option<u64> {
    request.timeout.map(|timeout| clock::now().saturating_add(clock::nanos(timeout)))
}

/// What is left of a call's time; none if it has all the time it wants.
fn time_left(deadline: Option<u64>) -> Result<Option<Duration>, CallError> {
    let left = |deadline: u64| match deadline.saturating_sub(clock::now()) {
        0 => Err(too_late("its time was over before it was made")),
        left => Ok(Duration::from_nanos(left)),
    };
    deadline.map(left).transpose()
}

fn too_late(sentence: &str) -> CallError {
    CallError::Timeout { ran: Ran::No, sentence: sentence.into() }
}

fn call_of<'a>(request: &Request<'_>, target: Target<'a>, payload: &'a [&'a [u8]]) -> Call<'a> {
    Call { target, payload, timeout: request.timeout, one_way: request.is_one_way() }
}

/// Submits, waiting for room on a lane that has nothing else in flight.
fn submit(calls: &mut Calls, call: &Call<'_>, opening: Opening) -> Result<CallId, CallError> {
    let until = call.timeout.map(|timeout| clock::now().saturating_add(clock::nanos(timeout)));
    loop {
        calls.turn();
        match calls.submit(call, opening) {
            Ok(id) => return Ok(id),
            Err(SubmitError::Failed(error)) => return Err(error),
            // Waits at once: anything in between could see the room that the wait is for.
            Err(SubmitError::Full) => {}
        }
        if !calls.wait_for_room(until) {
            let sentence = "the sidecar made no room for it".to_owned();
            return Err(CallError::Timeout { ran: Ran::No, sentence });
        }
    }
}
