#!/usr/bin/env bash
# Instructions, counted under callgrind, the same numbers each time: of a worker for a call from app to app, on the `sim` driver, and
# of each codec for a request and its answer. Fails when there are more than the limits here.
# benches/instructions.sh [--profile]   --profile: also where the worker's are.
set -euo pipefail
cd "$(dirname "$0")/.."

# What was reached, and a little; lower them with every step. The worker's goal was 1,500.
LIMIT=${LIMIT:-1480}
ROUNDS=${ROUNDS:-500}
CODECS="http1-short:3710 http1-long:11210 dubbo-hessian2:1255 dubbo-hessian2-group:3970 dubbo-fastjson2:1240 dubbo-fastjson2-group:2690"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

command -v valgrind >/dev/null || { echo "valgrind is not installed: apt-get install valgrind" >&2; exit 1; }

# build PACKAGE BENCH: its executable.
build() {
    cargo bench -p "$1" --bench "$2" --no-run --message-format=json 2>"$out/build" |
        grep -o "\"executable\":\"[^\"]*${2//-/_}-[^\"]*\"" | tail -1 | cut -d'"' -f4 || { cat "$out/build" >&2; exit 1; }
}

# count FUNCTIONS PROGRAM ARGUMENTS...: how many instructions are executed in the functions of this name.
count() {
    local functions=$1
    shift
    rm -f "$out/profile"
    valgrind --tool=callgrind --callgrind-out-file="$out/profile" --toggle-collect="$functions" \
        "$@" >"$out/said" 2>"$out/valgrind" || { cat "$out/valgrind" >&2; exit 1; }
    local total
    total=$(sed -n 's/^\(summary\|totals\): \([0-9]*\).*/\2/p' "$out/profile" | head -1)
    if [[ -z $total || $total -eq 0 ]]; then
        cat "$out/valgrind" >&2
        echo "nothing was counted in $functions" >&2
        exit 1
    fi
    echo "$total"
}

failed=0
# hold WHAT INSTRUCTIONS LIMIT
hold() {
    echo "$2 instructions: $1; at most $3"
    (($2 <= $3)) || failed=1
}

worker=$(build shmesh-engine instructions)
total=$(count '*LoneWorker*turn*' "$worker" "$ROUNDS")
calls=$(sed -n 's/^\([0-9]*\) calls$/\1/p' "$out/said")
hold "a call from app to app, in the worker" $((total / calls)) "$LIMIT"
if [[ ${1:-} == --profile ]]; then
    cp "$out/profile" target/instructions.callgrind
    callgrind_annotate --threshold=95 target/instructions.callgrind | head -60
fi
codecs=$(build shmesh-proto codec-instructions)
for codec in $CODECS; do
    name=${codec%:*}
    total=$(count "*codec_instructions*_call*" "$codecs" "$name" "$ROUNDS")
    hold "a request and its answer, $name" $((total / ROUNDS)) "${codec#*:}"
done
if ((failed)); then
    echo "more instructions than the limits of benches/instructions.sh" >&2
fi
exit $failed
