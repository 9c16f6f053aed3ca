"""An HTTP server of Python's own library, which takes any white space in a request line and any method. It answers
with the identity header that it received."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def __getattr__(self, name):
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self.answer

    def answer(self):
        identity = self.headers.get("X-Forwarded-Client-Cert", "").encode("latin-1")
        self.send_response(200)
        self.send_header("Content-Length", str(len(identity)))
        self.end_headers()
        self.wfile.write(identity)

    def log_message(self, *_):
        pass


host, port = sys.argv[1].rsplit(":", 1)
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
