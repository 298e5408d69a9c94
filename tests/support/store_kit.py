"""A real store in a temporary folder, and bodies to feed it."""

import asyncio
import copy
import dataclasses
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, TypeVar

from dropoff_tus import ids
from dropoff_tus.errors import BodyCutError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Mode, Role, StoredUpload
from dropoff_tus.ports.store import NewUpload
from storage.files.durable import Disk
from storage.keyring.identities import generate_root_identity, read_identity_file
from storage.keyring.journal import JOURNAL, Journal
from storage.keyring.keys import ServerKeys, generate_server_keys, load_server_keys
from storage.keyring.rotation import KeyRotation, hold_store
from storage.open import FileStore, SigningRotation, StoreSettings
from storage.threads import Threads
from storage.uploads.base import StoreBase
from storage.uploads.engine import Engine
from storage.uploads.maintenance.rotation import Handed, Rewrapper, hand_over
from tests.support.memory_backing import MemoryBacking


class BytesBody:
    """A body that is all there, and ends well or with a cut."""

    def __init__(self, data: bytes, *, cut: bool = False) -> None:
        """Take the bytes."""
        self._left = memoryview(data)
        self._cut = cut

    async def wait(self, timeout_seconds: float) -> None:
        """Never wait."""
        del timeout_seconds
        await asyncio.sleep(0)

    def wake(self) -> None:
        """Do nothing: it never waits."""

    def receive_into(self, buffer: memoryview) -> int | None:
        """Copy what is left."""
        count = min(len(buffer), len(self._left))
        if not count:
            if self._cut:
                message = "cut"
                raise BodyCutError(message)
            return 0
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def make_roots(store: FileStore) -> None:
    """Make a store's folders, as its first start does; an id needs only what is kept beside a catalog."""
    for root in (store.layout.uploads, store.layout.keys_dir):
        store.disk.make_root(root)


S = TypeVar("S", bound=Engine)


