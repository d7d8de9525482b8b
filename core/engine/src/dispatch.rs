//! From a call to its destination: which endpoint, which connection, and the moment after which it may have run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shmesh_io::{Driver, Nanos, PeerCheck, Target};
use shmesh_policy::Turns;
use shmesh_shm::{CallState, LaneEnd};

use crate::call::{Call, Failure, Kind, Peer};
use crate::conn::{Conn, DubboUp, HttpUp, OriginalDst, Pipe, RawUp, Role};
use crate::dubbo_extension::Agreement;
use crate::frame::FrameReader;
use crate::host::{HostState, Use};
use crate::lane::{Lane, SlotRef};
use crate::resolve::{Answer, HostName, NAMES_MAX, Question};
use crate::slab::{Key, Slab};
use crate::upstream::{AddressId, EndpointState};
use crate::worker::Worker;

/// Connections that are made for one call, over all its endpoints and attempts.
const CONNECTS_MAX: u32 = 16;

/// Of these, to one host name: all its addresses lead to the same host.
const NAMED_CONNECTS_MAX: u32 = 3;

/// Dubbo connections of one worker to one address, or of one consumer that has its own.
const DUBBO_CONNECTIONS_MAX: usize = 8;

/// Names that are looked at for one that can be forgotten, when there are too many.
const FORGETTABLE_LOOKED_AT: usize = 16;

/// What a host name gives at once.
enum Found {
    /// An address, out of so many.
    At(AddressId, usize),
    Wait,
    Nothing,
    /// Too many names are being looked up.
    Full,
}

impl<D: Driver> Worker<D> {
    /// Sends a new call on its way, or answers in its place.
    pub(crate) fn begin_call(&mut self, key: Key<Call>, failure: Option<Failure>) {
        match failure {
            Some(failure) => self.fail(key, failure),
            None if self.shared.load.is_short_of_memory() => {
                self.shared.registry.exhausted("memory");
                self.fail(key, Failure::NoMemory);
            }
            None => self.dispatch(key),
        }
    }

    /// Chooses an endpoint and gets a way to it; the call is `ready` now, or when the way is there.
    pub(crate) fn dispatch(&mut self, key: Key<Call>) {
        loop {
            let Some(call) = self.calls.get_mut(key) else { return };
            if call.named_host.is_some() {
                self.dispatch_named(key);
                return;
            }
            let Some(cluster) = self.clusters.get_mut(call.cluster as usize) else {
                self.fail(key, Failure::NoRoute);
                return;
            };
            let once_more = call.host_again.take();
            if once_more.is_none() {
                (call.host_connects, call.host_skips) = (0, 0);
            }
            let mut index = once_more.map(|index| index as usize).or_else(|| call.tries.next());
            if index.is_none() {
                index = call.skipped.pop().map(|index| index as usize);
                call.last_resort = true;
            }
            let tried = call.host_connects;
            let Some((index, endpoint)) = index.and_then(|index| Some((index, cluster.endpoints.get_mut(index)?)))
            else {
                let failure = call.last_failure;
                self.fail(key, failure);
                return;
            };
            match endpoint {
                EndpointState::Socket(address) => {
                    let address = *address;
                    if !call.last_resort && cluster.is_out(&self.addresses.get(address).target) {
                        if call.connects == 0 {
                            // Else the one behind it would get its calls, too.
                            cluster.turn.pick(cluster.endpoints.len());
                        }
                        call.skipped.push(index as u32);
                        continue;
                    }
                    self.connect_call(key, address);
                    return;
                }
                EndpointState::Original => {
                    self.connect_original(key);
                    return;
                }
                EndpointState::Shm { name, lane } => {
                    if lane.is_none_or(|lane| self.lanes.get(lane).is_none()) {
                        *lane = self.serving.get(name).copied();
                    }
                    if let Some(lane) = *lane
                        && self.open_serving(key, lane)
                    {
                        return;
                    }
                }
                EndpointState::Host { host, port } => {
                    let (host, port) = (host.clone(), *port);
                    let found = self.find_host(key, HostName { host, port, of_request: false }, tried);
                    let Some(call) = self.calls.get_mut(key) else { return };
                    match found {
                        Found::At(address, of) => {
                            let target = &self.addresses.get(address).target;
                            let state = self.clusters.get(call.cluster as usize);
                            let skip = !call.last_resort && state.is_some_and(|cluster| cluster.is_out(target));
                            call.host_connects += 1;
                            call.host_skips += u32::from(skip);
                            let more = call.host_connects < (NAMED_CONNECTS_MAX + call.host_skips).min(of as u32);
                            call.host_again = more.then_some(index as u32);
                            if skip {
                                if !more && call.host_connects == call.host_skips {
                                    call.skipped.push(index as u32);
                                }
                                continue;
                            }
                            self.connect_call(key, address);
                            return;
                        }
                        Found::Wait => {
                            call.host_again = Some(index as u32);
                            return;
                        }
                        Found::Nothing => call.last_failure = Failure::Unresolved,
                        Found::Full => call.last_failure = Failure::Overloaded,
                    }
                }
            }
        }
    }

