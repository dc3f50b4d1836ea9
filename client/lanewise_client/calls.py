"""What surrounds every call: channel options, its timeout, and the error it ends with."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import grpc

from lanewise_client.errors import REASON, DeadlineExpired, ServingError, from_status

_AnswerT = TypeVar("_AnswerT")

Options = Sequence[tuple[str, Any]]
"""gRPC channel options, such as ("grpc.keepalive_time_ms", 10_000)."""


class _Default(enum.Enum):
    CLIENT_TIMEOUT = enum.auto()


CLIENT_TIMEOUT: Literal[_Default.CLIENT_TIMEOUT] = _Default.CLIENT_TIMEOUT
"""Stands for the `timeout_s` the client was made with."""

Timeout = float | None | Literal[_Default.CLIENT_TIMEOUT]
"""Seconds that one call may take; None: forever."""

# gRPC takes a longer timeout, but its arithmetic overflows and the call fails at once.
_LONGEST_TIMEOUT_S = 1e8

# The server's settings decide how large a message may be; -1 is no limit of the client's own.
_DEFAULT_OPTIONS = {
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
}

# gRPC's wording where an HTTP/1 server answers, seen in grpcio 1.72 to 1.85.
_HTTP_ANSWERED = "http1.x server"
_HTTP_HINT = "; this port speaks HTTP: take the gRPC port, which is 8001 unless it was changed"


def channel_options(options: Options) -> list[tuple[str, Any]]:
    """Get the client's channel options; where `options` names the same one, it wins."""
    return list({**_DEFAULT_OPTIONS, **dict(options)}.items())


class Budget:
    """What is left of the time that several calls have together."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left_s(self) -> float | None:
        """Get the seconds left, 0 or less if there are none; None: forever."""
        return None if self._end is None else self._end - time.monotonic()


class CallRules:
    """How long the calls of one client may take, and what their failures become.

    `is_closed` is set once, by the client, before it closes its channel.
    """

    def __init__(self, address: str, timeout_s: float | None) -> None:
        """Take the client's own timeout.

        Raises:
            ValueError: it is not a positive number of seconds.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(
                f"timeout_s is {timeout_s}, but must be a positive number of seconds, "
                "or None to wait forever"
            )
        _require_in_range(timeout_s)
        self._address = address
        self._timeout_s = timeout_s
        self.is_closed = False

    def seconds(self, timeout_s: Timeout) -> float | None:
        """Get how long one call may take.

        Raises:
            ValueError: not a number, or too large a one.
            DeadlineExpired: it is zero or less, as the remains of a budget can be.
        """
        if timeout_s is CLIENT_TIMEOUT:
            return self._timeout_s
        _require_in_range(timeout_s)
        # gRPC's asyncio client takes a timeout of 0 for none at all.
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineExpired(
                f"no time was left for the call to {self._address}: timeout_s is {timeout_s:g}",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
            )
        return timeout_s

    def budget(self, timeout_s: Timeout) -> Budget:
        """Begin to spend what one call may take on several.

        Raises:
            RuntimeError: the client is closed.
            ValueError, DeadlineExpired: see `seconds`.
        """
        if self.is_closed:
            raise self._closed()
        return Budget(self.seconds(timeout_s))

    @contextmanager
    def applied(self, seconds: float | None) -> Iterator[None]:
        """Surround one call: turn gRPC's exceptions into this package's; others pass.

        Raises:
            RuntimeError: the client is closed.
            ServingError: the call failed.
        """
        if self.is_closed:
            raise self._closed()
        try:
            yield
        except grpc.RpcError as error:
            raise self._translate(error, seconds) from error
        except ValueError as error:
            # gRPC's answer if another thread has closed the channel just now.
            if self.is_closed:
                raise self._closed() from error
            raise

    def require_answer(self, answer: _AnswerT | None, seconds: float | None) -> _AnswerT:
        """Get the answer of a unary call that gRPC takes for successful.

        Raises:
            DeadlineExpired: there is none: where the deadline passes while the answer comes,
                gRPC may drop the answer and keep the status OK (seen in grpcio 1.85).
        """
        if answer is None:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            text = self._place(code, "it came as the deadline passed", seconds)
            raise DeadlineExpired(text, code=code)
        return answer

    def closed_in_flight(self) -> ServingError:
        """Make the error of a call that was in flight when its client was closed."""
        return ServingError(
            f"the client of {self._address} was closed before the answer came",
            code=grpc.StatusCode.CANCELLED,
        )

    def _closed(self) -> RuntimeError:
        return RuntimeError(f"the client of {self._address} is closed; make a new one")

    def _translate(self, error: grpc.RpcError, seconds: float | None) -> ServingError:
        # Every RpcError that a call raises is the call, too; the types do not say so.
        call = cast(grpc.Call, error)
        code, text = call.code(), call.details() or ""
        if code is grpc.StatusCode.CANCELLED and self.is_closed:
            return self.closed_in_flight()
        trailers = call.trailing_metadata() or ()
        reason = str(next((value for key, value in trailers if key == REASON), ""))
        return from_status(code, text if reason else self._place(code, text, seconds), reason)

    def _place(self, code: grpc.StatusCode, text: str, seconds: float | None) -> str:
        """Add to gRPC's own text where and when it happened."""
        if code is grpc.StatusCode.UNAVAILABLE:
            hint = _HTTP_HINT if _HTTP_ANSWERED in text else ""
            return f"cannot reach the server at {self._address}: {text}{hint}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds is not None:
            return f"no answer from {self._address} within {seconds:g} s: {text}"
        return text


def _require_in_range(timeout_s: float | None) -> None:
    # Written so that NaN fails, too.
    if timeout_s is not None and not timeout_s <= _LONGEST_TIMEOUT_S:
        raise ValueError(
            f"timeout_s is {timeout_s}, but must be at most {_LONGEST_TIMEOUT_S:g} seconds; "
            "pass None to wait forever"
        )
