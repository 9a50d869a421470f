"""Repositories on disk as a hub sees them: revisions, commits, git and LFS objects.

Layout below the root:
  ORG/NAME/...                       one revision, the branch main
  ORG/NAME/.revisions/REVISION/...   several; each REVISION is also a tag, the last by name is main
  ORG/NAME/.hub.json                 optional: {"branches": {"main": "v2"}, "tags": {"one": "v1"},
                                     "gated": "auto", "private": true, "disabled": true, "tokens": ["t"]}
A commit id is a digest of the tree, so the same files have the same commit on every machine.
"""

import hashlib
import json
import os
import pathlib
import re
import threading
from dataclasses import dataclass, field

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".onnx", ".h5")
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
REPO_ID = re.compile(f"(?:{PART}/)?{PART}")
PRIVATE_NAMES = (".revisions", ".hub.json")


@dataclass(frozen=True)
class Entry:
    """One file of a commit."""

    path: str
    size: int
    oid: str  # git's SHA-1 of the file, or of its LFS pointer
    sha256: str | None  # of LFS files only
    source: pathlib.Path

    @property
    def blob(self):
        return self.sha256 or self.oid


@dataclass
class Commit:
    """One tree of files."""

    id: str
    entries: dict[str, Entry]


@dataclass
class Repository:
    """What .hub.json says, and the revisions on disk."""

    id: str
    folder: pathlib.Path
    settings: dict = field(default_factory=dict)

    def revisions(self):
        folder = self.folder / ".revisions"
        if not folder.is_dir():
            return {"main": self.folder}
        return {p.name: p for p in sorted(folder.iterdir()) if p.is_dir()}


class Digests:
    """SHA-256 and git's SHA-1 of files, computed once per (path, size, mtime); kept in a side file."""

    def __init__(self, root, side_file):
        self._root = root
        self._side_file = side_file
        self._lock = threading.Lock()
        try:
            self._known = json.loads(side_file.read_text())
        except (OSError, ValueError):
            self._known = {}

    def of(self, path, status):
        key = str(path.relative_to(self._root))
        stamp = [status.st_size, status.st_mtime_ns]
        with self._lock:
            known = self._known.get(key)
            if known and known[:2] == stamp:
                return known[2], known[3]
        sha256 = hashlib.sha256()
        sha1 = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                sha256.update(piece)
                sha1.update(piece)
        with self._lock:
            self._known[key] = [*stamp, sha256.hexdigest(), sha1.hexdigest()]
            return self._known[key][2], self._known[key][3]

    def save(self):
        """A root that cannot be written only costs the next start its time."""
        with self._lock:
            text = json.dumps(self._known, indent=1, sort_keys=True)
            try:
                if self._side_file.exists() and self._side_file.read_text() == text:
                    return
                temporary = self._side_file.with_name(f"{self._side_file.name}.{os.getpid()}")
                temporary.write_text(text)
                temporary.replace(self._side_file)
            except OSError:
                return


class Repositories:
    """All repositories below `root`. Thread-safe. Looks at the disk anew for every branch or tag."""

    def __init__(self, root, lfs_threshold):
        self._root = root
        self._lfs_threshold = lfs_threshold
        self._digests = Digests(root, root / ".hub-digests.json")
        self._lock = threading.Lock()
        self._commits = {}  # (repository id, commit id) -> Commit
        self._lfs = {}  # sha256 -> Entry
        self._overrides = {}  # repository id -> settings given at run time

    def scan_all(self):
        for first in sorted(self._root.iterdir()):
            for folder in [first, *(sorted(first.iterdir()) if first.is_dir() else [])]:
                repository = self.find(str(folder.relative_to(self._root)))
                for name in repository.revisions() if repository else []:
                    self._read(repository, name)
        self._digests.save()

    def find(self, repo_id):
        """The repository, or None."""
        if not REPO_ID.fullmatch(repo_id):
            return None
        folder = self._root / repo_id
        if not folder.is_dir() or ("/" not in repo_id and not (folder / ".hub.json").exists()):
            return None
        settings = {}
        if (folder / ".hub.json").exists():
            settings = json.loads((folder / ".hub.json").read_text())
        with self._lock:
            settings.update(self._overrides.get(repo_id, {}))
        return Repository(repo_id, folder, settings)

    def change(self, repo_id, settings):
        """Settings that go before those on disk; branches and tags are merged."""
        with self._lock:
            kept = self._overrides.setdefault(repo_id, {})
            for key, value in settings.items():
                if isinstance(value, dict):
                    kept.setdefault(key, {}).update(value)
                else:
                    kept[key] = value

    def refs(self, repository):
        """Branches and tags: name -> folder name of the revision."""
        names = list(repository.revisions())
        branches = {"main": names[-1]} if names else {}
        branches.update(repository.settings.get("branches", {}))
        tags = {n: n for n in names if n not in branches}
        tags.update(repository.settings.get("tags", {}))
        return branches, tags

    def commit(self, repository, revision):
        """The commit that a branch, tag or commit id names, or None."""
        with self._lock:
            known = self._commits.get((repository.id, revision))
        if known:
            return known
        branches, tags = self.refs(repository)
        name = branches.get(revision) or tags.get(revision)
        if name in repository.revisions():
            return self._read(repository, name)
        if re.fullmatch("[0-9a-f]{40}", revision):
            for name in repository.revisions():
                commit = self._read(repository, name)
                if commit.id == revision:
                    return commit
        return None

    def lfs_object(self, sha256):
        with self._lock:
            return self._lfs.get(sha256)

    def _read(self, repository, name):
        top = repository.revisions()[name]
        entries = {}
        for folder, folders, files in os.walk(top):
            if folder == str(repository.folder):
                folders[:] = [f for f in folders if f not in PRIVATE_NAMES]
                files = [f for f in files if f not in PRIVATE_NAMES]
            folders.sort()
            for file in files:
                entry = self._entry(top, pathlib.Path(folder) / file)
                entries[entry.path] = entry
        entries = dict(sorted(entries.items()))
        digest = hashlib.sha1(usedforsecurity=False)
        for entry in entries.values():
            digest.update(f"{entry.path}\0{entry.blob}\n".encode())
        commit = Commit(digest.hexdigest(), entries)
        with self._lock:
            self._commits[(repository.id, commit.id)] = commit
            self._lfs.update({e.sha256: e for e in entries.values() if e.sha256})
        return commit

    def _entry(self, top, source):
        status = source.stat()
        sha256, sha1 = self._digests.of(source, status)
        path = source.relative_to(top).as_posix()
        if status.st_size < self._lfs_threshold and not path.endswith(LFS_SUFFIXES):
            return Entry(path, status.st_size, sha1, None, source)
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {status.st_size}\n"
        ).encode()
        oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False)
        return Entry(path, status.st_size, oid.hexdigest(), sha256, source)
