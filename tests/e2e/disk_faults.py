"""Faults of disks that this machine does not have: a daemon with libdisk_faults.so preloaded."""

import os
import pathlib
import subprocess
import uuid

from peers import BIN

TESTS = BIN / "tests"


def preloaded():
    """Libraries in order; a sanitizer's own must be the first."""
    libraries = [str(TESTS / "libdisk_faults.so")]
    if os.environ.get("MODELD_PRESET") == "asan":
        named = subprocess.run(["gcc", "-print-file-name=libasan.so"], stdout=subprocess.PIPE, text=True)
        libraries.insert(0, os.path.realpath(named.stdout.strip()))
    return " ".join(libraries)


class DiskFaults:
    """What a disk does wrong below one folder; may change while the daemon runs."""

    def __init__(self, folder, below):
        self._folder, self._below = pathlib.Path(folder), pathlib.Path(below)
        self._folder.mkdir()
        self._boots = 0
        self.environment = {"LD_PRELOAD": preloaded(), "DISK_FAULTS": str(self._folder)}
        self.set()

    def set(self, *faults):
        """These and no others, as tests/support/disk_faults/disk_faults.cc has them."""
        temporary = self._folder / "faults.new"
        temporary.write_text("\n".join([f"below {self._below}", *faults]) + "\n")
        temporary.rename(self._folder / "faults")

    def power_cut(self):
        """The disk as it is found afterwards, by a machine that started anew; how many bytes were lost."""
        command = [str(TESTS / "power_cut"), str(self._below), str(self._folder / "writes")]
        lost = int(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
        (self._folder / "writes").unlink()
        self.set("record", f"boot_id {uuid.UUID(int=self._boots)}")
        self._boots += 1
        return lost
