#!/usr/bin/env bash
# wrk and h2load against nginx through shmesh: many connections, requests sent ahead, answers small and large. No socket error, no answer
# that is not 2xx, and every byte is counted. Nothing here is about speed.
suite=load
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl nginx wrk h2load

declare -r REQUESTS=20000
declare -r LARGE_BYTES=1048576
declare -r LARGE_REQUESTS=400
declare -r AHEAD=8

free_port
export SERVICE_PORT=$port
mkdir "$work/www"
head -c 1024 /dev/urandom >"$work/www/small"
head -c "$LARGE_BYTES" /dev/urandom >"$work/www/large"
start_nginx "$SERVICE_PORT" </dev/null
start_http_shmesh "$SERVICE_PORT"

# wrk prints errors and answers that are not 2xx only if there are any. Its script ends it when it has seen enough.
cat >"$work/ahead.lua" <<LUA
function init(args)
    local one = wrk.format("GET", "/small")
    ahead = string.rep(one, $AHEAD)
end
function request() return ahead end
LUA
load_with_wrk() {
    local name=$1
    shift
    wrk --timeout 30s -t 2 "$@" >"$work/wrk.log" 2>&1 || fail "wrk, $name" "$work/wrk.log"
    grep -qE 'Socket errors|Non-2xx' "$work/wrk.log" && fail "wrk, $name" "$work/wrk.log"
    grep -qE '^ *[1-9][0-9]* requests in' "$work/wrk.log" || fail "wrk, $name: no requests" "$work/wrk.log"
    checks=$((checks + 1))
}
load_with_wrk "64 connections" -c 64 -d 2s "http://127.0.0.1:$http_port/small"
load_with_wrk "$AHEAD requests ahead on each of 32 connections" -c 32 -d 2s -s "$work/ahead.lua" "http://127.0.0.1:$http_port/"
load_with_wrk "large answers" -c 16 -d 2s "http://127.0.0.1:$http_port/large"

# load_with_h2load NAME REQUESTS BYTES_OF_ONE OPTION…
load_with_h2load() {
    local name=$1 requests=$2 bytes=$3
    shift 3
    timeout 120 h2load --h1 -n "$requests" "$@" >"$work/h2load.log" 2>&1 || fail "h2load, $name" "$work/h2load.log"
    expect "h2load, $name" \
        "$requests total, $requests started, $requests done, $requests succeeded, 0 failed, 0 errored, 0 timeout" \
        "$(sed -n 's/^requests: //p' "$work/h2load.log")"
    expect "h2load, $name: answers by status" "$requests 2xx, 0 3xx, 0 4xx, 0 5xx" "$(sed -n 's/^status codes: //p' "$work/h2load.log")"
    expect "h2load, $name: bytes of bodies" "$((requests * bytes))" "$(sed -n 's/^traffic:.*(\([0-9]*\)) data$/\1/p' "$work/h2load.log")"
}
load_with_h2load "64 connections" "$REQUESTS" 1024 -c 64 -t 2 "http://127.0.0.1:$http_port/small"
load_with_h2load "$AHEAD requests ahead" "$REQUESTS" 1024 -c 32 -m "$AHEAD" "http://127.0.0.1:$http_port/small"
# wrk knows no Unix sockets.
load_with_h2load "64 connections to a Unix socket" "$REQUESTS" 1024 -c 64 -t 2 -B "unix:$work/http.sock" "http://service/small"
load_with_h2load "large answers from a Unix socket" "$LARGE_REQUESTS" "$LARGE_BYTES" -c 16 -B "unix:$work/http.sock" "http://service/large"
load_with_h2load "large answers" "$LARGE_REQUESTS" "$LARGE_BYTES" -c 16 "http://127.0.0.1:$http_port/large"
load_with_h2load "uploads" "$LARGE_REQUESTS" "$LARGE_BYTES" -c 16 -d "$work/www/large" "http://127.0.0.1:$http_port/shm"
load_with_h2load "small uploads" "$REQUESTS" 1024 -c 64 -d "$work/www/small" "http://127.0.0.1:$http_port/shm"

# Clients that end in the midst of it all, over and over, leave nothing behind.
for _ in {1..5}; do
    timeout 0.3 wrk -t 1 -c 32 -d 10s "http://127.0.0.1:$http_port/large" >"$work/killed.log" 2>&1
done
curl -sS --max-time 60 "http://127.0.0.1:$http_port/large" -o "$work/got" || fail "GET after clients were killed"
same "GET after clients were killed" "$work/got" "$work/www/large"
passed
