"""Common parts of commands: finding the configuration, and running on opened services.

A command imports what it runs when it runs it, so that `--help` and small commands do not wait for all the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from server.cli.output import CommandError, say

if TYPE_CHECKING:
    from dropoff_tus.audit import Actor
    from server.services import Services
    from server.settings.config import Config
    from storage.catalog import SqlCatalog
    from storage.keyring.signing import SigningKey
    from storage.open import FileStore

T = TypeVar("T")
_CONFIG_HELP = "The configuration file; else $DROPOFF_TUS_CONFIG, else ./config.toml. Before or after the command."
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=_CONFIG_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CONFIG_VARIABLE, _PERSON_VARIABLE = "DROPOFF_TUS_CONFIG", "DROPOFF_TUS_AS"
_PERSON = re.compile(r"\w[\w .@+\\-]{0,63}")
_LOGIN_UID = Path("/proc/self/loginuid")
_NO_LOGIN = 2**32 - 1


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        say(f"dropoff-tus {version('dropoff-tus')}")
        raise typer.Exit


_VersionOption = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
]


def _person(text: str | None) -> str | None:
    if text is not None and _PERSON.fullmatch(text) is None:
        message = "write a name of at most 64 letters, digits, spaces and . _ @ + - as the audit is to have it"
        raise typer.BadParameter(message)
    return text


_PERSON_HELP = "Your name for the audit, where the user that runs this is not you; else $DROPOFF_TUS_AS."
_PersonOption = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", envvar=_PERSON_VARIABLE, show_envvar=False, help=_PERSON_HELP, callback=_person
    ),
]
_UPLOAD_URL_END = re.compile(r"/files/[^/]+/([0-9a-f]{32})/?(?:[?#].*)?$")


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
            os.environ[_PERSON_VARIABLE] = person

    app.callback(help=text)(options)
    return app


def read_config(given: Path | None) -> Config:
    """Read the configuration that the command line names."""
    from server.settings.config import load_config

    return load_config(given)


def with_services(given: Path | None, work: Callable[[Services, Config], Awaitable[T]], *, reading: bool = False) -> T:
    """Open everything, do the work, close everything.

    Args:
        given: The configuration that the command names.
        work: What to do.
        reading: Nothing is written, so nothing is synced before the answer; syncs would be most of a list's time.
    """
    config = read_config(given)
    if reading:
        config = config.model_copy(update={"store": config.store.model_copy(update={"durability": "os"})})
    silence_logs()
    from dropoff_tus.audit import acting
    from server.services import open_services

    async def run() -> T:
        async with open_services(config) as services:
            with acting(operator):
                return await work(services, config)

    return asyncio.run(run())


def with_catalog(given: Path | None, work: Callable[[SqlCatalog, Config], Awaitable[T]]) -> T:
    """Open only the catalog: quicker, and possible without the keys."""
    config = read_config(given)
    silence_logs()
    from dropoff_tus.audit import acting
    from server.places import check_whose
    from storage.catalog import open_catalog

    check_whose(config)

    async def run() -> T:
        async with open_catalog(config.catalog.url) as catalog:
            with acting(operator):
                return await work(catalog, config)

    return asyncio.run(run())


def operator() -> Actor:
    """Return the actor for the audit: this process's user, and the person behind it, with the source of that name.

    That is `--as`, else sudo; and the user who logged in, where that is somebody else: only the kernel's word for it
    cannot be made up.
    """
    from dropoff_tus.audit import Actor

    who = [_user_name(os.getuid())]
    said, became = os.environ.get(_PERSON_VARIABLE), os.environ.get("SUDO_USER", "")
    if said:
        who.append(f"as:{said}")
    elif _PERSON.fullmatch(became):
        who.append(f"sudo:{became}")
    login = _login()
    if login is not None:
        who.append(f"login:{login}")
    known: dict[str, str] = {}
    for name in who:
        known.setdefault(name.rpartition(":")[2], name)
    return Actor(f"operator:{'/'.join(known.values())}")


def _login() -> str | None:
    """Return the user who logged in, however often the user was changed since; None in a service or a container."""
    try:
        uid = int(_LOGIN_UID.read_text("ascii"))
    except (OSError, ValueError):
        return None
    return None if uid == _NO_LOGIN else _user_name(uid)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def with_copy(given: Path | None, public_keys: Sequence[str], work: Callable[[FileStore], Awaitable[T]]) -> T:
    """Open only a copy of the store, without catalog and keys of the server, to read with identities.

    Args:
        given: The configuration; of the keys that it names none is looked at.
        public_keys: Public signing keys to verify with, as text or in files, oldest first.
        work: What to do.
    """
    config = read_config(given)
    silence_logs()
    from server.services import store_settings
    from storage.files.marker import check_store
    from storage.keyring.keys import verifying_keys
    from storage.open import FileStore

    keys = verifying_keys([key_text(text) for text in public_keys], config.keys.ingest_dir)

    async def run() -> T:
        store = FileStore(store_settings(config), keys)
        check_store(store.layout, None)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def key_text(text: str) -> str:
    """Return the public key that `--key` gives, itself or in a file."""
    return _given(text).strip()


def recipients_option(given: Sequence[str]) -> tuple[str, ...]:
    """Return the recipients that `--recipient` gives, each itself, or several in a file as `age -R` takes it.

    Raises:
        CommandError: A file cannot be read, is no text, or lists none, which must not pass for wanting none.
    """
    from dropoff_tus.text import entries

    recipients: list[str] = []
    for text in given:
        listed = entries(_given(text))
        if text and not listed:
            message = f"{text} lists no recipient; write one a line into it. Nothing was changed"
            raise CommandError(message)
        recipients += listed
    return tuple(recipients)


def _given(text: str) -> str:
    """Return what an option says, itself or in a file.

    Raises:
        CommandError: The file cannot be read, or is no text.
    """
    if not os.path.exists(text):  # noqa: PTH110 - a path does not take what is too long for a file's name
        return text
    from dropoff_tus.text import decode_text

    try:
        return decode_text(Path(text).read_bytes())
    except OSError as error:
        message = f"cannot read {text}: {error.strerror}"
    except ValueError as error:
        message = f"{text} {error}"
    raise CommandError(message)


def pinned_key(public_keys: Sequence[str] | None) -> SigningKey:
    """Return a verifier with only the public keys of `--key`: offline, with no key of this machine.

    Raises:
        CommandError: There is none, or one cannot be read.
    """
    from storage.keyring.keys import verifying_keys

    if not public_keys:
        message = "--key is missing: give the server's public key, as `dropoff-tus keys show` prints it there"
        raise CommandError(message)
    return verifying_keys([key_text(text) for text in public_keys], Path("/nonexistent")).signing


def silence_logs() -> None:
    """Silence the loggers: the command reports a failure itself, in a sentence."""
    logging.disable(logging.CRITICAL)


def time_option(text: str | None, option: str) -> datetime | None:
    """Read `7d` from now, or an RFC 3339 time; it must lie ahead."""
    if not text or text == "0":
        return None
    from server.settings.units import parse_time

    now = datetime.now(UTC)
    try:
        moment = parse_time(text, now)
    except ValueError as error:
        message = f"{option} {error}"
        raise CommandError(message) from None
    if moment <= now:
        message = f"{option} lies in the past; write a time to come, or e.g. 7d"
        raise CommandError(message)
    return moment


def size_option(text: str | None, default: int, option: str) -> int:
    """Read a size, or the configured default where there is none."""
    if text is None:
        return default
    from server.settings.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        message = f"{option} {error}"
        raise CommandError(message) from None


def duration_option(text: str | None, default: float, option: str) -> float:
    """Read a duration in seconds, or the configured default where there is none."""
    if text is None:
        return default
    from server.settings.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        message = f"{option} {error}"
        raise CommandError(message) from None


async def find_upload(catalog: SqlCatalog | None, store: FileStore, text: str) -> str:
    """Return the id of an upload given by id, token or URL, in the catalog or, where its row was lost, in the store.

    Without a catalog, as on another machine, only the store is asked.

    Raises:
        CommandError: It is none of these, or unknown.
    """
    from dropoff_tus.errors import UploadDamagedError, UploadNotFoundError
    from dropoff_tus.ids import is_upload_id, upload_id

    found = _UPLOAD_URL_END.search(text)
    if found:
        candidates = [upload_id(found[1])]
    elif is_upload_id(text):
        candidates = [text, upload_id(text)]
    else:
        message = "that is no upload id, token or upload URL; list them with `dropoff-tus upload list`"
        raise CommandError(message)
    for candidate in candidates:
        if catalog is not None and await catalog.upload(candidate) is not None:
            return candidate
    for candidate in candidates:
        try:
            await store.stat(candidate)
        except UploadNotFoundError:
            continue
        except UploadDamagedError:
            pass  # it is there; the following calls fail with the reason
        return candidate
    message = "there is no such upload; list them with `dropoff-tus upload list --all`"
    raise CommandError(message)
