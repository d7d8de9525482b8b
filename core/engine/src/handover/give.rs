//! What a worker at rest knows, as messages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use prost::Message;
use shmesh_io::{Chunk, Chunks, Driver};
use shmesh_proto::dubbo::HEADER_LEN;
use shmesh_proto::http1::{BodyReader, BodyRest};

use super::ahead::COPIED_FOR;
use super::messages::AheadLane;
use super::state::*;
use super::{Handover, Known};
use crate::call::{self, Call, Dubbo, Exchange, Failure, Peer};
use crate::conn::{self, Conn, Finish, OriginalDst};
use crate::dubbo_extension::Agreement;
use crate::frame::FrameReader;
use crate::lane::{First, Lane, Partial, Slot, SlotRef, User};
use crate::quota::{Held, Quota};
use crate::route_key::RouteKey;
use crate::slab::{Key, Slab};
use crate::worker::Worker;

impl<D: Driver> Worker<D> {
    /// What another process needs to go on with this worker, which rests. Connections that are being made and name look-ups that are under way stay
    /// behind: calls that wait for these are dispatched anew. Descriptors that the other one knows are not given again.
    pub(crate) fn give(&mut self, known: &Known) -> io::Result<Handover> {
        self.copied_until = self.driver.now() + COPIED_FOR;
        let mut handover = Handover { state: Vec::new(), descriptors: Vec::new() };
        let mut state = WorkerState {
            format: FORMAT,
            conn_generations: self.conns.generations(Conn::is_made),
            call_generations: self.calls.generations(|_| true),
            lane_generations: self.lanes.generations(|_| true),
            addresses: self.give_addresses(),
            ..WorkerState::default()
        };
        state.clusters = self.give_clusters();
        state.names = self.give_names();
        for (&session, attached) in &self.sessions {
            state.sessions.push(SessionState { session, seen: attached.watch.seen() });
        }
        for key in self.lanes.keys() {
            let Some(mut given) = self.give_lane(key) else {
                return Err(io::Error::other("a lane is not at rest"));
            };
            let Some(lane) = self.lanes.get(key) else { continue };
            given.ahead = known.lanes.contains(&AheadLane { session: given.session, lane: given.lane });
            if !given.ahead {
                handover.descriptors.push(lane.bell.as_fd().try_clone_to_owned()?);
            }
            state.lanes.push(given);
        }
        for key in self.conns.keys() {
            if known.drafts && self.conn_is_as_drafted(key) {
                continue;
            }
            let ahead = known.conns.contains(&key.to_bits());
            let Some((given, socket)) = self.give_conn(key, ahead) else { continue };
            if let Some(socket) = socket.filter(|_| !ahead) {
                handover.descriptors.push(socket.try_clone_to_owned()?);
            }
            state.conns.push(given);
        }
        for key in self.calls.keys() {
            if known.drafts && self.call_is_as_drafted(key) {
                continue;
            }
            state.calls.extend(self.give_call(key));
        }
        handover.state = state.encode_to_vec();
        Ok(handover)
    }

    pub(super) fn give_addresses(&self) -> Vec<String> {
        self.addresses.targets().map(ToString::to_string).collect()
    }

    /// A conn, and its socket. Nothing for one that is being made.
    pub(super) fn give_conn(&self, key: Key<Conn>, ahead: bool) -> Option<(ConnState, Option<BorrowedFd<'_>>)> {
        let conn = self.conns.get(key).filter(|conn| conn.is_made())?;
        let (pipe, unsent, socket) = match conn.pipe {
            conn::Pipe::Stream(at) => (Pipe::Stream(slot_at(at)), None, None),
            conn::Pipe::Socket(sock) => {
                let rest = self.driver.at_rest(sock)?;
                let arrived = rest.arrived.iter().map(|slice| slice.to_vec()).collect();
                let errno = |error: &io::Error| error.raw_os_error().unwrap_or(Errno::ECONNRESET as i32).unsigned_abs();
                let end = rest.end.map(|error| error.map_or(0, errno));
                (Pipe::Socket(SocketState { arrived, end, ahead }), rest.unsent, Some(rest.socket))
            }
        };
        let mut out = unsent.map_or_else(Vec::new, |chunks| pieces(chunks, &self.lanes));
        out.extend(pieces(&conn.out, &self.lanes));
        let receiving = conn.receiving || self.landings_stopped.contains(&key);
        Some((conn_state(key, conn, pipe, out, receiving, &self.conns), socket))
    }