    /// Once more, on a connection that nobody used before.
    pub(crate) fn dispatch_again(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.fresh = true;
        call.host_again = None;
        call.skipped.clear();
        call.last_resort = false;
        if let Some(cluster) = self.clusters.get_mut(call.cluster as usize) {
            call.tries = cluster.turn.tries(cluster.endpoints.len());
        }
        self.dispatch(key);
    }

    /// A dynamic forward proxy: the request says where.
    fn dispatch_named(&mut self, key: Key<Call>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some((host, port)) = call.named_host.as_deref().cloned() else { return };
        if call.connects >= NAMED_CONNECTS_MAX {
            let failure = call.last_failure;
            self.fail(key, failure);
            return;
        }
        let tried = call.connects;
        match self.find_host(key, HostName { host, port, of_request: true }, tried) {
            Found::At(address, _) if self.is_own(address) => self.fail(key, Failure::Loop),
            Found::At(address, _) => self.connect_call(key, address),
            Found::Wait => {}
            Found::Nothing => self.fail(key, Failure::Unresolved),
            Found::Full => self.fail(key, Failure::Overloaded),
        }
    }

    /// A connection that was redirected here goes on to where it was going.
    fn connect_original(&mut self, key: Key<Call>) {
        let Some(address) = self.original_dst(key) else {
            self.fail(key, Failure::NotRedirected);
            return;
        };
        match self.found_address(address) {
            None => self.fail(key, Failure::Overloaded),
            Some(address) if self.is_own(address) => self.fail(key, Failure::Loop),
            Some(address) => self.connect_call(key, address),
        }
    }

    fn original_dst(&mut self, key: Key<Call>) -> Option<SocketAddr> {
        let Peer::Conn(origin) = self.calls.get(key)?.origin else { return None };
        let conn = self.conns.get_mut(origin)?;
        if conn.original == OriginalDst::Unasked {
            let found = match conn.pipe {
                Pipe::Socket(sock) => self.driver.original_dst(sock),
                Pipe::Stream(_) => None,
            };
            conn.original = found.map_or(OriginalDst::Here, OriginalDst::At);
        }
        match conn.original {
            OriginalDst::At(address) => Some(address),
            OriginalDst::Here | OriginalDst::Unasked => None,
        }
    }

    /// Whether an address is one of this sidecar's own: a request to a listener would come back for ever, and the admin interface is for
    /// whoever reaches it without us.
    fn is_own(&mut self, address: AddressId) -> bool {
        let Target::Tcp(target) = self.addresses.get(address).target else { return false };
        let own = |bound: SocketAddr| bound.port() == target.port() && leads_to(target.ip(), bound.ip());
        own(self.snapshot.admin.address)
            || self.snapshot.listeners.iter().any(|listener| match listener.bind {
                shmesh_policy::Bind::Tcp(bound) => own(bound),
                _ => false,
            })
    }

