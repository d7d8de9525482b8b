//! Memory that notes every instruction that reads it, and changes behind its back.
//!
//! The pages are taken away. Whatever instruction touches them faults; the handler notes where, gives the pages back for this
//! one instruction (the processor's trap flag), changes what was read, and takes them away again. So a program that
//! reads a word twice is both counted and deceived, with certainty and whatever its compiler made of it.
//!
//! One thread at a time, and x86-64 only. This is the crate's named unsafe module.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use shmesh_shm::Mapping;

/// Reads that are noted in one run.
const READS_MAX: usize = 4096;

/// The processor stops behind the next instruction.
const TRAP_FLAG: i64 = 0x100;

static START: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);
/// How many bytes change behind a read.
static CHANGE: AtomicUsize = AtomicUsize::new(0);
static LAST: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static READS: [AtomicUsize; READS_MAX] = [const { AtomicUsize::new(0) }; READS_MAX];

/// Runs `probe` with the trap around `memory`: what it returns, and the offset of every read in their order. Behind each
/// read the `change` bytes at that place are inverted.
///
/// # Panics
/// When the trap cannot be set, or with more than `READS_MAX` reads.
pub fn spring<R>(memory: &Mapping, change: usize, probe: impl FnOnce() -> R) -> (R, Vec<usize>) {
    catch_signals().expect("signal handlers");
    START.store(memory.pointer(0, memory.len()) as usize, Ordering::SeqCst);
    LEN.store(memory.len(), Ordering::SeqCst);
    CHANGE.store(change, Ordering::SeqCst);
    COUNT.store(0, Ordering::SeqCst);
    protect(libc::PROT_NONE);
    let result = probe();
    protect(libc::PROT_READ | libc::PROT_WRITE);
    let count = COUNT.load(Ordering::SeqCst);
    assert!(count <= READS_MAX, "{count} reads");
    (result, READS[..count].iter().map(|read| read.load(Ordering::SeqCst)).collect())
}

fn catch_signals() -> io::Result<()> {
    for (signal, handler) in
        [(Signal::SIGSEGV, SigHandler::SigAction(touched)), (Signal::SIGTRAP, SigHandler::SigAction(passed))]
    {
        let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: the handlers below only use atomics, mprotect and the interrupted context.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

fn protect(rights: i32) {
    let (start, len) = (START.load(Ordering::SeqCst), LEN.load(Ordering::SeqCst));
    // SAFETY: the range is one mapping, which the caller of `spring` borrows; nothing but probes and the handlers touches it,
    // and for those a fault is what is wanted.
    let refused = unsafe { libc::mprotect(start as *mut c_void, len, rights) } != 0;
    if refused {
        // Also from a handler, where a panic is no way out.
        std::process::abort();
    }
}

extern "C" fn touched(_: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO, and SIGSEGV's has an address.
    let at = unsafe { (*info).si_addr() } as usize;
    let offset = at.wrapping_sub(START.load(Ordering::SeqCst));
    if offset >= LEN.load(Ordering::SeqCst) {
        // A fault that is not ours.
        std::process::abort();
    }
    if let Some(read) = READS.get(COUNT.fetch_add(1, Ordering::SeqCst)) {
        read.store(offset, Ordering::SeqCst);
    }
    LAST.store(offset, Ordering::SeqCst);
    protect(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the kernel hands a valid context to such a handler, which is what is resumed.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] |= TRAP_FLAG };
}

extern "C" fn passed(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as in `touched`.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG };
    let (start, len) = (START.load(Ordering::SeqCst), LEN.load(Ordering::SeqCst));
    let from = LAST.load(Ordering::SeqCst);
    for at in from..(from + CHANGE.load(Ordering::SeqCst)).min(len) {
        let byte = (start + at) as *mut u8;
        // SAFETY: within the mapping, which is readable and writable between the two handlers; volatile, because the
        // interrupted code is looking at it, too.
        unsafe { byte.write_volatile(!byte.read_volatile()) };
    }
    protect(libc::PROT_NONE);
}
