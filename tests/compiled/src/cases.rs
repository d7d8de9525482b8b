//! Each probe over a lane of its own: which words it must have read, each once, and what it must have made of them.

use std::hint::black_box;
use std::sync::Arc;

use shmesh_io::SharedSlice;
use shmesh_shm::geometry::{
    CONSUMED, HEADER_BYTES, PARKED, PUBLISHED, RELEASED, RELEASES_AT, SLOT_WORDS, WITHDRAWN, worker_word,
};
use shmesh_shm::{
    CallState, Dirty, DirtyWatch, Flags, Geometry, Header, INLINE_KEY, Kind, LaneEnd, Mapping, Protocol, Side,
};

use crate::naive;
use crate::probes::{self, HEAD_BYTES, Seen};
use crate::trap::spring;

/// A word.
const WORD: usize = 8;

/// The most that one instruction of a copy may have read.
const WIDEST: usize = 64;

const GEOMETRY: Geometry =
    Geometry { entries: 8, stride: 512, slots: 4, arena_bytes: 8192, block_min: 64, block_max: 2048, window: 2048 };

/// Lengths of heads that travel in a record, and in a block.
const INLINE: usize = 300;
const IN_A_BLOCK: usize = 700;

/// What was seen, or what is wrong.
pub type Verdict = Result<String, String>;

/// A name, and what finds the verdict.
pub type Case = (&'static str, fn() -> Verdict);

struct Lane {
    to_proxy: Arc<Mapping>,
    to_app: Arc<Mapping>,
    app: LaneEnd,
    sidecar: LaneEnd,
}

fn lane() -> Lane {
    let len = GEOMETRY.segment_bytes(1);
    let segment = || Arc::new(Mapping::private(len).expect("memory"));
    let (to_proxy, to_app) = (segment(), segment());
    let end = |side| LaneEnd::new(side, &to_proxy, &to_app, &GEOMETRY, 0);
    Lane { app: end(Side::App), sidecar: end(Side::Sidecar), to_proxy, to_app }
}

/// Offset of a control word, or of what lies in the lane.
fn at(offset: usize) -> usize {
    GEOMETRY.lane_at(0) + offset
}

/// The words of the ring's first header.
fn header_words() -> Vec<usize> {
    (0..HEADER_BYTES as usize / WORD).map(|i| at(GEOMETRY.ring_at()) + WORD * i).collect()
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + 1) as u8).collect()
}

/// An OPEN with a key of `head` bytes and 16 bytes of body.
fn open(lane: &mut Lane, head: usize) {
    let header = Header {
        code: Protocol::Http as u16,
        flags: Flags::END,
        route: INLINE_KEY,
        head_len: head as u32,
        deadline_us: 1234,
        total: 16,
        ..Header::new(Kind::Open, 3, 77)
    };
    lane.app.put(&header, &[&payload(head), &payload(16)]).expect("room");
    lane.app.publish();
}

/// A lane with such a record whose header the sidecar has read: only the payload changes from now on.
fn with_open(head: usize) -> Result<Lane, String> {
    let mut lane = lane();
    open(&mut lane, head);
    probes::record(&mut lane.sidecar).map_err(|violation| violation.to_string())?;
    Ok(lane)
}

/// Exactly these words, each once.
fn once(reads: &[usize], expected: &[usize]) -> Verdict {
    let (mut got, mut wanted) = (reads.to_vec(), expected.to_vec());
    got.sort_unstable();
    wanted.sort_unstable();
    if got == wanted {
        Ok(format!("{} words, each read once", got.len()))
    } else {
        Err(format!("read at {got:x?}, expected {wanted:x?}"))
    }
}

/// A copy whose source changed behind each read: the check saw what was used, and nothing was read from the same place again.
fn consistent(seen: Option<Seen>, reads: &[usize]) -> Verdict {
    let mut places = reads.to_vec();
    places.sort_unstable();
    places.dedup();
    if places.len() != reads.len() {
        return Err(format!("read twice: {}", history(seen, reads)));
    }
    same(seen, reads)
}

/// As [`consistent`], for a copy that the C library makes: what it reads twice where its strides meet is no second reading. So
/// the reads must be those of the copy alone.
fn as_the_copy_alone(seen: Option<Seen>, reads: &[usize], alone: &[usize]) -> Verdict {
    if reads != alone {
        return Err(format!("read more than the copy alone: {}", history(seen, reads)));
    }
    same(seen, reads)
}

