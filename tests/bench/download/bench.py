"""Runs every client by turns in every setting and prints one Markdown table for each.

Wall time is until the program's exit, for modeld from the call of DownloadModel to SUCCEEDED: only modeld and
the floor check what they fetched. RSS is the peak of the process, for modeld what it grew by. Sent is what
the server sent, space what lay on disk at the most, both as multiples of the payload. GB are 10^9 bytes.
"""

import argparse
import contextlib
import dataclasses
import datetime
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import measure
from hub import Hub
from network import LatencyNetwork
from places import CACHE, ROOT

TMPFS = pathlib.Path("/dev/shm")
PEERS = {
    "huggingface_hub": measure.huggingface_hub("clients"),
    "huggingface_hub 0.34.6": measure.huggingface_hub("hf-transfer"),
    "hf_transfer": measure.huggingface_hub("hf-transfer", HF_HUB_ENABLE_HF_TRANSFER="1"),
    "aria2c": measure.aria2,
    "curl -Z": measure.curl,
}
LIMITS = {
    "floor": measure.floor_fetch,
    "dd with fsync": measure.dd_fsync,
    "one hash pass": measure.floor_hash,
}


@dataclasses.dataclass
class Setting:
    """One table."""

    group: str  # of --only
    title: str
    repository: str
    limits: tuple = ()
    without: tuple = ()  # peers that have nothing to say here
    slow: bool = False
    latency: bool = False
    disk: bool = False


SETTINGS = [
    Setting("clean", "4 files of 1 GB, tmpfs", "acme/big", limits=("floor",)),
    Setting(
        "slow",
        "4 files of 1 GB, 50 MiB/s for each connection, tmpfs",
        "acme/big",
        without=("huggingface_hub 0.34.6",),
        slow=True,
    ),
    Setting(
        "latency",
        "1 file of 1 GB, 30 ms round trip, tmpfs",
        "acme/one",
        without=("huggingface_hub 0.34.6",),
        latency=True,
    ),
    Setting("small", "300 small files, tmpfs", "acme/many"),
    Setting("small", "300 small files, 30 ms round trip, tmpfs", "acme/many", latency=True),
    Setting(
        "disk",
        "4 files of 1 GB, disk",
        "acme/big",
        limits=("dd with fsync", "one hash pass"),
        without=("huggingface_hub 0.34.6",),
        disk=True,
    ),
]


def measured(client, job, setting):
    """Figures of one run; what it wrote is gone afterwards."""
    job.folder.mkdir(parents=True)
    job.hub.warm(job.repository)
    os.sync()
    job.hub.forget()
    try:
        with measure.Peak(lambda: measure.allocated_bytes(job.folder)) as peak:
            figures = client(job)
        if setting.disk:
            figures.sync = seconds_of(["sync", "-f", str(job.folder)])
        figures.peak, figures.sent = peak.value, job.hub.sent_bytes()
        return figures
    finally:
        shutil.rmtree(job.folder.parent)


def seconds_of(command):
    begin = measure.time.perf_counter()
    subprocess.run(command, check=True)
    return measure.time.perf_counter() - begin


def rounds_of(setting, args):
    """client -> [Figures]."""
    with contextlib.ExitStack() as stack:
        run = pathlib.Path(tempfile.mkdtemp(prefix="modeld-bench-", dir="/tmp"))
        stack.callback(shutil.rmtree, run)
        if setting.latency:
            network = LatencyNetwork()
            stack.callback(network.close)
            hub = Hub(run / "hub", "10.77.0.2", network.server_prefix)
            network.enter()
        else:
            hub = Hub(run / "hub")
        stack.callback(hub.close)
        hub.wait_ready()
        modeld = measure.Modeld()
        stack.callback(modeld.close)
        clients = {"modeld": modeld.run}
        clients |= {name: LIMITS[name] for name in setting.limits}
        clients |= {name: peer for name, peer in PEERS.items() if name not in setting.without}
        clients = {name: c for name, c in clients.items() if not args.clients or name in args.clients}
        target = CACHE / "target" if setting.disk else TMPFS
        target.mkdir(exist_ok=True)
        figures = {name: [] for name in clients}
        for number in range(args.rounds):
            for name, client in clients.items():
                parent = pathlib.Path(tempfile.mkdtemp(prefix="modeld-bench-", dir=target))
                job = measure.Job(hub, setting.repository, parent / "target", setting.slow)
                figures[name].append(measured(client, job, setting))
                print(f"bench: {setting.title}: round {number + 1}: {name}", file=sys.stderr)
        return figures, job.payload_bytes


