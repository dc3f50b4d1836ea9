"""POSIX shared-memory segments that a test owns."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path("/dev/shm")


class Segment:
    """A segment; its contents are read and written as those of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key(self) -> str:
        return f"/{self.path.name}"

    def write(self, data: bytes, offset: int = 0) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self) -> bytes:
        return self.path.read_bytes()

    def truncate(self, nbytes: int) -> None:
        os.truncate(self.path, nbytes)


@contextmanager
def segment(data: bytes | int) -> Iterator[Segment]:
    """A segment that holds `data`, or so many zeros; removed at the end."""
    path = FOLDER / f"lanewise_test_{secrets.token_hex(6)}"
    path.write_bytes(bytes(data) if isinstance(data, int) else data)
    try:
        yield Segment(path)
    finally:
        path.unlink(missing_ok=True)


def times_held_by_all(path: Path, pid: int) -> int:
    """How often a process and its descendants have a segment open or mapped."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return times_held(path, pid) + sum(times_held_by_all(path, int(child)) for child in children)


def times_held(path: Path, pid: int | str = "self") -> int:
    """How often a process has a segment open or mapped."""
    process = Path("/proc") / str(pid)
    held = [line.split()[-1] for line in (process / "maps").read_text().splitlines() if line]
    for number in (process / "fd").iterdir():
        try:
            held.append(str(number.readlink()))
        except FileNotFoundError:  # the one this loop reads the folder with
            continue
    return held.count(str(path))
