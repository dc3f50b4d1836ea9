"""What the documentation shows is run, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
import shutil

import pytest

from helpers.serving import DIGITS, REPOSITORY, server_process
from lanewise.engine.repository import find_models
from lanewise.model_settings import read_model_settings

README = REPOSITORY / "README.md"
GUIDE = REPOSITORY / "docs" / "client.md"
ADDRESS_IN_TEXTS = "localhost:8001"


@pytest.fixture(scope="module")
def address():
    with server_process(DIGITS) as server:
        yield server.address


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


def test_the_examples_of_the_readme_print_what_it_shows(address):
    text = README.read_text()
    explain, infer = blocks(text, "python")

    assert printed_by([explain], address) == blocks(text, "text")[0]
    assert printed_by([infer], address) == "(4, 10) dynamic\n"


def test_the_model_settings_of_the_readme_serve_the_example(tmp_path):
    (settings,) = blocks(README.read_text(), "toml")
    shutil.copytree(DIGITS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "digits" / "model.toml").write_text(settings)

    with server_process(tmp_path) as server:
        (ready,) = [entry for entry in server.log if entry["event"] == "model ready"]

    assert ready["profiles"] == ["online 1/1/1", "dynamic 1/4/32"]


def test_every_command_of_the_readme_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE):
        assert f"\n{target}:" in makefile
    (source,) = find_models(DIGITS)
    assert read_model_settings(source.settings_file).profiles
