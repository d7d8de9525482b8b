//! The simulation: engine and shim, unchanged, in a world of one seed: clock, network, processes that are stopped or killed
//! at any step, stores that arrive late, small rings. What must hold is checked all the time (`ledger`, `scenario`).
//!
//!     just sim            # ten thousand seeds
//!     just sim 4711       # one, with everything that happens in it
//!
//! Built without `--cfg shmesh_sim` there is nothing to run.

#[cfg(shmesh_sim)]
mod app;
#[cfg(shmesh_sim)]
mod call;
#[cfg(shmesh_sim)]
mod coroutine;
#[cfg(shmesh_sim)]
mod downstream;
#[cfg(shmesh_sim)]
mod journal;
#[cfg(shmesh_sim)]
mod ledger;
#[cfg(shmesh_sim)]
mod machine;
#[cfg(shmesh_sim)]
mod neighbour;
#[cfg(shmesh_sim)]
mod pipe;
#[cfg(shmesh_sim)]
mod provider;
#[cfg(shmesh_sim)]
mod random;
#[cfg(shmesh_sim)]
mod scenario;
#[cfg(shmesh_sim)]
mod seeds;
#[cfg(shmesh_sim)]
mod sidecar;
#[cfg(shmesh_sim)]
mod stream;
#[cfg(shmesh_sim)]
mod upgrade;
#[cfg(shmesh_sim)]
mod upstream;

#[cfg(shmesh_sim)]
fn main() -> std::process::ExitCode {
    seeds::main()
}

#[cfg(not(shmesh_sim))]
fn main() {
    println!("built without --cfg shmesh_sim: nothing to simulate; see `just sim`");
}
