"""What all commands have in common."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from tests.commands import run
from tests.workers.shells import run_interrupted_at
from workers.commands import cli


def _commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command, and every one of a group of them, with what to type for it."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)


COMMANDS = dict(_commands(cli))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_teaches_each_command(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
    assert run(*name.split(), "--help").returncode == 0


def test_an_option_is_also_a_variable_and_the_same_in_every_command() -> None:
    names: dict[str, str] = {}
    for command in COMMANDS.values():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("help", "version"):
                assert isinstance(parameter.envvar, str)
                assert parameter.envvar == f"STREAMER_{parameter.opts[0][2:].replace('-', '_').upper()}"
                assert names.setdefault(parameter.envvar, parameter.opts[0]) == parameter.opts[0]
    assert "STREAMER_REDIS_URL" in names


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("streamer, version ")


def test_each_command_is_told_in_a_line() -> None:
    listed = run("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == sorted(cli.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("module", ["click", "redis", "structlog", "workers.watch"])
def test_ctrl_c_while_it_starts_ends_it_without_a_traceback(module: str) -> None:
    done = run_interrupted_at(module, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["publish", "n", "s", "--timeout-s", "nan"], "'--timeout-s'"),
        (["publish", "n", "s", "--timeout-s", "-1"], "'--timeout-s'"),
        (["publish", "n", "s", "--timeout-s", "inf"], "'--timeout-s'"),
        (["publish", "n", "s", "--prefix", ""], "'--prefix'"),
        (["publish", "n", "s", "--exit-flush-s", "1"], "--exit-flush-s"),
        (["node", "n", "--job", "j", "--exit-flush-s", "nan", "--", "true"], "'--exit-flush-s'"),
        (["gateway", "--check-s", "0"], "'--check-s'"),
        (["gateway", "--check-s", "nan"], "'--check-s'"),
        (["gateway", "--ping-s", "0"], "'--ping-s'"),
        (["gateway", "--prefix", ""], "'--prefix'"),
    ],
)
def test_settings_that_cannot_work_are_wrong_usage(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
