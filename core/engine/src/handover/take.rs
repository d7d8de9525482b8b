//! A worker that goes on with what another process gave.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use prost::Message;
use shmesh_io::{Chunk, Chunks, Driver, SharedSlice, Slice, SockId, Target};
use shmesh_policy::{Address, Turns};
use shmesh_proto::dubbo::FrameHeader;
use shmesh_proto::http1::{BodyReader, BodyRest, RequestHead, TrailerRest};
use shmesh_shm::{DirtyWatch, LaneRest, Protocol, Reset};

use super::ahead::COPIED_FOR;
use super::messages::AheadLane;
use super::state::*;
use super::{Handover, Ready};
use crate::call::{self, Call, Dubbo, Exchange, Failure, Peer};
use crate::conn::{self, Conn, DubboDown, DubboUp, Finish, HttpDown, HttpUp, OriginalDst, RawDown, RawUp, Sender};
use crate::dubbo_extension::Agreement;
use crate::dubbo_own::Own;
use crate::frame::FrameReader;
use crate::lane::{First, Lane, Partial, Slot, SlotRef, Terms, User};
use crate::quota::{Held, Quota};
use crate::route_key::RouteKey;
use crate::session::{Attached, NewLanes};
use crate::slab::Key;
use crate::token::Token;
use crate::upstream::AddressId;
use crate::worker::Worker;

/// What an app reads whose call was ended before, and who could not be told yet.
const ENDED_BEFORE: &str = "shmesh: the call was ended before the sidecar was replaced";

