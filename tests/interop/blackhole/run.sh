#!/usr/bin/env bash
# Endpoints that vanish without a word, in a network namespace: the packet filter drops what goes to them and what comes from them; what was
# connected stays so, as far as the sidecar can know. And endpoints that cannot be reached, with a word.
suite=blackhole
if [[ -z ${BLACKHOLE_NAMESPACE:-} ]]; then
    inside=$(unshare --net -- true 2>&1) || {
        echo "$suite: skipped: no network namespace can be made here: $inside"
        exit 78
    }
    SHMESH=$(realpath -- "${SHMESH:?the binary}") BLACKHOLE_NAMESPACE=1 exec unshare --net -- bash "$0" "$@"
fi
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs ip iptables curl python3

service=10.78.0.1
ip link set lo up && ip addr add "$service/32" dev lo || cannot "the namespace's interface cannot be set up"
refusal=$(iptables -A INPUT -p tcp --dport 9 -j DROP 2>&1) || cannot "the kernel takes no rules of the packet filter: $refusal"
ip route add unreachable 10.78.0.9/32 || cannot "the kernel takes no route that leads nowhere"

# vanish PORT, appear PORT: both directions. A new connection is dropped as well.
vanish() {
    iptables -A INPUT -p tcp --dport "$1" -j DROP && iptables -A INPUT -p tcp --sport "$1" -j DROP || fail "the filter takes no rule"
}
appear() {
    iptables -D INPUT -p tcp --dport "$1" -j DROP && iptables -D INPUT -p tcp --sport "$1" -j DROP || fail "the filter keeps a rule"
}

# serve NAME PORT
serve() {
    (cd "$work" && exec python3 "$here/service.py" "$service" "$2" "$1") >"$work/$1.log" 2>&1 &
    started=$!
    pids+=("$started")
    await "$started" reaches "$2" || fail "the service does not listen on $2" "$work/$1.log"
}
reaches() { (exec 3<>"/dev/tcp/$service/$1") 2>/dev/null; }

# metric NAME: the sum over its labels that contain $2.
metric() {
    curl -s --max-time 30 "http://127.0.0.1:$admin_port/metrics" |
        awk -v name="$1" -v label="${2:-}" 'index($0, name "{") == 1 && index($0, label) || $1 == name { sum += $NF } END { print sum + 0 }'
}
is_metric() { [[ $(metric "$1" "$2") == "$3" ]]; }

# ask METHOD HOST
ask() {
    curl -s -o /dev/null -w '%{http_code} %header{x-shmesh-reason}' --max-time 60 -X "$1" -H "host: $2" ${3:+-d "$3"} "http://127.0.0.1:$http_port/${4:-}"
}
seen() { grep -c -- "$2" "$work/$1.seen"; }

serve idle 8003
serve vanishing 8001
serve other 8002
serve forgetful 8004; forgetful=$started
start dubbo "$shmesh" echo --protocol dubbo --listen "tcp:$service:20880"
await "$started" reaches 20880 || fail "shmesh echo does not listen" "$work/dubbo.log"
free_port; http_port=$port
free_port; dubbo_port=$port
free_port; raw_port=$port
start_shmesh <<CONF
workers: 1
listeners:
  - { name: http, tcp: 127.0.0.1:$http_port, protocol: http }
  - { name: dubbo, tcp: 127.0.0.1:$dubbo_port, protocol: dubbo }
  - { name: raw, tcp: 127.0.0.1:$raw_port, protocol: raw, cluster: hasty }
routes:
  - { match: { host: hasty }, cluster: hasty }
  - { match: { host: both }, cluster: both }
  - { match: { host: patient }, cluster: patient }
  - { match: { host: nowhere }, cluster: nowhere }
  - { match: { host: unrouted }, cluster: unrouted }
  - { match: { service: "*" }, cluster: providers }
