"""Writes tests/data/schemas/taken.jsonl: 200 JSON schemas of the kinds that programs ask models for.

    python3 tests/goldens/make_schemas.py

Each family below is one kind, written out by hand; its members differ in what they hold, drawn with a
seed. Strings and lists are mostly bounded, so that a random model comes to an end.
"""

import json
import pathlib
import random

OUT = pathlib.Path(__file__).resolve().parents[1] / "data/schemas/taken.jsonl"

WORDS = (
    "id name title kind status count price tags owner email zone start end note level code path size".split()
)
PATTERNS = [
    r"^[A-Z]{2}-[0-9]{4}$",
    r"^#([0-9a-f]{3}|[0-9a-f]{6})$",
    r"^v?(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})(-(alpha|beta|rc)\.\d{1,2})?$",
    r"^\+[1-9]\d{6,14}$",
    r"^[a-z0-9]+(-[a-z0-9]+){0,3}$",
    r"^(?:[01]\d|2[0-3]):[0-5]\d$",
    r"^[^\s@]{1,12}@[a-z]{2,8}\.(com|org|net)$",
    r"^(GET|PUT|POST|DELETE) /[a-z/]{1,20}$",
    r"^[\w ]{1,12}[.!?]$",
    r"^.{3,9}$",
    r"^(\d{1,3}\.){3}\d{1,3}$",
    r"^[A-Fa-f\d]{8}$",
    r"x[yz]{1,3}$",
    r"^-?\d{1,6}(\.\d{1,4})?$",
    r"^\[[a-z]\]\\n\"q\"$",
    r"^[äöüß]{1,6}$",
]
FORMATS = ["date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "hostname", "duration"]
CONSTANTS = ["on", "off", "", "ü", 'a"b', "tab\there", "back\\slash", "🙂", 0, -1, 3.5, True, False, None]


def words(rng, count):
    return rng.sample(WORDS, count)


def text(rng):
    low = rng.randint(0, 4)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 12)}


def integer(rng):
    low = rng.choice([-1000, -7, 0, 1, 18, 250])
    return {"type": "integer", "minimum": low, "maximum": low + rng.choice([0, 1, 9, 120, 70000])}


def number(rng):
    low = rng.choice([-2.5, -0.125, 0, 0.5, 99])
    if rng.random() < 0.5:
        return {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + rng.choice([3, 40])}
    return {"type": "number", "minimum": low, "maximum": low + rng.choice([0.75, 3, 1e4])}


def pattern(rng):
    return {"type": "string", "pattern": rng.choice(PATTERNS)}


def leaf(rng):
    makers = [text, integer, number, pattern, lambda r: {"type": "boolean"}, lambda r: {"type": "null"}]
    return rng.choice(makers)(rng)


def closed(properties, required=None):
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def record(rng):
    names = words(rng, rng.randint(2, 6))
    required = [name for name in names if rng.random() < 0.6]
    return closed({name: leaf(rng) for name in names}, required)


def nested(rng):
    schema = closed({name: leaf(rng) for name in words(rng, 2)})
    for depth in range(rng.randint(2, 4)):
        names = words(rng, 3)
        schema = closed({names[0]: schema, names[1]: leaf(rng)}, names[: 1 + depth % 2])
    return schema


def rows(rng):
    low = rng.randint(0, 3)
    item = closed({name: leaf(rng) for name in words(rng, rng.randint(1, 3))})
    return {"type": "array", "items": item, "minItems": low, "maxItems": low + rng.randint(0, 2)}


def constants(rng):
    values = rng.sample(CONSTANTS, 6)
    properties = {
        "one": {"const": values[0]},
        "of": {"enum": values[1:]},
        "whole": {"const": {"a": [values[1], {"b": values[2]}]}},
    }
    return closed(properties)


def many_values(rng):
    codes = sorted({f"{rng.choice(WORDS)}-{rng.randint(0, 9999):04}" for _ in range(rng.randint(20, 120))})
    return {"type": "array", "items": {"enum": codes}, "minItems": 1, "maxItems": 3}


def patterns(rng):
    return closed({f"p{i}": {"type": "string", "pattern": p} for i, p in enumerate(rng.sample(PATTERNS, 3))})


