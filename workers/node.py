"""`streamer node`: run a command as a job of a node, and stream its states."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

import click

from streamer.core.errors import NodeFencedError, NotAcknowledged, OutboxFull, StreamerError, counted
from streamer.core.names import check_job
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer, state_streaming
from workers.command_output import MAX_LINE_BYTES, CommandOutput
from workers.json_text import NoJson, decode_json
from workers.logs import log_sentences
from workers.metrics_port import metrics_options, serving_metrics
from workers.options import exit_flush, option, publish_options
from workers.sentences import say, signal_name

COMMAND_NOT_FOUND = 127
COMMAND_NOT_EXECUTABLE = 126
KILLED_BY_SIGNAL = 128
"""Exit statuses as shells give them (POSIX, "Exit Status for Commands")."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAY_BE_JSON = re.compile(rb"""\s*[{\["0-9tfn-]""").match
"""Most lines of most programs are not, and this tells it sooner than a decoder."""


class _NodeCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"{error.format_message()} If it belongs to the command, put -- before the command.", ctx
            ) from None


@click.command(cls=_NodeCommand, short_help="Run a command as a job, and stream its states.")
@click.argument("node")
@option("--job", required=True, help="The job's name.")
@option("--exclusive", is_flag=True, help="Claim the node: nothing else may publish for it meanwhile.")
@metrics_options
@exit_flush
@publish_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def node(
    node: str,
    job: str,
    exclusive: bool,
    metrics_port: int | None,
    metrics_host: str,
    command: tuple[str, ...],
    **settings: Any,
) -> None:
    """Run COMMAND as a job of NODE and stream its states.

    \b
      streamer node gpu-1 --job train-7 -- python train.py --epochs 3

    The job's states are job-starting, job-running, and job-finished or job-failed with the exit code or the signal
    and the duration. Each line that the command prints and that is JSON becomes an update, too: of an object, "status"
    is the status (else "job-output") and the rest is the state. All that it prints is passed on unchanged.

    With --exclusive the node is claimed while COMMAND runs: what any other process publishes for it is refused. Where
    another has claimed it, COMMAND is not run.

    The exit status is the command's; 128 and the signal's number if it was killed by one. Ctrl-C and SIGTERM reach
    the command, and its last states are still sent.
    """
    log_sentences()
    check_job(job)
    # A node is claimed when nothing else can fail any more: the claim outlives a process that fails.
    with serving_metrics(metrics_port, metrics_host):
        streamer = state_streaming(node, NodeSettings(**settings), exclusive)
        run = _Run(JobUpdates(streamer, job), command)
        status = run.run()
        run.updates.close()
    for number in _ENDING:
        # Python's end gives handlers up, but not this: a late signal would take the place of the exit status.
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


class JobUpdates:
    """Publishes the updates of a job. One that is lost is said, once for each reason, and counted."""

    def __init__(self, streamer: StateStreamer, job: str) -> None:
        self._streamer, self._job = streamer, job
        self._lost = 0
        self._reasons: set[type[StreamerError]] = set()
        self._too_long = False

    def publish(self, status: str, state: dict[str, Any]) -> None:
        """Publish an update of the job."""
        try:
            self._streamer.update(status, {**state, "job": self._job})
        except StreamerError as error:
            self._lost += 1
            if type(error) not in self._reasons:
                self._reasons.add(type(error))
                # Why they wait for Redis was said when that began.
                reason = f"{counted(error.pending)} wait for Redis already" if isinstance(error, OutboxFull) else error
                say(f"updates are being lost: {reason}")

    def publish_line(self, line: bytes) -> None:
        """Publish a line of the command's output, if it is JSON."""
        if not _MAY_BE_JSON(line):
            return
        if len(line) > MAX_LINE_BYTES:
            if not self._too_long:
                self._too_long = True
                say(f"a line of more than {MAX_LINE_BYTES:,} bytes becomes no update, though it may be JSON")
            return
        try:
            content = decode_json(line)
        except NoJson:
            return
        self.publish(*_as_update(content))

    def close(self) -> None:
        """Wait for Redis to have all, within the settings' time, and say how many updates are lost in the end."""
        timeout_s = self._streamer.settings.exit_flush_s
        try:
            self._streamer.close(timeout_s)
        except NotAcknowledged as error:
            say(f"Redis did not take the last {counted(error.pending)} within {timeout_s:g} s")
            self._count(error)
        except NodeFencedError as error:
            say(str(error))
            self._count(error)
        if self._lost:
            say(f"{counted(self._lost)} lost")

    def _count(self, error: NotAcknowledged | NodeFencedError) -> None:
        if error.stored:
            say(f"{counted(error.pending)} stored on the disk, and sent when the node is next started here")
        else:
            self._lost += error.pending


class _Run:
    """One run of a command."""

    def __init__(self, updates: JobUpdates, command: tuple[str, ...]) -> None:
        self.updates, self._command = updates, command
        self._process: subprocess.Popen[bytes] | None = None
        self._output: CommandOutput | None = None
        self._early: list[int] = []
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)

    def run(self) -> int:
        """Run the command to its end; return the exit status to pass on."""
        began = time.monotonic()
        # From here to the end of the process: the last states are still to be sent when the command has ended.
        for number in _ENDING:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes `_wait`
        self.updates.publish("job-starting", {"command": _as_text(shlex.join(self._command))})
        try:
            process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        except OSError as error:
            sentence = f"cannot start {_as_text(self._command[0])!r}: {error.strerror}"
            code = COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else COMMAND_NOT_EXECUTABLE
            self.updates.publish("job-failed", {"error": sentence, "exit_code": code, **_duration(began)})
            say(sentence)
            return code
        self._process = process
        self.updates.publish("job-running", {"pid": process.pid})
        for early in self._early:
            process.send_signal(early)
        assert process.stdout is not None
        self._output = CommandOutput(process.stdout, self.updates.publish_line)
        code = self._wait(process)
        duration = _duration(began)
        self._output.finish()
        outcome = {"exit_code": code} if code >= 0 else {"signal": signal_name(-code)}
        self.updates.publish("job-failed" if code else "job-finished", {**outcome, **duration})
        return KILLED_BY_SIGNAL - code if code < 0 else code

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the command's end; handle each signal when it comes.

        `Popen.wait` would handle one that comes just before it blocks only after the command's end.
        """
        while (code := process.poll()) is None:
            os.read(self._woken, 512)  # at least a byte is there for each signal since the last read
        return code

    def _on_signal(self, number: int, _frame: object) -> None:
        """Have a signal that should end the command reach it; when the command has ended, wait for no more output."""
        if self._process is None:
            self._early.append(number)
        elif self._process.returncode is not None and self._output is not None:
            self._output.give_up()
        elif not (number == signal.SIGINT and _at_terminal()):  # else the terminal has sent it to the command as well
            self._process.send_signal(number)


def _duration(began: float) -> dict[str, int]:
    return {"duration_ms": round((time.monotonic() - began) * 1000)}


def _as_text(argument: str) -> str:
    """An argument, which may be any bytes, as text that can be shown and stored."""
    return os.fsencode(argument).decode(errors="replace")


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
