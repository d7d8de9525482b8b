//! The ring: set up with what the kernel knows, and owner of everything that operations in flight point to.
//!
//! All unsafe pushes are here. The rule that makes them sound: **memory that is handed to the kernel is moved into
//! this type first, and leaves it only with the terminal completion of its operation** (no `F_MORE`). When the ring is
//! dropped it cancels everything and waits for those completions; memory of operations that do not end is leaked.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use shmesh_shm::OpenBlock;

use super::buffers::{Buffers, GROUP};
use super::operation::{Kept, Message, Operation, Outgoing, PLACES, pack, unpack};
use crate::bell::Bell;
use crate::driver::{Nanos, SockId};
use crate::pool::{Pool, Vacant};
use crate::probe::{Refusal, Step};
use crate::socket::RING;
use crate::sys;

/// Operations that are queued before the kernel has to take them; more only cost another system call.
const SUBMISSIONS: u32 = 512;

/// Completions that fit; more wait in the kernel, at a price.
const COMPLETIONS: u32 = 4096;

/// How long a dropped ring waits for its last completions.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// The longest single send: the kernel's own limit is just below 2 GiB.
const SEND_BYTES_MAX: usize = 1 << 30;

/// Spare messages that are kept for the next sends.
const SPARE_MESSAGES_MAX: usize = 64;

pub(super) struct Ring {
    // Dropped first, before the memory that it uses.
    uring: IoUring,
    buffers: Option<Buffers>,
    /// By index of the socket and [`Operation::place`].
    kept: Vec<[Option<Kept>; PLACES]>,
    /// Kept until the kernel has looked up their descriptors.
    bells: Vec<Bell>,
    /// Sends that tell only of failure, and were not taken for done yet.
    silent: Vec<SockId>,
    /// Those that succeeded.
    succeeded: VecDeque<SockId>,
    /// Taken out of the completion queue.
    arrived: VecDeque<cqueue::Entry>,
    /// What did not fit into the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// Operations whose terminal completion is still to come.
    in_flight: usize,
    /// Operations that were cancelled, less the completions that came since.
    cancelled: usize,
    #[allow(clippy::vec_box, reason = "the kernel has had their addresses; they move between here and the sends")]
    spare_messages: Vec<Box<Message>>,
}

/// A completion, with what its operation had kept.
pub(super) struct Completion {
    pub(super) id: SockId,
    pub(super) operation: Operation,
    /// As of a system call: a count, a descriptor or a negative errno.
    pub(super) result: i32,
    /// More completions of this operation will come.
    pub(super) more: bool,
    /// Where bytes were received.
    pub(super) slot: Option<Vacant>,
    /// What was accepted.
    pub(super) accepted: Option<OwnedFd>,
    pub(super) kept: Option<Kept>,
}

impl Completion {
    pub(super) fn result(&self) -> io::Result<u32> {
        u32::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }
}

