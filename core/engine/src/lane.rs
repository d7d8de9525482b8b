//! The sidecar's side of a lane: its slots and routes. Plain data; `ingress` reads it, `egress` writes it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use shmesh_io::{Bell, Chunks, Nanos, Slice};
use shmesh_shm::{LaneEnd, OpenBlock, Reset};

use crate::call::Call;
use crate::conn::Conn;
use crate::known_head::KnownHead;
use crate::quota::{Held, LaneUse};
use crate::relay::{Link, Relay};
use crate::route_key::RouteKey;
use crate::session::NewLanes;
use crate::slab::Key;

/// One lane of a session.
pub struct Lane {
    pub end: LaneEnd,
    pub session: u64,
    /// Its number in the session.
    pub number: u16,
    /// Name of the app, for messages.
    pub app: Arc<str>,
    /// Index of the listener through which the session came.
    pub listener: u16,
    /// The sidecar opens calls here, under this name.
    pub serves: Option<Arc<str>>,
    pub bell: Bell,
    pub slots: Slots,
    /// Of each slot, what is kept of a call that it takes for another one (serving lanes).
    pub relays: Box<[Relay]>,
    /// Slots that the sidecar may open (serving lanes).
    pub free: Vec<u32>,
    /// Calls that wait for such a slot, longest first; at most `calls_per_connection`.
    pub waiting: VecDeque<Key<Call>>,
    pub routes: Vec<Option<RouteKey>>,
    /// Slots with something to send, in turn.
    pub queue: VecDeque<u32>,
    /// In the worker's list of lanes to flush.
    pub listed: bool,
    /// In the worker's list of lanes that are looked at each turn.
    pub hot: bool,
    /// In the worker's list of lanes whose blocks are lent.
    pub lends: bool,
    /// The newest head of an answer that came on this lane whole.
    pub known_head: Box<KnownHead>,
    /// Blocks of its arena into which is being received.
    pub landings: u32,
    /// What its calls count against.
    pub usage: LaneUse,
    /// Bytes of the keys that are defined.
    pub key_bytes: usize,
    /// Waits for the app to make room.
    pub blocked: bool,
    /// In the worker's list of such lanes.
    pub waits_for_room: bool,
    /// When it last had a record.
    pub active: Nanos,
    /// When it was last looked at, while stages are measured.
    pub looked: Nanos,
}

/// The slots of a lane: all that the sidecar may open (serving lanes), or those up to the last one that the app has used, most of whose lanes use few.
pub struct Slots(Vec<Slot>);

impl Slots {
    fn of(count: u32) -> Slots {
        Slots((0..count).map(|_| Slot::new()).collect())
    }

    /// One in which a call begins. Whether the lane has one of that number was checked.
    #[inline(always)]
    pub fn get_or_make(&mut self, index: u32) -> &mut Slot {
        let index = index as usize;
        if index < self.0.len() { &mut self.0[index] } else { self.make(index) }
    }

    #[cold]
    #[inline(never)]
    fn make(&mut self, index: usize) -> &mut Slot {
        self.0.resize_with(index + 1, Slot::new);
        &mut self.0[index]
    }
}

impl Deref for Slots {
    type Target = [Slot];

    #[inline(always)]
    fn deref(&self) -> &[Slot] {
        &self.0
    }
}

impl DerefMut for Slots {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Slot] {
        &mut self.0
    }
}

/// One place for a call or stream.
pub struct Slot {
    pub generation: u64,
    pub user: User,
    /// Bytes that the app may still send without new credit.
    pub window: u64,
    /// Bytes taken and not granted again yet.
    pub ungranted: u64,
    /// CREDIT to be sent.
    pub grant: u32,
    /// The app's direction has ended.
    pub received_end: bool,
    /// A Dubbo frame that comes in parts.
    pub partial: Option<Box<Partial>>,
    /// The record that begins our direction.
    pub first: Option<First>,
    /// Payload to be sent.
    pub out: Chunks,
    /// What arrived in a block follows `out`: so many bytes.
    pub landed: Option<Box<(OpenBlock, u32)>>,
    /// END follows these.
    pub end: bool,
    pub sent_end: bool,
    /// RESET goes instead of anything else.
    pub reset: Option<(Reset, &'static str)>,
    /// Bytes that we may send.
    pub credit: u64,
    /// In `Lane::queue`.
    pub queued: bool,
    /// What waited here when the lane's timer looked.
    pub leftover: Leftover,
}

/// The rest of an answer that is complete, while its app takes none of it.
#[derive(Copy, Clone, Default)]
pub struct Leftover {
    pub generation: u64,
    pub bytes: usize,
    /// When it is given up, unless it gets less.
    pub until: Nanos,
}

/// What occupies a slot.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum User {
    Free,
    /// A frame that is coming in.
    Partial,
    Call(Key<Call>),
    /// A call that is in no table: the other slot of it.
    Relay(Link),
    Stream(Key<Conn>),
    /// Its answer is complete, or it failed: what the app still sends is thrown away until END or RESET.
    Discard,
}

