//! The way round a sidecar that is gone: through its Unix listener, through the central proxy, or straight to the endpoints that it
//! named, by the rules that it named.
//!
//! For each distinct thing that routes look at (HTTP: method, authority and path; Dubbo: service, method, group and version; raw:
//! cluster) the shim asks the sidecar once, off the hot path, where such calls go, and keeps what it answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use shmesh_policy::{Address, Timeouts};
use shmesh_shm::handshake::{Policy, RefusedCode};
use shmesh_shm::{Priority, Protocol};

use crate::back_off::BackOff;
use crate::call::{Request, Response, Twice};
use crate::clock;
use crate::detour::{By, Detour, Path};
use crate::direct::{self, Failed, Place, Rules, Why};
use crate::directory::{Answer, Directory, Subject};
use crate::errand::Errand;
use crate::error::{CallError, ConnectError, Ran, Retry};
use crate::idle::Idle;
use crate::own_connection::RAW_STREAM;
use crate::peer::Peer;
use crate::policy_file::PolicyFile;
use crate::session::Session;

/// How often a request is sent to endpoints at most, if the sidecar did not say.
const ATTEMPTS: u32 = shmesh_policy::retry::ATTEMPTS_MAX;
/// How long the listeners of a sidecar that died are left alone. They may outlive its sign of life by tens of milliseconds, and
/// what they take then is lost: a call that has not run would become one that may have.
const DEATH_SETTLES: Duration = Duration::from_millis(250);

/// What calls without the sidecar need.
#[derive(Debug)]
pub(crate) struct Fallback {
    directory: Directory,
    idle: Idle,
    back_off: BackOff,
    file: Option<PolicyFile>,
    answer_bytes_max: usize,
    turn: AtomicUsize,
    /// When a session was found to have ended last; nanoseconds of the clock, 0 = never.
    lost_at: AtomicU64,
    listener_lives: AtomicBool,
}

impl Fallback {
    /// Knows what the file says, if there is one.
    pub fn new(answer_bytes_max: usize, file: Option<PathBuf>) -> Fallback {
        let directory = Directory::default();
        let file = file.map(PolicyFile::new);
        if let Some(file) = &file {
            file.load(&directory);
        }
        Fallback {
            directory,
            idle: Idle::default(),
            back_off: BackOff::default(),
            file,
            answer_bytes_max,
            turn: AtomicUsize::new(0),
            lost_at: AtomicU64::new(0),
            listener_lives: AtomicBool::new(false),
        }
    }

    /// Makes sure that the sidecar was asked about it through this session.
    pub fn note(&self, session: &Arc<Session>, errand: &Errand<'_>) {
        self.directory.ask(session, errand.subject(), || errand.key());
    }

    /// Whether there is a way for such calls without the sidecar, as far as is known.
    pub fn knows(&self, subject: &Subject) -> bool {
        self.directory.answer(subject).is_some_and(|answer| leads(subject, &answer))
    }

    /// What the route of such calls says of their priority, if the sidecar has said where they go. While it is there, nothing less will do.
    pub fn priority_told(&self, subject: &Subject) -> Option<Option<Priority>> {
        let told = self.directory.exact(subject).filter(|answer| leads(subject, answer))?;
        Some(told.policy.priority)
    }

    /// The sidecar answered a look-up.
    pub fn learn(&self, id: u32, policy: Policy) {
        if self.directory.learn(id, policy)
            && let Some(file) = &self.file
        {
            file.outdate();
        }
    }

    /// What is to be done now and then, while there is a session.
    pub fn tick(&self, now: u64) {
        self.idle.expire(now);
        if let Some(file) = &self.file {
            file.save_if_due(&self.directory, now, false);
        }
    }

    /// A session ended.
    pub fn lost(&self, now: u64) {
        self.lost_at.store(now.max(1), Ordering::Relaxed);
        self.listener_lives.store(false, Ordering::Relaxed);
    }

    /// Makes the call another way. `met` is the error that it met at the sidecar; none: it was not tried there. `deadline` in
    /// nanoseconds of the clock. None: there is no other way, or after this error the call must not be made again.
    pub fn call(
        &self,
        request: &Request<'_>,
        met: Option<&CallError>,
        deadline: Option<u64>,
    ) -> Option<Result<Response, CallError>> {
        let mut detour = self.detour(&Errand::Call(request).subject(), request.twice(), met, deadline)?;
        let mut last = None;
        while let Some(Path { place, by }) = detour.next() {
            let failed = match direct::call(&place, request, &detour.rules, &self.idle) {
                Ok(response) => return Some(Ok(response)),
                Err(failed) => failed,
            };
            let goes_on = self.failed(&mut detour, &place, by, &failed);
            last = Some((by, failed));
            if !goes_on {
                break;
            }
        }
        last.map(|(by, failed)| Err(detour.error(by, failed)))
    }

