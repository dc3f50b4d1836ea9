import pickle

import grpc
import pytest

import lanewise.errors
import lanewise_client
from lanewise_client import errors


def hierarchy(base):
    """List each class below `base` under the name of its parent."""
    found = {}
    for subclass in base.__subclasses__():
        found[subclass.__name__] = base.__name__
        found |= hierarchy(subclass)
    return found


def test_the_classes_are_those_of_the_server():
    assert hierarchy(errors.ServingError) == hierarchy(lanewise.errors.ServingError)


def test_every_class_is_a_public_name():
    missing = set(hierarchy(errors.ServingError)) - set(lanewise_client.__all__)

    assert missing == set()


def test_a_reason_from_the_future_falls_back_to_its_status():
    error = errors.from_status(grpc.StatusCode.UNAVAILABLE, "text", "Hibernating")

    assert type(error) is errors.Unavailable
    assert error.reason == "Hibernating"


def test_a_reason_decides_over_the_status():
    error = errors.from_status(grpc.StatusCode.INTERNAL, "text", "QueueFull")

    assert (type(error), error.code) == (errors.QueueFull, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("reason", ["", "Exception", "SystemExit"])
def test_a_reason_names_no_class_but_those_of_this_module(reason):
    assert type(errors.from_stream("text", reason, "r-1")) is errors.ServingError


def test_errors_survive_a_process_boundary_whole():
    error = errors.NoProfileAdmits(
        "text", code=grpc.StatusCode.INVALID_ARGUMENT, reason="NoProfileAdmits", request_id="r-1"
    )

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), vars(copy)) == (type(error), vars(error))
