//! Stackful coroutines: code that waits in the middle of whatever it does, all on one thread. The one module of the simulation
//! with unsafe code.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::ptr::null;
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{CoroutineResult, Yielder};

/// Bytes of a stack. Touched pages only count.
const STACK_BYTES: usize = 512 << 10;

type Switch = Yielder<(), ()>;

thread_local! {
    /// The way out of the coroutine that runs.
    static CURRENT: Cell<*const Switch> = const { Cell::new(null()) };
    /// Stacks of coroutines that ended, for the next ones.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// A piece of code with a stack of its own.
pub struct Coroutine {
    raw: Option<corosensei::Coroutine<(), (), (), DefaultStack>>,
    switch: Rc<Cell<*const Switch>>,
}

impl Coroutine {
    pub fn new(body: impl FnOnce() + 'static) -> Coroutine {
        let switch = Rc::new(Cell::new(null()));
        let own = switch.clone();
        // Boxed, since what it captures may be larger than what can be handed over to a fresh stack.
        let body: Box<dyn FnOnce()> = Box::new(body);
        let stack = STACKS.with_borrow_mut(Vec::pop);
        let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
        let raw = corosensei::Coroutine::with_stack(stack, move |way_out: &Switch, ()| {
            own.set(way_out);
            CURRENT.set(way_out);
            body();
        });
        Coroutine { raw: Some(raw), switch }
    }

    /// Runs it until it suspends; false: it has ended. A panic in it goes on here.
    pub fn resume(&mut self) -> bool {
        let Some(raw) = &mut self.raw else { return false };
        CURRENT.set(self.switch.get());
        let result = raw.resume(());
        CURRENT.set(null());
        match result {
            CoroutineResult::Yield(()) => true,
            CoroutineResult::Return(()) => {
                self.recycle();
                false
            }
        }
    }

    /// Ends it where it is: everything on its stack is dropped.
    pub fn unwind(&mut self) {
        if let Some(raw) = &mut self.raw {
            raw.force_unwind();
            self.recycle();
        }
    }

    fn recycle(&mut self) {
        if let Some(raw) = self.raw.take().filter(corosensei::Coroutine::done) {
            STACKS.with_borrow_mut(|stacks| stacks.push(raw.into_stack()));
        }
    }
}

/// Lets go of the thread until somebody resumes this coroutine.
pub fn suspend() {
    let way_out = CURRENT.get();
    assert!(!way_out.is_null(), "suspended outside of a coroutine");
    // SAFETY: the yielder lives on the stack of the coroutine that runs, which is this one: `resume` sets it, and nothing else
    // runs before the suspension. It is alive as long as the body has not returned.
    unsafe { (*way_out).suspend(()) };
}

/// Which of these descriptors, each with the events asked for, are ready. They belong to coroutines that are suspended in a wait
/// for them, and are therefore open.
pub fn ready(descriptors: &[(RawFd, i16)], out: &mut Vec<bool>) {
    out.clear();
    let mut polled: Vec<libc::pollfd> =
        descriptors.iter().map(|&(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
    // SAFETY: the pointer and the length are those of a vector that lives throughout the call.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0) };
    out.extend(polled.iter().map(|fd| fd.revents != 0));
}