    pub(super) fn give_call(&self, key: Key<Call>) -> Option<CallState> {
        let call = self.calls.get(key)?;
        let dest = call.dest.filter(|dest| self.goes_along(*dest));
        Some(call_state(key, call, dest, &self.lanes))
    }

    /// Whether a call's destination is handed over; one that is not is to be found again.
    pub(super) fn goes_along(&self, dest: Peer) -> bool {
        match dest {
            Peer::Conn(conn) => self.conns.get(conn).is_some_and(Conn::is_made),
            Peer::Slot(at) => self.lanes.get(at.lane).is_some(),
        }
    }

    fn give_lane(&mut self, key: Key<Lane>) -> Option<LaneState> {
        let lane = self.lanes.get_mut(key)?;
        let rest = lane.end.rest()?;
        let (lanes, lane) = (&self.lanes, self.lanes.get(key)?);
        // A block that was filled and found no room travels as bytes.
        let landed: Vec<u32> = lane.slots.iter().filter_map(|slot| Some(slot.landed.as_ref()?.0.block())).collect();
        let lent = rest.lent.into_iter().filter(|(offset, _)| !landed.contains(offset));
        let is_used = |slot: &Slot| slot.generation > 0;
        Some(LaneState {
            key: key.to_bits(),
            session: lane.session,
            lane: lane.number.into(),
            put: rest.put,
            consumed: rest.consumed,
            taken: rest.taken,
            released: rest.released,
            reclaimed: rest.reclaimed,
            lent: lent.flat_map(|(offset, bytes)| [offset, bytes]).collect(),
            slots: (0..)
                .zip(lane.slots.iter())
                .filter(|(_, slot)| is_used(slot))
                .map(|(index, slot)| give_slot(index, slot, lanes))
                .collect(),
            free: lane.free.clone(),
            waiting: lane.waiting.iter().map(|call| call.to_bits()).collect(),
            routes: (0..).zip(&lane.routes).filter_map(|(id, key)| Some(give_route(id, key.as_ref()?))).collect(),
            ahead: false,
        })
    }
}

fn conn_state(
    key: Key<Conn>,
    conn: &Conn,
    pipe: Pipe,
    out: Vec<Piece>,
    receiving: bool,
    conns: &Slab<Conn, true>,
) -> ConnState {
    ConnState {
        key: key.to_bits(),
        pipe: Some(pipe),
        role: Some(give_role(&conn.role, conns)),
        input: conn.input.to_vec(),
        out,
        flushes: conn.flushes,
        receiving,
        ended: conn.ended,
        finish: match conn.finish {
            Finish::Stay => 0,
            Finish::Shutdown => 1,
            Finish::Close => 2,
        },
        write_ended: conn.write_ended,
        active: conn.active,
        deadline: conn.deadline,
        original: match conn.original {
            OriginalDst::Unasked => None,
            OriginalDst::Here => Some("here".into()),
            OriginalDst::At(address) => Some(address.to_string()),
        },
        behind: conn.behind,
    }
}

fn give_role(role: &conn::Role, conns: &Slab<Conn, true>) -> Role {
    let bits = |call: Option<Key<Call>>| call.map(Key::to_bits);
    match role {
        conn::Role::HttpDown(down) => Role::HttpDown(HttpDownState {
            listener: down.listener.into(),
            address: down.address.map(|address| address.to_string()),
            call: bits(down.call),
            body: down.body.as_ref().map(give_body),
            keep_alive: down.keep_alive,
            old: down.old,
            head_started: down.head_started,
            served: down.served,
        }),
        conn::Role::HttpUp(up) => Role::HttpUp(HttpUpState {
            address: up.address.0,
            call: bits(up.call),
            body: up.body.as_ref().map(give_body),
            keep_alive: up.keep_alive,
            reused: up.reused,
            request_done: up.request_done,
            sent: up.sent,
            broken: up.broken,
            for_app: up.for_app,
            in_bulk: up.in_bulk,
            awaits_credit: up.awaits_credit,
        }),
        conn::Role::DubboDown(down) => {
            let (waiting, last_callback) = down.own.rest();
            Role::DubboDown(DubboDownState {
                listener: down.listener.into(),
                frames: give_frames(&down.frames),
                waiting: down.waiting,
                own: down
                    .own
                    .conns
                    .iter()
                    .filter(|conn| conns.get(**conn).is_some_and(Conn::is_made))
                    .map(|conn| conn.to_bits())
                    .collect(),
                callbacks: waiting
                    .map(|(id, provider, provider_id, until)| CallbackState {
                        id,
                        provider: provider.to_bits(),
                        provider_id,
                        until,
                    })
                    .collect(),
                last_callback,
                extended: down.extended,
            })
        }
        conn::Role::DubboUp(up) => {
            let mut turns = up.turns.clone();
            Role::DubboUp(DubboUpState {
                address: up.address.0,
                consumer: up.consumer.map(Key::to_bits),
                frames: give_frames(&up.frames),
                turns: std::iter::from_fn(|| turns.take_next()).map(Key::to_bits).collect(),
                waiting: up.waiting,
                readonly: up.readonly,
                agreement: match up.agreement {
                    Agreement::Unasked => 0,
                    Agreement::Offered => 1,
                    Agreement::Agreed => 2,
                },
                heard: up.heard,
                answered: up.answered,
            })
        }
        conn::Role::RawDown(down) => Role::RawDown(RawDownState { call: bits(down.call) }),
        conn::Role::RawUp(up) => Role::RawUp(RawUpState { address: up.address.0, call: bits(up.call) }),
        conn::Role::Lingering => Role::Lingering(Nothing {}),
    }
}

