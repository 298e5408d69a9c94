"""Pure arithmetic of the bench: sizes, /proc texts, medians, ratios and the table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

GIB = 1 << 30
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": GIB, "gib": GIB}


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor time, of a process with all its threads or of several."""

    user_seconds: float
    system_seconds: float

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user_seconds + other.user_seconds, self.system_seconds + other.system_seconds)

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user_seconds - other.user_seconds, self.system_seconds - other.system_seconds)


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round of one contestant."""

    wall_seconds: float
    requests: int
    sent_bytes: int
    user_seconds: float
    system_seconds: float
    p50_ms: float
    p99_ms: float
    peak_rss_bytes: int
    end_rss_bytes: int

    @property
    def gib_per_second(self) -> float:
        """Return the throughput."""
        return self.sent_bytes / GIB / self.wall_seconds

    @property
    def per_second(self) -> float:
        """Return uploads, or requests where no upload is made, a second."""
        return self.requests / self.wall_seconds

    @property
    def cpu_seconds(self) -> float:
        """Return the server's processor time, user and system."""
        return self.user_seconds + self.system_seconds

    @property
    def cpu_per_gib(self) -> float:
        """Return the server's processor time for a GiB."""
        return self.cpu_seconds / (self.sent_bytes / GIB)

    @property
    def cpu_ms_each(self) -> float:
        """Return the server's processor time for an upload or a request."""
        return self.cpu_seconds * 1000 / self.requests

    def speed(self, *, bulk: bool) -> float:
        """Return what a bulk scenario, or one of small uploads, is about."""
        return self.gib_per_second if bulk else self.per_second

    def cost(self, *, bulk: bool) -> float:
        """Return the server's processor time for it, at least one tick of the clock in all, so that it divides."""
        ticked = max(self.cpu_seconds, 0.01)
        return ticked / (self.sent_bytes / GIB) if bulk else ticked * 1000 / self.requests

    def as_json(self) -> dict[str, float]:
        """Return what was measured, with what follows from it."""
        derived = ("gib_per_second", "per_second", "cpu_seconds", "cpu_per_gib", "cpu_ms_each")
        known = {name: getattr(self, name) for name in derived if self.sent_bytes or "gib" not in name}
        return {**asdict(self), **known}


def parse_size(text: str) -> int:
    """Read a size such as `5MiB`, `1g` or `1024`.

    Raises:
        ValueError: It is none.
    """
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text.strip()[len(number) :].lower()
    if unit not in _UNITS:
        raise ValueError(f"{text} is no size; write e.g. 512MiB or 1GiB")
    size = int(float(number) * _UNITS[unit])
    if size <= 0:
        raise ValueError(f"{text} must be more than nothing")
    return size


def write_size(size_bytes: int) -> str:
    """Write a size with the largest unit that keeps it whole."""
    for unit, factor in (("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit}"
    return f"{size_bytes} B"


def parse_stat(text: str, ticks_per_second: int) -> tuple[int, Cpu]:
    """Read a line of /proc/PID/stat.

    Returns:
        The parent's process id, and the processor time of all threads, ended ones and reaped children too.
    """
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and parentheses
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return int(fields[1]), Cpu((user + children_user) / ticks_per_second, (system + children_system) / ticks_per_second)


def parse_status_bytes(text: str, name: str) -> int:
    """Read an amount of memory, such as VmHWM, from /proc/PID/status; 0 where it is not told."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def median_of(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each figure's median over rounds."""
    return {name: statistics.median(item[name] for item in rounds) for name in rounds[0]}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of ratios round by round, so that a machine that drifts counts for both.

    Raises:
        ValueError: Not as many rounds of one as of the other, or none.
    """
    if not ours:
        raise ValueError("there is no round")
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )
