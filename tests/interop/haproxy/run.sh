#!/usr/bin/env bash
# HAProxy on both sides of shmesh, and curl before it all:
#
#   curl → shmesh → HAProxy → nginx, or an answer of HAProxy's own
#   curl → HAProxy, with health checks → shmesh → HAProxy → nginx
suite=haproxy
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl nginx haproxy

declare -r SIZES="0 1 4096 65537 1048576 8388608"
declare -r REQUESTS_IN_A_ROW=200
declare -r PARALLEL=16

free_port; nginx_port=$port
free_port; haproxy_port=$port
free_port; impatient_port=$port
free_port; front_port=$port
free_port; http_port=$port

mkdir "$work/www"
for size in $SIZES; do
    head -c "$size" /dev/urandom >"$work/www/$size"
done
start_nginx "$nginx_port" <<CONF
        location /chunked/ { alias $work/www/; sub_filter nothing-has-this nothing; sub_filter_types *; }
CONF

# shmesh first, as HAProxy checks its health from the start on. What HAProxy does not answer itself goes to nginx; uploads go to `shmesh echo`.
start_shmesh <<CONF
workers: 1
listeners:
  - { name: apps, shm: $work/shmesh.sock }
  - { name: http-out, tcp: 127.0.0.1:$http_port, protocol: http }
routes:
  - { match: { path_prefix: / }, cluster: haproxy }
  - { match: { path_prefix: /impatient }, cluster: impatient }
  - { match: { path_prefix: /shm }, cluster: echo-app }
clusters:
  - { name: haproxy, endpoints: [ "tcp:127.0.0.1:$haproxy_port" ] }
  - { name: impatient, endpoints: [ "tcp:127.0.0.1:$impatient_port" ] }
  - { name: echo-app, endpoints: [ "shm:echo" ] }
CONF
start echo "$shmesh" echo --protocol http --listen "shm:$work/shmesh.sock" --name echo
free_port; echo_port=$port
start echo-tcp "$shmesh" echo --protocol http --listen "tcp:127.0.0.1:$echo_port"
await "$started" listens "$echo_port" || fail "shmesh echo does not start" "$work/echo-tcp.log"

cat >"$work/haproxy.cfg" <<CONF
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 10s
    # Taken by all that come later.
    compression algo gzip
    compression type text/plain
frontend service
    bind 127.0.0.1:$haproxy_port
    http-request return status 200 content-type text/plain string "from haproxy" if { path /own }
    http-request return status 204 if { path /no-content }
    http-request return status 413 content-type text/plain string "too much" if { path /refuse }
    http-request redirect location /4096 code 302 if { path /redirect }
    use_backend closing if { path_beg /closing/ }
    use_backend echo if { path /echo }
    default_backend nginx
backend nginx
    server nginx 127.0.0.1:$nginx_port
backend closing
    option httpclose
    http-request set-path %[path,regsub(^/closing,)]
    server nginx 127.0.0.1:$nginx_port
backend echo
    server echo 127.0.0.1:$echo_port
frontend impatient
    bind 127.0.0.1:$impatient_port
    # Shorter than shmesh keeps a connection.
    timeout http-keep-alive 100ms
    http-request return status 200 content-type text/plain string "from haproxy"
frontend front
    bind 127.0.0.1:$front_port
    default_backend shmesh
backend shmesh
    option httpchk GET /own
    http-reuse always
    server shmesh 127.0.0.1:$http_port check inter 100ms
CONF
start haproxy haproxy -db -f "$work/haproxy.cfg"
await "$started" listens "$haproxy_port" || fail "HAProxy does not start" "$work/haproxy.log"
is_up() { [[ $(curl -s --max-time 10 "http://127.0.0.1:$front_port/own") == "from haproxy" ]]; }
await "$started" is_up || fail "HAProxy does not find shmesh healthy" "$work/haproxy.log"
shm_serves() { [[ $(curl -s --max-time 10 -d ready "http://127.0.0.1:$http_port/shm") == ready ]]; }
await "$sidecar" shm_serves || fail "shmesh echo does not serve over shared memory" "$work/echo.log"

