"""What each thread of this process has taken so far: CPU time, and context switches; Linux only."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Taken(NamedTuple):
    """What a thread took.

    Attributes:
        cpu_ns: in user and kernel mode together, as the scheduler counts it.
        kernel_ns: in kernel mode, counted in ticks (10 ms): for sums over a second and more.
        voluntary: context switches because it waited for something.
        involuntary: those because another thread got its core.
    """

    cpu_ns: int
    kernel_ns: int
    voluntary: int
    involuntary: int


class Threads(dict[int, tuple[str, Taken]]):
    """Name and figures of every thread, by its id."""

    @classmethod
    def now(cls) -> Threads:
        """Read the figures of every thread of this process."""
        found = cls()
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        for folder in Path("/proc/self/task").iterdir():
            try:
                found[int(folder.name)] = (_name(folder, names), _taken(folder))
            except FileNotFoundError:
                continue  # it has ended meanwhile
        return found

    def since(self, earlier: Threads) -> dict[str, Taken]:
        """Get what threads took since then, summed over those of one name."""
        summed: dict[str, Taken] = {}
        nothing = Taken(0, 0, 0, 0)
        for thread, (name, taken) in self.items():
            _, before = earlier.get(thread, ("", nothing))
            spent = (after - was for after, was in zip(taken, before, strict=True))
            so_far = summed.get(name, nothing)
            summed[name] = Taken(*(a + b for a, b in zip(so_far, spent, strict=True)))
        return summed


def _name(folder: Path, names: Mapping[int | None, str]) -> str:
    """Get Python's name of a thread, without its number; of a library's thread the system's."""
    thread = int(folder.name)
    if thread == os.getpid():
        return "event loop"
    if thread in names:
        return re.sub(r"[\d_-]+$", "", names[thread])
    return "of libraries: " + (folder / "comm").read_text().strip()


def _taken(folder: Path) -> Taken:
    cpu_ns = int((folder / "schedstat").read_text().split()[0])
    after_name = (folder / "stat").read_text().rpartition(")")[2].split()
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    return Taken(
        cpu_ns,
        int(after_name[12]) * TICK_NS,  # stime, field 15 of proc(5)
        int(status["voluntary_ctxt_switches"]),
        int(status["nonvoluntary_ctxt_switches"]),
    )
