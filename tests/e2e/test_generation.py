"""Answers through client, daemon and engine: what only the whole chain shows."""

from peers import eventually, joined
from test_main_job import metrics_of, total


def counted(daemon):
    """(finished requests, generated tokens) of the model, from one look at /metrics."""
    families = metrics_of(daemon)
    if "modeld_inference_requests" not in families:
        return 0, 0
    return tuple(
        total(families, family, **labels)
        for family, labels in [
            ("modeld_inference_requests", {"model": "tiny", "method": "Generate"}),
            ("modeld_inference_tokens", {"model": "tiny", "kind": "generated"}),
        ]
    )


def counted_after(daemon, requests):
    """The tokens when so many requests have finished."""

    def tokens():
        finished, made = counted(daemon)
        return made if finished >= requests else None

    return eventually(tokens, f"{requests} requests are counted")


# Each token comes with 20 alternatives, about 1 KB; without a bound all 1,900 would be made.
def test_a_reader_that_does_not_come_costs_bounded_memory_and_delays_nobody(loaded):
    loaded.generate("tiny", max_tokens=1, ignore_eos=True)
    eventually(lambda: counted(loaded)[0], "a request is counted")
    requests, before = counted(loaded)
    sampling = {"max_tokens": 1900, "ignore_eos": True, "logprobs": 20}
    request = {"model_name": "tiny", "prompt": "a", "sampling": sampling}
    unread = loaded.client.stream("modeld.v1.Inference/Generate", request)

    _, last = loaded.generate("tiny", max_tokens=1900, ignore_eos=True)

    assert int(last["usage"]["generated_tokens"]) == 1900
    assert counted_after(loaded, requests + 1) - before - 1900 < 1700
    _, last = joined(unread)
    assert int(last["usage"]["generated_tokens"]) == 1900
    assert counted_after(loaded, requests + 2) - before == 2 * 1900


def test_the_last_message_counts_all_choices_and_metrics_say_the_same(loaded):
    requests, before = counted(loaded)
    sampling = {"max_tokens": 5, "ignore_eos": True, "temperature": 1, "n": 3}
    request = {"model_name": "tiny", "prompt": "hello", "sampling": sampling}

    messages = list(loaded.client.stream("modeld.v1.Inference/Generate", request))

    assert {m.get("index", 0) for m in messages} == {0, 1, 2}
    assert ["usage" in m for m in messages] == [False] * (len(messages) - 1) + [True]
    usage = messages[-1]["usage"]
    assert int(usage["generated_tokens"]) == 15
    assert usage["total_seconds"] >= usage["time_to_first_token_seconds"] > 0
    assert counted_after(loaded, requests + 1) - before == 15
    families = metrics_of(loaded)
    assert total(families, "modeld_queue_seconds", "modeld_queue_seconds_count", model="tiny") >= 1


def test_a_second_turn_does_not_read_the_first_one_again(loaded):
    turns = [{"role": "user", "content": "Tell me about the sea. " * 6}]
    request = {"model_name": "tiny", "messages": turns, "sampling": {"max_tokens": 20, "ignore_eos": True}}
    text, _ = joined(loaded.client.stream("modeld.v1.Inference/Chat", request))
    turns += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]

    _, second = joined(loaded.client.stream("modeld.v1.Inference/Chat", request))
    _, apart = joined(loaded.client.stream("modeld.v1.Inference/Chat", {**request, "cache_salt": "x"}))

    assert int(second["usage"]["cached_tokens"]) > 16
    assert int(apart["usage"].get("cached_tokens", 0)) == 0
    kind = {"model": "tiny", "kind": "cached"}
    eventually(
        lambda: total(metrics_of(loaded), "modeld_inference_tokens", **kind) > 0, "cached tokens are counted"
    )
