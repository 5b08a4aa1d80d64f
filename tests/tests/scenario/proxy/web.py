"""`web.py PORT`: a web server of both families that says whom it sees, and keeps connections."""

import http.server
import socket
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        text = f"server saw {self.client_address[0].removeprefix('::ffff:')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


Server(("::", int(sys.argv[1])), Answer).serve_forever()
