"""An HTTP service that says its name and how often it was asked. When it is killed its connections are reset, and nothing of them is left."""
import socket
import struct
import sys
import threading

address, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def serve(wire):
    with wire, wire.makefile("rwb") as file:
        while line := file.readline():
            length = 0
            while (field := file.readline().strip().lower()) != b"":
                if field.startswith(b"content-length:"):
                    length = int(field.split(b":")[1])
            file.read(length)
            with open(f"{name}.seen", "ab") as seen:
                seen.write(line)
            file.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name.encode()))
            file.flush()


with socket.create_server((address, port)) as listener:
    while True:
        wire, _ = listener.accept()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(wire,), daemon=True).start()
