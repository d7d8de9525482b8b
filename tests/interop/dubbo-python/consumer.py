"""Calls com.demo.GreetService of dubbo-java at PORT through dubbo-ssl-python and checks what comes back."""

import sys
from concurrent.futures import ThreadPoolExecutor

from dubbo_ssl.client import DubboClient
from dubbo_ssl.codec.encoder import Object
from dubbo_ssl.common.exceptions import DubboResponseException

THREADS = 16
CALLS = 320
SECONDS_MAX = 120

# It names an old version of Dubbo, so that answers come without attachments, which it does not read.
greeter = DubboClient("com.demo.GreetService", "g1", version="1.0.0", host=f"127.0.0.1:{sys.argv[1]}")


def call(method, *arguments):
    return greeter.call(method, list(arguments), timeout=SECONDS_MAX)


def equal(name, wanted, got):
    assert got == wanted, f"{name}: {str(got)[:300]!r} instead of {str(wanted)[:300]!r}"
    print(f"ok {name}", flush=True)


equal("a string", "hello shmesh", call("sayHello", "shmesh"))
equal("written in hessian2", 2, call("serialization"))
equal("text beyond ASCII", "é 中文 end", call("same", "é 中文 end"))
equal("the empty string", "", call("same", ""))
for units in (31, 32, 1023, 1024, 0x7FFF):
    text = "x" * units
    equal(f"{units} letters", text, call("same", text))
# It reads no longer texts, and writes none that takes chunks.
equal(f"{0xFFFF} letters as an argument", 0, call("noted", "x" * 0xFFFF))

address = Object("com.demo.Person$Address", {"street": "St James's Square", "number": 12})
ada = Object("com.demo.Person", {"name": "Ada", "age": 36, "id": 0x1234_5678_9ABC, "height": 1.65, "home": address})
got = call("samePerson", ada)
equal("an object", ("Ada", 36, 0x1234_5678_9ABC, 1.65), tuple(got[name] for name in ("name", "age", "id", "height")))
equal("an object in it", {"street": "St James's Square", "number": 12}, dict(got["home"]))
equal("fields that were not sent", (None, None), (got["work"], got["born"]))

try:
    call("fail", "no tea", 42)
    raise SystemExit("a business exception: nothing was thrown")
except DubboResponseException as thrown:
    equal("a business exception", True, "no tea" in str(thrown))

try:
    call("isNotThere")
    raise SystemExit("a method that is not there: nothing was thrown")
except DubboResponseException as thrown:
    equal("a method that is not there", True, "isNotThere" in str(thrown))

with ThreadPoolExecutor(THREADS) as threads:
    answers = list(threads.map(lambda number: call("sayHello", f"{number} " + "y" * (37 * (number % 50))), range(CALLS)))
equal(f"{CALLS} calls of {THREADS} threads", [f"hello {number} " + "y" * (37 * (number % 50)) for number in range(CALLS)], answers)