    /// An address of a host for a call that has tried `tried` of them.
    fn find_host(&mut self, key: Key<Call>, mut name: HostName, tried: u32) -> Found {
        if let Ok(ip) = name.host.trim_start_matches('[').trim_end_matches(']').parse() {
            let address = self.found_address(SocketAddr::new(ip, name.port));
            return address.map_or(Found::Full, |address| Found::At(address, 1));
        }
        let now = self.driver.now();
        // Names have no case (RFC 4343).
        name.host.make_ascii_lowercase();
        if !self.hosts.contains_key(&name) {
            if name.of_request && self.named_hosts >= NAMES_MAX && !self.forget_a_host(now) {
                return Found::Full;
            }
            self.named_hosts += usize::from(name.of_request);
            self.hosts.insert(name.clone(), HostState::default());
        }
        let Some(state) = self.hosts.get_mut(&name) else { return Found::Nothing };
        if state.begin_asking(now) {
            let servers = self.snapshot.dns.servers.clone();
            let HostName { host, port, of_request } = name;
            self.resolver.ask(Question { host, servers, of_request, port, reply_to: self.mail.clone() });
        }
        let Some(call) = self.calls.get_mut(key) else { return Found::Nothing };
        match state.pick(now, tried, &mut call.host_order) {
            Use::At(address, of) => match self.found_address(address) {
                Some(address) => Found::At(address, of),
                None => Found::Full,
            },
            Use::Wait => {
                state.wait(key);
                Found::Wait
            }
            Use::Nothing => Found::Nothing,
        }
    }

    /// The worker's id for an address that no configuration names, if there is room for one.
    fn found_address(&mut self, address: SocketAddr) -> Option<AddressId> {
        self.addresses.intern_found(Target::Tcp(address), &self.shared.registry)
    }

    /// Makes room for another name; false if there is none.
    fn forget_a_host(&mut self, now: Nanos) -> bool {
        let named = self.hosts.iter().filter(|(name, state)| name.of_request && state.is_quiet());
        let mut quiet = named.take(FORGETTABLE_LOOKED_AT);
        let Some(mut victim) = quiet.next() else { return false };
        if !victim.1.is_old(now) {
            victim = quiet.find(|(_, state)| state.is_old(now)).unwrap_or(victim);
        }
        let name = victim.0.clone();
        self.named_hosts -= 1;
        self.hosts.remove(&name).is_some()
    }

    /// A host name was looked up, or that takes long.
    pub(crate) fn resolved(&mut self, answer: Answer) {
        let now = self.driver.now();
        let Answer { host, outcome } = answer;
        let Some(state) = self.hosts.get_mut(&host) else { return };
        for call in state.resolved(outcome, host.port, now) {
            self.dispatch(call);
        }
    }

    /// Gives the call a connection to `address`.
    fn connect_call(&mut self, key: Key<Call>, address: AddressId) {
        self.note_socket(key);
        let Some(call) = self.calls.get(key) else { return };
        match &call.kind {
            Kind::Exchange(exchange) if exchange.http && !exchange.connect => {
                self.connect_http(key, address, call.fresh)
            }
            Kind::Exchange(_) => {
                let role = Role::RawUp(RawUp { address, call: Some(key), connected: false });
                self.connect(key, address, role);
            }
            Kind::Dubbo(_) => self.connect_dubbo(key, address),
        }
    }

    fn connect_http(&mut self, key: Key<Call>, address: AddressId, fresh: bool) {
        while !fresh && let Some(idle) = self.addresses.get(address).idle.pop() {
            let Some(Conn { role: Role::HttpUp(up), ended: false, .. }) = self.conns.get_mut(idle) else {
                continue;
            };
            up.call = Some(key);
            up.keep_alive = false;
            up.sent = false;
            if let Some(call) = self.calls.get_mut(key) {
                call.dest = Some(Peer::Conn(idle));
            }
            self.expect_answer(idle, key);
            self.make_ready(key);
            return;
        }
        let role = Role::HttpUp(HttpUp {
            address,
            call: Some(key),
            body: None,
            head_at: 0,
            keep_alive: false,
            reused: false,
            connected: false,
            request_done: false,
            sent: false,
            broken: false,
            for_app: false,
            in_bulk: false,
            awaits_credit: false,
            landing: None,
        });
        self.connect(key, address, role);
    }

