"""Count the Python frames and C calls of a request: `python -m benchmarks.hot_path.frames`.

It counts what `sys.setprofile` reports on the event loop's thread and those of the lanes, in one
process, from the bytes of a request to those of its response: each call of a Python function, each
resumption of a coroutine or generator, and each call of a C function from Python. Calls that this
benchmark's own functions make are left out, and there is no gRPC. The count of a lone request
depends on the code alone, so it shows what is lost in the noise of times; with several in flight it
also depends on how many of them share a launch.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import structlog

from benchmarks.hot_path.in_process import MODELS, served
from benchmarks.hot_path.requests import send
from lanewise.processes import event_loop

WARM_UP = 512
REQUESTS = 512
_OWN = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Frames:
    """Calls of one request, means over REQUESTS of them."""

    in_flight: int
    python: float
    c: float


class _Counting:
    """Counts calls on every thread started after it was made, while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self.python: Counter[CodeType] = Counter()
        self.c: Counter[str] = Counter()
        threading.setprofile(self._note)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Count anew, meanwhile."""
        self.python.clear()
        self.c.clear()
        self.is_on = True
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            self.is_on = False

    def _note(self, frame: FrameType, event: str, function: Any) -> None:
        if not self.is_on or frame.f_code.co_filename.startswith(_OWN):
            return
        if event == "call":
            self.python[frame.f_code] += 1
        elif event == "c_call":
            self.c[getattr(function, "__qualname__", str(function))] += 1


async def count(
    models: Path,
    in_flight: Sequence[int],
    when_counted: Callable[[Frames, _Counting], None] = lambda *_: None,
) -> list[Frames]:
    """Count at each number in flight."""
    counting = _Counting()
    found = []
    async with served(models) as (infer, _):
        for each in in_flight:
            await send(infer, each, WARM_UP)
            with counting.on():
                sent = await send(infer, each, REQUESTS)
            calls = counting.python.total() / sent.requests, counting.c.total() / sent.requests
            found.append(Frames(each, *calls))
            when_counted(found[-1], counting)
    threading.setprofile(None)  # type: ignore[arg-type] # typeshed takes functions alone
    return found


def _print(frames: Frames, counting: _Counting) -> None:
    print(
        f"in flight {frames.in_flight}: {frames.python:.1f} Python frames, {frames.c:.1f} C calls"
    )
    for code, calls in counting.python.most_common():
        if calls >= REQUESTS / 4:
            place = "/".join(Path(code.co_filename).parts[-2:])
            print(f"{calls / REQUESTS:8.2f}  {place} {code.co_qualname}")


def main() -> None:
    """Count, and print every function that is called."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path.frames")
    parser.add_argument("models", type=Path, nargs="?", default=MODELS)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    event_loop.run(count(options.models, options.in_flight, _print))


if __name__ == "__main__":
    main()
