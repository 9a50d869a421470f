"""What grpcurl sees: services, descriptions, health, and refusals of what later versions bring."""

import pytest
from peers import eventually

SERVICES = {
    "modeld.v1.Registry": {
        "RegisterModel", "GetModel", "ListModels", "UpdateModel", "DeleteModel", "CheckSpace",
        "ListCaches", "ScanCaches", "AdoptModel", "VerifyModel", "WatchModels",
    },
    "modeld.v1.Orchestrator": {
        "LoadModel", "UnloadModel", "DownloadModel", "PlanDownload", "GetOperation", "ListOperations",
        "WatchOperation", "WaitOperation", "CancelOperation", "PauseOperation", "ResumeOperation",
        "ListInstances", "ListDevices", "ListNodes",
    },
    "modeld.v1.Inference": {
        "Generate", "Chat", "Embed", "Tokenize", "Detokenize", "ApplyChatTemplate",
    },
    "grpc.health.v1.Health": {"Check", "Watch"},
}  # fmt: skip

FIELDS = {
    "modeld.v1.Model": {
        "id", "model_name", "hf_path", "revision", "commit", "trust_remote_code", "cache_location",
        "cache_path", "snapshot_path", "estimated_size_bytes", "size_bytes", "state", "error",
        "create_time", "update_time", "preflight",
    },
    "modeld.v1.SpaceCheck": {
        "cache_path", "required_bytes", "free_bytes", "sufficient", "warning", "message",
    },
    "modeld.v1.Operation": {
        "name", "kind", "model_name", "state", "phase", "bytes_done", "bytes_total",
        "bytes_per_second", "eta", "files_done", "files_total", "files", "error", "create_time",
        "end_time", "done",
    },
    "modeld.v1.Sampling": {
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
        "presence_penalty", "frequency_penalty", "seed", "stop", "logprobs", "ignore_eos",
    },
    "modeld.v1.RegisterModelRequest": {
        "model_name", "hf_path", "revision", "trust_remote_code", "cache_location", "cache_path",
        "estimated_size_mb", "allow_patterns", "ignore_patterns",
    },
    "modeld.v1.LoadModelRequest": {
        "model_name", "revision", "dtype", "device_map", "device_map_entries", "max_context", "pin",
    },
    "google.rpc.ErrorInfo": {"reason", "domain", "metadata"},
}  # fmt: skip


def test_reflection_lists_every_service(module_daemon):
    assert SERVICES.keys() <= set(module_daemon.client.services())


@pytest.mark.parametrize("service", SERVICES)
def test_reflection_describes_every_method(module_daemon, service):
    described = module_daemon.client.service(service)
    assert SERVICES[service] <= {method.name for method in described.methods}
    for method in described.methods:
        assert method.input_type.full_name and method.output_type.full_name


@pytest.mark.parametrize("message", FIELDS)
def test_reflection_describes_every_field_of_the_contract(module_daemon, message):
    described = module_daemon.client.pool.FindMessageTypeByName(message)
    assert FIELDS[message] <= set(described.fields_by_name)


@pytest.mark.parametrize("service", ["", *(s for s in SERVICES if s.startswith("modeld."))])
def test_health_check_answers_serving_for_each_service(module_daemon, service):
    answer = module_daemon.client.call("grpc.health.v1.Health/Check", {"service": service})
    assert answer["status"] == "SERVING"


def test_health_check_of_an_unknown_service_is_not_found(module_daemon):
    refusal = module_daemon.client.refused("grpc.health.v1.Health/Check", {"service": "no.such"})
    assert refusal.code == "NOT_FOUND"


def test_health_watch_begins_with_the_state_of_now(module_daemon):
    stream = module_daemon.client.stream("grpc.health.v1.Health/Watch", {"service": ""})
    assert next(iter(stream))["status"] == "SERVING"
    stream.cancel()


def test_a_model_that_generates_text_refuses_embed(loaded):
    refusal = loaded.client.refused("modeld.v1.Inference/Embed", {"model_name": "tiny", "inputs": ["x"]})
    assert (refusal.code, refusal.reason) == ("UNIMPLEMENTED", "METHOD_NOT_SUPPORTED")
    assert refusal.domain == "modeld"


def test_models_are_watched_from_their_registration_to_their_deletion(module_daemon):
    client = module_daemon.client
    stream = client.stream("modeld.v1.Registry/WatchModels", {"model_name": "watched"})
    module_daemon.register("watched", "tiny/tiny-qwen2")
    events = iter(stream)
    assert next(events)["type"] == "ADDED"
    client.call("modeld.v1.Registry/DeleteModel", {"model_name": "watched"})
    types = []

    def deleted():
        types.append(next(events)["type"])
        return types[-1] == "DELETED"

    eventually(deleted, "DELETED")
    stream.cancel()
    assert set(types) <= {"MODIFIED", "DELETED"}
