"""Bodies that client and service make alike, and what a client says of its checks."""

import functools
import sys

SIZES = [0, 1, 1000, 16_384, 65_537, 1_048_576, 8_388_608]


@functools.cache
def body(size):
    """Bytes in which no two stretches of 64 KiB are the same."""
    block = bytes(range(256)) * 255
    return b"".join(b"%09d" % i + block for i in range(size // 65_289 + 1))[:size]


def check(name, wanted, got):
    """Says `ok`, or what is wrong, and ends."""
    if wanted != got:
        sys.exit(f"{name}: expected {wanted!r:.200}, got {got!r:.200}")
    print("ok", name, flush=True)


def same(name, wanted, got):
    """As `check`, without printing megabytes."""
    check(name, (len(wanted), True), (len(got), wanted == got))
