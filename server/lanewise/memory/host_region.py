"""Shared-memory segments of other processes, which these may change, shrink or remove at any time.

Contents are copied with preadv and pwritev and never touched through a mapping: to read a page
of a mapping that its owner has just cut off kills the process (SIGBUS), while a read of the file
is merely short. The copy also keeps what was checked of an input from changing before it is used.
"""

from __future__ import annotations

import importlib
import os
import stat
import threading
import weakref
from pathlib import Path
from typing import Protocol, cast

import structlog

from lanewise.errors import InvalidRegion
from lanewise.model.regions import SystemRegion
from lanewise.model.tensors import Array

SEGMENTS = Path("/dev/shm")
"""Where glibc's shm_open keeps them, and Linux mounts a tmpfs."""

RESERVED_PREFIX = "lanewise-server-"
"""What the names of the server's own segments begin with; no client may register one."""

DIRECT_BYTES = 1 << 20
"""Tensors from this size on are copied to the device out of the segment itself. For smaller ones
a launch with copies in its graph costs less than a copy: see `SMALL_BYTES` in
backends/trt/slots.py."""

_MAX_NAME_BYTES = 255  # NAME_MAX

_log = structlog.get_logger(__name__)


class Pinned(Protocol):
    """A mapping that the device copies from; it stays for as long as it is referenced."""

    @property
    def address(self) -> int:
        """Where the region begins. The host must not touch it."""
        ...


class HostRegion:
    """The memory of a `SystemRegion`. May be used from any thread.

    It stays open for as long as this object is referenced, whether it is registered or not.

    Raises:
        InvalidRegion: the key is none, or there is no such segment, or it is too small.
    """

    def __init__(self, region: SystemRegion) -> None:
        self._region = region
        self._fd = _open_segment(region)
        weakref.finalize(self, os.close, self._fd)
        self._pinning = threading.Lock()
        self._pinned: Pinned | None = None
        self._cannot_be_pinned = False
        self._require_present(0, region.byte_size)

    @property
    def is_removed(self) -> bool:
        return not os.fstat(self._fd).st_nlink

    def read(self, offset: int, out: Array) -> None:
        """Fill `out`, bytes, with what begins at `offset` of the region.

        Raises:
            InvalidRegion: the segment is gone, or too short by now.
        """
        self._require_present(offset, out.nbytes)
        position, left = self._region.offset + offset, out.data
        while left:
            count = os.preadv(self._fd, [left], position)
            if not count:  # cut off since its size was read
                raise self._too_short()
            position, left = position + count, left[count:]

    def write(self, offset: int, data: memoryview) -> None:
        """Copy `data`, bytes, to where `offset` of the region is.

        Raises:
            InvalidRegion: the segment is gone, too short by now, or there is no memory for it.
        """
        self._require_present(offset, data.nbytes)
        position = self._region.offset + offset
        while data:
            try:
                count = os.pwritev(self._fd, [data], position)
            except OSError as error:  # such as a tmpfs that is full
                raise InvalidRegion(
                    f"{_title(self._region)}: cannot be written: {error.strerror}; "
                    "allocate the segment's memory before it is registered"
                ) from error
            position, data = position + count, data[count:]

    def device_address(self, offset: int, byte_size: int) -> int | None:
        """Get where the device may copy these bytes from; None if they are to be read instead.

        Once registered with CUDA the pages stay when the segment is cut off, for the device.
        The first call may take a while; it maps the region and registers it.

        Raises:
            InvalidRegion: the segment is gone, or too short by now.
        """
        self._require_present(offset, byte_size)
        if byte_size < DIRECT_BYTES:
            return None
        with self._pinning:
            if self._pinned is None and not self._cannot_be_pinned:
                self._pin()
            return None if self._pinned is None else self._pinned.address + offset

    def _pin(self) -> None:
        region = self._region
        device_regions = importlib.import_module("lanewise.memory.device_regions")
        try:
            mapping = device_regions.PinnedMapping(self._fd, region.offset, region.byte_size)
            self._pinned = cast(Pinned, mapping)
        except Exception as error:  # of mmap or of CUDA; what is read instead serves as well
            self._cannot_be_pinned = True
            _log.warning(
                "shared memory cannot be registered with CUDA; it is copied instead",
                region=region.name,
                byte_size=region.byte_size,
                reason=str(error),
            )

    def _require_present(self, offset: int, byte_size: int) -> None:
        found = os.fstat(self._fd)
        if not found.st_nlink:  # a new one under the same key would be another segment
            raise InvalidRegion(
                f"{_title(self._region)}: the segment was removed; create it again, unregister "
                "the region and register it anew"
            )
        if found.st_size < self._region.offset + offset + byte_size:
            raise self._too_short()

    def _too_short(self) -> InvalidRegion:
        region = self._region
        return InvalidRegion(
            f"{_title(region)}: the segment has {os.fstat(self._fd).st_size} bytes, but the region "
            f"is bytes {region.offset} to {region.offset + region.byte_size} of it; register what "
            "there is, and do not shorten a segment that is registered"
        )


def _open_segment(region: SystemRegion) -> int:
    name = region.key.removeprefix("/")
    if not _is_name(name):
        raise InvalidRegion(
            f"{_title(region)}: not the key of a segment; one is a name as shm_open takes it: "
            "at most one slash, at its beginning"
        )
    if name.startswith(RESERVED_PREFIX):
        raise InvalidRegion(
            f"{_title(region)}: names that begin with '{RESERVED_PREFIX}' belong to the server"
        )
    try:
        # O_NONBLOCK: whatever else has the name, opening it must not wait.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(SEGMENTS / name, flags)
    except FileNotFoundError as error:
        raise InvalidRegion(
            f"{_title(region)}: no such segment on the server's host; create it first, in a "
            "process that shares /dev/shm with the server"
        ) from error
    except OSError as error:
        raise InvalidRegion(
            f"{_title(region)}: the server cannot open the segment for reading and writing: "
            f"{error.strerror}"
        ) from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_dev != SEGMENTS.stat().st_dev:
        os.close(fd)
        raise InvalidRegion(f"{_title(region)}: is not a shared-memory segment")
    return fd


def _is_name(name: str) -> bool:
    is_special = name in ("", ".", "..") or "/" in name or "\0" in name
    return not is_special and len(name.encode()) <= _MAX_NAME_BYTES


def _title(region: SystemRegion) -> str:
    return f"shared memory '{region.name}' (key '{region.key}')"
