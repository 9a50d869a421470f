"""The cache as a place that others use too: scan, adopt, verify, delete, prune, all at the same time."""

import datetime
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading

import pytest
from peers import Hub, eventually
from test_huggingface_hub import SNAPSHOT, environment, python
from test_modelctl import DONE, REFUSED, modelctl

REPO = "tiny/tiny-llama-sharded"
OTHER = "tiny/tiny-qwen3"
HF = str(pathlib.Path(sys.executable).parent / "hf")

# Everything that scan_cache_dir tells, in the words of ScanCaches.
FIGURES = """
import json
from huggingface_hub import scan_cache_dir
info = scan_cache_dir()
print(json.dumps({
    "size": info.size_on_disk,
    "warnings": len(info.warnings),
    "partial": sorted(str(f.file_path) for f in info.incomplete_files),
    "repositories": {f"{r.repo_type} {r.repo_id}": {
        "path": str(r.repo_path), "size": r.size_on_disk, "files": r.nb_files,
        "accessed": round(r.last_accessed, 3), "modified": round(r.last_modified, 3),
        "revisions": {v.commit_hash: {
            "size": v.size_on_disk, "refs": sorted(v.refs), "modified": round(v.last_modified, 3),
            "path": str(v.snapshot_path),
            "files": {str(f.file_path.relative_to(v.snapshot_path)): {
                "size": f.size_on_disk, "accessed": round(f.blob_last_accessed, 3),
                "modified": round(f.blob_last_modified, 3),
                "blob": f.blob_path.name if f.file_path.is_symlink() else "",
            } for f in v.files},
        } for v in r.revisions},
    } for r in info.repos},
}))
"""
# The library's own way to share a blob, which a download does after a transfer by Xet only.
SHARE = """
import json, sys
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils import _shared_blobs
arguments = json.loads(sys.argv[1])
print(json.dumps(_shared_blobs.publish_blob_to_shared_store(cache_dir=HF_HUB_CACHE, **arguments)))
"""


def seconds(timestamp):
    """A Timestamp in JSON as Python's time, to the millisecond."""
    text, _, fraction = timestamp.rstrip("Z").partition(".")
    whole = datetime.datetime.fromisoformat(text + "+00:00").timestamp()
    return round(whole + float("0." + (fraction or "0")), 3)


def figures(scan):
    """An answer of ScanCaches in the form of FIGURES."""
    repositories = {}
    for r in scan["repositories"]:
        repositories[f"{r['repository_type']} {r['hf_path']}"] = {
            "path": r["path"], "size": int(r["size_bytes"]), "files": int(r["file_count"]),
            "accessed": seconds(r["last_accessed_time"]), "modified": seconds(r["last_modified_time"]),
            "revisions": {v["commit"]: {
                "size": int(v["size_bytes"]), "refs": sorted(v["refs"]), "path": v["snapshot_path"],
                "modified": seconds(v["last_modified_time"]),
                "files": {f["path"]: {
                    "size": int(f["size_bytes"]), "blob": f["blob"],
                    "accessed": seconds(f["last_accessed_time"]),
                    "modified": seconds(f["last_modified_time"]),
                } for f in v["files"]},
            } for v in r["revisions"]},
        }  # fmt: skip
    return {
        "size": sum(int(cache["size_bytes"]) for cache in scan["caches"]),
        "warnings": len(scan["warnings"]),
        "partial": sorted(f["path"] for f in scan["partial_files"] if not f["ours"]),
        "repositories": repositories,
    }


def call(daemon, method, **request):
    return daemon.client.call(f"modeld.v1.Registry/{method}", request)


def verify(daemon, name, **more):
    """path -> results in order."""
    results = {}
    for message in daemon.client.stream("modeld.v1.Registry/VerifyModel", {"model_name": name, **more}):
        if message.get("path"):
            results.setdefault(message["path"], []).append(message["result"].removeprefix("RESULT_"))
    return results


def repository(daemon, repo_id):
    return daemon.cache / "hub" / f"models--{repo_id.replace('/', '--')}"


def damage(path):
    """Another byte in the middle, behind the link, by another file of the same length."""
    blob = pathlib.Path(path).resolve()
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.unlink()
    blob.write_bytes(content)


