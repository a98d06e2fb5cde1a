"""`streamer node`: run a command as a job of a node, and stream its states."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

import click
import msgspec

from streamer.core.errors import NotAcknowledged, StreamerError
from streamer.core.names import check_job
from streamer.core.records import MAX_UPDATE_BYTES
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer, state_streaming
from workers.logs import configure_logs
from workers.options import publish_options

COMMAND_NOT_FOUND = 127
COMMAND_NOT_EXECUTABLE = 126
KILLED_BY_SIGNAL = 128
"""Exit statuses as shells give them (POSIX, "Exit Status for Commands")."""

_decode = msgspec.json.Decoder().decode


@click.command()
@click.argument("node")
@click.option("--job", required=True, help="The job's name.")
@publish_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def node(node: str, job: str, command: tuple[str, ...], **settings: Any) -> None:
    """Run COMMAND as a job of NODE and stream its states.

    \b
      streamer node gpu-1 --job train-7 -- python train.py --epochs 3

    The job's states are job-starting, job-running, and job-finished or job-failed with the exit code or the signal
    and the duration. Each line that the command prints and that is JSON becomes an update, too: of an object, "status"
    is the status (else "job-output") and the rest is the state. All that it prints is passed on unchanged.

    The exit status is the command's; 128 and the signal's number if it was killed by one. Ctrl-C and SIGTERM reach
    the command, and its last states are still sent.
    """
    configure_logs("warning")
    streamer = state_streaming(node, NodeSettings(**settings))
    run = _Run(streamer, check_job(job), command)
    status = run.run()
    try:
        streamer.close(streamer.settings.exit_flush_s)
    except NotAcknowledged as error:
        click.echo(f"streamer: the last updates are lost: {error}", err=True)
    sys.exit(status)


class _Run:
    """One run of a command."""

    def __init__(self, streamer: StateStreamer, job: str, command: tuple[str, ...]) -> None:
        self._streamer, self._job, self._command = streamer, job, command
        self._process: subprocess.Popen[bytes] | None = None
        self._signals: list[int] = []
        self._lines = 0
        self._handling = False

    def run(self) -> int:
        """Run the command to its end; return the exit status to pass on."""
        began = time.monotonic()
        # From here to the end of the process: the last states are still to be sent when the command has ended.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._forward)
        self._publish("job-starting", {"command": shlex.join(self._command)})
        try:
            process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        except OSError as error:
            self._publish("job-failed", {"error": f"cannot start {self._command[0]!r}: {error.strerror}"})
            click.echo(f"streamer: cannot start {self._command[0]!r}: {error.strerror}", err=True)
            return COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else COMMAND_NOT_EXECUTABLE
        self._publish("job-running", {"pid": process.pid})
        assert process.stdout is not None
        self._process = process
        for early in self._signals:
            process.send_signal(early)
        reading = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reading.start()
        code = process.wait()
        self._finish_reading(reading)
        ended: dict[str, Any] = {"duration_ms": round((time.monotonic() - began) * 1000)}
        if code < 0:
            ended["signal"] = signal.Signals(-code).name
        else:
            ended["exit_code"] = code
        self._publish("job-failed" if code else "job-finished", ended)
        return KILLED_BY_SIGNAL - code if code < 0 else code

    def _forward(self, number: int, _frame: object) -> None:
        """Have a signal that should end the command reach it, also one that comes before the command has started."""
        if self._process is None:
            self._signals.append(number)
        elif not (number == signal.SIGINT and _at_terminal()):  # else the terminal has sent it to the command as well
            self._process.send_signal(number)

    def _finish_reading(self, reading: threading.Thread) -> None:
        """Wait until all output is read, but not for what the command has left running and holds the pipe open."""
        lines = -1
        while reading.is_alive() and (self._handling or self._lines > lines):
            lines = self._lines
            reading.join(timeout=0.5)

    def _read(self, output: BinaryIO) -> None:
        for line in output:
            self._lines += 1
            self._handling = True
            self._pass_on(line)
            self._handling = False

    def _pass_on(self, line: bytes) -> None:
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            pass  # nobody reads it any more, but the updates still count
        if len(line) <= MAX_UPDATE_BYTES and line.strip():
            try:
                content = _decode(line)
            except msgspec.DecodeError:
                return
            self._publish(*_as_update(content))

    def _publish(self, status: str, state: dict[str, Any]) -> None:
        try:
            self._streamer.update(status, {**state, "job": self._job})
        except StreamerError as error:
            click.echo(f"streamer: an update is lost: {error}", err=True)


def _as_update(content: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(content, dict):
        return "job-output", {"value": content}
    status = content.pop("status", None)
    if isinstance(status, str) and status:
        return status, content
    return "job-output", content if status is None else {**content, "status": status}


def _at_terminal() -> bool:
    """Whether this process is in the terminal's foreground, which is where Ctrl-C goes."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False