    fn connect_dubbo(&mut self, key: Key<Call>, address: AddressId) {
        let calls_max = self.snapshot.limits.calls_per_connection as usize;
        let consumer = self.dubbo_consumer_of(key);
        let (mut index, mut there) = (0, 0);
        while let Some(conn_key) = self.dubbo_conn(consumer, address, index) {
            index += 1;
            let Some(Conn { role: Role::DubboUp(up), .. }) = self.conns.get_mut(conn_key) else { continue };
            if up.address != address {
                continue;
            }
            there += 1;
            if up.readonly || up.waiting as usize + up.queue.len() >= calls_max {
                continue;
            }
            let connected = up.connected;
            if !connected {
                up.queue.push(key);
            }
            if let Some(call) = self.calls.get_mut(key) {
                call.dest = Some(Peer::Conn(conn_key));
            }
            if connected {
                self.make_ready(key);
            }
            return;
        }
        if there >= DUBBO_CONNECTIONS_MAX {
            if let Some(call) = self.calls.get_mut(key) {
                call.last_failure = Failure::Overloaded;
            }
            self.dispatch(key);
            return;
        }
        let role = Role::DubboUp(DubboUp {
            address,
            consumer,
            frames: FrameReader::default(),
            connected: false,
            queue: vec![key],
            turns: Turns::default(),
            waiting: 0,
            readonly: false,
            agreement: Agreement::default(),
            answered: false,
            heard: self.driver.now(),
        });
        let Some(conn) = self.connect(key, address, role) else { return };
        match consumer.and_then(|consumer| self.conns.get_mut(consumer)) {
            Some(Conn { role: Role::DubboDown(down), .. }) => down.own.conns.push(conn),
            _ => self.addresses.get(address).dubbo.push(conn),
        }
    }

    /// One after the other, the Dubbo connections that could take a call: a consumer's own, or the shared ones to an address.
    fn dubbo_conn(&mut self, consumer: Option<Key<Conn>>, address: AddressId, index: usize) -> Option<Key<Conn>> {
        match consumer {
            Some(consumer) => match &self.conns.get(consumer)?.role {
                Role::DubboDown(down) => down.own.conns.get(index).copied(),
                _ => None,
            },
            None => self.addresses.get(address).dubbo.get(index).copied(),
        }
    }

    /// Starts to connect for a call.
    fn connect(&mut self, key: Key<Call>, address: AddressId, role: Role) -> Option<Key<Conn>> {
        let now = self.driver.now();
        let call = self.calls.get_mut(key)?;
        call.connects += 1;
        if call.connects > CONNECTS_MAX {
            let failure = call.last_failure;
            self.fail(key, failure);
            return None;
        }
        let target = self.addresses.get(address).target.clone();
        let sock = match self.driver.connect(&target, 0) {
            Ok(sock) => sock,
            Err(error) => {
                // That no descriptor is left is no fault of the endpoint.
                let exhausted = shmesh_io::is_exhaustion(&error);
                if !exhausted || self.shared.registry.exhausted_anew("connect") {
                    tracing::warn!(%target, %error, "cannot connect to an upstream");
                }
                self.fail(key, if exhausted { Failure::Exhausted } else { Failure::Overloaded });
                return None;
            }
        };
        self.addresses.get(address).conns += 1;
        let conn = self.new_conn(Conn::new(Pipe::Socket(sock), role, now));
        let cluster = self.calls.get_mut(key).map(|call| {
            call.dest = Some(Peer::Conn(conn));
            call.cluster
        });
        let own = cluster.and_then(|index| self.snapshot.clusters.get(index as usize));
        let within = own.map_or(self.snapshot.timeouts.connect, |own| own.connect_timeout).as_nanos() as Nanos;
        self.check_peer(conn, cluster);
        self.set_conn_deadline(conn, now + within);
        self.expect_answer(conn, key);
        Some(conn)
    }

