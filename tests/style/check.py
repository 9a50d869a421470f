"""The cheap checks of the house style. Prints "ok NAME" or "FAILED NAME" with the places, one check each."""

import argparse
import pathlib
import re
import subprocess
import sys

import reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
# A forward pass reads top to bottom as the paper does.
FORWARD_LINES_MAX = 120
# The root file defines modeld_library() and modeld_test().
GERSEMI = ["--line-length", "100", "--definitions", "CMakeLists.txt"]
FORBIDDEN = {
    r"\b\w*(Manager|Helper|Util|Utils)\b": "name what it is",
    r"\bTODO\b(?!\(#\d+\))": "a TODO names its issue: TODO(#12)",
    r"\b(FIXME|XXX|HACK)\b": "mend it, or file an issue",
    r"\babsl::(Mutex|Notification|BlockingCounter)\b": "base/mutex.h, std::latch or std::promise",
    r"\bat::parallel_for\b": "kernels run on base/thread_pool.h",
}
FORBIDDEN_IN_TESTS = {
    r"\b(sleep_for|SleepFor|usleep)\b|(?<![\w.])sleep\(": "wait for the event, not for time",
    r"\b(DISABLED_|GTEST_SKIP)": "a test runs or does not exist",
}


def tracked(*patterns):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [f for f in out.splitlines() if (ROOT / f).is_file() and not f.startswith("tests/data/")]


def call(command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout if done.returncode else ""


def cpp():
    return tracked("*.cc", "*.h")


def text_of(name):
    return (ROOT / name).read_text(errors="replace")


def check_format(tools):
    """clang-format on C++ and protos, gersemi on CMake, ruff on Python."""
    places = call([f"{tools}/clang-format", "--dry-run", "-Werror", *cpp(), *tracked("*.proto")])
    cmake = tracked("*CMakeLists.txt")
    places += call([f"{tools}/gersemi", "--check", *GERSEMI, "--", *cmake])
    places += call(
        [f"{tools}/ruff", "format", "--check", "--config", "tests/style/ruff.toml", *tracked("*.py")]
    )
    return places[-6000:]


def check_python(tools):
    return call([f"{tools}/ruff", "check", "--config", "tests/style/ruff.toml", *tracked("*.py")])


def check_layers(tools):
    files = [f for f in cpp() if re.match(r"server/[a-z]+/", f)]
    return call(["awk", "-f", "tests/style/layers.awk", "server/layers.txt", *files])


def check_proto(tools):
    return call([f"{tools}/buf", "lint"]) + call([f"{tools}/buf", "build", "-o", "/dev/null"])


def check_reference(tools):
    """proto/REFERENCE.md says what the protos say."""
    if text_of(reference.REFERENCE) == reference.reference(tools):
        return ""
    return f"{reference.REFERENCE} is not what the protos say: run tests/style/reference.py --tools {tools}"


def check_spelling(tools):
    files = [f for f in tracked() if not f.endswith((".lock", ".json", ".jinja", ".svg"))]
    return call([f"{tools}/codespell", "-L", "ue,te,fo,nd,hel,kno,crate,som,ot,ontext,filetest", *files])


def check_shell(tools):
    scripts = [
        f
        for f in tracked()
        if text_of(f)[:40].startswith(("#!/usr/bin/env bash", "#!/bin/bash", "#!/bin/sh"))
    ]
    return call([f"{tools}/shellcheck", *scripts])


def check_words(tools):
    places = []
    for name in cpp() + tracked("*.rs"):
        rules = dict(FORBIDDEN)
        if name.startswith("tests/"):
            rules.update(FORBIDDEN_IN_TESTS)
        for number, line in enumerate(text_of(name).splitlines(), 1):
            # A comment may name what the code may not use.
            code = line if "TODO" in line else re.sub(r"^\s*//.*", "", line)
            for pattern, advice in rules.items():
                if re.search(pattern, code):
                    places.append(f"{name}:{number}: {line.strip()[:80]}: {advice}")
    return "\n".join(places)


def check_sizes(tools):
    places = []
    for name in cpp() + tracked("*.rs", "*.py"):
        lines = text_of(name).splitlines()
        if len(lines) > FILE_LINES_MAX:
            places.append(f"{name}: {len(lines)} lines, at most {FILE_LINES_MAX}")
        if name.endswith(".cc"):
            places += long_functions(name, lines)
    return "\n".join(places)


def long_functions(name, lines):
    """A function begins at the left edge with a line that ends in '{' and ends with '}' at the left edge."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("}") and start:
            length = number - start + 1
            limit = FORWARD_LINES_MAX if name.startswith("server/engine/models/") else FUNCTION_LINES_MAX
            if length > limit:
                yield f"{name}:{start}: a function of {length} lines, at most {limit}"
            start = None
        elif re.match(r"^[A-Za-z].*[)}] ?(const|noexcept|override| )*\{$", line) or (
            start is None
            and re.match(r"^ {4,}.*\) ?(const|noexcept)? ?\{$", line)
            and re.match(r"^[A-Za-z].*[(,]$", lines[number - 2])
        ):
            if not re.match(r"^(namespace|class|struct|enum|union|extern)\b", line):
                start = start or number


def check_assertions(tools):
    places = [f for f in tracked("tests/*_test.cc") if not re.search(r"EXPECT_|ASSERT_", text_of(f))]
    return "\n".join(f"{f}: a test file without an assertion" for f in places)


def check_mirror(tools):
    folders = {f.split("/")[1] for f in cpp() if re.match(r"server/[a-z]+/", f)}
    missing = [f for f in sorted(folders) if not (ROOT / "tests" / f).is_dir()]
    return "\n".join(f"server/{f} has no tests/{f}" for f in missing)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", required=True, help="folder of clang-format, buf, ...")
    tools = parser.parse_args().tools
    bad = False
    for name, check in sorted(globals().items()):
        if not name.startswith("check_"):
            continue
        places = check(tools).strip()
        print(f"{'FAILED' if places else 'ok'} {name.removeprefix('check_')}")
        if places:
            bad = True
            print(places)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
