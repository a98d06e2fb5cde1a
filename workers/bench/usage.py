"""What processes use: CPU time and memory, of a process and all that it has started."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_PS = ["ps", "-A", "-o", "pid=,ppid=,time=,rss="]
_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)")


class Process(NamedTuple):
    """A process. Its CPU time is user's and system's, with those of its children that have ended."""

    pid: int
    parent: int
    cpu_s: float
    memory_bytes: int


class Usage(NamedTuple):
    """CPU time until now, in seconds, and memory, in bytes."""

    cpu_s: float
    memory_bytes: int


def usage_of(pid: int) -> Usage | None:
    """What a process and its descendants use now. None where this system does not tell."""
    try:
        family = list(descendants(pid, _from_proc() if (_PROC / "self" / "stat").exists() else _from_ps()))
    except (OSError, subprocess.SubprocessError):
        return None
    if not family:
        return None
    return Usage(sum(process.cpu_s for process in family), sum(_memory_bytes(process) for process in family))


def processors() -> int:
    """How many processors this process and those that it starts may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def descendants(pid: int, processes: Iterable[Process]) -> Iterator[Process]:
    """The process itself and all that come from it."""
    by_parent: dict[int, list[Process]] = {}
    known = {process.pid: process for process in processes}
    for process in known.values():
        by_parent.setdefault(process.parent, []).append(process)
    todo = [known[pid]] if pid in known else []
    while todo:
        process = todo.pop()
        yield process
        todo += by_parent.get(process.pid, [])


def parse_stat(text: str, tick_s: float, page_bytes: int) -> Process:
    """Read a line of Linux's /proc/PID/stat (see proc_pid_stat(5))."""
    # The name, in parentheses, may hold anything, also parentheses.
    pid = int(text.split(" ", 1)[0])
    fields = text.rpartition(")")[2].split()
    cpu_s = sum(map(int, fields[11:15])) * tick_s
    return Process(pid, int(fields[1]), cpu_s, int(fields[21]) * page_bytes)


def parse_ps(text: str) -> Iterator[Process]:
    """Read what `ps` prints of pid, parent, CPU time as [[DD-]HH:]MM:SS[.CC], and resident KiB."""
    for line in text.splitlines():
        pid, parent, time, kib = line.split()
        if match := _TIME.fullmatch(time):
            days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
            cpu_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
            yield Process(int(pid), int(parent), cpu_s, int(kib) * 1024)


def _from_proc() -> Iterator[Process]:
    tick_s, page_bytes = 1 / os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir(_PROC):
        if name.isdigit():
            try:
                text = (_PROC / name / "stat").read_text(errors="replace")
            except OSError:
                continue  # it has ended meanwhile
            yield parse_stat(text, tick_s, page_bytes)


def _from_ps() -> Iterator[Process]:
    return parse_ps(subprocess.run(_PS, capture_output=True, text=True, check=True, timeout=10).stdout)


def _memory_bytes(process: Process) -> int:
    """Its part of what it shares with others, where the system tells; else what is resident."""
    try:
        rollup = (_PROC / str(process.pid) / "smaps_rollup").read_text()
    except OSError:
        return process.memory_bytes
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) * 1024 if match else process.memory_bytes
