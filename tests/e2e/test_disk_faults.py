"""Disks that fill up, forget, or have no locks; and caches that several programs use at once."""

import hashlib
import json
import random
import subprocess
import sys

import pytest
from disk_faults import DiskFaults
from peers import PATIENCE_SECONDS, ROOT, Hub, eventually
from test_huggingface_hub import SNAPSHOT, environment
from test_main_job import size_on_disk

REPO = "disk/faults"
FILES = {"one.safetensors": 9_000_000, "two.safetensors": 5_000_000, "small.json": 900}
TOTAL = sum(FILES.values())
ROOM = 6_000_000
HUGE = 600_000_000_000


@pytest.fixture(scope="module")
def disk_hub(tmp_path_factory):
    source, numbers = tmp_path_factory.mktemp("source"), random.Random(3)
    for name, size in FILES.items():
        (source / name).write_bytes(numbers.randbytes(size))
    (source / "config.json").write_text('{"model_type": "none"}')
    server = Hub(tmp_path_factory.mktemp("disk-hub"))
    server.add(REPO, source)
    server.start()
    yield server
    server.close()


@pytest.fixture
def disk(tmp_path):
    """Faults below the cache of the test's first daemon."""
    return DiskFaults(tmp_path / "faults", tmp_path / "daemon0/cache")


@pytest.fixture
def faulty(make_daemon, disk_hub, disk):
    """A daemon on that disk, with the model registered."""
    disk_hub.reset()
    daemon = make_daemon(disk_hub.url, environment=disk.environment).start()
    daemon.register("m", REPO)
    return daemon


def start_download(daemon):
    return daemon.client.call("modeld.v1.Orchestrator/DownloadModel", {"model_name": "m"})["name"]


def get_operation(daemon, name):
    return daemon.client.call("modeld.v1.Orchestrator/GetOperation", {"name": name})


def blobs_of(daemon):
    return daemon.cache / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs"


def assert_whole(daemon, parts_may_stay=False):
    """Every file is there with its bytes, nothing is left over, and real huggingface_hub agrees."""
    blobs = list(blobs_of(daemon).iterdir())
    if parts_may_stay:
        blobs = [blob for blob in blobs if ".modeld.part" not in blob.name]
    assert len(blobs) == len(FILES) + 1, blobs
    assert all(len(blob.name) in (40, 64) for blob in blobs), blobs
    checked = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/check_caches.py"), str(daemon.cache.parent)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def wrong_blobs(daemon):
    """Final names with other bytes."""
    folder = blobs_of(daemon)
    large = [b for b in folder.iterdir() if len(b.name) == 64] if folder.exists() else []
    return [b.name for b in large if hashlib.sha256(b.read_bytes()).hexdigest() != b.name]


def stopped_download(daemon):
    """A download that cannot go on, as it then stands."""
    name = daemon.client.call("modeld.v1.Orchestrator/DownloadModel", {"model_name": "m"})["name"]
    stopped = ("OPERATION_STATE_FAILED", "OPERATION_STATE_PAUSED")
    eventually(lambda: get_operation(daemon, name)["state"] in stopped, "it stops")
    return get_operation(daemon, name)


def go_on(daemon, operation):
    """After the fault: a paused operation goes on by itself, a failed one is asked for again."""
    name = operation["name"]
    if operation["state"] != "OPERATION_STATE_PAUSED":
        name = start_download(daemon)
    return daemon.succeed(daemon.finish(name))


def use_cache_of(daemon, owner):
    """Before its start: another daemon's cache instead of its own."""
    text = daemon.config.read_text().replace(str(daemon.cache), str(owner.cache))
    daemon.config.write_text(text)
    daemon.cache = owner.cache


@pytest.mark.parametrize("fault", ["quota", "full"])
def test_a_disk_without_room_keeps_what_came_and_goes_on_with_room(faulty, disk, disk_hub, fault):
    disk.set(f"{fault} {size_on_disk(faulty.cache) + ROOM}")
    operation = stopped_download(faulty)
    assert "INSUFFICIENT_DISK" in str(operation["error"]), operation
    assert wrong_blobs(faulty) == []
    before = len(disk_hub.log())
    kept = sum(blob.stat().st_size for blob in blobs_of(faulty).glob("*") if len(blob.name) in (40, 64))

    disk.set()
    go_on(faulty, operation)

    assert_whole(faulty)
    fetched = sum(e["bytes"] for e in disk_hub.log()[before:] if e["on"] != "api")
    assert fetched <= 1.02 * TOTAL - kept


