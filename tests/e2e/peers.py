"""The processes of the end-to-end tests: PostgreSQL, the hub, modeld; each ends with its object."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from rpc import Client, Refusal

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MODELD_BUILD", ROOT / "build/release")) / "bin"
# Sanitized programs are several times slower.
PATIENCE_SECONDS = 60 if os.environ.get("MODELD_PRESET", "release") == "release" else 300
POLL_SECONDS = 0.02
CHUNK_BYTES = 4 << 20


def eventually(probe, what, seconds=PATIENCE_SECONDS):
    """The first truthy answer of `probe`, which is asked until `seconds` are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {seconds} s: {what}")


class Postgres:
    """A private PostgreSQL that listens on a Unix socket only."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="modeld-e2e-pg-", dir="/tmp"))
        # Debian keeps initdb and pg_ctl out of $PATH; the newest version of several.
        found = pathlib.Path("/usr/lib/postgresql").glob("*/bin")
        self.bin = max(found, key=lambda folder: int(folder.parent.name))
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self.folder.chmod(0o755)
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self.start()

    def _run(self, program, *arguments):
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(self.bin / program), *arguments]
        # A file, because the server keeps what it inherits: a pipe would never end.
        with open(self.folder / "commands.log", "ab") as log:
            subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)

    def start(self):
        options = (
            f"-k {self.folder} -c listen_addresses= -c fsync=off -c full_page_writes=off"
            " -c shared_buffers=32MB -c max_connections=200"
        )
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-s", "-l", log, "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-s", "-m", "fast", "stop")

    @contextlib.contextmanager
    def away(self):
        """Stopped inside of the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def url(self, database):
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def new_database(self):
        self._databases += 1
        name = f"e2e_{self._databases}"
        self._run("createdb", "-h", str(self.folder), "-U", "postgres", name)
        return self.url(name)

    def close(self):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder)


