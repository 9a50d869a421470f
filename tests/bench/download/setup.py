"""Makes what the benchmark needs in its cache; prints the Python that it runs in."""

import pathlib
import subprocess
import sys

import data
from places import CACHE, HERE, ROOT

sys.path.append(str(ROOT / "tests/support"))
import run_tests  # noqa: E402


def compile_programs():
    """floor and delay, when their sources are newer."""
    for name in ("floor", "delay"):
        source, program = HERE / f"{name}.cc", CACHE / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            command = ["g++", "-std=c++20", "-O2", "-Wall", "-Wextra", "-o", program, source]
            subprocess.run([*command, "-lcrypto", "-pthread"], check=True)


def link(name, venv):
    """CACHE/NAME is the virtual environment, whatever the digest in its name."""
    target = CACHE / name
    target.unlink(missing_ok=True)
    target.symlink_to(venv)
    return target


def main():
    CACHE.mkdir(parents=True, exist_ok=True)
    # What is made is said, but standard output is for the answer.
    run_tests.say = lambda text: print(f"bench: {text}", file=sys.stderr)
    clients = run_tests.make_venv(ROOT / "tests/requirements.txt", "clients")
    link("clients", clients)
    link("hf-transfer", run_tests.make_venv(pathlib.Path(HERE / "requirements.txt"), "hf-transfer"))
    compile_programs()
    data.make(CACHE / "data", run_tests.say)
    print(clients / "bin/python")


if __name__ == "__main__":
    main()
