#!/usr/bin/env bash
# curl as the client, nginx as the service, shmesh between them: over TCP, a Unix socket, as a forward proxy, and `shmesh call`
# over shared memory. Every body is compared byte for byte.
suite=http
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl nginx

free_port; nginx_port=$port
free_port; echo_port=$port
free_port; http_port=$port

# ---- the services -----------------------------------------------------------------------------------------------

mkdir "$work/www"
for size in 0 1 4096 16384 65537 1048576 67108864; do
    head -c "$size" /dev/urandom >"$work/www/$size"
done
start_nginx "$nginx_port" <<CONF
        listen unix:$work/nginx.sock;
        location /no-content { return 204; }
        location /proxied { return 200 "proxied\n"; }
        location /gone { return 410 "gone\n"; }
        # Answers of unknown length: nginx sends them in chunks.
        location /chunked/ { alias $work/www/; sub_filter nothing-has-this nothing; sub_filter_types *; }
        location /close/ { alias $work/www/; keepalive_timeout 0; }
CONF
start echo "$shmesh" echo --protocol http --listen "tcp:127.0.0.1:$echo_port"
await "$started" listens "$echo_port" || fail "shmesh echo does not start" "$work/echo.log"

start_shmesh <<CONF
listeners:
  - { name: apps, shm: $work/shmesh.sock }
  - { name: http-uds, unix: $work/http.sock, protocol: http }
  - { name: http-out, tcp: 127.0.0.1:$http_port, protocol: http }
routes:
  - { match: { host: reviews, path_prefix: / }, cluster: reviews }
  - { match: { host: over-unix }, cluster: over-unix }
  - { match: { host: echo }, cluster: echo }
  - { match: { path_prefix: /proxied }, cluster: anywhere }
  - { match: { path_prefix: /, method: CONNECT }, cluster: tunnels }
clusters:
  - { name: reviews, endpoints: [ "tcp:127.0.0.1:$nginx_port" ] }
  - { name: over-unix, endpoints: [ "unix:$work/nginx.sock" ] }
  - { name: echo, endpoints: [ "tcp:127.0.0.1:$echo_port" ] }
  - { name: anywhere, dynamic_forward_proxy: true }
  - { name: tunnels, dynamic_forward_proxy: true, connect_ports: [ $nginx_port ] }
CONF

get() { curl -sS --max-time 60 "$@"; }

# ---- down -------------------------------------------------------------------------------------------------------

for size in 0 1 4096 16384 65537 1048576 67108864; do
    for where in "" chunked/ close/; do
        get -H 'Host: reviews' "http://127.0.0.1:$http_port/$where$size" -o "$work/got" || fail "GET /$where$size over TCP"
        same "GET /$where$size over TCP" "$work/got" "$work/www/$size"
    done
    get --unix-socket "$work/http.sock" "http://reviews/$size" -o "$work/got" || fail "GET /$size over UDS"
    same "GET /$size over UDS" "$work/got" "$work/www/$size"
    get -H 'Host: over-unix' "http://127.0.0.1:$http_port/$size" -o "$work/got" || fail "GET /$size to a Unix upstream"
    same "GET /$size to a Unix upstream" "$work/got" "$work/www/$size"
    "$shmesh" call --via "shm:$work/shmesh.sock" --http GET "http://reviews/$size" >"$work/got" || fail "GET /$size over shm"
    same "GET /$size over shm" "$work/got" "$work/www/$size"
done

# ---- up, and down again -------------------------------------------------------------------------------------------

for size in 0 1 4096 65537 1048576 67108864; do
    file=$work/www/$size
    get -H 'Host: echo' -T "$file" "http://127.0.0.1:$http_port/" -o "$work/got" || fail "PUT $size over TCP"
    same "PUT $size over TCP" "$work/got" "$file"
    # curl 7.88 never sends the last chunk of an empty upload, to any server.
    if ((size)); then
        get -H 'Host: echo' -H 'Transfer-Encoding: chunked' -T "$file" "http://127.0.0.1:$http_port/" -o "$work/got" ||
            fail "PUT $size in chunks over TCP"
        same "PUT $size in chunks over TCP" "$work/got" "$file"
    fi
    get --unix-socket "$work/http.sock" -T "$file" http://echo/ -o "$work/got" || fail "PUT $size over UDS"
    same "PUT $size over UDS" "$work/got" "$file"
    "$shmesh" call --via "shm:$work/shmesh.sock" --http PUT http://echo/ --data "@$file" >"$work/got" || fail "PUT $size over shm"
    same "PUT $size over shm" "$work/got" "$file"
done

# ---- what surrounds the bodies ------------------------------------------------------------------------------------

base=http://127.0.0.1:$http_port
code() { get -o /dev/null -w '%{http_code}' "$@"; }
expect "HEAD" "200 65537" "$(get -I -H 'Host: reviews' -o /dev/null -w '%{http_code} %header{content-length}' "$base/65537" 2>/dev/null || true)"
expect "204" 204 "$(code -H 'Host: reviews' "$base/no-content")"
expect "410" 410 "$(code -H 'Host: reviews' "$base/gone")"
expect "404 of the service" 404 "$(code -H 'Host: reviews' "$base/is-not-there")"
expect "a range" "206 10" "$(get -r 0-9 -H 'Host: reviews' -o /dev/null -w '%{http_code} %{size_download}' "$base/4096")"
expect "HTTP/1.0" 200 "$(code -0 -H 'Host: reviews' "$base/4096")"
expect "no route" 404 "$(code -H 'Host: nobody' "$base/")"
expect "HTTP/2 with prior knowledge is refused" 1 "$(curl -sS --max-time 10 --http2-prior-knowledge -H 'Host: reviews' "$base/1" >/dev/null 2>&1 && echo 0 || echo 1)"
# The echo service says 100 as soon as it has the head.
expect "Expect" "100 200" "$(get -v -H 'Host: echo' -H 'Expect: 100-continue' -T "$work/www/65537" "$base/" -o /dev/null 2>&1 |
    sed -n 's/^< HTTP\/1.1 \([0-9]*\).*/\1/p' | xargs)"
expect "as a forward proxy" 200 "$(code -x "$base" "http://127.0.0.1:$nginx_port/proxied")"
expect "as a forward proxy, by name" 200 "$(code -x "$base" "http://localhost:$nginx_port/proxied")"
# Through a tunnel, where curl does not know whether it speaks to nginx; and to a port that is not allowed.
for size in 1 65537 67108864; do
    get --proxytunnel -x "$base" "http://localhost:$nginx_port/$size" -o "$work/got" || fail "GET /$size through a tunnel"
    same "GET /$size through a tunnel" "$work/got" "$work/www/$size"
done
expect "a tunnel to another port" 405 "$(get --proxytunnel -x "$base" -o /dev/null -w '%{http_connect}' "http://127.0.0.1:$echo_port/" 2>/dev/null)"
# Many requests on one connection, and none of them fails although nginx closes some.
urls=()
for i in {1..200}; do
    if ((i % 3)); then urls+=("$base/1"); else urls+=("$base/close/1"); fi
done
codes=$(get -H 'Host: reviews' $(printf -- '-o /dev/null %.0s' "${urls[@]}") -w '%{http_code}\n' "${urls[@]}" | sort | uniq -c | xargs)
expect "200 requests in a row" "200 200" "$codes"

passed
