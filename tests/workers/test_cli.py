"""What all commands have in common."""

from __future__ import annotations

import click
import pytest

from tests.commands import run
from workers.cli import cli


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_teaches_each_command(name: str) -> None:
    command = cli.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
    assert run(name, "--help").returncode == 0


def test_a_setting_is_the_same_variable_in_every_command() -> None:
    names: dict[str, str] = {}
    for command in cli.commands.values():
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                assert parameter.envvar == f"STREAMER_{(parameter.name or '').upper()}"
                assert names.setdefault(parameter.envvar, parameter.opts[0]) == parameter.opts[0]
    assert "STREAMER_REDIS_URL" in names


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("streamer, version ")
