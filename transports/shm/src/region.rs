//! The mapped memory, and the only way to touch it. This is the crate's named unsafe module.
//!
//! The other process may change any byte at any moment, so no reference to plain memory ever leaves here: words are
//! read and written as atomics, bytes are copied. A copy ends with an optimisation barrier, because a compiler
//! that sees copy, check, use may otherwise read the shared memory a second time after the check.
//!
//! Loads that must be Acquire are Relaxed loads with an Acquire fence behind them: Rust promises that small
//! Relaxed loads work in memory that is mapped read-only, and promises it for no other.

#[cfg(not(loom))]
pub use mapped::{ForkGuard, Mapping};
#[cfg(loom)]
pub use modelled::Mapping;

#[cfg(not(loom))]
#[allow(unsafe_code)]
mod mapped {
    use std::fs::File;
    use std::io;
    use std::mem::ManuallyDrop;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;

    use memmap2::{Advice, MmapOptions, MmapRaw};
    use nix::sys::mman::{MmapAdvise, madvise};

    use crate::atomics::{AtomicU32, AtomicU64, Ordering, fence};

    /// A segment mapped into this process, for as long as this value lives.
    #[derive(Debug)]
    pub struct Mapping {
        memory: ManuallyDrop<MmapRaw>,
        start: *mut u8,
        len: usize,
        writable: bool,
        /// The process that mapped it. A child of `fork` has nothing there, or by now something else.
        process: u32,
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
            Mapping { memory: ManuallyDrop::new(memory), start, len, writable, process: std::process::id() }
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
            self.writable
        }

        /// A word, Relaxed.
        #[inline]
        pub fn load(&self, at: usize) -> u64 {
            self.word(at).load(Ordering::Relaxed)
        }

        /// A word, Acquire: pairs with the writer's [`Mapping::store_release`] of the same word, so that what was
        /// written before that store is seen after this load.
        #[inline]
        pub fn load_acquire(&self, at: usize) -> u64 {
            let value = self.load(at);
            fence(Ordering::Acquire);
            value
        }

        /// Stores a word, Relaxed.
        #[inline]
        pub fn store(&self, at: usize, value: u64) {
            self.writable_word(at).store(value, Ordering::Relaxed);
        }

        /// Stores a word, Release: pairs with [`Mapping::load_acquire`].
        #[inline]
        pub fn store_release(&self, at: usize, value: u64) {
            self.writable_word(at).store(value, Ordering::Release);
        }

        /// Sets or clears bits of a word whose other bits belong to other threads of this side.
        pub fn change_bits(&self, at: usize, mask: u64, set: bool) {
            let word = self.writable_word(at);
            if set {
                word.fetch_or(mask, Ordering::Relaxed);
            } else {
                word.fetch_and(!mask, Ordering::Relaxed);
            }
        }

        /// A half word, Relaxed.
        #[inline]
        pub fn load_u32(&self, at: usize) -> u32 {
            self.half(at).load(Ordering::Relaxed)
        }

        /// Stores a half word, Relaxed.
        #[inline]
        pub fn store_u32(&self, at: usize, value: u32) {
            assert!(self.writable, "the segment belongs to the other side");
            self.half(at).store(value, Ordering::Relaxed);
        }

        /// Copies bytes out. What arrives in `dst` is what the memory held during the call and will not change any more.
        #[inline]
        pub fn read_bytes(&self, at: usize, dst: &mut [u8]) {
            let src = self.pointer(at, dst.len());
            // SAFETY: `src` is valid for `dst.len()` bytes (checked by `pointer`); `dst` is a private slice, so they
            // cannot overlap. The peer may write meanwhile: the bytes are then any mix, and nothing was decided on them.
            unsafe { std::ptr::copy_nonoverlapping(src, dst.as_mut_ptr(), dst.len()) };
            settle(dst.as_mut_ptr());
        }

        /// As [`Mapping::read_bytes`], appended to `out`.
        #[inline]
        pub fn append_bytes(&self, at: usize, len: usize, out: &mut Vec<u8>) {
            let src = self.pointer(at, len);
            out.reserve(len);
            let dst = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: `src` is valid for `len` bytes (checked by `pointer`), `dst` too (reserved above) and private.
            // The copy fills what `set_len` adds. JUSTIFICATION: growing with zeroes first would write a body twice.
            unsafe {
                std::ptr::copy_nonoverlapping(src, dst, len);
                settle(dst);
                out.set_len(out.len() + len);
            }
        }