def bounded_patterns(rng):
    first = {
        "type": "string",
        "pattern": "^[a-z]+$",
        "minLength": rng.randint(2, 5),
        "maxLength": rng.randint(5, 9),
    }
    second = {"type": "string", "pattern": r"\d", "maxLength": rng.randint(3, 8)}
    return closed({"word": first, "has_digit": second})


def formats(rng):
    return closed(
        {name.replace("-", "_"): {"type": "string", "format": name} for name in rng.sample(FORMATS, 3)}
    )


def numbers(rng):
    step = rng.choice([3, 5, 7, 12])
    properties = {
        "integer": integer(rng),
        "number": number(rng),
        "stepped": {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": step * 40},
        "quarter": {"type": "number", "multipleOf": 0.25, "minimum": -2, "maximum": 2},
        "digit": {"type": "integer", "exclusiveMinimum": -1, "exclusiveMaximum": 10},
    }
    return closed(dict(rng.sample(sorted(properties.items()), 3)))


def tagged_union(rng):
    kinds = words(rng, 3)
    return {"anyOf": [closed({"kind": {"const": kind}, rng.choice("xyz"): leaf(rng)}) for kind in kinds]}


def one_of_types(rng):
    options = [text(rng), integer(rng), {"type": "boolean"}, {"type": "null"}, record(rng)]
    return closed({"value": {"oneOf": rng.sample(options, 3)}, "other": {"oneOf": options[:2]}})


def all_of(rng):
    names = words(rng, 4)
    parts = [
        {"type": "object", "properties": {names[0]: leaf(rng), names[1]: leaf(rng)}, "required": names[:2]},
        {"properties": {names[2]: leaf(rng)}, "required": [names[2]]},
        {
            "properties": {names[0]: {}},
            "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        },
    ]
    parts[2]["properties"] |= {names[1]: {}, names[2]: {}}
    return {"allOf": parts, "maxProperties": 4}


def shared_definitions(rng):
    definitions = {"point": closed({"x": number(rng), "y": number(rng)}), "label": text(rng)}
    line = closed({"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}})
    definitions["line"] = line
    lines = {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1, "maxItems": rng.randint(1, 2)}
    return closed({"label": {"$ref": "#/$defs/label"}, "lines": lines}) | {"$defs": definitions}


def odd_references(rng):
    names = {"a/b": "a~1b", "m~n": "m~0n", "two words": "two%20words", "per%cent": "per%25cent"}
    chosen = rng.sample(sorted(names), 3)
    properties = {name: {"$ref": f"#/definitions/{names[name]}"} for name in chosen}
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return draft | closed(properties) | {"definitions": {name: leaf(rng) for name in chosen}}


def named_references(rng):
    schema = closed({"a": {"$ref": "#item"}, "b": {"$ref": "item.json"}})
    definitions = {
        "x": {"$anchor": "item"} | leaf(rng),
        "y": {"$id": "https://modeld.test/item.json"} | leaf(rng),
    }
    return {"$id": "https://modeld.test/root.json"} | schema | {"$defs": definitions}


def tree(rng):
    children = {"type": "array", "items": {"$ref": "#"}, "maxItems": rng.randint(1, 2)}
    return closed({"value": leaf(rng), "children": children}, ["value"])


def linked_list(rng):
    node = closed({"item": leaf(rng), "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}})
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


def expression(rng):
    operators = rng.sample(["+", "-", "*", "/", "and", "or"], 3)
    pair = closed({"op": {"enum": operators}, "l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}})
    inverse = closed({"not": {"$ref": "#/$defs/e"}})
    options = [integer(rng), {"type": "boolean"}, text(rng), inverse, pair]
    return {"$defs": {"e": {"anyOf": options}}, "$ref": "#/$defs/e"}


def mutual_recursion(rng):
    folder = closed(
        {"name": text(rng), "entries": {"type": "array", "items": {"$ref": "#/$defs/entry"}, "maxItems": 2}}
    )
    file = closed({"name": text(rng), "bytes": integer(rng)})
    entry = {"anyOf": [{"$ref": "#/$defs/file"}, {"$ref": "#/$defs/folder"}]}
    return {"$ref": "#/$defs/folder", "$defs": {"folder": folder, "file": file, "entry": entry}}


def tuples(rng):
    first = [leaf(rng) for _ in range(rng.randint(2, 4))]
    rest = rng.choice([False, {"type": "integer", "minimum": 0, "maximum": 9}])
    schema = {"type": "array", "prefixItems": first, "items": rest, "minItems": len(first)}
    return schema | ({} if rest is False else {"maxItems": len(first) + 2})


def old_draft(rng):
    draft = {"$schema": "http://json-schema.org/draft-04/schema#", "id": "https://modeld.test/old"}
    bounded = {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": rng.randint(2, 90)}
    pair = {"type": "array", "items": [text(rng), leaf(rng)], "additionalItems": False, "minItems": 2}
    return draft | closed({"bounded": bounded, "pair": pair})


def named_by_pattern(rng):
    by_pattern = {"^x_[a-z]{1,3}$": leaf(rng), "^[0-9]{2}$": text(rng)}
    fixed = {rng.choice(WORDS): leaf(rng)}
    schema = {"type": "object", "properties": fixed, "patternProperties": by_pattern}
    return schema | {
        "additionalProperties": False,
        "required": list(fixed),
        "maxProperties": 1 + rng.randint(0, 2),
    }


def maps(rng):
    low = rng.randint(0, 1)
    schema = {"type": "object", "additionalProperties": leaf(rng), "minProperties": low}
    return schema | {"maxProperties": low + rng.randint(0, 1)}


def nullable(rng):
    names = words(rng, 3)
    types = [["string", "null"], ["integer", "boolean"], ["number", "null"]]
    bounds = {"maxLength": 6, "minimum": 0, "maximum": 50}
    return closed({name: {"type": kind} | bounds for name, kind in zip(names, types, strict=True)})


def odd_names(rng):
    names = ['say "hi"', "back\\slash", "naïve", "two words", "🙂", "line\nfeed", "", "$ref", "a.b[0]"]
    return closed({name: leaf(rng) for name in rng.sample(names, 4)})


def grids(rng):
    cell = rng.choice([integer, number, lambda r: {"enum": ["x", "o", "."]}])(rng)
    size = rng.randint(1, 3)
    row = {"type": "array", "items": cell, "minItems": size, "maxItems": size}
    return {"type": "array", "items": row, "minItems": size, "maxItems": size}


def function_call(rng):
    place = {"type": "string", "minLength": 1, "maxLength": 16, "description": "City and country"}
    unit = {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}
    days = {"type": "integer", "minimum": 1, "maximum": rng.randint(3, 14), "examples": [3]}
    arguments = closed({"location": place, "unit": unit, "days": days}, ["location"])
    return closed({"name": {"const": rng.choice(["get_weather", "forecast"])}, "arguments": arguments})


def manifest(rng):
    port = closed(
        {
            "containerPort": {"type": "integer", "minimum": 1, "maximum": 65535},
            "protocol": {"enum": ["TCP", "UDP"]},
        },
        ["containerPort"],
    )
    container = closed(
        {
            "name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,8}[a-z0-9])?$"},
            "image": {"type": "string", "pattern": r"^[a-z]{1,8}(/[a-z]{1,8})?:(latest|\d\.\d)$"},
            "ports": {"type": "array", "items": port, "maxItems": rng.randint(1, 2)},
        },
        ["name", "image"],
    )
    spec = closed(
        {
            "replicas": {"type": "integer", "minimum": 0, "maximum": 9},
            "containers": {"type": "array", "items": container, "minItems": 1, "maxItems": 1},
        }
    )
    meta = {
        "type": "object",
        "properties": {"name": text(rng)},
        "required": ["name"],
        "additionalProperties": False,
    }
    return closed(
        {
            "apiVersion": {"const": "apps/v1"},
            "kind": {"enum": ["Deployment", "Job"]},
            "metadata": meta,
            "spec": spec,
        }
    )


FAMILIES = [
    record, nested, rows, constants, many_values, patterns, bounded_patterns, formats, numbers, tagged_union,
    one_of_types, all_of, shared_definitions, odd_references, named_references, tree, linked_list, expression,
    mutual_recursion, tuples, old_draft, named_by_pattern, maps, nullable, odd_names, grids, function_call,
    manifest,
]  # fmt: skip
COUNT = 200


def main():
    rng = random.Random(20_261_125)
    schemas = []
    while len(schemas) < COUNT:
        family = FAMILIES[len(schemas) % len(FAMILIES)]
        schema = family(rng)
        if schema not in schemas:
            schemas.append(schema)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("w") as file:
        for schema in schemas:
            file.write(json.dumps(schema, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
