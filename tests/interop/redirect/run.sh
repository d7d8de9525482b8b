#!/usr/bin/env bash
# Connections that the packet filter redirects to shmesh, in a network namespace: with the rules of docs/REDIRECT.md, word for word, both
# iptables and nftables. curl, Python and `shmesh call` are clients that know nothing of it.
suite=redirect
if [[ -z ${REDIRECT_NAMESPACE:-} ]]; then
    # Two users are needed, one of them excluded by the rules: so this takes root, or nothing.
    inside=$(unshare --net -- true 2>&1) || {
        echo "$suite: skipped: no network namespace can be made here: $inside"
        exit 78
    }
    SHMESH=$(realpath -- "${SHMESH:?the binary}") REDIRECT_NAMESPACE=1 exec unshare --net -- bash "$0" "$@"
fi
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs ip iptables nft setpriv curl python3

page=$here/../../../docs/REDIRECT.md
# Where the services are. A client never names a listener of shmesh.
service=10.77.0.1
service6=fd77::1
# As in the rules.
sidecar_uid=1337

# code LANGUAGE NUMBER: a block of the page.
code() {
    awk -v open="\`\`\`$1" -v wanted="$2" '$0 == open { n++; on = n == wanted; next } $0 == "```" { on = 0 } on' "$page"
}

# requests LISTENER CODE: how many calls were counted.
requests() {
    curl -s "http://127.0.0.1:15000/metrics" |
        sed -n "s/^shmesh_requests_total{listener=\"$1\",cluster=\"passthrough\",code=\"$2\"} //p"
}

# raw_echo ADDRESS PORT
raw_echo() {
    python3 - "$1" "$2" <<'PY'
import socket, sys
text = b"through the filter" * 1000
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as wire:
    wire.sendall(text)
    wire.shutdown(socket.SHUT_WR)
    got = b""
    while piece := wire.recv(65536):
        got += piece
print("same" if got == text else f"{len(got)} of {len(text)} bytes")
PY
}

status() {
    curl -s -o "$work/body" -w '%{http_code} %header{x-shmesh-reason}' --max-time 30 "$@"
}

ip link set lo up && ip addr add "$service/32" dev lo || cannot "the namespace's interface cannot be set up"
for filter in "iptables -t nat -S" "ip6tables -t nat -S" "nft list ruleset"; do
    refusal=$($filter 2>&1) || cannot "the kernel refuses \`$filter\`: $refusal"
done
ip -6 addr add "$service6/128" dev lo nodad 2>/dev/null

# serve PROTOCOL ADDRESS
serve() {
    start "echo-$1-${2//[^0-9a-z]/-}" "$shmesh" echo --protocol "$1" --listen "tcp:$2"
}
if ip -6 addr show dev lo | grep -q "$service6"; then
    serve http "[$service6]:80"
    serve raw "[$service6]:7777"
fi
serve http "$service:80"
serve raw "$service:7777"
serve dubbo "$service:20880"
is_served() { (exec 3<>"/dev/tcp/$service/$1") 2>/dev/null; }
for port in 80 7777 20880; do
    await "$started" is_served "$port" || fail "shmesh echo does not listen on $port" "$work"/echo-*.log
done

chmod 755 "$work"
cp -- "$shmesh" "$work/sidecar" && chmod 755 "$work/sidecar" || fail "the binary cannot be copied"
# As on the page, and the same listeners for IPv6 behind its last one.
{
    echo "admin: { address: 127.0.0.1:15000 }"
    code yaml 1 | sed '/name: tcp-out/ {
        p; h
        g; s/tcp-out/tcp-out-6/; s/127.0.0.1:15003/"[::1]:15003"/p
        s/.*/  - { name: http-out-6, tcp: "[::1]:15001", protocol: http }/
    }'
} >"$work/shmesh.yaml"
chmod 644 "$work/shmesh.yaml"
start shmesh setpriv --reuid "$sidecar_uid" --regid "$sidecar_uid" --clear-groups \
    "$work/sidecar" run --config "$work/shmesh.yaml" --driver "$driver"
admin_port=15000
await "$started" is_ready || fail "shmesh does not start"

# ---- without rules ----------------------------------------------------------------------------------------------

expect "a connection that nothing redirected" "503 not-redirected" "$(status http://127.0.0.1:15001/)"
expect "what it was told" 1 "$(grep -c 'docs/REDIRECT.md' "$work/body")"
expect "raw bytes that nothing redirected" "0 of 18000 bytes" \
    "$(raw_echo 127.0.0.1 15003 2>/dev/null || echo "0 of 18000 bytes")"
expect "without rules nobody is redirected" "" "$(requests http-out 200)"

# ---- with them --------------------------------------------------------------------------------------------------

# calls NAME COUNT: the calls of all protocols, which were counted so often before.
calls() {
    local name=$1 before=$2 count
    for count in 1 2 3; do
        expect "$name: HTTP" "200 " "$(status -d "hello $count" "http://$service/a?b=$count")"
        expect "$name: HTTP, what came back" "hello $count" "$(cat "$work/body")"
    done
    expect "$name: HTTP went through shmesh" $((before + 3)) "$(requests http-out 200)"
    expect "$name: other TCP" same "$(raw_echo "$service" 7777)"
    "$shmesh" call --via "tcp:$service:20880" --dubbo com.demo.GreetService sayHello --arg there >"$work/dubbo" 2>"$work/dubbo.err" ||
        fail "$name: Dubbo" "$work/dubbo.err"
    expect "$name: Dubbo went through shmesh" $((before / 3 + 1)) "$(requests dubbo-out 20)"
    expect "$name: nobody listens there" "503 upstream-refused" "$(status http://10.77.0.2/)"
    expect "$name: the listener itself" "503 not-redirected" "$(status http://127.0.0.1:15001/)"
}

ip addr add 10.77.0.2/32 dev lo
code sh 1 >"$work/rules.sh"
bash -e "$work/rules.sh" >"$work/rules.log" 2>&1 || skip "the kernel takes no iptables rules: $(tail -n 1 "$work/rules.log")"
calls iptables 0
iptables -t nat -F && iptables -t nat -X || fail "the rules do not go away"

if ip -6 addr show dev lo | grep -q "$service6"; then
    code sh 1 | sed 's/iptables/ip6tables/; s|127.0.0.0/8|::1/128|' >"$work/rules.sh"
    bash -e "$work/rules.sh" >"$work/rules.log" 2>&1 || skip "the kernel takes no ip6tables rules: $(tail -n 1 "$work/rules.log")"
    expect "IPv6: HTTP" "200 " "$(status -d hello "http://[$service6]/")"
    expect "IPv6: what came back" hello "$(cat "$work/body")"
    expect "IPv6: HTTP went through shmesh" 1 "$(requests http-out-6 200)"
    expect "IPv6: other TCP" same "$(raw_echo "$service6" 7777)"
    expect "IPv6: the listener itself" "503 not-redirected" "$(status 'http://[::1]:15001/')"
    ip6tables -t nat -F && ip6tables -t nat -X || fail "the rules do not go away"
else
    echo "$suite: IPv6 is not looked at: the namespace has none"
fi

code sh 2 >"$work/rules.sh"
bash -e "$work/rules.sh" >"$work/rules.log" 2>&1 || skip "the kernel takes no nftables rules: $(tail -n 1 "$work/rules.log")"
calls nftables 3
nft delete table ip shmesh
expect "shmesh still runs" 200 "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:15000/ready)"
passed