fn give_frames(frames: &FrameReader) -> Option<FramesState> {
    let (header, held) = frames.rest();
    let nothing = header.is_none() && held.is_empty();
    (!nothing).then(|| FramesState { header: header.map(|header| header.encode().to_vec()), held: held.to_vec() })
}

fn give_body(reader: &BodyReader) -> BodyState {
    let BodyRest { state, number, line_bytes, trailers } = reader.rest();
    BodyState {
        state,
        number,
        line_bytes: line_bytes.into(),
        trailer_lines: trailers.lines,
        line_start: trailers.line_start as u32,
        value_start: trailers.value_start as u32,
        trailer_bytes: trailers.received_bytes as u32,
        place: trailers.place,
    }
}

/// Bytes as they are; those of a block that an app has lent by name, if its lane is handed over too.
fn pieces(chunks: &Chunks, lanes: &Slab<Lane>) -> Vec<Piece> {
    let piece = |chunk: &Chunk| match chunk {
        Chunk::Private(slice) => Piece { bytes: slice.to_vec(), lent: None },
        Chunk::Shared(shared) => {
            let at = shared.in_block().and_then(|(lease, inside)| {
                lanes.keys().into_iter().find_map(|key| {
                    let (block, from) = lanes.get(key)?.end.whereabouts(lease)?;
                    let len = shared.len() as u32;
                    Some(LentState { lane: key.to_bits(), block, from: from + inside, len })
                })
            });
            let mut bytes = Vec::new();
            if at.is_none() {
                bytes.resize(shared.len(), 0);
                shared.read_into(&mut bytes);
            }
            Piece { bytes, lent: at }
        }
    };
    chunks.iter().map(piece).collect()
}

fn slot_at(at: SlotRef) -> SlotAt {
    SlotAt { lane: at.lane.to_bits(), slot: at.slot, generation: at.generation }
}

fn give_peer(peer: Peer) -> PeerState {
    match peer {
        Peer::Conn(key) => PeerState { conn: Some(key.to_bits()), slot: None },
        Peer::Slot(at) => PeerState { conn: None, slot: Some(slot_at(at)) },
    }
}

fn call_state(key: Key<Call>, call: &Call, dest: Option<Peer>, lanes: &Slab<Lane>) -> CallState {
    let (named_host, named_port) = match call.named_host.as_deref() {
        Some((host, port)) => (Some(host.to_string()), u32::from(*port)),
        None => (None, 0),
    };
    CallState {
        key: key.to_bits(),
        origin: Some(give_peer(call.origin)),
        dest: dest.map(give_peer),
        listener: call.listener.into(),
        cluster: call.cluster,
        named_host,
        named_port,
        attempts: call.attempts,
        connects: call.connects,
        started: call.started,
        deadline: call.deadline,
        hard_deadline: call.hard_deadline,
        on_socket: call.on_socket,
        fresh: call.fresh,
        forwarded: call.forwarded,
        answered: call.answered,
        kind: Some(match &call.kind {
            call::Kind::Exchange(exchange) => Kind::Exchange(give_exchange(exchange, lanes)),
            call::Kind::Dubbo(dubbo) => Kind::Dubbo(give_dubbo(dubbo, lanes)),
        }),
    }
}

