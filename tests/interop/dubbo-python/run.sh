#!/usr/bin/env bash
# PyPI's dubbo-ssl-python as a consumer of Dubbo Java: a codec and a client of its own.
suite=dubbo-python
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl python3 timeout
install_python
# shellcheck source=../dubbo-java/java.sh
. "$here/../dubbo-java/java.sh"

declare -r JAVA_VERSION=3.3.6

build_java "$JAVA_VERSION"
set_java "$JAVA_VERSION"
free_port
export SERVICE_PORT=$port
start provider "${java[@]}" com.demo.Provider "$SERVICE_PORT"
await "$started" grep -qs '^provider ready' "$work/provider.log" || fail "the provider did not start" "$work/provider.log"

through "dubbo-ssl-python" direct "$python" "$here/consumer.py" "$SERVICE_PORT"
free_port
dubbo_port=$port
start_shmesh <<YAML
listeners:
  - { name: dubbo-out, tcp: 127.0.0.1:$dubbo_port, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, method: "*", group: g1, version: 1.0.0 }, cluster: greeter }
clusters:
  - { name: greeter, endpoints: [ "tcp:127.0.0.1:$SERVICE_PORT" ] }
YAML
through "dubbo-ssl-python" tcp "$python" "$here/consumer.py" "$dubbo_port"
kill -0 "$sidecar" 2>/dev/null || fail "shmesh ended"
passed
