"""Models that are divided over devices: the CPU with two budgets stands for several GPUs."""

import json

import pytest
from conftest import SMOLLM2
from rpc import Refusal
from test_main_job import metrics_of, total
from test_modelctl import DONE, modelctl

# SmolLM2-135M needs about 380 MB with its workspace and no context: neither holds it alone.
BUDGETS = {"cpu:0": 300_000_000, "cpu:1": 310_000_000}
SETTINGS = f"[devices]\ncpu_budgets = {list(BUDGETS.values())}\n"


def held_by(daemon, name):
    """Device -> bytes of the one instance of a model."""
    (instance,) = [i for i in daemon.instances() if i["model_name"] == name]
    return {device["device"]: int(device["resident_bytes"]) for device in instance["devices"]}


@pytest.fixture
def split(make_daemon, hub):
    return make_daemon(hub.url, settings=SETTINGS).start()


def test_a_model_that_fits_on_no_device_alone_is_divided_and_answers(split):
    split.register("smol", SMOLLM2)
    split.succeed(split.load("smol", max_context=1024))

    text, _ = split.generate("smol", "The capital of France is", max_tokens=8, temperature=0)

    assert "Paris" in text
    held = held_by(split, "smol")
    assert held.keys() == BUDGETS.keys()
    assert all(0 < held[name] <= BUDGETS[name] for name in held)
    devices = split.client.call("modeld.v1.Orchestrator/ListDevices")["devices"]
    assert {d["name"]: int(d["model_bytes"]["smol"]) for d in devices if d["kind"] == "cpu"} == held
    families = metrics_of(split)
    for name, bytes_held in held.items():
        assert total(families, "modeld_model_memory_bytes", device=name, model="smol") == bytes_held
        assert total(families, "modeld_device_memory_total_bytes", device=name) == BUDGETS[name]


def test_another_map_replaces_the_instance_and_answers_the_same(split, tmp_path):
    split.register("tiny", "tiny/tiny-qwen3")
    greedy = {"max_tokens": 12, "temperature": 0}
    split.succeed(split.load("tiny", dtype="float32", device_map="cpu:1", max_context=256))
    whole, _ = split.generate("tiny", **greedy)
    assert held_by(split, "tiny").keys() == {"cpu:1"}

    entries = {
        "model.embed_tokens": "cpu:0",
        "model.layers.0": "cpu:0",
        "model.layers.1": "cpu:1",
    }
    entries |= {"model.layers": "cpu:1", "model.norm": "cpu:1", "lm_head": "cpu:0"}
    file = tmp_path / "map.json"
    file.write_text(json.dumps(entries))
    options = ("--dtype", "float32", "--max-context", "256", "--device-map", str(file))
    assert modelctl(split, "load", "tiny", *options)[0] == DONE

    assert held_by(split, "tiny").keys() == {"cpu:0", "cpu:1"}
    assert split.generate("tiny", **greedy)[0] == whole


def test_bad_maps_are_refused_with_the_names(split):
    split.register("tiny", "tiny/tiny-llama")

    def message_of(entries):
        try:
            operation = split.load("tiny", device_map_entries=entries)
        except Refusal as refusal:
            assert refusal.code == "INVALID_ARGUMENT"
            return refusal.message
        assert operation["state"] == "OPERATION_STATE_FAILED"
        assert operation["error"]["code"] == 3, operation
        return operation["error"]["message"]

    assert "model.layers.1" in message_of({"model.embed_tokens": "cpu:0", "model.layers.0": "cpu:1"})
    assert "cpu:2" in message_of({"": "cpu:2"})
    assert "disk" in message_of({"": "disk"})
    assert "model.layers.0.mlp" in message_of({"": "cpu:0", "model.layers.0.mlp": "cpu:1"})
