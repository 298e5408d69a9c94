"""`serve`, `check-config`, `migrate`."""

import sys

import typer

from server import app as application
from server import logs
from server.cli.context import CommandError, ConfigOption, note, say
from server.config import load_config
from server.services import key_places
from storage.catalog import check_url, migrate
from storage.keys import check_recipient, load_server_keys


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command("check-config")(check_config)
    app.command("migrate")(migrate_command)


def serve(config: ConfigOption = None) -> None:
    """Run the server until SIGTERM; prints `ready URL` once it accepts."""
    loaded = load_config(config)
    logs.configure(loaded.log.format, loaded.log.level)
    sys.exit(application.serve(loaded))


def check_config(config: ConfigOption = None) -> None:
    """Say what is wrong with the configuration, or nothing."""
    loaded = load_config(config)
    wrong = check_url(loaded.catalog.url)
    if wrong is not None:
        message = f"catalog.url: {wrong}"
        raise CommandError(message)
    kinds = {check_recipient(text) for text in loaded.keys.root_recipients}
    if not kinds:
        note("keys.root_recipients: is empty; only drop-offs with recipients of their own can receive")
    if len(kinds) > 1:
        message = "keys.root_recipients: mixes age1… and age1pq1…; use one type"
        raise CommandError(message)
    load_server_keys(key_places(loaded))


def migrate_command(config: ConfigOption = None) -> None:
    """Bring the catalog's tables up to date."""
    applied = migrate(load_config(config).catalog.url)
    say(f"applied: {', '.join(applied)}" if applied else "the catalog is up to date")