    /// The paths of a call round the sidecar; as for [`Fallback::call`].
    pub fn detour(
        &self,
        subject: &Subject,
        twice: Twice,
        met: Option<&CallError>,
        deadline: Option<u64>,
    ) -> Option<Detour> {
        if !self.leads_round(subject, met) {
            return None;
        }
        let listener_lives = self.listener_lives(met);
        let known = self.directory.answer(subject);
        let proxies = known.clone().or_else(|| self.directory.proxies(subject.protocol));
        let policy = known.as_ref().map(|known| &known.policy);
        let idempotent = twice.is_harmless(policy.and_then(|policy| policy.idempotent));
        let ran = match met.map_or(Retry::Safe, CallError::retry) {
            Retry::Safe => Ran::No,
            Retry::IfIdempotent if idempotent => Ran::Maybe,
            Retry::IfIdempotent | Retry::No => return None,
        };
        let authority = if known.is_none() { authority_place(subject) } else { None };
        let mut paths = self.paths(known.as_deref(), proxies.as_deref(), authority, listener_lives);
        if let Some(CallError::Overloaded { ran: Ran::Maybe, .. }) = met
            && subject.protocol == Protocol::Raw
        {
            // It may be the app that serves that had no room, and its own socket leads to the same one. HTTP and Dubbo have answers for that.
            paths.retain(|path| !path.place.of_app);
        }
        let rules = self.rules(policy, idempotent, deadline);
        let attempts = policy.and_then(|policy| policy.attempts).unwrap_or(ATTEMPTS);
        Some(Detour::new(paths, rules, attempts, ran))
    }

    /// A path of a call failed. Whether the call is to be made on the next one.
    pub fn failed(&self, detour: &mut Detour, place: &Place, by: By, failed: &Failed) -> bool {
        if failed.why == Why::Refused || by != By::Endpoint && failed.why != Why::Unfit {
            self.back_off.failed(&place.address);
        }
        detour.goes_on(by, failed)
    }

    /// Opens a stream another way. `met` is the error that it met at the sidecar; none: it was not tried there. A raw stream goes
    /// where its cluster is; those of HTTP and Dubbo need somebody who routes what comes in them. None: there is no other way.
    pub fn stream(
        &self,
        protocol: Protocol,
        cluster: &str,
        met: Option<&CallError>,
    ) -> Option<Result<Peer, CallError>> {
        let subject = Errand::Stream(protocol, cluster).subject();
        if !self.leads_round(&subject, met) {
            return None;
        }
        let listener_lives = self.listener_lives(met);
        let known = self.directory.answer(&subject);
        let proxies = known.clone().or_else(|| self.directory.proxies(protocol));
        let places = if protocol == Protocol::Raw { known.as_deref() } else { None };
        let rules = self.rules(known.as_ref().map(|known| &known.policy), false, None);
        let mut failed = None;
        for Path { place, by } in self.paths(places, proxies.as_deref(), None, listener_lives) {
            let opened = Peer::connect(&place.address, rules.connect_timeout).and_then(|mut peer| {
                if place.of_app && by == By::Endpoint {
                    peer.write(&[RAW_STREAM], Some(rules.connect_timeout))?;
                }
                Ok(peer)
            });
            match opened {
                Ok(peer) => return Some(Ok(peer)),
                Err(error) => {
                    self.back_off.failed(&place.address);
                    failed = Some(format!("{}: {error}", place.address));
                }
            }
        }
        failed.map(|sentence| Err(CallError::Direct { ran: Ran::No, sentence }))
    }

    /// Whether what met this at the sidecar may go round it. Where that is there nothing is guessed from others of the same authority, nor
    /// from the authority itself: it has to have said where such calls go.
    fn leads_round(&self, subject: &Subject, met: Option<&CallError>) -> bool {
        let Some(met) = met else { return true };
        met.is_sidecar_lost() || met.leads_round() && self.directory.exact(subject).is_some()
    }

