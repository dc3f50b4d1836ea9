"""What other processes take of the machine while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _IOWAIT, _COUNTED = 3, 4, 8
"""Places in /proc/stat's first line: proc(5). What guests take is in the others already."""


class Bystanders:
    """Counts, from when it is made, the CPU time that went to anybody but this process.

    With the processes it started and has waited for. Time stolen by other guests of a virtual
    machine's host counts as others'. Where there is no /proc/stat, the share is 0.
    """

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._before_s = self._others_s()

    def share(self) -> float:
        """Tell how much of all cores others took since then."""
        elapsed_s = time.monotonic() - self._began_s
        cores = os.cpu_count() or 1
        return max(0.0, self._others_s() - self._before_s) / (elapsed_s * cores)

    @staticmethod
    def _others_s() -> float:
        if not _STAT.exists():
            return 0.0
        ticks = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1 : 1 + _COUNTED]
        busy = sum(int(n) for i, n in enumerate(ticks) if i not in {_IDLE, _IOWAIT})
        return busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
