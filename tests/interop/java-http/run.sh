#!/usr/bin/env bash
# Java's HttpClient as the client, in HTTP/1.1 and as it is by default, where it offers to go on in HTTP/2; the JDK's own HttpServer as the
# service.
suite=java-http
# shellcheck source=../suite.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../suite.sh"
needs curl java javac

javac -d "$work/classes" "$here/Bodies.java" "$here/Service.java" "$here/Client.java" >"$work/javac.log" 2>&1 || fail "javac" "$work/javac.log"
# -Dsun.net.httpserver.nodelay: head and body are two writes, and the second one is not to wait until the first one is acknowledged.
java=(java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dsun.net.httpserver.nodelay=true -cp "$work/classes")

free_port
export SERVICE_PORT=$port
start service "${java[@]}" Service "$port"
await "$started" listens "$port" || fail "the service does not start" "$work/service.log"

through "HttpClient" direct "${java[@]}" Client HTTP_1_1
start_http_shmesh "$SERVICE_PORT"
for way in tcp proxy shm; do
    through "HttpClient" "$way" "${java[@]}" Client HTTP_1_1
    through "HttpClient that offers h2c" "$way" "${java[@]}" Client HTTP_2
done
passed