    /// The paths in their order; those that failed lately come last.
    fn paths(
        &self,
        known: Option<&Answer>,
        proxies: Option<&Answer>,
        authority: Option<Place>,
        listener_lives: bool,
    ) -> Vec<Path> {
        let mut paths = Vec::new();
        let mut add = |place: &Arc<Place>, by| paths.push(Path { place: place.clone(), by });
        if let Some(proxies) = proxies {
            proxies.listeners.iter().filter(|_| listener_lives).for_each(|place| add(place, By::Listener));
            proxies.central_proxy.iter().for_each(|place| add(place, By::CentralProxy));
        }
        if let Some(Answer { endpoints, .. }) = known
            && !endpoints.is_empty()
        {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % endpoints.len();
            endpoints[turn..].iter().chain(&endpoints[..turn]).for_each(|place| add(place, By::Endpoint));
        }
        paths.extend(authority.map(|place| Path { place: Arc::new(place), by: By::Endpoint }));
        paths.sort_by_cached_key(|path| self.back_off.holds(&path.place.address));
        paths
    }

    fn rules(&self, policy: Option<&Policy>, idempotent: bool, deadline: Option<u64>) -> Rules {
        let defaults = Timeouts::default();
        let own = policy.and_then(|policy| policy.request_timeout);
        let own = own.map(|timeout| clock::now().saturating_add(clock::nanos(timeout)));
        Rules {
            connect_timeout: policy.and_then(|policy| policy.connect_timeout).unwrap_or(defaults.connect),
            first_byte_timeout: policy.and_then(|policy| policy.first_byte_timeout).unwrap_or(defaults.first_byte),
            deadline: [deadline, own].into_iter().flatten().min(),
            idempotent,
            answer_bytes_max: self.answer_bytes_max,
        }
    }

    /// Whether the sidecar may still take calls over its Unix listeners: it refused a session, but not for want of room, which its
    /// listeners have no more of; or nobody listens on the session socket, but not because it has just died. One that hangs takes
    /// connections, too, and never answers. Of a call that was not tried at the sidecar: what was found last.
    fn listener_lives(&self, met: Option<&CallError>) -> bool {
        let Some(met) = met else { return self.listener_lives.load(Ordering::Relaxed) };
        let now = clock::now();
        let lives = match met {
            CallError::Connect(error @ ConnectError::Refused { .. }) => error.refused() != Some(RefusedCode::Limit),
            CallError::Connect(ConnectError::Version { .. }) => true,
            CallError::Connect(ConnectError::Socket { .. }) => {
                let lost_at = self.lost_at.load(Ordering::Relaxed);
                lost_at == 0 || now.saturating_sub(lost_at) >= clock::nanos(DEATH_SETTLES)
            }
            _ => false,
        };
        self.listener_lives.store(lives, Ordering::Relaxed);
        lives
    }
}

/// Whether it names a place where such calls can go. What is asked about streams of HTTP and Dubbo has no authority or service: they
/// need somebody who routes.
fn leads(subject: &Subject, answer: &Answer) -> bool {
    !answer.endpoints.is_empty() && !subject.of.is_empty() || answer.central_proxy.is_some()
}

impl Drop for Fallback {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.save_if_due(&self.directory, clock::now(), true);
        }
    }
}

/// Where an HTTP request goes of which nothing is known: to its authority, if that says it all (host and port, or an address).
fn authority_place(subject: &Subject) -> Option<Place> {
    let authority = std::str::from_utf8(&subject.of).ok().filter(|_| subject.protocol == Protocol::Http)?;
    let is_address = || authority.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let with_port = format!("tcp:{authority}").parse::<Address>();
    let address =
        with_port.or_else(|error| if is_address() { format!("tcp:{authority}:80").parse() } else { Err(error) });
    Some(Place { address: address.ok()?, of_app: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_says_it_all_is_a_place() {
        let place = |authority: &str| {
            let request = Request::http("GET", authority, "/");
            authority_place(&Errand::Call(&request).subject()).map(|place| place.address.to_string())
        };
        assert_eq!(place("Reviews:9080").as_deref(), Some("tcp:reviews:9080"));
        assert_eq!(place("10.0.0.1").as_deref(), Some("tcp:10.0.0.1:80"));
        assert_eq!(place("10.0.0.1:81").as_deref(), Some("tcp:10.0.0.1:81"));
        assert_eq!(place("[::1]").as_deref(), Some("tcp:[::1]:80"));
        assert_eq!(place("[::1]:82").as_deref(), Some("tcp:[::1]:82"));
        assert_eq!([place("reviews"), place("reviews:"), place("::1")], [None, None, None]);
    }
}
