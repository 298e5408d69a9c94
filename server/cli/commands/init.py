"""`init`: everything a new server needs, made in its place, and taken away again where something fails."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from dropoff_tus.audit import acting
from dropoff_tus.errors import InvalidFieldError
from dropoff_tus.model import Mode
from server.cli.commands.drop import ROOT_IDENTITY, created_json, dropoffs, load_keys, say_created
from server.cli.context import JsonOption, recipients_option
from server.cli.opening import operator
from server.cli.output import CommandError, note, print_json, say
from server.clock import SystemClock
from server.http.listeners import ListenError, listen_on
from server.places import layout_of
from server.services import identify_store
from server.settings.config import Config, ConfigError, load_config
from server.settings.config_source import PREFIX
from storage.catalog import migrate, open_catalog
from storage.files.durable import Disk
from storage.files.marker import adopt_store
from storage.keyring.identities import check_recipients, generate_root_identity
from storage.keyring.keys import generate_server_keys

_TEMPLATE = """# dropoff-tus configuration. config.example.toml describes every key.
# Relative paths are relative to this file.

[server]
listen = {listen}
# public_url = "https://drop.example.org"

[monitoring]
listen = {monitoring}

[store]
dir = "store"
keys_dir = "keys"

[keys]
root_recipients = {recipients}
signing_key = {signing_key}
code_key = {code_key}
managed_identity = {managed_identity}
ingest_dir = "secrets/ingest"

[catalog]
url = {catalog_url}
"""
_SQLITE = "sqlite:///catalog.sqlite3"
_SECRETS = "secrets"
_OF_A_VOLUME = "lost+found"
"""Names that an empty file system may have."""
_LAST_PORT = 65534
_CONFIG, _UNFINISHED = "config.toml", "config.toml.new"


def init(
    directory: Annotated[Path, typer.Option("--dir", help="The folder to make.", show_default=False)],
    listen: Annotated[str, typer.Option(help="HOST:PORT; monitoring listens on the next port.")] = "127.0.0.1:8080",
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            help="An age recipient (age1…) that can open every upload, or a file with one a line. May be repeated."
        ),
    ] = None,
    key_type: Annotated[str, typer.Option(help="hybrid (post-quantum) or x25519, for a new root identity.")] = "hybrid",
    catalog_url: Annotated[
        str,
        typer.Option(
            help="Where drop-offs are kept; an empty PostgreSQL database is postgresql://user@host/db (a password is "
            "best in a file that ?passfile= names)."
        ),
    ] = _SQLITE,
    secrets: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the server's own keys: those that are there are used, others made. Else below --dir.",
            show_default=False,
        ),
    ] = None,
    if_missing: Annotated[
        bool,
        typer.Option(
            "--if-missing",
            help="For a container or another program that starts it each time: change nothing where --dir has a "
            "configuration; go on where an earlier one was killed; make no drop-off, whose code a log would keep.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a configuration, keys, folders and a first drop-off.

    Example: dropoff-tus init --dir /srv/dropoff --listen 127.0.0.1:8080
    """
    # Where a link leads, all that is made and synced below it stays the same when it is turned elsewhere.
    setup = _Setup(Path(os.path.realpath(directory)), resuming=if_missing)
    if if_missing and (setup.folder / _CONFIG).exists():
        _answer(setup.folder, None, rooted=False, as_json=as_json)
        return
    if if_missing and not recipient:
        message = "--if-missing needs --recipient: nobody may be there to move a new root identity off the machine"
        raise CommandError(message)
    if key_type not in {"hybrid", "x25519"}:
        raise CommandError("--key-type must be hybrid or x25519")
    recipients = list(recipients_option(recipient or ()))
    check_recipients(recipients)
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _LAST_PORT:
        raise CommandError(f"--listen must be HOST:PORT with a port from 1 to {_LAST_PORT}, e.g. 127.0.0.1:8080")
    # Whoever starts it each time may hold the address for it.
    for part in () if if_missing else (int(port), int(port) + 1):
        _refuse_taken(host, part)
    setup.claim()
    try:
        config = setup.write(listen, f"{host}:{int(port) + 1}", recipients, key_type, catalog_url, secrets)
        made = asyncio.run(setup.first_drop(config))
        setup.finish()
    except BaseException as error:
        if not setup.settled:
            setup.take_away()
            raise
        if if_missing:
            raise
        setup.finish()
        if isinstance(error, Exception):
            raise CommandError(
                f"{error}. The catalog may have its first drop-off by now, so all else was left in {setup.folder}: "
                "look with `dropoff-tus drop list`, and make one with `drop create`"
            ) from None
        raise
    _answer(setup.folder, made, rooted=not recipients, as_json=as_json)


def _refuse_taken(host: str, port: int) -> None:
    """Show nobody the URLs of somebody else's server."""
    try:
        for listening in listen_on(host.strip("[]"), port, f"{host}:{port}"):
            listening.close()
    except ListenError as error:
        # Other files may belong to another machine, or another user.
        if error.taken:
            raise CommandError(str(error)) from None


