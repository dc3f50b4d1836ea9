"""The blocking client follows from the asyncio one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("ruff", reason="the generator formats with ruff")

SCRIPT = Path(__file__).parents[3] / "client" / "generate.py"


@pytest.fixture
def generator(monkeypatch):
    spec = importlib.util.spec_from_file_location("generate_client", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    return module


def test_the_blocking_client_is_up_to_date(generator):
    assert generator.main() == 0


def test_a_client_that_was_edited_is_stale(generator, monkeypatch, tmp_path, capsys):
    edited = tmp_path / "client.py"
    edited.write_text(generator.GENERATED.read_text() + "# by hand")
    monkeypatch.setattr(generator, "GENERATED", edited)

    assert generator.main() == 1
    assert "run `make client`" in capsys.readouterr().err


def test_a_text_that_is_no_longer_there_is_told(generator, monkeypatch):
    monkeypatch.setitem(generator.REPLACED, "no such text", "")

    with pytest.raises(SystemExit, match="no longer has 'no such text'"):
        generator.generate()
