"""The main job with the real model: the two calls of the pipeline document, then an answer."""

import os
import pathlib

import pytest
from conftest import SMOLLM2
from peers import Daemon, eventually, get, joined
from prometheus_client.parser import text_string_to_metric_families

CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
QUIET_DRIP = {"kind": "drip", "on": "cdn", "bytes_per_s": 20 << 20}
# Families of the contract that have something to count after one load and one answer.
FAMILIES = {
    "modeld_download_bytes", "modeld_download_wire_bytes", "modeld_download_files",
    "modeld_download_active", "modeld_download_queue_length", "modeld_download_duration_seconds",
    "modeld_load_duration_seconds", "modeld_cache_free_bytes",
    "modeld_cache_size_bytes", "modeld_cache_used_bytes", "modeld_device_memory_total_bytes",
    "modeld_device_memory_used_bytes", "modeld_model_memory_bytes", "modeld_models",
    "modeld_instances", "modeld_inference_requests", "modeld_inference_tokens",
    "modeld_inference_active", "modeld_inference_waiting", "modeld_kv_cache_used_ratio",
    "modeld_time_to_first_token_seconds", "modeld_inter_token_seconds",
    "modeld_request_duration_seconds", "modeld_grpc_server_handled",
    "modeld_grpc_server_duration_seconds", "modeld_db_up", "modeld_build_info",
}  # fmt: skip


def size_on_disk(folder):
    """Bytes of the files below, each inode once, sparse holes not counted."""
    inodes = {}
    for file in pathlib.Path(folder).rglob("*"):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


def files_open_for_writing(pid):
    """Paths of regular files that the process has open for writing."""
    paths = set()
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
            flags = int(pathlib.Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()[3], 8)
        except (FileNotFoundError, IndexError):
            continue
        if flags & os.O_ACCMODE and target.startswith("/") and not target.startswith("/dev/"):
            paths.add(target)
    return paths


