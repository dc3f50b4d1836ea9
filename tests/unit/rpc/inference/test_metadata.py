from __future__ import annotations

from helpers.rpc import ECHO
from lanewise.rpc.inference.metadata import describe_model
from lanewise_client.protos import inference_pb2 as pb


def test_metadata_shows_tensors_versions_and_every_profile():
    metadata = describe_model(ECHO, ["1", "12"])

    assert metadata == pb.ModelMetadataResponse(
        name="echo",
        versions=["1", "12"],
        platform="echo",
        inputs=[{"name": "X", "datatype": "FP32", "shape": [-1, 3]}],
        outputs=[{"name": "out.X", "datatype": "FP32", "shape": [-1, 3]}],
        properties={
            "backend": "echo",
            "batching": "true",
            "profiles": "2",
            "profile.0.name": "narrow",
            "profile.0.max_queue_delay_ms": "2.0",
            "profile.0.X.min": "1,3",
            "profile.0.X.opt": "1,3",
            "profile.0.X.max": "1,3",
            "profile.1.name": "wide",
            "profile.1.max_queue_delay_ms": "5.0",
            "profile.1.X.min": "1,3",
            "profile.1.X.opt": "4,3",
            "profile.1.X.max": "32,3",
        },
    )
