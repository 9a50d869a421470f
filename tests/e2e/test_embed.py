"""The real all-MiniLM-L6-v2 from its registration to its vectors, against sentence-transformers."""

import json
import struct

import numpy as np
import pytest
from conftest import MINILM, TINY
from peers import Daemon, eventually
from test_main_job import metrics_of, total
from test_modelctl import modelctl


def golden_vectors():
    """The one tensor of the golden file, float16 [texts, 384]."""
    content = (TINY / "all-minilm-l6-v2.golden.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    tensor = json.loads(content[8 : 8 + length])["vectors"]
    assert tensor["dtype"] == "F16"
    return np.frombuffer(content[8 + length :], np.float16).reshape(tensor["shape"]).astype(np.float64)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory, postgres, shared_hub):
    """A daemon with the model loaded in float32, and what its registration said."""
    shared_hub.reset()
    daemon = Daemon(tmp_path_factory.mktemp("embed"), shared_hub.url, postgres.new_database()).start()
    registered = daemon.register("minilm", MINILM)
    daemon.succeed(daemon.load("minilm", dtype="float32"))
    yield {"daemon": daemon, "registered": registered}
    daemon.close()


def embed(minilm, **fields):
    request = {"model_name": "minilm", **fields}
    return minilm["daemon"].client.call("modeld.v1.Inference/Embed", request)


def test_registering_says_that_it_makes_vectors(minilm):
    preflight = minilm["registered"]["model"]["preflight"]
    assert preflight["supported"] is True
    assert preflight["makes_vectors"] is True
    assert preflight["architecture"] == "BertModel"
    # Without the pooler's matrix and bias, which no vector needs.
    assert int(preflight["weights_bytes"]["float32"]) == 4 * (22_713_216 - 384 * 385)


def test_vectors_of_500_texts_are_those_of_sentence_transformers(minilm):
    sentences = json.loads((TINY / "all-minilm-l6-v2.golden.json").read_text())["sentences"]
    assert len(sentences) == 500

    answer = embed(minilm, inputs=sentences)

    vectors = np.array([embedding["values"] for embedding in answer["embeddings"]], np.float64)
    expected = golden_vectors()
    assert vectors.shape == expected.shape
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 1 - 1e-5
    cut = [embedding for embedding in answer["embeddings"] if embedding.get("truncated")]
    assert cut and all(embedding["token_count"] == "256" for embedding in cut)


def test_its_requests_and_tokens_are_metrics(minilm):
    used = int(embed(minilm, inputs=["one", "two of them"])["usage"]["prompt_tokens"])
    assert used == 3 + 5
    requests = ("modeld_inference_requests", "modeld_inference_requests_total")
    daemon = minilm["daemon"]

    def families_with_requests():
        families = metrics_of(daemon)
        return families if "modeld_inference_requests" in families else None

    families = eventually(families_with_requests, "a request is counted")

    assert total(families, *requests, model="minilm", method="Embed", finish_reason="stop") >= 1
    tokens = {"model": "minilm", "kind": "prompt"}
    assert total(families, "modeld_inference_tokens", "modeld_inference_tokens_total", **tokens) >= used
    seconds = ("modeld_request_duration_seconds", "modeld_request_duration_seconds_count")
    assert total(families, *seconds, model="minilm", method="Embed") >= 1


def test_modelctl_prints_the_same_vectors(minilm):
    flags = ("--dimensions", "3", "--no-normalize", "--no-truncate")
    status, printed, _ = modelctl(minilm["daemon"], "embed", "minilm", "one", "two of them", *flags)

    assert status == 0
    expected = embed(minilm, inputs=["one", "two of them"], dimensions=3, normalize=False)["embeddings"]
    shown = json.loads(printed)["embeddings"]
    assert [len(vector["values"]) for vector in shown] == [3, 3]
    for ours, theirs in zip(shown, expected, strict=True):
        assert np.allclose(ours["values"], theirs["values"], atol=1e-5)
    assert modelctl(minilm["daemon"], "embed", "minilm", "one", "--dimensions", "385")[0] == 1


def test_it_generates_no_text(minilm):
    client = minilm["daemon"].client
    for method, fields in {
        "Generate": {"prompt": "hello"},
        "Chat": {"messages": [{"role": "user", "content": "hello"}]},
    }.items():
        request = {"model_name": "minilm", **fields}
        refusal = client.refused(f"modeld.v1.Inference/{method}", request)
        assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "METHOD_NOT_SUPPORTED")


def test_a_module_that_is_not_known_is_told_at_registration(minilm, shared_hub, real_encoder):
    target = shared_hub.add("tiny/odd-modules", real_encoder)
    modules = json.loads((real_encoder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.LSTM"
    (target / "modules.json").unlink()
    (target / "modules.json").write_text(json.dumps(modules))

    preflight = minilm["daemon"].register("odd", "tiny/odd-modules")["model"]["preflight"]

    assert preflight.get("supported", False) is False
    assert preflight["unsupported_reason"] == "UNSUPPORTED_ARCHITECTURE"
    assert "LSTM" in preflight["unsupported_message"]
