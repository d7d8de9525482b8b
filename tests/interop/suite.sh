# What all suites of real peers do in the same way; each of them sources this after it has set `suite` to its name.
#
# SHMESH is the binary, SHMESH_DRIVER the driver (auto, uring, epoll). A suite exits with 0 = passed, 77 = the machine lacks
# something, which it names, 1 = failed. Whatever it starts ends with it, and whatever it writes lies in $work and goes, too.
# shellcheck shell=bash disable=SC2034
set -uo pipefail

declare -r START_SECONDS_MAX=60
declare -r CLIENT_SECONDS_MAX=300
declare -r END_SECONDS_MAX=3

PATH=$PATH:/usr/sbin
shmesh=${SHMESH:+$(realpath -- "$SHMESH")}
driver=${SHMESH_DRIVER:-auto}
here=$(cd "$(dirname -- "${BASH_SOURCE[1]}")" && pwd) || exit 1
work=$(mktemp -d)
pids=()
checks=0

clean_up() {
    local pid deadline=$((SECONDS + END_SECONDS_MAX))
    for pid in ${pids[@]+"${pids[@]}"}; do
        kill "$pid" 2>/dev/null
    done
    for pid in ${pids[@]+"${pids[@]}"}; do
        while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do
            sleep 0.05
        done
        kill -KILL "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

skip() {
    echo "$suite: skipped: $1"
    exit 77
}

# cannot WHAT: the kernel, or what this user may, does not allow it; unlike a program that is lacking, nobody can install that.
cannot() {
    echo "$suite: skipped: $1"
    exit 78
}

# fail WHAT [LOG]: with the end of the log, and of the sidecar's.
fail() {
    echo "$suite: FAILED: $1"
    local log
    for log in "${@:2}" "$work/shmesh.log"; do
        [[ -f $log ]] && tail -n 30 -- "$log" | cut -c 1-300
    done
    exit 1
}

passed() {
    echo "$suite: passed, $checks checks"
}

# needs COMMAND…: skips the suite if one of them is not there.
needs() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null || skip "$command is not installed"
    done
}

# expect NAME WANTED GOT
expect() {
    [[ $3 == "$2" ]] || fail "$1: expected '$2', got '$3'"
    checks=$((checks + 1))
}

# same NAME FILE EXPECTED: byte for byte.
same() {
    cmp -s -- "$2" "$3" || fail "$1: $(cmp -- "$2" "$3" 2>&1 | head -n 1)"
    checks=$((checks + 1))
}

# Sets `python` to one that has what requirements.txt of the suite lists, at its versions and with its digests, in an environment of its own.
install_python() {
    local built=$here/target/built
    python=$here/target/env/bin/python
    export PYTHONDONTWRITEBYTECODE=1
    [[ -f $built && ! $here/requirements.txt -nt $built ]] && return
    rm -rf -- "$here/target"
    python3 -m venv "$here/target/env" >"$work/venv.log" 2>&1 || skip "python3 -m venv fails (Debian: python3-venv)"
    "$python" -m pip install -q --disable-pip-version-check --only-binary :all: --require-hashes \
        -r "$here/requirements.txt" >"$work/pip.log" 2>&1 || {
        cat "$work/pip.log"
        skip "pip cannot install what $here/requirements.txt lists"
    }
    touch "$built"
}

# Sets NODE_PATH to where the packages are that package-lock.json of the suite lists, with its digests.
install_node() {
    local built=$here/target/built
    export NODE_PATH=$here/target/node_modules
    [[ -f $built && ! $here/package-lock.json -nt $built ]] && return
    rm -rf -- "$here/target"
    mkdir -p "$here/target"
    cp -- "$here/package.json" "$here/package-lock.json" "$here/target"
    npm ci --prefix "$here/target" --ignore-scripts --no-audit --no-fund --no-update-notifier >"$work/npm.log" 2>&1 || {
        cat "$work/npm.log"
        skip "npm cannot install what $here/package-lock.json lists"
    }
    touch "$built"
}

listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Sets `port` to one below the ephemeral range on which nobody listens, another one each time.
ports=" "
free_port() {
    while :; do
        port=$((20000 + RANDOM % 10000))
        [[ $ports == *" $port "* ]] || listens "$port" || break
    done
    ports+="$port "
}

# start NAME COMMAND…: in the background, with what it prints in $work/NAME.log; its process is `started`.
start() {
    "${@:2}" >"$work/$1.log" 2>&1 &
    started=$!
    pids+=("$started")
}

