#!/usr/bin/env python3
"""A small Hugging Face hub for one machine: the demo's hub, and the tests' fake hub.

Serves a directory of repositories (repositories.py) over the Hub's protocol: revisions, listings in pages,
files. Small files come from the hub's port; LFS files by a redirect to a second port, the "CDN", with a
signed URL that expires. Prints one JSON line with its two ports when it is ready.

POST /_ctl or GET /_ctl?command=JSON, from this machine only, does what the JSON has, in this order:
  {"clear": ["faults", "log", "settings"]}     as they were at the start
  {"set": {"page_size": 2, ...}}      settings; see Settings
  {"change": {"ORG/NAME": {"branches": {"main": "v2"}, "gated": "auto"}}}   as in .hub.json
  {"add": [{"kind": "cut", ...}]}     faults; see faults.py
GET /_ctl/log answers with the requests so far. Python's standard library only.
"""

import argparse
import base64
import dataclasses
import hashlib
import hmac
import http.server
import json
import math
import os
import pathlib
import re
import secrets
import select
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.parse

from faults import Faults
from repositories import Repositories

PIECE = 4 << 20
BAD_TOKEN = "Invalid credentials in Authorization header"
DISABLED = "Access to this resource is disabled."


@dataclasses.dataclass
class Settings:
    """What a command may change while the server runs."""

    page_size: int = 1000  # entries of a listing in one answer
    url_ttl_s: float = 3600  # life of a signed URL
    resolve_cache: bool = False  # small files by a relative 307, as the public hub does
    tokens: list | None = None  # the only good tokens; None: every token is good
    quotas: dict | None = None  # {"api": 5, "resolvers": 9, "window_s": 60}: requests of a window


class Hub:
    """What both ports share."""

    def __init__(self, root, lfs_threshold, settings):
        self.repositories = Repositories(root, lfs_threshold)
        self.faults = Faults()
        self.defaults = settings
        self.settings = dataclasses.replace(settings)
        self.key = secrets.token_bytes(32)
        self.hub_url = self.cdn_url = ""
        self._lock = threading.Lock()
        self._log = []
        self._window_end = 0.0
        self._spent = {}

    def spend(self, kind):
        """Takes one request out of its quota: (headers that say what is left, whether it was there)."""
        quotas = self.settings.quotas or {}
        if kind not in quotas:
            return {}, True
        with self._lock:
            now = time.monotonic()
            if now >= self._window_end:
                self._window_end, self._spent = now + quotas["window_s"], {}
            self._spent[kind] = self._spent.get(kind, 0) + 1
            left = quotas[kind] - self._spent[kind]
            reset = math.ceil(self._window_end - now)
        policy = f'"fixed window";"{kind}";q={quotas[kind]};w={quotas["window_s"]}'
        return {"RateLimit": f'"{kind}";r={max(left, 0)};t={reset}', "RateLimit-Policy": policy}, left >= 0

    def record(self, entry):
        with self._lock:
            self._log.append(entry)

    def log(self):
        with self._lock:
            return [dict(entry) for entry in self._log]

    def control(self, command):
        unknown = set(command) - {"clear", "set", "change", "add"}
        if unknown:
            raise ValueError(f"unknown commands: {sorted(unknown)}")
        if "faults" in command.get("clear", []):
            self.faults.clear()
        if "settings" in command.get("clear", []):
            self.settings = dataclasses.replace(self.defaults)
        if "log" in command.get("clear", []):
            with self._lock:
                self._log = []
        self.settings = dataclasses.replace(self.settings, **command.get("set", {}))
        for repo_id, settings in command.get("change", {}).items():
            self.repositories.change(repo_id, settings)
        for fault in command.get("add", []):
            self.faults.add(fault)

    def signature(self, sha256, expires):
        return hmac.new(self.key, f"{sha256}:{expires}".encode(), hashlib.sha256).hexdigest()

    def signed_url(self, sha256):
        expires = f"{time.time() + self.settings.url_ttl_s:.3f}"
        query = urllib.parse.urlencode({"Expires": expires, "Signature": self.signature(sha256, expires)})
        return f"{self.cdn_url}/lfs/{sha256[:2]}/{sha256}?{query}"


