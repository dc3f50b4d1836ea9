"""What a call can end with instead of an answer: the server's own error classes, by name.

The classes are those of the server, so a reason reads the same on both sides. Each tells
whose fault it is and whether trying again helps. gRPC's exceptions stay inside the client.
"""

from __future__ import annotations

import grpc

REASON = "error-reason"
"""Where the server names the class: a trailer of a failed call, or a parameter in a stream."""


class ServingError(Exception):
    """A call that did not get its answer. By itself: for a reason this client has no class for.

    Attributes:
        message: the server's text, or this client's if the server could not be reached.
        code: the gRPC status; UNKNOWN for one failed request of a stream, which has none.
        reason: the class name the server gave; empty if the error is not the server's own.
        request_id: id of the failed request of a stream; empty otherwise.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.request_id = request_id


class InvalidRequest(ServingError):
    """The request could never run as it is; sending it again does not help."""


class UnknownTensor(InvalidRequest):
    """An input or output the model does not have, or an input it has and was not sent."""


class DTypeMismatch(InvalidRequest):
    """A datatype other than the model's."""


class ShapeMismatch(InvalidRequest):
    """A shape that contradicts the model or the other inputs of the request."""


class NoProfileAdmits(InvalidRequest):
    """Shapes that are outside the range of every profile."""


class UnknownProfile(InvalidRequest):
    """The request is pinned to a profile the model does not have."""


class MalformedContents(InvalidRequest):
    """Bytes or elements that do not make up the tensor they claim to be."""


class InvalidRegion(InvalidRequest):
    """A shared-memory region that is not what the request takes it for, or not any more."""


class RegionNotFound(ServingError):
    """No shared-memory region is registered under that name."""


class RegionExists(ServingError):
    """A shared-memory region is registered under that name already."""


class NotAllowed(ServingError):
    """Something that the settings of the server keep from this caller."""


class Unsupported(ServingError):
    """A valid part of the protocol that this server does not offer."""


class ModelNotFound(ServingError):
    """No model of that name, or no such version of it."""


class ModelFailed(ServingError):
    """The model did not load; an operator must act."""


class Overloaded(ServingError):
    """Refused at arrival because of load; later, or elsewhere, it may succeed."""


class QueueFull(Overloaded):
    """As many requests wait as the server's setting allows."""


class MessageTooLarge(ServingError):
    """The request is larger than the server's setting allows, or than gRPC can carry."""


class DeadlineExpired(ServingError):
    """The timeout passed before the answer came."""


class Unavailable(ServingError):
    """The server cannot be reached or cannot serve now; another replica may."""


class ModelLoading(Unavailable):
    """The model is still being loaded."""


class Draining(Unavailable):
    """The server is about to stop and takes no more work."""


class RunnerLost(Unavailable):
    """The lanes that could run the request are out of service."""


class DeviceLost(RunnerLost):
    """The server's device is out of service for its process."""


class EngineLost(Unavailable):
    """The process that runs the models ended before the request was done; it is being restarted."""


class ExecutionFailed(ServingError):
    """This batch failed; the server is sound. Trying once more is reasonable."""


class UnsoundOutputs(ExecutionFailed):
    """The model ran, but its outputs cannot be cut into requests; trying again does not help."""


def _by_name(base: type[ServingError]) -> dict[str, type[ServingError]]:
    found = {base.__name__: base}
    for subclass in base.__subclasses__():
        found |= _by_name(subclass)
    return found


_BY_REASON = _by_name(ServingError)

# For errors without a reason: a proxy's, another server's, or gRPC's own.
_BY_CODE: dict[grpc.StatusCode, type[ServingError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: ModelFailed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExpired,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # Not by this client: so a server ends the calls that reach it while it stops.
    grpc.StatusCode.CANCELLED: Unavailable,
}

# gRPC refuses large messages with the status of an overload, but waiting does not shrink
# them. This is its wording, seen in grpcio 1.72 to 1.85.
_TOO_LARGE_TEXT = "message larger than max"


def from_status(code: grpc.StatusCode, message: str, reason: str) -> ServingError:
    """Make the error of a failed call.

    `reason` names the class. Without it, or if this client does not know the name, the
    status decides; a status of no class gives a plain ServingError.
    """
    error_class = _BY_REASON.get(reason) or _class_for(code, message)
    return error_class(message, code=code, reason=reason)


def from_stream(message: str, reason: str, request_id: str) -> ServingError:
    """Make the error of one failed request of a stream that goes on."""
    error_class = _BY_REASON.get(reason, ServingError)
    return error_class(message, reason=reason, request_id=request_id)


def _class_for(code: grpc.StatusCode, message: str) -> type[ServingError]:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE_TEXT in message:
        return MessageTooLarge
    return _BY_CODE.get(code, ServingError)