get() { curl -sS --max-time 60 "$@"; }
# HAProxy 2.6 hangs where a body that waited for 100 is answered before it has come, as `shmesh echo` does; so it is not waited for, but
# where HAProxy answers itself.
put() { get -H Expect: "$@"; }
code() { get -o /dev/null -w '%{http_code}' "$@"; }

# all_through NAME PORT
all_through() {
    local name=$1 base=http://127.0.0.1:$2 size where
    for size in $SIZES; do
        for where in "" chunked/ closing/; do
            get "$base/$where$size" -o "$work/got" || fail "$name: GET /$where$size"
            same "$name: GET /$where$size" "$work/got" "$work/www/$size"
        done
        for where in echo shm; do
            put -T "$work/www/$size" "$base/$where" -o "$work/got" || fail "$name: PUT $size to /$where"
            same "$name: PUT $size to /$where" "$work/got" "$work/www/$size"
            # curl 7.88 never sends the last chunk of an empty upload, to any server.
            if ((size)); then
                put -H 'Transfer-Encoding: chunked' -T "$work/www/$size" "$base/$where" -o "$work/got" || fail "$name: PUT $size in chunks to /$where"
                same "$name: PUT $size in chunks to /$where" "$work/got" "$work/www/$size"
            fi
        done
    done
    expect "$name: an answer of HAProxy's own" "from haproxy" "$(get "$base/own")"
    expect "$name: HEAD" "200 65537" "$(get -I -o /dev/null -w '%{http_code} %header{content-length}' "$base/65537")"
    expect "$name: 204" 204 "$(code "$base/no-content")"
    expect "$name: 302" "302 /4096" "$(get -o /dev/null -w '%{http_code} %header{location}' "$base/redirect")"
    expect "$name: 304" 304 "$(code -H "If-None-Match: $(get -o /dev/null -w '%header{etag}' "$base/4096")" "$base/4096")"
    get --compressed "$base/4096" -o "$work/got" || fail "$name: GET, gzip accepted"
    same "$name: GET, gzip accepted" "$work/got" "$work/www/4096"
    # A client that sends on may find its upload broken before it reads the answer (000), also without a sidecar; no other answer comes.
    expect "$name: 413 while 8 MB are being sent" yes \
        "$([[ $(code -T "$work/www/8388608" "$base/refuse" 2>/dev/null) =~ ^(413|000)$ ]] && echo yes)"
    expect "$name: Expect, and 413 instead of 100" "413" \
        "$(get -v -H 'Expect: 100-continue' -T "$work/www/65537" "$base/refuse" -o /dev/null 2>&1 | sed -n 's/^< HTTP\/1.1 \([0-9]*\).*/\1/p' | xargs)"

    # HAProxy closes some of the connections, or those that were idle for long: no request may fail for it.
    local urls=() i
    for ((i = 0; i < REQUESTS_IN_A_ROW; i++)); do
        if ((i % 3)); then urls+=("$base/1"); else urls+=("$base/closing/1"); fi
    done
    expect "$name: requests in a row" "$REQUESTS_IN_A_ROW 200" \
        "$(get $(printf -- '-o /dev/null %.0s' "${urls[@]}") -w '%{http_code}\n' "${urls[@]}" | sort | uniq -c | xargs)"
    for i in {1..10}; do
        sleep "0.$(printf %03d $((60 + 6 * i)))"
        expect "$name: a request about when HAProxy closes" 200 "$(code "$base/impatient")"
    done
    expect "$name: $PARALLEL at a time" "$REQUESTS_IN_A_ROW 200" \
        "$(get --parallel --parallel-max "$PARALLEL" $(printf -- '-o /dev/null %.0s' "${urls[@]}") -w '%{http_code}\n' "${urls[@]}" | sort | uniq -c | xargs)"
}
all_through "curl, shmesh, HAProxy" "$http_port"
all_through "curl, HAProxy, shmesh, HAProxy" "$front_port"
passed
