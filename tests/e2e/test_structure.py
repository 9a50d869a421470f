"""Answers that follow a JSON schema, a regular expression, a choice or a grammar."""

import concurrent.futures
import json
import re

import jsonschema
import pytest
from peers import ROOT
from rpc import Refusal

SCHEMAS = [json.loads(line) for line in (ROOT / "tests/data/schemas/taken.jsonl").read_text().splitlines()]
# Of formats, Python's checker knows these without more packages; "date" means any 29 February to a grammar.
FORMATS = jsonschema.FormatChecker(["email", "ipv4", "ipv6", "uuid"])
AT_ONCE = 16
MAX_TOKENS = 400
# A random model would seldom close a text or a list by itself.
ENDS_OF_JSON = ['"', "}", "]"]


def answer(daemon, name, schema, **sampling):
    """(text, finish reason) of an answer that follows `schema`."""
    request = {"model_name": name, "prompt": "Answer in JSON: ", "sampling": sampling}
    request["structure"] = {"schema_json": json.dumps(schema)}
    messages = list(daemon.client.stream("modeld.v1.Inference/Generate", request))
    return "".join(m.get("text", "") for m in messages), messages[-1]["finish_reason"]


def check(schema, text):
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator(schema, format_checker=FORMATS).validate(json.loads(text))


def finished_share(daemon, name, schemas, **sampling):
    """Answers all `schemas`, checks each answer that was finished; the share of those."""

    def one(numbered):
        seed, schema = numbered
        text, reason = answer(daemon, name, schema, seed=seed, **sampling)
        if reason == "FINISH_REASON_LENGTH":
            return False
        assert reason == "FINISH_REASON_STOP"
        try:
            check(schema, text)
        except (ValueError, jsonschema.ValidationError) as error:
            pytest.fail(f"{json.dumps(schema)}\nanswer: {text}\n{error}")
        return True

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(one, enumerate(schemas))) / len(schemas)


@pytest.fixture(scope="module")
def ends_of_json(loaded):
    """The bias that lets the tiny model end its texts and lists."""
    bias = {}
    for end in ENDS_OF_JSON:
        tokens = loaded.client.call("modeld.v1.Inference/Tokenize", {"model_name": "tiny", "text": end})
        bias[tokens["token_ids"][0]] = 4.0
    return bias


@pytest.fixture(scope="module")
def smollm2(module_daemon):
    module_daemon.register("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")
    module_daemon.succeed(module_daemon.load("smollm2"))
    return module_daemon


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_every_finished_answer_satisfies_its_schema(loaded, ends_of_json, temperature):
    sampling = {"temperature": temperature, "logit_bias": ends_of_json, "max_tokens": MAX_TOKENS}
    assert finished_share(loaded, "tiny", SCHEMAS, **sampling) > 0.9


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_real_models_finished_answers_satisfy_their_schemas(smollm2, temperature):
    sampling = {"temperature": temperature, "max_tokens": 100}
    assert finished_share(smollm2, "smollm2", SCHEMAS[::20], **sampling) > 0.5


@pytest.mark.parametrize(
    ("keywords", "place"),
    [
        ({"not": {"type": "integer"}}, "/properties/a"),
        ({"type": "array", "uniqueItems": True}, "/properties/a"),
        ({"type": "array", "contains": {"type": "null"}}, "/properties/a"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "/properties/a"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "/properties/a"),
        ({"type": "object", "unevaluatedProperties": False}, "/properties/a"),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "/properties/a"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/properties/a"),
        ({"$dynamicRef": "#x"}, "/properties/a"),
        ({"type": "string", "format": "moon-phase"}, "/properties/a"),
        ({"type": "string", "pattern": "(?=a)b"}, "/properties/a"),
        ({"items": {"$ref": "https://example.com/s.json"}}, "/properties/a/items"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "/properties/a"),
        ({"anyOf": [{"type": "null"}, {"type": "nothing"}]}, "/properties/a/anyOf/1"),
    ],
)
def test_a_schema_that_cannot_be_honoured_is_refused_with_its_place(loaded, keywords, place):
    schema = {"type": "object", "properties": {"a": keywords}, "required": ["a"]}
    with pytest.raises(Refusal) as refused:
        answer(loaded, "tiny", schema, max_tokens=1)
    assert refused.value.reason == "INVALID_FIELD"
    assert refused.value.fields == ["structure.schema_json"]
    assert f'at "{place}": ' in str(refused.value)


def structured(daemon, structure, **sampling):
    request = {"model_name": "tiny", "prompt": "x", "structure": structure}
    request["sampling"] = {"temperature": 1.5, "max_tokens": 60, **sampling}
    messages = list(daemon.client.stream("modeld.v1.Inference/Generate", request))
    return "".join(m.get("text", "") for m in messages), messages[-1]


def test_each_form_bounds_the_answer(loaded, ends_of_json):
    for seed in range(5):
        text, last = structured(loaded, {"regex": r"[a-f]{2,4}-[0-9]{3}"}, seed=seed)
        assert re.fullmatch(r"[a-f]{2,4}-[0-9]{3}", text) and last["finish_reason"] == "FINISH_REASON_STOP"
        text, _ = structured(loaded, {"choice": ["yes", "no", "per(haps)*"]}, seed=seed)
        assert text in {"yes", "no", "per(haps)*"}
        text, _ = structured(loaded, {"grammar": 'start: "<" (/[a-z]/ | start)~2 ">"'}, seed=seed)
        assert text.startswith("<") and set(text) <= set("<>abcdefghijklmnopqrstuvwxyz")
        text, last = structured(loaded, {"json": True}, seed=seed, logit_bias=ends_of_json, max_tokens=1000)
        assert last["finish_reason"] == "FINISH_REASON_LENGTH" or isinstance(json.loads(text), dict)


def test_a_cut_answer_says_so(loaded):
    text, last = structured(loaded, {"regex": "[a-z]{50}"}, max_tokens=10)
    assert len(text) <= 50 and last["finish_reason"] == "FINISH_REASON_LENGTH"


@pytest.mark.parametrize(
    ("structure", "field"),
    [
        ({"regex": "a", "json": True}, "structure"),
        ({"regex": "a(b"}, "structure.regex"),
        ({"regex": "a" * 16_385}, "structure.regex"),
        ({"schema_json": "{"}, "structure.schema_json"),
        ({"schema_json": '"' + "x" * 262_144 + '"'}, "structure.schema_json"),
        ({"grammar": "start: missing"}, "structure.grammar"),
        ({"grammar": "#" * 65_537}, "structure.grammar"),
        ({"choice": ["a", ""]}, "structure.choice"),
        ({"choice": ["a"] * 1025}, "structure.choice"),
    ],
)
def test_what_is_wrong_or_too_large_is_refused(loaded, structure, field):
    with pytest.raises(Refusal) as refused:
        structured(loaded, structure)
    assert refused.value.reason == "INVALID_FIELD" and refused.value.fields == [field]