def test_scan_has_the_figures_of_scan_cache_dir(daemon, hub):
    daemon.register("ours", REPO)
    daemon.succeed(daemon.download("ours"))
    python(SNAPSHOT, daemon.cache, hub, repo_id=OTHER)
    # A blob that huggingface_hub shares between repositories, under two of them.
    shared = next(b for b in (repository(daemon, OTHER) / "blobs").iterdir() if b.stat().st_size > 1000)
    size = shared.stat().st_size
    arguments = {"blob_path": str(shared), "xet_hash": "ab" * 32, "expected_size": size}
    assert python(SHARE, daemon.cache, hub, **arguments) is True
    copied = repository(daemon, "tiny/copied")
    shutil.copytree(repository(daemon, OTHER), copied, symlinks=True)
    shutil.copytree(copied, daemon.cache / "hub/datasets--tiny--set", symlinks=True)
    # One without links, one that is detached, and what nobody can use.
    plain = next((copied / "snapshots").iterdir())
    config = (plain / "config.json").read_bytes()
    (plain / "config.json").unlink()
    (plain / "config.json").write_bytes(config)
    shutil.copytree(plain, plain.parent / ("0" * 40), symlinks=True)
    (copied / "blobs" / ("1" * 40 + ".0123abcd.incomplete")).write_bytes(b"half")
    (daemon.cache / "hub/stray").mkdir()
    (daemon.cache / "hub/models--broken--one").mkdir()

    scan = call(daemon, "ScanCaches")

    assert figures(scan) == python(FIGURES, daemon.cache, hub)
    assert len(scan["warnings"]) == 2 and len(scan["repositories"]) == 4
    assert {r["hf_path"]: r["model_name"] for r in scan["repositories"]}[REPO] == "ours"
    one = call(daemon, "ScanCaches", hf_path=REPO, omit_files=True)
    assert [r["hf_path"] for r in one["repositories"]] == [REPO]
    assert one["repositories"][0]["revisions"][0]["files"] == []
    code, out, _ = modelctl(daemon, "scan")
    assert code == DONE and OTHER in out and "warning: " in out


def test_what_python_downloaded_is_adopted_and_loaded_without_a_request(daemon, hub):
    folder = python(SNAPSHOT, daemon.cache, hub, repo_id=REPO)
    hub.reset()

    code, out, err = modelctl(daemon, "adopt", "mine", REPO, output="json")

    assert code == DONE, err
    model = json.loads(out)
    assert model["state"] == "MODEL_STATE_DOWNLOADED" and model["snapshot_path"] == folder
    daemon.succeed(daemon.load("mine"))
    assert daemon.generate("mine", max_tokens=2)[0] is not None
    assert hub.log() == []


def test_a_cache_without_links_is_adopted_verified_loaded_and_repaired(daemon, hub, monkeypatch):
    monkeypatch.setattr(
        "test_huggingface_hub.environment",
        lambda cache, hub: {**environment(cache, hub), "HF_HUB_DISABLE_SYMLINKS": "1"},
    )
    folder = pathlib.Path(python(SNAPSHOT, daemon.cache, hub, repo_id=REPO))
    assert not any(path.is_symlink() for path in folder.iterdir())
    hub.reset()

    assert figures(call(daemon, "ScanCaches")) == python(FIGURES, daemon.cache, hub)
    call(daemon, "AdoptModel", model_name="m", hf_path=REPO)
    daemon.succeed(daemon.load("m"))
    daemon.succeed(daemon.download("m"))
    assert {tuple(r) for r in verify(daemon, "m").values()} == {("OK",)}
    assert hub.bodies() == []
    damage(folder / "model-00001-of-00003.safetensors")

    results = verify(daemon, "m", repair=True)

    assert results.pop("model-00001-of-00003.safetensors") == ["CORRUPT", "REPAIRED"]
    assert {tuple(r) for r in results.values()} == {("OK",)}
    assert len(hub.bodies()) == 1
    assert {tuple(r) for r in verify(daemon, "m").values()} == {("OK",)}


