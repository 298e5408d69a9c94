"""The commands put together, and the one place where errors become sentences and exit codes.

| exit code | means |
|---|---|
| 0 | done |
| 1 | not done, or something was found; a sentence on stderr says what |
| 2 | the command line itself is wrong |
| 128 + n | ended by signal n |
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import typer
from typer.core import TyperGroup

from dropoff_tus.errors import DropoffError, InvalidFieldError, ToldError
from dropoff_tus.model import TERMS
from server.cli.context import PLAIN, SIGNALS, group
from server.cli.output import writing


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command is: in `function` of a module, or a group in `app` of the first of several."""

    help: str
    modules: tuple[str, ...]
    function: str | None = None

    def load(self) -> Any:  # noqa: ANN401 - Typer has no public name for it
        """Import the command."""
        first, *_ = [importlib.import_module(f"server.cli.commands.{name}") for name in self.modules]
        if self.function is None:
            return typer.main.get_command(first.app)
        alone = typer.Typer(**PLAIN)
        alone.command()(getattr(first, self.function))
        return typer.main.get_command(alone)


PLACES = {
    "init": _Place("Make a configuration, keys and a first drop-off.", ("init",), "init"),
    "serve": _Place("Run the server.", ("serve",), "serve"),
    "migrate": _Place("Bring the catalog's tables up to date.", ("serve",), "migrate"),
    "check-config": _Place("Find mistakes in the configuration.", ("serve",), "check_config"),
    "doctor": _Place("Make a real upload, and say what is in the way.", ("doctor.command",), "doctor"),
    "drop": _Place("Make and manage drop-offs.", ("drop", "purge", "export")),
    "upload": _Place("List, export and delete uploads.", ("upload",)),
    "token": _Place("Make, list and revoke tokens for the API.", ("token",)),
    "audit": _Place("Export and verify the record of who did what.", ("audit",)),
    "store": _Place("Verify and clean the store.", ("store",)),
    "backup": _Place("Copy catalog, store and keys into a folder, and verify them.", ("backup",), "backup"),
    "import": _Place("Take over the uploads of a tusd.", ("importing",)),
    "outbox": _Place("List the events that webhook and mail have not delivered yet.", ("outbox",)),
    "keys": _Place("Make, show and rotate keys.", ("keys",)),
    "verify-receipt": _Place("Verify a receipt, and a file against it.", ("verify",), "verify_receipt"),
    "verify-certificate": _Place("Verify a certificate of erasure.", ("verify",), "verify_certificate"),
}
"""Every command, in the order of the help."""


class _Commands(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - as `_Place.load`
        """Import one."""
        return PLACES[name].load()

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(PLACES)

    def __len__(self) -> int:
        """Count them."""
        return len(PLACES)


class _Lazy(TyperGroup):
    """The program: its help, and a typing mistake, import no command."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - Typer's
        """Take the commands of the table."""
        super().__init__(**attributes)
        self.commands = cast("Any", _Commands())

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as `_Place.load`
        """List the commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in PLACES.items()])


app = group(
    "Receive private files: every byte is encrypted before it touches the disk.\n\n"
    "Begin with `dropoff-tus init --dir DIR`, then `dropoff-tus --config DIR/config.toml serve`.\n"
    "Every command has --help with an example; those that answer have --json.",
    cls=_Lazy,
)


def main() -> None:
    """Run the command line; a user's mistake gives a sentence, never a traceback."""
    _complete_streams()
    for number in SIGNALS:
        # `nohup` and a shell's background jobs have some ignored, and mean it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        try:
            app()
        finally:
            with writing():
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(1)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        _discard_stdout()
        print(f"dropoff-tus: {sentence}", file=sys.stderr)
        sys.exit(1)


def sentence_of(error: Exception) -> str | None:
    """Say what happened; None for a bug, whose traceback is what helps."""
    if isinstance(error, InvalidFieldError):
        option = TERMS[error.field].flag if error.field in TERMS else f"--{error.field}"
        return f"{option} {error.problem}"
    if isinstance(error, ToldError):
        # A server would tell its log which disk failed; a command's log is off.
        cause = error.__cause__ if isinstance(error, DropoffError) else None
        place = f" ({cause.filename}: {cause.strerror})" if isinstance(cause, OSError) and cause.filename else ""
        return f"{error}{place}"
    if isinstance(error, OSError):
        what = error.strerror or type(error).__name__
        return f"{error.filename}: {what}" if error.filename else f"the system refused: {what}"
    return None


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """End in order: half-written files are removed on the way out. A second signal ends at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def _complete_streams() -> None:
    """Refuse to answer into nowhere: a code that is shown once would be lost, and a file opened next become stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the life of the process
    if sys.stdout is None:
        print("dropoff-tus: stdout is closed, so there is nowhere to answer; nothing was done", file=sys.stderr)
        sys.exit(1)


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain of it while it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
