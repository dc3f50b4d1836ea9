"""The group of commands, whose modules are imported when they are called."""

from __future__ import annotations

import importlib

import pytest

from lanewise.cli.main import cli


@pytest.mark.parametrize("name", cli.commands)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    command = importlib.import_module(f"lanewise.cli.{name}").command

    assert command.name == name
    assert cli.commands[name].get_short_help_str(200) == command.get_short_help_str(200)
