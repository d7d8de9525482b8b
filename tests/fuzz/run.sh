#!/usr/bin/env bash
# Fuzzes every target for so many seconds (10), or one of them: tests/fuzz/run.sh [SECONDS [TARGET]]
#
# With the stable compiler and nothing installed but a C++ compiler: the flags are those of `cargo fuzz run --sanitizer none`, which
# works in this folder as well (cargo-fuzz finds it with `--fuzz-dir tests/fuzz`). What is found lies in target/fuzz/TARGET; give the
# file to the binary to see it again. New inputs stay out of tests/fuzz/corpus, which is small on purpose.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-10}
target_dir=${CARGO_TARGET_DIR:-../../target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

passes=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares)
# With the host named, build scripts and macros are compiled without these flags.
RUSTFLAGS="--cfg fuzzing ${passes[*]}" cargo build --quiet --release --target "$host" --target-dir "$target_dir"

targets=(chunked_body dubbo_header handshake hessian http_head records session)
for target in "${@:2:1}"; do targets=("$target"); done
for target in "${targets[@]}"; do
    found=$target_dir/$target
    mkdir -p "$found/corpus"
    echo "== $target, $seconds s"
    "$target_dir/$host/release/$target" "$found/corpus" "corpus/$target" -artifact_prefix="$found/" -max_total_time="$seconds" \
        -timeout=30 -rss_limit_mb=4096 -print_final_stats=1 -verbosity=0
done
