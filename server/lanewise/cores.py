"""How many cores this process may use, whatever the host has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def usable_cores() -> int:
    """Count the cores that this process may keep busy: 1 or more.

    The least of those it may run on and the CPU quota of its control groups, rounded up: a
    container with `--cpus 2` on a host with 64 cores has 2.
    """
    return count_cores(len(os.sched_getaffinity(0)))


def count_cores(allowed: int, root: Path = Path("/")) -> int:
    """Get the least of `allowed` and of the quotas that are found in the file system at `root`."""
    quotas = (math.ceil(quota) for quota in _quotas(root))
    return max(1, min((allowed, *quotas)))


def _quotas(root: Path) -> Iterator[float]:
    """Iterate over the quotas of this process's control groups and those around them, in cores."""
    for folder in _folders(root):
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota.strip() != "max" and int(quota) > 0 and int(period) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError):  # there is none, or it may not be read
            continue


def _folders(root: Path) -> Iterator[Path]:
    """Iterate over the folders that may hold a quota, in version 2 and 1 of control groups.

    Where the path of a group is that on the host, the container's own group is at the mount.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own = (mounts, mounts / "unified")
        elif "cpu" in controllers.split(","):
            own = (mounts / controllers, mounts / "cpu")
        else:
            continue
        for mount in own:
            group = mount / path.lstrip("/")
            yield group
            yield from (each for each in group.parents if each.is_relative_to(mount))
