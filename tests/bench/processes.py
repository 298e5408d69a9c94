"""The use of servers: processor time and memory, from /proc, with their children."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Cpu, parse_stat, parse_status_bytes

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pids: Iterable[int]) -> list[int]:
    """Return processes and everything they started that still runs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent, _ = parse_stat((folder / "stat").read_text("utf-8", "replace"), _TICKS)
                children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, ())
    return found


def cpu(pids: Iterable[int]) -> Cpu:
    """Return the processor time that processes and their children have used so far."""
    total = Cpu(0, 0)
    for pid in family(pids):
        with contextlib.suppress(FileNotFoundError):
            total += parse_stat(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace"), _TICKS)[1]
    return total


def memory(pids: Iterable[int]) -> tuple[int, int]:
    """Return the peak since `forget_peak`, and the present resident memory, in bytes."""
    peak = now = 0
    for pid in family(pids):
        with contextlib.suppress(FileNotFoundError):
            status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
            peak += parse_status_bytes(status, "VmHWM")
            now += parse_status_bytes(status, "VmRSS")
    return peak, now


class FailedError(Exception):
    """A program ended with an error; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The use of a program that has ended."""

    wall_seconds: float
    cpu: Cpu
    peak_rss_bytes: int


def run(command: Sequence[str], environment: Mapping[str, str]) -> Ran:
    """Run a program to its end, and throw away what it writes.

    Raises:
        FailedError: It says that it failed.
    """
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode("utf-8", "replace").strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FailedError(said[-600:])
    took = time.monotonic() - started
    return Ran(took, Cpu(usage.ru_utime, usage.ru_stime), usage.ru_maxrss * 1024)


def forget_peak(pids: Iterable[int]) -> None:
    """Let the peak begin again at the present memory, where the kernel lets us."""
    for pid in family(pids):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")