        /// Copies bytes in.
        #[inline]
        pub fn write_bytes(&self, at: usize, src: &[u8]) {
            let dst = self.pointer_mut(at, src.len());
            // SAFETY: `dst` is valid and writable for `src.len()` bytes (checked by `pointer_mut`); `src` is private.
            unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst, src.len()) };
        }

        /// Copies bytes from another segment into this one, without deciding anything on them.
        pub fn copy_from(&self, at: usize, source: &Mapping, from: usize, len: usize) {
            let src = source.pointer(from, len);
            let dst = self.pointer_mut(at, len);
            // SAFETY: both are valid for `len` bytes (checked); `copy` allows them to overlap.
            unsafe { std::ptr::copy(src, dst, len) };
        }

        /// Where bytes lie, for a system call that reads them. Never make a reference from it: the peer may write there.
        #[inline]
        pub fn pointer(&self, at: usize, len: usize) -> *const u8 {
            self.check(at, len);
            // SAFETY: `at` is within the mapping (checked above).
            unsafe { self.start.add(at) }
        }

        #[inline]
        fn pointer_mut(&self, at: usize, len: usize) -> *mut u8 {
            assert!(self.writable, "the segment belongs to the other side");
            self.pointer(at, len).cast_mut()
        }

        #[inline]
        fn writable_word(&self, at: usize) -> &AtomicU64 {
            assert!(self.writable, "the segment belongs to the other side");
            self.word(at)
        }

        #[inline]
        fn word(&self, at: usize) -> &AtomicU64 {
            self.check(at, 8);
            assert!(at.is_multiple_of(8), "unaligned word");
            // SAFETY: in bounds and aligned (checked; the mapping starts at a page). Words are only ever accessed as
            // atomics by this process, and the memory lives as long as `self`.
            unsafe { AtomicU64::from_ptr(self.start.add(at).cast()) }
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
            page.store(0, 1);
            Ok(ForkGuard(page))
        }

        /// True in a child of `fork`.
        #[inline]
        pub fn is_child(&self) -> bool {
            self.0.load(0) == 0
        }
    }

    /// Tells the compiler that `bytes` may have been read and changed here, so that it must keep the copy just made and
    /// cannot go back to where it was copied from.
    #[inline]
    fn settle(bytes: *mut u8) {
        // SAFETY: no instruction; the operand only carries the address. JUSTIFICATION: `compiler_fence` orders atomics
        // and says nothing about a plain copy; `black_box` is documented as best effort.
        unsafe { std::arch::asm!("/* {0} */", in(reg) bytes, options(nostack, preserves_flags)) };
    }
}

#[cfg(loom)]
mod modelled {
    use std::collections::BTreeMap;

    use crate::atomics::{AtomicU64, Ordering, fence};

    /// A segment as loom sees it: only the words that a model touches exist.
    pub struct Mapping {
        words: BTreeMap<usize, AtomicU64>,
    }

    impl Mapping {
        /// Zeroed words at these byte ranges.
        pub fn of_ranges(ranges: &[std::ops::Range<usize>]) -> Mapping {
            let offsets = ranges.iter().flat_map(|range| range.clone().step_by(8));
            Mapping { words: offsets.map(|at| (at, AtomicU64::new(0))).collect() }
        }

        pub fn is_writable(&self) -> bool {
            true
        }

        pub fn load(&self, at: usize) -> u64 {
            self.word(at).load(Ordering::Relaxed)
        }

        pub fn load_acquire(&self, at: usize) -> u64 {
            let value = self.load(at);
            fence(Ordering::Acquire);
            value
        }

        pub fn store(&self, at: usize, value: u64) {
            self.word(at).store(value, Ordering::Relaxed);
        }

        pub fn store_release(&self, at: usize, value: u64) {
            self.word(at).store(value, Ordering::Release);
        }

        pub fn change_bits(&self, at: usize, mask: u64, set: bool) {
            if set {
                self.word(at).fetch_or(mask, Ordering::Relaxed);
            } else {
                self.word(at).fetch_and(!mask, Ordering::Relaxed);
            }
        }

        pub fn load_u32(&self, at: usize) -> u32 {
            (self.load(at & !7) >> (8 * (at & 7))) as u32
        }

        pub fn store_u32(&self, at: usize, value: u32) {
            let shift = 8 * (at & 7);
            let other = self.load(at & !7) & !(0xFFFF_FFFF << shift);
            self.store(at & !7, other | u64::from(value) << shift);
        }

        pub fn read_bytes(&self, at: usize, dst: &mut [u8]) {
            for (i, part) in dst.chunks_mut(8).enumerate() {
                let bytes = self.load(at + 8 * i).to_le_bytes();
                part.copy_from_slice(&bytes[..part.len()]);
            }
        }

        pub fn append_bytes(&self, at: usize, len: usize, out: &mut Vec<u8>) {
            let start = out.len();
            out.resize(start + len, 0);
            self.read_bytes(at, &mut out[start..]);
        }

        pub fn write_bytes(&self, at: usize, src: &[u8]) {
            for (i, part) in src.chunks(8).enumerate() {
                let mut bytes = [0; 8];
                bytes[..part.len()].copy_from_slice(part);
                self.store(at + 8 * i, u64::from_le_bytes(bytes));
            }
        }

        pub fn copy_from(&self, at: usize, source: &Mapping, from: usize, len: usize) {
            let mut bytes = vec![0; len];
            source.read_bytes(from, &mut bytes);
            self.write_bytes(at, &bytes);
        }

        fn word(&self, at: usize) -> &AtomicU64 {
            self.words.get(&at).expect("a word that the model has")
        }
    }
}