def metrics_of(daemon):
    """Samples by family and by (name, labels)."""
    status, text = get(f"http://{daemon.endpoints['http_address']}/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families
    return families


def total(families, family, sample=None, **labels):
    """Sum of the samples with these labels."""
    found = [
        s.value
        for s in families[family].samples
        if (sample is None or s.name == sample) and labels.items() <= s.labels.items()
    ]
    assert found, (family, labels)
    return sum(found)


@pytest.fixture(scope="module")
def main_job(tmp_path_factory, postgres, shared_hub, real_model):
    """A daemon with the real model loaded; what was seen on the way."""
    shared_hub.reset()
    shared_hub.tell(add=[QUIET_DRIP])
    daemon = Daemon(tmp_path_factory.mktemp("main"), shared_hub.url, postgres.new_database()).start()
    registered = daemon.register("smol", SMOLLM2, trust_remote_code=False, estimated_size_mb=280)
    request = {"model_name": "smol"}
    name = daemon.client.call("modeld.v1.Orchestrator/LoadModel", request)["name"]
    written, peak = set(), 0

    def look():
        nonlocal peak
        written.update(files_open_for_writing(daemon.pid))
        peak = max(peak, size_on_disk(daemon.cache))
        return daemon.client.call("modeld.v1.Orchestrator/GetOperation", {"name": name})["done"]

    eventually(look, "the load is done", 180)
    operation = daemon.client.call("modeld.v1.Orchestrator/GetOperation", {"name": name})
    yield {
        "daemon": daemon, "registered": registered, "operation": operation, "written": written,
        "peak": peak, "bytes": sum(f.stat().st_size for f in real_model.iterdir()),
    }  # fmt: skip
    daemon.close()


def test_registering_says_where_the_model_goes_and_that_it_fits(main_job):
    registered, daemon = main_job["registered"], main_job["daemon"]
    assert registered["model"]["state"] == "MODEL_STATE_REGISTERED"
    assert registered["model"]["cache_path"] == str(daemon.cache)
    assert registered["space_check"]["sufficient"] is True
    assert int(registered["space_check"]["required_bytes"]) == main_job["bytes"]


def test_loading_by_name_alone_makes_the_model_ready(main_job):
    daemon = main_job["daemon"]
    daemon.succeed(main_job["operation"])
    assert main_job["operation"]["phase"] == "OPERATION_PHASE_READY"
    model = daemon.model("smol")
    assert model["state"] == "MODEL_STATE_READY"
    assert int(model["size_bytes"]) == main_job["bytes"]
    assert pathlib.Path(model["snapshot_path"]).is_relative_to(daemon.cache)


def test_the_model_names_paris(main_job):
    request = {"model_name": "smol", **CHAT, "sampling": {"max_tokens": 32, "temperature": 0}}
    text, last = joined(main_job["daemon"].client.stream("modeld.v1.Inference/Chat", request))
    assert "Paris" in text
    assert last["finish_reason"] in ("FINISH_REASON_STOP", "FINISH_REASON_LENGTH")
    assert int(last["usage"]["prompt_tokens"]) > 0 and int(last["usage"]["generated_tokens"]) > 0


def test_nothing_is_written_outside_of_the_cache_of_the_row(main_job):
    daemon = main_job["daemon"]
    own = (daemon.cache, daemon.state, daemon.sockets, daemon.log_file)
    outside = {p for p in main_job["written"] if not any(pathlib.Path(p).is_relative_to(o) for o in own)}
    assert outside == set()
    assert any("/blobs/" in path for path in main_job["written"]), "the download was not seen"
    state_files = [f for f in daemon.state.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in state_files) < 100_000
    assert list((daemon.folder / "home").rglob("*")) == []


def test_the_space_used_stays_at_the_size_of_the_files(main_job):
    assert main_job["peak"] <= 1.02 * main_job["bytes"]
    assert size_on_disk(main_job["daemon"].cache) <= 1.02 * main_job["bytes"]


def test_the_cache_has_the_folders_of_the_pipeline_document(main_job):
    cache = main_job["daemon"].cache
    assert {p.name for p in cache.iterdir()} == {"hub", "transformers", "xet"}
    repository = cache / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    commit = (repository / "refs/main").read_text()
    links = list((repository / "snapshots" / commit).iterdir())
    assert links and all(link.is_symlink() and link.exists() for link in links)
    assert not list((repository / "blobs").glob("*.incomplete*"))


def test_metrics_count_what_was_done(main_job):
    daemon = main_job["daemon"]
    daemon.generate("smol", max_tokens=4, temperature=0)
    # The engine tells its counts once a second.
    eventually(lambda: FAMILIES <= metrics_of(daemon).keys(), "every family is there")
    families = metrics_of(daemon)
    assert FAMILIES <= families.keys(), FAMILIES - families.keys()
    assert total(families, "modeld_download_bytes", model="smol") == main_job["bytes"]
    assert total(families, "modeld_download_wire_bytes", model="smol") >= main_job["bytes"]
    assert total(families, "modeld_download_files", model="smol") == 5 + 1  # README.md too
    assert total(families, "modeld_model_memory_bytes", model="smol") > 134e6 * 2
    assert total(families, "modeld_inference_tokens", model="smol", kind="generated") >= 4
    assert total(families, "modeld_inference_tokens", model="smol", kind="prompt") >= 1
    # Counted by the loader's round, not by the scrape.
    eventually(lambda: total(metrics_of(daemon), "modeld_models", state="ready") == 1, "one is ready")
    assert total(families, "modeld_instances", state="ready") == 1
    count = "modeld_load_duration_seconds_count"
    assert total(families, "modeld_load_duration_seconds", count, model="smol") == 1
    first = "modeld_time_to_first_token_seconds_count"
    assert total(families, "modeld_time_to_first_token_seconds", first, model="smol") >= 1
    assert total(families, "modeld_grpc_server_handled", method="LoadModel", code="OK") == 1
    assert total(families, "modeld_db_up") == 1


def test_devices_say_how_many_bytes_the_model_takes(main_job):
    devices = main_job["daemon"].client.call("modeld.v1.Orchestrator/ListDevices")["devices"]
    cpu = next(d for d in devices if d["kind"] == "cpu")
    assert int(cpu["model_bytes"]["smol"]) > 134e6 * 2
    assert int(cpu["used_bytes"]) + int(cpu["free_bytes"]) <= int(cpu["total_bytes"])


def test_instances_say_where_the_model_runs(main_job):
    (instance,) = main_job["daemon"].instances()
    assert instance["model_name"] == "smol" and instance["state"] == "INSTANCE_STATE_READY"
    assert pathlib.Path(f"/proc/{instance['pid']}/exe").resolve().name == "modeld-engine-serve"
    assert pathlib.Path(f"/proc/{instance['pid']}/comm").read_text() == "modeld-engine\n"
    assert instance["dtype"] == "bfloat16" and instance["load_seconds"] > 0


def test_a_second_load_is_a_finished_operation_at_once(main_job):
    answer = main_job["daemon"].client.call("modeld.v1.Orchestrator/LoadModel", {"model_name": "smol"})
    assert answer["done"] and answer["state"] == "OPERATION_STATE_SUCCEEDED"


def test_tokens_and_templates_go_both_ways(main_job):
    client = main_job["daemon"].client
    text = "Zwölf Äpfel, 日本 🍎"
    tokens = client.call("modeld.v1.Inference/Tokenize", {"model_name": "smol", "text": text})["token_ids"]
    back = client.call("modeld.v1.Inference/Detokenize", {"model_name": "smol", "token_ids": tokens})
    assert back["text"] == text
    made = client.call("modeld.v1.Inference/ApplyChatTemplate", {"model_name": "smol", **CHAT})
    assert made["prompt"].endswith("<|im_start|>assistant\n") and "France" in made["prompt"]


def test_a_scrape_works_while_the_database_is_stopped(main_job, postgres):
    daemon = main_job["daemon"]
    with postgres.away():
        eventually(lambda: total(metrics_of(daemon), "modeld_db_up") == 0, "db_up is 0")
        families = metrics_of(daemon)
        assert total(families, "modeld_model_memory_bytes", model="smol") > 0
        text, _ = daemon.generate("smol", max_tokens=4, temperature=0)
        assert text
    eventually(lambda: daemon.http("/readyz")[0] == 200, "/readyz says 200")