fn same(seen: Option<Seen>, reads: &[usize]) -> Verdict {
    match seen {
        Some((checked, used)) if checked == used => {
            Ok(format!("{} reads, and what was checked is what was used", reads.len()))
        }
        _ => Err(history(seen, reads)),
    }
}

fn history(seen: Option<Seen>, reads: &[usize]) -> String {
    match seen {
        Some((checked, used)) => format!("{checked:#x} was checked and {used:#x} was used; read at {reads:x?}"),
        None => format!("refused; read at {reads:x?}"),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(got: T, expected: T) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("got {got:?}, expected {expected:?}")) }
}

/// Every case and its name.
pub const CASES: [Case; 16] = [
    ("a record's header", header),
    ("a record's header that is refused", broken_header),
    ("an index that is refused", broken_index),
    ("a record's header, then the key in it", || key(INLINE)),
    ("a record's header, then the key in its block", || key(IN_A_BLOCK)),
    ("a head on the stack, inline", || head(INLINE)),
    ("a head on the stack, in a block", || head(IN_A_BLOCK)),
    ("a head that is compared, inline", || known(INLINE)),
    ("a head that is compared, in a block", || known(IN_A_BLOCK)),
    ("bytes of a lent block", lease),
    ("bytes of a lent block that is passed on", slice),
    ("released blocks", releases),
    ("consumed records", consumed),
    ("dirty lanes", dirty),
    ("withdrawn calls", withdrawn),
    ("the state of a call, and who sleeps", state_and_parked),
];

/// Programs that read twice, and their names. The trap must say so.
pub const CONTROLS: [Case; 2] =
    [("two volatile reads", control_volatile), ("copy to the stack, check, copy onward", control_copy)];

fn header() -> Verdict {
    let mut lane = lane();
    open(&mut lane, 100);
    let (got, reads) = spring(&lane.to_proxy, WORD, || probes::record(black_box(&mut lane.sidecar)));
    let got = got.map_err(|violation| violation.to_string())?.ok_or("nothing came")?;
    equal((got.kind, got.slot, got.generation, got.head_len), (Kind::Open, 3, 77, 100))?;
    equal((got.length, got.deadline_us, got.total), (116, 1234, 16))?;
    let mut expected = header_words();
    expected.push(at(PUBLISHED));
    once(&reads, &expected)
}

fn broken_header() -> Verdict {
    let mut lane = lane();
    lane.app.put(&Header::new(Kind::Data, 99, 1), &[]).expect("room");
    lane.app.publish();
    let (got, reads) = spring(&lane.to_proxy, WORD, || probes::record(black_box(&mut lane.sidecar)));
    equal(got, Err(shmesh_shm::Violation::Slot))?;
    let mut expected = header_words();
    expected.push(at(PUBLISHED));
    once(&reads, &expected)
}

fn broken_index() -> Verdict {
    let mut lane = lane();
    lane.to_proxy.store(at(PUBLISHED), 9);
    let (got, reads) = spring(&lane.to_proxy, WORD, || probes::record(black_box(&mut lane.sidecar)));
    equal(got, Err(shmesh_shm::Violation::Published))?;
    once(&reads, &[at(PUBLISHED)])
}

fn key(head: usize) -> Verdict {
    let mut lane = with_open(head)?;
    let mut onward = Vec::with_capacity(head);
    let probe = || probes::head(black_box(&mut lane.sidecar), black_box(0), &mut onward);
    let (seen, reads) = spring(&lane.to_proxy, WIDEST, probe);
    let lane = with_open(head)?;
    let mut copy = Vec::with_capacity(head);
    let probe = || lane.sidecar.append_payload(0..head as u32, black_box(&mut copy));
    let (_, alone) = spring(&lane.to_proxy, WIDEST, probe);
    as_the_copy_alone(seen, &reads, &alone)
}

fn head(head: usize) -> Verdict {
    let lane = with_open(head)?;
    let mut onward = [0; HEAD_BYTES];
    let probe = || probes::head_on_the_stack(black_box(&lane.sidecar), black_box(0), &mut onward);
    let (seen, reads) = spring(&lane.to_proxy, WIDEST, probe);
    consistent(seen, &reads)
}

