"""What is known of a repository before any weight is fetched."""

import json
import shutil

import pytest
from conftest import TINY
from peers import Hub
from weight_files import read_safetensors, write_torch, write_zeros

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8000,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}


def tensors_of_config():
    shapes = {"model.embed_tokens.weight": [8000, 512], "lm_head.weight": [8000, 512]}
    shapes["model.norm.weight"] = [512]
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = [512, 512]
        for name in ("gate", "up"):
            shapes[f"{prefix}mlp.{name}_proj.weight"] = [1024, 512]
        shapes[f"{prefix}mlp.down_proj.weight"] = [512, 1024]
        for name in ("input", "post_attention"):
            shapes[f"{prefix}{name}_layernorm.weight"] = [512]
    return shapes


def write_sharded(folder, shapes):
    """Two files with an index; how many bytes their headers have."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = list(shapes)
    heads, places = 0, {}
    for shard, part in enumerate((names[:2], names[2:]), 1):
        file = f"model-{shard:05}-of-00002.safetensors"
        heads += write_zeros(folder / file, {name: shapes[name] for name in part})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return heads


def copy_of_tiny(folder):
    shutil.copytree(TINY / "tiny-llama", folder, ignore=shutil.ignore_patterns("goldens.*"))
    return folder


@pytest.fixture(scope="module")
def torch_tensors():
    return read_safetensors(TINY / "tiny-llama" / "model.safetensors")


@pytest.fixture(scope="module")
def hub(tmp_path_factory, torch_tensors):
    server = Hub(tmp_path_factory.mktemp("preflight-hub"))
    shapes = tensors_of_config()
    write_sharded(server.folder / "org" / "large", shapes)
    wrong = dict(shapes)
    del wrong["model.layers.1.mlp.up_proj.weight"]
    wrong["model.norm.weight"] = [7]
    wrong["model.layers.9.stray"] = [1]
    write_sharded(server.folder / "org" / "wrong", wrong)

    mixed = copy_of_tiny(server.folder / "org" / "mixed")
    (mixed / "original").mkdir()
    (mixed / "onnx").mkdir()
    for name in (
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "onnx/model.onnx",
        "q4.gguf",
    ):
        (mixed / name).write_bytes(b"x" * 1000)

    torch = copy_of_tiny(server.folder / "org" / "torch")
    (torch / "model.safetensors").unlink()
    write_torch(torch / "pytorch_model.bin", torch_tensors)

    lacking = copy_of_tiny(server.folder / "org" / "torch-lacking")
    (lacking / "model.safetensors").unlink()
    names = [name for name in torch_tensors if name != "model.layers.1.mlp.up_proj.weight"]
    places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    (lacking / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    for file in set(places.values()):
        write_torch(lacking / file, {n: torch_tensors[n] for n in names if places[n] == file})
    server.start()
    yield server
    server.close()


@pytest.fixture
def daemon(make_daemon, hub):
    hub.reset()
    return make_daemon(hub.url).start()


def preflight_of(daemon, name):
    """What registration found. It waits for the hub for some seconds; on a machine where that was too
    little a plan says it, which has the time."""
    found = daemon.model(name).get("preflight", {})
    if found.get("unsupported_reason") or int(found.get("parameter_count", 0)):
        return found
    return daemon.client.call("modeld.v1.Orchestrator/PlanDownload", {"model_name": name})["preflight"]


def weight_bytes(hub):
    """How many bytes of weight files the hub sent."""
    return sum(e["bytes"] for e in hub.bodies() if ".safetensors" in e["path"] or e["on"] == "cdn")


def test_registration_reads_headers_and_no_weights(daemon, hub):
    daemon.register("large", "org/large")

    preflight = preflight_of(daemon, "large")
    parameters = sum(s[0] * (s + [1])[1] for s in tensors_of_config().values())
    assert preflight["supported"]
    assert int(preflight["parameter_count"]) == parameters
    assert int(preflight["weights_file_bytes"]) == 4 * parameters
    assert int(preflight["weights_bytes"]["bfloat16"]) == 2 * parameters
    assert int(preflight["kv_cache_bytes_per_token"]["bfloat16"]) == 2 * 2 * 512 * 2
    assert int(preflight["workspace_bytes"]) > 0
    # The first read of a file is 256 KiB, in which nearly every header is. Twice, if a plan said it.
    assert 0 < weight_bytes(hub) <= 2 * (2 * (256 << 10) + 10_000)
    assert 4 * parameters > 20_000_000


def test_wrong_tensors_are_listed_at_registration(daemon, hub):
    daemon.register("wrong", "org/wrong")

    preflight = preflight_of(daemon, "wrong")
    assert not preflight["supported"]
    assert preflight["unsupported_reason"] == "INVALID_REPOSITORY"
    for name in (
        "model.layers.1.mlp.up_proj.weight",
        "model.norm.weight",
        "model.layers.9.stray",
    ):
        assert name in preflight["unsupported_message"]
    assert "[7] instead of [512]" in preflight["unsupported_message"]


def test_the_names_of_sharded_torch_files_are_checked_by_their_index(daemon):
    daemon.register("lacking", "org/torch-lacking")

    preflight = preflight_of(daemon, "lacking")
    assert preflight["unsupported_reason"] == "INVALID_REPOSITORY"
    assert "1 missing (model.layers.1.mlp.up_proj.weight)" in preflight["unsupported_message"]


def test_a_repository_of_torch_files_is_loaded_and_answers(daemon, torch_tensors):
    daemon.register("torch", "org/torch")
    assert preflight_of(daemon, "torch")["supported"]

    daemon.succeed(daemon.load("torch"))

    assert daemon.generate("torch", max_tokens=4, temperature=0)[1]["usage"]["generated_tokens"]


def test_what_is_left_out_is_told_and_not_fetched(daemon, hub):
    daemon.register("mixed", "org/mixed")
    plan = daemon.client.call("modeld.v1.Orchestrator/PlanDownload", {"model_name": "mixed"})

    left_out = {file["path"]: file for file in plan["left_out"]}
    paths = {
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "onnx/model.onnx",
        "q4.gguf",
    }
    assert left_out.keys() == paths
    assert all(int(file["size_bytes"]) == 1000 and file["why"] for file in left_out.values())
    assert paths.isdisjoint(file["path"] for file in plan["files"])

    daemon.succeed(daemon.load("mixed"))
    snapshot = daemon.model("mixed")["snapshot_path"]
    found = {str(path.relative_to(snapshot)) for path in daemon.cache.glob("hub/*/snapshots/*/**/*")}
    assert paths.isdisjoint(found)
    assert not list(daemon.cache.glob("hub/*/trees/*"))
    # Nothing is missing that is wanted: it is not asked for again.
    again = daemon.client.call("modeld.v1.Orchestrator/PlanDownload", {"model_name": "mixed"})
    assert int(again.get("fetch_bytes", 0)) == 0


def test_patterns_override_what_is_left_out(daemon):
    daemon.register("mixed", "org/mixed", allow_patterns=["*"])

    plan = daemon.client.call("modeld.v1.Orchestrator/PlanDownload", {"model_name": "mixed"})

    assert not plan.get("left_out")
    daemon.succeed(daemon.download("mixed"))
    assert list(daemon.cache.glob("hub/*/snapshots/*/q4.gguf"))
    assert list(daemon.cache.glob("hub/*/trees/*"))
