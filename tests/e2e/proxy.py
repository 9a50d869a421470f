"""A forward proxy on loopback: CONNECT and absolute URLs, with a list of what passed."""

import base64
import http.server
import select
import socket
import threading
import urllib.parse


class _Exchange(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, format, *args):
        pass

    def _granted(self):
        wanted = self.server.credentials
        if wanted and self.headers.get("Proxy-Authorization") != f"Basic {wanted}":
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        return True

    def do_CONNECT(self):
        if not self._granted():
            return
        host, _, port = self.path.rpartition(":")
        self.server.passed.append(("CONNECT", self.path, dict(self.headers)))
        with socket.create_connection((host, int(port)), timeout=self.timeout) as far:
            self.send_response(200)
            self.end_headers()
            self._carry(far)
        self.close_connection = True

    def do_GET(self):
        if not self._granted():
            return
        url = urllib.parse.urlsplit(self.path)
        self.server.passed.append((self.command, self.path, dict(self.headers)))
        with socket.create_connection((url.hostname, url.port), timeout=self.timeout) as far:
            target = urllib.parse.urlunsplit(("", "", url.path, url.query, ""))
            lines = [f"{self.command} {target} HTTP/1.1", "Connection: close"]
            lines += [f"{k}: {v}" for k, v in self.headers.items() if not k.startswith("Proxy-")]
            far.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            while piece := far.recv(1 << 16):
                self.wfile.write(piece)
        self.close_connection = True

    do_HEAD = do_GET

    def _carry(self, far):
        """Bytes both ways until one side ends."""
        near = self.connection
        while True:
            for end in select.select([near, far], [], [], self.timeout)[0] or [None]:
                piece = end.recv(1 << 16) if end else b""
                if not piece:
                    return
                (far if end is near else near).sendall(piece)


class Proxy(http.server.ThreadingHTTPServer):
    """Ends with close(). `passed` has (method, target, headers) of every request that was granted."""

    daemon_threads = True

    def __init__(self, user="", password=""):
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.passed = []
        self.credentials = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # connections that a test cut

    def close(self):
        self.shutdown()
        self.server_close()
