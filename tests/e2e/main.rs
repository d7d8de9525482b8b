//! End to end: the real binary, real sockets, real files; services and clients are a few plain lines of the standard library.
//!
//! Each test runs once on each driver and carries its name (`http::bodies::epoll::…`, `…::uring::…`). Where the kernel refuses
//! io_uring, the tests of that driver say so on stderr; `SHMESH_TEST_URING=require` makes them fail instead.

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

mod bytes;
#[path = "../../benches/roundtrip/machine/cgroup.rs"]
mod cgroup;
mod dns;
mod process;
mod service;
mod sidecar;
mod wire;

mod control;
mod dubbo;
mod exhaustion;
mod http;
mod memory;
mod names;
mod outliers;
mod raw;
mod redirect;
mod routing;
mod shm;
mod supervise;
mod upgrade;
mod vanishing;
