//! Both ends of one lane in one process.
#![allow(dead_code)]

use std::sync::Arc;

use shmesh_shm::{BlockLease, Geometry, Header, Kind, LaneEnd, Mapping, Side};

pub struct Pair {
    pub app: LaneEnd,
    pub sidecar: LaneEnd,
    pub to_proxy: Arc<Mapping>,
    pub to_app: Arc<Mapping>,
    pub geometry: Geometry,
}

/// A lane that is small enough for every limit to be met.
pub const SMALL: Geometry =
    Geometry { entries: 8, stride: 128, slots: 4, arena_bytes: 4096, block_min: 64, block_max: 1024, window: 1024 };

pub fn pair(geometry: Geometry) -> Pair {
    geometry.validate().unwrap();
    let len = geometry.segment_bytes(1);
    let to_proxy = Arc::new(Mapping::private(len).unwrap());
    let to_app = Arc::new(Mapping::private(len).unwrap());
    Pair {
        app: LaneEnd::new(Side::App, &to_proxy, &to_app, &geometry, 0),
        sidecar: LaneEnd::new(Side::Sidecar, &to_proxy, &to_app, &geometry, 0),
        to_proxy,
        to_app,
        geometry,
    }
}

/// This side of the lane as another process has it, with the leases that it kept.
pub fn go_on<'a>(
    end: &mut LaneEnd,
    to_proxy: &Arc<Mapping>,
    to_app: &Arc<Mapping>,
    leases: impl Iterator<Item = &'a mut BlockLease>,
) -> LaneEnd {
    let rest = end.rest().expect("everything was published");
    let mut next = LaneEnd::new(end.side(), to_proxy, to_app, end.geometry(), 0);
    next.go_on(&rest).expect("plausible");
    for lease in leases {
        let (block, from) = end.whereabouts(lease).expect("a lease of this lane");
        assert_eq!(next.whereabouts(lease), None);
        *lease = next.lease_again(block, from, lease.len() as u32).expect("within the arena");
    }
    next
}

pub fn data(generation: u64) -> Header {
    Header::new(Kind::Data, 1, generation)
}

/// The payload of the peeked record.
pub fn payload(lane: &LaneEnd, length: u32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    lane.read_payload(0, &mut bytes).unwrap();
    bytes
}

/// Bytes that differ from those of every other number.
pub fn pattern(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number.wrapping_mul(31).wrapping_add(i as u64 * 7) % 251) as u8).collect()
}
