#!/usr/bin/env bash
# Are the models of tests/loom.rs worth something? Weakens, one after the other, each ordering that the source marks with
# `// model: NAME`, in a copy of this crate, and demands that the models listed below for it fail.
#
#     transports/shm/tests/weaken.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")/../../.."

# NAME, and the models that must fail without it, each on its own.
models_of() {
    case $1 in
    published | published-seen | release | acquire) echo records_and_payloads_arrive_whole ;;
    consumed | consumed-seen) echo an_entry_is_not_written_again_before_it_was_read ;;
    released | released-seen) echo a_block_is_not_written_again_before_it_was_read_and_given_back ;;
    publish) echo whoever_sleeps_for_records_is_rung whoever_sleeps_for_room_is_rung a_marked_lane_is_looked_at ;;
    parked) echo whoever_sleeps_for_records_is_rung whoever_sleeps_for_room_is_rung ;;
    seen) echo a_marked_lane_is_looked_at ;;
    asked) echo a_sign_of_life_that_was_asked_for_is_given ;;
    dirty) echo a_worker_asleep_on_two_lanes_is_woken_for_each ;;
    state | state-seen) echo whoever_reads_answered_finds_the_parts_before ;;
    withdrawn) echo a_call_is_not_both_withdrawn_and_forwarded_unseen ;;
    lane-withdrawn) echo no_call_of_a_withdrawn_lane_is_forwarded_unseen ;;
    forwarded)
        echo a_call_is_not_both_withdrawn_and_forwarded_unseen no_call_of_a_withdrawn_lane_is_forwarded_unseen
        ;;
    *) return 1 ;;
    esac
}

# The fence that would stand in for an ordering, and is taken away with it.
stand_in_for() {
    case $1 in
    # Behind the fence of `publish` any store is a Release; the page promises it all the same.
    state) echo publish ;;
    esac
}

# What weakening means: an ordering becomes the next weaker one, a read-modify-write becomes a read and a write.
weaken() { # FILE NAME
    sed -i -E "/\/\/ model: $2\$/{
        s/store_release\(/store(/
        s/load_acquire\(/load(/
        s/fence\(Ordering::SeqCst\)/fence(Ordering::AcqRel)/
        s/fence\(Ordering::Acquire\);//
        s/Ordering::Release/Ordering::Relaxed/
        s/(self\.[a-z_]+)\.change_bits\(at, mask, (.*)\);/let word = \1.load(at); \1.store(at, if \2 { word | mask } else { word \& !mask });/
        s/ \/\/ model: .*//
    }" "$1"
}

target=${CARGO_TARGET_DIR:-target}/loom
mkdir -p "$target"
target=$(realpath "$target")
export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$target
run_models() { cargo test --quiet --package shmesh-shm --test loom "$@"; }

mapfile -t marks < <(grep -rhoP '// model: \K[a-z-]+$' transports/shm/src | sort)
# (`Width::`: how stores arrive late in the simulation.)
unmarked=$(grep -rl '// model: ' transports/shm/src |
    xargs grep -nE 'store_release\(|load_acquire\(|fence\(Ordering|[^d]Ordering::(Acquire|Release|AcqRel|SeqCst)' |
    grep -vE '// model: |pub fn |//[/!]|: *//|Width::' || true)
if [[ -n $unmarked ]]; then
    printf 'an ordering without a mark, so that nobody knows whether a model needs it:\n%s\n' "$unmarked" >&2
    exit 1
fi
if [[ -n $(printf '%s\n' "${marks[@]}" | uniq --repeated) ]]; then
    echo "a mark occurs twice" >&2
    exit 1
fi

# A copy, always at the same place, so that only this crate is compiled again. The models as they are run there, too: cargo takes
# the same crate of two workspaces for one, and goes by the age of its files.
copy=$target/weakened
rm -rf "$copy"
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/transports"
cp -r transports/shm "$copy/transports/"
cp Cargo.lock "$copy/"
awk '/^members = \[/ { print "members = [\"transports/shm\"]"; skip = 1 } /^default-members/ { next } !skip { print } skip && /^\]/ { skip = 0 }' \
    Cargo.toml >"$copy/Cargo.toml"
cd "$copy"

run_models

wanted=("$@")
[[ $# -gt 0 ]] || wanted=("${marks[@]}")
survived=0
for name in "${wanted[@]}"; do
    if ! models=$(models_of "$name"); then
        echo "$name: no model is named for it in weaken.sh" >&2
        exit 1
    fi
    rm -rf before
    cp -r transports/shm/src before
    file=$(grep -rlE "// model: $name\$" transports/shm/src)
    weaken "$file" "$name"
    if cmp --quiet "before/${file#transports/shm/src/}" "$file"; then
        echo "$name: weaken.sh does not know how to weaken this line of $file" >&2
        exit 1
    fi
    for fence in $(stand_in_for "$name"); do
        grep -rlE "// model: $fence\$" transports/shm/src | xargs sed -i -E "/\/\/ model: $fence\$/d"
    done
    if ! run_models --no-run >build 2>&1; then
        cat build >&2
        echo "$name: weakened, the crate does not compile" >&2
        exit 1
    fi
    for model in $models; do
        if run_models -- --exact "$model" >output 2>&1; then
            echo "$name weakened: $model still PASSES"
            survived=1
        elif grep -qE "panicked at|SIGABRT" output; then
            echo "$name weakened: $model fails, as it must"
        else
            cat output >&2
            echo "$name weakened: $model did not run" >&2
            exit 1
        fi
    done
    # Without the old times: cargo goes by those.
    cp -r before/. transports/shm/src/
done
exit "$survived"