class Kit(ABC, Generic[S]):
    """An engine on some backing, with its keys; `open` is a restart of the process."""

    store: S

    def __init__(
        self,
        folder: Path,
        *,
        key_type: str = "x25519",
        mode: Mode = Mode.MANAGED,
        recipients: tuple[str, ...] = (),
        durability: Literal["fsync", "os"] = "fsync",
    ) -> None:
        """Make keys below a folder; `recipients` are the drop-off's own. Many commits are faster without syncs."""
        self.folder, self.mode, self.recipients = folder, mode, recipients
        self.durability: Literal["fsync", "os"] = durability
        self.places = generate_server_keys(folder / "secrets")
        self.root = generate_root_identity(folder / "root.txt", key_type)
        self.roots: tuple[str, ...] = (self.root,)
        self.identities = read_identity_file(folder / "root.txt")
        self.drop_id = str(uuid.uuid4())
        self.keys = load_server_keys(self.places)
        self.store = self.open()

    @abstractmethod
    def open(self) -> S:
        """Open the store again, with nothing remembered."""

    @abstractmethod
    def make_roots(self) -> None:
        """Make the places of the store, as its first start does."""

    @abstractmethod
    def rewrapper(self, identities: Sequence[str]) -> Rewrapper:
        """Begin a rotation of the roots."""

    @abstractmethod
    def rotate_signing_key(self) -> None:
        """Rotate the signing key; no store is open."""

    @abstractmethod
    def is_gone(self, upload_id: str) -> bool:
        """Tell whether neither keys nor bytes of an upload are left."""

    def drop(self) -> Dropoff:
        """Return the drop-off of all uploads, not signed."""
        return Dropoff(self.drop_id, datetime.now(UTC), DropTerms("x", mode=self.mode, recipients=self.recipients))

    async def create(
        self,
        length: int | None,
        *,
        role: Role = Role.REGULAR,
        parts: Sequence[str] = (),
        name: bytes = b"x",
        more: Sequence[tuple[str, bytes]] = (),
        token: str | None = None,
        roots: bool = True,
    ) -> tuple[str, StoredUpload]:
        """Create an upload, and the store's roots before it; returns its token and state."""
        if roots:
            self.make_roots()
        token = token or os.urandom(16).hex()
        new = NewUpload(
            id=ids.upload_id(token),
            token=token,
            drop=self.keys.sign_terms(self.drop()),
            role=role,
            metadata=Metadata((("filename", name), *more)),
            created_at=datetime.now(UTC),
            length=length,
            parts=tuple(parts),
        )
        return token, await self.store.create(new)

    async def append(self, upload_id: str, offset: int, data: bytes, *, cut: bool = False) -> int:
        """Append bytes."""
        async with self.store.lease(upload_id, offset=offset) as lease:
            plan = AppendPlan(offset, len(data), None if cut else len(data))
            return await lease.append(BytesBody(data, cut=cut), plan, idle_timeout_seconds=5)

    async def finish(self, upload_id: str) -> None:
        """Finish an upload."""
        async with self.store.lease(upload_id) as lease:
            digests = await lease.digests([], read_back_bytes=1 << 30)
            await lease.complete(digests or {}, datetime.now(UTC))

    async def read(self, upload_id: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read a finished upload with the root identity."""
        pieces = self.store.read(upload_id, start=start, stop=stop, identities=self.identities)
        return b"".join([piece async for piece in pieces])


class StoreKit(Kit[FileStore]):
    """A real store in a temporary folder."""

    def open(self) -> FileStore:
        """Open the store again, with nothing remembered."""
        self.store_keys = load_server_keys(self.places)
        self.store = FileStore(self.settings, self.store_keys)
        return self.store

    @property
    def settings(self) -> StoreSettings:
        """The store's settings, with the roots of now."""
        return StoreSettings(
            self.folder / "store",
            self.folder / "keys",
            self.roots,
            durability=self.durability,
            free_space_floor_bytes=0,
        )

    def at(self, folder: Path) -> "StoreKit":
        """Return the same store and keys in a copy of the folder, opened again."""
        other = copy.copy(self)
        other.folder = folder
        secrets = {
            name: str(folder / Path(getattr(self.places, name)).relative_to(self.folder))
            for name in ("signing_key", "code_key", "managed_identity")
        }
        ingest_dir = folder / self.places.ingest_dir.relative_to(self.folder)
        other.places = dataclasses.replace(self.places, **secrets, ingest_dir=ingest_dir)
        other.open()
        return other

    def make_roots(self) -> None:
        """Make the folders."""
        make_roots(self.store)

    def rewrapper(self, identities: Sequence[str]) -> Rewrapper:
        """Begin a rotation of the roots."""
        return self.store.rewrapper(identities)

    def rotate_signing_key(self) -> None:
        """Rotate only it."""
        with hold_store(self.settings.root, alone=True):
            rotation = SigningRotation(self.settings, self.places.ingest_dir, self.places.signing_key)
            rotation.prepare()
            _all_handed(rotation.hand_over(upload_id) for upload_id in rotation.upload_ids())
            rotation.finish()

    def is_gone(self, upload_id: str) -> bool:
        """Look at the files."""
        paths = self.store.layout.of(upload_id)
        return paths.data.stat().st_size == 0 and not any(path.exists() for path in paths.key_files)


class MemoryKit(Kit[Engine]):
    """The engine on a backing in memory; its keys are in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        """Begin with an empty backing."""
        self.backing = MemoryBacking()
        super().__init__(folder, durability="os")

    def open(self) -> Engine:
        """Open the store again; a process that died holds no lease."""
        for stored in self.backing.uploads.values():
            stored.holder = None
        self.store_keys = load_server_keys(self.places)
        self.store = Engine(self._base(self.store_keys), Threads(sync=False))
        return self.store

    def _base(self, keys: ServerKeys) -> StoreBase:
        return self.backing.base(keys, self.folder, lambda: datetime.now(UTC), self.roots)

    def make_roots(self) -> None:
        """Do nothing: memory is there."""

    def rewrapper(self, identities: Sequence[str]) -> Rewrapper:
        """Begin a rotation of the roots."""
        journal = Journal(self.folder / JOURNAL, Disk(sync=False), writable=True)
        return Rewrapper(self.store.base, journal, identities)

    def rotate_signing_key(self) -> None:
        """Rotate it."""
        rotation = KeyRotation(self.places.signing_key)
        rotation.prepare()
        base = self._base(ServerKeys(rotation.signing, b"", (), self.folder))
        _all_handed(
            hand_over(base, upload_id, rotation.new_public, rotation.new_id, dry_run=False)
            for upload_id in base.chains.ids()
        )
        rotation.finish()

    def is_gone(self, upload_id: str) -> bool:
        """Look at the objects."""
        stored = self.backing.of(upload_id)
        return not stored.objects and not stored.key_files


def _all_handed(reports: Iterable[Handed | None]) -> None:
    for report in reports:
        assert report is None or report.handed, report
