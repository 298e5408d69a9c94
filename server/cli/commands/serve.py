"""`serve`, `migrate`, and `check-config`: everything that would keep the server from starting, in one run."""

import asyncio
import contextlib
import functools
import os
import ssl
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dropoff_tus.errors import CatalogUnavailableError
from server import app as application
from server import logs
from server.cli.context import ConfigOption, JsonOption
from server.cli.opening import silence_logs
from server.cli.output import CommandError, note, print_json, say
from server.deliveries import secrets_of
from server.http.bundle import PageError, read_bundle
from server.http.listeners import ListenError
from server.places import KeySourceError, check_whose, folders, key_places, why_unsynced
from server.resources import too_few_descriptors
from server.services import StartError, identify_store
from server.settings.config import Config, ConfigError, config_path, load_config
from server.tls import read_certificate
from storage import catalog
from storage.catalog import CatalogError, check_url, open_catalog
from storage.files.marker import WrongStoreError
from storage.files.owner import ForeignOwnerError
from storage.keyring.identities import check_recipients
from storage.keyring.keys import load_server_keys


def serve(config: ConfigOption = None) -> None:
    """Run the server until SIGTERM, SIGINT, or its terminal closes; prints `ready URL` once it accepts.

    Bytes that arrive until it stops are kept: clients resume where they were. At SIGHUP it reads
    [limits] and [log] again.

    Example: dropoff-tus serve --config /srv/dropoff/config.toml
    """
    loaded = load_config(config)
    configure_logs = functools.partial(logs.configure, loaded.log.format, loaded.log.level)
    if loaded.server.workers > 1:
        # Each worker has a log of its own: no thread may run when it is forked.
        sys.exit(application.supervise(loaded, lambda: load_config(config), configure_logs))
    configure_logs()
    sys.exit(application.serve(loaded, lambda: load_config(config)))


