//! The mapped memory, and the only way to touch it. This is the crate's named unsafe module.
//!
//! The other process may change any byte at any moment, so no reference to plain memory ever leaves here: words are
//! read and written as atomics, bytes are copied. A copy ends with an optimisation barrier, because a compiler
//! that sees copy, check, use may otherwise read the shared memory a second time after the check.
//!
//! Loads that must be Acquire are Relaxed loads with an Acquire fence behind them: Rust promises that small
//! Relaxed loads work in memory that is mapped read-only, and promises it for no other.

#[cfg(shmesh_sim)]
pub(crate) use mapped::store_late;
#[cfg(not(loom))]
pub use mapped::{ForkGuard, Mapping, settle};
#[cfg(loom)]
pub use modelled::Mapping;

use crate::atomics::{Ordering, fence};
#[cfg(shmesh_sim)]
use crate::delayed::{self, Width};

/// Control words (indices, flags, states): read by one side while the other writes them. The models run this very code.
impl Mapping {
    /// A word, Relaxed.
    #[inline]
    pub fn load(&self, at: usize) -> u64 {
        #[cfg(shmesh_sim)]
        if let Some(value) = delayed::load(self.memory(), at) {
            return value;
        }
        self.word(at).load(Ordering::Relaxed)
    }

    /// A word, Acquire: pairs with the writer's [`Mapping::store_release`] of the same word, so that what was
    /// written before that store is seen after this load.
    #[inline]
    pub fn load_acquire(&self, at: usize) -> u64 {
        let value = self.load(at);
        fence(Ordering::Acquire); // model: acquire
        value
    }

    /// Stores a word, Relaxed.
    #[inline]
    pub fn store(&self, at: usize, value: u64) {
        #[cfg(shmesh_sim)]
        if delayed::store(self.memory(), at, Width::Word, value) {
            return;
        }
        self.writable_word(at).store(value, Ordering::Relaxed);
    }

    /// Stores a word, Release: pairs with [`Mapping::load_acquire`].
    #[inline]
    pub fn store_release(&self, at: usize, value: u64) {
        #[cfg(shmesh_sim)]
        if delayed::store(self.memory(), at, Width::Word, value) {
            return;
        }
        self.writable_word(at).store(value, Ordering::Release); // model: release
    }

    /// Sets or clears bits of a word whose other bits belong to other threads of this side.
    pub fn change_bits(&self, at: usize, mask: u64, set: bool) {
        #[cfg(shmesh_sim)]
        if !delayed::drained_step() {
            return;
        }
        let word = self.writable_word(at);
        if set {
            word.fetch_or(mask, Ordering::Relaxed);
        } else {
            word.fetch_and(!mask, Ordering::Relaxed);
        }
    }
}

#[cfg(not(loom))]
#[allow(unsafe_code)]
mod mapped {
    use std::any::Any;
    use std::fs::File;
    use std::io;
    use std::mem::ManuallyDrop;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;
    use std::sync::Arc;

    use memmap2::{Advice, MmapOptions, MmapRaw};
    use nix::sys::mman::{MmapAdvise, madvise};

    use crate::atomics::{AtomicU32, AtomicU64, Ordering};
    #[cfg(shmesh_sim)]
    use crate::delayed::{self, Width};
    use crate::host;

    #[cfg(not(shmesh_sim))]
    type Memory = MmapRaw;
    /// Stores that are on their way keep it mapped.
    #[cfg(shmesh_sim)]
    type Memory = std::sync::Arc<MmapRaw>;

    /// A segment mapped into this process, for as long as this value lives.
    #[derive(Debug)]
    pub struct Mapping {
        memory: ManuallyDrop<Memory>,
        start: *mut u8,
        len: usize,
        /// Words that lie in it whole.
        words: usize,
        /// Of these, the words that this side may store to: all or none.
        writable_words: usize,
        /// Bytes that this side may write: all or none.
        writable_len: usize,
        /// The process that mapped it. A child of `fork` has nothing there, or by now something else.
        process: u32,
        /// Dropped when it is unmapped.
        kept: Option<Arc<dyn Any + Send + Sync>>,
    }

