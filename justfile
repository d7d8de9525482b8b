# The few commands that matter. `just` lists them.

default:
    @just --list --unsorted

# See what each way to a service costs: services, sidecar and clients, all started here
demo:
    cargo run --release -- demo

# All tests
test:
    cargo test --workspace

# Formatting and lints, as CI has them
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features shmesh-client/tokio -- -D warnings

# The concurrency models of the rings and doorbells, also with each ordering weakened: they must fail then
model:
    transports/shm/tests/weaken.sh

# Engine and shim in a simulated world: ten thousand seeds, or one of them with everything that happens in it: just sim 4711
sim seed="":
    tests/sim/run.sh {{seed}}

# Sidecars killed, stopped, starved and replaced under load, and what became of the calls: just chaos, just chaos --rounds 20 --troubles kill
chaos *options:
    cargo build --release -p shmesh -p shmesh-chaos
    target/release/chaos {{options}}

# Every fuzz target for so many seconds, or one of them: just fuzz 60, just fuzz 600 session
fuzz seconds="10" target="":
    tests/fuzz/run.sh {{seconds}} {{target}}

# Against the real clients and servers of tests/interop; says what is lacking
interop:
    cargo build --release -p shmesh
    tests/interop/run.sh

# Fetch Envoy, to be measured beside shmesh
envoy:
    benches/fetch-envoy.sh

# Benchmarks; with Envoy beside them if it was fetched
bench:
    cargo bench

# Instructions per call: of a worker over shared memory, and where; of each codec
instructions:
    benches/instructions.sh --profile

# A sidecar with a configuration file: just run my.yaml
run config:
    cargo run --release -- run --config {{config}}

# What CI does
ci:
    .ci/run