    /// Has the kernel end a connection to an upstream whose peer has vanished.
    pub(crate) fn check_peer(&mut self, key: Key<Conn>, cluster: Option<u32>) {
        let own = cluster.and_then(|index| self.snapshot.clusters.get(index as usize));
        let bound = own.map_or(self.snapshot.timeouts.unacknowledged, |own| own.unacknowledged_timeout);
        if let Some(probe_after) = bound
            && let Some(&Conn { pipe: Pipe::Socket(sock), ref role, .. }) = self.conns.get(key)
        {
            // The ends of a tunnel may rest for as long as they like, also with bytes that they do not take.
            let unacknowledged = (!matches!(role, Role::RawUp(_))).then_some(probe_after);
            self.driver.check_peer(sock, PeerCheck { probe_after, unacknowledged });
        }
    }

    /// Opens a slot on the lane on which an app serves, or waits for one; false if it takes no more.
    fn open_serving(&mut self, key: Key<Call>, lane_key: Key<Lane>) -> bool {
        let waiting_max = self.snapshot.limits.calls_per_connection as usize;
        let Some(lane) = self.lanes.get_mut(lane_key) else { return false };
        if !lane.free.is_empty() {
            self.open_slot(key, lane_key);
            return true;
        }
        if lane.waiting.len() >= waiting_max {
            let calls = &self.calls;
            lane.waiting.retain(|&call| calls.get(call).is_some());
        }
        if lane.waiting.len() >= waiting_max {
            // One that was sent before may have run, whatever becomes of it now.
            if let Some(call) = self.calls.get_mut(key).filter(|call| call.attempts == 0) {
                call.last_failure = Failure::Full;
            }
            return false;
        }
        lane.waiting.push_back(key);
        true
    }

    /// Calls that waited for a slot of a serving lane take those that are free.
    pub(crate) fn open_waiting(&mut self, lane_key: Key<Lane>) {
        while let Some(lane) = self.lanes.get_mut(lane_key)
            && !lane.free.is_empty()
            && let Some(call) = lane.waiting.pop_front()
        {
            // One whose time was over is not there any more.
            if self.calls.get(call).is_some() {
                self.open_slot(call, lane_key);
            }
        }
    }

    fn open_slot(&mut self, key: Key<Call>, lane_key: Key<Lane>) {
        let Some(lane) = self.lanes.get_mut(lane_key) else { return };
        let Some(slot) = lane.free.pop() else { return };
        let window = u64::from(lane.end.geometry().window);
        let state = &mut lane.slots[slot as usize];
        let generation = state.generation + 1;
        state.begin(generation, window, crate::lane::User::Call(key));
        if let Some(call) = self.calls.get_mut(key) {
            call.dest = Some(Peer::Slot(SlotRef { lane: lane_key, slot, generation }));
        }
        self.make_ready(key);
    }

    /// The call's destination can take it: it is forwarded at the end of this turn.
    pub(crate) fn make_ready(&mut self, key: Key<Call>) {
        if let Some(call) = self.calls.get_mut(key)
            && !call.queued
        {
            call.queued = true;
            self.ready.push(key);
        }
    }

    /// Forwards what is ready, as one batch: *forwarded* is stored for each call, then one fence, then only what the apps
    /// have not withdrawn leaves (docs/spec/shm-v1.md §5).
    pub(crate) fn forward_ready(&mut self) {
        // Forwarding can make other calls ready (a failed one tries the next endpoint); they go in the same turn.
        while !self.ready.is_empty() {
            let mut batch = std::mem::take(&mut self.ready);
            let mut fence = false;
            for &key in &batch {
                let Some(call) = self.calls.get_mut(key) else { continue };
                call.queued = false;
                if !can_forward(&self.conns, &self.lanes, call.dest) {
                    continue;
                }
                call.forwarded = true;
                if let Peer::Slot(at) = call.origin
                    && let Some(lane) = self.lanes.get(at.lane)
                {
                    lane.end.set_state(at.slot, at.generation, CallState::Forwarded);
                    fence = true;
                }
            }
            if fence {
                // SeqCst: pairs with the app's fence between withdrawing and reading the state.
                LaneEnd::fence();
            }
            for key in batch.drain(..) {
                self.forward(key);
            }
            if self.ready.is_empty() {
                self.ready = batch;
                return;
            }
        }
    }

