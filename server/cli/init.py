"""`init`: everything a new server needs, made beside its final place and put there whole."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.context import JsonOption, operator, time_option
from server.cli.drop import ROOT_IDENTITY, create_drop, created_json, load_keys, say_created
from server.cli.output import CommandError, note, print_json, say

if TYPE_CHECKING:
    from server.config import Config

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
signing_key = "secrets/signing-key"
code_key = "secrets/code-key"
managed_identity = "secrets/managed-identity.txt"
ingest_dir = "secrets/ingest"

[catalog]
url = {catalog_url}
"""
_SQLITE = "sqlite:///catalog.sqlite3"
_LAST_PORT = 65534


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="init")(init)


def init(
    directory: Annotated[Path, typer.Option("--dir", help="The folder to make.", show_default=False)],
    listen: Annotated[str, typer.Option(help="HOST:PORT; monitoring listens on the next port.")] = "127.0.0.1:8080",
    recipient: Annotated[
        list[str] | None, typer.Option(help="An age recipient (age1…) that can open every upload. May be repeated.")
    ] = None,
    key_type: Annotated[str, typer.Option(help="hybrid (post-quantum) or x25519, for a new root identity.")] = "hybrid",
    catalog_url: Annotated[
        str,
        typer.Option(
            help="Where drop-offs are kept; an empty PostgreSQL database is postgresql://user@host/db (a password is "
            "best in ~/.pgpass)."
        ),
    ] = _SQLITE,
    as_json: JsonOption = False,
) -> None:
    """Make a configuration, keys, folders and a first drop-off.

    Example: dropoff-tus init --dir /srv/dropoff --listen 127.0.0.1:8080
    """
    if key_type not in {"hybrid", "x25519"}:
        message = "--key-type must be hybrid or x25519"
        raise CommandError(message)
    recipients = list(recipient or ())
    from storage.keys import check_recipients

    check_recipients(recipients)
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _LAST_PORT:
        message = f"--listen must be HOST:PORT with a port from 1 to {_LAST_PORT}, e.g. 127.0.0.1:8080"
        raise CommandError(message)
    target = directory.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        message = f"{target} exists already and was left as it is; choose another --dir"
        raise CommandError(message)
    building = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
    except OSError as error:
        message = f"cannot make a folder in {target.parent}: {error.strerror}; choose another --dir"
        raise CommandError(message) from None
    try:
        made = _build(building, listen, f"{host}:{int(port) + 1}", recipients, key_type, catalog_url)
        if target.exists():
            target.rmdir()
        os.rename(building, target)  # noqa: PTH104, TID251 - the last step, of a folder nobody uses yet
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _answer(target, made, rooted=not recipients, as_json=as_json)


def _build(
    folder: Path, listen: str, monitoring: str, recipients: list[str], key_type: str, catalog_url: str
) -> dict[str, object]:
    from storage.catalog import migrate
    from storage.keys import generate_root_identity, generate_server_keys

    generate_server_keys(folder / "secrets")
    if not recipients:
        recipients = [generate_root_identity(folder / ROOT_IDENTITY, key_type)]
    for name in ("store", "keys"):
        (folder / name).mkdir(mode=0o700)
    file = folder / "config.toml"
    file.write_text(
        _TEMPLATE.format(
            listen=json.dumps(listen),
            monitoring=json.dumps(monitoring),
            recipients=json.dumps(recipients),
            catalog_url=json.dumps(catalog_url),
        ),
        "utf-8",
    )
    file.chmod(0o600)
    config = _read(file)
    migrate(config.catalog.url)
    return asyncio.run(_first_drop(config))


def _read(file: Path) -> Config:
    from server.config import ConfigError, load_config

    try:
        # What is made lies in the folder, wherever the environment would have a running server look.
        return load_config(file, _shown_settings())
    except ConfigError as error:
        message = f"the new configuration would be wrong: {error}"
        raise CommandError(message) from None


async def _first_drop(config: Config) -> dict[str, object]:
    from dropoff_tus.audit import acting
    from server.dropoffs import NewDrop
    from server.services import identify_store
    from storage.catalog import open_catalog

    async with open_catalog(config.catalog.url) as catalog:
        if await catalog.dropoffs():
            message = "the catalog holds drop-offs already, which other keys have signed; name an empty database"
            raise CommandError(message)
        defaults = config.dropoffs
        new = NewDrop(
            name="First drop-off",
            limits=defaults.limits,
            expires_at=time_option(defaults.expires, "dropoffs.expires"),
            notify=defaults.notify,
            retain_seconds=int(defaults.retain),
            contact=defaults.contact,
        )
        with acting(operator):
            created = created_json(config, *await create_drop(catalog, load_keys(config), new))
        await identify_store(config, catalog)
        return created


def _shown_settings() -> dict[str, str]:
    """Return the overrides that change no place: of the addresses shown, and of what a drop-off is by default."""
    from server.config_source import PREFIX

    followed = (f"{PREFIX}SERVER__", f"{PREFIX}DROPOFFS__")
    return {name: value for name, value in os.environ.items() if name.startswith(followed)}


def _answer(target: Path, made: dict[str, object], *, rooted: bool, as_json: bool) -> None:
    if rooted:
        note(
            f"The root identity that opens every upload is {target / ROOT_IDENTITY}.\n"
            "Move it off this machine and keep a copy: without it sealed uploads cannot be read, and with it here a "
            "thief reads all."
        )
    if as_json:
        print_json({"config": str(target / "config.toml"), "drop": made})
        return
    say(f"configuration: {target / 'config.toml'}")
    say_created(made)
