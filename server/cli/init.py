"""`init`: everything a new server needs, made beside its final place and put there whole."""

import asyncio
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Annotated

import typer

from server.cli.context import CommandError, JsonOption, note, print_json, say
from server.cli.drop import NewDrop, create_drop, created_json, say_created
from server.config import ConfigError, load_config
from server.config_source import PREFIX
from server.services import open_services
from storage.catalog import migrate
from storage.keys import check_recipient, generate_root_identity, generate_server_keys

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
url = "sqlite:///catalog.sqlite3"
"""
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
    as_json: JsonOption = False,
) -> None:
    """Make a configuration, keys, folders and a first drop-off.

    Example: dropoff-tus init --dir /srv/dropoff --listen 127.0.0.1:8080
    """
    if key_type not in {"hybrid", "x25519"}:
        message = "--key-type must be hybrid or x25519"
        raise CommandError(message)
    recipients = list(recipient or ())
    if len({check_recipient(text) for text in recipients}) > 1:
        message = "all recipients must be of one type: age1… or age1pq1…"
        raise CommandError(message)
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _LAST_PORT:
        message = f"--listen must be HOST:PORT with a port from 1 to {_LAST_PORT}, e.g. 127.0.0.1:8080"
        raise CommandError(message)
    target = directory.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        message = f"{target} exists already and was left as it is; choose another --dir"
        raise CommandError(message)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    building.mkdir(mode=0o700)
    try:
        made = _build(building, listen, f"{host}:{int(port) + 1}", recipients, key_type)
        if target.exists():
            target.rmdir()
        os.rename(building, target)  # noqa: PTH104, TID251 - the last step, of a folder nobody uses yet
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _answer(target, made, rooted=not recipients, as_json=as_json)


def _build(folder: Path, listen: str, monitoring: str, recipients: list[str], key_type: str) -> dict[str, object]:
    generate_server_keys(folder / "secrets")
    if not recipients:
        recipients = [generate_root_identity(folder / "root-identity.txt", key_type)]
    for name in ("store", "keys"):
        (folder / name).mkdir(mode=0o700)
    file = folder / "config.toml"
    file.write_text(
        _TEMPLATE.format(
            listen=json.dumps(listen), monitoring=json.dumps(monitoring), recipients=json.dumps(recipients)
        ),
        "utf-8",
    )
    file.chmod(0o600)
    try:
        # What is made lies in the folder, wherever the environment would have a running server look.
        config = load_config(file, _shown_settings())
    except ConfigError as error:
        message = f"the new configuration would be wrong: {error}"
        raise CommandError(message) from None
    migrate(config.catalog.url)

    async def first() -> dict[str, object]:
        async with open_services(config) as services:
            return created_json(config, *await create_drop(services, NewDrop(name="First drop-off")))

    return asyncio.run(first())


def _shown_settings() -> dict[str, str]:
    """Return the overrides that only change the addresses shown."""
    return {name: value for name, value in os.environ.items() if name.startswith(f"{PREFIX}SERVER__")}


def _answer(target: Path, made: dict[str, object], *, rooted: bool, as_json: bool) -> None:
    if rooted:
        note(
            f"The root identity that opens every upload is {target / 'root-identity.txt'}.\n"
            "Move it off this machine and keep a copy: without it sealed uploads cannot be read, and with it here a "
            "thief reads all."
        )
    if as_json:
        print_json({"config": str(target / "config.toml"), "drop": made})
        return
    say(f"configuration: {target / 'config.toml'}")
    say_created(made)
