"""A store of either kind, its uploads, and what a process that starts again finds."""

import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from dropoff_tus import ids
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Mode, Role, StoredUpload
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import Body, Lease, NewUpload, Store
from tests.support.memory_body import MemoryBody
from tests.support.memory_store import MemoryStore
from tests.support.store_kit import Kit

METADATA = Metadata((("filename", b"a name.txt"), ("empty", b"")))


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Backend(Protocol):
    """One kind of store."""

    store: Store
    identities: list[str]

    async def start(self) -> None:
        """Begin."""
        ...

    def reopen(self) -> None:
        """Be what a new process would find."""
        ...

    def signed(self, drop: Dropoff) -> Dropoff:
        """Sign a drop-off's terms."""
        ...


class EngineBackend:
    """The real engine, on local folders or on a backing in memory."""

    store: Store

    def __init__(self, kit: Kit[Any]) -> None:
        """Take a store and its keys."""
        self._kit = kit
        self.store = kit.store
        self.identities = kit.identities

    async def start(self) -> None:
        """Make the folders."""
        self._kit.make_roots()

    def reopen(self) -> None:
        """Open the backing again."""
        self.store = self._kit.open()

    def signed(self, drop: Dropoff) -> Dropoff:
        """Sign with the server's key."""
        return self._kit.keys.sign_terms(drop)


class MemoryBackend:
    """The use cases' store in memory."""

    store: Store

    def __init__(self, _folder: Path) -> None:
        """Start empty."""
        clock: Clock = _SystemClock()
        self._memory = MemoryStore(clock)
        self.store = self._memory
        self.identities = ["AGE-SECRET-KEY-OF-ANYONE"]

    async def start(self) -> None:
        """Do nothing: memory is there."""

    def reopen(self) -> None:
        """Forget leases and running digests."""
        self._memory = self._memory.reopened()
        self.store = self._memory

    def signed(self, drop: Dropoff) -> Dropoff:
        """Return what nobody verifies."""
        return drop


class Uploads:
    """Uploads on a store of either kind."""

    def __init__(self, backend: Backend) -> None:
        """Use a backend."""
        self.backend = backend
        self.drop_id = str(uuid.uuid4())
        self.created_at = datetime.now(UTC)

    @property
    def store(self) -> Store:
        """The store as it is open now."""
        return self.backend.store

    async def create(
        self,
        length: int | None,
        *,
        role: Role = Role.REGULAR,
        mode: Mode = Mode.MANAGED,
        parts: Sequence[str] = (),
        digests: tuple[str, ...] = (),
    ) -> tuple[str, StoredUpload]:
        """Create an upload; return its token and state."""
        await self.backend.start()
        token = os.urandom(16).hex()
        drop = Dropoff(self.drop_id, self.created_at, DropTerms("x", mode=mode))
        new = NewUpload(
            id=ids.upload_id(token),
            token=token,
            drop=self.backend.signed(drop),
            role=role,
            metadata=METADATA,
            created_at=self.created_at,
            length=length,
            parts=tuple(parts),
            digests=digests,
        )
        return token, await self.store.create(new)

    async def append(self, upload_id: str, offset: int, data: bytes) -> int:
        """Append bytes that are all there."""
        async with self.store.lease(upload_id, offset=offset) as lease:
            return await take(lease, MemoryBody(data), AppendPlan(offset, len(data), len(data)))

    async def whole(self, data: bytes, *, role: Role = Role.REGULAR, mode: Mode = Mode.MANAGED) -> tuple[str, str]:
        """Create an upload with all its bytes; return token and id."""
        token, upload = await self.create(len(data), role=role, mode=mode)
        if data:
            await self.append(upload.id, 0, data)
        return token, upload.id

    async def finish(self, upload_id: str) -> None:
        """Finish an upload that is whole."""
        async with self.store.lease(upload_id) as lease:
            await lease.complete(await lease.digests([], read_back_bytes=1 << 30) or {}, datetime.now(UTC))

    async def read(self, upload_id: str, *, start: int = 0, stop: int | None = None, with_root: bool = True) -> bytes:
        """Read a finished upload, with the root identity or with the server's."""
        identities = self.backend.identities if with_root else []
        return b"".join([p async for p in self.store.read(upload_id, start=start, stop=stop, identities=identities)])


async def take(lease: Lease, body: Body, plan: AppendPlan, *, idle_timeout_seconds: float = 30) -> int:
    """Append under a lease; nothing waits for the timeout but a test that gives another."""
    return await lease.append(body, plan, idle_timeout_seconds=idle_timeout_seconds)
