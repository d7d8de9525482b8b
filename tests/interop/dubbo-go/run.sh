#!/usr/bin/env bash
# dubbo-go 3.1 as consumer and as provider, with itself and with Dubbo Java, in hessian2. And a provider of dubbo-go gets a frame that only
# sidecars which agreed on it send each other: it must go on serving.
#
#   tests/interop/dubbo-go/run.sh                                  directly: proves the test itself
#   SHMESH=target/release/shmesh tests/interop/dubbo-go/run.sh     then the same through a shmesh
suite=dubbo-go
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl go timeout
# shellcheck source=../dubbo-java/java.sh
. "$here/../dubbo-java/java.sh"

declare -r JAVA_VERSION=3.3.6

mkdir -p "$here/target"
(cd "$here" && GOTOOLCHAIN=local CGO_ENABLED=0 go build -o target/ ./provider ./consumer ./stray) >"$work/build.log" 2>&1 || {
    grep -qE 'dial tcp|no such host|connection refused|i/o timeout' "$work/build.log" && skip "Go cannot fetch what $here/go.sum lists"
    fail "go build" "$work/build.log"
}
build_java "$JAVA_VERSION"
set_java "$JAVA_VERSION"

# provide NAME COMMAND…: a provider on $port.
provide() {
    free_port
    start "$@" "$port"
    await "$started" grep -qs '^provider ready' "$work/$1.log" || fail "$1 did not start" "$work/$1.log"
}

# holds NAME PATTERN LOG: counts the checks in it.
holds() {
    local held
    held=$(grep -ac "$2" "$3")
    ((held > 0)) || fail "$1: checked nothing" "$3"
    checks=$((checks + held))
    echo "$suite: $1: $held checks"
}

# from_go NAME PORT, from_java NAME PORT: all checks.
from_go() {
    # Also what dubbo-go logs is in its standard output.
    timeout "$CLIENT_SECONDS_MAX" "$here/target/consumer" "$2" >"$work/consumer.log" 2>&1 || {
        grep -aE '^FAILED ' "$work/consumer.log" >"$work/first.log"
        cut -c 1-500 "$work/first.log"
        fail "$1" "$work/consumer.log"
    }
    holds "$1" '^ok ' "$work/consumer.log"
}
from_java() {
    local not=(-Dgreet.without-nulls=true -Dgreet.without-stray=true)
    timeout "$CLIENT_SECONDS_MAX" "${java[@]}" "${not[@]}" com.demo.Consumer "$2" hessian2 sidecar >"$work/consumer.log" 2>"$work/consumer.err" || {
        grep -v ': ok$' "$work/consumer.log" | cut -c 1-1000
        fail "$1" "$work/consumer.err"
    }
    holds "$1" ': ok$' "$work/consumer.log"
}

provide provider-go "$here/target/provider"
go_provider=$started go_port=$port
provide provider-java "${java[@]}" com.demo.Provider
java_provider=$started java_port=$port

from_go "dubbo-go to dubbo-go, directly" "$go_port"
from_java "Java to dubbo-go, directly" "$go_port"
from_go "dubbo-go to Java, directly" "$java_port"

# What it cannot read it answers or closes the connection on: that is up to it, but it goes on.
stray=$(timeout "$CLIENT_SECONDS_MAX" "$here/target/stray" "$go_port") || fail "the stray frame cannot be sent"
echo "$suite: a frame of serialization 31 at dubbo-go: $stray"
kill -0 "$go_provider" 2>/dev/null || fail "a frame of serialization 31 ended dubbo-go" "$work/provider-go.log"
from_go "dubbo-go to dubbo-go, after that" "$go_port"

# mesh PROVIDER_PORT: starts a sidecar before it, at $dubbo_port.
mesh() {
    free_port
    dubbo_port=$port
    start_shmesh <<YAML
listeners:
  - { name: dubbo-out, tcp: 127.0.0.1:$dubbo_port, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, method: "*", group: g1, version: 1.0.0 }, cluster: greeter }
clusters:
  - { name: greeter, endpoints: [ "tcp:127.0.0.1:$1" ] }
YAML
}

if [[ -n $shmesh ]]; then
    mesh "$go_port"
    from_go "dubbo-go to dubbo-go, through shmesh" "$dubbo_port"
    from_java "Java to dubbo-go, through shmesh" "$dubbo_port"
    kill "$sidecar"
    wait "$sidecar" || fail "shmesh ended badly"
    mesh "$java_port"
    from_go "dubbo-go to Java, through shmesh" "$dubbo_port"
    kill -0 "$sidecar" 2>/dev/null || fail "shmesh ended"
fi
kill -0 "$java_provider" 2>/dev/null || fail "Java's provider ended" "$work/provider-java.log"
passed
