"""gRPC over HTTP/2 as bytes and headers: framing, compression, timeout and status.

Rules are those of the gRPC project's "gRPC over HTTP2" (doc/PROTOCOL-HTTP2.md) and
"Compression" (doc/compression.md).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from lanewise.errors import InvalidRequest, Unsupported
from lanewise.rpc.methods import message_too_large
from lanewise.rpc.status import PRINTABLE, Status

Headers = list[tuple[bytes, bytes]]

PREFIX_BYTES: Final = 5
"""Before each message: one byte that is 1 if it is compressed, then its length."""

# The window bits tell zlib which container to expect.
_ZLIB_WINDOWS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}

_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_DIGITS: Final = 8

_RESPONSE_HEADERS: Final = [
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
]


def response_headers() -> Headers:
    """Get the headers of every response."""
    return [*_RESPONSE_HEADERS]


def status_headers(status: Status | None) -> Headers:
    """Get what ends a call: its status, text and trailers; None for success."""
    if status is None:
        return [(b"grpc-status", b"0")]
    return [
        (b"grpc-status", b"%d" % status.code.value[0]),
        (b"grpc-message", quote(status.text, safe=PRINTABLE).encode()),
        *((name.encode(), value.encode()) for name, value in status.trailers),
    ]


def framed(message: bytes) -> bytes:
    """Prefix a message, not compressed, with its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def timeout_s(value: bytes) -> float:
    """Read the header grpc-timeout.

    Raises:
        InvalidRequest: it is not up to 8 digits and a unit.
    """
    digits, unit = value[:-1], value[-1:]
    if not (digits.isdigit() and len(digits) <= _MAX_TIMEOUT_DIGITS and unit in _UNITS_S):
        raise InvalidRequest(
            f"grpc-timeout {value!r}: up to 8 digits and one of H, M, S, m, u, n are allowed"
        )
    return int(digits) * _UNITS_S[unit]


class MessageReader:
    """Cuts the body of a request, which comes in pieces of any size, into messages.

    Holds no more than one message that is not complete, in the pieces it came in.
    """

    def __init__(self, encoding: bytes, max_message_bytes: int) -> None:
        """Expect messages that are compressed as `encoding` says, the header grpc-encoding."""
        self._encoding = encoding
        self._max_bytes = max_message_bytes
        self._pieces: deque[memoryview] = deque()
        self._held_bytes = 0
        self._needed_bytes = PREFIX_BYTES
        self._prefix_read = False
        self._compressed = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take in the next piece; iterate over the messages that are complete with it.

        Raises:
            MessageTooLarge: a message is longer than allowed, as soon as its prefix says so.
            InvalidRequest: the bytes are not what was announced.
            Unsupported: the compression is not known.
        """
        self._pieces.append(memoryview(piece))
        self._held_bytes += len(piece)
        while self._held_bytes >= self._needed_bytes:
            taken = self._take(self._needed_bytes)
            if self._prefix_read:
                yield self._decompressed(taken) if self._compressed else taken
                self._expect(PREFIX_BYTES, prefix_read=False)
            else:
                self._compressed = _is_compressed(taken)
                length = int.from_bytes(taken[1:], "big")
                if length > self._max_bytes:
                    raise message_too_large(length, self._max_bytes)
                self._expect(length, prefix_read=True)

    def finish(self) -> None:
        """Check that the body ended with a message.

        Raises:
            InvalidRequest: it ended within one.
        """
        if self._held_bytes or self._prefix_read:
            raise InvalidRequest(
                f"the request ended {self._needed_bytes - self._held_bytes} bytes before the end "
                "of a message"
            )

    def _expect(self, needed_bytes: int, *, prefix_read: bool) -> None:
        self._needed_bytes, self._prefix_read = needed_bytes, prefix_read

    def _take(self, count: int) -> bytes:
        """Remove the first `count` bytes, of those that are held; copies each byte once."""
        taken: list[memoryview] = []
        self._held_bytes -= count
        while count:
            piece = self._pieces.popleft()
            if len(piece) > count:
                self._pieces.appendleft(piece[count:])
                piece = piece[:count]
            taken.append(piece)
            count -= len(piece)
        return b"".join(taken)

    def _decompressed(self, data: bytes) -> bytes:
        window = _ZLIB_WINDOWS.get(self._encoding)
        if window is None:
            raise Unsupported(
                f"grpc-encoding {self._encoding!r}: this server reads gzip and deflate"
            )
        inflate = zlib.decompressobj(window)
        try:
            message = inflate.decompress(data, self._max_bytes + 1)
        except zlib.error as error:
            raise InvalidRequest(f"a message is not {self._encoding.decode()}: {error}") from error
        if len(message) > self._max_bytes:
            raise message_too_large(len(message), self._max_bytes, at_least=True)
        if not inflate.eof:
            raise InvalidRequest(f"a message ends within its {self._encoding.decode()} data")
        return message


def _is_compressed(prefix: bytes) -> bool:
    if prefix[0] > 1:
        raise InvalidRequest(
            f"a message begins with byte {prefix[0]}, but 0 (plain) and 1 (compressed) are "
            "allowed; the request is not framed as gRPC"
        )
    return prefix[0] == 1
