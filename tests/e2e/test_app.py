"""The whole server in one process: real gRPC, real models, the public Python client."""

from __future__ import annotations

import asyncio
import random
import shutil
import tomllib
import urllib.error
import urllib.request
from contextlib import asynccontextmanager

import numpy as np
import onnxruntime
import pytest

from helpers.models import profile_entry, save_simulated_echo, tensor
from helpers.serving import (
    DIGITS,
    SIMULATED,
    address_of,
    running_app,
    serve_at_known_costs,
)
from lanewise.errors import ConfigError
from lanewise_client import (
    AsyncClient,
    DeadlineExpired,
    ModelFailed,
    ModelNotFound,
    NoProfileAdmits,
    QueueFull,
    Unavailable,
)

pytestmark = pytest.mark.usefixtures("each_transport")

MODEL_FILE = DIGITS / "digits" / "1" / "model.onnx"
ENCODER = SIMULATED / "encoder" / "1" / "model.sim.toml"


def client_of(app) -> AsyncClient:
    return AsyncClient(address_of(app), timeout_s=30)


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 3, 28, 28), np.float32)


def run_alone(x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(MODEL_FILE, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})[0]


@asynccontextmanager
async def digits_at_known_costs(folder):
    """Serve the digits where a lane costs what it was made for, whatever this machine is like."""

    def exec_ms(profile: str, rows: int) -> float:
        return {"online": 0.1, "dynamic": 0.2 + rows / 40, "offline": 2.0}[profile]

    await serve_at_known_costs(DIGITS, folder, exec_ms)
    async with running_app(DIGITS, costs=folder) as app:
        yield app


def fetch(app, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}{path}") as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_each_kind_of_traffic_is_served_by_the_lane_made_for_it(tmp_path):
    async def scenario():
        async with digits_at_known_costs(tmp_path) as app, client_of(app) as client:
            for rows, profile in ((1, "online"), (4, "dynamic"), (32, "dynamic"), (128, "offline")):
                result = await client.infer("digits", {"X": images(rows)})
                assert result.profile == profile
                assert result.padded_rows == rows
                np.testing.assert_array_equal(result["logits"], run_alone(images(rows)))

    asyncio.run(scenario())


def test_answers_under_concurrent_mixed_traffic_equal_those_of_the_model_run_alone(tmp_path):
    async def scenario():
        draw = random.Random(3)
        sizes = [draw.choice([1, 1, 1, 2, 4, 4, 7, 32, 100, 128, 200]) for _ in range(150)]
        async with digits_at_known_costs(tmp_path) as app, client_of(app) as client:
            results = await asyncio.gather(
                *(
                    client.infer("digits", {"X": images(rows, seed=i)})
                    for i, rows in enumerate(sizes)
                )
            )
            lanes = (await client.lanes("digits")).lanes
        for i, (rows, result) in enumerate(zip(sizes, results, strict=True)):
            # Row by row the model's arithmetic does not depend on the batch; its sums may
            # be taken in another order, so FP32 may differ in the last digits.
            np.testing.assert_allclose(
                result["logits"], run_alone(images(rows, seed=i)), rtol=0, atol=1e-4
            )
        assert all(lane.counters.rows for lane in lanes)
        assert sum(lane.counters.rows for lane in lanes) == sum(sizes)
        assert any(lane.counters.launches < lane.counters.requests for lane in lanes)

    asyncio.run(scenario())


def test_rows_of_a_model_that_copies_come_back_bit_for_bit():
    async def scenario():
        draw = np.random.default_rng(5)
        requests = [
            draw.integers(0, 2**31, (rows, tokens), np.int32)
            for rows in (1, 1, 2, 8, 64, 300)
            for tokens in (7, 32, 33, 100, 129, 512)
        ]
        async with running_app(SIMULATED) as app, client_of(app) as client:
            results = await asyncio.gather(
                *(client.infer("encoder", {"token_ids": tokens}) for tokens in requests)
            )
        for tokens, result in zip(requests, results, strict=True):
            np.testing.assert_array_equal(result["echo"], tokens)
            assert result["checksum"].shape == (len(tokens),)

    asyncio.run(scenario())


