"""`serve`, `migrate`."""

from __future__ import annotations

import sys

from server.cli.context import ConfigOption, JsonOption, read_config
from server.cli.output import print_json, say


def serve(config: ConfigOption = None) -> None:
    """Run the server until SIGTERM, SIGINT or SIGHUP; prints `ready URL` once it accepts.

    Bytes that arrive until it stops are kept: clients resume where they were.

    Example: dropoff-tus serve --config /srv/dropoff/config.toml
    """
    loaded = read_config(config)
    from server import app as application
    from server import logs

    logs.configure(loaded.log.format, loaded.log.level)
    sys.exit(application.serve(loaded))


def migrate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Bring the catalog's tables up to date. Safe to repeat, and beside a running server.

    Example: dropoff-tus migrate --config config.toml
    """
    loaded = read_config(config)
    from server.places import check_whose
    from storage.catalog import migrate as bring_up_to_date

    check_whose(loaded)
    applied = bring_up_to_date(loaded.catalog.url)
    if as_json:
        print_json({"applied": applied})
    else:
        say(f"applied: {', '.join(applied)}" if applied else "the catalog is up to date")