def in_own_process(setting, args):
    """Network namespaces and gRPC want a process that has not begun anything."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work():
        sender.send(rounds_of(setting, args))

    process = context.Process(target=work)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"bench: {setting.title}: failed") from None
    finally:
        process.join()


def median(values):
    return statistics.median(values)


def spread(values, digits=2):
    """The median, and the ends when there are several."""
    text = f"{median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(setting, figures, payload):
    walls = {name: median([f.wall + f.sync for f in runs]) for name, runs in figures.items()}
    best = min((wall for name, wall in walls.items() if name in PEERS), default=None)
    lines = [
        f"**{setting.title}** ({payload / 1e9:.2f} GB)",
        "",
        "| client | MB/s | wall s | wall + sync s | CPU s/GB | RSS MB | sent | space | speed / best peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        cells = [
            name,
            f"{payload / 1e6 / median([f.wall for f in runs]):.0f}",
            spread([f.wall for f in runs]),
            spread([f.wall + f.sync for f in runs]) if setting.disk else "",
            f"{median([f.cpu for f in runs]) / (payload / 1e9):.2f}",
            f"{median([f.rss for f in runs]) / 1e6:.0f}",
            f"{median([f.sent for f in runs]) / payload:.3f}",
            f"{median([f.peak for f in runs]) / payload:.2f}",
            f"{best / walls[name]:.2f}" if best else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def version(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    return done.stdout.strip().splitlines()[0]


def setting_of_the_machine():
    """Where and with what."""
    package = "import importlib.metadata as m; print(m.version('{}'))"
    python = str(CACHE / "clients/bin/python")
    now = datetime.datetime.now(datetime.UTC)
    processor = [line for line in open("/proc/cpuinfo") if line.startswith("model name")]
    names = [
        f"{now:%Y-%m-%d %H:%M} UTC",
        f"modeld {version('git', 'describe', '--always', '--dirty')}",
        f"huggingface_hub {version(python, '-c', package.format('huggingface_hub'))}",
        "huggingface_hub 0.34.6 alone and with hf_transfer 0.1.9",
        version("aria2c", "--version"),
        " ".join(version("curl", "--version").split()[:2]),
        version("nginx", "-v").removeprefix("nginx version: "),
        f"Linux {os.uname().release}",
        f"{len(os.sched_getaffinity(0))} x {processor[0].partition(':')[2].strip() if processor else 'CPU'}",
        f"load {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(names)


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/download/run", description=__doc__.split("\n")[0])
    groups = list(dict.fromkeys(s.group for s in SETTINGS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", type=lambda text: text.split(","), default=groups, help=",".join(groups))
    parser.add_argument("--clients", type=lambda text: text.split(","), help="only these, by their names")
    args = parser.parse_args()
    known = {"modeld", *PEERS, *LIMITS}
    if args.rounds < 1 or not set(args.only) <= set(groups) or not set(args.clients or []) <= known:
        parser.error(f"groups are {groups}, clients {sorted(known)}")
    return args


def main():
    args = arguments()
    print(setting_of_the_machine() + "\n", flush=True)
    for setting in SETTINGS:
        if setting.group in args.only:
            figures, payload = in_own_process(setting, args)
            print(table(setting, figures, payload) + "\n", flush=True)


if __name__ == "__main__":
    main()
