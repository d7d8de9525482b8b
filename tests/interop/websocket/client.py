"""websockets against the service that BASE or UNIX_SOCKET leads to."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

SIZES = [0, 1, 125, 126, 65_535, 65_536, 1_048_576, 8_388_608]
CLIENTS = 20
MESSAGES_PER_CLIENT = 100
TIMEOUT_S = 60

base = os.environ["BASE"].replace("http", "ws", 1)
unix = os.environ["UNIX_SOCKET"]


def check(name, wanted, got):
    """Says `ok`, or what is wrong, and ends."""
    if wanted != got:
        sys.exit(f"{name}: expected {wanted!r:.200}, got {got!r:.200}")
    print("ok", name, flush=True)


def dial(path, **options):
    # A service that has subprotocols takes nobody without.
    options = {"subprotocols": ["first", "second"], "max_size": None, "open_timeout": TIMEOUT_S, "close_timeout": TIMEOUT_S, **options}
    if unix:
        return unix_connect(unix, f"ws://service{path}", **options)
    return connect(base + path, proxy=None, **options)


def body(size):
    return (b"%08d" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size] if size < 100_000 else os.urandom(size)


for compression in [None, "deflate"]:
    with dial("/echo", compression=compression) as socket:
        name = f"compression {compression}"
        check(f"{name}: the subprotocol", "second", socket.subprotocol)
        check(f"{name}: extensions", 0 if compression is None else 1, len(socket.protocol.extensions))
        for size in SIZES:
            content = body(size)
            socket.send(content)
            check(f"{name}: {size} bytes", True, socket.recv(TIMEOUT_S) == content)
        socket.send("é 中文 😀")
        check(f"{name}: text", "é 中文 😀", socket.recv(TIMEOUT_S))
        socket.send(iter(["in ", "three ", "fragments"]))
        check(f"{name}: fragments", "in three fragments", socket.recv(TIMEOUT_S))
        check(f"{name}: a ping is answered", True, socket.ping().wait(TIMEOUT_S))

socket = dial("/bye")
try:
    socket.recv(TIMEOUT_S)
    check("the service closes", "closed", "open")
except ConnectionClosed as closed:
    check("the service closes", (4001, "bye"), (closed.rcvd.code, closed.rcvd.reason))

me = f"/named-{os.environ['WAY']}"
with dial(f"{me}-closes") as socket:
    socket.close(4002, "enough")
leaver = dial(f"{me}-leaves")
leaver.socket.shutdown(2)
leaver.socket.close()
with dial("/ended") as socket:
    wanted = {f"{me}-closes:4002", f"{me}-leaves:1006"}
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        socket.send("who?")
        seen = wanted & set(socket.recv(TIMEOUT_S).split())
        if seen == wanted or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    check("the service hears how clients ended", wanted, seen)


def many(client):
    with dial("/echo") as own:
        for message in range(MESSAGES_PER_CLIENT):
            text = f"{client}/{message} " + "x" * (message * 37)
            own.send(text)
            if own.recv(TIMEOUT_S) != text:
                return "another message"
    return "all"


with ThreadPoolExecutor(CLIENTS) as threads:
    check(f"{CLIENTS} clients", {"all"}, set(threads.map(many, range(CLIENTS))))