clusters:
  - { name: hasty, endpoints: [ "tcp:$service:8003" ], unacknowledged_timeout: 2s }
  - { name: both, endpoints: [ "tcp:$service:8001", "tcp:$service:8002" ], unacknowledged_timeout: 6s }
  - { name: patient, endpoints: [ "tcp:$service:8004" ], unacknowledged_timeout: 1h }
  - { name: nowhere, endpoints: [ "tcp:10.78.0.9:80" ] }
  - { name: unrouted, endpoints: [ "tcp:10.99.0.9:80" ] }
  - { name: providers, endpoints: [ "tcp:$service:20880" ], unacknowledged_timeout: 2s }
timeouts: { first_byte: 1h, idle: 1h }
CONF
to_idle="endpoint=\"tcp:$service:8003\""
to_provider="endpoint=\"tcp:$service:20880\""

# ---- connecting ---------------------------------------------------------------------------------------------------

expect "a host that cannot be reached" "503 upstream-refused" "$(ask GET nowhere)"
expect "a network that cannot be reached" "503 upstream-refused" "$(ask GET unrouted)"
vanish 8001
vanish 8003
expect "nobody answers a SYN" "504 connect-timeout" "$(ask GET hasty)"
expect "nobody answers a SYN, and there is another endpoint" "200 200 " "$(ask POST both a)$(ask POST both b)"
appear 8001
appear 8003

# ---- connected and idle -------------------------------------------------------------------------------------------

expect "a call before" "200 " "$(ask GET hasty)"
expect "an idle connection is kept" 1 "$(metric shmesh_endpoint_connections "$to_idle")"
vanish 8003
await "$sidecar" is_metric shmesh_endpoint_connections "$to_idle" 0 || fail "an idle connection to a peer that vanished is kept"
checks=$((checks + 1))
appear 8003
expect "a call on a new connection" "200 " "$(ask POST hasty a)"

dubbo_call() {
    "$shmesh" call --via "tcp:127.0.0.1:$dubbo_port" --dubbo com.demo.GreetService sayHello --arg there >"$work/call" 2>"$work/call.err"
}
dubbo_call || fail "a Dubbo call" "$work/call.err"
expect "a shared connection is kept" 1 "$(metric shmesh_endpoint_connections "$to_provider")"
vanish 20880
await "$sidecar" is_metric shmesh_endpoint_connections "$to_provider" 0 || fail "a shared connection to a provider that vanished is kept"
appear 20880
dubbo_call || fail "a Dubbo call on a new connection" "$work/call.err"
checks=$((checks + 2))

# ---- a request on a connection whose peer has vanished ----------------------------------------------------------------

# Two calls, so that each endpoint has an idle connection. It is used long before its silence ends it.
expect "calls to both" "200 200 " "$(ask GET both)$(ask GET both)"
vanish 8001
expect "what is harmless comes to the other endpoint" "200 200 " "$(ask GET both '' one)$(ask GET both '' two)"
expect "by a second attempt" 1 "$(metric shmesh_upstream_retries_total)"
appear 8001
expect "calls to both again" "200 200 " "$(ask GET both)$(ask GET both)"
vanish 8001
posts="$(ask POST both a) $(ask POST both b)"
case $posts in
    "502 upstream-died 200 " | "200  502 upstream-died") checks=$((checks + 1)) ;;
    *) fail "what may have run is not sent again: '$posts'" ;;
esac
appear 8001

# ---- half open: the peer has forgotten the connection and resets it at the next bytes ------------------------------------

# forget: the connections that the service has are gone on its side only.
forget() {
    vanish 8004
    kill -KILL "$forgetful"
    wait "$forgetful" 2>/dev/null
    appear 8004
    serve forgetful 8004
    forgetful=$started
}
expect "a call before" "200 " "$(ask GET patient)"
forget
before=$(metric shmesh_upstream_retries_total)
expect "a GET on a connection that the peer has forgotten" "200 " "$(ask GET patient '' forgotten)"
expect "by a second attempt" $((before + 1)) "$(metric shmesh_upstream_retries_total)"
expect "which ran once" 1 "$(seen forgetful forgotten)"
forget
expect "a POST on a connection that the peer has forgotten" "502 upstream-died" "$(ask POST patient a posted)"
expect "which did not run" 0 "$(seen forgetful posted)"

expect "shmesh still runs" 200 "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$admin_port/ready")"
passed
