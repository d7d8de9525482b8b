#!/usr/bin/env bash
# Real Dubbo Java consumers call real Dubbo Java providers, in hessian2 and in fastjson2, with the versions of Dubbo that are in use, also one
# with the other.
#
#   tests/interop/dubbo-java/run.sh                                  directly: proves the test itself
#   SHMESH=target/release/shmesh tests/interop/dubbo-java/run.sh     then the same through a shmesh, and callbacks over connections of the consumer's own
suite=dubbo-java
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl java javac mvn timeout

declare -r VERSIONS="3.3.6 3.2.19"
declare -r SERIALIZATIONS="hessian2 fastjson2"

# shellcheck source=java.sh
. "$here/java.sh"

# consume NAME CONSUMER_VERSION PORT [callbacks]: all checks, in both serializations at once.
consume() {
    local name=$1 serialization consumer consumers=() held
    set_java "$2"
    for serialization in $SERIALIZATIONS; do
        timeout "$CLIENT_SECONDS_MAX" "${java[@]}" com.demo.Consumer "$3" "$serialization" sidecar "${@:4}" \
            >"$work/$serialization.log" 2>"$work/$serialization.err" &
        pids+=($!)
        consumers+=("$!:$serialization")
    done
    for consumer in "${consumers[@]}"; do
        serialization=${consumer#*:}
        wait "${consumer%%:*}" || {
            grep -E ' (INFO|WARN|ERROR) ' "$work/$serialization.err" | head -n 20 >"$work/first.log"
            grep -v ': ok$' "$work/$serialization.log" >>"$work/first.log"
            cut -c 1-1000 "$work/first.log"
            fail "$name, $serialization" "$work/$serialization.err" "$work/provider-$version.log"
        }
        held=$(grep -c ': ok$' "$work/$serialization.log")
        ((held > 0)) || fail "$name, $serialization: checked nothing" "$work/$serialization.log"
        checks=$((checks + held))
        echo "dubbo-java: $name, $serialization: $held checks"
    done
}

for version in $VERSIONS; do
    build_java "$version"
done
for version in $VERSIONS; do
    free_port
    provider_port=$port
    set_java "$version"
    start "provider-$version" "${java[@]}" com.demo.Provider "$provider_port"
    provider=$started
    await "$provider" grep -qs '^provider ready' "$work/provider-$version.log" || fail "the provider did not start" "$work/provider-$version.log"
    consume "$version to $version, directly" "$version" "$provider_port" callbacks

    [[ -n $shmesh ]] || continue
    for own in false true; do
        free_port
        dubbo_port=$port
        start_shmesh <<YAML
listeners:
  - { name: dubbo-out, tcp: 127.0.0.1:$dubbo_port, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, method: "*", group: g1, version: 1.0.0 }, cluster: greeter }
clusters:
  - { name: greeter, endpoints: [ "tcp:127.0.0.1:$provider_port" ], connection_pool_per_downstream_connection: $own }
YAML
        if [[ $own == true ]]; then
            consume "$version to $version, through shmesh, connections of its own" "$version" "$dubbo_port" callbacks
        else
            for consumer_version in $VERSIONS; do
                consume "$consumer_version to $version, through shmesh" "$consumer_version" "$dubbo_port"
            done
        fi
        kill -0 "$sidecar" 2>/dev/null || fail "shmesh ended"
        kill "$sidecar"
        wait "$sidecar"
    done
    kill "$provider"
    wait "$provider"
done
passed