def test_an_engine_with_seven_profiles_and_no_configuration_uses_all_seven(tmp_path):
    latency = tomllib.loads(ENCODER.read_text())["latency"]

    def exec_ms(profile: str, rows: int) -> float:
        told = latency.get(profile, latency["default"])
        return float(np.interp(rows, told["rows"], told["ms"]))

    async def scenario():
        # What it takes where nothing else runs: a busy machine may have measured anything.
        await serve_at_known_costs(SIMULATED, tmp_path, exec_ms)
        async with running_app(SIMULATED, costs=tmp_path) as app, client_of(app) as client:
            for lane in (await client.lanes("encoder")).lanes:
                opt = lane.profile.ranges["token_ids"].opt
                result = await client.infer("encoder", {"token_ids": np.zeros(opt, np.int32)})
                assert result.profile == lane.profile.name
            lanes = (await client.lanes("encoder")).lanes
        assert len(lanes) == 7
        assert all(lane.counters.launches == 1 for lane in lanes)

    asyncio.run(scenario())


def test_the_explanation_of_a_route_is_what_then_happens(tmp_path):
    async def scenario():
        async with digits_at_known_costs(tmp_path) as app, client_of(app) as client:
            for rows in (1, 3, 128):
                route = await client.explain("digits", {"X": (rows, 3, 28, 28)})
                result = await client.infer("digits", {"X": images(rows)})
                assert route.admitted
                assert result.padded_rows == sum(launch.padded_rows for launch in route.launches)
                assert [launch.profile for launch in route.launches] == [result.profile]
            # Parts of a larger one may run side by side, in whichever lanes are free then.
            for rows, launches in ((40, 2), (300, 3)):
                route = await client.explain("digits", {"X": (rows, 3, 28, 28)})
                assert len(route.launches) >= launches
                assert sum(launch.rows for launch in route.launches) == rows
                result = await client.infer("digits", {"X": images(rows)})
                assert (result.batch_rows, len(result["logits"])) == (rows, rows)
            refused = await client.explain("digits", {"X": (1, 3, 28, 28)}, profile="offline")
            assert [candidate.admits for candidate in refused.candidates] == [False, False, True]

    asyncio.run(scenario())


def test_a_pinned_request_runs_in_its_profile():
    async def scenario():
        async with running_app(DIGITS) as app, client_of(app) as client:
            for pin in ("offline", 2, "2"):
                result = await client.infer("digits", {"X": images(1)}, profile=pin)
                assert (result.profile, result.padded_rows) == ("offline", 128)
                np.testing.assert_allclose(
                    result["logits"], run_alone(images(1)), rtol=0, atol=1e-4
                )

    asyncio.run(scenario())


def test_a_shape_no_profile_admits_is_answered_with_every_range(tmp_path):
    async def scenario():
        async with running_app(SIMULATED) as app, client_of(app) as client:
            with pytest.raises(NoProfileAdmits) as caught:
                await client.infer("encoder", {"token_ids": np.zeros((1, 513), np.int32)})
            lanes = (await client.lanes("encoder")).lanes
        for lane in lanes:
            assert f"'{lane.profile.name}'" in caught.value.message
        assert "dimension 1 of 'token_ids' is 513" in caught.value.message

    asyncio.run(scenario())


def test_a_server_under_too_much_load_refuses_and_answers_everything_else():
    async def scenario():
        async with (
            running_app(SIMULATED, max_queue_requests=4) as app,
            client_of(app) as client,
        ):
            outcomes = await asyncio.gather(
                *(
                    client.infer("encoder", {"token_ids": np.zeros((8, 512), np.int32)})
                    for _ in range(40)
                ),
                return_exceptions=True,
            )
        refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
        served = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert refused
        assert served
        assert len(refused) + len(served) == 40

    asyncio.run(scenario())


def test_a_deadline_ends_a_request_that_waits_and_it_never_runs(tmp_path):
    slow = save_simulated_echo(
        tmp_path / "slow.sim.toml",
        [tensor("X")],
        profiles=profile_entry("only", X=[(1, 3), (1, 3), (4, 3)]),
        # Not with the rows that are executed before the model is ready: 1, 2 and 4.
        more_latency="only = { rows = [1, 2, 3, 4], ms = [0.0, 0.0, 400.0, 0.0] }",
    )

    async def scenario():
        async with running_app(slow) as app, client_of(app) as client:
            x = {"X": np.zeros((3, 3), np.float32)}
            running = asyncio.create_task(client.infer("slow", x))
            while not any(lane.counters.launches for lane in (await client.lanes("slow")).lanes):
                await asyncio.sleep(0)
            with pytest.raises(DeadlineExpired):
                await client.infer("slow", x, timeout_s=0.1)
            await running
            lanes = (await client.lanes("slow")).lanes
        assert sum(lane.counters.requests for lane in lanes) == 1

    asyncio.run(scenario())


