"""The hub and its CDN: one nginx that serves everything from files.

Four ports: hub and CDN, and the same two with a limit of 50 MiB/s for each connection. The hub answers for
LFS files with a redirect to the CDN's port, as the public one does.
"""

import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

from places import CACHE

DATA = CACHE / "data"
SLOW_BYTES_PER_S = 50 << 20

CONFIGURATION = """
daemon off;
{user}
pid {run}/nginx.pid;
error_log {run}/error.log;
worker_processes 1;
worker_rlimit_nofile 4096;
events {{ worker_connections 2048; }}
http {{
  log_format bytes '$body_bytes_sent $request_method $status $http_range $uri';
  access_log {run}/access.log bytes;
  client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
  sendfile on; sendfile_max_chunk 2m; tcp_nopush on; tcp_nodelay on; keepalive_requests 100000;
  default_type application/octet-stream;
  map_hash_max_size 65536; map_hash_bucket_size 256; variables_hash_max_size 2048;
  map $server_port $cdn_port {{ {hub} {cdn}; {slow_hub} {slow_cdn}; }}
  map $server_port $bytes_per_s {{ default 0; {slow_hub} {limit}; {slow_cdn} {limit}; }}
  map $file $oid {{ {oids} }}
  map $file $lfs {{ default ""; {lfs} }}
  map $file $lfs_size {{ default ""; {lfs_sizes} }}
  map $lfs $lfs_etag {{ default '"$lfs"'; "" ""; }}
  map $repository $commit {{ {commits} }}
  server {{
    listen {address}:{hub} backlog=1024; listen {address}:{cdn} backlog=1024;
    listen {address}:{slow_hub} backlog=1024; listen {address}:{slow_cdn} backlog=1024;
    limit_rate $bytes_per_s;
    location /lfs/ {{ alias {data}/objects/; }}
    location /api/ {{ root {run}/site; default_type application/json; }}
    location ~ ^/(?<repository>acme/[a-z]+)/resolve/[^/]+/(?<path>.+)$ {{
      set $file $repository/$path;
      etag off;
      add_header ETag '"$oid"'; add_header X-Repo-Commit $commit;
      add_header X-Linked-Etag $lfs_etag; add_header X-Linked-Size $lfs_size;
      if ($lfs) {{ return 302 http://$host:$cdn_port/lfs/$lfs; }}
      rewrite ^ /$oid break;
      root {data}/objects;
    }}
  }}
}}
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def rows(files, value):
    return " ".join(f'"{name}" "{value(file)}";' for name, file in files)


class Hub:
    """A running nginx; its files lie in `run`."""

    def __init__(self, run, address="127.0.0.1", prefix=()):
        self._run, self._address = pathlib.Path(run), address
        self.repositories = json.loads((DATA / "repositories.json").read_text())
        self._ports = dict(zip(("hub", "cdn", "slow_hub", "slow_cdn"), free_ports(4), strict=True))
        self._run.mkdir(parents=True)
        self._write_site()
        self._write_configuration()
        command = [*prefix, "nginx", "-e", self._run / "error.log", "-p", self._run]
        self._process = subprocess.Popen([*command, "-c", self._run / "nginx.conf"])

    def _write_configuration(self):
        files = [(f"{r}/{p}", f) for r, v in self.repositories.items() for p, f in v["files"].items()]
        lfs = [(name, file) for name, file in files if file["lfs"]]
        text = CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",
            run=self._run, data=DATA, address=self._address, limit=SLOW_BYTES_PER_S, **self._ports,
            oids=rows(files, lambda f: f["oid"]),
            lfs=rows(lfs, lambda f: f["digest"]),
            lfs_sizes=rows(lfs, lambda f: f["size"]),
            commits=rows(self.repositories.items(), lambda r: r["commit"]),
        )  # fmt: skip
        (self._run / "nginx.conf").write_text(text)

    def _write_site(self):
        """The API's answers as files."""
        for name, repository in self.repositories.items():
            commit, siblings, tree = repository["commit"], [], []
            for path, file in repository["files"].items():
                siblings.append({"rfilename": path})
                tree.append({"type": "file", "oid": file["oid"], "size": file["size"], "path": path})
                if file["lfs"]:
                    tree[-1]["lfs"] = {"oid": file["digest"], "size": file["size"], "pointerSize": 134}
            info = {
                "_id": commit[:24], "id": name, "modelId": name, "sha": commit, "private": False,
                "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": siblings,
            }  # fmt: skip
            api = self._run / "site/api/models" / name
            for below, answer in {"revision/main": info, f"tree/{commit}": tree}.items():
                (api / below).parent.mkdir(parents=True)
                (api / below).write_text(json.dumps(answer))

    def url(self, slow=False):
        return f"http://{self._address}:{self._ports['slow_hub' if slow else 'hub']}"

    def body_url(self, repository, path, slow=False):
        """Where a file's bytes are, without the redirect."""
        file = self.repositories[repository]["files"][path]
        if not file["lfs"]:
            return f"{self.url(slow)}/{repository}/resolve/main/{path}"
        return f"http://{self._address}:{self._ports['slow_cdn' if slow else 'cdn']}/lfs/{file['digest']}"

    def wait_ready(self):
        """Asks once from where the caller is; nginx listens within a moment."""
        deadline = time.monotonic() + 10
        while True:
            try:
                with urllib.request.urlopen(f"{self.url()}/api/models/acme/one/revision/main", timeout=5):
                    return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def warm(self, repository):
        """Has the repository's bytes in the page cache."""
        for file in self.repositories[repository]["files"].values():
            with open(DATA / "objects" / file["digest"], "rb", buffering=0) as source:
                while source.read(4 << 20):
                    pass

    def forget(self):
        os.truncate(self._run / "access.log", 0)

    def sent_bytes(self):
        """Of bodies, since forget()."""
        return sum(int(line.split(" ", 1)[0]) for line in open(self._run / "access.log"))

    def requests(self):
        return sum(1 for _ in open(self._run / "access.log"))

    def close(self):
        self._process.terminate()
        self._process.wait(10)
