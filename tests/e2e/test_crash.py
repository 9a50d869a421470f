"""Ends that nobody asked for: kill -9 of the daemon and of engines; and the one that was asked for."""

import hashlib
import os
import pathlib
import random
import re
import signal

import pytest
from peers import CHUNK_BYTES, Hub, Refusal, eventually
from test_main_job import size_on_disk

KILLS = 50 if os.environ.get("MODELD_LONG") else 10
FILES = 3
FILE_BYTES = 32 << 20
CONNECTION_BYTES_PER_S = 8 << 20


@pytest.fixture(scope="module")
def big_hub(tmp_path_factory):
    """A repository of files that cannot be compressed or mistaken for one another."""
    source = tmp_path_factory.mktemp("big")
    numbers = random.Random(1)
    for index in range(FILES):
        (source / f"part-{index}.bin").write_bytes(numbers.randbytes(FILE_BYTES))
    (source / "config.json").write_text('{"model_type": "none"}')
    server = Hub(tmp_path_factory.mktemp("big-hub"))
    server.add("big/random", source)
    server.start()
    yield server
    server.close()


def served(entries):
    """path -> [(begin, end)] of what the hub sent."""
    ranges = {}
    for entry in entries:
        if entry["on"] == "cdn" and entry["bytes"]:
            begin = int(re.match(r"bytes=(\d+)-", entry["range"] or "bytes=0-").group(1))
            ranges.setdefault(entry["path"], []).append((begin, begin + entry["bytes"]))
    return ranges


def overlap(before, after):
    """Bytes of `after` that lie in one of `before`."""
    covered = 0
    for begin, end in after:
        marks = sorted((max(b, begin), min(e, end)) for b, e in before if b < end and e > begin)
        at = begin
        for low, high in marks:
            covered += max(0, high - max(at, low))
            at = max(at, high)
    return covered


