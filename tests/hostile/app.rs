//! An app by hand: the handshake, the mapped segments, and every word of its own half free to be written.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use shmesh_shm::geometry::{CONSUMED, HEADER_BYTES, PARKED, PUBLISHED, RELEASED, RELEASES_AT, worker_word};
use shmesh_shm::handshake::{self, Hello, LaneInfo, Message, RefusedCode, VERSION};
use shmesh_shm::{Geometry, Mapping};

use crate::entry::{BLOCK, Entry, LENGTH, NONE};

/// Longest that a sidecar may take for a step of the handshake.
const SILENCE: Duration = Duration::from_secs(30);

/// An attached process, with nothing that keeps it from breaking the page.
pub struct App {
    pub socket: UnixStream,
    pub geometry: Geometry,
    pub to_proxy: Arc<Mapping>,
    pub to_app: Arc<Mapping>,
    /// Both memfds, as they came.
    pub memfds: [OwnedFd; 2],
    pub worker_bells: Vec<OwnedFd>,
    pub lane_bells: Vec<OwnedFd>,
    pub lanes: Vec<RawLane>,
}

/// One lane's place and this side's counters.
pub struct RawLane {
    pub info: LaneInfo,
    pub at: usize,
    /// Records put, visible or not.
    pub put: u64,
    /// Records taken.
    pub taken: u64,
    /// Blocks given back.
    pub released: u64,
    next_block: u64,
}

/// A record of the sidecar's.
#[derive(Debug)]
pub struct Taken {
    pub entry: Entry,
    pub payload: Vec<u8>,
}

/// Why there is no session.
#[derive(Debug)]
#[expect(dead_code, reason = "read by whoever sees a test fail")]
pub enum NoSession {
    Refused(u16),
    Io(io::Error),
}

/// A HELLO of this version.
pub fn hello(calling_lanes: u16, serving: Option<&str>) -> Vec<u8> {
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        calling_lanes,
        serving: serving.is_some(),
        features: 0,
        name: serving.unwrap_or("by hand").to_owned(),
    };
    let mut bytes = Vec::new();
    Message::Hello(hello).encode(&mut bytes).expect("a message");
    bytes
}

impl App {
    /// Attaches with so many calling lanes, and a serving one a worker if there is a name.
    pub fn attach(path: &Path, calling_lanes: u16, serving: Option<&str>) -> Result<App, NoSession> {
        let socket = UnixStream::connect(path).map_err(NoSession::Io)?;
        socket.set_read_timeout(Some(SILENCE)).map_err(NoSession::Io)?;
        handshake::send(socket.as_fd(), &hello(calling_lanes, serving), &[]).map_err(NoSession::Io)?;
        Self::welcomed(socket)
    }

    /// As [`App::attach`], and again while the name is still taken by a session that is ending.
    pub fn attach_patiently(path: &Path, calling_lanes: u16, serving: Option<&str>) -> App {
        let late = std::time::Instant::now() + SILENCE;
        loop {
            match App::attach(path, calling_lanes, serving) {
                Ok(app) => return app,
                Err(NoSession::Refused(code))
                    if (code == RefusedCode::NameTaken as u16 || code == RefusedCode::Limit as u16)
                        && std::time::Instant::now() < late =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("the sidecar does not let an app attach: {error:?}"),
            }
        }
    }

    /// Waits for the WELCOME of a HELLO that was sent.
    pub fn welcomed(socket: UnixStream) -> Result<App, NoSession> {
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        let welcome = loop {
            match Message::decode(&bytes).expect("a message of the sidecar is in order") {
                Some((Message::Welcome(welcome), _)) => break welcome,
                Some((Message::Refused(refused), _)) => return Err(NoSession::Refused(refused.code)),
                Some((other, _)) => panic!("not welcome: {other:?}"),
                None => {}
            }
            let mut piece = [0; 4096];
            match handshake::receive(socket.as_fd(), &mut piece, &mut descriptors).map_err(NoSession::Io)? {
                0 => return Err(NoSession::Io(io::ErrorKind::UnexpectedEof.into())),
                len => bytes.extend_from_slice(&piece[..len]),
            }
        };
        assert_eq!(descriptors.len(), welcome.descriptors());
        let geometry = welcome.geometry;
        let len = geometry.segment_bytes(welcome.lanes.len() as u16);
        let lane_bells = descriptors.split_off(2 + usize::from(welcome.workers));
        let worker_bells = descriptors.split_off(2);
        let memfds: [OwnedFd; 2] = descriptors.try_into().expect("two segments");
        let lanes = welcome.lanes.iter().enumerate().map(|(index, &info)| RawLane {
            info,
            at: geometry.lane_at(index as u16),
            put: 0,
            taken: 0,
            released: 0,
            next_block: 0,
        });
        Ok(App {
            socket,
            geometry,
            to_proxy: Arc::new(Mapping::read_write(&memfds[0], len).map_err(NoSession::Io)?),
            to_app: Arc::new(Mapping::read_only(&memfds[1], len).map_err(NoSession::Io)?),
            memfds,
            worker_bells,
            lane_bells,
            lanes: lanes.collect(),
        })
    }

    /// Writes an entry as it is, and its payload where the entry says, as far as that is inside the segment; `published` stays.
    pub fn put(&mut self, lane: usize, entry: Entry, payload: &[u8]) {
        let at = self.entry_at(lane, self.lanes[lane].put);
        let room = self.to_proxy.len();
        let place = match entry.get(BLOCK) {
            NONE => at + HEADER_BYTES as usize,
            block => self.lanes[lane].at + self.geometry.arena_at() + block as usize,
        };
        if place.saturating_add(payload.len()) <= room {
            self.to_proxy.write_bytes(place, payload);
        }
        for (index, word) in entry.words.into_iter().enumerate() {
            self.to_proxy.store(at + 8 * index, word);
        }
        self.lanes[lane].put += 1;
    }

