#!/usr/bin/env bash
# Instructions that a worker executes per shm-to-shm call, on the `sim` driver, under callgrind: the same number each time.
# benches/instructions.sh [--profile]   fails when there are more than LIMIT.
set -euo pipefail
cd "$(dirname "$0")/.."

# What was reached, and a little; the goal was 1,500. Lower it with every step.
LIMIT=${LIMIT:-1480}
ROUNDS=${ROUNDS:-500}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

command -v valgrind >/dev/null || { echo "valgrind is not installed: apt-get install valgrind" >&2; exit 1; }
program=$(cargo bench -p shmesh-engine --bench instructions --no-run --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*instructions-[^"]*"' | tail -1 | cut -d'"' -f4)
calls=$(valgrind --tool=callgrind --callgrind-out-file="$out/profile" --toggle-collect='*LoneWorker*turn*' \
    "$program" "$ROUNDS" 2>"$out/valgrind" | sed -n 's/^\([0-9]*\) calls$/\1/p')
total=$(sed -n 's/^\(summary\|totals\): \([0-9]*\).*/\2/p' "$out/profile" | head -1)
if [[ -z $calls || -z $total || $total -eq 0 ]]; then
    cat "$out/valgrind" >&2
    echo "nothing was counted" >&2
    exit 1
fi
if [[ ${1:-} == --profile ]]; then
    cp "$out/profile" target/instructions.callgrind
    callgrind_annotate --threshold=95 target/instructions.callgrind | head -60
fi
per_call=$((total / calls))
echo "$per_call instructions per call in the worker ($calls calls); at most $LIMIT"
((per_call <= LIMIT))
