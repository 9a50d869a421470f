"""PostgreSQL goes away and comes back while modeld runs."""

import itertools
import subprocess

from peers import BIN, NotifySocket, eventually

LIST = "modeld.v1.Registry/ListModels"


def refused_for_the_database(daemon):
    refusal = daemon.client.refused(LIST)
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE"), refusal
    assert refusal.retry
    return True


def test_a_generation_goes_on_while_the_database_is_away(daemon, postgres):
    daemon.register("tiny", "tiny/tiny-llama")
    daemon.succeed(daemon.load("tiny"))
    pid = daemon.pid
    sampling = {"max_tokens": 1900, "ignore_eos": True}
    request = {"model_name": "tiny", "prompt": "a", "sampling": sampling}
    messages = iter(daemon.client.stream("modeld.v1.Inference/Generate", request))
    first = next(messages)

    with postgres.away():
        eventually(lambda: refused_for_the_database(daemon), "DATABASE_UNAVAILABLE")
        eventually(lambda: daemon.http("/readyz")[0] == 503, "/readyz says 503")
        assert daemon.http("/healthz")[0] == 200
        rest = list(messages)
        _, another = daemon.generate("tiny", max_tokens=8, ignore_eos=True)

    assert rest[-1]["finish_reason"] == "FINISH_REASON_LENGTH"
    assert sum(len(m.get("token_ids", [])) for m in itertools.chain([first], rest)) == 1900
    assert another["finish_reason"] == "FINISH_REASON_LENGTH"
    eventually(lambda: daemon.http("/readyz")[0] == 200, "/readyz says 200")
    eventually(lambda: daemon.ready("tiny"), "READY again")
    daemon.register("second", "tiny/tiny-qwen3")
    daemon.succeed(daemon.load("second"))
    assert daemon.pid == pid and daemon.alive()


def test_a_download_ends_well_when_the_database_was_away_meanwhile(daemon, hub, postgres):
    hub.tell(add=[{"kind": "drip", "bytes_per_s": 100_000, "path": "*/model.safetensors*"}])
    hub.tell(add=[{"kind": "drip", "bytes_per_s": 100_000, "on": "cdn"}])
    daemon.register("slow", "tiny/tiny-llama")
    request = {"model_name": "slow"}
    name = daemon.client.call("modeld.v1.Orchestrator/DownloadModel", request)["name"]
    eventually(lambda: any(e["on"] == "cdn" and e["bytes"] for e in hub.log()), "bytes flow")

    with postgres.away():
        eventually(lambda: refused_for_the_database(daemon), "DATABASE_UNAVAILABLE")

    eventually(lambda: daemon.http("/readyz")[0] == 200, "/readyz says 200")
    daemon.succeed(daemon.finish(name))
    assert daemon.model("slow")["state"] == "MODEL_STATE_DOWNLOADED"


def test_a_daemon_started_without_its_database_listens_and_becomes_ready_later(
    make_daemon, hub, postgres, tmp_path
):
    database = postgres.new_database()
    notify = NotifySocket(tmp_path / "n")
    environment = {"NOTIFY_SOCKET": notify.path}
    daemon = make_daemon(hub.url, database=database, environment=environment)

    with postgres.away():
        daemon.launch()
        assert refused_for_the_database(daemon)
        assert daemon.http("/healthz")[0] == 200
        assert daemon.http("/readyz")[0] == 503
        eventually(lambda: any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in notify.heard()), "EXTEND")
        heard = notify.heard()
        assert any(line.startswith("STATUS=waiting for the database") for line in heard)
        assert "READY=1" not in heard

    eventually(lambda: "READY=1" in notify.heard(), "READY=1")
    assert daemon.http("/readyz")[0] == 200
    assert daemon.client.call(LIST)["models"] == []
    assert daemon.stop() == 0
    assert "STOPPING=1" in notify.heard()
    notify.close()


def test_a_second_daemon_on_the_same_state_folder_ends_and_says_so(daemon, make_daemon, hub):
    second = make_daemon(hub.url)
    text = second.config.read_text().replace(str(second.state), str(daemon.state))
    second.config.write_text(text)
    assert run_to_end(second) != 0
    assert "another modeld runs" in second.log_file.read_text()
    assert daemon.alive()


def run_to_end(daemon):
    """Exit status of a daemon that must not start."""
    with open(daemon.log_file, "ab") as log:
        command = [str(BIN / "modeld"), "--config", str(daemon.config)]
        return subprocess.run(command, stdout=log, stderr=log, env=daemon.environment, timeout=60).returncode
