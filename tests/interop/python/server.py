"""A service on Python's http.server: server.py PORT HTTP/1.0|HTTP/1.1"""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bodies import body

PIECE = 10_000
connections = 0


class Service(BaseHTTPRequestHandler):
    # Head and body are two writes, and the second one is not to wait until the first one is acknowledged.
    disable_nagle_algorithm = True

    def setup(self):
        global connections
        connections += 1
        super().setup()

    def do_GET(self):
        path, _, rest = self.path.lstrip("/").partition("/")
        if path == "bytes":
            self.answer(200, body(int(rest)))
        elif path == "pieces":
            self.answer_in_pieces(body(int(rest)))
        elif path == "no-content":
            self.answer(204)
        elif path == "not-modified":
            self.answer(304, None, ("ETag", '"the-same"'))
        elif path == "redirect":
            self.answer(302, b"elsewhere", ("Location", "/bytes/10"))
        elif path == "gzip":
            self.answer(200, gzip.compress(body(50_000), mtime=0), ("Content-Encoding", "gzip"))
        elif path == "connections":
            self.answer(200, str(connections).encode())
        else:
            self.answer(404, b"what?")

    do_HEAD = do_GET

    def do_POST(self):
        self.answer(200, self.request_body())

    do_PUT = do_POST

    def request_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            assert self.rfile.readline() == b"\r\n"
        assert self.rfile.readline() == b"\r\n"
        return b"".join(parts)

    def answer(self, status, content=None, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        # An HTTP/1.0 server need not tell the length: the end of the connection does.
        if content is not None and self.protocol_version == "HTTP/1.1":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if content and self.command != "HEAD":
            self.wfile.write(content)

    def answer_in_pieces(self, content):
        chunked = self.protocol_version == "HTTP/1.1"
        self.send_response(200)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(content), PIECE):
            piece = content[start : start + PIECE]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_request(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    Service.protocol_version = sys.argv[2]
    Server(("0.0.0.0", int(sys.argv[1])), Service).serve_forever()