    // SAFETY: `start` points into `memory`, which is owned and neither moves nor unmaps before drop; every access is an
    // atomic or a copy that tolerates concurrent change, so threads may share and move it.
    unsafe impl Send for Mapping {}
    // SAFETY: as for Send.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        /// Maps the first `len` bytes of a memfd to read and write. A file that is shorter, or may shrink, is refused:
        /// touching what was cut off would kill the process. A child of `fork` does not inherit the mapping.
        pub fn read_write(memfd: impl AsFd, len: usize) -> io::Result<Mapping> {
            Mapping::of_memfd(memfd, len, true)
        }

        /// As [`Mapping::read_write`], to read only; storing to it panics.
        pub fn read_only(memfd: impl AsFd, len: usize) -> io::Result<Mapping> {
            Mapping::of_memfd(memfd, len, false)
        }

        /// Zeroed memory that no other process sees, to be shared between threads.
        pub fn private(len: usize) -> io::Result<Mapping> {
            let memory = MmapOptions::new().len(len).map_anon()?;
            Ok(Mapping::over(MmapRaw::from(memory), len, true))
        }

        fn of_memfd(memfd: impl AsFd, len: usize, writable: bool) -> io::Result<Mapping> {
            let file = File::from(memfd.as_fd().try_clone_to_owned()?);
            crate::segment::check_shape(&file, len)?;
            let mut options = MmapOptions::new();
            options.len(len);
            let memory = if writable { options.map_raw(&file)? } else { options.map_raw_read_only(&file)? };
            memory.advise(Advice::DontFork)?;
            Ok(Mapping::over(memory, len, writable))
        }

        fn over(memory: MmapRaw, len: usize, writable: bool) -> Mapping {
            let start = memory.as_mut_ptr();
            #[cfg(shmesh_sim)]
            let memory = std::sync::Arc::new(memory);
            let words = len / 8;
            let writable_words = if writable { words } else { 0 };
            let process = std::process::id();
            let writable_len = if writable { len } else { 0 };
            Mapping {
                memory: ManuallyDrop::new(memory),
                start,
                len,
                words,
                writable_words,
                writable_len,
                process,
                kept: None,
            }
        }

        /// Keeps something for as long as it is mapped.
        #[must_use]
        pub fn keeping(mut self, what: Arc<dyn Any + Send + Sync>) -> Mapping {
            self.kept = Some(what);
            self
        }

        /// Bytes that are mapped.
        pub fn len(&self) -> usize {
            debug_assert_eq!(self.memory.len(), self.len);
            self.len
        }

        pub fn is_empty(&self) -> bool {
            self.len == 0
        }

        /// Whether this side writes the segment.
        pub fn is_writable(&self) -> bool {
            self.writable_len > 0
        }

        /// Words that lie one after the other, each loaded once, Relaxed.
        #[inline]
        pub fn load_words<const N: usize>(&self, at: usize) -> [u64; N] {
            #[cfg(shmesh_sim)]
            return std::array::from_fn(|i| self.load(at + 8 * i));
            #[cfg(not(shmesh_sim))]
            self.words_at::<N>(at, self.words).each_ref().map(|word| word.load(Ordering::Relaxed))
        }

        /// Stores words one after the other, Relaxed.
        #[inline(always)]
        pub fn store_words<const N: usize>(&self, at: usize, words: [u64; N]) {
            #[cfg(shmesh_sim)]
            for (i, word) in words.into_iter().enumerate() {
                self.store(at + 8 * i, word);
            }
            #[cfg(not(shmesh_sim))]
            for (place, word) in self.words_at::<N>(at, self.writable_words).iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
        }

