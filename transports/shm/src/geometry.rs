//! Sizes and offsets of a segment: docs/spec/shm-v1.md §2.

/// Bytes of the session page, and the unit that areas of a lane are rounded up to.
pub const PAGE: u32 = 4096;
/// Offset of the direct-mode word in the session page.
pub const DIRECT_MODE: usize = 0;
/// Offset of worker 0's `dirty` (in `to_proxy`) or `seen` (in `to_app`) word in the session page.
pub const WORKER_WORDS: usize = 64;
/// Bytes from one worker's word to the next.
pub const WORKER_WORD_STRIDE: usize = 64;

/// Offset of `published` in a lane's control page.
pub const PUBLISHED: usize = 0;
/// Offset of `consumed` in a lane's control page.
pub const CONSUMED: usize = 64;
/// Offset of `released` in a lane's control page.
pub const RELEASED: usize = 128;
/// Offset of `parked` in a lane's control page.
pub const PARKED: usize = 192;
/// Offset of `withdrawn` in a lane's control page.
pub const WITHDRAWN: usize = 256;
/// Offset of the sign of life in a lane's control page: `asked` in `to_proxy`, `told` in `to_app`.
pub const SIGN_OF_LIFE: usize = 320;
/// Offset of slot 0's word in a lane's control page.
pub const SLOT_WORDS: usize = 512;
/// Offset of the release ring in a lane.
pub const RELEASES_AT: usize = 4096;

/// Bytes of a record's header.
pub const HEADER_BYTES: u32 = 48;
/// Blocks lie at multiples of this.
pub const BLOCK_ALIGN: u32 = 64;

/// Most workers of a sidecar.
pub const MAX_WORKERS: u16 = 32;
/// Most lanes of a session on one worker (the bits of a `dirty` word).
pub const MAX_LANES_PER_WORKER: u16 = 64;
/// Most lanes of a session (with the workers' eventfds and the memfds they fit into one SCM_RIGHTS message of 253).
pub const MAX_LANES: u16 = 200;
/// Most slots of a lane (their words end with the control page).
pub const MAX_SLOTS: u32 = 256;
/// Longest routing key or head, in bytes.
pub const MAX_HEAD_BYTES: u32 = 65_536;
/// Most entries of a ring.
pub const MAX_ENTRIES: u32 = 65_536;
/// Largest ring entry, in bytes.
pub const MAX_STRIDE: u32 = 4096;
/// Largest arena of a lane, in bytes.
pub const MAX_ARENA_BYTES: u32 = 1 << 30;

/// The sizes of every lane of a session, told once in WELCOME and kept privately by both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Records that a ring holds; a power of two, at least `slots`.
    pub entries: u32,
    /// Bytes of a ring entry, header included; a multiple of 64.
    pub stride: u32,
    /// Calls that a lane carries at once; at most [`MAX_SLOTS`].
    pub slots: u32,
    /// Bytes of a lane's arena in each segment; a multiple of `block_max` and of [`PAGE`].
    pub arena_bytes: u32,
    /// Bytes of the smallest block; a power of two, at least 64.
    pub block_min: u32,
    /// Bytes of the largest block, which bounds a record's payload; a power of two.
    pub block_max: u32,
    /// Bytes that may be sent in a slot before the first CREDIT; at least `block_max`.
    pub window: u32,
}

impl Default for Geometry {
    fn default() -> Self {
        Geometry {
            entries: 128,
            stride: 512,
            slots: 64,
            arena_bytes: 4 << 20,
            block_min: 1 << 10,
            block_max: 256 << 10,
            window: 256 << 10,
        }
    }
}

/// Why a geometry cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    #[error("entries is {0}: it must be a power of two, at most 65536, and not below slots")]
    Entries(u32),
    #[error("stride is {0}: it must be a multiple of 64 from 64 to 4096")]
    Stride(u32),
    #[error("slots is {0}: it must be from 1 to 256")]
    Slots(u32),
    #[error("arena is {0} bytes: it must be a multiple of block_max and of 4096, from one block_max to 1 GiB")]
    Arena(u32),
    #[error("block_min is {0}: it must be a power of two from 64 to block_max")]
    BlockMin(u32),
    #[error("block_max is {0}: it must be a power of two")]
    BlockMax(u32),
    #[error("window is {0}: it must not be below block_max, or a call of one record would need credit")]
    Window(u32),
    #[error("{0} lanes: a session has from 1 to 200")]
    Lanes(u16),
}