def test_verify_finds_and_repairs_only_what_is_broken(daemon, hub):
    daemon.register("m", REPO)
    daemon.succeed(daemon.download("m"))
    assert {tuple(r) for r in verify(daemon, "m").values()} == {("OK",)}
    folder = pathlib.Path(daemon.model("m")["snapshot_path"])
    damage(folder / "model-00002-of-00003.safetensors")
    (folder / "config.json").unlink()
    (folder / "extra.txt").write_text("not of the repository")
    hub.reset()

    code, out, _ = modelctl(daemon, "verify", "m")
    assert code == REFUSED and "corrupt   model-00002" in out and "missing   config.json" in out
    assert hub.log() == []
    code, out, err = modelctl(daemon, "verify", "m", "--repair")

    assert code == DONE, err
    fetched = {e["path"].rpartition("/")[2] for e in hub.bodies()}
    blob = os.readlink(folder / "model-00002-of-00003.safetensors").rpartition("/")[2]
    assert fetched == {blob}
    results = verify(daemon, "m")
    assert results.pop("extra.txt") == ["EXTRA"]
    assert {tuple(r) for r in results.values()} == {("OK",)}
    (folder / "extra.txt").unlink()
    verified = hf(daemon, hub, "verify", REPO)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_prune_takes_orphans_and_dead_parts_and_nothing_of_python(daemon, hub):
    daemon.register("m", REPO)
    daemon.succeed(daemon.download("m"))
    blobs = repository(daemon, REPO) / "blobs"
    (blobs / ("1" * 64)).write_bytes(b"x" * 10_000)
    (blobs / f".{'2' * 64}.modeld.part").write_bytes(b"y" * 10_000)
    (blobs / ("3" * 64 + ".0123abcd.incomplete")).write_bytes(b"z" * 10_000)
    assert call(daemon, "PruneCache")["removed"] == []

    planned = call(daemon, "PruneCache", older_than="0s", dry_run=True)
    code, out, err = modelctl(daemon, "prune", "--older-than", "0", output="json")

    assert code == DONE, err
    done = json.loads(out)
    assert done["removed"] == planned["removed"] and done["freed_bytes"] == planned["freed_bytes"]
    assert {r["kind"] for r in done["removed"]} == {"KIND_BLOB", "KIND_PARTIAL_FILE"}
    assert int(done["freed_bytes"]) >= 20_000
    assert (blobs / ("3" * 64 + ".0123abcd.incomplete")).exists()
    assert {tuple(r) for r in verify(daemon, "m").values()} == {("OK",)}


def random_hub(folder, files, file_bytes, revisions=("v1", "v2")):
    """A repository race/random whose revisions share one file; the last is main."""
    numbers = random.Random(7)
    server = Hub(folder / "race-hub", lfs_threshold=1 << 20)
    shared = numbers.randbytes(file_bytes)
    for revision in revisions:
        source = folder / revision
        source.mkdir()
        for index in range(files):
            (source / f"part-{index}.bin").write_bytes(
                shared if index == 0 else numbers.randbytes(file_bytes)
            )
        (source / "config.json").write_text(json.dumps({"model_type": "none", "revision": revision}))
        server.add("race/random", source, revision)
    return server.start()


def sums(folder):
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(pathlib.Path(folder).iterdir())
    }


class Running(threading.Thread):
    """Calls `step` over and over until it is told to stop; what it raised first is kept."""

    def __init__(self, step):
        super().__init__(daemon=True)
        self._step, self._over, self.error, self.rounds = step, threading.Event(), None, 0
        self.start()

    def run(self):
        try:
            while not self._over.is_set():
                self._step()
                self.rounds += 1
        except BaseException as error:
            self.error = error

    def finish(self):
        eventually(lambda: self.rounds > 0 or self.error, "one round of what runs beside")
        self._over.set()
        self.join(120)
        assert not self.is_alive()
        if self.error:
            raise self.error


def hf(daemon, hub, *arguments):
    command = [HF, "cache", *arguments]
    return subprocess.run(command, env=environment(daemon.cache, hub), capture_output=True, text=True)


