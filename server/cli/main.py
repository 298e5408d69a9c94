"""The commands put together, and the one place where errors become sentences and exit codes."""

import os
import sys

import typer

from dropoff_tus.errors import DropoffError
from server.cli import drop, init, run, store, upload
from server.cli.context import CommandError
from server.config import ConfigError
from server.services import StartError
from storage.catalog import CatalogError
from storage.keys import KeySourceError

_KNOWN = (CommandError, ConfigError, StartError, CatalogError, KeySourceError, DropoffError)

app = typer.Typer(
    help="Receive private files: every byte is encrypted before it touches the disk.\n\n"
    "Start with `dropoff-tus init --dir DIR`, then `dropoff-tus --config DIR/config.toml serve`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
init.register(app)
run.register(app)
app.add_typer(drop.app, name="drop")
app.add_typer(upload.app, name="upload")
app.add_typer(store.app, name="store")
app.add_typer(store.keys_app, name="keys")


def main() -> None:
    """Run the command line; a user's mistake is a sentence, never a traceback."""
    try:
        app()
    except _KNOWN as error:
        text = error.message if isinstance(error, DropoffError) else str(error)
        print(f"dropoff-tus: {text}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
