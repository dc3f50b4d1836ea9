"""What can go wrong, by whose fault it is and whether trying again helps.

The classes know nothing of gRPC; `lanewise.rpc.status` alone translates them. Every
message names the thing, what came, what is allowed, and what to do next.
"""

from __future__ import annotations


def printable(text: object) -> str:
    """Write what no UTF-8 can hold, such as bytes of a file's name, as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()


class ServingError(Exception):
    """A request that did not get its outputs, for a reason its sender is told."""

    def __init__(self, message: str) -> None:
        self.message = printable(message)
        super().__init__(self.message)


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
    """Something that the settings of this server keep from this caller."""


class Unsupported(ServingError):
    """A valid part of the protocol that this server does not offer."""


class ModelNotFound(ServingError):
    """No model of that name, or no such version of it."""


class ModelFailed(ServingError):
    """The model did not load; an operator must act."""


class Overloaded(ServingError):
    """Refused at arrival because of load; later, or elsewhere, it may succeed."""


class QueueFull(Overloaded):
    """As many requests wait as the setting allows."""


class MessageTooLarge(ServingError):
    """The request is larger than the setting allows."""


class DeadlineExpired(ServingError):
    """The request's deadline passed before it could be run."""


class Unavailable(ServingError):
    """This replica cannot serve now; another one may."""


class ModelLoading(Unavailable):
    """The model is still being loaded."""


class Draining(Unavailable):
    """The server is about to stop and takes no more work."""


class RunnerLost(Unavailable):
    """The lanes that could run the request are out of service."""


class DeviceLost(RunnerLost):
    """The device is out of service for this process, and with it every lane on it."""


class EngineLost(Unavailable):
    """The process that runs the models ended before the request was done; it is being restarted."""


class ExecutionFailed(ServingError):
    """This batch failed; the runner is sound. Trying once more is reasonable."""


class UnsoundOutputs(ExecutionFailed):
    """The model was executed, but its outputs cannot be given to requests, whatever they send."""


class ConfigError(Exception):
    """Settings or a model that cannot be served as they are; found at start, fatal for it.

    The message names the file, the key, what it holds and what is allowed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