def test_a_download_killed_at_random_points_ends_whole_without_fetching_again(make_daemon, big_hub):
    big_hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": CONNECTION_BYTES_PER_S}])
    daemon = make_daemon(big_hub.url).start()
    daemon.register("big", "big/random")
    request = {"model_name": "big"}
    name = daemon.client.call("modeld.v1.Orchestrator/DownloadModel", request)["name"]
    numbers = random.Random(2)
    points = sorted(numbers.randrange(1, FILES * FILE_BYTES * 9 // 10) for _ in range(KILLS))
    ends = []

    for point in points:

        def reached(point=point):
            return sum(e["bytes"] for e in big_hub.log() if e["on"] == "cdn") >= point

        eventually(reached, f"{point} bytes are there")
        daemon.kill9()
        ends.append(len(big_hub.log()))
        daemon.start()
    operation = daemon.succeed(daemon.finish(name))

    total = sum(int(file["size_bytes"]) for file in operation["files"])
    assert size_on_disk(daemon.cache) <= 1.02 * total
    blobs = list((daemon.cache / "hub/models--big--random/blobs").iterdir())
    whole = [b for b in blobs if len(b.name) == 64]
    assert len(whole) == FILES and len(blobs) == FILES + 1, blobs
    for blob in whole:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    log, allowed = big_hub.log(), 0
    for begin, end in zip([0, *ends], ends, strict=False):
        connections = {e["connection"] for e in log[begin:end] if e["on"] == "cdn"}
        lost, later = served(log[begin:end]), served(log[end:])
        again = sum(overlap(later.get(path, []), ranges) for path, ranges in lost.items())
        assert again <= CHUNK_BYTES * len(connections), (again, len(connections))
        allowed += CHUNK_BYTES * len(connections)
    assert sum(e["bytes"] for e in log if e["on"] == "cdn") <= total + allowed


def test_a_stream_ends_with_engine_lost_and_the_model_is_loaded_again(daemon):
    daemon.register("tiny", "tiny/tiny-llama")
    daemon.succeed(daemon.load("tiny"))
    (before,) = daemon.instances()
    pid = int(before["pid"])
    sampling = {"max_tokens": 1900, "ignore_eos": True}
    request = {"model_name": "tiny", "prompt": "a", "sampling": sampling}
    messages = iter(daemon.client.stream("modeld.v1.Inference/Generate", request))
    assert next(messages)["token_ids"]

    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(Refusal) as lost:
        list(messages)
    assert (lost.value.code, lost.value.reason) == ("UNAVAILABLE", "ENGINE_LOST")
    assert lost.value.retry

    def another():
        now = [i for i in daemon.instances() if i["state"] == "INSTANCE_STATE_READY"]
        return now and int(now[0]["pid"]) != pid

    eventually(another, "another engine is READY")
    eventually(lambda: daemon.ready("tiny"), "READY again")
    assert daemon.alive()
    _, last = daemon.generate("tiny", max_tokens=4, ignore_eos=True)
    assert last["finish_reason"] == "FINISH_REASON_LENGTH"


def test_a_killed_daemon_takes_its_engines_along_and_restores_its_loads(daemon):
    daemon.register("tiny", "tiny/tiny-qwen2")
    daemon.succeed(daemon.load("tiny"))
    pid = int(daemon.instances()[0]["pid"])

    daemon.kill9()
    eventually(lambda: ended(pid), "the engine ended too")
    daemon.start()

    eventually(lambda: daemon.ready("tiny"), "READY again")
    _, last = daemon.generate("tiny", max_tokens=4, ignore_eos=True)
    assert last["finish_reason"] == "FINISH_REASON_LENGTH"


def test_an_unloaded_model_is_not_restored(daemon):
    daemon.register("tiny", "tiny/tiny-qwen2")
    daemon.succeed(daemon.load("tiny"))
    request = {"model_name": "tiny"}
    name = daemon.client.call("modeld.v1.Orchestrator/UnloadModel", request)["name"]
    daemon.succeed(daemon.finish(name))
    assert daemon.instances() == []

    daemon.stop()
    daemon.start()

    assert daemon.model("tiny")["state"] == "MODEL_STATE_DOWNLOADED"
    assert daemon.instances() == []
    refusal = daemon.client.refused("modeld.v1.Inference/Generate", {"model_name": "tiny", "prompt": "a"})
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "MODEL_NOT_READY")


def test_sigterm_lets_a_generation_end_before_the_daemon_does(daemon):
    daemon.register("tiny", "tiny/tiny-llama")
    daemon.succeed(daemon.load("tiny"))
    sampling = {"max_tokens": 1500, "ignore_eos": True}
    request = {"model_name": "tiny", "prompt": "a", "sampling": sampling}
    messages = iter(daemon.client.stream("modeld.v1.Inference/Generate", request))
    first = next(messages)

    daemon.process.send_signal(signal.SIGTERM)
    rest = list(messages)

    assert rest[-1]["finish_reason"] == "FINISH_REASON_LENGTH"
    assert sum(len(m.get("token_ids", [])) for m in [first, *rest]) == 1500
    assert daemon.ended() == 0
    daemon.start()
    eventually(lambda: daemon.ready("tiny"), "READY again")


def test_an_engine_has_neither_network_nor_secrets(make_daemon, hub, tmp_path):
    password = tmp_path / "password"
    password.write_text("pg-secret\n")
    environment = {"HF_TOKEN": "hf_secret", "MODELD_DATABASE_PASSWORD_FILE": str(password)}
    daemon = make_daemon(hub.url, environment=environment).start()
    daemon.register("tiny", "tiny/tiny-llama")
    daemon.succeed(daemon.load("tiny"))
    proc = pathlib.Path(f"/proc/{daemon.instances()[0]['pid']}")

    variables = (proc / "environ").read_bytes()
    descriptors = [os.readlink(link) for link in (proc / "fd").iterdir()]
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())

    assert b"secret" not in variables and b"HF_TOKEN" not in variables and b"PG" not in variables
    assert b"secret" not in (proc / "cmdline").read_bytes()
    inodes = {d.removeprefix("socket:[").rstrip("]") for d in descriptors if d.startswith("socket:")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        rows = (proc / "net" / table).read_text().splitlines()[1:]
        assert inodes.isdisjoint(row.split()[9] for row in rows), table
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    assert "secret" not in daemon.log_file.read_text()


def ended(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
