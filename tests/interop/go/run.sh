#!/usr/bin/env bash
# Go's net/http as the client and as the service.
suite=go
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl go

mkdir -p "$here/target"
(cd "$here" && GOTOOLCHAIN=local CGO_ENABLED=0 go build -o target/ ./client ./service) >"$work/build.log" 2>&1 ||
    fail "go build" "$work/build.log"

free_port
export SERVICE_PORT=$port
start service "$here/target/service" "$port"
await "$started" listens "$port" || fail "the service does not start" "$work/service.log"

through "net/http" direct "$here/target/client"
start_http_shmesh "$SERVICE_PORT"
for way in tcp unix proxy shm; do
    through "net/http" "$way" "$here/target/client"
done
passed