        /// A half word, Relaxed.
        #[inline]
        pub fn load_u32(&self, at: usize) -> u32 {
            #[cfg(shmesh_sim)]
            if let Some(value) = delayed::load(&self.memory, at) {
                return value as u32;
            }
            self.half(at).load(Ordering::Relaxed)
        }

        /// Stores a half word, Relaxed.
        #[inline]
        pub fn store_u32(&self, at: usize, value: u32) {
            assert!(self.is_writable(), "the segment belongs to the other side");
            #[cfg(shmesh_sim)]
            if delayed::store(&self.memory, at, Width::Half, u64::from(value)) {
                return;
            }
            self.half(at).store(value, Ordering::Relaxed);
        }

        /// Copies bytes out. What arrives in `dst` is what the memory held during the call and will not change any more.
        #[inline]
        pub fn read_bytes(&self, at: usize, dst: &mut [u8]) {
            host::in_pieces(dst.len(), |from, len| self.read_piece(at + from, &mut dst[from..from + len]));
        }

        #[inline]
        fn read_piece(&self, at: usize, dst: &mut [u8]) {
            let src = self.pointer(at, dst.len());
            // SAFETY: `src` is valid for `dst.len()` bytes (checked by `pointer`); `dst` is a private slice, so they
            // cannot overlap. The peer may write meanwhile: the bytes are then any mix, and nothing was decided on them.
            unsafe { std::ptr::copy_nonoverlapping(src, dst.as_mut_ptr(), dst.len()) };
            settle(dst);
        }

        /// Whether these bytes, 8 of them or more, lie from `at` on, which is a multiple of 8. No word is read twice.
        #[inline]
        pub fn holds(&self, at: usize, bytes: &[u8]) -> bool {
            let Some(last) = bytes.last_chunk() else { return false };
            let (words, rest) = bytes.as_chunks();
            let held = self.words_from(at, words.len() + usize::from(!rest.is_empty()));
            #[cfg(shmesh_sim)]
            crate::host::step();
            if held.iter().zip(words).any(|(held, word)| held.load(Ordering::Relaxed) != u64::from_le_bytes(*word)) {
                return false;
            }
            // Of the last word only its first bytes count; they are the highest of the last eight.
            let unused = 64 - 8 * rest.len() as u32;
            rest.is_empty()
                || held[words.len()].load(Ordering::Relaxed) << unused == u64::from_le_bytes(*last) >> unused << unused
        }

        /// As [`Mapping::read_bytes`], appended to `out`.
        #[inline]
        pub fn append_bytes(&self, at: usize, len: usize, out: &mut Vec<u8>) {
            host::in_pieces(len, |from, len| self.append_piece(at + from, len, out));
        }

        #[inline]
        fn append_piece(&self, at: usize, len: usize, out: &mut Vec<u8>) {
            let src = self.pointer(at, len);
            out.reserve(len);
            let dst = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: `src` is valid for `len` bytes (checked by `pointer`), `dst` too (reserved above) and private.
            // The copy fills what `set_len` adds. JUSTIFICATION: growing with zeroes first would write a body twice.
            unsafe {
                std::ptr::copy_nonoverlapping(src, dst, len);
                settle_at(dst);
                out.set_len(out.len() + len);
            }
        }

        /// Copies bytes in.
        #[inline]
        pub fn write_bytes(&self, at: usize, src: &[u8]) {
            host::in_pieces(src.len(), |from, len| self.write_piece(at + from, &src[from..from + len]));
        }

