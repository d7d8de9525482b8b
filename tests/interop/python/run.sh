#!/usr/bin/env bash
# Python's http.client and requests as clients, its http.server as the service: once in HTTP/1.1, once in HTTP/1.0, where the
# answer ends when the connection does.
suite=python
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl python3

install_python

# serve NAME VERSION: an http.server that speaks this version of HTTP; sets SERVICE_PORT.
serve() {
    free_port
    export SERVICE_PORT=$port
    start "$1" "$python" -u "$here/server.py" "$port" "$2"
    await "$started" listens "$port" || fail "the service does not start" "$work/$1.log"
}

serve service HTTP/1.1
through "http.client" direct "$python" "$here/low.py"
through "requests" direct "$python" "$here/high.py"
start_http_shmesh "$SERVICE_PORT"
for way in tcp unix shm; do
    through "http.client" "$way" "$python" "$here/low.py"
done
for way in tcp proxy shm; do
    through "requests" "$way" "$python" "$here/high.py"
done

kill "$sidecar"
wait "$sidecar"
serve old HTTP/1.0
start_http_shmesh "$SERVICE_PORT"
through "http.client to HTTP/1.0" tcp "$python" "$here/low.py"
through "requests to HTTP/1.0" proxy "$python" "$here/high.py"
passed
