#!/usr/bin/env bash
# The simulation: without an argument ten thousand seeds, with a number that seed and everything that happens in it, with a..b those.
set -euo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in
    "") ;;
    *..*) export SIM_SEEDS=$1 ;;
    *) export SIM_SEED=$1 ;;
esac
RUSTFLAGS="--cfg shmesh_sim" exec cargo test --quiet --profile sim -p shmesh-sim --target-dir target/sim