/// Why a worker cannot go on with what it was given. The process that gave it can.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the state has format {theirs}, and {FORMAT_MIN} to {FORMAT} are understood: upgrade by way of a version in between"
    )]
    Format { theirs: u32 },
    #[error("the state cannot be read: {0}")]
    Garbled(#[from] prost::DecodeError),
    #[error("the state contradicts itself: {0}")]
    Inconsistent(&'static str),
    #[error("a socket or doorbell that was handed over cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// The address of a socket.
pub(super) fn target(text: &str) -> Result<Target, Refusal> {
    match text.parse() {
        Ok(Address::Tcp(address)) => Ok(Target::Tcp(address)),
        Ok(Address::Unix(path)) => Ok(Target::Unix(path.to_path_buf())),
        _ => Err(Refusal::Inconsistent("an address that is none of a socket")),
    }
}

/// Blocks that apps have lent, of all lanes.
pub(super) type Leases = HashMap<(u64, u32), SharedSlice>;

impl<D: Driver> Worker<D> {
    /// Goes on with another process's worker: this one has its snapshot, listens, and has done nothing so far but to make itself ready. After
    /// an error it is to be dropped.
    pub(crate) fn take(&mut self, given: Handover, ready: Ready) -> Result<(), Refusal> {
        let state = WorkerState::decode(&*given.state)?;
        if !(FORMAT_MIN..=FORMAT).contains(&state.format) {
            return Err(Refusal::Format { theirs: state.format });
        }
        let (closed, _) = (self.conns.begin(&state.conn_generations), self.calls.begin(&state.call_generations));
        let _ = self.lanes.begin(&state.lane_generations);
        let addresses = self.take_addresses(&state.addresses)?;
        let mut descriptors = given.descriptors.into_iter();
        let Ready { sessions, lanes, mut socks } = ready;
        let rung = state.lanes.iter().filter(|lane| !lane.ahead).map(|lane| (lane.session, lane.lane));
        let bells = rung.zip(descriptors.by_ref()).collect();
        self.take_lanes(&state.lanes, &state.sessions, sessions, lanes, bells)?;

        let mut leases = Leases::new();
        let turns: Vec<(u64, Vec<u64>)> = state.conns.iter().filter_map(turns_of).collect();
        for conn in state.conns {
            let key = Key::from_bits(conn.key);
            if let Some(Conn { pipe: conn::Pipe::Socket(sock), .. }) = self.conns.take_back(key) {
                self.driver.stop_recv(sock);
                self.driver.receive_alone(sock, false);
                socks.insert(conn.key, sock);
            }
            self.take_conn(conn, &addresses, &mut socks, &mut descriptors, &mut leases)?;
            self.beginning.push(key);
        }
        // The other worker has closed these meanwhile.
        socks.into_values().for_each(|sock| self.driver.close(sock));
        for conn in closed {
            if let conn::Pipe::Socket(sock) = conn.pipe {
                self.driver.close(sock);
            }
        }
        self.count_conns();
        // Now that it is known which addresses are used: what is left out may take the place of one that is not.
        self.take_names(&state.names)?;
        self.take_clusters(&state.clusters)?;
        for call in state.calls {
            let _ = self.calls.take_back(Key::from_bits(call.key));
            self.take_call_state(call, &mut leases)?;
        }
        let on_socket = |key: &Key<Call>| self.calls.get(*key).is_some_and(|call| call.on_socket);
        self.socket_calls = self.calls.keys().iter().filter(|key| on_socket(key)).count() as u32;
        for lane in state.lanes {
            self.take_slots(lane, &mut leases)?;
        }
        self.copied_until = self.driver.now() + COPIED_FOR;
        self.conns.go_on();
        self.calls.go_on();
        self.lanes.go_on();
        for (conn, calls) in turns {
            self.take_turns(Key::from_bits(conn), &calls);
        }
        Ok(())
    }

    /// Which connections of which kind there are.
    fn count_conns(&mut self) {
        for key in self.conns.keys() {
            let Some(conn) = self.conns.get(key) else { continue };
            let address = match &conn.role {
                conn::Role::HttpDown(_) | conn::Role::DubboDown(_) | conn::Role::RawDown(_) => {
                    self.downstreams += 1;
                    continue;
                }
                conn::Role::HttpUp(up) => up.address,
                conn::Role::DubboUp(up) => up.address,
                conn::Role::RawUp(up) => up.address,
                conn::Role::Lingering => continue,
            };
            let at = self.addresses.get(address);
            at.conns += 1;
            at.counters.connections.add(1);
            match &conn.role {
                conn::Role::HttpUp(up) if up.call.is_none() => at.idle.push(key),
                conn::Role::DubboUp(up) if up.consumer.is_none() => at.dubbo.push(key),
                _ => {}
            }
        }
        // The one that was used last is used next.
        for at in self.addresses.states_mut() {
            at.idle.sort_by_cached_key(|key| self.conns.get(*key).map(|conn| conn.active));
        }
    }

    fn take_addresses(&mut self, texts: &[String]) -> Result<Vec<AddressId>, Refusal> {
        texts.iter().map(|text| self.take_address(text)).collect()
    }

    pub(super) fn take_address(&mut self, text: &str) -> Result<AddressId, Refusal> {
        Ok(self.addresses.intern_told(target(text)?, &self.shared.registry))
    }

    fn take_lanes(
        &mut self,
        states: &[LaneState],
        seen: &[SessionState],
        sessions: Vec<NewLanes>,
        mut ready: HashMap<AheadLane, Lane>,
        mut bells: HashMap<(u64, u32), OwnedFd>,
    ) -> Result<(), Refusal> {
        let mut states: HashMap<_, _> = states.iter().map(|lane| ((lane.session, lane.lane), lane)).collect();
        let seen: HashMap<u64, u64> = seen.iter().map(|session| (session.session, session.seen)).collect();
        for new in sessions {
            let seen = seen.get(&new.session).copied().unwrap_or(0);
            let watch = DirtyWatch::go_on(&new.to_proxy, &new.to_app, new.worker, seen);
            let bell = self.driver.watch(new.bell.try_clone()?, Token::Session(new.session).tag())?;
            let mut lanes = Vec::new();
            for lane in &new.lanes {
                let at = (new.session, u32::from(lane.lane));
                // A lane that was not handed over had ended.
                let Some(state) = states.remove(&at) else { continue };
                let made = match ready.remove(&AheadLane { session: at.0, lane: at.1 }).filter(|_| state.ahead) {
                    Some(made) => made,
                    None => {
                        let bell = bells.remove(&at).ok_or(Refusal::Inconsistent("a lane that nobody can ring"))?;
                        self.new_lane(&new, lane.lane, lane.serving, bell)
                    }
                };
                let key = Key::from_bits(state.key);
                let made = self.go_on_with_lane(made, state)?;
                if !self.lanes.put_back(key, made) {
                    return Err(Refusal::Inconsistent("two lanes with one key"));
                }
                if lane.serving {
                    self.serving.insert(new.app.clone(), key);
                }
                let bit = lane.bit as usize;
                if lanes.len() <= bit {
                    lanes.resize(bit + 1, None);
                }
                lanes[bit] = Some(key);
            }
            self.sessions.insert(new.session, Attached { watch, bell, lanes });
        }
        if states.is_empty() { Ok(()) } else { Err(Refusal::Inconsistent("a lane without a session")) }
    }

    fn go_on_with_lane(&mut self, mut lane: Lane, state: &LaneState) -> Result<Lane, Refusal> {
        let rest = LaneRest {
            put: state.put,
            consumed: state.consumed,
            taken: state.taken,
            released: state.released,
            reclaimed: state.reclaimed,
            lent: state.lent.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
        };
        let gone_on = lane.end.go_on(&rest);
        gone_on.map_err(|_| Refusal::Inconsistent("a lane whose ring or arena cannot be so"))?;
        let slots = lane.end.geometry().slots;
        if state.free.iter().any(|&slot| slot >= slots) {
            return Err(Refusal::Inconsistent("a slot that its lane does not have"));
        }
        lane.free = state.free.clone();
        lane.waiting = state.waiting.iter().map(|&call| Key::from_bits(call)).collect();
        for state in &state.routes {
            let route = self.make_route(state)?;
            if state.id >= shmesh_shm::ROUTE_IDS {
                return Err(Refusal::Inconsistent("a route id beyond the last"));
            }
            lane.key_bytes += route.bytes as usize;
            if !route.is_uncounted() {
                // It was within its quota when it was defined.
                let _ = lane.usage.session().take_route_id(&self.snapshot.session.quotas);
            }
            let index = state.id as usize;
            if lane.routes.len() <= index {
                lane.routes.resize_with(index + 1, || None);
            }
            lane.routes[index] = Some(route);
        }
        Ok(lane)
    }

    fn make_route(&self, state: &RouteState) -> Result<RouteKey, Refusal> {
        let protocol = u16::try_from(state.protocol).ok().and_then(Protocol::from_u16);
        let protocol = protocol.ok_or(Refusal::Inconsistent("a protocol that is not known"))?;
        let flaw = match state.flaw {
            0 => None,
            2 => Some(Failure::OverQuota(Quota::RouteIdsPerSession)),
            3 => Some(Failure::OverQuota(Quota::KeyBytes)),
            _ => Some(Failure::MalformedRequest),
        };
        let mut head = RequestHead::default();
        let mut read = || RouteKey::read(protocol, &state.key, &self.snapshot, &mut head, &mut Vec::new());
        let mut route = match flaw {
            Some(flaw) => RouteKey::unusable(protocol, flaw),
            None => read().unwrap_or_else(|flaw| RouteKey::unusable(protocol, flaw)),
        };
        route.bytes = state.bytes;
        Ok(route)
    }

    pub(super) fn take_conn(
        &mut self,
        state: ConnState,
        addresses: &[AddressId],
        ahead: &mut HashMap<u64, SockId>,
        sockets: &mut impl Iterator<Item = OwnedFd>,
        leases: &mut Leases,
    ) -> Result<(), Refusal> {
        let key: Key<Conn> = Key::from_bits(state.key);
        let pipe = match state.pipe {
            Some(Pipe::Stream(at)) => conn::Pipe::Stream(slot_ref(at)),
            Some(Pipe::Socket(socket)) => {
                const MISSING: Refusal = Refusal::Inconsistent("fewer descriptors than connections");
                let sock = if socket.ahead {
                    ahead.remove(&state.key).ok_or(MISSING)?
                } else {
                    let tag = Token::Conn(key.to_tag()).tag();
                    self.driver.adopt(sockets.next().ok_or(MISSING)?, tag)?
                };
                let arrived = socket.arrived.into_iter().map(Slice::from_vec).collect();
                let end = socket.end.map(|errno| (errno > 0).then(|| io::Error::from_raw_os_error(errno as i32)));
                self.driver.precede(sock, arrived, end);
                conn::Pipe::Socket(sock)
            }
            None => return Err(Refusal::Inconsistent("a connection without a carrier")),
        };
        let role = self.make_role(state.role.as_ref(), addresses)?;
        let out = self.chunks(state.out, leases)?;
        let conn = Conn {
            input: Slice::from_vec(state.input),
            flushes: state.flushes,
            receiving: state.receiving,
            ended: state.ended,
            finish: match state.finish {
                0 => Finish::Stay,
                1 => Finish::Shutdown,
                _ => Finish::Close,
            },
            // What is to leave before the end is not with the kernel any more.
            write_ended: state.write_ended && out.is_empty(),
            original: match state.original.as_deref() {
                None => OriginalDst::Unasked,
                Some(text) => text.parse().map_or(OriginalDst::Here, OriginalDst::At),
            },
            deadline: state.deadline,
            behind: state.behind,
            out,
            ..Conn::new(pipe, role, state.active)
        };
        if !self.conns.put_back(key, conn) {
            return Err(Refusal::Inconsistent("two connections with one key"));
        }
        Ok(())
    }

    fn make_role(&self, role: Option<&Role>, addresses: &[AddressId]) -> Result<conn::Role, Refusal> {
        let address = |index: u32| {
            addresses.get(index as usize).copied().ok_or(Refusal::Inconsistent("an address that was not told"))
        };
        let call = |bits: Option<u64>| bits.map(Key::from_bits);
        Ok(match role {
            Some(Role::HttpDown(down)) => conn::Role::HttpDown(HttpDown {
                listener: down.listener as u16,
                address: down.address.as_deref().and_then(|text| text.parse().ok()),
                call: call(down.call),
                body: down.body.as_ref().map(make_body).transpose()?,
                keep_alive: down.keep_alive,
                old: down.old,
                head_started: down.head_started,
                served: down.served,
            }),
            Some(Role::HttpUp(up)) => conn::Role::HttpUp(HttpUp {
                address: address(up.address)?,
                call: call(up.call),
                body: up.body.as_ref().map(make_body).transpose()?,
                // Not told; long ago is what says least.
                head_at: 0,
                keep_alive: up.keep_alive,
                reused: up.reused,
                connected: true,
                request_done: up.request_done,
                sent: up.sent,
                broken: up.broken,
                for_app: up.for_app,
                in_bulk: up.in_bulk,
                awaits_credit: up.awaits_credit,
                landing: None,
            }),
            Some(Role::DubboDown(down)) => {
                let callbacks = down.callbacks.iter().map(|callback| {
                    (callback.id, Key::from_bits(callback.provider), callback.provider_id, callback.until)
                });
                let own = down.own.iter().map(|&conn| Key::from_bits(conn)).collect();
                conn::Role::DubboDown(DubboDown {
                    listener: down.listener as u16,
                    frames: make_frames(down.frames.as_ref())?,
                    waiting: down.waiting,
                    own: Own::go_on(own, callbacks, down.last_callback),
                    extended: down.extended,
                })
            }
            Some(Role::DubboUp(up)) => conn::Role::DubboUp(DubboUp {
                address: address(up.address)?,
                consumer: up.consumer.map(Key::from_bits),
                frames: make_frames(up.frames.as_ref())?,
                connected: true,
                queue: Vec::new(),
                turns: Turns::default(),
                waiting: up.waiting,
                readonly: up.readonly,
                agreement: match up.agreement {
                    0 => Agreement::Unasked,
                    1 => Agreement::Offered,
                    _ => Agreement::Agreed,
                },
                heard: up.heard,
                answered: up.answered,
            }),
            Some(Role::RawDown(down)) => conn::Role::RawDown(RawDown { call: call(down.call) }),
            Some(Role::RawUp(up)) => {
                conn::Role::RawUp(RawUp { address: address(up.address)?, call: call(up.call), connected: true })
            }
            Some(Role::Lingering(_)) => conn::Role::Lingering,
            None => return Err(Refusal::Inconsistent("a connection that does nothing which is known here")),
        })
    }

    pub(super) fn take_call_state(&mut self, state: CallState, leases: &mut Leases) -> Result<(), Refusal> {
        let origin = state.origin.and_then(peer).ok_or(Refusal::Inconsistent("a call that nobody made"))?;
        let kind = match state.kind {
            Some(Kind::Exchange(exchange)) => call::Kind::Exchange(self.make_exchange(exchange, leases)?),
            Some(Kind::Dubbo(dubbo)) => call::Kind::Dubbo(Dubbo {
                header: frame_header(&dubbo.header)?,
                idempotent: dubbo.idempotent,
                replay: if dubbo.replayable { Some(self.chunks(dubbo.replay, leases)?) } else { None },
                body: self.chunks(dubbo.body, leases)?,
                turn: None,
                told: Slice::from_vec(dubbo.told),
                held: self.held(origin, dubbo.held),
            }),
            None => return Err(Refusal::Inconsistent("a call of a kind that is not known here")),
        };
        let host = state.named_host.as_deref().map(|host| Box::new((host.into(), state.named_port as u16)));
        let call = Call {
            dest: state.dest.and_then(peer),
            named_host: host,
            attempts: state.attempts,
            connects: state.connects,
            started: state.started,
            deadline: state.deadline,
            hard_deadline: state.hard_deadline,
            on_socket: state.on_socket,
            fresh: state.fresh,
            forwarded: state.forwarded,
            answered: state.answered,
            ..Call::new(origin, state.listener as u16, state.cluster, kind)
        };
        if !self.calls.put_back(Key::from_bits(state.key), call) {
            return Err(Refusal::Inconsistent("two calls with one key"));
        }
        Ok(())
    }

    fn make_exchange(&mut self, state: ExchangeState, leases: &mut Leases) -> Result<Exchange, Refusal> {
        Ok(Exchange {
            http: state.http,
            tunnel: state.tunnel,
            connect: state.connect,
            head: Slice::from_vec(state.head),
            upgrade: state.upgrade.as_deref().map(Into::into),
            head_only: state.head_only,
            idempotent: state.idempotent,
            request_length: state.request_length,
            request_has_body: state.request_has_body,
            request_trailers: state.request_trailers,
            pending: self.chunks(state.pending, leases)?,
            replay: if state.replayable { Some(self.chunks(state.replay, leases)?) } else { None },
            request_ended: state.request_ended,
            response_chunked: state.response_chunked,
            head_put_at: state.head_put_at,
            response_has_trailers: state.response_has_trailers,
            status: state.status as u16,
            request_id: state.request_id.as_deref().map(Into::into),
            received: state.received,
            answer_left: state.answer_left,
        })
    }

    fn take_slots(&mut self, state: LaneState, leases: &mut Leases) -> Result<(), Refusal> {
        let key = Key::from_bits(state.key);
        for slot in state.slots {
            let index = slot.slot;
            let made = self.make_slot(key, slot, leases)?;
            let quotas = &self.snapshot.session.quotas;
            let lane = self.lanes.get_mut(key).ok_or(Refusal::Inconsistent("slots of a lane that is not there"))?;
            // A calling lane's slots count until they are free; it was within its quota when it was taken.
            if lane.serves.is_none() && made.user != User::Free {
                let _ = lane.usage.begin_call(quotas);
            }
            let sends = made.has_output();
            if index >= lane.end.geometry().slots {
                return Err(Refusal::Inconsistent("a slot that its lane does not have"));
            }
            *lane.slots.get_or_make(index) = made;
            if sends {
                lane.enqueue(index);
            }
        }
        Ok(())
    }

    fn make_slot(&mut self, lane: Key<Lane>, state: SlotState, leases: &mut Leases) -> Result<Slot, Refusal> {
        let at = SlotRef { lane, slot: state.slot, generation: state.generation };
        let partial = match state.partial {
            Some(partial) => Some(Box::new(Partial {
                terms: Terms {
                    key: partial.key.as_ref().map(|key| self.make_route(key)).transpose()?,
                    route: partial.route,
                    one_way: partial.one_way,
                    hard_deadline: partial.hard_deadline,
                    held: self.held(Peer::Slot(at), partial.held),
                },
                frame: partial.frame,
                until: partial.until,
            })),
            None => None,
        };
        Ok(Slot {
            generation: state.generation,
            user: match state.user {
                0 => User::Free,
                1 => User::Partial,
                2 => User::Call(Key::from_bits(state.user_key)),
                3 => User::Stream(Key::from_bits(state.user_key)),
                _ => User::Discard,
            },
            window: state.window,
            ungranted: state.ungranted,
            grant: state.grant,
            received_end: state.received_end,
            partial,
            first: state.first.map(|first| First {
                open: first.open,
                stream: first.stream,
                code: first.code as u16,
                head: Slice::from_vec(first.head),
                total: first.total,
                one_way: first.one_way,
                deadline_us: first.deadline_us,
            }),
            out: self.chunks(state.out, leases)?,
            end: state.end,
            sent_end: state.sent_end,
            reset: Reset::from_u16(state.reset as u16).map(|reset| (reset, ENDED_BEFORE)),
            credit: state.credit,
            ..Slot::new()
        })
    }

    /// Calls that wait for their turn on a provider's connection do so again, in the same order.
    fn take_turns(&mut self, conn: Key<Conn>, calls: &[u64]) {
        for &bits in calls {
            let key = Key::from_bits(bits);
            let Some(call) = self.calls.get_mut(key) else { continue };
            let Some(Conn { role: conn::Role::DubboUp(up), .. }) = self.conns.get_mut(conn) else {
                return;
            };
            let sender = Sender::from(call.origin);
            if let call::Kind::Dubbo(dubbo) = &mut call.kind {
                let cost = crate::dubbo_up::CALL_BYTES + (dubbo.told.len() + dubbo.body.len_bytes()) as u64;
                dubbo.turn = Some(up.turns.push(sender, cost, key));
            }
        }
    }

    /// Counts again what is held for an app.
    fn held(&mut self, origin: Peer, bytes: Option<u64>) -> Option<Held> {
        let Peer::Slot(at) = origin else { return None };
        let quotas = &self.snapshot.session.quotas;
        let bytes_max = self.shared.sessions.quotas.bytes_max(quotas);
        let mut held = self.lanes.get(at.lane)?.usage.held();
        held.grow(bytes?, quotas, bytes_max).ok()?;
        Some(held)
    }

    fn chunks(&mut self, pieces: Vec<Piece>, leases: &mut Leases) -> Result<Chunks, Refusal> {
        let mut chunks = Chunks::new();
        for piece in pieces {
            match piece.lent {
                None => chunks.push(Slice::from_vec(piece.bytes)),
                Some(lent) => chunks.push(self.lent(lent, leases)?),
            }
        }
        Ok(chunks)
    }

    /// Bytes of a block that an app has lent; the block goes back when the last that lies in it has left.
    fn lent(&mut self, at: LentState, leases: &mut Leases) -> Result<Chunk, Refusal> {
        const BEYOND: Refusal = Refusal::Inconsistent("a block that its lane does not have");
        let key = Key::from_bits(at.lane);
        let lane = self.lanes.get_mut(key).ok_or(BEYOND)?;
        let whole = match leases.entry((at.lane, at.block)) {
            std::collections::hash_map::Entry::Occupied(known) => known.get().clone(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let geometry = lane.end.geometry();
                let most = geometry.block_max.min(geometry.arena_bytes.saturating_sub(at.block));
                let lease = lane.end.lease_again(at.block, 0, most).ok_or(BEYOND)?;
                if !std::mem::replace(&mut lane.lends, true) {
                    self.lending.push(key);
                }
                new.insert(SharedSlice::from(lease)).clone()
            }
        };
        if u64::from(at.from) + u64::from(at.len) > whole.len() as u64 {
            return Err(BEYOND);
        }
        let mut rest = whole;
        rest.advance(at.from as usize);
        Ok(Chunk::Shared(rest.split_to(at.len as usize)))
    }
}

/// The calls that wait for their turn on a connection to a provider, in their order.
fn turns_of(conn: &ConnState) -> Option<(u64, Vec<u64>)> {
    match &conn.role {
        Some(Role::DubboUp(up)) => Some((conn.key, up.turns.clone())),
        _ => None,
    }
}

fn slot_ref(at: SlotAt) -> SlotRef {
    SlotRef { lane: Key::from_bits(at.lane), slot: at.slot, generation: at.generation }
}

fn peer(state: PeerState) -> Option<Peer> {
    match (state.conn, state.slot) {
        (Some(conn), _) => Some(Peer::Conn(Key::from_bits(conn))),
        (None, Some(at)) => Some(Peer::Slot(slot_ref(at))),
        (None, None) => None,
    }
}

fn make_body(state: &BodyState) -> Result<BodyReader, Refusal> {
    let rest = BodyRest {
        state: state.state,
        number: state.number,
        line_bytes: state.line_bytes as u16,
        trailers: TrailerRest {
            lines: state.trailer_lines.clone(),
            line_start: state.line_start as usize,
            value_start: state.value_start as usize,
            received_bytes: state.trailer_bytes as usize,
            place: state.place,
        },
    };
    BodyReader::go_on(&rest).ok_or(Refusal::Inconsistent("a body in a state that is not known here"))
}

fn make_frames(state: Option<&FramesState>) -> Result<FrameReader, Refusal> {
    let Some(state) = state else { return Ok(FrameReader::default()) };
    let header = state.header.as_deref().map(frame_header).transpose()?;
    Ok(FrameReader::go_on(header, state.held.clone()))
}

fn frame_header(bytes: &[u8]) -> Result<FrameHeader, Refusal> {
    const NONE: Refusal = Refusal::Inconsistent("a Dubbo header that is none");
    let bytes = bytes.try_into().map_err(|_| NONE)?;
    FrameHeader::parse(bytes, u32::MAX).map_err(|_| NONE)
}