    /// The entry with its payload's length and place: inline if it fits, else some block.
    pub fn placed(&mut self, lane: usize, entry: Entry, len: usize) -> Entry {
        let geometry = self.geometry;
        let entry = entry.with(LENGTH, len as u64);
        if len <= geometry.inline_max() as usize {
            return entry;
        }
        // Round and round: who lends a block twice spoils his own payload, and nothing else.
        let lane = &mut self.lanes[lane];
        let block = lane.next_block;
        lane.next_block = (block + u64::from(geometry.block_max)) % u64::from(geometry.arena_bytes);
        entry.with(BLOCK, block)
    }

    /// Makes what was put visible.
    pub fn publish(&self, lane: usize) {
        self.to_proxy.store_release(self.lanes[lane].at + PUBLISHED, self.lanes[lane].put);
    }

    /// Marks the lane and rings its worker, parked or not.
    pub fn ring(&self, lane: usize) {
        let LaneInfo { worker, bit, .. } = self.lanes[lane].info;
        let at = worker_word(u16::from(worker));
        // SeqCst is not needed: it rings in any case.
        let seen = self.to_app.load_acquire(at) >> bit & 1;
        self.to_proxy.change_bits(at, 1 << bit, seen == 0);
        let bell = &self.worker_bells[usize::from(worker)];
        match nix::unistd::write(bell, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => panic!("a worker's bell: {error}"),
        }
    }

    /// Puts one record in order, as soon as the ring has room for it, and shows it.
    pub fn say(&mut self, lane: usize, entry: Entry, payload: &[u8]) {
        let late = std::time::Instant::now() + SILENCE;
        while self.lanes[lane].put.wrapping_sub(self.consumed(lane)) >= u64::from(self.geometry.entries) {
            assert!(std::time::Instant::now() < late, "the sidecar takes nothing");
            std::thread::yield_now();
        }
        let entry = self.placed(lane, entry, payload.len());
        self.put(lane, entry, payload);
        self.publish(lane);
        self.ring(lane);
    }

    /// Records that the sidecar has taken.
    pub fn consumed(&self, lane: usize) -> u64 {
        self.to_app.load_acquire(self.lanes[lane].at + CONSUMED)
    }

    /// Blocks that the sidecar has given back.
    pub fn given_back(&self, lane: usize) -> u64 {
        self.to_app.load_acquire(self.lanes[lane].at + RELEASED)
    }

    /// The sidecar's next record, its block not given back yet; `consumed` does not move.
    pub fn take(&mut self, lane: usize) -> Option<Taken> {
        let state = &self.lanes[lane];
        if self.to_app.load_acquire(state.at + PUBLISHED) == state.taken {
            return None;
        }
        let at = self.entry_at(lane, state.taken);
        let entry = Entry { words: std::array::from_fn(|index| self.to_app.load(at + 8 * index)) };
        let place = match entry.get(BLOCK) {
            NONE => at + HEADER_BYTES as usize,
            block => state.at + self.geometry.arena_at() + block as usize,
        };
        let mut payload = vec![0; entry.get(LENGTH) as usize];
        self.to_app.read_bytes(place, &mut payload);
        self.lanes[lane].taken += 1;
        Some(Taken { entry, payload })
    }

    /// Gives a record's block back.
    pub fn release(&mut self, lane: usize, entry: &Entry) {
        if entry.get(BLOCK) == NONE {
            return;
        }
        let mask = u64::from(self.geometry.release_entries()) - 1;
        let state = &mut self.lanes[lane];
        let place = state.at + RELEASES_AT + 4 * (state.released & mask) as usize;
        self.to_proxy.store_u32(place, entry.get(BLOCK) as u32);
        state.released += 1;
        self.to_proxy.store_release(state.at + RELEASED, state.released);
    }

    /// Shows what was taken.
    pub fn consume(&self, lane: usize) {
        self.to_proxy.store_release(self.lanes[lane].at + CONSUMED, self.lanes[lane].taken);
    }

    /// Takes, gives back and shows: what an app in order does.
    pub fn next(&mut self, lane: usize) -> Option<Taken> {
        let taken = self.take(lane)?;
        self.release(lane, &taken.entry);
        self.consume(lane);
        if self.is_room_wanted(lane) {
            self.ring(lane);
        }
        Some(taken)
    }

    /// The sidecar sleeps until there is room.
    pub fn is_room_wanted(&self, lane: usize) -> bool {
        // SeqCst: without it both could miss the other's store, and the sidecar would sleep for ever (shm-v1 §7).
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.to_app.load(self.lanes[lane].at + PARKED) & 2 != 0
    }

    /// Waits for a record.
    pub fn await_next(&mut self, lane: usize, patience: Duration) -> Option<Taken> {
        let late = std::time::Instant::now() + patience;
        loop {
            if let Some(taken) = self.next(lane) {
                return Some(taken);
            }
            if std::time::Instant::now() > late || self.is_over() {
                return self.next(lane);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The sidecar has closed the session socket.
    pub fn is_over(&self) -> bool {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.socket.as_raw_fd(), &mut byte, flags) {
            Ok(0) => true,
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => true,
        }
    }

    /// Whether the sidecar closes the session socket in time.
    pub fn ends_within(&self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).expect("a socket");
        let mut piece = [0; 1024];
        loop {
            match (&self.socket).read(&mut piece) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    pub fn entry_at(&self, lane: usize, record: u64) -> usize {
        let place = record & (u64::from(self.geometry.entries) - 1);
        self.lanes[lane].at + self.geometry.ring_at() + place as usize * self.geometry.stride as usize
    }
}