class Hub:
    """deploy/hub with a folder of repositories of its own."""

    def __init__(self, folder, lfs_threshold=10 << 20, tls=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lfs_threshold = lfs_threshold
        self._tls = tls  # (certificate, key): it speaks https
        self._process = None
        self.url = ""

    def add(self, repo_id, source, revision=None):
        """A repository, or a revision of it, with the files of `source` (hard links where they can be)."""
        target = self.folder / repo_id
        if revision:
            target = target / ".revisions" / revision
        target.mkdir(parents=True)
        for file in pathlib.Path(source).rglob("*"):
            if file.is_dir() or file.name.startswith(("goldens.", "vectors.", "sentences.")):
                continue
            place = target / file.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copy(file, place)
        return target

    def start(self):
        command = [sys.executable, str(ROOT / "deploy/hub/hub_server.py"), str(self.folder)]
        command += ["--port", "0", "--until-eof", "--lfs-threshold", str(self._lfs_threshold)]
        command += ["--tls", *map(str, self._tls)] if self._tls else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ports = json.loads(self._process.stdout.readline())
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.ports['port']}"
        return self

    def tell(self, **command):
        request = urllib.request.Request(f"{self.url}/_ctl", json.dumps(command).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200

    def reset(self):
        self.tell(clear=["faults", "log", "settings"])

    def log(self):
        # Nobody but this test can be at the port.
        context = ssl._create_unverified_context() if self._tls else None
        with urllib.request.urlopen(f"{self.url}/_ctl/log", timeout=30, context=context) as answer:
            return json.load(answer)

    def bodies(self):
        """Requests that brought bytes of files."""
        return [e for e in self.log() if e["on"] != "api" and e["status"] in (200, 206) and e["bytes"]]

    def close(self):
        if self._process:
            self._process.stdin.close()
            self._process.wait(30)
            self._process.stdout.close()
            self._process = None


class NotifySocket:
    """What systemd would hear."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._heard = []

    def heard(self):
        """Every line so far, in order."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard += self._socket.recv(65536, socket.MSG_DONTWAIT).decode().splitlines()
        return list(self._heard)

    def close(self):
        self._socket.close()


def get(url, timeout=30):
    """(status, text) of an HTTP GET."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Daemon:
    """modeld with a configuration, a database and folders of its own."""

    def __init__(self, folder, hub_url, database_url, settings="", environment=None):
        self.folder = pathlib.Path(folder)
        self.cache = self.folder / "cache"
        self.custom = self.folder / "custom"
        self.state = self.folder / "state"
        self.log_file = self.folder / "modeld.log"
        for path in (self.cache, self.custom, self.state, self.folder / "home"):
            path.mkdir(parents=True, exist_ok=True)
        # Socket paths are short, and pytest's folders are not.
        self.sockets = tempfile.mkdtemp(prefix="modeld-e2e-", dir="/tmp")
        self.config = self.folder / "modeld.toml"
        self.config.write_text(
            "[server]\n"
            'grpc_address = "127.0.0.1:0"\n'
            'http_address = "127.0.0.1:0"\n'
            "drain_seconds = 20\n"
            "[node]\n"
            f'name = "e2e"\nstate_dir = "{self.state}"\n'
            "[database]\n"
            f'url = "{database_url}"\n'
            "[cache]\n"
            f'primary = "{self.cache}"\ncustom_roots = ["{self.custom}"]\n'
            "[hub]\n"
            f'endpoint = "{hub_url}"\n'
            "[engine]\n"
            f'socket_dir = "{self.sockets}"\nthreads = 2\n' + settings
        )
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MODELD_"))}
        keep["HOME"] = str(self.folder / "home")
        self.environment = {**keep, **(environment or {})}
        self.command = []  # what runs modeld, such as setpriv with its options
        self.process = None
        self._client = None
        self.endpoints = {}

    def launch(self):
        """Starts the process; its servers listen afterwards, whatever the database does."""
        assert self.process is None
        (self.state / "endpoints.json").unlink(missing_ok=True)
        with open(self.log_file, "ab") as log:
            command = [*self.command, str(BIN / "modeld"), "--config", str(self.config)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd="/"
            )
        eventually(self._listens, "endpoints.json")
        return self

    def _listens(self):
        assert self.process.poll() is None, f"modeld ended with {self.process.returncode}"
        try:
            self.endpoints = json.loads((self.state / "endpoints.json").read_text())
        except FileNotFoundError:
            return False
        return True

    def start(self):
        self.launch()
        eventually(lambda: self.http("/readyz")[0] == 200, "/readyz says 200")
        return self

    @property
    def pid(self):
        return self.process.pid

    @property
    def grpc_address(self):
        return self.endpoints["grpc_address"]

    @property
    def client(self):
        if self._client is None:
            self._client = Client(self.grpc_address)
        return self._client

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def http(self, path):
        return get(f"http://{self.endpoints['http_address']}{path}")

    def ended(self):
        """Waits for the end that was asked for; the exit status."""
        self.process.wait(PATIENCE_SECONDS)
        if self._client:
            self._client.close()
        self._client = None
        code, self.process = self.process.returncode, None
        return code

    def kill9(self):
        self.process.kill()
        return self.ended()

    def stop(self):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def close(self):
        if self.process is not None:
            self.kill9()
        shutil.rmtree(self.sockets, ignore_errors=True)

    # What nearly every test does.

    def register(self, name, hf_path, **more):
        request = {"model_name": name, "hf_path": hf_path, "cache_location": "primary", **more}
        return self.client.call("modeld.v1.Registry/RegisterModel", request)

    def model(self, name):
        return self.client.call("modeld.v1.Registry/GetModel", {"model_name": name})

    def load(self, name, **more):
        """LoadModel and its end; the operation."""
        request = {"model_name": name, **more}
        return self.finish(self.client.call("modeld.v1.Orchestrator/LoadModel", request)["name"])

    def download(self, name, **more):
        request = {"model_name": name, **more}
        return self.finish(self.client.call("modeld.v1.Orchestrator/DownloadModel", request)["name"])

    def finish(self, name, seconds=PATIENCE_SECONDS):
        """The operation when it is done."""
        request = {"name": name, "timeout": f"{seconds}s"}
        operation = self.client.call("modeld.v1.Orchestrator/WaitOperation", request, timeout=seconds + 10)
        assert operation["done"], operation
        return operation

    def succeed(self, operation):
        assert operation["state"] == "OPERATION_STATE_SUCCEEDED", operation
        return operation

    def generate(self, name, prompt="Once", **sampling):
        """Text, finish reason and usage of a generation."""
        request = {"model_name": name, "prompt": prompt, "sampling": sampling}
        return joined(self.client.stream("modeld.v1.Inference/Generate", request))

    def instances(self):
        return self.client.call("modeld.v1.Orchestrator/ListInstances")["instances"]

    def ready(self, name):
        """Whether the model is READY; False also while the answer cannot be had."""
        try:
            return self.model(name)["state"] == "MODEL_STATE_READY"
        except Refusal:
            return False


def joined(stream):
    """(text, last message) of a stream of answers."""
    messages = list(stream)
    assert messages
    return "".join(m.get("text", "") for m in messages), messages[-1]
