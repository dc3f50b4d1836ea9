"""The only place where errors become gRPC status, text and trailers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from urllib.parse import quote

import grpc
import structlog

from lanewise.errors import (
    DeadlineExpired,
    ExecutionFailed,
    InvalidRequest,
    MessageTooLarge,
    ModelFailed,
    ModelNotFound,
    NotAllowed,
    Overloaded,
    RegionExists,
    RegionNotFound,
    ServingError,
    Unavailable,
    Unsupported,
)
from lanewise.rpc.refusal_log import RefusalLog

REASON = "error-reason"
"""The trailer, and in streams the response parameter, with the class of the error."""

INTERNAL_REASON = "InternalError"
"""The reason given for an exception other than a ServingError: a bug of ours."""

# A subclass has the status of its nearest base in this table.
_CODES: dict[type[ServingError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    RegionNotFound: grpc.StatusCode.NOT_FOUND,
    RegionExists: grpc.StatusCode.ALREADY_EXISTS,
    ModelFailed: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    MessageTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    ExecutionFailed: grpc.StatusCode.INTERNAL,
}

# The text travels percent-encoded in the trailers, which gRPC clients refuse as a whole
# above 8 KiB by default; the rest is for other trailers.
_MAX_ENCODED_TEXT_BYTES = 6 * 1024
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""Characters sent as they are in a status text; all others are percent-encoded UTF-8."""

_log = structlog.get_logger("lanewise.rpc")
_refusals = RefusalLog()


@dataclass(frozen=True, slots=True)
class Status:
    """What a caller gets instead of a response."""

    code: grpc.StatusCode
    text: str
    reason: str

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata: `error-reason`, the class of the error."""
        return ((REASON, self.reason),)


def code_of(error_class: type[ServingError]) -> grpc.StatusCode:
    """Get the status of a class of errors.

    Raises:
        LookupError: neither the class nor any base of it is in the table.
    """
    for base in error_class.__mro__:
        if base in _CODES:
            return _CODES[base]
    raise LookupError(f"{error_class.__name__} has no gRPC status; add it to {__name__}")


def reason_of(error_class: type[BaseException]) -> str:
    """Name a class of errors to the caller and in metrics."""
    return error_class.__name__ if issubclass(error_class, ServingError) else INTERNAL_REASON


def status_for(error: Exception, *, rpc: str, model: str = "") -> Status:
    """Log why a call failed, at most once (see `RefusalLog`), and get the status for its caller.

    Args:
        error: what ended the call.
        rpc: the name of the call, for the log.
        model: the model it named, for the log; empty if none.
    """
    reason = reason_of(type(error))
    if isinstance(error, ServingError):
        status = Status(code_of(type(error)), _clip(error.message), reason)
        facts = {"rpc": rpc, "model": _clip(model), "reason": reason, "code": status.code.name}
        # Failed launches were logged in full where they failed.
        _refusals.add(facts | {"text": status.text})
        return status
    request_id = secrets.token_hex(6)
    _log.error("internal error", rpc=rpc, model=_clip(model), request_id=request_id, exc_info=error)
    text = f"internal error; the server's log tells more under request_id {request_id}"
    return Status(grpc.StatusCode.INTERNAL, text, reason)


def _clip(text: str) -> str:
    """Cut `text` to what fits into the trailers."""
    encoded_bytes = 0
    for position, character in enumerate(text):
        encoded_bytes += len(quote(character, safe=PRINTABLE))
        if encoded_bytes > _MAX_ENCODED_TEXT_BYTES:
            return text[:position] + " ... (cut)"
    return text
