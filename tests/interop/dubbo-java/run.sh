#!/usr/bin/env bash
# A real Dubbo Java consumer calls a real Dubbo Java provider, in hessian2 and in fastjson2.
#
#   tests/interop/dubbo-java/run.sh                                  directly: proves the test itself
#   SHMESH=target/release/shmesh tests/interop/dubbo-java/run.sh     then the same through a shmesh
#
# SHMESH_DRIVER picks the driver (auto, uring, epoll). Exits with 0 if every check holds, 1 if one does not,
# 77 if the machine lacks what this needs, which it names.
set -uo pipefail

shmesh=${SHMESH:+$(realpath -- "$SHMESH")}
cd "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1

declare -r START_SECONDS_MAX=60
declare -r CONSUMER_SECONDS_MAX=60

work=
pids=()

clean_up() {
    for pid in ${pids[@]+"${pids[@]}"}; do
        kill "$pid" 2>/dev/null
    done
    # A process that does not end by itself within three seconds is not waited for.
    for pid in ${pids[@]+"${pids[@]}"}; do
        for _ in {1..30}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null
    done
    [[ -n $work ]] && rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

skip() {
    echo "dubbo-java: skipped: $1"
    exit 77
}

fail() {
    echo "dubbo-java: FAILED: $1"
    [[ $# -gt 1 && -f $2 ]] && tail -n 40 -- "$2" | cut -c 1-300
    exit 1
}

listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A port below the ephemeral range on which nobody listens; chosen ones are remembered in `ports`.
ports=" "
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        [[ $ports == *" $port "* ]] || listens "$port" || break
    done
    ports+="$port "
    chosen=$port
}

# await SECONDS PID COMMAND…: until the command succeeds, as long as the process lives.
await() {
    local deadline=$((SECONDS + $1)) pid=$2
    shift 2
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || return 1
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

build() {
    local built=target/built
    if [[ -f $built && -z $(find pom.xml src -newer "$built") ]]; then
        return
    fi
    mkdir -p target
    local maven=(mvn -q -B compile dependency:build-classpath -Dmdep.outputFile=target/classpath)
    "${maven[@]}" --offline >target/maven.log 2>&1 || "${maven[@]}" >target/maven.log 2>&1 || {
        if grep -qE 'Could not (resolve|transfer)|Unknown host|Connection (refused|timed out)' target/maven.log; then
            skip "Maven cannot fetch org.apache.dubbo:dubbo (see $PWD/target/maven.log)"
        fi
        fail "mvn compile" target/maven.log
    }
    touch "$built"
}

for tool in java javac mvn timeout; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[[ -z ${SHMESH:-} || -x $shmesh ]] || fail "SHMESH=$SHMESH is no program"
build

work=$(mktemp -d)
# Dubbo connects to the address of a network interface when it is told 127.0.0.1 or localhost, so the consumer
# gets another name for the loopback interface.
echo "127.0.0.1 localhost sidecar $(hostname)" >"$work/hosts"
java=(
    java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
    -Djdk.net.hosts.file="$work/hosts" -Ddubbo.application.logger=slf4j -Duser.home="$work"
    -cp "target/classes:$(<target/classpath)"
)

free_port
provider_port=$chosen
"${java[@]}" com.demo.Provider "$provider_port" >"$work/provider.log" 2>&1 &
provider=$!
pids+=("$provider")
await "$START_SECONDS_MAX" "$provider" grep -qs '^provider ready' "$work/provider.log" ||
    fail "the provider did not start" "$work/provider.log"

failures=0
# consume NAME PORT: all checks, in both serializations.
consume() {
    local serialization
    for serialization in hessian2 fastjson2; do
        echo "== $1, $serialization"
        timeout "$CONSUMER_SECONDS_MAX" "${java[@]}" com.demo.Consumer "$2" "$serialization" sidecar \
            2>"$work/consumer.log" || {
            failures=$((failures + 1))
            echo "== $1, $serialization: FAILED"
            tail -n 20 "$work/consumer.log" | cut -c 1-300
        }
    done
}

consume direct "$provider_port"

if [[ -n $shmesh ]]; then
    free_port
    admin_port=$chosen
    free_port
    dubbo_port=$chosen
    cat >"$work/shmesh.yaml" <<YAML
admin: { address: 127.0.0.1:$admin_port }
listeners:
  - { name: dubbo-out, tcp: 127.0.0.1:$dubbo_port, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, method: "*", group: g1, version: 1.0.0 }, cluster: greeter }
clusters:
  - { name: greeter, endpoints: [ "tcp:127.0.0.1:$provider_port" ] }
YAML
    "$shmesh" run --config "$work/shmesh.yaml" --driver "${SHMESH_DRIVER:-auto}" >"$work/shmesh.log" 2>&1 &
    sidecar=$!
    pids+=("$sidecar")
    await "$START_SECONDS_MAX" "$sidecar" listens "$dubbo_port" || fail "shmesh did not start" "$work/shmesh.log"
    consume "through shmesh" "$dubbo_port"
    kill -0 "$sidecar" 2>/dev/null || fail "shmesh ended" "$work/shmesh.log"
    ((failures == 0)) || tail -n 20 "$work/shmesh.log" | cut -c 1-300
fi

((failures == 0)) || fail "$failures of the runs"
echo "dubbo-java: passed"
