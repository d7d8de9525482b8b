#!/usr/bin/env bash
# Node's http with a keep-alive agent and its fetch as clients, its http as the service.
suite=node
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl node

free_port
export SERVICE_PORT=$port
start service node "$here/server.js" "$port"
await "$started" listens "$port" || fail "the service does not start" "$work/service.log"

through "http" direct node "$here/client.js"
start_http_shmesh "$SERVICE_PORT"
for way in tcp unix proxy shm; do
    through "http" "$way" node "$here/client.js"
done
passed
