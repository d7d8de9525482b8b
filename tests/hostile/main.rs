//! Apps that do everything they may not, against the real sidecar on both drivers: what they write into shared memory, what they do
//! to descriptors, and how they die. What has to hold is always the same: nobody else notices.
//!
//! `choices` to `attacker` are one harness, used here with a seed and in `tests/fuzz` with a fuzzer's bytes; `storm` is its bounded run.

#![forbid(unsafe_code)]

/// A test function for each driver, named after it.
macro_rules! on_each_driver {
    ($($name:ident),+ $(,)?) => {
        mod epoll {
            $(#[test] fn $name() { super::$name(crate::sidecar::Driver::Epoll) })+
        }
        mod uring {
            $(#[test] fn $name() {
                if crate::sidecar::Driver::Uring.is_available() {
                    super::$name(crate::sidecar::Driver::Uring)
                }
            })+
        }
    };
}

#[allow(dead_code)]
#[path = "../e2e/bytes.rs"]
mod bytes;
#[allow(dead_code)]
#[path = "../e2e/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../e2e/service.rs"]
mod service;
#[allow(dead_code)]
#[path = "../e2e/sidecar.rs"]
mod sidecar;
#[allow(dead_code)]
#[path = "../e2e/wire.rs"]
mod wire;

mod app;
mod attacker;
#[allow(dead_code, reason = "the fuzz target uses the rest")]
mod choices;
mod corpus;
mod entry;
mod flipper;
mod idle;
mod mutation;
mod neighbour;
mod role;
mod strict;
mod upstream;

mod abuse;
mod asleep;
mod deadlock;
mod leftovers;
mod storm;
