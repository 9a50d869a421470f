"""Writes proto/REFERENCE.md: methods, messages and fields of modeld.v1 with the comments of the protos.

python3 tests/style/reference.py --tools FOLDER_OF_BUF
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = "proto/REFERENCE.md"
PACKAGE = "modeld.v1"
# Field numbers of descriptor.proto, which make the paths of comments.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
NESTED_MESSAGES, NESTED_ENUMS, FIELDS, VALUES, METHODS = 3, 4, 2, 2, 2

HEAD = """# The gRPC interface, field by field

Made from the comments in `proto/modeld/v1/` by `tests/style/reference.py`; the style checks compare it
with them. `optional` fields know whether they were set, and their defaults are in their texts. Every other
field that is not set has the zero of its type: 0, false, an empty text or list, no message. Numbers that a
key of the section `limits` of the configuration bounds are given with its default.
"""


def image(tools):
    """The descriptors of all protos with their comments, as buf prints them."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "image.json"
        subprocess.run([f"{tools}/buf", "build", "-o", path], cwd=ROOT, check=True)
        return json.loads(path.read_text())


def comments_of(file):
    locations = file["sourceCodeInfo"]["location"]
    return {
        tuple(at.get("path", [])): " ".join(at["leadingComments"].split())
        for at in locations
        if "leadingComments" in at
    }


def short(type_name):
    name = type_name.lstrip(".")
    return name.removeprefix(PACKAGE + ".")


def link(type_name):
    name = short(type_name)
    if name == type_name.lstrip("."):
        return f"`{name}`"
    return f"[`{name}`](#{name.lower().replace('.', '')})"


def type_of(field, maps):
    """The type as a reader of the proto would write it, with a link where it is ours."""
    scalar = "`" + field["type"].removeprefix("TYPE_").lower() + "`"
    name = link(field["typeName"]) if "typeName" in field else scalar
    if field.get("typeName") in maps:
        key, value = maps[field["typeName"]]
        return f"map of {type_of(key, {})} to {type_of(value, {})}"
    if field["label"] == "LABEL_REPEATED":
        return f"list of {name}"
    return f"optional {name}" if field.get("proto3Optional") else name


def cell(text):
    return text.replace("|", "\\|")


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(cell(text) for text in row)} |" for row in rows] + [""]


def enum_lines(enum, prefix, path, comments):
    rows = [(f"`{v['name']}`", comments[*path, VALUES, i]) for i, v in enumerate(enum["value"])]
    return [f"### {prefix}{enum['name']}", "", comments[path], "", *table(["value", "what"], rows)]


def message_lines(message, prefix, path, comments):
    name = prefix + message["name"]
    nested = message.get("nestedType", [])
    maps = {
        f".{PACKAGE}.{name}.{entry['name']}": entry["field"]
        for entry in nested
        if entry.get("options", {}).get("mapEntry")
    }
    rows = [
        (f"`{field['name']}`", type_of(field, maps), comments[*path, FIELDS, i])
        for i, field in enumerate(message.get("field", []))
    ]
    lines = [f"### {name}", "", comments[path], ""]
    if rows:
        lines += table(["field", "type", "what"], rows)
    for i, inner in enumerate(nested):
        if not inner.get("options", {}).get("mapEntry"):
            lines += message_lines(inner, name + ".", (*path, NESTED_MESSAGES, i), comments)
    for i, enum in enumerate(message.get("enumType", [])):
        lines += enum_lines(enum, name + ".", (*path, NESTED_ENUMS, i), comments)
    return lines


def service_lines(service, path, comments):
    rows = []
    for i, method in enumerate(service["method"]):
        stream = "stream of " if method.get("serverStreaming") else ""
        arrow = f"{link(method['inputType'])} → {stream}{link(method['outputType'])}"
        rows.append((f"`{method['name']}`", arrow, comments[*path, METHODS, i]))
    head = [f"### Service {service['name']}", "", comments[path], ""]
    return head + table(["method", "request → response", "what"], rows)


def file_lines(file):
    comments = comments_of(file)
    lines = [f"## {pathlib.Path(file['name']).name}", ""]
    for i, service in enumerate(file.get("service", [])):
        lines += service_lines(service, (SERVICES, i), comments)
    for i, message in enumerate(file.get("messageType", [])):
        lines += message_lines(message, "", (MESSAGES, i), comments)
    for i, enum in enumerate(file.get("enumType", [])):
        lines += enum_lines(enum, "", (ENUMS, i), comments)
    return lines


def reference(tools):
    """The text that REFERENCE is to have."""
    files = [f for f in image(tools)["file"] if f.get("package") == PACKAGE]
    lines = [HEAD]
    for file in sorted(files, key=lambda f: f["name"]):
        lines += file_lines(file)
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", required=True, help="folder of buf")
    (ROOT / REFERENCE).write_text(reference(parser.parse_args().tools))


if __name__ == "__main__":
    main()
