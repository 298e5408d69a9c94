"""`serve`, `migrate`."""

from __future__ import annotations

import sys

import typer

from server.cli.context import ConfigOption, JsonOption, read_config
from server.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command("migrate")(migrate_command)


def serve(config: ConfigOption = None) -> None:
    """Run the server until SIGTERM, SIGINT or SIGHUP; prints `ready URL` once it accepts.

    What is being received when it stops is kept: clients resume where they were.

    Example: dropoff-tus serve --config /srv/dropoff/config.toml
    """
    loaded = read_config(config)
    from server import app as application
    from server import logs

    logs.configure(loaded.log.format, loaded.log.level)
    sys.exit(application.serve(loaded))


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
