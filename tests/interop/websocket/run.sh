#!/usr/bin/env bash
# WebSocket with Python's websockets on both sides.
suite=websocket
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl python3
install_python

free_port
export SERVICE_PORT=$port
start service "$python" -u "$here/server.py" "$port"
await "$started" listens "$port" || fail "the service does not start" "$work/service.log"

through "websockets" direct "$python" "$here/client.py"
start_http_shmesh "$SERVICE_PORT"
for way in tcp unix; do
    through "websockets" "$way" "$python" "$here/client.py"
done
passed
