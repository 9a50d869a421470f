#!/usr/bin/env python3
"""Fetches the chat templates of real models that a PyPI package carries.

    real_templates.py OUT      writes OUT/*.jinja; does nothing when they are there

They come from the source package llama-cpp-python (MIT), which has llama.cpp's collection. They belong to the
makers of the models, and are therefore not kept in this repository.
"""

import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "llama-cpp-python==0.3.36"
FOLDER = "/vendor/llama.cpp/models/templates/"


def main():
    out = pathlib.Path(sys.argv[1])
    ready = out / "ready"
    if ready.exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-binary", ":all:", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        [package] = pathlib.Path(folder).glob("*.tar.gz")
        with tarfile.open(package) as archive:
            for member in archive:
                if FOLDER in member.name and member.name.endswith(".jinja") and member.isfile():
                    (out / pathlib.Path(member.name).name).write_bytes(archive.extractfile(member).read())
    ready.touch()


if __name__ == "__main__":
    main()
