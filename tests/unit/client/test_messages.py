import numpy as np
import pytest

from lanewise_client import InferRequest, MessageTooLarge, ServingError, metadata
from lanewise_client.messages import build_infer, parse_infer
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.results import Profile, ShapeRange

X = np.zeros((1, 2), np.float32)


def test_only_what_is_asked_for_is_sent():
    message = build_infer("m", "", InferRequest({"X": X}))

    assert message == pb.ModelInferRequest(
        model_name="m",
        inputs=[{"name": "X", "datatype": "FP32", "shape": [1, 2]}],
        raw_input_contents=[bytes(8)],
    )


@pytest.mark.parametrize(
    ("profile", "parameter"),
    [
        ("online", pb.InferParameter(string_param="online")),
        (0, pb.InferParameter(int64_param=0)),
    ],
)
def test_a_profile_is_pinned_by_name_or_by_index(profile, parameter):
    message = build_infer("m", "", InferRequest({"X": X}, profile=profile))

    assert dict(message.parameters) == {"profile": parameter}


def test_priority_target_and_timeout_travel_in_the_units_of_their_parameters():
    request = InferRequest({"X": X}, priority=1, latency_target_s=0.02, timeout_s=1.5)

    assert dict(build_infer("m", "", request).parameters) == {
        "priority": pb.InferParameter(uint64_param=1),
        "latency_target_us": pb.InferParameter(int64_param=20_000),
        "timeout": pb.InferParameter(int64_param=1_500_000),
    }


@pytest.mark.parametrize("priority", [None, 0])
def test_no_priority_is_left_out(priority):
    assert not build_infer("m", "", InferRequest({"X": X}, priority=priority)).parameters


@pytest.mark.parametrize("priority", ["high", 1.0])
def test_a_priority_that_is_no_integer_is_refused(priority):
    with pytest.raises(TypeError, match=f"priority is {priority!r}, but must be an integer"):
        build_infer("m", "", InferRequest({"X": X}, priority=priority))


@pytest.mark.parametrize("left_s", [0.0, -3.0, 1e-9])
def test_a_timeout_that_is_used_up_is_sent_as_one_and_not_as_none(left_s):
    message = build_infer("m", "", InferRequest({"X": X}, timeout_s=left_s))

    assert message.parameters["timeout"].int64_param == 1


@pytest.mark.parametrize(
    ("urgency", "text"),
    [
        ({"priority": -1}, "priority is -1, but 1 is the most important"),
        ({"latency_target_s": 0.0}, "latency_target_s is 0.0, but must be a positive number"),
        ({"latency_target_s": float("nan")}, "latency_target_s is nan, but must be"),
    ],
)
def test_a_priority_or_target_that_makes_no_sense_is_refused(urgency, text):
    with pytest.raises(ValueError, match=text):
        build_infer("m", "", InferRequest({"X": X}, **urgency))


@pytest.mark.parametrize("outputs", [[], "Y"])
def test_outputs_are_a_list_of_names_or_left_out(outputs):
    with pytest.raises(ValueError, match=r"must be a list of one or more names"):
        build_infer("m", "", InferRequest({"X": X}, outputs=outputs))


def test_inputs_larger_than_a_message_can_be_are_refused_before_they_are_copied():
    # Two arrays of 1 GiB that take four bytes of memory.
    huge = np.broadcast_to(np.float32(0), (2**28,))

    with pytest.raises(MessageTooLarge, match=r"the inputs take 2147483648 bytes, but"):
        build_infer("m", "", InferRequest({"X": huge, "Y": huge}))


def test_a_server_that_does_not_tell_how_leaves_the_facts_empty():
    result = parse_infer(pb.ModelInferResponse(model_name="m"))

    assert (result.profile, result.padded_rows, result.batch_rows, result.launches) == ("", 0, 0, 0)
    assert dict(result) == {}


def test_results_compare_by_identity():
    first, second = (parse_infer(pb.ModelInferResponse(model_name="m")) for _ in range(2))

    assert first == first  # noqa: PLR0124
    assert first != second
    assert len({first, second}) == 2


def profile_properties(**changes):
    return {
        "profiles": "2",
        "profile.0.name": "small",
        "profile.0.max_queue_delay_ms": "0.0",
        "profile.0.a.b.min": "1,3",
        "profile.0.a.b.opt": "1,3",
        "profile.0.a.b.max": "2,3",
        "profile.0.min.min": "",
        "profile.0.min.opt": "",
        "profile.0.min.max": "",
        "profile.1.name": "large",
        "profile.1.max_queue_delay_ms": "2.5",
        "profile.1.a.b.min": "1,3",
        "profile.1.a.b.opt": "8,3",
        "profile.1.a.b.max": "32,3",
        "profile.1.min.min": "",
        "profile.1.min.opt": "",
        "profile.1.min.max": "",
    } | changes


def test_profiles_are_read_whatever_the_inputs_are_called():
    scalar = ShapeRange((), (), ())

    assert metadata.parse_profiles(profile_properties(), ["a.b", "min"]) == (
        Profile(0, "small", {"a.b": ShapeRange((1, 3), (1, 3), (2, 3)), "min": scalar}, 0.0),
        Profile(1, "large", {"a.b": ShapeRange((1, 3), (8, 3), (32, 3)), "min": scalar}, 2.5),
    )


def test_a_server_without_profiles_has_none():
    parsed = metadata.parse_model_metadata(pb.ModelMetadataResponse(name="m"))

    assert (parsed.profiles, parsed.backend, parsed.batching) == ((), "", None)


def test_a_missing_property_of_a_profile_is_named():
    with pytest.raises(ServingError, match=r"lack the property 'profile\.0\.c\.min'"):
        metadata.parse_profiles(profile_properties(), ["a.b", "c"])


@pytest.mark.parametrize("changes", [{"profiles": "two"}, {"profile.1.a.b.max": "32,x"}])
def test_a_property_that_cannot_be_read_is_the_fault_of_the_server(changes):
    with pytest.raises(ServingError, match=r"a profile that cannot be read .*server is at fault"):
        metadata.parse_profiles(profile_properties(**changes), ["a.b"])
