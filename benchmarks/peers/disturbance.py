"""How much of the two cores went to others while a server was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.running import descendants

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Disturbance:
    """Compares what the cores did with what the processes of the measurement used of them."""

    def __init__(self, cores: Iterable[int], pids: Iterable[int]) -> None:
        """Begin.

        Args:
            cores: to watch.
            pids: of the measurement; their descendants belong to it, too.
        """
        self._cores = tuple(cores)
        self._pids = tuple(pids)
        self._began_s = time.perf_counter()
        self._busy_s = _busy_s(self._cores)
        self._own_s = self._used_s()

    def share(self) -> float:
        """Get the share of the cores' time since the beginning that went to others.

        Work that the kernel does for no process, such as handling packets, counts as theirs.
        """
        passed_s = (time.perf_counter() - self._began_s) * len(self._cores)
        busy_s = _busy_s(self._cores) - self._busy_s
        return max(0.0, busy_s - (self._used_s() - self._own_s)) / passed_s

    def _used_s(self) -> float:
        pids = {each for pid in self._pids for each in (pid, *descendants(pid))}
        return sum(_used_s(pid) for pid in pids)


def _busy_s(cores: Iterable[int]) -> float:
    """Get how long cores have been busy since the machine started, with what was stolen."""
    wanted = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, values[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / TICKS_PER_S


def _used_s(pid: int) -> float:
    """Get what a process has used, with its children that have ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_S