def test_python_prunes_and_deletes_while_we_download(make_daemon, tmp_path):
    hub = random_hub(tmp_path, files=3, file_bytes=6 << 20)
    try:
        daemon = make_daemon(hub.url).start()
        hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 4 << 20}])
        daemon.register("m", "race/random")
        operation = call_download(daemon)
        parts = repository(daemon, "race/random") / "blobs"
        eventually(lambda: any(parts.glob(".*.modeld.part")), "a part file")
        # Either takes the whole repository while no ref names its snapshot; their rmtree fails when
        # anybody makes a file in between.
        for command in (["rm", "-y", "model/race/random"], ["prune", "-y"]):
            eventually(lambda c=command: hf(daemon, hub, *c).returncode == 0, f"hf cache {command}")

        daemon.succeed(daemon.finish(operation))

        # What they looked at before the ref was there they may remove after it; the next download
        # notices.
        hub.tell(clear=["faults"])
        daemon.succeed(daemon.download("m"))
        assert sums(daemon.model("m")["snapshot_path"]) == sums(tmp_path / "v2")
        assert {tuple(r) for r in verify(daemon, "m").values()} == {("OK",)}
        verified = hf(daemon, hub, "verify", "race/random")
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        hub.close()


def call_download(daemon):
    return daemon.client.call("modeld.v1.Orchestrator/DownloadModel", {"model_name": "m"})["name"]


def test_python_downloads_and_reads_while_we_prune_verify_and_delete(make_daemon, tmp_path):
    hub = random_hub(tmp_path, files=3, file_bytes=6 << 20)
    try:
        daemon = make_daemon(hub.url).start()
        daemon.register("m", "race/random", revision="v1")
        daemon.succeed(daemon.download("m"))
        first = daemon.model("m")["commit"]
        hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 6 << 20}])

        def prune():
            call(daemon, "PruneCache", older_than="0s")

        def look():
            call(daemon, "ScanCaches")
            assert {tuple(r) for r in verify(daemon, "m").values()} <= {("OK",)}

        beside = [Running(prune), Running(look)]
        folder = python(SNAPSHOT, daemon.cache, hub, repo_id="race/random", revision="v2")
        assert sums(folder) == sums(tmp_path / "v2")
        for thread in beside:
            thread.finish()
        # Python's revision keeps the file that both have.
        deleted = call(daemon, "DeleteRevision", model_name="m", revision=first)
        assert 12 << 20 <= int(deleted["freed_bytes"]) < 13 << 20
        assert sums(folder) == sums(tmp_path / "v2")
        offline = {"repo_id": "race/random", "revision": "v2", "local_files_only": True}
        assert python(SNAPSHOT, daemon.cache, hub, **offline) == folder
        assert python(FIGURES, daemon.cache, hub)["warnings"] == 0
    finally:
        hub.close()


@pytest.fixture
def read_only(make_daemon, hub):
    """A daemon on a cache that Python filled and that nobody may write to."""
    daemon = make_daemon(hub.url)
    python(SNAPSHOT, daemon.cache, hub, repo_id=REPO)
    folders = [daemon.cache, *(p for p in daemon.cache.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    # Root may write anywhere, unless it gives that up.
    if os.geteuid() == 0:
        daemon.command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
    yield daemon.start()
    for folder in folders:
        folder.chmod(0o755)


def test_a_read_only_cache_is_read_and_loaded_and_a_download_says_what_to_do(read_only, hub):
    before = sorted(str(p) for p in read_only.cache.rglob("*"))
    hub.reset()
    call(read_only, "AdoptModel", model_name="m", hf_path=REPO)
    read_only.succeed(read_only.load("m"))
    assert hub.log() == []
    assert {tuple(r) for r in verify(read_only, "m").values()} == {("OK",)}
    # Everything is there: nothing has to be written.
    read_only.succeed(read_only.download("m"))
    assert hub.bodies() == []

    read_only.register("other", OTHER)
    operation = read_only.download("other")

    assert operation["state"] == "OPERATION_STATE_FAILED"
    error = json.dumps(operation["error"])
    assert "CACHE_NOT_WRITABLE" in error and "chown" in error
    assert sorted(str(p) for p in read_only.cache.rglob("*")) == before


OLD = os.environ.get("MODELD_OLD_HUB_PYTHON", "")


def old_python(program, daemon, hub, **arguments):
    """What a program with huggingface_hub 1.17 prints last, as JSON."""
    done = subprocess.run(
        [OLD, "-c", program, json.dumps(arguments)],
        env=environment(daemon.cache, hub),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_old_huggingface_hub_is_not_confused_by_our_part_files(make_daemon, tmp_path):
    hub = random_hub(tmp_path, files=2, file_bytes=6 << 20, revisions=("v1",))
    try:
        daemon = make_daemon(hub.url).start()
        hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 2 << 20}])
        daemon.register("m", "race/random")
        call_download(daemon)
        parts = repository(daemon, "race/random") / "blobs"
        eventually(lambda: len(list(parts.glob(".*.modeld.part"))) == 2, "two part files")
        daemon.kill9()
        left = {p.name: p.stat().st_size for p in parts.glob(".*.modeld.part*")}
        hub.tell(clear=["faults"])

        folder = old_python(SNAPSHOT, daemon, hub, repo_id="race/random")

        assert sums(folder) == sums(tmp_path / "v1")
        assert {p.name: p.stat().st_size for p in parts.glob(".*.modeld.part*")} == left
        daemon.start()
        daemon.succeed(daemon.download("m"))
        assert daemon.model("m")["snapshot_path"] == folder
        assert old_python(SNAPSHOT, daemon, hub, repo_id="race/random", local_files_only=True) == folder
    finally:
        hub.close()


