"""Whether real huggingface_hub agrees with the caches that tests left: check_caches.py FOLDER.

Each folder in FOLDER is a cache (HF_HOME). For each: the scan warns of nothing, every blob is what its name
says, and every revision is found whole without a network. Prints what is wrong; exit status 1 then.
"""

import hashlib
import os
import pathlib
import sys

# Read when the library is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"

import huggingface_hub  # noqa: E402


def digest_of(blob):
    """As its name has it: SHA-256, or git's SHA-1."""
    if len(blob.name) == 64:
        digest = hashlib.sha256()
    else:
        header = b"blob %d\0" % blob.stat().st_size
        digest = hashlib.sha1(header, usedforsecurity=False)
    with open(blob, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def wrong_in(hub):
    """(revisions seen, what is wrong) of one cache."""
    seen, wrong = 0, []
    found = huggingface_hub.scan_cache_dir(hub)
    wrong += [f"the scan warns: {warning}" for warning in found.warnings]
    for repository in found.repos:
        blobs = repository.repo_path / "blobs"
        wrong += [
            f"{b} has wrong bytes" for b in blobs.iterdir() if b.name[:1] != "." and digest_of(b) != b.name
        ]
        for name in repository.refs:
            seen += 1
            try:
                huggingface_hub.snapshot_download(
                    repository.repo_id, revision=name, cache_dir=hub, local_files_only=True
                )
            except Exception as error:
                wrong.append(f"{repository.repo_id} {name}: {error}")
    return seen, wrong


def main():
    caches, revisions, wrong = 0, 0, []
    for hub in sorted(pathlib.Path(sys.argv[1]).glob("*/hub")):
        seen, bad = wrong_in(hub)
        caches, revisions = caches + 1, revisions + seen
        wrong += [f"{hub}: {what}" for what in bad]
    print(f"huggingface_hub {huggingface_hub.__version__}: {caches} caches, {revisions} revisions")
    print("\n".join(wrong))
    return 1 if wrong or not revisions else 0


if __name__ == "__main__":
    sys.exit(main())
