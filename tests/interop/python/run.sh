#!/usr/bin/env bash
# Python's http.client and requests as clients, its http.server as the service: once in HTTP/1.1, once in HTTP/1.0, where the
# answer ends when the connection does.
suite=python
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl python3

# requests, at the versions and with the digests of requirements.txt, in an environment of its own.
install() {
    local built=$here/target/built
    [[ -f $built && ! $here/requirements.txt -nt $built ]] && return
    rm -rf -- "$here/target"
    python3 -m venv "$here/target/env" >"$work/venv.log" 2>&1 || skip "python3 -m venv fails (Debian: python3-venv)"
    "$here/target/env/bin/pip" install -q --disable-pip-version-check --only-binary :all: --require-hashes \
        -r "$here/requirements.txt" >"$work/pip.log" 2>&1 || {
        cat "$work/pip.log"
        skip "pip cannot install requests"
    }
    touch "$built"
}
install
python=$here/target/env/bin/python
export PYTHONDONTWRITEBYTECODE=1

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
