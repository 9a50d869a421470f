"""modelctl against a running daemon: what it prints and how it exits."""

import json
import os
import signal
import subprocess

import pytest
from peers import BIN, eventually
from test_main_job import metrics_of, total

TOKEN = "hf_" + "secret" * 5
DONE, REFUSED, USAGE, UNREACHED = 0, 1, 2, 3


def modelctl(daemon, *arguments, output="table", stdin=None):
    """(exit status, standard output, standard error)."""
    command = [str(BIN / "modelctl"), "--server", daemon.grpc_address, "-o", output, *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, "HF_TOKEN": TOKEN, "NO_COLOR": "1"},
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def ctl(loaded):
    """modelctl for the daemon that has "tiny" loaded."""

    def run(*arguments, **more):
        return modelctl(loaded, *arguments, **more)

    return run


def test_register_show_load_unload_delete_work_one_after_the_other(ctl):
    assert ctl("register", "cli", "tiny/tiny-qwen3")[0] == DONE
    code, out, _ = ctl("show", "cli", output="json")
    assert code == DONE and json.loads(out)["hf_path"] == "tiny/tiny-qwen3"
    assert ctl("download", "cli")[0] == DONE
    assert ctl("load", "cli")[0] == DONE
    assert json.loads(ctl("show", "cli", output="json")[1])["state"] == "MODEL_STATE_READY"
    assert ctl("delete", "cli")[0] == REFUSED
    assert ctl("unload", "cli")[0] == DONE
    assert ctl("delete", "cli", "--files")[0] == DONE
    assert ctl("show", "cli")[0] == REFUSED


@pytest.mark.parametrize("command", ["list", "ps", "devices", "ops", "caches", "nodes", "status"])
def test_lists_are_tables_and_json(ctl, command):
    code, out, err = ctl(command)
    assert code == DONE and out.strip(), err
    code, out, err = ctl(command, output="json")
    assert code == DONE, err
    assert json.loads(out)


def test_list_and_ps_name_the_model(ctl):
    assert "tiny/tiny-llama" in ctl("list")[1]
    assert "tiny" in ctl("ps")[1]


def test_tokenize_prints_the_tokens(ctl, loaded):
    code, out, _ = ctl("tokenize", "tiny", "hello", output="json")
    request = {"model_name": "tiny", "text": "hello"}
    expected = loaded.client.call("modeld.v1.Inference/Tokenize", request)["token_ids"]
    assert code == DONE
    assert [int(t) for t in json.loads(out)["token_ids"]] == [int(t) for t in expected]


def test_generate_prints_the_text_that_the_service_gives(ctl, loaded):
    expected, _ = loaded.generate("tiny", "hello", max_tokens=8, temperature=0, ignore_eos=True)
    options = ["--max-tokens", "8", "--temperature", "0", "--ignore-eos"]
    code, out, _ = ctl("generate", "tiny", "hello", *options)
    assert code == DONE and out.rstrip("\n") == expected.rstrip("\n")
    code, out, _ = ctl("generate", "tiny", *options, stdin="hello")
    assert code == DONE and out.rstrip("\n") == expected.rstrip("\n")


def test_generate_sends_every_kind_of_sampling_option(ctl):
    options = ["--max-tokens", "4", "--ignore-eos", "--min-tokens", "1", "--typical-p", "0.9"]
    options += ["--allowed-token-ids", "17", "--allowed-token-ids", "42", "--logit-bias", "42=-100"]
    code, out, err = ctl("generate", "tiny", "hello", *options, output="json")
    assert code == DONE, err
    messages = [json.loads(line) for line in out.splitlines()]
    ids = [int(token) for message in messages for token in message.get("token_ids", [])]
    assert ids == [17] * 4


def test_generate_prints_each_of_several_answers_as_a_whole_under_its_number(ctl):
    options = ["--n", "3", "--temperature", "1", "--seed", "3", "--max-tokens", "6", "--ignore-eos", "--echo"]
    code, out, err = ctl("generate", "tiny", "hello", *options, output="json")
    assert code == DONE, err
    texts = ["", "", ""]
    for message in map(json.loads, out.splitlines()):
        texts[message.get("index", 0)] += message.get("text", "")
    assert len(set(texts)) == 3 and all(text.startswith("hello") for text in texts)
    code, out, _ = ctl("generate", "tiny", "hello", *options)
    assert code == DONE
    for index, text in enumerate(texts):
        assert f"[{index}] {text}" in out


def test_run_asks_once_with_a_prompt(ctl):
    code, out, err = ctl("run", "tiny", "hello", "--max-tokens", "4")
    assert code == DONE, err
    assert out


def test_ops_watch_follows_an_operation_to_its_end(ctl, loaded):
    request = {"model_name": "tiny"}
    name = loaded.client.call("modeld.v1.Orchestrator/DownloadModel", request)["name"]
    assert ctl("watch", name)[0] == DONE
    assert name in ctl("ops", output="json")[1]


@pytest.mark.parametrize(
    "arguments", [["show", "nobody"], ["load", "nobody"], ["watch", "nothing"], ["register", "a b", "x/y"]]
)
def test_a_refusal_exits_1_and_says_why(ctl, arguments):
    code, out, err = ctl(*arguments)
    assert code == REFUSED and err.strip() and not out.strip()


@pytest.mark.parametrize("arguments", [["no-such-command"], ["show"], ["load", "tiny", "--no-such-flag"]])
def test_wrong_usage_exits_2(ctl, arguments):
    code, _, err = ctl(*arguments)
    assert code == USAGE and err.strip()


def test_a_server_that_is_not_there_exits_3():
    command = [str(BIN / "modelctl"), "--server", "127.0.0.1:1", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == UNREACHED and "127.0.0.1:1" in done.stderr


def test_an_interrupted_generation_stops_the_engines_work(loaded):
    command = [str(BIN / "modelctl"), "--server", loaded.grpc_address, "generate", "tiny", "a"]
    command += ["--max-tokens", "2000", "--ignore-eos"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(30) != 0
    cancelled = {"model": "tiny", "finish_reason": "cancelled"}

    def stopped():
        families = metrics_of(loaded)
        active = total(families, "modeld_inference_active", model="tiny")
        requests = families.get("modeld_inference_requests")
        counted = [s for s in requests.samples if cancelled.items() <= s.labels.items()] if requests else []
        return active == 0 and sum(s.value for s in counted) >= 1

    eventually(stopped, "the engine works on nothing, and one request counts as cancelled")


def test_a_cancelled_download_keeps_what_it_fetched(daemon, hub):
    hub.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 60_000}])
    daemon.register("slow", "tiny/tiny-llama")
    code, out, _ = modelctl(daemon, "load", "slow", "--no-wait", output="json")
    assert code == DONE
    name = json.loads(out)["name"]
    eventually(lambda: any(e["on"] == "cdn" and e["bytes"] > 30_000 for e in hub.log()), "bytes flow")
    assert modelctl(daemon, "cancel", name)[0] == DONE
    assert daemon.finish(name)["state"] == "OPERATION_STATE_CANCELLED"
    hub.reset()
    assert modelctl(daemon, "load", "slow")[0] == DONE
    assert daemon.ready("slow")
