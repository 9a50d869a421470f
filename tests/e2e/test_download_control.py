"""Downloads under control: plans, pauses and limits, over kill -9 of the daemon."""

import json

from peers import eventually
from test_modelctl import DONE, REFUSED, USAGE, modelctl

GET = "modeld.v1.Orchestrator/GetOperation"
DOWNLOAD = "modeld.v1.Orchestrator/DownloadModel"


def state_of(daemon, name):
    return daemon.client.call(GET, {"name": name})["state"]


def fetching(daemon, name):
    """Whether a file of the operation is on its way."""
    files = daemon.client.call(GET, {"name": name}).get("files", [])
    return any(file["state"] == "FILE_STATE_DOWNLOADING" for file in files)


def test_a_pause_and_a_limit_outlive_kill9(daemon, hub):
    daemon.register("tiny", "tiny/tiny-llama")
    name = daemon.client.call(DOWNLOAD, {"model_name": "tiny", "bytes_per_second_max": 1})["name"]
    eventually(lambda: fetching(daemon, name), "a file is on its way")
    code, out, _ = modelctl(daemon, "pause", name)
    assert code == DONE and "is being paused" in out
    eventually(lambda: state_of(daemon, name) == "OPERATION_STATE_PAUSED", "paused")

    daemon.kill9()
    daemon.start()

    operation = daemon.client.call(GET, {"name": name})
    assert operation["state"] == "OPERATION_STATE_PAUSED" and "error" not in operation
    assert int(operation["bytes_per_second_max"]) == 1
    code, out, _ = modelctl(daemon, "limits", name, "--set", "none", output="json")
    assert code == DONE and json.loads(out)["name"] == name
    code, out, _ = modelctl(daemon, "resume", name)
    assert code == DONE and "goes on" in out
    daemon.succeed(daemon.finish(name))


def test_the_daemons_own_limits_are_those_of_the_configuration_after_a_restart(make_daemon, hub):
    settings = "[download]\nbytes_per_second_max = 123456789\nconnections_per_host_max = 3\n"
    daemon = make_daemon(hub.url, settings=settings).start()
    assert json.loads(modelctl(daemon, "limits", output="json")[1])["connections_per_host"] == 3
    code, out, _ = modelctl(daemon, "limits", "--set", "5MB/s", "--connections", "2")
    assert code == DONE and "5.0 MB/s" in out

    daemon.stop()
    daemon.start()

    limits = json.loads(modelctl(daemon, "limits", output="json")[1])
    assert int(limits["bytes_per_second"]) == 123456789 and not limits.get("connections")
    assert modelctl(daemon, "limits", "--set", "fast")[0] == USAGE
    assert modelctl(daemon, "limits", "nothing", "--set", "1MB/s")[0] == REFUSED


def test_a_plan_says_what_a_download_then_does(daemon, hub):
    daemon.register("tiny", "tiny/tiny-llama")
    before = sorted(str(p) for p in daemon.cache.rglob("*"))
    code, out, err = modelctl(daemon, "plan", "tiny", "--include", "*.json", output="json")
    assert code == DONE, err
    plan = json.loads(out)
    assert all(file["path"].endswith(".json") for file in plan["files"])
    assert sorted(str(p) for p in daemon.cache.rglob("*")) == before

    assert modelctl(daemon, "download", "tiny", "--include", "*.json")[0] == DONE

    after = json.loads(modelctl(daemon, "plan", "tiny", "--include", "*.json", output="json")[1])
    assert not int(after.get("fetch_bytes", 0))
    assert int(after["present_bytes"]) == int(plan["fetch_bytes"])
    assert "model.safetensors" in modelctl(daemon, "plan", "tiny")[1]