/// A Dubbo frame that comes in parts.
pub struct Partial {
    pub terms: Terms,
    pub frame: Vec<u8>,
    /// When it is given up, unless another part comes.
    pub until: Nanos,
}

/// What came with a Dubbo frame's first record.
pub struct Terms {
    /// The key, or its id.
    pub key: Option<RouteKey>,
    pub route: u32,
    pub one_way: bool,
    pub hard_deadline: Nanos,
    /// What the frame counts for the app, if it is long.
    pub held: Option<Held>,
}

/// The first record of our direction.
pub struct First {
    pub open: bool,
    pub stream: bool,
    pub code: u16,
    pub head: Slice,
    pub total: u64,
    pub one_way: bool,
    /// What is left of the caller's deadline, in microseconds; 0 = none.
    pub deadline_us: u32,
}

impl First {
    /// An answer begins.
    pub fn answer(code: u16, head: Slice, total: u64) -> First {
        First { open: false, stream: false, code, head, total, one_way: false, deadline_us: 0 }
    }
}

/// A call's place on a lane; stale once the slot serves another call.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct SlotRef {
    pub lane: Key<Lane>,
    pub slot: u32,
    pub generation: u64,
}

impl Slot {
    /// A slot that never served.
    pub fn new() -> Slot {
        Slot {
            generation: 0,
            user: User::Free,
            window: 0,
            ungranted: 0,
            grant: 0,
            received_end: false,
            partial: None,
            first: None,
            out: Chunks::new(),
            landed: None,
            end: false,
            sent_end: false,
            reset: None,
            credit: 0,
            queued: false,
            leftover: Leftover::default(),
        }
    }

    /// Begins another call or stream. Nothing is left of the one before.
    #[inline(always)]
    pub fn begin(&mut self, generation: u64, window: u64, user: User) {
        self.generation = generation;
        self.user = user;
        self.window = window;
        self.credit = window;
        self.ungranted = 0;
        self.received_end = false;
        self.end = false;
        self.sent_end = false;
    }

    /// Forgets what came in parts, and what was to be sent.
    pub fn clear(&mut self) {
        self.grant = 0;
        self.partial = None;
        self.first = None;
        self.landed = None;
        self.out.clear();
        self.end = false;
        self.reset = None;
    }

    /// Until when the rest of an answer may wait for its app; `later` if there is less of it than when this was asked last. Nothing
    /// if none waits.
    pub fn leftover_until(&mut self, later: Nanos) -> Option<Nanos> {
        let landed = self.landed.as_ref().map_or(0, |landed| landed.1 as usize);
        let bytes = self.out.len_bytes() + landed;
        if bytes == 0 {
            return None;
        }
        if self.leftover.generation != self.generation || self.leftover.bytes != bytes {
            self.leftover = Leftover { generation: self.generation, bytes, until: later };
        }
        Some(self.leftover.until)
    }

    /// Something is there to be sent, credit or not.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.reset.is_some()
            || self.grant > 0
            || self.first.is_some()
            || !self.out.is_empty()
            || self.landed.is_some()
            || (self.end && !self.sent_end)
    }
}

impl Lane {
    /// A lane on which nothing has happened.
    pub fn new(end: LaneEnd, of: &NewLanes, number: u16, serving: bool, bell: Bell, now: Nanos) -> Lane {
        let slots = end.geometry().slots;
        Lane {
            end,
            session: of.session,
            number,
            app: of.app.clone(),
            listener: of.listener,
            serves: serving.then(|| of.app.clone()),
            bell,
            slots: Slots::of(if serving { slots } else { 0 }),
            relays: if serving { vec![Relay::default(); slots as usize].into() } else { Default::default() },
            free: if serving { (0..slots).rev().collect() } else { Vec::new() },
            waiting: VecDeque::new(),
            routes: Vec::new(),
            queue: VecDeque::new(),
            listed: false,
            hot: false,
            lends: false,
            known_head: Box::default(),
            landings: 0,
            usage: LaneUse::new(of.usage.clone()),
            key_bytes: 0,
            blocked: false,
            waits_for_room: false,
            active: now,
            looked: 0,
        }
    }

    /// Puts the slot in the queue of those that have something to send.
    pub fn enqueue(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if !state.queued {
            state.queued = true;
            self.queue.push_back(slot);
        }
    }

    /// The slot, unless it serves another call by now.
    #[inline]
    pub fn slot_mut(&mut self, at: SlotRef) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(at.slot as usize)?;
        (slot.generation == at.generation && slot.user != User::Free).then_some(slot)
    }
}
