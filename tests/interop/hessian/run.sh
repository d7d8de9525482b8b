#!/usr/bin/env bash
# npm's hessian.js against what shmesh knows of Hessian2, with random graphs of everything that can be encoded:
#
#   the walker over arguments ends where hessian.js ends and finds in the attachments what hessian.js finds, for a hundred thousand bodies;
#   with bodies in which something was changed, too, wherever both read them
#   calls go through a shmesh whose routes ask for the group behind the arguments
#
# HESSIAN_SEED takes other graphs than those of each day, HESSIAN_FRAMES more or fewer of them.
suite=hessian
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs cargo curl node npm

declare -r FRAMES=${HESSIAN_FRAMES:-100000}
declare -r CALLS=3000
# Other ones on each driver, as the walker does not know of drivers.
case $driver in
    epoll) seed=${HESSIAN_SEED:-2} ;;
    *) seed=${HESSIAN_SEED:-1} ;;
esac

install_node

# ---- the walker -------------------------------------------------------------------------------------------------

frames=$work/frames
timeout "$CLIENT_SECONDS_MAX" node "$here/frames.js" "$seed" "$FRAMES" "$frames" >"$work/frames.log" 2>&1 || fail "frames.js $seed" "$work/frames.log"
(cd "$here" && SHMESH_HESSIAN_FRAMES=$frames timeout "$CLIENT_SECONDS_MAX" cargo test -q -p shmesh-proto --lib -- \
    --ignored --nocapture the_walker_ends_where_hessian_js_ends) >"$work/walker.log" 2>&1 || fail "the walker, seed $seed" "$work/walker.log"
told=$(grep ' bodies as encoded; ' "$work/walker.log") || fail "the walker, seed $seed: no test" "$work/walker.log"
echo "$suite: seed $seed: $told"
expect "bodies, seed $seed" "$FRAMES" "${told%% *}"
rm -f -- "$frames"

# ---- calls ------------------------------------------------------------------------------------------------------

free_port; yes_port=$port
free_port; no_port=$port
free_port; dubbo_port=$port
start providers node "$here/providers.js" "$yes_port" "$no_port"
await "$started" listens "$yes_port" && await "$started" listens "$no_port" || fail "the providers do not start" "$work/providers.log"
start_shmesh <<YAML
workers: 1
listeners:
  - { name: dubbo-out, tcp: 127.0.0.1:$dubbo_port, protocol: dubbo }
routes:
  - { match: { service: com.demo.GreetService, method: "*", group: g1 }, cluster: "yes" }
  - { match: { service: com.demo.GreetService, method: "*" }, cluster: "no" }
clusters:
  - { name: "yes", endpoints: [ "tcp:127.0.0.1:$yes_port" ] }
  - { name: "no", endpoints: [ "tcp:127.0.0.1:$no_port" ] }
YAML
timeout "$CLIENT_SECONDS_MAX" node "$here/consumer.js" "$seed" "$CALLS" "$dubbo_port" >"$work/consumer.log" 2>&1 ||
    fail "calls through shmesh, seed $seed" "$work/consumer.log" "$work/providers.log"
grep -q '^ok ' "$work/consumer.log" || fail "calls through shmesh: checked nothing" "$work/consumer.log"
checks=$((checks + CALLS))
kill -0 "$sidecar" 2>/dev/null || fail "shmesh ended"
passed