@dataclass(slots=True)
class _Setup:
    """The files that `init` makes, in the folder itself: it may be a mount point, or its parent another's."""

    folder: Path
    resuming: bool = False
    """Whether to go on where an earlier `init` was killed, and to make no drop-off."""
    settled: bool = False
    """Whether a catalog elsewhere may know the keys made here: they must stay then."""
    _missing: list[Path] = field(default_factory=list)

    @property
    def _unfinished(self) -> Path:
        """The configuration, until all else is made: so no server can have received anything yet."""
        return self.folder / _UNFINISHED

    def claim(self) -> None:
        """Make the folder, or take an empty one, and keep every other `init` out.

        Raises:
            CommandError: It cannot be had; nothing was made.
        """
        try:
            self._missing = [path for path in (self.folder, *self.folder.parents) if not os.path.exists(path)]  # noqa: PTH110 - a path raises
            Disk(sync=True).make_root(self.folder)
            there = {path.name for path in self.folder.iterdir()} - {_OF_A_VOLUME}
            taken = self.folder if there and not (self.resuming and _UNFINISHED in there) else None
            if taken is None:
                self._unfinished.touch(mode=0o600, exist_ok=self.resuming)
                # Until this process ends.
                fcntl.flock(os.open(self._unfinished, os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileExistsError, BlockingIOError):
            taken = self._unfinished
        except OSError as error:
            self._remove_folders()
            above = self._missing[-1].parent if self._missing else self.folder
            raise CommandError(f"cannot make a folder in {above}: {error.strerror}; choose another --dir") from None
        if taken:
            raise CommandError(f"{taken} exists already and was left as it is; choose another --dir")

    def take_away(self) -> None:
        """Leave the folder as it was found."""
        for path in self.folder.iterdir():
            if path.name != _OF_A_VOLUME:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._remove_folders()

    def _remove_folders(self) -> None:
        for path in self._missing:
            with contextlib.suppress(OSError):
                path.rmdir()

    def write(
        self,
        listen: str,
        monitoring: str,
        recipients: list[str],
        key_type: str,
        catalog_url: str,
        secrets: Path | None,
    ) -> Config:
        """Make keys, folders, the configuration and the tables."""
        keys = generate_server_keys((secrets or self.folder / _SECRETS).absolute(), self.folder / _SECRETS / "ingest")
        if not recipients:
            recipients = [generate_root_identity(self.folder / ROOT_IDENTITY, key_type)]
        self._unfinished.write_text(
            _TEMPLATE.format(
                listen=json.dumps(listen),
                monitoring=json.dumps(monitoring),
                recipients=json.dumps(recipients),
                catalog_url=json.dumps(catalog_url),
                signing_key=self._place(keys.signing_key),
                code_key=self._place(keys.code_key),
                managed_identity=self._place(keys.managed_identity),
            ),
            "utf-8",
        )
        config = _read(self._unfinished)
        adopt_store(layout_of(config), in_use=False)
        migrate(config.catalog.url)
        return config

    def _place(self, path: str) -> str:
        """Write a path for the configuration, which lies in the folder."""
        return json.dumps(path.removeprefix(f"{self.folder}/"))

    def finish(self) -> None:
        """Give the configuration its name."""
        disk = Disk(sync=True)
        disk.sync_path(self._unfinished)
        self._unfinished.rename(self.folder / _CONFIG)
        disk.sync_path(self.folder)

    async def first_drop(self, config: Config) -> dict[str, object] | None:
        """Make a first drop-off in an empty catalog, and make the store its own."""
        async with open_catalog(config.catalog.url) as catalog:
            if await catalog.dropoffs() or (not self.resuming and await catalog.store_id()):
                message = "the catalog is in use already, under keys that are elsewhere; name an empty database"
                raise CommandError(message)
            if self.resuming:
                load_keys(config)
                self.settled = True
                await identify_store(config, catalog)
                return None
            terms = config.dropoffs.terms({"name": "First drop-off", "mode": Mode.MANAGED}, SystemClock().now())
            keys = load_keys(config)
            self.settled = not config.catalog.url.startswith(f"sqlite:///{self.folder}/")
            with acting(operator):
                try:
                    created = created_json(config, *await dropoffs(catalog, keys).create(terms))
                except InvalidFieldError:
                    self.settled = False
                    raise
            await identify_store(config, catalog)
            return created


def _read(file: Path) -> Config:
    try:
        # Everything lies in the folder, wherever the environment would have a running server look.
        return load_config(file, _shown_settings())
    except ConfigError as error:
        raise CommandError(f"the new configuration would be wrong: {error}") from None


def _shown_settings() -> dict[str, str]:
    """Return the overrides that change no place: of the addresses shown, and of what a drop-off is by default."""
    followed = (f"{PREFIX}SERVER__", f"{PREFIX}DROPOFFS__")
    return {name: value for name, value in os.environ.items() if name.startswith(followed)}


def _answer(target: Path, made: dict[str, object] | None, *, rooted: bool, as_json: bool) -> None:
    if rooted:
        note(
            f"The root identity that opens every upload is {target / ROOT_IDENTITY}.\n"
            "Move it off this machine and keep a copy: without it sealed uploads cannot be read, and with it here a "
            "thief reads all."
        )
    if as_json:
        print_json({"config": str(target / _CONFIG), "drop": made})
        return
    say(f"configuration: {target / _CONFIG}")
    if made is not None:
        say_created(made)
