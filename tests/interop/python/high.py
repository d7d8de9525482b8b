"""Python's requests against the service that BASE leads to, through PROXY if that is set."""

import os
from concurrent.futures import ThreadPoolExecutor

import requests
from bodies import SIZES, body, check, same

THREADS = 16
REQUESTS_PER_THREAD = 20
TIMEOUT_S = 60

base = os.environ["BASE"]
proxy = os.environ["PROXY"]
if proxy:
    # As an operator would set it: requests finds it in the environment.
    os.environ["http_proxy"] = proxy

session = requests.Session()


def pieces(size):
    for start in range(0, size, 7000):
        yield body(size)[start : start + 7000]


for size in SIZES:
    same(f"POST {size}", body(size), session.post(f"{base}/echo", data=body(size), timeout=TIMEOUT_S).content)
    answer = session.post(f"{base}/echo", data=pieces(size), timeout=TIMEOUT_S)
    same(f"POST {size} from a generator", body(size), answer.content)

if os.environ["WAY"] != "shm":
    for size in SIZES:
        same(f"GET {size}", body(size), session.get(f"{base}/bytes/{size}", timeout=TIMEOUT_S).content)
        with session.get(f"{base}/pieces/{size}", stream=True, timeout=TIMEOUT_S) as answer:
            same(f"GET {size} as a stream", body(size), b"".join(answer.iter_content(9999)))

    answer = session.get(f"{base}/redirect", timeout=TIMEOUT_S)
    check("a redirect that is followed", ([302], 200), ([step.status_code for step in answer.history], answer.status_code))
    same("what it leads to", body(10), answer.content)
    answer = session.get(f"{base}/gzip", timeout=TIMEOUT_S)
    check("what gzip packed stays packed", "gzip", answer.headers["Content-Encoding"])
    same("and can be unpacked", body(50_000), answer.content)
    answer = session.head(f"{base}/bytes/1000", timeout=TIMEOUT_S)
    check("HEAD", (200, b""), (answer.status_code, answer.content))
    check("204", (204, b""), (lambda a: (a.status_code, a.content))(session.get(f"{base}/no-content", timeout=TIMEOUT_S)))
    check("304", (304, b""), (lambda a: (a.status_code, a.content))(session.get(f"{base}/not-modified", timeout=TIMEOUT_S)))


def many(thread):
    own = requests.Session()
    for request in range(REQUESTS_PER_THREAD):
        content = b"%d/%d " % (thread, request) + body(request * 997)
        answer = own.post(f"{base}/echo", data=content, timeout=TIMEOUT_S)
        if answer.status_code != 200 or answer.content != content:
            return f"{answer.status_code}, {len(answer.content)} bytes for {len(content)}"
    return "all"


with ThreadPoolExecutor(THREADS) as threads:
    check(f"{THREADS} threads", {"all"}, set(threads.map(many, range(THREADS))))