        #[inline]
        fn write_piece(&self, at: usize, src: &[u8]) {
            let dst = self.pointer_mut(at, src.len());
            // SAFETY: `dst` is valid and writable for `src.len()` bytes (checked by `pointer_mut`); `src` is private.
            unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst, src.len()) };
        }

        /// Copies bytes from another segment into this one, without deciding anything on them.
        #[inline]
        pub fn copy_from(&self, at: usize, source: &Mapping, from: usize, len: usize) {
            host::in_pieces(len, |piece, len| self.copy_piece(at + piece, source, from + piece, len));
        }

        #[inline]
        fn copy_piece(&self, at: usize, source: &Mapping, from: usize, len: usize) {
            let src = source.pointer(from, len);
            let dst = self.pointer_mut(at, len);
            // SAFETY: both are valid for `len` bytes (checked); `copy` allows them to overlap.
            unsafe { std::ptr::copy(src, dst, len) };
        }

        /// Copies bytes in, and behind them bytes from another segment: as [`Mapping::write_bytes`] and [`Mapping::copy_from`].
        #[inline(always)]
        pub fn write_before(&self, at: usize, head: &[u8], source: &Mapping, from: usize, len: usize) {
            #[cfg(shmesh_sim)]
            {
                self.write_bytes(at, head);
                self.copy_from(at + head.len(), source, from, len);
            }
            #[cfg(not(shmesh_sim))]
            {
                let src = source.pointer(from, len);
                let dst = self.pointer_mut(at, head.len() + len);
                // SAFETY: `dst` is valid and writable for both, `src` for `len` bytes (checked); `head` is private, and `copy` allows
                // the other two to overlap.
                unsafe {
                    std::ptr::copy_nonoverlapping(head.as_ptr(), dst, head.len());
                    std::ptr::copy(src, dst.add(head.len()), len);
                }
            }
        }

        /// Where bytes lie, for a system call that reads them. Never make a reference from it: the peer may write there.
        #[inline]
        pub fn pointer(&self, at: usize, len: usize) -> *const u8 {
            self.check(at, len);
            // SAFETY: `at` is within the mapping (checked above).
            unsafe { self.start.add(at) }
        }

        #[inline(always)]
        fn pointer_mut(&self, at: usize, len: usize) -> *mut u8 {
            let fits = at <= self.writable_len && len <= self.writable_len - at;
            assert!(fits, "outside of the segment, or it belongs to the other side");
            // SAFETY: `at` is within the mapping (checked above).
            unsafe { self.start.add(at) }
        }

        /// What was given back is not what it was: a reader that gave it back too early finds out.
        #[cfg(shmesh_sim)]
        pub(crate) fn poison(&self, at: usize, len: usize) {
            let dst = self.pointer_mut(at, len);
            if host::is_alive() {
                // SAFETY: `dst` is valid and writable for `len` bytes (checked by `pointer_mut`).
                unsafe { std::ptr::write_bytes(dst, 0xdb, len) };
            }
        }

        #[cfg(shmesh_sim)]
        pub(super) fn memory(&self) -> &Memory {
            &self.memory
        }

        #[inline]
        pub(super) fn writable_word(&self, at: usize) -> &AtomicU64 {
            &self.words_at::<1>(at, self.writable_words)[0]
        }

        #[inline]
        pub(super) fn word(&self, at: usize) -> &AtomicU64 {
            &self.words_at::<1>(at, self.words)[0]
        }

        /// `N` words of the first `words`.
        #[inline]
        fn words_at<const N: usize>(&self, at: usize, words: usize) -> &[AtomicU64; N] {
            // One comparison for bounds and alignment: the low bits of an offset that is no multiple of 8 become the highest.
            let index = at.rotate_right(3);
            assert!(
                index < words.saturating_sub(N - 1),
                "outside of the segment, unaligned, or the segment belongs to the other side"
            );
            // SAFETY: in bounds and aligned (checked; the mapping starts at a page). Words are only ever accessed as
            // atomics by this process, and the memory lives as long as `self`.
            unsafe { &*self.start.add(at).cast::<[AtomicU64; N]>() }
        }

        /// `count` words.
        #[inline]
        fn words_from(&self, at: usize, count: usize) -> &[AtomicU64] {
            // As in `words_at`.
            let index = at.rotate_right(3);
            assert!(index < self.words && count <= self.words - index, "outside of the segment, or unaligned");
            // SAFETY: as in `words_at`, for as many words as were checked.
            unsafe { std::slice::from_raw_parts(self.start.add(at).cast(), count) }
        }

        #[inline]
        fn half(&self, at: usize) -> &AtomicU32 {
            self.check(at, 4);
            assert!(at.is_multiple_of(4), "unaligned half word");
            // SAFETY: as in `word`.
            unsafe { AtomicU32::from_ptr(self.start.add(at).cast()) }
        }

        #[inline]
        fn check(&self, at: usize, len: usize) {
            // Offsets were validated before they came here; this keeps a mistake there from becoming a wild access.
            assert!(at <= self.len && len <= self.len - at, "outside of the segment");
        }
    }

    /// A store of this process arrives in memory. It was checked by `store` or `store_u32`: in bounds, aligned, ours.
    #[cfg(shmesh_sim)]
    pub(crate) fn store_late(memory: &MmapRaw, at: usize, width: Width, value: u64) {
        assert!(at + 8 <= memory.len(), "outside of the segment");
        // SAFETY: in bounds (checked) and aligned (a multiple of the width in a mapping that starts at a page).
        unsafe {
            let place = memory.as_mut_ptr().add(at);
            match width {
                Width::Word => AtomicU64::from_ptr(place.cast()).store(value, Ordering::Release),
                Width::Half => AtomicU32::from_ptr(place.cast()).store(value as u32, Ordering::Release),
            }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            if self.process == std::process::id() {
                // SAFETY: dropped once, here, and not used afterwards.
                unsafe { ManuallyDrop::drop(&mut self.memory) };
            }
        }
    }

    /// Knows whether this process is a child of the one that made it: one load, no system call. A child must not touch
    /// a session's segments, which it does not have.
    #[derive(Debug)]
    pub struct ForkGuard(Mapping);

    impl ForkGuard {
        pub fn new() -> io::Result<ForkGuard> {
            let page = Mapping::private(crate::geometry::PAGE as usize)?;
            let start = NonNull::new(page.start).ok_or(io::ErrorKind::OutOfMemory)?;
            // SAFETY: the range is the page that was just mapped, private and anonymous; the advice changes nothing in
            // this process.
            unsafe { madvise(start.cast(), page.len, MmapAdvise::MADV_WIPEONFORK) }?;
            page.word(0).store(1, Ordering::Relaxed);
            Ok(ForkGuard(page))
        }

        /// True in a child of `fork`.
        #[inline]
        pub fn is_child(&self) -> bool {
            self.0.word(0).load(Ordering::Relaxed) == 0
        }
    }

    /// To be called after bytes were copied out of shared memory: tells the compiler that they may have been read and changed
    /// here, so that it must keep the copy and cannot go back to where it was copied from.
    #[inline]
    pub fn settle(bytes: &mut [u8]) {
        settle_at(bytes.as_mut_ptr());
    }

    #[inline]
    fn settle_at(bytes: *mut u8) {
        // SAFETY: no instruction; the operand only carries the address. JUSTIFICATION: `compiler_fence` orders atomics
        // and says nothing about a plain copy; `black_box` is documented as best effort.
        unsafe { std::arch::asm!("/* {0} */", in(reg) bytes, options(nostack, preserves_flags)) };
    }
}

