"""The event loop of a server's processes."""

from __future__ import annotations

import asyncio

import pytest

from lanewise.processes import event_loop


async def _loop_module() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


async def _fail() -> None:
    raise KeyError("main")


def test_uvloop_is_used_where_it_is_installed():
    pytest.importorskip("uvloop")
    assert event_loop.run(_loop_module()) == "uvloop"


def test_an_error_of_main_comes_out():
    with pytest.raises(KeyError, match="main"):
        event_loop.run(_fail())
