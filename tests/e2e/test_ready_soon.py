"""A model serves as soon as it is ready, whatever other models are doing."""

from __future__ import annotations

import numpy as np

from helpers.models import save_simulated_echo, tensor
from helpers.serving import server_process
from lanewise_client import Client


def test_a_model_answers_before_the_others_are_ready(tmp_path):
    for name in ("a", "b"):
        file = tmp_path / name / "1" / "model.sim.toml"
        save_simulated_echo(file, [tensor("X")], latency_ms=50)
    with server_process(tmp_path, until="model ready") as server:
        with Client(server.address, timeout_s=20) as client:
            ready = server.log[-1]["model"]
            result = client.infer(ready, {"X": np.ones((1, 3), np.float32)})
        answered = [line["event"] for line in server.log]
        server.read_until("serving")

    assert result["echo_X"].tolist() == [[1, 1, 1]]
    assert "serving" not in answered
