"""Opening for commands: the configuration, and the catalog, the store or all services, for as long as they work."""

import asyncio
import logging
import os
import pwd
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dropoff_tus.audit import Actor, acting
from dropoff_tus.errors import UploadDamagedError, UploadNotFoundError
from dropoff_tus.ids import is_upload_id, upload_id
from server.cli.context import PERSON, PERSON_VARIABLE, key_text
from server.cli.output import CommandError
from server.places import check_whose
from server.services import Services, open_services, store_settings
from server.settings.config import Config, load_config
from storage.catalog import SqlCatalog, open_catalog
from storage.files.marker import check_store
from storage.keyring.keys import verifying_keys
from storage.open import FileStore

T = TypeVar("T")
_LOGIN_UID = Path("/proc/self/loginuid")
_NO_LOGIN = 2**32 - 1
_UPLOAD_URL_END = re.compile(r"/files/[^/]+/([0-9a-f]{32})/?(?:[?#].*)?$")


def with_services(given: Path | None, work: Callable[[Services, Config], Awaitable[T]], *, reading: bool = False) -> T:
    """Open everything, do the work, close everything.

    Args:
        given: The configuration that the command names.
        work: What to do.
        reading: Nothing is written into the store, so nothing of it is synced; syncs would be most of a list's time.
    """
    config = load_config(given)
    silence_logs()

    async def run() -> T:
        async with open_services(config, reading=reading) as services:
            with acting(operator):
                return await work(services, config)

    return asyncio.run(run())


def with_catalog(given: Path | None, work: Callable[[SqlCatalog, Config], Awaitable[T]]) -> T:
    """Open only the catalog: quicker, and possible without the keys."""
    config = load_config(given)
    silence_logs()
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
    who = [_user_name(os.getuid())]
    said, became = os.environ.get(PERSON_VARIABLE), os.environ.get("SUDO_USER", "")
    if said:
        who.append(f"as:{said}")
    elif PERSON.fullmatch(became):
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
    config = load_config(given)
    silence_logs()
    keys = verifying_keys([key_text(text) for text in public_keys], config.keys.ingest_dir)

    async def run() -> T:
        store = FileStore(store_settings(config), keys)
        check_store(store.layout, None)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def silence_logs() -> None:
    """Silence the loggers: the command reports a failure itself, in a sentence."""
    logging.disable(logging.CRITICAL)


async def find_upload(catalog: SqlCatalog | None, store: FileStore, text: str) -> str:
    """Return the id of an upload given by id, token or URL, in the catalog or, where its row was lost, in the store.

    Without a catalog, as on another machine, only the store is asked.

    Raises:
        CommandError: It is none of these, or unknown.
    """
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
