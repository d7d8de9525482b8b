# The Java provider and consumer: how they are built and run. Sourced by suites that let them talk, after suite.sh; goes to their folder.
# shellcheck shell=bash disable=SC2034
needs java javac mvn

cd "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1

# build_java VERSION: into target/VERSION.
build_java() {
    local target=target/$1
    if [[ -f $target/built && -z $(find pom.xml src -newer "$target/built") ]]; then
        return
    fi
    mkdir -p "$target"
    local maven=(mvn -q -B -Ddubbo.version="$1" compile dependency:build-classpath -Dmdep.outputFile="$target/classpath")
    "${maven[@]}" --offline >"$target/maven.log" 2>&1 || "${maven[@]}" >"$target/maven.log" 2>&1 || {
        if grep -qE 'Could not (resolve|transfer)|Unknown host|Connection (refused|timed out)' "$target/maven.log"; then
            skip "Maven cannot fetch org.apache.dubbo:dubbo:$1 (see $PWD/$target/maven.log)"
        fi
        fail "mvn compile" "$target/maven.log"
    }
    touch "$target/built"
}

# Dubbo connects to the address of a network interface when it is told 127.0.0.1 or localhost, so the consumer
# gets another name for the loopback interface.
echo "127.0.0.1 localhost sidecar $(hostname)" >"$work/hosts"
# set_java VERSION: sets `java` to the command that runs with this Dubbo. What 3.2 reads exceptions with looks into the JDK's own classes.
set_java() {
    java=(
        java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
        --add-opens=java.base/java.lang=ALL-UNNAMED -Djdk.net.hosts.file="$work/hosts" -Ddubbo.application.logger=slf4j -Duser.home="$work"
        -cp "target/$1/classes:$(<"target/$1/classpath")"
    )
}
