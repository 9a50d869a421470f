"""Runs one client and says what it took."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time

from places import CACHE, ROOT

sys.path.append(str(ROOT / "tests/e2e"))
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1
RUN_SECONDS_MAX = 600


@dataclasses.dataclass
class Job:
    """What is to be downloaded, and where to."""

    hub: object
    repository: str
    folder: pathlib.Path  # of this run, new
    slow: bool = False

    @property
    def files(self):
        return self.hub.repositories[self.repository]["files"]

    @property
    def payload_bytes(self):
        return sum(file["size"] for file in self.files.values())

    def body_urls(self, lfs_only=False):
        """path -> URL of the bytes."""
        return {
            path: self.hub.body_url(self.repository, path, self.slow)
            for path, file in self.files.items() if file["lfs"] or not lfs_only
        }  # fmt: skip


@dataclasses.dataclass
class Figures:
    """Of one run. Seconds and bytes."""

    wall: float
    cpu: float
    rss: int
    sync: float = 0
    sent: int = 0
    peak: int = 0


def allocated_bytes(folder):
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # What was renamed meanwhile is counted the next time.
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


class Peak:
    """The most that `probe` said inside of the block, asked again and again."""

    def __init__(self, probe, seconds=SAMPLE_SECONDS):
        self._probe, self._seconds = probe, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.value = 0

    def _sample(self):
        while not self._stop.wait(self._seconds):
            self.value = max(self.value, self._probe())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.value = max(self.value, self._probe())


def run_program(command, folder, environment=None):
    """CPU and memory of the program and its children, from their end."""
    errors = folder.with_name("errors.log")
    with open(errors, "wb") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
        # Not ru_maxrss: that counts the process as it was before exec, which is ours.
        with Peak(lambda: memory_bytes(process.pid, "VmHWM"), 0.01) as memory:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {errors.read_text()[-800:]}")
    return Figures(wall=wall, cpu=usage.ru_utime + usage.ru_stime, rss=memory.value)


def huggingface_hub(venv, **more):
    def run(job):
        environment = {
            "HF_ENDPOINT": job.hub.url(job.slow), "HF_HOME": str(job.folder), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1", **more,
        }  # fmt: skip
        program = f"from huggingface_hub import snapshot_download; snapshot_download({job.repository!r})"
        return run_program([CACHE / venv / "bin/python", "-c", program], job.folder, environment)

    return run


def aria2(job):
    """16 connections for each file; many small files at once."""
    urls = job.folder.with_name("urls")
    urls.write_text("".join(f"{url}\n  out={path}\n" for path, url in job.body_urls().items()))
    files_at_once = 4 if len(job.files) < 50 else 16
    command = ["aria2c", "--no-conf", "-q", "-x16", "-s16", "-k1M", f"-j{files_at_once}"]
    command += ["--file-allocation=none", "--auto-file-renaming=false", "-d", job.folder, "-i", urls]
    return run_program(command, job.folder)


def curl(job):
    """One connection for each file, up to 32 at once."""
    urls = job.folder.with_name("urls")
    paths = job.body_urls().items()
    urls.write_text("".join(f'url = "{url}"\noutput = "{job.folder}/{path}"\n' for path, url in paths))
    command = ["curl", "-sSf", "-Z", "--parallel-immediate", "--parallel-max", "32", "--create-dirs"]
    return run_program([*command, "-K", urls], job.folder)


def floor_fetch(job):
    """The large files over a raw socket each."""
    urls = [url.removeprefix("http://") for url in job.body_urls(lfs_only=True).values()]
    address, _, port = urls[0].partition("/")[0].partition(":")
    paths = ["/" + url.partition("/")[2] for url in urls]
    return run_program([CACHE / "floor", "fetch", job.folder, address, port, *paths], job.folder)


def floor_hash(job):
    """SHA-256 of the large files on one core; nothing is written."""
    objects = [CACHE / "data/objects" / file["digest"] for file in job.files.values() if file["lfs"]]
    return run_program([CACHE / "floor", "hash", *objects], job.folder)


def dd_fsync(job):
    count = job.payload_bytes // (4 << 20)
    command = ["dd", "if=/dev/zero", f"of={job.folder}/zeros", "bs=4M", f"count={count}", "conv=fsync"]
    return run_program(command, job.folder)


def cpu_seconds(pid):
    """Of the process and of its children that ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_S


def memory_bytes(pid, name):
    """0 of a process that ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    return 0


class Modeld:
    """Daemons on one private PostgreSQL, a new one with a new database for each run."""

    def __init__(self):
        import peers

        self._peers = peers
        self._postgres = peers.Postgres()

    def run(self, job):
        """From the call of DownloadModel to SUCCEEDED; memory is what the daemon grew by."""
        daemon = self._peers.Daemon(job.folder, job.hub.url(job.slow), self._postgres.new_database())
        try:
            daemon.start()
            daemon.register("bench", job.repository)
            pid = daemon.pid
            idle, before = memory_bytes(pid, "VmRSS"), cpu_seconds(pid)
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
            begin = time.perf_counter()
            request = {"model_name": "bench"}
            name = daemon.client.call("modeld.v1.Orchestrator/DownloadModel", request)["name"]
            operation = daemon.finish(name, RUN_SECONDS_MAX)
            wall = time.perf_counter() - begin
            daemon.succeed(operation)
            cpu, peak = cpu_seconds(pid) - before, memory_bytes(pid, "VmHWM")
        finally:
            daemon.close()
        return Figures(wall=wall, cpu=cpu, rss=max(0, peak - idle))

    def close(self):
        self._postgres.close()
