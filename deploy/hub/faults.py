"""Faults by command. A fault is a JSON object:

kind     what happens, see below
on       "api", "resolve", "cdn" or "any" (default): which requests
path     a pattern (fnmatch) on the decoded URL path; default "*"
method   "GET" or "HEAD"; default both
after    the first so many matching requests pass; default 0
times    how often it happens; default always

status   status, headers {}, body: this answer instead (Retry-After, X-Error-Code go into headers)
headers  headers {}: replaced in the honest answer; a null removes one. {cdn}, {hub}: the origins
body     body: this text instead of the honest JSON
listing  entries []: appended to a tree listing; "replace": true puts them in its place
redirect location: 302 to it; "{self}" is the request's own URL
cut      bytes: the connection is reset after so many body bytes; -1: before the headers; "fin": true
         ends it as a server does that is done
stall    bytes: nothing comes after so many body bytes, until the client goes; -1: no headers either
drip     bytes_per_s: so fast, per connection
truncate bytes: a well-formed but shorter body
ignore_range  200 and the whole file
wrong_range   shift: Content-Range says so many bytes more
corrupt  offset: the byte there is inverted
"""

import fnmatch
import threading

KINDS = {
    "status", "headers", "body", "listing", "redirect", "cut", "stall", "drip", "truncate",
    "ignore_range", "wrong_range", "corrupt",
}  # fmt: skip
KEYS = {
    "kind", "on", "path", "method", "after", "times", "status", "headers", "body", "entries",
    "replace", "location", "bytes", "fin", "bytes_per_s", "shift", "offset",
}  # fmt: skip


class Faults:
    """The faults in force. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._faults = []

    def add(self, fault):
        """ValueError for a fault that nothing would understand."""
        if fault.get("kind") not in KINDS or not KEYS.issuperset(fault):
            raise ValueError(f"not a fault: {fault}")
        if fault.get("on", "any") not in ("api", "resolve", "cdn", "any"):
            raise ValueError(f"not a kind of request: {fault['on']}")
        with self._lock:
            self._faults.append({"after": 0, "times": None, **fault})

    def clear(self):
        with self._lock:
            self._faults.clear()

    def take(self, on, method, path):
        """The faults that hit this request, by kind; the first of a kind counts."""
        hit = {}
        with self._lock:
            for fault in self._faults:
                if fault["kind"] in hit or fault.get("on", "any") not in (on, "any"):
                    continue
                if fault.get("method", method) != method:
                    continue
                if not fnmatch.fnmatchcase(path, fault.get("path", "*")):
                    continue
                if fault["after"] > 0:
                    fault["after"] -= 1
                elif fault["times"] is None or fault["times"] > 0:
                    hit[fault["kind"]] = fault
                    if fault["times"] is not None:
                        fault["times"] -= 1
        return hit
