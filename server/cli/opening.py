"""Opening for commands: the configuration, and the catalog, the store or all services, for as long as they work."""

import asyncio
import base64
import logging
import os
import pwd
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dropoff_tus.audit import Actor, acting
from dropoff_tus.errors import UploadDamagedError, UploadNotFoundError
from dropoff_tus.ids import is_upload_id, upload_id
from dropoff_tus.states import UploadState
from server.cli.context import PERSON, PERSON_VARIABLE, key_text
from server.cli.output import CommandError, note
from server.places import check_whose
from server.services import Services, open_services
from server.settings.config import Config, load_config
from server.usecases.dropoffs import unknown
from server.usecases.operating.stored_rows import StoredRows
from storage.age import AgeError, NoMatchingIdentity, StreamOpener
from storage.catalog import SqlCatalog, open_catalog
from storage.files.marker import check_store
from storage.keyring.identities import parse_identities, read_identity_file
from storage.keyring.keys import ServerKeys, verifying_keys
from storage.keyring.signing import load_signing_key
from storage.open import FileStore, StoreSettings
from storage.uploads.memory import new_hash

T = TypeVar("T")
_LOGIN_UID = Path("/proc/self/loginuid")
_NO_LOGIN = 2**32 - 1
_UPLOAD_URL_END = re.compile(r"/files/[^/]+/([0-9a-f]{32})/?(?:[?#].*)?$")


def with_services(
    given: Path | None,
    work: Callable[[Services, Config], Awaitable[T]],
    *,
    reading: bool = False,
    telling: bool = True,
) -> T:
    """Open everything, do the work, close everything.

    Args:
        given: The configuration that the command names.
        work: What to do.
        reading: Nothing is written into the store, so nothing of it is synced; syncs would be most of a list's time.
        telling: Whether webhook and mail tell what is changed.
    """
    config = load_config(given)
    silence_logs()

    async def run() -> T:
        async with open_services(config, reading=reading, telling=telling) as services:
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
    who = [user_name(os.getuid())]
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
    return None if uid == _NO_LOGIN else user_name(uid)


def user_name(uid: int) -> str:
    """Return a user's name, or where nobody knows it the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def with_reading(
    given: Path | None,
    copy: Path | None,
    given_keys: Sequence[str],
    work: Callable[[FileStore, SqlCatalog | StoredRows], Awaitable[T]],
) -> T:
    """Open the server's store and catalog to read, or only a copy of the store, which needs nothing of the server's.

    Args:
        given: The configuration, for the server's.
        copy: A folder with `store` and `keys`, copies of those of the server.
        given_keys: Public signing keys to verify a copy with, as text or in files, oldest first; without them those in
            a copy of the server's keys.
        work: What to do.
    """
    if copy is None:
        if given_keys:
            raise CommandError("--key is for a copy of the store; name it with --store DIR")
        return with_services(given, lambda services, _conf: work(services.store, services.catalog), reading=True)
    silence_logs()
    settings, keys = copied_store(copy, given_keys)

    async def run() -> T:
        store = FileStore(settings, keys)
        check_store(store.layout, None)
        try:
            rows = StoredRows(store, await store.upload_ids())
            done = await work(store, rows)
            if rows.unread:
                note(f"{len(rows.unread)} uploads cannot be read; `store check --store {copy}` says why")
            return done
        finally:
            await store.close()

    return asyncio.run(run())


def copied_store(copy: Path, given: Sequence[str]) -> tuple[StoreSettings, ServerKeys]:
    """Return how a copy of a store is opened: a folder with `store` and `keys`, and keys that only verify.

    Raises:
        CommandError: It is none, or there is nothing to verify with.
    """
    settings, secrets = StoreSettings(copy / "store", copy / "keys", (), durability="os"), copy / "secrets"
    for folder in (settings.root / "uploads", settings.keys_dir):
        if not folder.is_dir():
            message = f"{copy} is no copy of a store: it has no {folder.relative_to(copy)}"
            raise CommandError(f"{message}; put copies of the folders store.dir and store.keys_dir there")
    signing_key = secrets / "signing-key"
    if not given and not signing_key.exists():
        message = f"there is no {signing_key} to verify with; give the server's public key (`keys show`) as --key K"
        raise CommandError(message)
    return settings, verifying_keys(public_key_texts(str(signing_key), given), secrets / "ingest")


def public_key_texts(signing_key: str, given: Sequence[str]) -> list[str]:
    """Return the public keys to verify with, oldest first: those given, else those of the server's signing key."""
    if given:
        return [key_text(text) for text in given]
    signing = load_signing_key(signing_key)
    return [base64.b64encode(raw).decode("ascii") for raw in (*signing.retired, signing.public_bytes)]


