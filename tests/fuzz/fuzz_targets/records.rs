//! One side of a lane beside a peer that writes any bytes: every step is a violation or harmless, and nothing outside is touched.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use shmesh_shm::geometry::{CONSUMED, PUBLISHED, RELEASED};
use shmesh_shm::{Geometry, Header, Kind, LaneEnd, Mapping, Side};

/// Small enough for every limit to be met.
const GEOMETRY: Geometry =
    Geometry { entries: 8, stride: 128, slots: 4, arena_bytes: 4096, block_min: 64, block_max: 1024, window: 1024 };

fuzz_target!(|input: &[u8]| {
    let len = GEOMETRY.segment_bytes(1);
    let to_proxy = Arc::new(Mapping::private(len).expect("memory"));
    let to_app = Arc::new(Mapping::private(len).expect("memory"));
    let mut lane = LaneEnd::new(Side::Sidecar, &to_proxy, &to_app, &GEOMETRY, 0);
    let (at, ring) = (GEOMETRY.lane_at(0), GEOMETRY.lane_at(0) + GEOMETRY.ring_at());
    let mut kept = Vec::new();
    let mut published = 0;
    for op in input.chunks(10) {
        let word = op.get(2..10).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
        let place = usize::from(op.get(1).copied().unwrap_or(0));
        match op[0] % 12 {
            // Any word of a header, then any word at all.
            0..=3 => to_proxy.store(ring + place % 8 * 128 + usize::from(op[0] >> 5) % 6 * 8, word),
            4 => {
                published += place as u64 % 4;
                to_proxy.store_release(at + PUBLISHED, published);
            }
            5 => to_proxy.store(at + [PUBLISHED, CONSUMED, RELEASED][place % 3], word),
            6 => to_proxy.store(at + 8 * (word as usize % 1_500), word),
            7 => kept.extend(lane.advance_keep()),
            8 => lane.advance(),
            9 => {
                let _ = lane.put(&Header::new(Kind::Data, 1, 1), &[&vec![7; place * 4]]);
                lane.publish();
            }
            10 => drop(kept.pop()),
            _ => {}
        }
        if let Ok(Some(header)) = lane.peek() {
            assert!(header.head_len <= header.length && header.length <= GEOMETRY.block_max);
            assert!(header.slot < GEOMETRY.slots);
            let mut payload = vec![0; header.length as usize];
            lane.read_payload(0, &mut payload).expect("what was validated is there");
        }
        lane.park(place % 2 == 0);
        assert!(lane.lent_bytes() <= u64::from(GEOMETRY.arena_bytes));
    }
});