def migrate(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do it all in a transaction, undo it, and say what it was.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the catalog's tables up to date. Safe to repeat, and beside a running server.

    --dry-run tries it on the real tables and undoes it: whether it works, and how long it takes. A running server waits
    for it when it writes, as for the real one.

    Example: dropoff-tus migrate --config config.toml
    """
    loaded = load_config(config)
    check_whose(loaded)
    applied = catalog.migrate(loaded.catalog.url, dry_run=dry_run)
    if as_json:
        print_json({"would_apply" if dry_run else "applied": applied})
    elif applied:
        say(f"{'would apply' if dry_run else 'applied'}: {', '.join(applied)}")
    else:
        say("the catalog is up to date")


def check_config(
    listen: Annotated[
        bool, typer.Option("--listen", help="Also try the addresses; a running server has taken them.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all mistakes in the configuration; exits with 1 if there are any.

    Checks names and values, every key's source, and the files and folders, and asks the catalog. It
    changes nothing.

    Example: dropoff-tus check-config --config config.toml
    """
    silence_logs()
    mistakes: list[str] = []
    wrong: frozenset[str] = frozenset()
    try:
        loaded: Config | None = load_config(config)
    except ConfigError as error:
        mistakes, wrong, loaded = str(error).splitlines(), error.places, error.rest
    remarks: list[str] = []
    if loaded is not None:
        # A wrong place was reported already, and the folder in its stead belongs to nobody.
        mistakes += [line for line in _deeper(loaded, wrong) if not _is_of(line, wrong)]
        if listen and not mistakes:
            mistakes = _not_to_be_had(loaded)
        remarks = [line for line in _remarks(loaded) if not _is_of(line, wrong)]
        if not any(line.startswith("store:") for line in mistakes):
            remarks += [
                f"{name}: there is no folder {folder}; for a new store it is made when it is needed"
                for name, folder in folders(loaded).items()
                if not folder.exists()
            ]
    if as_json:
        print_json({"mistakes": mistakes, "remarks": remarks})
    for remark in () if as_json else remarks:
        note(remark)
    if mistakes and not as_json:
        raise CommandError("\n".join(mistakes))
    if mistakes:
        sys.exit(1)
    if not as_json:
        say(f"{config_path(config)}: no mistakes")


def _is_of(line: str, places: frozenset[str]) -> bool:
    place = line.partition(":")[0]
    return place in places or place.partition(".")[0] in places


def _deeper(config: Config, wrong: frozenset[str]) -> list[str]:
    """Check what reading the file cannot: keys, secrets, certificate, recipients, folders, catalog."""
    server = config.server
    checks: list[tuple[str, Callable[[], object]]] = [
        ("", lambda: load_server_keys(key_places(config))),
        ("", lambda: secrets_of(config)),
        ("", lambda: server.tls_cert and server.tls_key and read_certificate(server.tls_cert, server.tls_key)),
        ("", lambda: read_bundle(config.page)),
        ("keys.root_recipients: ", lambda: check_recipients(config.keys.root_recipients)),
    ]
    mistakes: list[str] = []
    for place, check in checks:
        try:
            check()
        except (KeySourceError, PageError, StartError) as error:
            mistakes += [f"{place}{line}" for line in str(error).splitlines()]
    socket = server.unix_socket
    if socket is not None and not socket.parent.is_dir():
        mistakes.append(f"server.unix_socket: there is no folder {socket.parent}; make it, or write another path")
    if config.mail.ca_file is not None:
        try:
            ssl.create_default_context(cafile=config.mail.ca_file)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            mistakes.append(f"mail.ca_file: {config.mail.ca_file} cannot be used ({reason}); write certificates in PEM")
    for name, folder in folders(config).items():
        found = next(path for path in (folder, *folder.parents) if path.exists())
        if not found.is_dir() or not os.access(found, os.R_OK | os.W_OK | os.X_OK):
            mistakes.append(
                f"{name}: {found} is no folder that this user can write to; run this as the user that serves, give the "
                "folder to that user, or name one that is not mounted read-only"
            )
    if "catalog.url" not in wrong:
        mistakes += asyncio.run(_catalog(config, look_at_store=not wrong & {"store.dir", "store.keys_dir"}))
    return mistakes


def _not_to_be_had(config: Config) -> list[str]:
    """Try the addresses, and let them go; not the unix socket, which would stay."""
    server = config.server.model_copy(update={"unix_socket": None})
    try:
        with contextlib.ExitStack() as stack:
            application.listen(config.model_copy(update={"server": server}), stack)
    except ListenError as error:
        return [str(error)]
    return []


async def _catalog(config: Config, *, look_at_store: bool) -> list[str]:
    """Ask the catalog, and whether the folders are those of its store."""
    wrong = check_url(config.catalog.url)
    if wrong is not None:
        return [f"catalog.url: {wrong}"]
    try:
        if look_at_store:
            check_whose(config)
        async with open_catalog(config.catalog.url) as catalog:
            if look_at_store:
                await identify_store(config, catalog, adopt=False)
        unsynced = why_unsynced(config)
    except (CatalogError, CatalogUnavailableError) as error:
        return [f"catalog.url: {error}"]
    except (ForeignOwnerError, WrongStoreError) as error:
        return [f"store: {error}"]
    except OSError as error:
        return [f"store: cannot be read: {error.filename or ''} {error.strerror}"]
    return [unsynced] if unsynced else []


def _remarks(config: Config) -> list[str]:
    """Name what may be meant so, and probably is not."""
    remarks: list[str] = []
    if few := too_few_descriptors(config.limits.connections):
        remarks.append(f"limits.connections: {few}")
    if not config.keys.root_recipients:
        remarks.append("keys.root_recipients: is empty; only drop-offs with recipients of their own can receive")
    if config.dropoffs.model_dump()["notify"] and config.mail.server is None:
        remarks.append("dropoffs.notify: section [mail] names no server, so nobody is notified")
    return remarks