#[cfg(loom)]
#[allow(unsafe_code)]
mod modelled {
    use std::collections::BTreeMap;
    use std::ops::Range;

    use loom::cell::UnsafeCell;

    use crate::atomics::AtomicU64;

    /// A segment as loom sees it; only what a model touches exists. Control words are atomics. Whatever is guarded by them
    /// (records, payloads, released offsets) is plain memory, of which loom reports every access that another thread's may meet:
    /// an honest peer never writes what is still being read.
    pub struct Mapping {
        words: BTreeMap<usize, AtomicU64>,
        guarded: BTreeMap<usize, UnsafeCell<u32>>,
    }

    // SAFETY: loom runs its threads one at a time and panics before an access to a cell that is not ordered after the last
    // one; the atomics may be shared anyway. JUSTIFICATION: only so does it see a race on plain memory.
    unsafe impl Sync for Mapping {}
    // SAFETY: as for Sync.
    unsafe impl Send for Mapping {}

    impl Mapping {
        /// Zeroed memory: control words at the first byte ranges, memory that they guard at the second ones.
        pub fn of_ranges(words: &[Range<usize>], guarded: &[Range<usize>]) -> Mapping {
            let words = words.iter().flat_map(|range| range.clone().step_by(8));
            let guarded = guarded.iter().flat_map(|range| range.clone().step_by(4));
            Mapping {
                words: words.map(|at| (at, AtomicU64::new(0))).collect(),
                guarded: guarded.map(|at| (at, UnsafeCell::new(0))).collect(),
            }
        }