fn give_exchange(exchange: &Exchange, lanes: &Slab<Lane>) -> ExchangeState {
    ExchangeState {
        http: exchange.http,
        tunnel: exchange.tunnel,
        connect: exchange.connect,
        head: exchange.head.to_vec(),
        upgrade: exchange.upgrade.as_deref().map(<[u8]>::to_vec),
        head_only: exchange.head_only,
        idempotent: exchange.idempotent,
        request_length: exchange.request_length,
        request_has_body: exchange.request_has_body,
        request_trailers: exchange.request_trailers.clone(),
        pending: pieces(&exchange.pending, lanes),
        replayable: exchange.replay.is_some(),
        replay: exchange.replay.as_ref().map_or_else(Vec::new, |replay| pieces(replay, lanes)),
        request_ended: exchange.request_ended,
        response_chunked: exchange.response_chunked,
        head_put_at: exchange.head_put_at,
        response_has_trailers: exchange.response_has_trailers,
        status: exchange.status.into(),
        request_id: exchange.request_id.as_deref().map(<[u8]>::to_vec),
        received: exchange.received,
        answer_left: exchange.answer_left,
    }
}

fn give_dubbo(dubbo: &Dubbo, lanes: &Slab<Lane>) -> DubboState {
    const { assert!(HEADER_LEN == 16) }
    DubboState {
        header: dubbo.header.encode().to_vec(),
        body: pieces(&dubbo.body, lanes),
        told: dubbo.told.to_vec(),
        idempotent: dubbo.idempotent,
        replayable: dubbo.replay.is_some(),
        replay: dubbo.replay.as_ref().map_or_else(Vec::new, |replay| pieces(replay, lanes)),
        held: dubbo.held.as_ref().map(Held::bytes),
    }
}

fn give_slot(index: u32, slot: &Slot, lanes: &Slab<Lane>) -> SlotState {
    let mut out = pieces(&slot.out, lanes);
    if let Some((block, len)) = slot.landed.as_deref() {
        let mut bytes = vec![0; *len as usize];
        let inside = block.read(0, &mut bytes);
        debug_assert!(inside, "no more landed than there was room for");
        out.push(Piece { bytes, lent: None });
    }
    let (user, user_key) = match slot.user {
        User::Free => (0, 0),
        User::Partial => (1, 0),
        User::Call(call) => (2, call.to_bits()),
        User::Stream(conn) => (3, conn.to_bits()),
        // Relayed calls were put into the table when the worker came to rest.
        User::Discard | User::Relay(_) => (4, 0),
    };
    SlotState {
        slot: index,
        generation: slot.generation,
        user,
        user_key,
        window: slot.window,
        ungranted: slot.ungranted,
        grant: slot.grant,
        received_end: slot.received_end,
        partial: slot.partial.as_deref().map(give_partial),
        first: slot.first.as_ref().map(give_first),
        out,
        end: slot.end,
        sent_end: slot.sent_end,
        reset: slot.reset.map_or(0, |(reset, _)| reset as u32),
        // What landed and found no room was taken off already, and is once more when it is put.
        credit: slot.credit + slot.landed.as_deref().map_or(0, |(_, len)| *len as _),
    }
}

fn give_partial(partial: &Partial) -> PartialState {
    PartialState {
        key: partial.terms.key.as_ref().map(|key| give_route(0, key)),
        route: partial.terms.route,
        one_way: partial.terms.one_way,
        hard_deadline: partial.terms.hard_deadline,
        held: partial.terms.held.as_ref().map(Held::bytes),
        frame: partial.frame.clone(),
        until: partial.until,
    }
}

fn give_first(first: &First) -> FirstState {
    FirstState {
        open: first.open,
        stream: first.stream,
        code: first.code.into(),
        head: first.head.to_vec(),
        total: first.total,
        one_way: first.one_way,
        deadline_us: first.deadline_us,
    }
}

fn give_route(id: u32, route: &RouteKey) -> RouteState {
    let flaw = match route.flaw {
        None => 0,
        Some(Failure::OverQuota(Quota::KeyBytes)) => 3,
        Some(Failure::OverQuota(_)) => 2,
        Some(_) => 1,
    };
    RouteState { id, protocol: route.protocol as u32, key: route.defined(), flaw, bytes: route.bytes }
}
