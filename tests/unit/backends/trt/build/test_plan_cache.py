from __future__ import annotations

import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import onnx
import pytest

from helpers.models import profile_entry
from helpers.trt_models import save_matmul
from lanewise.backends.trt.binding import Binding
from lanewise.backends.trt.build.plan_cache import (
    cached_plan,
    plan_key,
    runtime_cache_file,
    write_atomically,
)
from lanewise.backends.trt.messages import Messages
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings

BINDING = Binding("tensorrt-rtx", None, "T", "1.0", None, Messages("T"))
DEVICE = "NVIDIA H200 (9.0)"
ENTRY = profile_entry("a", X=[(1, 3), (2, 3), (4, 3)])


def settings(*entries):
    return ModelSettings.model_validate(tomllib.loads("\n".join(entries)))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path):
    return save_matmul(tmp_path / "m.onnx")


def key(model, *entries, builder="T 1.0", device=DEVICE):
    return plan_key(model, settings(*entries), builder=builder, device=device)


class TestKey:
    @pytest.mark.parametrize(
        "entries",
        [
            [],
            [profile_entry("a", X=[(1, 3), (2, 3), (5, 3)])],
            [ENTRY, profile_entry(X=[(8, 3), (8, 3), (8, 3)])],
            [ENTRY, "[tensorrt]", "workspace_mib = 64"],
            [ENTRY, "[tensorrt]", "optimization_level = 5"],
            [ENTRY, "[tensorrt]", 'compute_capabilities = ["8.9"]'],
        ],
    )
    def test_changes_with_everything_the_build_reads_in_the_settings(self, model, entries):
        assert key(model, *entries) != key(model, ENTRY)

    def test_changes_with_the_order_of_the_profiles(self, model):
        other = profile_entry("b", X=[(8, 3), (8, 3), (8, 3)])

        assert key(model, ENTRY, other) != key(model, other, ENTRY)

    def test_changes_with_builder_and_device(self, model):
        assert len({key(model), key(model, builder="T 1.1"), key(model, device="other")}) == 3

    def test_changes_with_the_model(self, model):
        before = key(model)
        model.write_bytes(model.read_bytes() + b"\0")

        assert key(model) != before

    @pytest.mark.parametrize("location", ["weights.bin", "deep/" + "x" * 200 + ".bin"])
    def test_changes_with_weights_beside_the_model(self, model, location):
        weights = model.parent / location
        weights.parent.mkdir(exist_ok=True)
        onnx.save(
            onnx.load(str(model)), str(model), save_as_external_data=True, location=location,
            size_threshold=0,
        )  # fmt: skip
        assert weights.is_file()
        before = key(model)
        weights.write_bytes(bytes(weights.stat().st_size))

        assert key(model) != before

    @pytest.mark.parametrize(
        "entries",
        [
            [profile_entry("renamed", X=[(1, 3), (2, 3), (4, 3)])],
            [profile_entry("a", delay_ms=9.0, X=[(1, 3), (2, 3), (4, 3)])],
            ["max_queue_delay_ms = 9.0", ENTRY],
            [ENTRY, "[tensorrt]", "runners = { a = 2 }"],
        ],
    )
    def test_stays_with_what_the_build_does_not_read(self, model, entries):
        assert key(model, *entries) == key(model, ENTRY)

    def test_stays_when_the_model_moves(self, model, tmp_path):
        before = key(model)
        moved = tmp_path / "elsewhere.onnx"
        model.rename(moved)

        assert key(moved) == before

    def test_of_a_model_that_cannot_be_read_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            key(tmp_path / "none.onnx")


class TestCachedPlan:
    def test_is_built_once(self, cache, model):
        built = []

        def build():
            built.append(1)
            return b"plan"

        plans = {cached_plan(BINDING, model, settings(ENTRY), DEVICE, build) for _ in range(3)}

        (plan,) = plans
        assert (plan.read_bytes(), len(built)) == (b"plan", 1)
        assert plan.parent == cache / "plans"
        assert plan.name.startswith("m-")

    def test_is_built_once_by_many_who_start_at_the_same_time(self, cache, model):
        starters = 8
        barrier = Barrier(starters)
        built = []

        def build():
            built.append(1)
            return b"plan" * 10_000

        def start(_):
            barrier.wait()
            return cached_plan(BINDING, model, settings(), DEVICE, build).read_bytes()

        with ThreadPoolExecutor(starters) as executor:
            read = set(executor.map(start, range(starters)))

        assert (read, len(built)) == ({b"plan" * 10_000}, 1)

    def test_a_failed_build_leaves_nothing_behind_and_is_tried_again(self, cache, model):
        def fail():
            raise ConfigError("no kernel")

        with pytest.raises(ConfigError, match="no kernel"):
            cached_plan(BINDING, model, settings(), DEVICE, fail)

        assert list(cache.glob("plans/*.plan")) == []
        plan = cached_plan(BINDING, model, settings(), DEVICE, lambda: b"plan")
        assert plan.read_bytes() == b"plan"

    def test_a_folder_that_cannot_be_made_is_told_with_the_variable(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("LANEWISE_CACHE", str(tmp_path / "file"))
        model = save_matmul(tmp_path / "m.onnx")

        with pytest.raises(ConfigError, match=r"cannot be created: .*; set LANEWISE_CACHE"):
            cached_plan(BINDING, model, settings(), DEVICE, lambda: b"plan")

    def test_lies_in_the_home_folder_by_default(self, tmp_path, monkeypatch):
        monkeypatch.delenv("LANEWISE_CACHE", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        model = save_matmul(tmp_path / "m.onnx")

        plan = cached_plan(BINDING, model, settings(), DEVICE, lambda: b"plan")

        assert plan.parent == tmp_path / ".cache" / "lanewise" / "plans"


class TestWriteAtomically:
    def test_replaces_the_file_and_leaves_nothing_else(self, tmp_path):
        file = tmp_path / "model.plan"
        file.write_bytes(b"old")

        write_atomically(file, b"new")

        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [
            ("model.plan", b"new")
        ]

    def test_leaves_the_file_as_it_was_if_it_cannot_be_written(self, tmp_path):
        folder = tmp_path / "model.plan"
        (folder / "inside").mkdir(parents=True)

        with pytest.raises(ConfigError, match="cannot be written: "):
            write_atomically(folder, b"new")

        assert [each.name for each in tmp_path.iterdir()] == ["model.plan"]


class TestRuntimeCacheFile:
    def test_lies_beside_the_plan_by_device(self, tmp_path):
        plan = tmp_path / "model.plan"

        assert runtime_cache_file(plan, DEVICE) == tmp_path / ("model.plan.NVIDIA-H200-9.0.kernels")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_lies_in_the_cache_if_the_plans_folder_is_read_only(self, cache, tmp_path):
        folder = tmp_path / "repository"
        folder.mkdir()
        folder.chmod(0o555)

        file = runtime_cache_file(folder / "model.plan", DEVICE)

        assert file.parent == cache / "kernels"

    def test_lies_in_the_cache_if_there_is_no_folder_of_the_plan(self, cache):
        first = runtime_cache_file(Path("/nowhere/a/model.plan"), DEVICE)
        second = runtime_cache_file(Path("/nowhere/b/model.plan"), DEVICE)

        assert first.parent == second.parent == cache / "kernels"
        assert first != second
