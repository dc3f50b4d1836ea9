"""What the documentation shows is run, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import urllib.request

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from helpers.serving import DIGITS, REPOSITORY, server_process
from lanewise.backends.repository import find_models
from lanewise.cli.main import cli
from lanewise.rpc.services import INFERENCE_SERVICE
from lanewise.settings.model import read_model_settings
from lanewise_client import Client, ServingError

README = REPOSITORY / "README.md"
GUIDE = REPOSITORY / "docs" / "client.md"
MODELS = REPOSITORY / "docs" / "models.md"
SCHEDULER = REPOSITORY / "docs" / "scheduler.md"
PICTURES = REPOSITORY / "docs" / "pictures"
METRICS = REPOSITORY / "docs" / "metrics.md"
ONLY_ON_A_DEVICE = {
    "lanewise_graph_launches_total",
    "lanewise_graph_misses_total",
    "lanewise_lane_graphs",
}
"""Metrics without a sample, and so without labels, where no lane has a use for CUDA graphs."""
MAX_PICTURE_BYTES = 100_000
ADDRESS_IN_TEXTS = "localhost:8001"


@pytest.fixture(scope="module")
def server():
    with server_process(DIGITS) as server:
        yield server


@pytest.fixture(scope="module")
def address(server):
    return server.address


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def printed_by(examples: list[str], address: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec("".join(examples).replace(ADDRESS_IN_TEXTS, address), {})
    return printed.getvalue()


def test_the_examples_of_the_client_guide_run_and_print_what_they_claim(address):
    lines = printed_by(blocks(GUIDE.read_text(), "python"), address).splitlines()

    assert lines[:2] == ["(3, 10)", "dynamic 3"]
    assert "StatusCode.INVALID_ARGUMENT NoProfileAdmits" in lines
    assert "True True True" in lines
    assert [line for line in lines if "failed:" in line] == []


def without_times(text: str) -> str:
    return re.sub(r"[0-9.]+ ms", "... ms", text)


def test_the_example_of_the_readme_prints_what_it_shows(address):
    text = README.read_text()
    (explain,) = blocks(text, "python")

    # What launches take, and so which are the cheapest, is up to the machine.
    told = without_times(printed_by([explain], address)).splitlines()
    shown = without_times(blocks(text, "text")[0]).splitlines()
    assert "40 rows" in told[0]
    assert told[1:] == shown[1:]


def test_the_infer_command_of_the_readme_prints_the_outputs_of_its_rows(address):
    (command,) = re.findall(r"lanewise (infer .*?) +#", README.read_text())

    done = CliRunner().invoke(cli, [*shlex.split(command), "--url", address])

    assert done.exit_code == 0, done.output
    assert re.search(r"profile (dynamic|online), \d+ rows executed in \d launch", done.output)
    assert "logits float32 [4, 10]" in done.output


def test_the_first_model_settings_of_the_docs_serve_the_example(tmp_path):
    settings, *_ = blocks(MODELS.read_text(), "toml")
    shutil.copytree(DIGITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "digits" / "model.toml").write_text(settings)

    with server_process(tmp_path) as server:
        (ready,) = [entry for entry in server.log if entry["event"] == "model ready"]

    assert ready["profiles"] == ["online 1/1/1", "dynamic 1/4/32"]


def test_the_client_guide_tells_of_every_call_whether_it_is_offered(address):
    rows = re.findall(r"^\| (`[A-Z].*?`) \| (\w+)", GUIDE.read_text(), re.MULTILINE)
    told = {call: word == "offered" for cell, word in rows for call in re.findall(r"\w+", cell)}
    calls = [method.name for method in INFERENCE_SERVICE.methods]
    path = f"/{INFERENCE_SERVICE.full_name}/"

    with grpc.insecure_channel(address) as channel:
        offered = {call: is_offered(channel, path + call) for call in calls}

    assert {call: word for call, word in told.items() if call in offered} == offered


def is_offered(channel: grpc.Channel, path: str) -> bool:
    try:
        list(channel.stream_stream(path)(iter([b""])))
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True


def test_the_page_of_metrics_lists_what_the_server_exports_with_type_and_labels(server):
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*)\|", METRICS.read_text(), re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    with Client(server.address, timeout_s=30) as client, contextlib.suppress(ServingError):
        client.infer("nothing", {"X": np.zeros(1, np.float32)})
    with urllib.request.urlopen(f"{server.http}/metrics") as response:
        text = response.read().decode()

    exported = {
        name: (kind, listed[name][1] if name in ONLY_ON_A_DEVICE else labels_of(name, text))
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    }
    assert listed == exported


def labels_of(metric: str, text: str) -> set[str]:
    """Get the label names of a metric's first sample, but for a histogram's own."""
    sample = re.search(rf"^{metric}(?:_bucket)?(?:{{(.*)}})? ", text, re.MULTILINE)
    return set(re.findall(r'(\w+)="', sample[1] or "")) - {"le"}


def test_every_command_of_the_readme_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE):
        assert f"\n{target}:" in makefile
    (source,) = find_models(DIGITS)
    assert read_model_settings(source.settings_file).profiles


def test_the_pictures_of_the_scheduler_are_drawn_by_the_commands_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = SCHEDULER.read_text()
    install, *commands = (
        shlex.split(line) for line in "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    )
    drawn = []

    assert install == ["pip", "install", "lanewise[plots]"]
    for words in commands:
        assert words[:2] == ["lanewise", "simulate"]
        words[words.index("--duration-s") + 1] = "0.5"
        drawn.append(words[-1])
        words[-1] = str(tmp_path / words[-1])
        assert CliRunner().invoke(cli, words[1:]).exit_code == 0
    assert drawn == re.findall(r"\(pictures/(\w+\.svg)\)", text)
    assert sorted(drawn) == sorted(path.name for path in tmp_path.iterdir())
    assert all((PICTURES / name).stat().st_size < MAX_PICTURE_BYTES for name in drawn)
