"""A network with latency: two network namespaces joined by delay.cc. For root only."""

import ctypes
import os
import pathlib
import subprocess

from places import CACHE

CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
ONE_WAY_MS = 15


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class LatencyNetwork:
    """While it lives, `server_prefix` runs programs on the far side and enter() moves us to the near one."""

    def __init__(self):
        self._near, self._far = (f"modeld-bench-{os.getpid()}-{side}" for side in ("near", "far"))
        self.server_prefix = ("ip", "netns", "exec", self._far)
        for namespace in (self._near, self._far):
            ip("netns", "add", namespace)
        command = [str(CACHE / "delay"), self._near, self._far, str(ONE_WAY_MS)]
        self._relay = subprocess.Popen(command, stdout=subprocess.PIPE)
        # It says so when both devices are there.
        if self._relay.stdout.readline() != b"ready\n":
            raise RuntimeError("delay did not start")
        for namespace, address in ((self._near, CLIENT), (self._far, SERVER)):
            inside = ("-n", namespace)
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "addr", "add", f"{address}/24", "dev", "tun0")
            ip(*inside, "link", "set", "tun0", "txqueuelen", "10000", "up")

    def enter(self):
        """This thread, and the programs and threads that it starts, are on the near side from now on."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(pathlib.Path("/var/run/netns") / self._near) as namespace:
            if libc.setns(namespace.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def close(self):
        self._relay.kill()
        self._relay.wait()
        for namespace in (self._near, self._far):
            ip("netns", "del", namespace)
