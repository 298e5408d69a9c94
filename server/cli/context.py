"""Common parts of commands: options, and how they are read. Imported for `--help` too, so it imports little."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from dropoff_tus.text import decode_text, entries
from server.cli.output import CommandError, say
from server.settings.units import parse_past

T = TypeVar("T")
_CONFIG_HELP = "The configuration file; else $DROPOFF_TUS_CONFIG, else ./config.toml. Before or after the command."
_SINCE_HELP = "Only uploads that were completed, or if they are not were created, at this time or later."
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=_CONFIG_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
IdentityOption = Annotated[
    Path | None, typer.Option("--identity", metavar="FILE", help="A file with age identities, for sealed uploads.")
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="K",
        help="A public key of the server (`keys show`), or a file with it; retired ones first. May be repeated.",
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="A copy instead of the server's: a folder with `store` and `keys`. Needs no configuration.",
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="T", help=f"{_SINCE_HELP} A time with its zone, or how long ago, such as 7d."),
]
DropId = Annotated[str, typer.Argument(metavar="ID", help="The drop-off's id.", show_default=False)]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They end a command."""
CONFIG_VARIABLE, PERSON_VARIABLE = "DROPOFF_TUS_CONFIG", "DROPOFF_TUS_AS"
PERSON = re.compile(r"\w[\w .@+\\-]{0,63}")


def _say_version(asked: bool) -> None:
    if asked:
        say(f"dropoff-tus {installed_version('dropoff-tus')}")
        raise typer.Exit


_VersionOption = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
]


def _person(text: str | None) -> str | None:
    if text is not None and PERSON.fullmatch(text) is None:
        message = "write a name of at most 64 letters, digits, spaces and . _ @ + - as the audit is to have it"
        raise typer.BadParameter(message)
    return text


_PERSON_HELP = "Your name for the audit, where the user that runs this is not you; else $DROPOFF_TUS_AS."
_PersonOption = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", envvar=PERSON_VARIABLE, show_envvar=False, help=_PERSON_HELP, callback=_person
    ),
]


PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
"""How Typer is to behave: its errors and its help are plain text."""


def group(text: str, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """Make a group of commands, which takes `--config` and `--as` itself, for the command behind it."""
    app = typer.Typer(cls=cls, help=text, no_args_is_help=True, **PLAIN)

    def options(config: ConfigOption = None, person: _PersonOption = None, version: _VersionOption = False) -> None:
        del version  # said already, and nothing else is done then
        # What is named before the command is what the variable would have said.
        if config is not None:
            os.environ[CONFIG_VARIABLE] = str(config)
        if person is not None:
            os.environ[PERSON_VARIABLE] = person

    app.callback(help=text)(options)
    return app


def key_text(text: str) -> str:
    """Return the public key that `--key` gives, itself or in a file."""
    return _given(text).strip()


def recipients_option(given: Sequence[str]) -> tuple[str, ...]:
    """Return the recipients that `--recipient` gives, each itself, or several in a file as `age -R` takes it.

    Raises:
        CommandError: A file cannot be read, is no text, or lists none, which must not pass for wanting none.
    """
    recipients: list[str] = []
    for text in given:
        listed = entries(_given(text))
        if text and not listed:
            raise CommandError(f"{text} lists no recipient; write one a line into it. Nothing was changed")
        recipients += listed
    return tuple(recipients)


def _given(text: str) -> str:
    """Return what an option says, itself or in a file.

    Raises:
        CommandError: The file cannot be read, or is no text.
    """
    if not os.path.exists(text):  # noqa: PTH110 - a path does not take what is too long for a file's name
        return text
    try:
        return decode_text(Path(text).read_bytes())
    except OSError as error:
        message = f"cannot read {text}: {error.strerror}"
    except ValueError as error:
        message = f"{text} {error}"
    raise CommandError(message)


def parsed(read: Callable[[str], T], text: str, option: str) -> T:
    """Return what an option's text says, with the option's name before what is wrong with it."""
    try:
        return read(text)
    except ValueError as error:
        raise CommandError(f"{option} {error}") from None


def past(text: str | None, now: datetime) -> datetime | None:
    """Return the time that `--since` gives."""
    return None if text is None else parsed(lambda value: parse_past(value, now), text, "--since")


def confirm(question: str, doing: str, *, yes: bool, as_json: bool) -> None:
    """Ask before what cannot be undone, unless `--yes` has answered already.

    Raises:
        CommandError: There is nobody to ask, also where a program reads JSON.
    """
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise CommandError(f"there is nobody to ask; say --yes to {doing} without asking. Nothing was changed")
    typer.confirm(question, abort=True, err=True)
