"""The one composition root: opens keys, store and catalog and wires the use cases, for the server and for each command.

It knows nothing of HTTP, so that a command starts without a web server's imports.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import CatalogUnavailableError, ToldError
from dropoff_tus.outbox import EventKind, Sink, SinkName, Sinks
from dropoff_tus.ports.catalog import Catalog
from dropoff_tus.states import ALIVE
from server.clock import SystemClock
from server.places import check_whose, key_places, layout_of, why_unsynced
from server.settings.config import Config
from server.usecases.dropoffs import Dropoffs
from server.usecases.operating.purging import Purger
from server.usecases.ports import UploadSettings
from server.usecases.uploads import Uploads
from storage.catalog import CatalogError, SqlCatalog, open_catalog
from storage.catalog.checkpoints import Checkpoints
from storage.files.backup_mark import UnfinishedBackupError, remove_mark, restored_from
from storage.files.marker import WrongStoreError, adopt_store, check_store
from storage.files.marks import Marks, ended_drops, revoked_tokens
from storage.files.owner import ForeignOwnerError
from storage.keyring.identities import check_recipients
from storage.keyring.keys import ServerKeys, load_server_keys
from storage.keyring.keysource import KeySourceError
from storage.keyring.lines import sign_certificate
from storage.keyring.rotation import hold_store
from storage.open import FileStore, StoreSettings

_log = logging.getLogger(__name__)
TOKEN_BYTES = 16


class StartError(ToldError):
    """The program cannot start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that was opened."""

    keys: ServerKeys
    store: FileStore
    catalog: SqlCatalog
    uploads: Uploads

    dropoffs: Dropoffs
    purger: Purger
    revoked: Marks
    ended: Marks
    checkpoints: Checkpoints


def recipients_problem(texts: Sequence[str]) -> str | None:
    """Say what is wrong with a drop-off's own recipients, or None."""
    try:
        check_recipients(texts)
    except KeySourceError as error:
        return f"cannot be used: {error}"
    return None


def store_settings(config: Config) -> StoreSettings:
    """Return what the configuration says of the store."""
    return StoreSettings(
        root=Path(config.store.dir),
        keys_dir=Path(config.store.keys_dir),
        root_recipients=tuple(config.keys.root_recipients),
        durability=config.store.durability,
        digest=config.store.digest,
        free_space_floor_bytes=config.store.free_space_floor,
    )


async def identify_store(config: Config, catalog: Catalog, *, adopt: bool = True) -> None:
    """Make sure that the configured folders are those of the catalog's store, before anything believes them.

    Args:
        config: Names the folders.
        catalog: Knows the store's id.
        adopt: A catalog that knows none, and its folders, get one: the first start, or the first one after an update.

    Raises:
        WrongStoreError: They are not; nothing was made.
        CatalogUnavailableError, OSError: It could not be found out.
    """
    layout = layout_of(config)
    store_id = await catalog.store_id()
    if store_id is None and adopt:
        in_use = bool(await catalog.uploads(states=ALIVE))
        store_id = await catalog.keep_store_id(await asyncio.to_thread(adopt_store, layout, in_use=in_use))
    await asyncio.to_thread(check_store, layout, store_id)


def sinks_of(config: Config) -> Sinks:
    """Return the sinks of events in the configuration."""
    sinks: dict[SinkName, Sink] = {}
    if config.webhook.url is not None:
        sinks[SinkName.WEBHOOK] = Sink(frozenset(EventKind(name) for name in config.webhook.events))
    if config.mail.server is not None:
        kinds = frozenset(EventKind(name) for name in config.mail.events)
        sinks[SinkName.MAIL] = Sink(kinds, window_seconds=int(config.mail.interval), notified_only=True)
    return sinks


async def settle_restore(config: Config, catalog: SqlCatalog, *, restored: bool = False) -> int | None:
    """Keep back the news that waits in a catalog that was restored: it was delivered after the copy was made, perhaps.

    It is known by the mark of a backup, which goes once that is done, or because the operator says so (`restored`).

    Returns:
        How many events are kept back; None where nothing was restored.
    """
    keys_dir = Path(config.store.keys_dir)
    if not restored and await asyncio.to_thread(restored_from, keys_dir) is None:
        return None
    held = await catalog.outbox.hold("held back: restored from a backup")
    await catalog.record(Event(Act.STORE_RESTORE, count=held))
    await asyncio.to_thread(remove_mark, keys_dir)
    _log.warning("restored from a backup: events that waited are held back", extra={"count": held})
    return held


@contextlib.asynccontextmanager
async def open_services(config: Config, *, reading: bool = False, telling: bool = True) -> AsyncIterator[Services]:
    """Open keys, store and catalog.

    Args:
        config: Says where they are.
        reading: Nothing is written into the store, so nothing of it is synced before it is believed.
        telling: Whether changes are written to the outbox, for the sinks of the configuration.

    Raises:
        StartError: One of them cannot be opened.
    """
    settings = store_settings(config)
    if reading:
        settings = replace(settings, durability="os")
    async with contextlib.AsyncExitStack() as stack:
        try:
            await asyncio.to_thread(check_whose, config)
            await asyncio.to_thread(restored_from, settings.keys_dir)
            if unsynced := await asyncio.to_thread(why_unsynced, config):
                raise StartError(unsynced)
            catalog = await stack.enter_async_context(
                open_catalog(
                    config.catalog.url,
                    durable=config.store.durability == "fsync",
                    sinks=sinks_of(config) if telling else None,
                )
            )
            await identify_store(config, catalog)
            # Before the keys are read: they stay what they are as long as this is held.
            stack.enter_context(hold_store(settings.root))
            keys = load_server_keys(key_places(config))
            store = FileStore(settings, keys)
        except (KeySourceError, CatalogError, CatalogUnavailableError, ForeignOwnerError) as error:
            raise StartError(str(error)) from error
        except (UnfinishedBackupError, WrongStoreError) as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"cannot use the store at {error.filename or settings.root}: {error.strerror}") from error
        stack.push_async_callback(store.close)
        uploads = Uploads(
            store,
            catalog,
            SystemClock(),
            lambda: os.urandom(TOKEN_BYTES).hex(),
            keys.final_token,
            UploadSettings(
                max_upload_bytes=config.tus.max_upload_bytes,
                expire_after_seconds=config.tus.expire_after,
                terminate_finished=config.tus.terminate_finished,
                body_idle_timeout_seconds=config.tus.body_idle_timeout,
            ),
        )
        stack.push_async_callback(uploads.finisher.stop)
        await uploads.trusted_time.learn()
        ended = ended_drops(settings.keys_dir)
        yield Services(
            keys,
            store,
            catalog,
            uploads,
            Dropoffs(catalog, keys, SystemClock(), recipients_problem),
            Purger(
                store,
                catalog,
                ended,
                SystemClock(),
                uploads.ender.delete,
                lambda payload: sign_certificate(payload, keys.signing),
            ),
            revoked_tokens(settings.keys_dir),
            ended,
            Checkpoints(catalog, keys.signing, settings.keys_dir),
        )
