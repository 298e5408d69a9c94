"""The output of commands. Text that a client chose goes through `show`, and through nothing else.

Nothing here is coloured, and progress is drawn only on a terminal's stderr, so a pipe gets plain lines.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dropoff_tus import shown

show = shown.show


class CommandError(Exception):
    """A command cannot do what was asked; the text says why and what to do."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Tell an answer that could not be written from what the command did."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"the answer could not be written to stdout ({error.strerror}); the command has done its work"
        raise CommandError(message) from None


def print_json(value: Any) -> None:  # noqa: ANN401 - JSON
    """Print JSON, ASCII only so that no terminal is steered by it."""
    with writing():
        print(json.dumps(value, indent=2))


def say(text: str) -> None:
    """Print a line on stdout; characters outside the terminal's encoding are escaped."""
    encoding = sys.stdout.encoding
    with writing():
        print(text.encode(encoding, "backslashreplace").decode(encoding))


def note(text: str) -> None:
    """Print a remark on stderr."""
    print(text, file=sys.stderr)


def size(count: int | None) -> str:
    """Write a number of bytes for people."""
    if count is None:
        return "?"
    value, units = float(count), iter(("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = "B"
    while value >= 1024:  # noqa: PLR2004 - bytes of a KiB
        value, unit = value / 1024, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


@contextlib.contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Draw a bar of things on a terminal's stderr; yields what to call with each number of things done."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as drawn:
        task = drawn.add_task(what, total=total)
        yield lambda count: drawn.advance(task, count)


@contextlib.contextmanager
def progress(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Draw a bar of bytes on a terminal's stderr; yields what to call with each count of bytes done."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as drawn:
        task = drawn.add_task(what, total=total_bytes)
        yield lambda count: drawn.advance(task, count)