fn known(head: usize) -> Verdict {
    let lane = with_open(head)?;
    let expected = payload(head);
    let probe = || probes::known_head(black_box(&lane.sidecar), black_box(&expected));
    let (found, reads) = spring(&lane.to_proxy, WORD, probe);
    equal(found, Some(16))?;
    let first = *reads.iter().min().ok_or("nothing was read")?;
    once(&reads, &(0..head.div_ceil(WORD)).map(|i| first + WORD * i).collect::<Vec<_>>())
}

fn lease() -> Verdict {
    let mut lane = with_open(IN_A_BLOCK)?;
    let lease = lane.sidecar.advance_keep().ok_or("not in a block")?;
    let mut onward = [0; HEAD_BYTES];
    let probe = || probes::lent_block(black_box(&lease), black_box(0), &mut onward);
    let (seen, reads) = spring(&lane.to_proxy, WIDEST, probe);
    consistent(seen, &reads)
}

fn slice() -> Verdict {
    let mut lane = with_open(IN_A_BLOCK)?;
    let slice = SharedSlice::from(lane.sidecar.advance_keep().ok_or("not in a block")?);
    let mut onward = [0; HEAD_BYTES];
    let probe = || probes::shared_slice(black_box(&slice), black_box(0), &mut onward);
    let (seen, reads) = spring(&lane.to_proxy, WIDEST, probe);
    consistent(seen, &reads)
}

fn releases() -> Verdict {
    let mut lane = lane();
    open(&mut lane, IN_A_BLOCK);
    open(&mut lane, IN_A_BLOCK);
    for _ in 0..2 {
        probes::record(&mut lane.sidecar).map_err(|violation| violation.to_string())?;
        lane.sidecar.advance();
    }
    lane.sidecar.publish();
    let (lent, reads) = spring(&lane.to_app, 4, || probes::releases(black_box(&mut lane.app)));
    equal(lent, 0)?;
    once(&reads, &[at(RELEASED), at(RELEASES_AT), at(RELEASES_AT) + 4])
}

fn consumed() -> Verdict {
    let mut lane = lane();
    open(&mut lane, 100);
    let (unconsumed, reads) = spring(&lane.to_app, WORD, || probes::consumed(black_box(&mut lane.app)));
    equal(unconsumed, 1)?;
    once(&reads, &[at(CONSUMED)])
}

fn dirty() -> Verdict {
    let lane = lane();
    Dirty::new(&lane.to_proxy, &lane.to_app).mark(1, 5);
    let mut watch = DirtyWatch::new(&lane.to_proxy, &lane.to_app, 1);
    let (bits, reads) = spring(&lane.to_proxy, WORD, || probes::dirty(black_box(&mut watch)));
    equal((bits, lane.to_app.load(worker_word(1))), (1 << 5, 1 << 5))?;
    once(&reads, &[worker_word(1)])
}

fn withdrawn() -> Verdict {
    let lane = lane();
    lane.app.withdraw(2, 7);
    let (withdrawn, reads) = spring(&lane.to_proxy, WORD, || probes::withdrawn(black_box(&lane.sidecar), 2, 8));
    equal(withdrawn, false)?;
    once(&reads, &[at(WITHDRAWN), at(SLOT_WORDS) + 2 * WORD])
}

fn state_and_parked() -> Verdict {
    let mut lane = lane();
    lane.sidecar.set_state(1, 5, CallState::Forwarded);
    let (state, reads) = spring(&lane.to_app, WORD, || probes::state(black_box(&lane.app), 1));
    equal(state, (5, CallState::Forwarded))?;
    once(&reads, &[at(SLOT_WORDS) + WORD])?;
    lane.sidecar.park(false);
    lane.app.put(&Header::new(Kind::Data, 0, 1), &[]).expect("room");
    let (rings, reads) = spring(&lane.to_app, WORD, || probes::ring(black_box(&mut lane.app)));
    equal(rings, true)?;
    once(&reads, &[at(PARKED)])
}

fn control_volatile() -> Verdict {
    let memory = Mapping::private(4096).expect("memory");
    memory.store(0, 40);
    let (seen, reads) = spring(&memory, WORD, || naive::read_twice(black_box(&memory)));
    consistent(seen, &reads)
}

fn control_copy() -> Verdict {
    let memory = Mapping::private(4096).expect("memory");
    memory.store(0, 40);
    let mut onward = [0; naive::BYTES];
    let (seen, reads) =
        spring(&memory, WIDEST, || naive::copy_check_copy(black_box(&memory), black_box(0), &mut onward));
    consistent(seen, &reads)
}