impl Geometry {
    /// Checks every rule of the page; whatever passes can be laid out without overflow.
    pub fn validate(&self) -> Result<(), GeometryError> {
        let Geometry { entries, stride, slots, arena_bytes, block_min, block_max, window } = *self;
        if slots == 0 || slots > MAX_SLOTS {
            return Err(GeometryError::Slots(slots));
        }
        if !entries.is_power_of_two() || entries > MAX_ENTRIES || entries < slots {
            return Err(GeometryError::Entries(entries));
        }
        if !stride.is_multiple_of(64) || !(64..=MAX_STRIDE).contains(&stride) {
            return Err(GeometryError::Stride(stride));
        }
        if !block_max.is_power_of_two() {
            return Err(GeometryError::BlockMax(block_max));
        }
        if !block_min.is_power_of_two() || block_min < BLOCK_ALIGN || block_min > block_max {
            return Err(GeometryError::BlockMin(block_min));
        }
        let whole = arena_bytes.is_multiple_of(block_max) && arena_bytes.is_multiple_of(PAGE);
        if !whole || arena_bytes == 0 || arena_bytes > MAX_ARENA_BYTES {
            return Err(GeometryError::Arena(arena_bytes));
        }
        if window < block_max {
            return Err(GeometryError::Window(window));
        }
        Ok(())
    }

    /// Entries of a release ring: one for every block that can exist, rounded up to a power of two.
    pub fn release_entries(&self) -> u32 {
        (self.arena_bytes / self.block_min).next_power_of_two()
    }

    /// Payload bytes that fit into a record itself.
    pub fn inline_max(&self) -> u32 {
        self.stride - HEADER_BYTES
    }

    /// Offset of the ring in a lane.
    pub fn ring_at(&self) -> usize {
        RELEASES_AT + round_up(4 * self.release_entries() as usize)
    }

    /// Offset of the arena in a lane.
    pub fn arena_at(&self) -> usize {
        self.ring_at() + round_up(self.entries as usize * self.stride as usize)
    }

    /// Bytes of a lane in one segment.
    pub fn lane_bytes(&self) -> usize {
        self.arena_at() + self.arena_bytes as usize
    }

    /// Offset of a lane in its segment.
    pub fn lane_at(&self, lane: u16) -> usize {
        PAGE as usize + usize::from(lane) * self.lane_bytes()
    }

    /// Bytes of one segment of a session with so many lanes.
    pub fn segment_bytes(&self, lanes: u16) -> usize {
        self.lane_at(lanes)
    }
}

/// Offset of worker `worker`'s word in the session page. `worker` < [`MAX_WORKERS`].
pub fn worker_word(worker: u16) -> usize {
    WORKER_WORDS + WORKER_WORD_STRIDE * usize::from(worker)
}

fn round_up(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE as usize)
}

const _: () = {
    assert!(SLOT_WORDS + 8 * MAX_SLOTS as usize <= PAGE as usize);
    assert!(WORKER_WORDS + WORKER_WORD_STRIDE * MAX_WORKERS as usize <= PAGE as usize);
    assert!(2 + MAX_WORKERS + MAX_LANES <= 253);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lay_out_as_the_page_computes() {
        let g = Geometry::default();
        g.validate().unwrap();
        assert_eq!(g.release_entries(), 4096);
        assert_eq!(g.ring_at(), 4096 + 16_384);
        assert_eq!(g.arena_at(), 4096 + 16_384 + 65_536);
        assert_eq!(g.lane_bytes(), 4096 + 16_384 + 65_536 + 4_194_304);
        assert_eq!(g.segment_bytes(2), 4096 + 2 * g.lane_bytes());
        assert_eq!(g.inline_max(), 464);
    }

    #[test]
    fn each_rule_refuses() {
        let good = Geometry::default();
        let cases = [
            (Geometry { slots: 0, ..good }, GeometryError::Slots(0)),
            (Geometry { slots: 257, entries: 512, ..good }, GeometryError::Slots(257)),
            (Geometry { entries: 100, ..good }, GeometryError::Entries(100)),
            (Geometry { entries: 32, ..good }, GeometryError::Entries(32)),
            (Geometry { entries: 1 << 17, ..good }, GeometryError::Entries(1 << 17)),
            (Geometry { stride: 48, ..good }, GeometryError::Stride(48)),
            (Geometry { stride: 8192, ..good }, GeometryError::Stride(8192)),
            (Geometry { block_max: 3000, ..good }, GeometryError::BlockMax(3000)),
            (Geometry { block_min: 32, ..good }, GeometryError::BlockMin(32)),
            (Geometry { block_min: 512 << 10, ..good }, GeometryError::BlockMin(512 << 10)),
            (Geometry { arena_bytes: (4 << 20) + 4096, ..good }, GeometryError::Arena((4 << 20) + 4096)),
            (Geometry { arena_bytes: 0, ..good }, GeometryError::Arena(0)),
            (Geometry { arena_bytes: 2 << 30, ..good }, GeometryError::Arena(2 << 30)),
            (Geometry { window: 1000, ..good }, GeometryError::Window(1000)),
        ];
        for (geometry, error) in cases {
            assert_eq!(geometry.validate(), Err(error));
        }
    }
}