def test_partial_files_of_an_old_huggingface_hub_are_left_alone(make_daemon, tmp_path):
    hub = random_hub(tmp_path, files=1, file_bytes=2 << 20, revisions=("v1",))
    try:
        daemon = make_daemon(hub.url).start()
        digest = sums(tmp_path / "v1")["part-0.bin"]
        blobs = repository(daemon, "race/random") / "blobs"
        blobs.mkdir(parents=True)
        theirs = blobs / f"{digest}.incomplete"
        theirs.write_bytes(b"\0" * (2 << 20))

        daemon.register("m", "race/random")
        daemon.succeed(daemon.download("m"))

        assert sums(daemon.model("m")["snapshot_path"]) == sums(tmp_path / "v1")
        assert theirs.read_bytes() == b"\0" * (2 << 20)
    finally:
        hub.close()


def test_a_branch_that_moves_during_a_download_does_not_mix_revisions(make_daemon, tmp_path):
    hub = random_hub(tmp_path, files=3, file_bytes=6 << 20)
    try:
        daemon = make_daemon(hub.url).start()
        hub.tell(
            add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 4 << 20}],
            change={"race/random": {"branches": {"main": "v1"}}},
        )
        daemon.register("m", "race/random")
        first = daemon.model("m")["commit"]
        operation = call_download(daemon)
        eventually(lambda: any(e["on"] == "cdn" and e["bytes"] for e in hub.log()), "bytes flow")
        hub.tell(change={"race/random": {"branches": {"main": "v2"}}})

        daemon.succeed(daemon.finish(operation))

        model = daemon.model("m")
        assert model["commit"] == first
        assert sums(model["snapshot_path"]) == sums(tmp_path / "v1")
        resolved = [e["path"] for e in hub.log() if e["on"] == "resolve"]
        assert resolved and all(f"/resolve/{first}/" in path for path in resolved)
    finally:
        hub.close()


def test_a_file_that_the_hub_has_lost_leaves_no_marker_for_python(make_daemon, tmp_path):
    hub = random_hub(tmp_path, files=1, file_bytes=2 << 20, revisions=("v1",))
    try:
        daemon = make_daemon(hub.url).start()
        gone = {"kind": "status", "on": "resolve", "status": 404, "path": "*config.json"}
        hub.tell(add=[{**gone, "headers": {"X-Error-Code": "EntryNotFound"}}])
        daemon.register("m", "race/random")

        operation = daemon.download("m")

        assert operation["state"] == "OPERATION_STATE_FAILED"
        assert "HUB_ENTRY_NOT_FOUND" in json.dumps(operation["error"])
        assert not (repository(daemon, "race/random") / ".no_exist").exists()
        hub.tell(clear=["faults"])
        daemon.succeed(daemon.download("m"))
        assert sums(daemon.model("m")["snapshot_path"]) == sums(tmp_path / "v1")
    finally:
        hub.close()
