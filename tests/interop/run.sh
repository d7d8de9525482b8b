#!/usr/bin/env bash
# Real peers against a real shmesh, on each driver.
#
#   tests/interop/run.sh              what this machine has; what it lacks is named as skipped, never as passed
#   tests/interop/run.sh --require    a suite that is skipped because a program is lacking is a failure (CI)
#
# SHMESH is the binary (default target/release/shmesh), SHMESH_DRIVERS the drivers (default "uring epoll").
# A suite is a folder with a run.sh that exits with 0 = passed, 77 = a program is lacking, 78 = this machine does not allow it,
# else = failed.
set -uo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/../.." || exit 1

require=
[[ ${1:-} == --require ]] && require=1

export SHMESH=${SHMESH:-target/release/shmesh}
if [[ ! -x $SHMESH ]]; then
    echo "interop: there is no $SHMESH; build it with: cargo build --release -p shmesh" >&2
    exit 1
fi
SHMESH=$(realpath -- "$SHMESH")

# What the kernel says against a driver; nothing if it takes it. A kernel cannot be installed, so --require does not ask for it.
refusal() {
    local config
    config=$(mktemp)
    # The driver is tried before the listener, which cannot be had: so this ends by itself.
    echo "admin: { address: 127.0.0.1:$((20000 + RANDOM % 10000)) }" >"$config"
    echo "listeners: [ { name: probe, unix: /nowhere/probe.sock, protocol: http } ]" >>"$config"
    timeout 20 "$SHMESH" run --config "$config" --driver "$1" --log-level off 2>&1 | sed -n "s/.*--driver $1: //p"
    rm -f -- "$config"
}

drivers=()
for driver in ${SHMESH_DRIVERS:-uring epoll}; do
    refusal=$(refusal "$driver")
    if [[ -n $refusal ]]; then
        echo "everything ($driver): skipped: $refusal"
    else
        drivers+=("$driver")
    fi
done

passed=0 failed=0 skipped=0
for suite in tests/interop/*/run.sh; do
    name=$(basename -- "$(dirname -- "$suite")")
    for driver in ${drivers[@]+"${drivers[@]}"}; do
        log=$(mktemp)
        SHMESH_DRIVER=$driver timeout 600 "$suite" >"$log" 2>&1
        case $? in
            0)
                passed=$((passed + 1))
                echo "$name ($driver): ok"
                ;;
            77)
                skipped=$((skipped + 1))
                echo "$name ($driver): skipped: $(sed -n 's/.*skipped: //p' "$log" | tail -n 1)"
                ;;
            78) echo "$name ($driver): refused by this machine: $(sed -n 's/.*skipped: //p' "$log" | tail -n 1)" ;;
            *)
                failed=$((failed + 1))
                echo "$name ($driver): FAILED"
                tail -n 60 -- "$log" | sed 's/^/    /'
                ;;
        esac
        rm -f -- "$log"
    done
done

echo "interop: $passed passed, $failed failed, $skipped skipped"
((${#drivers[@]} > 0)) || exit 1
[[ $failed -eq 0 && (-z $require || $skipped -eq 0) ]]
