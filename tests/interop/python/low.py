"""Python's http.client against the service that BASE or UNIX_SOCKET leads to."""

import http.client
import os
import socket
from urllib.parse import urlsplit

from bodies import SIZES, body, check, same

REQUESTS_IN_A_ROW = 200
CONNECTIONS_MAX = 5

base = urlsplit(os.environ["BASE"])
way = os.environ["WAY"]
old = False


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.environ["UNIX_SOCKET"])


def connect():
    kind = UnixConnection if os.environ["UNIX_SOCKET"] else http.client.HTTPConnection
    return kind(base.hostname, base.port, timeout=60)


connection = connect()


def ask(method, path, content=None, **headers):
    connection.request(method, base.path + path, content, headers)
    response = connection.getresponse()
    return response, response.read()


for size in SIZES:
    name = f"POST {size}"
    response, got = ask("POST", "/echo", body(size))
    same(name, body(size), got)
    pieces = (body(size)[start : start + 7000] for start in range(0, size, 7000))
    connection.request("PUT", base.path + "/echo", pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    same(f"PUT {size} in chunks", body(size), connection.getresponse().read())

if way != "shm":
    old = ask("GET", "/bytes/10")[0].headers["Content-Length"] is None
    for size in SIZES:
        same(f"GET {size}", body(size), ask("GET", f"/bytes/{size}")[1])
        same(f"GET {size} in pieces", body(size), ask("GET", f"/pieces/{size}")[1])
        response, got = ask("HEAD", f"/bytes/{size}")
        check(f"HEAD {size}", (200, None if old else str(size), b""), (response.status, response.headers["Content-Length"], got))
        same(f"GET {size} behind HEAD", body(size), ask("GET", f"/bytes/{size}")[1])

    response, got = ask("GET", "/no-content")
    check("204", (204, b"", None), (response.status, got, response.headers["Transfer-Encoding"]))
    response, got = ask("GET", "/not-modified", **{"If-None-Match": '"the-same"'})
    check("304", (304, b"", '"the-same"'), (response.status, got, response.headers["ETag"]))
    response, got = ask("GET", "/redirect")
    check("302 as it is", (302, b"elsewhere", "/bytes/10"), (response.status, got, response.headers["Location"]))
    response, got = ask("GET", "/nowhere")
    check("404", (404, b"what?"), (response.status, got))

    before = int(ask("GET", "/connections")[1])
    kept = connection.sock
    for _ in range(REQUESTS_IN_A_ROW):
        _, got = ask("GET", "/bytes/100")
        assert got == body(100)
    if not old:
        check("requests in a row on one connection", True, connection.sock is kept)
        after = int(ask("GET", "/connections")[1])
        check("few connections to the service", True, after - before <= CONNECTIONS_MAX)

    # Callers that go away in the midst of an answer harm nobody else.
    for _ in range(20):
        leaver = connect()
        leaver.request("GET", base.path + "/bytes/8388608")
        leaver.getresponse().read(1000)
        leaver.close()
    same("GET after others went away", body(1000), ask("GET", "/bytes/1000")[1])
