from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanewise.errors import InvalidRequest, Unsupported
from lanewise.rpc.inference.parameters import RequestParameters, read_parameters
from lanewise_client.protos import inference_pb2 as pb


def parameters(**values):
    """Request parameters from (field, value) pairs, as they arrive in a message."""
    request = pb.ModelInferRequest()
    for name, (field, value) in values.items():
        setattr(request.parameters[name], field, value)
    return request.parameters


@pytest.mark.parametrize(
    ("given_parameters", "options"),
    [
        ({}, RequestParameters()),
        ({"profile": ("string_param", "online")}, RequestParameters(profile="online")),
        ({"profile": ("string_param", "2")}, RequestParameters(profile="2")),
        ({"profile": ("int64_param", 0)}, RequestParameters(profile=0)),
        ({"timeout": ("int64_param", 1500)}, RequestParameters(timeout_ns=1_500_000)),
        ({"timeout": ("uint64_param", 1500)}, RequestParameters(timeout_ns=1_500_000)),
        ({"timeout": ("int64_param", 0)}, RequestParameters()),
        ({"binary_data_output": ("bool_param", False)}, RequestParameters(raw_outputs=False)),
        ({"binary_data_output": ("bool_param", True)}, RequestParameters()),
        ({"priority": ("uint64_param", 3)}, RequestParameters(priority=3)),
        ({"priority": ("int64_param", 0)}, RequestParameters()),
        ({"latency_target_us": ("int64_param", 1500)}, RequestParameters(target_ns=1_500_000)),
        ({"latency_target_us": ("uint64_param", 0)}, RequestParameters()),
        ({"sequence_id": ("int64_param", 0)}, RequestParameters()),
        ({"sequence_id": ("string_param", "")}, RequestParameters()),
        ({"sequence_start": ("bool_param", False)}, RequestParameters()),
        ({"triton_enable_empty_final_response": ("bool_param", True)}, RequestParameters()),
        ({"anything_else": ("double_param", 1.0)}, RequestParameters()),
        (
            {"profile": ("string_param", "a"), "timeout": ("int64_param", 1)},
            RequestParameters(profile="a", timeout_ns=1000),
        ),
    ],
)
def test_known_parameters_are_read_and_unknown_ones_ignored(given_parameters, options):
    assert read_parameters(parameters(**given_parameters)) == options


@pytest.mark.parametrize(
    ("name", "field", "value", "text"),
    [
        ("profile", "double_param", 1.0, "double_param, but it takes string_param or int64"),
        ("profile", "bool_param", True, "bool_param, but it takes"),
        ("timeout", "string_param", "5", "string_param, but it takes int64_param or uint64"),
        ("timeout", "int64_param", -1, "-1, but it cannot be negative"),
        ("priority", "int64_param", -1, "-1, but it cannot be negative"),
        ("priority", "string_param", "high", "string_param, but it takes int64_param"),
        ("latency_target_us", "int64_param", -1, "-1, but it cannot be negative"),
        ("latency_target_us", "double_param", 1.0, "double_param, but it takes int64_param"),
        ("binary_data_output", "int64_param", 0, "int64_param, but it takes bool_param"),
        ("sequence_id", "double_param", 1.0, "double_param, but it takes"),
        ("sequence_end", "int64_param", 1, "int64_param, but it takes bool_param"),
        ("triton_enable_empty_final_response", "int64_param", 1, "int64_param, but it takes"),
        ("triton_final_response", "bool_param", True, "names with 'triton_' are reserved"),
    ],
)
def test_a_parameter_of_the_wrong_type_or_range_is_refused(name, field, value, text):
    with pytest.raises(InvalidRequest, match=f"'{name}': {text}"):
        read_parameters(parameters(**{name: (field, value)}))


def test_a_known_parameter_without_a_value_is_refused():
    request = pb.ModelInferRequest()
    request.parameters["profile"].SetInParent()

    with pytest.raises(InvalidRequest, match="'profile': no value, but it takes"):
        read_parameters(request.parameters)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("sequence_id", "int64_param", 5),
        ("sequence_id", "uint64_param", 5),
        ("sequence_id", "string_param", "a"),
        ("sequence_start", "bool_param", True),
        ("sequence_end", "bool_param", True),
    ],
)
def test_sequences_are_unsupported(name, field, value):
    with pytest.raises(Unsupported, match=f"'{name}': sequences are not offered"):
        read_parameters(parameters(**{name: (field, value)}))


names = st.sampled_from(
    ["profile", "timeout", "priority", "sequence_id", "sequence_start", "binary_data_output"]
)
values = (
    st.tuples(st.just("bool_param"), st.booleans())
    | st.tuples(st.just("int64_param"), st.integers(-(2**63), 2**63 - 1))
    | st.tuples(st.just("uint64_param"), st.integers(0, 2**64 - 1))
    | st.tuples(st.just("string_param"), st.text(max_size=5))
    | st.tuples(st.just("double_param"), st.floats())
)


@given(st.dictionaries(names | st.text(max_size=5), values, max_size=3))
def test_any_parameters_are_read_or_refused(given_parameters):
    try:
        read_parameters(parameters(**given_parameters))
    except (InvalidRequest, Unsupported) as error:
        assert "request parameter" in error.message