# await PID COMMAND…: until the command succeeds, as long as the process lives.
await() {
    local deadline=$((SECONDS + START_SECONDS_MAX)) pid=$1
    shift
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || return 1
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

is_ready() {
    curl -fs -o /dev/null "http://127.0.0.1:$admin_port/ready"
}

# start_shmesh: with the configuration that is its standard input, but for `admin`; it runs as `sidecar`.
start_shmesh() {
    [[ -x $shmesh ]] || fail "SHMESH=$shmesh is no program"
    free_port
    admin_port=$port
    { echo "admin: { address: 127.0.0.1:$admin_port }"; cat; } >"$work/shmesh.yaml"
    start shmesh "$shmesh" run --config "$work/shmesh.yaml" --driver "$driver"
    sidecar=$started
    await "$sidecar" is_ready || fail "shmesh did not start"
}

# start_nginx PORT: an nginx that serves what lies in $work/www, with what its standard input says of its one server beside.
start_nginx() {
    chmod 755 "$work" "$work/www"
    mkdir -p "$work/tmp"
    cat >"$work/nginx.conf" <<CONF
worker_processes 1;
daemon off;
pid $work/nginx.pid;
error_log $work/nginx.err;
events { worker_connections 2048; }
http {
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000;
    client_body_temp_path $work/tmp/body; proxy_temp_path $work/tmp/proxy; fastcgi_temp_path $work/tmp/f;
    uwsgi_temp_path $work/tmp/u; scgi_temp_path $work/tmp/s;
    server {
        listen 127.0.0.1:$1 backlog=1024;
        root $work/www;
        $(cat)
    }
}
CONF
    start nginx nginx -p "$work" -c "$work/nginx.conf"
    await "$started" listens "$1" || fail "nginx does not start" "$work/nginx.log" "$work/nginx.err"
}

# start_http_shmesh SERVICE_PORT: a sidecar before an HTTP service, as the suites of HTTP clients have it:
#   $http_port, $work/http.sock     everything goes to the service, over TCP
#   $http_port, path /shm           goes to `shmesh echo` over shared memory
#   $http_port, host 0.0.0.0        is a forward proxy. That name stands for this machine, but unlike 127.0.0.1 or localhost no client
#                                   takes it for one that needs no proxy
# One worker, so that what one client says comes from one pool of connections.
start_http_shmesh() {
    free_port
    http_port=$port
    start_shmesh <<CONF
workers: 1
listeners:
  - { name: apps, shm: $work/shmesh.sock }
  - { name: http-uds, unix: $work/http.sock, protocol: http }
  - { name: http-out, tcp: 127.0.0.1:$http_port, protocol: http }
routes:
  - { match: { path_prefix: / }, cluster: service }
  - { match: { path_prefix: /shm }, cluster: echo-app }
  - { match: { host: 0.0.0.0, path_prefix: / }, cluster: anywhere }
clusters:
  - { name: service, endpoints: [ "tcp:127.0.0.1:$1" ] }
  - { name: echo-app, endpoints: [ "shm:echo" ] }
  - { name: anywhere, dynamic_forward_proxy: true }
CONF
    start echo "$shmesh" echo --protocol http --listen "shm:$work/shmesh.sock" --name echo
    await "$started" serves_shm || fail "shmesh echo does not serve" "$work/echo.log"
}

serves_shm() {
    [[ $(curl -s --max-time 10 -d ready "http://127.0.0.1:$http_port/shm") == ready ]]
}

# through NAME WAY COMMAND…: runs a client with the way to the service in its environment, and counts the checks that it says held.
#   direct   without a sidecar: proves the test itself
#   tcp, unix, proxy, shm
# The client prints `ok NAME` for each check and ends with 0 if all of them held. SERVICE_PORT is where the service listens.
through() {
    local name=$1 way=$2
    shift 2
    local environment=(WAY="$way" BASE="http://127.0.0.1:${http_port:-}" UNIX_SOCKET='' PROXY='')
    case $way in
        direct) environment+=(BASE="http://127.0.0.1:$SERVICE_PORT") ;;
        unix) environment+=(UNIX_SOCKET="$work/http.sock") ;;
        proxy) environment+=(BASE="http://0.0.0.0:$SERVICE_PORT" PROXY="http://127.0.0.1:$http_port") ;;
        shm) environment+=(BASE="http://127.0.0.1:$http_port/shm") ;;
    esac
    env -u NO_PROXY -u no_proxy -u HTTP_PROXY -u http_proxy "${environment[@]}" timeout "$CLIENT_SECONDS_MAX" "$@" >"$work/client.log" 2>&1 ||
        fail "$name, $way" "$work/client.log"
    local held
    held=$(grep -c '^ok ' "$work/client.log")
    ((held > 0)) || fail "$name, $way: checked nothing" "$work/client.log"
    checks=$((checks + held))
    echo "$suite: $name, $way: $held checks"
}
