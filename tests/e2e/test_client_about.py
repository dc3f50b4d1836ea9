import grpc
import pytest

from helpers.client_server import serving
from helpers.client_shells import SHELLS
from lanewise_client import (
    Candidate,
    Lane,
    LaneCounters,
    LaneGraphs,
    LaneMemory,
    LaneState,
    LaunchCost,
    ModelCosts,
    ModelLanes,
    ModelMetadata,
    ModelNotFound,
    ModelStatus,
    PairCost,
    PlannedLaunch,
    Profile,
    Route,
    RowRange,
    ServerMetadata,
    ShapeRange,
    TensorMetadata,
    Unsupported,
)

ONLINE = Profile(
    index=0,
    name="online",
    ranges={"X": ShapeRange(min=(1, 3), opt=(4, 3), max=(8, 3))},
    max_queue_delay_ms=2.5,
)


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(params=sorted(SHELLS))
def call(request, server):
    return SHELLS[request.param](server.address)


def test_liveness_and_readiness_are_what_the_server_says(call):
    assert call("is_live")
    assert not call("is_ready")
    assert call("is_model_ready", "echo")
    assert call("is_model_ready", "echo", "1")
    assert not call("is_model_ready", "echo", "9")


def test_the_readiness_of_an_unknown_model_is_an_error(call):
    with pytest.raises(ModelNotFound):
        call("is_model_ready", "ecko")


def test_server_metadata_are_complete(call):
    assert call("server_metadata") == ServerMetadata("helper", "1.2", ("a", "b"))


def test_models_are_listed_ready_or_not(call):
    assert call("models") == (
        ModelStatus("echo", "1", "ready", ""),
        ModelStatus("broken", "1", "unavailable", "why"),
    )


def test_model_metadata_hold_the_profiles_of_the_properties(call):
    metadata = call("model_metadata", "echo")

    assert metadata == ModelMetadata(
        name="echo",
        versions=("1", "2"),
        platform="onnxruntime",
        inputs=(TensorMetadata("X", "FP32", (-1, 3)),),
        outputs=(TensorMetadata("Y", "INT64", (-1,)),),
        profiles=(ONLINE,),
        backend="onnxruntime",
        batching=True,
        properties=metadata.properties,
    )
    assert metadata.properties["profile.0.X.max"] == "8,3"


def test_lanes_are_complete(call):
    assert call("lanes", "echo", "1") == ModelLanes(
        name="echo",
        version="1",
        backend="onnxruntime",
        batching=True,
        lanes=(
            Lane(
                lane_id=7,
                profile=ONLINE,
                rows=RowRange(1, 4, 8),
                state=LaneState.BUSY,
                counters=LaneCounters(
                    launches=1,
                    failed_launches=2,
                    requests=3,
                    rows=4,
                    padded_rows=5,
                    orphaned_rows=6,
                    execution_ns=7,
                    queue_ns=8,
                    predicted_ns=20,
                    repeated_launches=21,
                ),
                host_bytes=9,
                device_bytes=10,
                memory=LaneMemory(
                    pageable_bytes=12,
                    pinned_bytes=13,
                    tensor_bytes=14,
                    scratch_bytes=15,
                    graph_bytes=16,
                ),
                graphs=LaneGraphs(launches=17, misses={"first_run": 18}, held=19),
            ),
        ),
        waiting_requests=11,
    )


def test_costs_are_complete(call):
    assert call("costs", "echo", "1") == ModelCosts(
        name="echo",
        version="1",
        launches=(LaunchCost(0, "online", 4, 12, 1_500_000, 2_000_000, 32, 900_000),),
        pairs=(PairCost(0, "online", 1, "bulk", 1.25, 128),),
    )


@pytest.mark.parametrize(("profile", "sent"), [(None, ""), ("online", "online"), (0, "0")])
def test_a_route_is_explained_for_the_shapes_and_profile_asked_for(call, profile, sent):
    assert call("explain", "echo", {"X": (2, 3)}, profile=profile) == Route(
        admitted=True,
        reason=f"echo X [2, 3] profile={sent!r}",
        rows=2,
        candidates=(Candidate(0, "online", admits=True, reason="fits"),),
        launches=(PlannedLaunch(1, "online", first_row=0, rows=2, padded_rows=4),),
    )


def test_a_call_the_server_does_not_have_is_unsupported(call):
    bare = grpc.server(None)
    port = bare.add_insecure_port("localhost:0")
    bare.start()
    try:
        with pytest.raises(Unsupported):
            type(call)(f"localhost:{port}")("lanes", "echo")
    finally:
        bare.stop(grace=None).wait()
