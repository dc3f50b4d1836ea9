from __future__ import annotations

import contextlib
import gzip
import random
import zlib

import grpc
import pytest

from lanewise.errors import InvalidRequest, MessageTooLarge, ServingError, Unsupported
from lanewise.rpc.edge.wire import MessageReader, framed, status_headers, timeout_s
from lanewise.rpc.status import Status

LIMIT = 1000


def compressed(data):
    return b"\1" + len(data).to_bytes(4, "big") + data


def read(*pieces, encoding=b"identity"):
    reader = MessageReader(encoding, LIMIT)
    messages = [message for piece in pieces for message in reader.feed(piece)]
    reader.finish()
    return messages


def test_messages_are_found_wherever_the_body_was_cut():
    source = random.Random(5)
    sent = [source.randbytes(source.choice([0, 1, 5, 100])) for _ in range(20)]
    body = b"".join(map(framed, sent))
    for _ in range(50):
        cuts = sorted(source.randrange(len(body)) for _ in range(10))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert read(*pieces) == sent


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_a_message_is_decompressed_as_the_call_announces(encoding, compress):
    body = compressed(compress(b"x" * 500)) + framed(b"plain")
    assert read(body, encoding=encoding) == [b"x" * 500, b"plain"]


def test_a_message_above_the_limit_is_refused_by_its_prefix_alone():
    with pytest.raises(MessageTooLarge, match="message of 1001 bytes, but the limit is 1000"):
        read(b"\0" + (LIMIT + 1).to_bytes(4, "big"))


def test_a_small_message_that_inflates_above_the_limit_is_refused_at_the_limit():
    bomb = gzip.compress(bytes(2**18))
    with pytest.raises(MessageTooLarge, match="message of at least 1001 bytes"):
        read(compressed(bomb), encoding=b"gzip")


@pytest.mark.parametrize(
    ("body", "encoding", "error", "text"),
    [
        (compressed(b"????"), b"gzip", InvalidRequest, "is not gzip"),
        (
            compressed(gzip.compress(b"abc", mtime=0)[:-9]),
            b"gzip",
            InvalidRequest,
            "ends within its gzip",
        ),
        (compressed(b"abc"), b"snappy", Unsupported, "reads gzip and deflate"),
        (compressed(b"abc"), b"identity", Unsupported, "reads gzip and deflate"),
        (b"\7\0\0\0\1a", b"identity", InvalidRequest, "begins with byte 7"),
        (b"\0\0\0", b"identity", InvalidRequest, "ended 2 bytes before"),
        (b"\0\0\0\0\4abc", b"identity", InvalidRequest, "ended 1 bytes before"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused_with_the_reason(body, encoding, error, text):
    with pytest.raises(error, match=text):
        read(body, encoding=encoding)


def test_no_bytes_make_the_reader_fail_in_another_way():
    source = random.Random(7)
    for _ in range(2000):
        body = bytes([source.choice([0, 0, 1, 2]), 0, 0, 0, source.randrange(9)])
        body += source.randbytes(source.randrange(20))
        with contextlib.suppress(ServingError):
            read(body, encoding=source.choice([b"gzip", b"deflate", b"identity"]))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"40m", 0.04), (b"5u", 5e-6), (b"99999999n", 0.1)],
)
def test_a_timeout_is_digits_and_a_unit(value, seconds):
    assert timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"5", b"S", b"1.5S", b"-1S", b"123456789S", b"1s", b"1 S"])
def test_any_other_timeout_is_refused(value):
    with pytest.raises(InvalidRequest, match="grpc-timeout"):
        timeout_s(value)


def test_the_text_of_a_status_is_percent_encoded_where_it_must_be():
    status = Status(grpc.StatusCode.NOT_FOUND, "100% of 'käse'\n", "ModelNotFound")
    assert status_headers(status) == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"100%25 of 'k%C3%A4se'%0A"),
        (b"error-reason", b"ModelNotFound"),
    ]