def test_a_model_that_does_not_load_is_reported_and_the_others_serve(tmp_path):
    shutil.copytree(DIGITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "typo" / "1").mkdir(parents=True)
    shutil.copy(MODEL_FILE, tmp_path / "typo" / "1")
    (tmp_path / "typo" / "model.toml").write_text("bacthing = true\n")

    async def scenario():
        async with running_app(tmp_path) as app, client_of(app) as client:
            assert not await client.is_ready()
            assert await client.is_model_ready("digits")
            assert not await client.is_model_ready("broken")
            await client.infer("digits", {"X": images(1)})
            with pytest.raises(ModelFailed, match=r"model\.onnx"):
                await client.infer("broken", {"X": images(1)})
            with pytest.raises(ModelFailed, match=r"typo/model\.toml.*bacthing"):
                await client.infer("typo", {"X": images(1)})
            status, text = await asyncio.to_thread(fetch, app, "/health/ready")
        assert status == 503
        assert "digits 1 ready" in text
        assert "broken 1 failed" in text

    asyncio.run(scenario())


def test_versions_are_served_by_number_and_the_highest_by_default(tmp_path):
    for version in ("2", "10"):
        folder = tmp_path / "digits" / version
        folder.mkdir(parents=True)
        shutil.copy(MODEL_FILE, folder)

    async def scenario():
        async with running_app(tmp_path) as app, client_of(app) as client:
            assert (await client.infer("digits", {"X": images(1)})).model_version == "10"
            result = await client.infer("digits", {"X": images(1)}, version="2")
            assert result.model_version == "2"
            with pytest.raises(ModelNotFound, match="2, 10"):
                await client.infer("digits", {"X": images(1)}, version="3")

    asyncio.run(scenario())


def test_a_single_model_file_is_served_under_its_name_with_profiles_derived(tmp_path):
    file = tmp_path / "handwriting.onnx"
    shutil.copy(MODEL_FILE, file)

    async def scenario():
        async with running_app(file) as app, client_of(app) as client:
            metadata = await client.model_metadata("handwriting")
            assert [profile.name for profile in metadata.profiles] == ["online", "dynamic"]
            result = await client.infer("handwriting", {"X": images(70)})
            np.testing.assert_allclose(result["logits"], run_alone(images(70)), rtol=0, atol=1e-4)

    asyncio.run(scenario())


def test_a_folder_without_models_is_refused_with_the_layout_that_is_expected(tmp_path):
    async def scenario():
        async with running_app(tmp_path):
            pass

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(ConfigError, match="<repository>/<model>/<version>")


def test_a_server_none_of_whose_models_load_stops_and_tells_every_reason(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"not a model")

    async def scenario():
        async with running_app(tmp_path):
            pass

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(ConfigError, match=r"(?s)one 1: .*two 1: ")


def test_draining_finishes_what_was_taken_and_refuses_what_comes():
    async def scenario():
        async with running_app(SIMULATED) as app, client_of(app) as client:
            tokens = {"token_ids": np.zeros((8, 512), np.int32)}
            tasks = [asyncio.create_task(client.infer("encoder", tokens)) for _ in range(20)]
            lanes = app.registry.resolve("encoder").require_lanes()
            while not lanes.waiting_requests:
                await asyncio.sleep(0)
            app.stop()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            with pytest.raises(Unavailable):
                await client.infer("encoder", tokens)
        served = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
        assert served
        assert len(served) + len(refused) == len(outcomes)

    asyncio.run(scenario())


def test_metrics_count_what_was_served_by_profile(tmp_path):
    async def scenario():
        async with digits_at_known_costs(tmp_path) as app, client_of(app) as client:
            for rows in (1, 1, 4, 128):
                await client.infer("digits", {"X": images(rows)})
            with pytest.raises(ModelNotFound):
                await client.infer("nothing", {"X": images(1)})
            status, text = await asyncio.to_thread(fetch, app, "/metrics")
        assert status == 200
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        assert samples['nv_inference_count{model="digits",profile="online",version="1"}'] == "2.0"
        assert (
            samples['nv_inference_exec_count{model="digits",profile="dynamic",version="1"}']
            == "1.0"
        )
        assert (
            samples['nv_inference_count{model="digits",profile="offline",version="1"}'] == "128.0"
        )

    asyncio.run(scenario())
