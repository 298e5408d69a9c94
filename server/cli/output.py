"""The output of commands. Text that a client chose goes through `show`, and through nothing else.

Nothing here is coloured, and progress is drawn only on a terminal's stderr, so a pipe gets plain lines.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dropoff_tus import shown
from dropoff_tus.errors import ToldError

show = shown.show


class CommandError(ToldError):
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


def answer(value: Any, sentence: str, *, as_json: bool) -> None:  # noqa: ANN401 - JSON
    """Print what a command did: as JSON, or for people as a remark."""
    if as_json:
        print_json(value)
    else:
        note(sentence)


def size(count: int | None) -> str:
    """Write a number of bytes for people."""
    if count is None:
        return "?"
    value, units = float(count), iter(("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = "B"
    while value >= 1024:  # noqa: PLR2004 - bytes of a KiB
        value, unit = value / 1024, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def steps(what: str, total: int) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Draw a bar of things on a terminal's stderr; yields what to call with each number of things done."""
    return _bar(what, total)


def progress(what: str, total_bytes: int) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Draw a bar of bytes on a terminal's stderr; yields what to call with each count of bytes done."""
    return _bar(what, total_bytes, in_bytes=True)


@contextlib.contextmanager
def _bar(what: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    # Only a terminal needs them, and `--help` waits for nothing.
    from rich import console  # noqa: PLC0415
    from rich import progress as bars  # noqa: PLC0415

    columns: tuple[bars.ProgressColumn, ...] = bars.Progress.get_default_columns()
    if in_bytes:
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.DownloadColumn(binary_units=True),
            bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(),
        )
    with bars.Progress(*columns, console=console.Console(stderr=True)) as drawn:
        task = drawn.add_task(what, total=total)
        yield lambda count: drawn.advance(task, count)
