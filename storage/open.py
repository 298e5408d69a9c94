"""Puts the engine on its backing. The one module that knows both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from storage.files.chains import FileChains
from storage.files.durable import Disk
from storage.files.folders import Folders
from storage.files.keyfiles import FileKeys
from storage.files.layout import Layout
from storage.files.leasing import FileLeasing
from storage.files.segments import FileSegments
from storage.keyring.journal import JOURNAL, Journal, Written
from storage.keyring.keys import ServerKeys
from storage.keyring.rotation import KeyRotation
from storage.threads import Threads
from storage.uploads.base import StoreBase
from storage.uploads.engine import Engine
from storage.uploads.maintenance.rotation import Handed, Rewrapper, hand_over


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The configuration of the store."""

    root: Path
    keys_dir: Path
    root_recipients: tuple[str, ...]
    durability: Literal["fsync", "os"] = "fsync"
    digest: Literal["sha256", "blake3", "none"] = "sha256"
    free_space_floor_bytes: int = 1 << 30


def _now() -> datetime:
    return datetime.now(UTC)


def _base_on(folders: Folders, settings: StoreSettings, keys: ServerKeys, clock: Callable[[], datetime]) -> StoreBase:
    return StoreBase(
        FileChains(folders),
        FileSegments(folders, free_space_floor_bytes=settings.free_space_floor_bytes),
        FileKeys(folders),
        FileLeasing(folders),
        keys,
        Written(settings.keys_dir / JOURNAL),
        clock,
        settings.root_recipients,
        settings.digest,
    )


def _folders(settings: StoreSettings, keys: ServerKeys) -> Folders:
    layout = Layout(settings.root, settings.keys_dir, keys.ingest_dir)
    return Folders(layout, sync=settings.durability == "fsync")


class FileStore(Engine):
    """The engine on local folders."""

    def __init__(self, settings: StoreSettings, keys: ServerKeys, clock: Callable[[], datetime] = _now) -> None:
        """Take settings and keys. The folders are there: `storage.files.marker` makes them, or refuses others."""
        folders = _folders(settings, keys)
        self.layout, self.disk = folders.layout, folders.disk
        super().__init__(_base_on(folders, settings, keys, clock), Threads(sync=settings.durability == "fsync"))

    async def keyed_ids(self) -> set[str]:
        """Return all uploads of which there is an envelope, whatever else there is."""

        def work() -> set[str]:
            found = [*self.layout.keys_dir.glob("??/*.age"), *self.layout.ingest_dir.glob("*.age")]
            return {path.name.partition(".")[0] for path in found}

        return await self.run(work)

    def rewrapper(self, identities: Sequence[str], *, dry_run: bool = False) -> Rewrapper:
        """Return a rotation of the roots; identities open envelopes beside the server's own."""
        # Synced whatever the store's durability: it replaces what nothing else can bring back.
        disk = Disk(sync=True, roots=self.layout.roots)
        journal = Journal(self.layout.keys_dir / JOURNAL, disk, writable=not dry_run)
        return Rewrapper(self.base, journal, identities, dry_run=dry_run)


class SigningRotation(KeyRotation):
    """One rotation of the signing key, of the key file and of every log. Needs `hold_store(alone=True)`."""

    def __init__(self, settings: StoreSettings, ingest_dir: Path, source: str, output: Path | None = None) -> None:
        """Take the store's settings, and where envelopes of sealed uploads in progress lie; the rest: `KeyRotation`."""
        super().__init__(source, output)
        keys = ServerKeys(self.signing, b"", (), ingest_dir)
        # Synced whatever the store's durability: the old key is gone afterwards.
        settings = replace(settings, durability="fsync")
        self._base = _base_on(_folders(settings, keys), settings, keys, _now)

    def upload_ids(self) -> list[str]:
        """Return the ids of all uploads."""
        return self._base.chains.ids()

    def hand_over(self, upload_id: str, *, dry_run: bool = False) -> Handed | None:
        """Step 2, for one upload; see `storage.uploads.maintenance.rotation.hand_over`."""
        return hand_over(self._base, upload_id, self.new_public, self.new_id, dry_run=dry_run)
