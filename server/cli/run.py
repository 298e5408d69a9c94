"""`serve`, `check-config`, `migrate`."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import typer

from server.cli.context import ConfigOption, JsonOption, read_config
from server.cli.output import CommandError, note, print_json, say

if TYPE_CHECKING:
    from server.config import Config


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command("check-config")(check_config)
    app.command("migrate")(migrate_command)


def serve(config: ConfigOption = None) -> None:
    """Run the server until SIGTERM; prints `ready URL` once it accepts.

    What is being received when it stops is kept: clients resume where they were.

    Example: dropoff-tus serve --config /srv/dropoff/config.toml
    """
    loaded = read_config(config)
    from server import app as application
    from server import logs

    logs.configure(loaded.log.format, loaded.log.level)
    # The server has its own way to end, and a terminal that closes is no reason to.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.exit(application.serve(loaded))


def check_config(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say what is wrong with the configuration, or nothing; exits with 1 if something is.

    Looks at names and values, at every key's source, and at files that are named. It changes nothing.

    Example: dropoff-tus check-config --config config.toml
    """
    from server.config import ConfigError

    mistakes: list[str] = []
    remarks: list[str] = []
    try:
        loaded = read_config(config)
    except ConfigError as error:
        mistakes = str(error).splitlines()
    else:
        mistakes, remarks = _deeper(loaded)
    if as_json:
        print_json({"mistakes": mistakes, "remarks": remarks})
    for remark in () if as_json else remarks:
        note(remark)
    if mistakes and not as_json:
        raise CommandError("\n".join(mistakes))
    if mistakes:
        sys.exit(1)


def _deeper(config: Config) -> tuple[list[str], list[str]]:
    """Check what reading the file alone cannot: the catalog's URL, recipients, keys, certificates."""
    import ssl

    from server.places import key_places
    from storage.catalog import check_url
    from storage.keys import KeySourceError, check_recipient, load_server_keys

    mistakes: list[str] = []
    wrong = check_url(config.catalog.url)
    if wrong is not None:
        mistakes.append(f"catalog.url: {wrong}")
    kinds: set[str] = set()
    for text in config.keys.root_recipients:
        try:
            kinds.add(check_recipient(text))
        except KeySourceError as error:
            mistakes.append(f"keys.root_recipients: {error}")
    if len(kinds) > 1:
        mistakes.append("keys.root_recipients: mixes age1… and age1pq1…; write one type")
    try:
        load_server_keys(key_places(config))
    except KeySourceError as error:
        mistakes.append(f"keys: {error}")
    mistakes += _wrong_secrets(config)
    if config.server.tls_cert and config.server.tls_key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.server.tls_cert, config.server.tls_key)
        except OSError as error:
            mistakes.append(
                f"server.tls_cert, server.tls_key: cannot be used: {error.strerror or error}; write a PEM certificate "
                "and its key"
            )
    socket = config.server.unix_socket
    if socket is not None and not socket.parent.is_dir():
        mistakes.append(f"server.unix_socket: there is no folder {socket.parent}; make it, or write another path")
    return mistakes, _remarks(config)


def _remarks(config: Config) -> list[str]:
    """Name what may be meant so, and probably is not."""
    remarks: list[str] = []
    if not config.keys.root_recipients:
        remarks.append("keys.root_recipients: is empty; only drop-offs with recipients of their own can receive")
    if config.dropoffs.notify and config.mail.server is None:
        remarks.append("dropoffs.notify: section [mail] names no server, so nobody is notified")
    return remarks


def _wrong_secrets(config: Config) -> list[str]:
    """Try the sources of what signs and logs in elsewhere."""
    from server.deliveries import secrets_of
    from server.services import StartError

    try:
        secrets_of(config)
    except StartError as error:
        return [str(error)]
    return []


def migrate_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Bring the catalog's tables up to date. Safe to repeat, and beside a running server.

    Example: dropoff-tus migrate --config config.toml
    """
    loaded = read_config(config)
    from server.places import check_whose
    from storage.catalog import migrate

    check_whose(loaded)
    applied = migrate(loaded.catalog.url)
    if as_json:
        print_json({"applied": applied})
    else:
        say(f"applied: {', '.join(applied)}" if applied else "the catalog is up to date")