impl Ring {
    /// Sets up a ring for this thread, with the newest flags that the kernel knows.
    pub(super) fn new(pool: &Pool) -> Result<Self, Refusal> {
        let uring = set_up().map_err(Refusal::at(Step::Setup))?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe).map_err(Refusal::at(Step::Operations))?;
        let needed = [
            opcode::AcceptMulti::CODE,
            opcode::Connect::CODE,
            opcode::RecvMulti::CODE,
            opcode::Recv::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            opcode::PollAdd::CODE,
            opcode::AsyncCancel2::CODE,
        ];
        let params = uring.params();
        if !needed.iter().all(|code| probe.is_supported(*code))
            || !params.is_feature_nodrop()
            || !params.is_feature_ext_arg()
            || !params.is_feature_skip_cqe_on_success()
        {
            let error = io::Error::from_raw_os_error(libc::ENOSYS);
            return Err(Refusal::at(Step::Operations)(error));
        }
        let buffers = Buffers::register(&uring, pool).map_err(Refusal::at(Step::ProvidedBuffers))?;
        Ok(Self {
            uring,
            buffers: Some(buffers),
            kept: Vec::new(),
            bells: Vec::new(),
            silent: Vec::new(),
            succeeded: VecDeque::new(),
            arrived: VecDeque::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            cancelled: 0,
            spare_messages: Vec::new(),
        })
    }

    /// Lends free slots to the kernel. Returns whether it has any.
    pub(super) fn refill(&mut self) -> bool {
        self.buffers.as_mut().is_some_and(|buffers| {
            buffers.refill();
            buffers.any_lent()
        })
    }

    /// Accepts until cancelled.
    pub(super) fn accept(&mut self, id: SockId, listener: BorrowedFd<'_>) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: points to no memory.
        unsafe { self.push(entry, pack(id, Operation::Accept)) };
    }

    /// Receives into a lent slot once, or into any number until cancelled or until there are none.
    pub(super) fn receive(&mut self, id: SockId, socket: BorrowedFd<'_>, once: bool) {
        let fd = Fd(socket.as_raw_fd());
        let entry = if once {
            // Without a place of its own it gets a slot, and the slot's length.
            let receive = opcode::Recv::new(fd, ptr::null_mut(), 0).buf_group(GROUP);
            receive.build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, GROUP).build()
        };
        // SAFETY: the kernel writes to lent slots only, which `buffers` keeps.
        unsafe { self.push(entry, pack(id, Operation::Receive)) };
    }

    /// Receives once, into a block: what there is, at most what it has room for.
    pub(super) fn land(&mut self, id: SockId, socket: BorrowedFd<'_>, block: OpenBlock) {
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), block.ptr(), block.len() as u32).build();
        self.keep(id, Operation::Land, Kept::Block(block));
        // SAFETY: the block is as long as said, keeps its segment mapped, and is kept until the terminal completion. No
        // reference to its bytes exists anywhere.
        unsafe { self.push(entry, pack(id, Operation::Land)) };
    }

    /// Tells each time the descriptor becomes readable.
    pub(super) fn watch(&mut self, id: SockId, operation: Operation, fd: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        // SAFETY: points to no memory.
        unsafe { self.push(entry, pack(id, operation)) };
    }

    pub(super) fn connect(&mut self, id: SockId, socket: BorrowedFd<'_>, addr: SockaddrStorage) {
        let addr = Box::new(addr);
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), addr.as_ptr(), addr.len()).build();
        self.keep(id, Operation::Connect, Kept::Address(addr));
        // SAFETY: the address is boxed, and kept until the terminal completion.
        unsafe { self.push(entry, pack(id, Operation::Connect)) };
    }

    /// Sends the first chunks (all, if they are not too many); must not be empty.
    pub(super) fn send(&mut self, id: SockId, socket: BorrowedFd<'_>, mut outgoing: Outgoing) {
        outgoing.silent = false;
        let entry = self.send_entry(socket, &mut outgoing, 0);
        self.keep(id, Operation::Send, Kept::Outgoing(outgoing));
        // SAFETY: the chunks own (or keep) the bytes, the message is boxed, and both are kept until the terminal
        // completion. The kernel only reads the bytes, so a peer that changes shared ones does no harm here.
        unsafe { self.push(entry, pack(id, Operation::Send)) };
    }

    /// Sends all chunks, or as many as get through at once; must not be empty. If all of them do, the kernel makes no completion, so that
    /// [`enter`](Self::enter) goes on waiting, and [`next_completion`](Self::next_completion) makes one up.
    ///
    /// That is known because such a send never waits in the kernel: it has ended when it was submitted.
    pub(super) fn send_silently(&mut self, id: SockId, socket: BorrowedFd<'_>, mut outgoing: Outgoing) {
        let whole = outgoing.bytes <= SEND_BYTES_MAX as u64 && outgoing.chunks.iter().count() <= sys::PIECES_PER_SEND;
        if !whole {
            return self.send(id, socket, outgoing);
        }
        outgoing.silent = true;
        // DONTWAIT: what has no room fails at once, with what was sent of it (WAITALL: less than all is a failure).
        let entry = self.send_entry(socket, &mut outgoing, libc::MSG_DONTWAIT).flags(squeue::Flags::SKIP_SUCCESS);
        self.keep(id, Operation::Send, Kept::Outgoing(outgoing));
        self.silent.push(id);
        // SAFETY: as of `send`. No completion: `gather` gives it back only after the kernel has taken the submission, and so ended it.
        unsafe { self.push(entry, pack(id, Operation::Send)) };
    }

    fn send_entry(&mut self, socket: BorrowedFd<'_>, outgoing: &mut Outgoing, more_flags: i32) -> squeue::Entry {
        let fd = Fd(socket.as_raw_fd());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | more_flags;
        let mut chunks = outgoing.chunks.iter();
        match (chunks.next(), chunks.next()) {
            (Some(only), None) => {
                let len = only.len().min(SEND_BYTES_MAX) as u32;
                opcode::Send::new(fd, only.as_ptr(), len).flags(flags).build()
            }
            _ => {
                let spare = &mut self.spare_messages;
                let message = outgoing.message.get_or_insert_with(|| spare.pop().unwrap_or_else(Message::new));
                message.fill(&outgoing.chunks);
                opcode::SendMsg::new(fd, &message.header).flags(flags as u32).build()
            }
        }
    }

    /// Takes back what a finished send no longer needs.
    pub(super) fn recycle(&mut self, message: Option<Box<Message>>) {
        if let Some(mut message) = message
            && self.spare_messages.len() < SPARE_MESSAGES_MAX
        {
            message.clear();
            self.spare_messages.push(message);
        }
    }

    /// Cancels an operation; its terminal completion comes as for any other. Reported only if it is not found.
    pub(super) fn cancel(&mut self, id: SockId, operation: Operation) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(pack(id, operation)))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.cancelled += 1;
        // SAFETY: points to no memory.
        unsafe { self.push(entry, pack(id, Operation::Cancel)) };
    }

    /// How many cancelled operations may still be to end.
    pub(super) fn cancelled(&self) -> usize {
        self.cancelled
    }

    /// One byte into a doorbell. Not reported, unless it failed.
    pub(super) fn ring(&mut self, bell: &Bell) {
        let entry = opcode::Send::new(Fd(bell.as_fd().as_raw_fd()), RING.as_ptr(), RING.len() as u32)
            // DONTWAIT: a full bell fails at once, instead of waiting in the ring.
            .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.bells.push(bell.clone());
        // SAFETY: the byte is static.
        unsafe { self.push(entry, pack(SockId::new(0, 0), Operation::Bell)) };
    }

    /// Submits what is queued and waits: not at all (`Some(0)`), for so long, or for ever (`None`); until so many completions are there.
    pub(super) fn enter(&mut self, timeout: Option<Nanos>, count: usize) -> io::Result<()> {
        let entered = self.submit_and_wait(timeout, count);
        self.gather();
        entered
    }

    fn submit_and_wait(&mut self, timeout: Option<Nanos>, count: usize) -> io::Result<()> {
        loop {
            self.unload_backlog();
            let left = !self.arrived.is_empty() || !self.succeeded.is_empty() || !self.uring.completion().is_empty();
            let wait_now = left && count <= 1 || !self.backlog.is_empty();
            let result = match timeout {
                _ if wait_now => self.enter_now(),
                Some(0) => self.enter_now(),
                Some(nanos) => {
                    let time = Timespec::new().sec(nanos / 1_000_000_000).nsec((nanos % 1_000_000_000) as u32);
                    let args = SubmitArgs::new().timespec(&time);
                    self.uring.submitter().submit_with_args(count, &args).map(drop)
                }
                None => self.uring.submitter().submit_and_wait(count).map(drop),
            };
            if let Err(error) = result {
                match error.raw_os_error() {
                    // The time is over; a signal; the kernel wants completions taken first, or is short of memory: what
                    // was not submitted stays queued for the next turn.
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(error),
                }
            }
            if self.backlog.is_empty() {
                if self.uring.submission().is_empty() {
                    // The kernel has its own references by now.
                    self.bells.clear();
                }
                return Ok(());
            }
        }
    }

    /// Takes everything out of the completion queue, and finds out which silent sends have succeeded: those that the kernel has taken, and
    /// of which it told nothing.
    fn gather(&mut self) {
        let before = self.arrived.len();
        self.arrived.extend(self.uring.completion());
        self.cancelled = self.cancelled.saturating_sub(self.arrived.len() - before);
        let queue = self.uring.submission();
        let all_told = self.backlog.is_empty() && queue.is_empty() && !queue.cq_overflow();
        drop(queue);
        if self.silent.is_empty() || !all_told {
            return;
        }
        for at in 0..self.arrived.len() {
            if let Some((id, Operation::Send)) = unpack(self.arrived[at].user_data())
                && let Some(outgoing) = self.outgoing(id)
            {
                outgoing.silent = false;
            }
        }
        let mut silent = mem::take(&mut self.silent);
        for id in silent.drain(..) {
            if self.outgoing(id).is_some_and(|outgoing| outgoing.silent) {
                self.succeeded.push_back(id);
            }
        }
        self.silent = silent;
    }

    /// What a socket's send in flight keeps.
    fn outgoing(&mut self, id: SockId) -> Option<&mut Outgoing> {
        let place = Operation::Send.place()?;
        match self.kept.get_mut(id.index() as usize)?[place].as_mut()? {
            Kept::Outgoing(outgoing) => Some(outgoing),
            _ => None,
        }
    }

    /// The next completion that is there. Silent sends come first, as what else arrived may have been caused by them.
    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        if let Some(id) = self.succeeded.pop_front() {
            let result = self.outgoing(id).map_or(0, |outgoing| outgoing.bytes as i32);
            return Some(self.ended(id, Operation::Send, result, false, None));
        }
        loop {
            let entry = self.arrived.pop_front()?;
            let more = cqueue::more(entry.flags());
            // Whatever else a completion says: a slot that it names is ours again.
            let slot = cqueue::buffer_select(entry.flags()).and_then(|slot| self.buffers.as_mut()?.take(slot));
            if let Some((id, operation)) = unpack(entry.user_data()) {
                if operation == Operation::Send {
                    // Told, so not silent any more; it may still be listed where `gather` could not look at all of them.
                    self.silent.retain(|&silent| silent != id);
                }
                return Some(self.ended(id, operation, entry.result(), more, slot));
            }
        }
    }

    fn ended(&mut self, id: SockId, operation: Operation, result: i32, more: bool, slot: Option<Vacant>) -> Completion {
        let mut kept = None;
        if operation.is_tracked() && !more {
            self.in_flight -= 1;
            if let Some(place) = operation.place() {
                kept = self.kept[id.index() as usize][place].take();
            }
        }
        let accepted = (operation == Operation::Accept && result >= 0).then(|| {
            // SAFETY: a descriptor that the kernel made for us, named by this completion only.
            unsafe { OwnedFd::from_raw_fd(result) }
        });
        Completion { id, operation, result, more, slot, accepted, kept }
    }

    /// Submits and lets deferred work run, without waiting; no system call if there is neither.
    fn enter_now(&mut self) -> io::Result<()> {
        let queue = self.uring.submission();
        let count = queue.len() as u32;
        if count == 0 && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        // SAFETY: the arguments are those of a plain enter: as many submissions as are queued, no signal mask.
        // JUSTIFICATION: the safe `submit` runs deferred work only if there was some before; this saves a second call.
        unsafe {
            self.uring.submitter().enter::<libc::sigset_t>(count, 0, EnterFlags::GETEVENTS.bits(), None)?;
        }
        Ok(())
    }

    fn keep(&mut self, id: SockId, operation: Operation, kept: Kept) {
        let index = id.index() as usize;
        if self.kept.len() <= index {
            self.kept.resize_with(index + 1, Default::default);
        }
        let place = &mut self.kept[index][operation.place().expect("an operation that keeps something")];
        // Not a debug assertion: overwriting would free memory that the kernel uses.
        assert!(place.is_none(), "one keeping operation a socket and direction at a time");
        *place = Some(kept);
    }

    /// Queues an operation. When the queue is full, the kernel gets it first.
    ///
    /// # Safety
    /// What the entry points to is kept by this ring until the terminal completion of `user_data`.
    unsafe fn push(&mut self, entry: squeue::Entry, user_data: u64) {
        let entry = entry.user_data(user_data);
        if unpack(user_data).is_some_and(|(_, operation)| operation.is_tracked()) {
            self.in_flight += 1;
        }
        self.backlog.push_back(entry);
        self.unload_backlog();
        if !self.backlog.is_empty() {
            // Full. A failure to submit leaves everything queued; `enter` tries again.
            if self.uring.submit().is_ok() {
                self.unload_backlog();
            }
        }
    }

    fn unload_backlog(&mut self) {
        let mut queue = self.uring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: by the contract of `push`, from where all entries come.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let everything = opcode::AsyncCancel2::new(CancelBuilder::any()).build().flags(squeue::Flags::SKIP_SUCCESS);
        let deadline = Instant::now() + LINGER_MAX;
        while self.in_flight > 0 && Instant::now() < deadline {
            // SAFETY: points to no memory.
            unsafe {
                self.push(everything.clone(), pack(SockId::new(0, 0), Operation::Cancel));
            }
            if self.enter(Some(10_000_000), 1).is_err() {
                break;
            }
            while self.next_completion().is_some() {}
        }
        if self.in_flight > 0 {
            // The kernel may still use it. A leak is the lesser evil.
            mem::forget(self.buffers.take());
            mem::forget(mem::take(&mut self.kept));
        }
    }
}

/// From the newest flags to the oldest that will do; only "what is that?" (EINVAL) leads to the next.
fn set_up() -> io::Result<IoUring> {
    let build = |deferred: bool, no_array: bool| {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(COMPLETIONS).setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
        if deferred {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        if no_array {
            builder.setup_no_sqarray();
        }
        builder.build(SUBMISSIONS)
    };
    let unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    match build(true, true) {
        // NO_SQARRAY came with Linux 6.6.
        Err(error) if unknown(&error) => match build(true, false) {
            // SINGLE_ISSUER and DEFER_TASKRUN came with Linux 6.0 and 6.1.
            Err(error) if unknown(&error) => build(false, false),
            other => other,
        },
        other => other,
    }
}