@pytest.mark.parametrize("locks", ["enosys", "lies"])
def test_two_daemons_without_working_locks_break_nothing(faulty, disk, disk_hub, make_daemon, locks):
    disk.set(f"flock {locks}")
    other = make_daemon(disk_hub.url, environment=disk.environment)
    use_cache_of(other, faulty)
    other.start()
    other.register("m", REPO)

    names = [(daemon, start_download(daemon)) for daemon in (faulty, other)]
    again = []

    for daemon, name in names:
        operation = daemon.finish(name)
        if locks == "lies" and operation["state"] == "OPERATION_STATE_FAILED":
            # Both write the same partial files, and one may see its own become shorter or go. That ends
            # its download, and no file is worse for it; once the other has ended it goes through.
            assert operation["error"]["message"], operation
            again.append(daemon)
        else:
            daemon.succeed(operation)
        assert wrong_blobs(faulty) == []
    for daemon in again:
        daemon.succeed(daemon.finish(start_download(daemon)))
    # With locks that lie a part is left when the other one has given its blob the name; prune takes it.
    assert_whole(faulty, parts_may_stay=locks == "lies")


def test_two_daemons_and_python_share_a_cache(faulty, disk_hub, make_daemon):
    other = make_daemon(disk_hub.url)
    use_cache_of(other, faulty)
    other.start()
    other.register("m", REPO)
    disk_hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 16 << 20}])

    program = [sys.executable, "-c", SNAPSHOT, json.dumps({"repo_id": REPO})]
    python = subprocess.Popen(
        program, env=environment(faulty.cache, disk_hub), stdout=subprocess.PIPE, text=True
    )
    names = [(daemon, start_download(daemon)) for daemon in (faulty, other)]
    for daemon, name in names:
        daemon.succeed(daemon.finish(name))
    said, _ = python.communicate(timeout=PATIENCE_SECONDS)

    assert python.returncode == 0
    assert {daemon.model("m")["snapshot_path"] for daemon in (faulty, other)} == {json.loads(said)}
    assert_whole(faulty)


@pytest.mark.parametrize("middle", [2_000_000, 10_000_000])
def test_a_power_cut_in_the_middle_leaves_nothing_wrong(faulty, disk, disk_hub, middle):
    disk.set("record")
    disk_hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 8 << 20}])
    name = start_download(faulty)
    eventually(lambda: sum(e["bytes"] for e in disk_hub.bodies()) >= middle, f"{middle} bytes are sent")

    faulty.kill9()
    lost = disk.power_cut()
    assert lost > 0
    assert wrong_blobs(faulty) == []
    disk_hub.reset()
    faulty.start()

    faulty.succeed(faulty.finish(name))
    assert_whole(faulty)


def test_a_power_cut_after_the_end_takes_nothing(faulty, disk):
    disk.set("record")
    faulty.succeed(faulty.download("m"))

    faulty.kill9()
    disk.power_cut()

    assert_whole(faulty)
    faulty.start()
    assert faulty.model("m")["state"] == "MODEL_STATE_DOWNLOADED"


def test_a_repository_larger_than_the_disk_is_refused_before_a_byte(daemon, hub):
    huge = {
        "type": "file", "path": "huge.safetensors", "size": HUGE, "oid": "0" * 40,
        "lfs": {"oid": "0" * 64, "size": HUGE, "pointerSize": 134},
    }  # fmt: skip
    daemon.register("m", "tiny/tiny-llama")
    hub.tell(clear=["log"], add=[{"kind": "listing", "on": "api", "entries": [huge]}])

    request = {"model_name": "n", "hf_path": "tiny/tiny-llama", "cache_location": "primary"}
    refusal = daemon.client.refused("modeld.v1.Registry/RegisterModel", request)
    operation = stopped_download(daemon)

    assert refusal.reason == "INSUFFICIENT_DISK", refusal
    assert "INSUFFICIENT_DISK" in str(operation["error"]), operation
    # Registering looked into files of the hub, but none came into the cache.
    assert list(daemon.cache.glob("hub/*/blobs/*")) == []
    assert size_on_disk(daemon.cache) < 1_000_000
