"""One cache, two programs: huggingface_hub on what modeld wrote, and the other way round."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import TINY
from peers import Hub

REPO = "tiny/tiny-llama-sharded"

SCAN = """
import json
from huggingface_hub import scan_cache_dir
info = scan_cache_dir()
print(json.dumps({
    "warnings": [str(w) for w in info.warnings],
    "repos": {r.repo_id: [sorted(x.refs) for x in r.revisions] for r in info.repos},
    "size": info.size_on_disk,
}))
"""
SNAPSHOT = """
import json, sys
from huggingface_hub import snapshot_download
arguments = json.loads(sys.argv[1])
print(json.dumps(snapshot_download(**arguments)))
"""


def environment(cache, hub):
    keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return {
        **keep, "HF_HOME": str(cache), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_COLOR": "1",
    }  # fmt: skip


def python(program, cache, hub, **arguments):
    """What a program with the real library prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        env=environment(cache, hub),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def downloaded(daemon):
    """A daemon with the repository in its cache."""
    daemon.register("sharded", REPO)
    daemon.succeed(daemon.download("sharded"))
    return daemon


def test_scan_cache_dir_finds_our_repository_without_a_warning(downloaded, hub):
    found = python(SCAN, downloaded.cache, hub)
    assert found["warnings"] == []
    assert found["repos"] == {REPO: [["main"]]}
    assert found["size"] == int(downloaded.model("sharded")["size_bytes"])


def test_snapshot_download_offline_takes_our_files(downloaded, hub):
    hub.reset()
    folder = python(SNAPSHOT, downloaded.cache, hub, repo_id=REPO, local_files_only=True)
    assert folder == downloaded.model("sharded")["snapshot_path"]
    assert hub.log() == []
    for file in (TINY / "tiny-llama-sharded").iterdir():
        if not file.name.startswith("goldens."):
            assert (pathlib.Path(folder) / file.name).read_bytes() == file.read_bytes()


def test_snapshot_download_online_fetches_no_body(downloaded, hub):
    hub.reset()
    folder = python(SNAPSHOT, downloaded.cache, hub, repo_id=REPO)
    assert folder == downloaded.model("sharded")["snapshot_path"]
    assert hub.log() != [] and hub.bodies() == []


def test_hf_cache_verify_is_clean(downloaded, hub):
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).parent / "hf"), "cache", "verify", REPO],
        env=environment(downloaded.cache, hub),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_huggingface_hub_wrote_are_not_fetched_again(daemon, hub):
    python(SNAPSHOT, daemon.cache, hub, repo_id=REPO)
    hub.reset()
    daemon.register("sharded", REPO)
    operation = daemon.succeed(daemon.load("sharded"))
    assert hub.bodies() == []
    assert {file["state"] for file in operation["files"]} <= {"FILE_STATE_PRESENT"}
    assert daemon.ready("sharded")


def test_a_part_that_huggingface_hub_wrote_is_completed(daemon, hub):
    python(SNAPSHOT, daemon.cache, hub, repo_id=REPO, allow_patterns=["model-00001*", "*.json"])
    blobs = daemon.cache / "hub/models--tiny--tiny-llama-sharded/blobs"
    present = {blob.name for blob in blobs.iterdir()}
    hub.reset()
    daemon.register("sharded", REPO)
    daemon.succeed(daemon.download("sharded"))
    added = {blob.name for blob in blobs.iterdir()} - present
    assert len(added) == 2
    # The LFS port names files by their digest; a head may be read before its file is fetched.
    assert {e["path"].rpartition("/")[2] for e in hub.bodies()} == added


def test_a_second_revision_fetches_what_changed_and_keeps_the_first(make_daemon, tmp_path):
    hub = Hub(tmp_path / "hub")
    hub.add("two/revisions", TINY / "tiny-llama", "v1")
    second = hub.add("two/revisions", TINY / "tiny-llama", "v2")
    settings = json.loads((second / "generation_config.json").read_text())
    (second / "generation_config.json").unlink()
    (second / "generation_config.json").write_text(json.dumps({**settings, "max_new_tokens": 7}))
    hub.start()
    try:
        hub.tell(change={"two/revisions": {"branches": {"main": "v1"}}})
        daemon = make_daemon(hub.url).start()
        daemon.register("two", "two/revisions")
        daemon.succeed(daemon.download("two"))
        first = daemon.model("two")
        hub.tell(clear=["log"], change={"two/revisions": {"branches": {"main": "v2"}}})

        daemon.succeed(daemon.download("two"))

        model = daemon.model("two")
        assert model["commit"] != first["commit"] and model["snapshot_path"] != first["snapshot_path"]
        assert {e["path"].rpartition("/")[2] for e in hub.bodies()} == {"generation_config.json"}
        assert all(p.exists() for p in pathlib.Path(first["snapshot_path"]).iterdir())
        repository = daemon.cache / "hub/models--two--revisions"
        assert (repository / "refs/main").read_text() == model["commit"]
        offline = python(SNAPSHOT, daemon.cache, hub, repo_id="two/revisions", local_files_only=True)
        assert offline == model["snapshot_path"]
    finally:
        hub.close()
