//! What is measured beside shmesh and is not it: where it comes from, how it is started, how it is called.

pub mod haproxy;
pub mod nginx;
pub mod pingpong;
pub mod shmipc;
pub mod wrk;
