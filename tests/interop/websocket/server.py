"""A WebSocket service that sends back what comes: server.py PORT"""

import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

ended = []
lock = threading.Lock()


def answer(connection):
    path = connection.request.path
    try:
        if path == "/bye":
            connection.close(4001, "bye")
        elif path == "/ended":
            # What the other connections ended with, for a client that wants to know.
            for _ in connection:
                with lock:
                    connection.send(" ".join(ended))
        else:
            for message in connection:
                connection.send(message)
    except ConnectionClosed:
        pass
    if path.startswith("/named-"):
        with lock:
            ended.append(f"{path}:{connection.close_code}")


if __name__ == "__main__":
    options = {"max_size": None, "subprotocols": ["second"]}
    with serve(answer, "127.0.0.1", int(sys.argv[1]), **options) as server:
        server.serve_forever()