class Refusal(Exception):
    """An answer that is an error of the protocol."""

    def __init__(self, status, code=None, message="", headers=None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        if code:
            self.headers["X-Error-Code"] = code
        if message:
            self.headers["X-Error-Message"] = message


def parse_range(header, size):
    """(first, last) of a single byte range, None without one; Refusal when it is not satisfiable."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if not match or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        first, last = max(0, size - int(last)), size - 1
    else:
        first, last = int(first), min(int(last or size - 1), size - 1)
    if first > last or first >= size:
        raise Refusal(416, headers={"Content-Range": f"bytes */{size}"})
    return first, last


class Exchange(http.server.BaseHTTPRequestHandler):
    """One connection of a client; what both ports do alike."""

    protocol_version = "HTTP/1.1"
    server_version = "modeld-demo-hub"
    disable_nagle_algorithm = True
    timeout = 300
    port_name = ""
    on = "any"
    limit = {}  # what every answer says of the quota

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, format, *args):
        pass  # the request log is GET /_ctl/log

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        raw, _, self.query = self.path.partition("?")
        self.parts = [urllib.parse.unquote(p) for p in raw.split("/")[1:]]
        if self.parts[0] == "_ctl":
            self.control()
            return
        self.on = self.kind_of_request()
        path = urllib.parse.unquote(raw)
        self.entry = {
            "port": self.port_name, "on": self.on, "method": self.command, "path": path,
            "query": self.query if self.port_name == "hub" else "", "range": self.headers.get("Range"),
            "status": 0, "bytes": 0, "had_token": "Authorization" in self.headers,
            "connection": self.client_address[1],
        }  # fmt: skip
        self.fault = self.hub.faults.take(self.on, self.command, path)
        self.hub.record(self.entry)
        self.limit, granted = self.hub.spend("resolvers" if self.on == "resolve" else self.on)
        try:
            if not granted:
                raise Refusal(429, message="We had to rate limit you.")
            self.answer()
        except Refusal as refusal:
            self.send_json({"error": refusal.message or "refused"}, refusal.status, refusal.headers)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def answer(self):
        """Carries out the faults that come before any honest work, then the work."""
        for kind in ("cut", "stall"):
            if self.fault.get(kind, {}).get("bytes", 0) == -1:
                self.break_off(kind)
                return
        if "status" in self.fault:
            fault = self.fault["status"]
            body = fault.get("body", "").encode()
            self.send_whole(fault["status"], fault.get("headers", {}), body)
        elif "redirect" in self.fault:
            own = f"http://{self.headers['Host']}{self.path}"
            self.send_whole(302, {"Location": self.fault["redirect"]["location"].replace("{self}", own)})
        else:
            self.serve()

    def break_off(self, kind):
        """Ends the connection at once, or when the client does."""
        self.close_connection = True
        if self.fault[kind].get("fin"):
            return
        if kind == "stall":
            poll = select.poll()
            poll.register(self.connection, select.POLLIN | select.POLLRDHUP)
            poll.poll(self.timeout * 1000)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def send_head(self, status, headers):
        replaced = self.fault.get("headers", {}).get("headers", {}) if status < 400 else {}
        headers = {k: v for k, v in headers.items() if k.lower() not in {r.lower() for r in replaced}}
        headers.update({k: v for k, v in self.limit.items() if k not in replaced})
        headers.update({k: v for k, v in replaced.items() if v is not None})
        self.entry["status"] = status
        self.send_response(status)
        for name, value in headers.items():
            text = str(value).replace("{cdn}", self.hub.cdn_url).replace("{hub}", self.hub.hub_url)
            self.send_header(name, text)
        self.end_headers()

    def send_whole(self, status, headers, body=b""):
        self.entry["bytes"] = len(body) if self.command != "HEAD" else 0
        self.send_head(status, {"Content-Length": len(body), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value, status=200, headers=None):
        body = json.dumps(value).encode()
        if status < 400 and "body" in self.fault:
            body = self.fault["body"]["body"].encode()
        self.send_whole(status, {"Content-Type": "application/json", **(headers or {})}, body)

    def send_file(self, entry, headers):
        """The file or the range asked for, with the faults of bodies."""
        asked = None if "ignore_range" in self.fault else parse_range(self.headers.get("Range"), entry.size)
        first, last = asked or (0, entry.size - 1)
        if "truncate" in self.fault:
            last = min(last, first + self.fault["truncate"]["bytes"] - 1)
        status = 206 if asked else 200
        headers = {
            "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes",
            "Content-Length": last - first + 1, **headers,
        }  # fmt: skip
        if asked:
            shift = self.fault.get("wrong_range", {}).get("shift", 0)
            headers["Content-Range"] = f"bytes {first + shift}-{last + shift}/{entry.size}"
        if self.command == "HEAD":
            self.send_head(status, headers)
            return
        with open(entry.source, "rb") as file:
            self.send_head(status, headers)
            self.send_body(file, first, last + 1)

    def send_body(self, file, at, end):
        """Bytes [at, end) of the file: by sendfile, unless a fault must look at them."""
        limits = [(f["bytes"], kind) for kind, f in self.fault.items() if kind in ("cut", "stall")]
        limit, broken = min(limits, default=(None, None))
        stop = end if limit is None else min(end, at + limit)
        pace = self.fault.get("drip", {}).get("bytes_per_s")
        piece = PIECE if pace is None else max(1, min(PIECE, pace // 20))
        corrupt = self.fault.get("corrupt", {}).get("offset")
        while at < stop:
            started = time.monotonic()
            count = min(piece, stop - at)
            self.entry["bytes"] += count  # before the client can have seen it
            sent = 0
            try:
                if corrupt is not None and at <= corrupt < at + count:
                    sent = self.send_corrupted(file, at, count, corrupt)
                else:
                    sent = self.send_piece(file, at, count)
            finally:
                self.entry["bytes"] -= count - sent
            if sent == 0:
                raise BrokenPipeError("the file became shorter")
            at += sent
            if pace is not None:
                time.sleep(max(0.0, sent / pace - (time.monotonic() - started)))
        if broken and stop < end:
            self.break_off(broken)

    def send_piece(self, file, at, count):
        """os.sendfile works on the descriptor below a socket with a timeout, which does not block."""
        if isinstance(self.connection, ssl.SSLSocket):  # the kernel has no keys
            piece = os.pread(file.fileno(), count, at)
            self.connection.sendall(piece)
            return len(piece)
        while True:
            try:
                return os.sendfile(self.connection.fileno(), file.fileno(), at, count)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.connection, select.POLLOUT)
                if not poll.poll(self.timeout * 1000):
                    raise TimeoutError("the client does not read") from None

    def send_corrupted(self, file, at, count, corrupt):
        piece = bytearray(os.pread(file.fileno(), count, at))
        piece[corrupt - at] ^= 0xFF
        self.connection.sendall(piece)
        return len(piece)

    def do_POST(self):
        raw, _, self.query = self.path.partition("?")
        self.parts = raw.split("/")[1:]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.control(body)

    def control(self, body=None):
        self.fault, self.entry, self.limit = {}, {}, {}
        if not self.client_address[0].startswith("127."):
            self.send_json({"error": "only from this machine"}, 403)
        elif self.parts == ["_ctl", "log"]:
            self.send_json(self.hub.log())
        elif self.parts == ["_ctl"]:
            try:
                self.hub.control(json.loads(body or urllib.parse.parse_qs(self.query)["command"][0]))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                self.send_json({"error": repr(error)}, 400)
                return
            self.send_json({})
        else:
            self.send_json({"error": "not found"}, 404)


class HubExchange(Exchange):
    """The hub's own origin."""

    port_name = "hub"

    def kind_of_request(self):
        return "api" if self.parts[0] == "api" and self.parts[1:2] != ["resolve-cache"] else "resolve"

    def serve(self):
        parts = self.parts
        if parts[:2] == ["api", "models"]:
            self.serve_api(parts[2:])
        elif parts[:3] == ["api", "resolve-cache", "models"] and len(parts) > 6:
            repository = self.repository("/".join(parts[3:5]), body=True)
            self.serve_file(repository, parts[5], "/".join(parts[6:]), cached=True)
        elif "resolve" in parts[1:3] and len(parts) > parts.index("resolve") + 2:
            at = parts.index("resolve")
            repository = self.repository("/".join(parts[:at]), body=True)
            self.serve_file(repository, parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            raise Refusal(404, message="Sorry, we can't find the page you are looking for.")

    def token(self):
        """The token of the request, None without one; a wrong one is refused."""
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        token = header.removeprefix("Bearer ")
        known = self.hub.settings.tokens
        if token == header or (known is not None and token not in known):
            raise Refusal(401, message=BAD_TOKEN)
        return token

    def repository(self, repo_id, body=False):
        """The repository, if this client may see it (and its files, for `body`)."""
        token = self.token()
        repository = self.hub.repositories.find(repo_id)
        settings = repository.settings if repository else {}
        granted = token is not None and token in settings.get("tokens", [token])
        if repository is None or (settings.get("private") and not granted):
            if token is None:
                raise Refusal(401, "RepoNotFound", "Invalid username or password.")
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if settings.get("disabled"):
            raise Refusal(403, message=DISABLED)
        if body and settings.get("gated") and not granted:
            message = f"Access to model {repo_id} is restricted."
            raise Refusal(401 if token is None else 403, "GatedRepo", message)
        return repository

    def commit(self, repository, revision):
        commit = self.hub.repositories.commit(repository, revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def serve_api(self, parts):
        verbs = [i for i in (1, 2) if parts[i : i + 1] and parts[i] in ("revision", "tree", "refs")]
        at = verbs[0] if verbs else len(parts)
        repository = self.repository("/".join(parts[:at]))
        rest = parts[at:]
        if not rest or (rest[0] == "revision" and len(rest) == 2):
            self.serve_info(repository, self.commit(repository, rest[1] if rest else "main"))
        elif rest[0] == "tree" and len(rest) >= 2:
            self.serve_tree(repository, self.commit(repository, rest[1]), "/".join(rest[2:]))
        elif rest == ["refs"]:
            self.serve_refs(repository)
        else:
            raise Refusal(404, message="no such route")

    def serve_info(self, repository, commit):
        siblings = []
        for entry in commit.entries.values():
            sibling = {"rfilename": entry.path}
            if "blobs" in urllib.parse.parse_qs(self.query):
                sibling.update(size=entry.size, blobId=entry.oid)
                if entry.sha256:
                    sibling["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": 134}
            siblings.append(sibling)
        settings = repository.settings
        self.send_json({
            "_id": commit.id[:24], "id": repository.id, "modelId": repository.id, "sha": commit.id,
            "author": repository.id.partition("/")[0], "private": bool(settings.get("private")),
            "gated": settings.get("gated", False), "disabled": False, "tags": [], "downloads": 0,
            "likes": 0, "siblings": siblings,
        })  # fmt: skip

    def serve_tree(self, repository, commit, below):
        query = urllib.parse.parse_qs(self.query)
        listing = tree_of(commit, below, query.get("recursive", ["false"])[0].lower() in ("1", "true"))
        if below and not listing:
            raise Refusal(404, "EntryNotFound", f"{below} does not exist on {commit.id}")
        cursor = query.get("cursor", [""])[0]
        first = int(base64.urlsafe_b64decode(cursor)) if cursor else 0
        after = first + self.hub.settings.page_size
        headers = {}
        if after < len(listing):
            query["cursor"] = [base64.urlsafe_b64encode(str(after).encode()).decode()]
            path = self.path.partition("?")[0]
            url = f"{self.hub.hub_url}{path}?{urllib.parse.urlencode(query, doseq=True)}"
            headers["Link"] = f'<{url}>; rel="next"'
        page = listing[first:after]
        if "listing" in self.fault:
            page = ([] if self.fault["listing"].get("replace") else page) + self.fault["listing"]["entries"]
        self.send_json(page, headers=headers)

    def serve_refs(self, repository):
        branches, tags = self.hub.repositories.refs(repository)

        def rows(names, kind):
            commits = {n: self.hub.repositories.commit(repository, n) for n in names}
            return [
                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c.id}
                for n, c in commits.items() if c
            ]  # fmt: skip

        self.send_json({"branches": rows(branches, "heads"), "tags": rows(tags, "tags"), "converts": []})

    def serve_file(self, repository, revision, path, cached=False):
        commit = self.commit(repository, revision)
        entry = commit.entries.get(path)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if entry is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", headers)
        headers["ETag"] = f'"{entry.oid}"'
        if entry.sha256:
            headers["X-Linked-Etag"] = f'"{entry.sha256}"'
            headers["X-Linked-Size"] = entry.size
            self.send_whole(302, {"Location": self.hub.signed_url(entry.sha256), **headers})
        elif self.hub.settings.resolve_cache and not cached:
            where = urllib.parse.quote(f"{repository.id}/{commit.id}/{path}")
            location = f"/api/resolve-cache/models/{where}?etag=%22{entry.oid}%22"
            self.send_whole(307, {"Location": location, **headers})
        else:
            self.send_file(entry, headers)


class CdnExchange(Exchange):
    """Where the bodies of LFS files are; knows nothing but signed URLs."""

    port_name = "cdn"

    def kind_of_request(self):
        return "cdn"

    def serve(self):
        query = {k: v[0] for k, v in urllib.parse.parse_qs(self.query).items()}
        sha256, expires = self.parts[-1], query.get("Expires", "0")
        good = hmac.compare_digest(query.get("Signature", ""), self.hub.signature(sha256, expires))
        if not good or float(expires) < time.time():
            raise Refusal(403, message="" if good else "Access denied")
        entry = self.hub.repositories.lfs_object(sha256)
        if entry is None:
            raise Refusal(404)
        self.send_file(entry, {"ETag": f'"{sha256}"'})


def tree_of(commit, below, recursive):
    """Entries as the tree endpoint gives them; folders where they come first."""
    prefix = below + "/" if below else ""
    listing, folders = [], set()
    for entry in commit.entries.values():
        if not entry.path.startswith(prefix):
            continue
        segments = entry.path.removeprefix(prefix).split("/")
        for depth in range(1, len(segments) if recursive else min(2, len(segments))):
            folder = prefix + "/".join(segments[:depth])
            if folder not in folders:
                folders.add(folder)
                oid = hashlib.sha1(folder.encode(), usedforsecurity=False).hexdigest()
                listing.append({"type": "directory", "oid": oid, "size": 0, "path": folder})
        if recursive or len(segments) == 1:
            row = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
            if entry.sha256:
                row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}
            listing.append(row)
    return listing


class Port(http.server.ThreadingHTTPServer):
    """One of the two origins."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, exchange, hub, tls=None):
        self.hub = hub
        super().__init__(address, exchange)
        if tls:
            # The handshake is left to the thread of the connection.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self):
        # HTTPServer's own asks the name service for the host's name, which may take seconds.
        http.server.socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=pathlib.Path, help="directory of repositories, ORG/NAME/...")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="the hub's; 0: any")
    parser.add_argument("--cdn-port", type=int, default=0, help="where LFS files are; 0: any")
    parser.add_argument("--ready-file", type=pathlib.Path, help="gets the line with the ports too")
    parser.add_argument("--token", action="append", help="a good token; without any, all are good")
    parser.add_argument("--lfs-threshold", type=int, default=10 << 20, help="bytes; larger files are LFS")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="PEM files: speak https")
    parser.add_argument("--until-eof", action="store_true", help="ends when its standard input does")
    return parser.parse_args()


def main():
    args = arguments()
    hub = Hub(args.root.resolve(), args.lfs_threshold, Settings(tokens=args.token))
    hub.repositories.scan_all()
    tls = None
    if args.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*args.tls)
    ports = [
        Port((args.host, args.port), HubExchange, hub, tls),
        Port((args.host, args.cdn_port), CdnExchange, hub, tls),
    ]
    scheme = "https" if tls else "http"
    hub.hub_url, hub.cdn_url = (f"{scheme}://{args.host}:{p.server_port}" for p in ports)
    line = json.dumps({"port": ports[0].server_port, "cdn_port": ports[1].server_port, "pid": os.getpid()})
    for port in ports:
        threading.Thread(target=port.serve_forever, daemon=True).start()
    if args.ready_file:
        args.ready_file.write_text(line + "\n")
    print(line, flush=True)
    if args.until_eof:
        sys.stdin.buffer.read()
    else:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    # Blocked before the first thread, so that sigwait gets them.
    if "--until-eof" not in sys.argv:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
