from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest
from structlog.testing import capture_logs

from lanewise import errors
from lanewise.errors import ServingError
from lanewise.rpc.status import code_of, status_for


def subclasses_of(error_class):
    for subclass in error_class.__subclasses__():
        yield subclass
        yield from subclasses_of(subclass)


EVERY_ERROR = sorted(
    {each for each in subclasses_of(ServingError) if each.__module__.startswith("lanewise.")},
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("error_class", EVERY_ERROR)
def test_every_error_has_a_status_and_tells_its_class(error_class):
    status = status_for(error_class("what came, what is allowed"), rpc="ModelInfer")

    assert status.code is code_of(error_class)
    assert status.text == "what came, what is allowed"
    assert status.trailers == (("error-reason", error_class.__name__),)


@pytest.mark.parametrize(
    ("error_class", "code"),
    [
        (errors.NoProfileAdmits, "INVALID_ARGUMENT"),
        (errors.UnknownProfile, "INVALID_ARGUMENT"),
        (errors.Unsupported, "UNIMPLEMENTED"),
        (errors.ModelNotFound, "NOT_FOUND"),
        (errors.ModelFailed, "FAILED_PRECONDITION"),
        (errors.QueueFull, "RESOURCE_EXHAUSTED"),
        (errors.MessageTooLarge, "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExpired, "DEADLINE_EXCEEDED"),
        (errors.ModelLoading, "UNAVAILABLE"),
        (errors.Draining, "UNAVAILABLE"),
        (errors.RunnerLost, "UNAVAILABLE"),
        (errors.ExecutionFailed, "INTERNAL"),
    ],
)
def test_the_status_tells_whose_fault_it_is(error_class, code):
    assert code_of(error_class).name == code


@pytest.mark.parametrize("error_class", EVERY_ERROR)
def test_what_no_utf8_can_hold_is_told_as_escapes(error_class):
    status = status_for(error_class("mod\udce8le.onnx: cut off"), rpc="ModelInfer")

    assert status.text == r"mod\udce8le.onnx: cut off"
    assert status.code is code_of(error_class)


def test_an_error_outside_the_table_has_no_status():
    with pytest.raises(LookupError, match="ServingError has no gRPC status"):
        code_of(ServingError)


def test_a_refusal_is_logged_once_as_information():
    with capture_logs() as logs:
        status_for(errors.QueueFull("256 requests wait"), rpc="ModelInfer", model="digits")

    assert logs == [
        {
            "event": "request refused",
            "log_level": "info",
            "rpc": "ModelInfer",
            "model": "digits",
            "reason": "QueueFull",
            "code": "RESOURCE_EXHAUSTED",
            "text": "256 requests wait",
        }
    ]


def test_a_failed_batch_is_not_logged_as_an_error_again():
    failure = errors.ExecutionFailed("the runner said no")

    with capture_logs() as logs:
        status_for(failure, rpc="ModelInfer", model="digits")

    assert [(line["log_level"], line["reason"]) for line in logs] == [("info", "ExecutionFailed")]


def test_a_bug_is_told_by_an_id_that_the_log_holds_and_by_nothing_else():
    bug = KeyError("secret")

    with capture_logs() as logs:
        status = status_for(bug, rpc="ModelInfer")

    (line,) = logs
    assert status.code is grpc.StatusCode.INTERNAL
    assert status.reason == "InternalError"
    assert "secret" not in status.text
    assert line["request_id"] in status.text
    assert (line["log_level"], line["exc_info"]) == ("error", bug)


@pytest.mark.parametrize("character", ["x", "%", "é", "\U0001f6e4"])
def test_a_long_text_is_cut_to_what_fits_into_the_trailers(character):
    status = status_for(errors.InvalidRequest("begins so " + character * 10_000), rpc="ModelInfer")

    assert status.text.startswith("begins so " + character * 100)
    assert status.text.endswith("... (cut)")
    assert len(quote(status.text)) < 7_000
