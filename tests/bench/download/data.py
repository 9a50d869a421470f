"""The repositories of the benchmark, the same bytes on every machine.

acme/big has 4 files of 1 GB and a few small ones, acme/one a single file of 1 GB, acme/many 300 files of
10 kB to 1 MB. Below the folder: objects/DIGEST (of LFS files the SHA-256, of others git's SHA-1) and
repositories.json: {repository: {"commit": ..., "files": {path: {"digest", "oid", "size", "lfs"}}}}.
"""

import hashlib
import json
import random

GB = 1_000_000_000
PIECE = 8 << 20


class Objects:
    """Files by their digest."""

    def __init__(self, folder):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def git(self, content):
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        (self._folder / oid).write_bytes(content)
        return {"digest": oid, "oid": oid, "size": len(content), "lfs": False}

    def lfs(self, size, seed):
        numbers, digest = random.Random(seed), hashlib.sha256()
        unfinished = self._folder / "unfinished"
        with open(unfinished, "wb") as file:
            for begin in range(0, size, PIECE):
                piece = numbers.randbytes(min(PIECE, size - begin))
                digest.update(piece)
                file.write(piece)
        name = digest.hexdigest()
        unfinished.rename(self._folder / name)
        # Of the LFS pointer, which nobody downloads: any digest will do.
        oid = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        return {"digest": name, "oid": oid, "size": size, "lfs": True}


def few_small(objects):
    return {
        "config.json": objects.git(b'{"model_type": "none"}'),
        "tokenizer.json": objects.git(random.Random("tokenizer").randbytes(1_500_000).hex().encode()),
        "README.md": objects.git(b"# acme\n" * 200),
        "empty.txt": objects.git(b""),
    }


def many_small(objects):
    numbers = random.Random("many")
    sizes = [int(10_000 * 100 ** numbers.random()) for _ in range(300)]
    files = {f"part/{i:03d}.bin": objects.git(numbers.randbytes(size)) for i, size in enumerate(sizes)}
    return {"config.json": objects.git(b'{"model_type": "none"}'), **files}


def make(folder, say):
    """Makes the data if it is not there."""
    index = folder / "repositories.json"
    if index.exists():
        return
    say(f"making 4 GB of data in {folder}")
    objects = Objects(folder / "objects")
    shards = {f"model-{i}-of-4.safetensors": objects.lfs(GB, f"shard {i}") for i in range(1, 5)}
    one = {"model.safetensors": shards["model-1-of-4.safetensors"]}
    repositories = {}
    for name, files in {
        "acme/big": {**few_small(objects), **shards},
        "acme/one": {**few_small(objects), **one},
        "acme/many": many_small(objects),
    }.items():
        commit = hashlib.sha1(json.dumps(files).encode(), usedforsecurity=False).hexdigest()
        repositories[name] = {"commit": commit, "files": files}
    index.write_text(json.dumps(repositories, indent=1))