def identities_in(file: Path | None) -> list[str]:
    """Return the identities in a file that an operator names; none without a file."""
    return [] if file is None else read_identity_file(file)


async def opened(pieces: AsyncIterator[bytes], identities: list[str]) -> AsyncGenerator[bytes, None]:
    """Yield what is in an age file.

    Raises:
        CommandError: It does not open, or is not what its sender sealed.
    """
    opener = StreamOpener(parse_identities(identities))
    try:
        async for piece in pieces:
            yield await asyncio.to_thread(opener.feed, piece)
        yield opener.close()
    except NoMatchingIdentity:
        raise CommandError(
            "no identity in the file opens the content that the browser sealed; --keep-sealed gives it as it was sealed"
        ) from None
    except AgeError as error:
        raise CommandError(
            f"the content that the browser sealed does not open ({error}); --keep-sealed gives it as it was sealed"
        ) from None


async def compared(
    pieces: AsyncIterator[bytes], upload_id: str, receipt: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Pass on all of an upload, and compare it with the digest in its receipt, if there is one.

    Raises:
        UploadDamagedError: It is not that content.
    """
    # One is enough, and the quickest first.
    hashes = {name: new_hash(name) for name in ("blake3", "sha256", "sha512") if name in receipt}
    names = [*hashes][:1]
    async for piece in pieces:
        for name in names:
            hashes[name].update(piece)
        yield piece
    if any(hashes[name].hexdigest() != receipt[name] for name in names):
        raise UploadDamagedError(f"upload {upload_id} does not verify: its bytes are not those of its receipt")


async def check_drop(catalog: SqlCatalog | StoredRows, drop_id: str) -> None:
    """Refuse a drop-off that is not there.

    Raises:
        DropoffNotFoundError, CommandError: It is not.
    """
    if isinstance(catalog, SqlCatalog):
        if await catalog.dropoff(drop_id) is None:
            raise unknown()
    elif not await catalog.uploads(drop_id=drop_id):
        message = "no upload in this copy is of that drop-off; `upload list --store DIR` shows of which each is"
        raise CommandError(message)


def silence_logs() -> None:
    """Silence the loggers: the command reports a failure itself, in a sentence."""
    logging.disable(logging.CRITICAL)


async def find_upload(catalog: SqlCatalog | StoredRows | None, store: FileStore, text: str) -> str:
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
        raise CommandError("that is no upload id, token or upload URL; list them with `dropoff-tus upload list`")
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
    raise CommandError("there is no such upload; list them with `dropoff-tus upload list --all`")


async def exportable(
    store: FileStore, catalog: SqlCatalog | StoredRows, found: str, *, by_root: bool
) -> tuple[int, bool]:
    """Return the length of an upload that may be exported, and whether it has its final record.

    That is one that is finished here and not refused by the catalog, also if its row was lost with the catalog: the
    store is the truth about bytes. And with a root identity one that has all its bytes, since the server may have lost
    its own envelope, and can never finish it.

    Raises:
        CommandError: It may not; the text says why.
    """
    stored = await store.stat(found)
    row = await catalog.upload(found)
    if stored.ended is not None:
        raise CommandError(f"the upload was {stored.ended.value}; its content is gone")
    state = UploadState.OPEN if row is None else row.state
    if stored.final and (row is None or state is UploadState.COMPLETE):
        return stored.offset, True
    waits = stored.whole and not stored.parts and state in {UploadState.OPEN, UploadState.CHECKING}
    if waits and by_root:
        return stored.offset, stored.final
    message = (
        f"the upload is not finished ({state.value}, {stored.offset} bytes are here); try again when it is complete"
    )
    if waits:
        message += (
            ". All its bytes are here: if the server cannot finish it, --identity FILE reads it with a root identity"
        )
    raise CommandError(message)
