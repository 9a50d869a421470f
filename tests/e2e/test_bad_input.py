"""Every kind of bad input gets the code and the reason of the contract, and the daemon stays up."""

import json
import os
import pathlib
import struct

import pytest
from conftest import TINY
from peers import Daemon, Hub, Refusal

REGISTER = "modeld.v1.Registry/RegisterModel"
CODES = {3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 9: "FAILED_PRECONDITION",
         12: "UNIMPLEMENTED"}  # fmt: skip


def with_config(folder, **changes):
    """The repository with other values in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("config.json",):
        (folder / name).unlink()
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def with_weights(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content)


def with_header(folder, change):
    """The repository with another safetensors header before the same data."""
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    with_weights(folder, struct.pack("<Q", len(text)) + text + content[8 + length :])


def first_tensor(header):
    return next(v for k, v in header.items() if k != "__metadata__")


def beyond_the_end(header):
    first_tensor(header)["data_offsets"] = [0, 1 << 50]


def backwards(header):
    begin, end = first_tensor(header)["data_offsets"]
    first_tensor(header)["data_offsets"] = [end, begin]


def huge_shape(header):
    first_tensor(header)["shape"] = [1 << 40, 1 << 40]


def truncated(folder):
    content = (folder / "model.safetensors").read_bytes()
    with_weights(folder, content[: len(content) // 2])


INVALID = ("FAILED_PRECONDITION", "INVALID_REPOSITORY")
UNSUPPORTED = ("UNIMPLEMENTED", "UNSUPPORTED_ARCHITECTURE")
UNTRUSTED = ("FAILED_PRECONDITION", "REMOTE_CODE_NOT_TRUSTED")
MAMBA = {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
CUSTOM = {
    "model_type": "own", "architectures": ["OwnForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
}  # fmt: skip
# name -> (what is wrong, code and reason of LoadModel)
BROKEN = {
    "truncated-weights": (truncated, INVALID),
    "empty-weights": (lambda f: with_weights(f, b""), INVALID),
    "length-of-2-to-the-64": (lambda f: with_weights(f, b"\xff" * 8 + b"{}" * 500), INVALID),
    "header-is-no-json": (lambda f: with_weights(f, struct.pack("<Q", 4) + b"nope" + bytes(64)), INVALID),
    "offsets-beyond-the-end": (lambda f: with_header(f, beyond_the_end), INVALID),
    "offsets-backwards": (lambda f: with_header(f, backwards), INVALID),
    "shape-beyond-int64": (lambda f: with_header(f, huge_shape), INVALID),
    "config-is-no-json": (lambda f: replace_text(f / "config.json", "{"), INVALID),
    "negative-hidden-size": (lambda f: with_config(f, hidden_size=-64), INVALID),
    "no-heads": (lambda f: with_config(f, num_attention_heads=0), INVALID),
    "vast-hidden-size": (lambda f: with_config(f, hidden_size=10**18), INVALID),
    "more-layers-than-weights": (lambda f: with_config(f, num_hidden_layers=1000), INVALID),
    "unknown-architecture": (lambda f: with_config(f, **MAMBA), UNSUPPORTED),
    "untrusted-code": (lambda f: with_config(f, **CUSTOM), UNTRUSTED),
}


def replace_text(path, text):
    path.unlink()
    path.write_text(text)


def copied(hub, name):
    """Repository bad/NAME with files of its own."""
    folder = hub.folder / "bad" / name
    folder.mkdir(parents=True)
    for file in (TINY / "tiny-llama").iterdir():
        if not file.name.startswith("goldens."):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def bad_hub(tmp_path_factory):
    server = Hub(tmp_path_factory.mktemp("bad-hub"))
    for name, (spoil, _) in BROKEN.items():
        spoil(copied(server, name))
    copied(server, "good")
    (copied(server, "gated") / ".hub.json").write_text('{"gated": "manual"}')
    (copied(server, "disabled") / ".hub.json").write_text('{"disabled": true}')
    (copied(server, "private") / ".hub.json").write_text('{"private": true}')
    no_template = copied(server, "no-template")
    settings = json.loads((no_template / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    replace_text(no_template / "tokenizer_config.json", json.dumps(settings))
    only_gguf = copied(server, "only-gguf")
    (only_gguf / "model.safetensors").rename(only_gguf / "model.gguf")
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory, postgres, bad_hub):
    """One daemon for all of the table: it must outlive every line."""
    daemon = Daemon(tmp_path_factory.mktemp("bad"), bad_hub.url, postgres.new_database()).start()
    yield daemon
    assert daemon.alive()
    daemon.close()


def failure_of_load(daemon, name, **more):
    """(code, reason) of a load that fails: of the call, or of its operation."""
    try:
        operation = daemon.load(name, **more)
    except Refusal as refusal:
        return refusal.code, refusal.reason
    assert operation["state"] == "OPERATION_STATE_FAILED", operation
    details = operation["error"]["details"]
    reason = next(d["reason"] for d in details if d["@type"].endswith("google.rpc.ErrorInfo"))
    return CODES[operation["error"]["code"]], reason


@pytest.mark.parametrize("name", BROKEN)
def test_a_repository_that_cannot_be_loaded_is_refused_before_its_weights_come(served, bad_hub, name):
    _, expected = BROKEN[name]
    bad_hub.reset()
    served.register(name, f"bad/{name}")
    assert failure_of_load(served, name) == expected
    blobs = served.cache / "hub" / f"models--bad--{name}" / "blobs"
    assert not blobs.exists() or list(blobs.iterdir()) == []
    model = served.model(name)
    assert model["state"] != "MODEL_STATE_READY"
    assert served.alive()


def test_weights_of_another_format_are_refused(served):
    served.register("only-gguf", "bad/only-gguf")
    assert failure_of_load(served, "only-gguf") == ("UNIMPLEMENTED", "UNSUPPORTED_WEIGHTS")


def test_a_model_without_a_template_refuses_chat_and_still_generates(served):
    served.register("no-template", "bad/no-template")
    served.succeed(served.load("no-template"))
    request = {"model_name": "no-template", "messages": [{"role": "user", "content": "x"}]}
    refusal = served.client.refused("modeld.v1.Inference/Chat", request)
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "NO_CHAT_TEMPLATE")
    _, last = served.generate("no-template", max_tokens=2, ignore_eos=True)
    assert last["finish_reason"] == "FINISH_REASON_LENGTH"


GOOD = {"model_name": "fresh", "hf_path": "bad/good", "cache_location": "primary"}
FIELDS = [
    ({"cache_location": "tertiary"}, "cache_location"),
    ({"cache_location": "secondary"}, "cache_location"),
    ({"cache_location": "custom"}, "cache_path"),
    ({"cache_location": "custom", "cache_path": "relative/path"}, "cache_path"),
    ({"cache_location": "custom", "cache_path": "/etc"}, "cache_path"),
    ({"cache_location": "custom", "cache_path": "{custom}/../out"}, "cache_path"),
    ({"cache_location": "custom", "cache_path": "{custom}/link/x"}, "cache_path"),
    ({"cache_location": "custom", "cache_path": "{custom}-beside"}, "cache_path"),
    ({"cache_path": "/tmp/x"}, "cache_path"),
    ({"model_name": ""}, "model_name"),
    ({"model_name": "a" * 97}, "model_name"),
    ({"model_name": "../x"}, "model_name"),
    ({"model_name": "a b"}, "model_name"),
    ({"model_name": "ünicode"}, "model_name"),
    ({"model_name": ".hidden"}, "model_name"),
    ({"hf_path": ""}, "hf_path"),
    ({"hf_path": "a/b/c"}, "hf_path"),
    ({"hf_path": "../../etc"}, "hf_path"),
    ({"hf_path": "x/" + "y" * 200}, "hf_path"),
    ({"revision": "../../main"}, "revision"),
    ({"estimated_size_mb": -1}, "estimated_size_mb"),
]


@pytest.mark.parametrize(
    "change, field", FIELDS, ids=[f"{f}={list(c.values())[-1]!r:.24}" for c, f in FIELDS]
)
def test_a_bad_field_of_a_registration_is_named(served, change, field):
    link = served.custom / "link"
    if not link.is_symlink():
        link.symlink_to("/tmp")
    change = {k: v.format(custom=served.custom) if isinstance(v, str) else v for k, v in change.items()}
    refusal = served.client.refused(REGISTER, {**GOOD, **change})
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD"), refusal
    assert refusal.fields == [field] and refusal.domain == "modeld"
    assert served.client.refused("modeld.v1.Registry/GetModel", {"model_name": "fresh"}).code == "NOT_FOUND"


@pytest.mark.parametrize(
    "hf_path, more, code, reason",
    [
        ("bad/missing", {}, "NOT_FOUND", "HUB_REPO_NOT_FOUND"),
        ("bad/private", {}, "NOT_FOUND", "HUB_REPO_NOT_FOUND"),
        ("bad/good", {"revision": "no-such"}, "NOT_FOUND", "HUB_REVISION_NOT_FOUND"),
        ("bad/gated", {}, "PERMISSION_DENIED", "HUB_ACCESS_DENIED"),
        ("bad/disabled", {}, "PERMISSION_DENIED", "HUB_ACCESS_DENIED"),
    ],
)
def test_a_repository_that_cannot_be_had_is_refused(served, hf_path, more, code, reason):
    refusal = served.client.refused(REGISTER, {**GOOD, "hf_path": hf_path, **more})
    assert (refusal.code, refusal.reason) == (code, reason)


def test_a_second_registration_of_a_name_is_refused(served):
    served.register("twice", "bad/good")
    refusal = served.client.refused(REGISTER, {**GOOD, "model_name": "twice"})
    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "MODEL_ALREADY_EXISTS")


UNKNOWN = [
    ("Registry/GetModel", {"model_name": "nobody"}, "MODEL_NOT_FOUND"),
    ("Registry/DeleteModel", {"model_name": "nobody"}, "MODEL_NOT_FOUND"),
    ("Orchestrator/LoadModel", {"model_name": "nobody"}, "MODEL_NOT_FOUND"),
    ("Orchestrator/UnloadModel", {"model_name": "nobody"}, "MODEL_NOT_FOUND"),
    ("Orchestrator/DownloadModel", {"model_name": "nobody"}, "MODEL_NOT_FOUND"),
    ("Inference/Generate", {"model_name": "nobody", "prompt": "x"}, "MODEL_NOT_FOUND"),
    ("Inference/Tokenize", {"model_name": "nobody", "text": "x"}, "MODEL_NOT_FOUND"),
    ("Orchestrator/GetOperation", {"name": "nothing"}, "OPERATION_NOT_FOUND"),
    ("Orchestrator/CancelOperation", {"name": "nothing"}, "OPERATION_NOT_FOUND"),
    ("Orchestrator/WatchOperation", {"name": "nothing"}, "OPERATION_NOT_FOUND"),
    ("Orchestrator/WaitOperation", {"name": "nothing", "timeout": "1s"}, "OPERATION_NOT_FOUND"),
]


@pytest.mark.parametrize("method, request_fields, reason", UNKNOWN, ids=[u[0] for u in UNKNOWN])
def test_what_nobody_knows_is_not_found(served, method, request_fields, reason):
    refusal = served.client.refused(f"modeld.v1.{method}", request_fields)
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", reason)
    assert refusal.resource in ("nobody", "nothing")


def test_a_page_token_of_another_query_is_refused(served):
    for index in range(3):
        served.register(f"page-{index}", "bad/good")
    first = served.client.call("modeld.v1.Registry/ListModels", {"page_size": 1})
    token = first["next_page_token"]
    assert token
    for method, more in [
        ("Registry/ListModels", {"state": "MODEL_STATE_READY"}),
        ("Orchestrator/ListOperations", {}),
    ]:
        refusal = served.client.refused(f"modeld.v1.{method}", {"page_token": token, **more})
        assert (refusal.code, refusal.reason, refusal.fields) == (
            "INVALID_ARGUMENT", "INVALID_FIELD", ["page_token"],
        )  # fmt: skip
    for other in ("garbage", token[:-1], token + "A"):
        refusal = served.client.refused("modeld.v1.Registry/ListModels", {"page_token": other})
        assert refusal.fields == ["page_token"]


def test_pages_give_every_model_once(served):
    names, token = [], ""
    for _ in range(1000):
        request = {"page_size": 2, "page_token": token}
        page = served.client.call("modeld.v1.Registry/ListModels", request)
        names += [m["model_name"] for m in page["models"]]
        token = page["next_page_token"]
        if not token:
            break
    whole = served.client.call("modeld.v1.Registry/ListModels", {"page_size": 1000})["models"]
    assert names == [m["model_name"] for m in whole] and len(set(names)) == len(names)


@pytest.mark.parametrize(
    "sampling, field",
    [
        ({"temperature": -1}, "sampling.temperature"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"temperature": "NaN"}, "sampling.temperature"),
    ],
)
def test_bad_sampling_is_named(served, sampling, field):
    if not served.instances():
        served.register("for-sampling", "bad/good")
        served.succeed(served.load("for-sampling"))
    request = {"model_name": served.instances()[0]["model_name"], "prompt": "x", "sampling": sampling}
    refusal = served.client.refused("modeld.v1.Inference/Generate", request)
    assert (refusal.code, refusal.reason, refusal.fields) == ("INVALID_ARGUMENT", "INVALID_FIELD", [field])


def test_a_prompt_beyond_the_context_is_refused(served):
    if not served.instances():
        served.register("for-context", "bad/good")
        served.succeed(served.load("for-context"))
    request = {"model_name": served.instances()[0]["model_name"], "token_ids": [1] * 2040}
    request["sampling"] = {"max_tokens": 100}
    refusal = served.client.refused("modeld.v1.Inference/Generate", request)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED")


def test_a_model_that_is_loaded_cannot_be_deleted(served):
    served.register("in-use", "bad/good")
    served.succeed(served.load("in-use"))
    request = {"model_name": "in-use", "delete_files": True}
    refusal = served.client.refused("modeld.v1.Registry/DeleteModel", request)
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "MODEL_IN_USE")


def test_a_disk_that_is_too_small_is_refused_with_both_figures(served, bad_hub):
    free = os.statvfs(served.cache)
    megabytes = free.f_blocks * free.f_frsize // 10**6 + 10**6
    bad_hub.tell(add=[{"kind": "status", "on": "api", "status": 503}])
    try:
        refusal = served.client.refused(REGISTER, {**GOOD, "estimated_size_mb": megabytes})
    finally:
        bad_hub.reset()
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "INSUFFICIENT_DISK")
    assert len([v for v in refusal.metadata.values() if v.isdigit()]) >= 2, refusal.metadata


def test_a_model_that_does_not_fit_into_memory_is_refused_with_both_figures(make_daemon, hub):
    daemon = make_daemon(hub.url, settings="[devices]\ncpu_memory_bytes = 100000\n").start()
    daemon.register("tiny", "tiny/tiny-llama")
    try:
        operation = daemon.load("tiny")
    except Refusal as refusal:
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "INSUFFICIENT_DEVICE_MEMORY")
        return
    (info,) = [d for d in operation["error"]["details"] if "reason" in d]
    assert operation["error"]["code"] == 8 and info["reason"] == "INSUFFICIENT_DEVICE_MEMORY"
    assert len([v for v in info["metadata"].values() if v.isdigit()]) >= 2


def test_nothing_escaped_from_the_custom_root(served):
    assert not pathlib.Path(f"{served.custom}-beside").exists()
    assert not (served.custom.parent / "out").exists()
