"""The commands put together, and the one place where errors become sentences and exit codes.

| exit code | means |
|---|---|
| 0 | done |
| 1 | not done, or something was found; a sentence on stderr says what |
| 2 | the command line itself is wrong |
| 128 + n | ended by signal n |
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

from server.cli import (
    audit,
    check,
    doctor,
    drop,
    init,
    keys,
    outbox,
    purge,
    receipts,
    run,
    signing,
    store,
    token,
    upload,
)
from server.cli.context import group
from server.cli.output import writing

_OUR_ERRORS = (
    ("server.cli.output", "CommandError"),
    ("dropoff_tus.errors", "DropoffError"),
    ("server.settings.config", "ConfigError"),
    ("server.services", "StartError"),
    ("storage.files.marker", "WrongStoreError"),
    ("storage.catalog", "CatalogError"),
    ("storage.keyring.keys", "KeySourceError"),
    ("storage.files.owner", "ForeignOwnerError"),
)
"""Whose text is written for the operator."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = group(
    "Receive private files: every byte is encrypted before it touches the disk.\n\n"
    "Begin with `dropoff-tus init --dir DIR`, then `dropoff-tus --config DIR/config.toml serve`.\n"
    "Every command has --help with an example; those that answer have --json.",
)
init.register(app)
run.register(app)
check.register(app)
app.add_typer(drop.app, name="drop")
app.add_typer(upload.app, name="upload")
receipts.register(app, upload.app)
purge.register(app, drop.app)
app.add_typer(token.app, name="token")
app.add_typer(audit.app, name="audit")
app.add_typer(store.app, name="store")
app.add_typer(outbox.app, name="outbox")
signing.register(keys.app)
app.add_typer(keys.app, name="keys")
doctor.register(app)


def main() -> None:
    """Run the command line; a user's mistake is a sentence, never a traceback."""
    _complete_streams()
    for number in _SIGNALS:
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
        sentence = _sentence(error)
        if sentence is None:
            raise
        _discard_stdout()
        print(f"dropoff-tus: {sentence}", file=sys.stderr)
        sys.exit(1)


def _sentence(error: Exception) -> str | None:
    """Say what happened; None for a bug, whose traceback is what helps."""
    for module, name in _OUR_ERRORS:
        # What was not imported was not raised either, and is not imported for a sentence.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return f"{error}{_place(error) if name == 'DropoffError' else ''}"
    if isinstance(error, OSError):
        what = error.strerror or type(error).__name__
        return f"{error.filename}: {what}" if error.filename else f"the system refused: {what}"
    return None


def _place(error: Exception) -> str:
    """Return what a server would tell its log of a disk that failed; a command's log is off."""
    cause = error.__cause__
    return f" ({cause.filename}: {cause.strerror})" if isinstance(cause, OSError) and cause.filename else ""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """End in order: what is half written is removed on the way out. A second signal ends at once."""
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