    fn forward(&mut self, key: Key<Call>) {
        let now = self.driver.now();
        if self.calls.get(key).is_none_or(|call| !call.forwarded) {
            return;
        }
        if self.is_withdrawn(key) {
            if let Some(call) = self.calls.get_mut(key) {
                call.forwarded = false;
            }
            self.counters.withdrawn.add(1);
            self.fail(key, Failure::Withdrawn);
            return;
        }
        let Some(call) = self.calls.get_mut(key) else { return };
        call.attempts += 1;
        let (cluster, is_dubbo) = (call.cluster, matches!(call.kind, Kind::Dubbo(_)));
        let tunnel = matches!(&call.kind, Kind::Exchange(exchange) if exchange.tunnel);
        // A Dubbo frame that waited for its turn in vain has its time already.
        let first = !is_dubbo || call.attempts == 1;
        if !tunnel && first && call.started != now {
            let within = self.first_byte_timeout(cluster);
            self.set_call_deadline(key, now + within);
        }
        if is_dubbo {
            self.forward_dubbo(key);
        } else {
            self.forward_exchange(key);
        }
    }

    /// Whether the app that made the call wants it stopped before it leaves.
    pub(crate) fn is_withdrawn(&self, key: Key<Call>) -> bool {
        let Some(Call { origin: Peer::Slot(at), .. }) = self.calls.get(key) else { return false };
        self.lanes.get(at.lane).is_some_and(|lane| lane.end.is_withdrawn(at.slot, at.generation))
    }
}

/// Whether the way to a call's destination is still there: it may have gone, or become another one, since the call was ready.
fn can_forward(conns: &Slab<Conn, true>, lanes: &Slab<Lane>, dest: Option<Peer>) -> bool {
    match dest {
        Some(Peer::Conn(key)) => conns.get(key).is_some_and(Conn::is_made),
        Some(Peer::Slot(at)) => lanes.get(at.lane).is_some(),
        None => false,
    }
}

/// Whether a connection to `target` arrives at a socket that is bound to `bound`, ports apart.
fn leads_to(target: IpAddr, bound: IpAddr) -> bool {
    // To connect to no address is to connect to oneself.
    let target = match target.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        target => target,
    };
    let bound = bound.to_canonical();
    target == bound || bound.is_unspecified() && is_local(target)
}

/// Whether it is an address of this machine, or of its network namespace.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback()
        || nix::ifaddrs::getifaddrs().is_ok_and(|mut interfaces| {
            interfaces.any(|interface| {
                let address = interface.address;
                address.is_some_and(|address| match ip {
                    IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|own| own.ip() == ip),
                    IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|own| own.ip() == ip),
                })
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_knows_oneself_by_every_name() {
        let leads = |target: &str, bound: &str| leads_to(target.parse().unwrap(), bound.parse().unwrap());
        for (target, bound) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("::ffff:0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("127.0.0.1", "0.0.0.0"),
            ("127.9.9.9", "0.0.0.0"),
            ("0.0.0.0", "0.0.0.0"),
            ("::1", "::"),
        ] {
            assert!(leads(target, bound), "{target} {bound}");
        }
        // Of documentation (RFC 5737): nobody has it.
        for (target, bound) in [("192.0.2.1", "127.0.0.1"), ("192.0.2.1", "0.0.0.0"), ("127.0.0.2", "127.0.0.1")] {
            assert!(!leads(target, bound), "{target} {bound}");
        }
    }

    #[test]
    fn addresses_of_interfaces_are_local() {
        for interface in nix::ifaddrs::getifaddrs().expect("interfaces") {
            if let Some(own) = interface.address.as_ref().and_then(|address| address.as_sockaddr_in()) {
                assert!(leads_to(own.ip().into(), Ipv4Addr::UNSPECIFIED.into()));
            }
        }
    }
}