        pub fn is_writable(&self) -> bool {
            true
        }

        pub fn load_words<const N: usize>(&self, at: usize) -> [u64; N] {
            let half = |at| u64::from(self.load_u32(at));
            std::array::from_fn(|i| half(at + 8 * i) | half(at + 8 * i + 4) << 32)
        }

        pub fn store_words<const N: usize>(&self, at: usize, words: [u64; N]) {
            for (i, word) in words.into_iter().enumerate() {
                self.store_u32(at + 8 * i, word as u32);
                self.store_u32(at + 8 * i + 4, (word >> 32) as u32);
            }
        }

        pub fn load_u32(&self, at: usize) -> u32 {
            // SAFETY: the pointer is valid, and loom has checked that nobody writes.
            self.guarded(at).with(|value| unsafe { *value })
        }

        pub fn store_u32(&self, at: usize, new: u32) {
            // SAFETY: the pointer is valid, and loom has checked that nobody reads or writes.
            self.guarded(at).with_mut(|value| unsafe { *value = new });
        }

        pub fn read_bytes(&self, at: usize, dst: &mut [u8]) {
            for (i, part) in dst.chunks_mut(4).enumerate() {
                let bytes = self.load_u32(at + 4 * i).to_le_bytes();
                part.copy_from_slice(&bytes[..part.len()]);
            }
        }

        pub fn holds(&self, at: usize, bytes: &[u8]) -> bool {
            let mut held = vec![0; bytes.len()];
            self.read_bytes(at, &mut held);
            held == bytes
        }

        pub fn append_bytes(&self, at: usize, len: usize, out: &mut Vec<u8>) {
            let start = out.len();
            out.resize(start + len, 0);
            self.read_bytes(at, &mut out[start..]);
        }

        pub fn write_bytes(&self, at: usize, src: &[u8]) {
            for (i, part) in src.chunks(4).enumerate() {
                let mut bytes = [0; 4];
                bytes[..part.len()].copy_from_slice(part);
                self.store_u32(at + 4 * i, u32::from_le_bytes(bytes));
            }
        }

        pub fn write_before(&self, at: usize, head: &[u8], source: &Mapping, from: usize, len: usize) {
            self.write_bytes(at, head);
            self.copy_from(at + head.len(), source, from, len);
        }

        pub fn copy_from(&self, at: usize, source: &Mapping, from: usize, len: usize) {
            let mut bytes = vec![0; len];
            source.read_bytes(from, &mut bytes);
            self.write_bytes(at, &bytes);
        }

        pub(super) fn word(&self, at: usize) -> &AtomicU64 {
            self.words.get(&at).expect("a control word that the model has")
        }

        pub(super) fn writable_word(&self, at: usize) -> &AtomicU64 {
            self.word(at)
        }

        fn guarded(&self, at: usize) -> &UnsafeCell<u32> {
            self.guarded.get(&at).expect("memory that the model has")
        }
    }
}
