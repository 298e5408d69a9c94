"""The use cases over a store, a catalog and a clock in memory."""

import base64
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dropoff_tus import ids
from dropoff_tus.checksum import ExpectedDigest
from dropoff_tus.headers import digests as digests_in
from dropoff_tus.ids import UploadToken
from dropoff_tus.messages import Appended, BodyInfo, Create, Created, Patch, Status, Terminated
from dropoff_tus.model import TERMS, Dropoff, DropTerms, Grant, Metadata, Role, UploadRow
from dropoff_tus.outbox import Sinks
from dropoff_tus.states import UploadState
from server.usecases.ports import UploadSettings
from server.usecases.uploads import Uploads
from tests.support.fake_clock import NOON, FakeClock
from tests.support.memory_body import MemoryBody
from tests.support.memory_catalog import MemoryCatalog
from tests.support.memory_store import MemoryStore

URL = "https://drop.example.org/files/d/"
SETTINGS = UploadSettings(expire_after_seconds=1000.0, body_idle_timeout_seconds=30.0)
DAY_SECONDS = 86400.0
# Short, so that a test can wait for repetitions.
RETRY_SECONDS = (0.005, 0.01)


def _tokens() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{number:032x}"


class World:
    """One drop-off, and everything around it. `restart` is what a killed process is followed by."""

    def __init__(
        self,
        *,
        settings: UploadSettings = SETTINGS,
        read_back_bytes: int = 1 << 30,
        sinks: Sinks | None = None,
        **terms: Any,  # noqa: ANN401 - each has its type
    ) -> None:
        """Make an open drop-off with these terms."""
        self.clock = FakeClock()
        self.store, self.catalog = MemoryStore(self.clock), MemoryCatalog(sinks)
        self.drop = Dropoff(str(uuid.uuid4()), NOON, DropTerms("a drop", **terms), None, bytes(64))
        self.catalog.drops[self.drop.id] = self.drop
        self._settings, self._read_back_bytes = settings, read_back_bytes
        self._tokens = _tokens()
        self.uploads = self._wire()

    def _wire(self) -> Uploads:
        return Uploads(
            self.store,
            self.catalog,
            self.clock,
            lambda: next(self._tokens),
            lambda parts: ids.upload_id("+".join(parts)),
            self._settings,
            RETRY_SECONDS,
            self._read_back_bytes,
        )

    async def restart(self) -> None:
        """Kill the process and start another one, before it reconciles."""
        await self.uploads.finisher.stop()
        self.store = self.store.reopened()
        self.uploads = self._wire()

    async def let_pass(self, days: int) -> None:
        """Let days pass while a server runs."""
        for _ in range(days):
            self.clock.advance(DAY_SECONDS)
            await self.uploads.trusted_time.look()

    def other_process(self) -> Uploads:
        """Return the use cases of another process, on the same store and catalog."""
        return self._wire()

    # ---- what clients ask ---------------------------------------------------------------------------------------

    async def create(
        self,
        length: int | None,
        body: bytes | MemoryBody | None = None,
        *,
        role: Role = Role.REGULAR,
        parts: Sequence[str] = (),
        metadata: Metadata | None = None,
        chunked: bool = False,
    ) -> Created:
        """POST. Parts are tokens."""
        stream = MemoryBody(body) if isinstance(body, bytes) else body
        info = None
        if stream is not None:
            info = BodyInfo(None if chunked or not isinstance(body, bytes) else len(body))
        given = metadata or Metadata()
        tokens = tuple(UploadToken(part) for part in parts)
        request = Create(role, length, given, digests_in(given), tokens, info)
        return await self.uploads.creator.create(Grant(self.catalog.drops[self.drop.id]), URL, request, stream)

    async def patch(
        self, token: str, offset: int, body: bytes | MemoryBody = b"", *, declare: int | None = None, drop: str = ""
    ) -> Appended:
        """PATCH; a MemoryBody is chunked."""
        request = Patch(offset, BodyInfo(None if isinstance(body, MemoryBody) else len(body)), declare)
        stream = body if isinstance(body, MemoryBody) else MemoryBody(body)
        asked = (drop or self.drop.id, UploadToken(token))
        return await self.uploads.appender.append(*asked, request, stream, URL + token)

    async def head(self, token: str) -> Status:
        """HEAD."""
        return await self.uploads.finder.head(self.drop.id, UploadToken(token))

    async def terminate(self, token: str, *, drop: str = "") -> Terminated:
        """DELETE."""
        return await self.uploads.ender.terminate(drop or self.drop.id, UploadToken(token))

    async def part(self, content: bytes) -> str:
        """Upload a whole partial; return its token."""
        return token_of(await self.create(len(content), content or None, role=Role.PARTIAL))

    # ---- what is so ---------------------------------------------------------------------------------------------

    def row(self, token: str) -> UploadRow | None:
        """Return the catalog's row."""
        return self.catalog.rows.get(ids.upload_id(token))

    def state(self, token: str) -> UploadState | None:
        """Return the catalog's state."""
        row = self.row(token)
        return None if row is None else row.state

    async def reserved_bytes(self) -> int:
        """Return what the drop-off's uploads have reserved."""
        return sum(row.reserved_bytes for row in await self.catalog.uploads(drop_id=self.drop.id))

    def change_drop(self, **changes: Any) -> None:  # noqa: ANN401 - each member has its type
        """Change the drop-off, or its terms."""
        present = self.catalog.drops[self.drop.id]
        terms = {name: changes.pop(name) for name in TERMS.keys() & changes.keys()}
        self.catalog.drops[self.drop.id] = replace(present, terms=replace(present.terms, **terms), **changes)

    def set_state(self, token: str, state: UploadState) -> None:
        """Put the catalog's row back to a state, as if a crash had come before the change."""
        row = self.row(token)
        assert row is not None
        self.catalog.rows[row.id] = replace(row, state=state, size_bytes=None, completed_at=None)


def token_of(created: Created) -> str:
    """Return the secret end of what was created."""
    return created.location.rpartition("/")[2]


def with_digest(digest: ExpectedDigest) -> Metadata:
    """Return metadata that carries a digest in hex."""
    return Metadata(((digest.algorithm, digest.digest.hex().encode()),))


def with_digest_in_base64(digest: ExpectedDigest) -> Metadata:
    """Return metadata that carries a digest in base64."""
    return Metadata(((digest.algorithm, base64.b64encode(digest.digest)),))
