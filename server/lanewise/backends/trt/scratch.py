"""Scratch memory of execution contexts: one's own, or shared by several that take turns."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from lanewise.memory.device import CudaEvent, DeviceBuffer, Stream


class Scratch:
    """Scratch memory, allocated by the first context that joins and released with the last.

    Joining, leaving and turns are thread-safe.

    Args:
        nbytes: what the neediest of its contexts needs.
        is_shared: whether several contexts use it. Their executions then take turns: each
            begins, on the device, when the one before it has ended.
        make_event: makes the mark of the last use.
    """

    def __init__(
        self,
        nbytes: int,
        *,
        is_shared: bool = False,
        make_event: Callable[[], CudaEvent] = CudaEvent,
    ) -> None:
        self._wanted_bytes = max(1, nbytes)
        self._is_shared = is_shared
        self._buffer = DeviceBuffer()
        self._users = 0
        self._make_event = make_event
        self._lock = threading.Lock()
        self._last_stream: Stream | None = None
        self._last_use: CudaEvent | None = None

    @property
    def is_shared(self) -> bool:
        """Whether `turn` may wait for other users."""
        return self._is_shared

    @property
    def address(self) -> int:
        """Where it lies, as long as anybody has joined."""
        return self._buffer.address

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes

    def join(self) -> int:
        """Become a user of it; return the bytes allocated for this: 0 but for the first user.

        Raises:
            CudaError: there is too little memory; nobody has joined.
        """
        with self._lock:
            before = self._buffer.nbytes
            self._buffer.reserve(self._wanted_bytes)
            self._users += 1
            return self._buffer.nbytes - before

    def leave(self) -> None:
        """Stop being a user of it; nothing of this user's may be running."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._buffer.close()
                if self._last_use is not None:
                    self._last_use.close()
                self._last_stream = self._last_use = None

    def turn(self, stream: Stream) -> AbstractContextManager[None]:
        """Make the context in which executions that use it are given to `stream`.

        It is left as soon as they have been given, not when they are done. Where it is
        shared, other users wait outside for so long, which keeps the order on the device
        that of the calls; where it is not, this costs nothing.
        """
        return self._take_turn(stream) if self._is_shared else contextlib.nullcontext()

    @contextlib.contextmanager
    def _take_turn(self, stream: Stream) -> Iterator[None]:
        with self._lock:
            if self._last_use is None:
                self._last_use = self._make_event()
            elif self._last_stream is not stream:
                stream.wait_for(self._last_use)
            self._last_stream = stream
            try:
                yield
            finally:  # an execution that failed may have begun
                stream.record(self._last_use)
