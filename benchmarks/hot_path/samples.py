"""Split what `perf` sampled of a server's event loop, by library and by system call.

    perf record -e cpu-clock -F 499 -g -o perf.data -p PID -- sleep 6
    python -m benchmarks.hot_path.samples perf.data PID

Unlike the stopwatch, sampling hardly slows the server down, and it sees gRPC and the kernel. Each
sample counts once: for the library that was running or, in the kernel, for the system call.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KERNEL = "[kernel.kallsyms]"
SWITCHED = "switched to another thread on the way back to user mode"
_FRAME = re.compile(r"\s*[0-9a-f]+ (?P<function>.+) \((?P<place>[^ ]*)\)$")
_SYSTEM_CALL = re.compile(r"(?:__x64_sys_|__sys_|ksys_)(\w+)")


class Function(NamedTuple):
    """A function on a sampled stack, and the file it is in."""

    name: str
    file: str


def read_samples(text: str) -> Iterator[tuple[int, list[Function]]]:
    """Read `perf script -F tid,ip,sym,dso`: each sample's thread and stack, innermost first."""
    for sample in text.strip().split("\n\n"):
        thread, *lines = sample.strip().splitlines()
        frames = (_FRAME.match(line) for line in lines)
        stack = [Function(f["function"], f["place"].rpartition("/")[2]) for f in frames if f]
        if stack:
            yield int(thread), stack


def place_of(stack: list[Function]) -> str:
    """Say what a thread was running: a library, or a system call of the kernel."""
    if stack[0].file != KERNEL:
        return stack[0].file.partition(".")[0]
    in_kernel = [function.name for function in stack if function.file == KERNEL]
    if "exit_to_user_mode_loop" in in_kernel and "schedule" in in_kernel:
        return f"kernel: {SWITCHED}"
    calls = [found[1] for name in reversed(in_kernel) if (found := _SYSTEM_CALL.match(name))]
    return f"kernel: {calls[0]}" if calls else "kernel: interrupts, entry and exit"


def main() -> None:
    """Print the shares of the samples of one thread."""
    data, thread = sys.argv[1:]
    ran = subprocess.run(
        ["perf", "script", "-i", data, "-F", "tid,ip,sym,dso"],
        capture_output=True,
        text=True,
        check=True,
    )
    samples = list(read_samples(ran.stdout))
    places = Counter(place_of(stack) for tid, stack in samples if tid == int(thread))
    whole = places.total()
    print(f"{whole} samples of thread {thread}, of {len(samples)} of the process")
    for place, count in places.most_common():
        if count / whole >= 0.005:
            print(f"{count / whole:7.1%}  {place}")


if __name__ == "__main__":
    main()
