"""Everything that a drop-off received, out of the store: with the clients' paths, into a folder.

First a plan, which gives every finished upload its path, then the copying. The order of completion decides about the
numbers of paths that clash, so that a later run, or one of what came later, gives the same ones. An upload that cannot
be exported is left out with the reason, and the others are done.
"""

import asyncio
import errno
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import DropoffError, KeyMissingError, ToldError, UploadDamagedError
from dropoff_tus.model import UploadRow
from dropoff_tus.paths import Paths, clean_path, told_path
from dropoff_tus.ports.store import ExportedUploads, Seen
from dropoff_tus.protocol import disagreement
from dropoff_tus.states import UploadState
from server.usecases.operating.manifest import MANIFEST_CSV, MANIFEST_JSON, ManifestRow
from server.usecases.ports import Advance, Begin

_WORKERS = 4
_WHOLE_BYTES = 1 << 20
"""Files up to this size are read many at once, and verified to their end before anything of them is written."""
_MOST_AT_ONCE, _MOST_BYTES_AT_ONCE = 64, 1 << 20
_DISK_IS_OUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE})
"""Of these every further file would fail too."""
_KEPT = ("drop", "receipt", "created_at", "completed_at", "sender")
"""The members of receipts for the audit and the manifest: with very many uploads whole ones would take much memory."""

Open = Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]]
"""Opens the age file that a browser sealed."""


class ExportedRows(Protocol):
    """The catalog, as exporting needs it."""

    async def uploads(
        self, *, drop_id: str | None = None, states: Sequence[UploadState] = (), partials: bool = True
    ) -> list[UploadRow]:
        """Return uploads, oldest first, filtered."""
        ...

    async def record(self, *events: Event) -> None:
        """Record events in the audit."""
        ...


class Folder(Protocol):
    """The folder that files are written into. Paths have `/` between their names, and no link in them is followed.

    Its methods raise OSError where the disk does not do it, and ToldError where something is in the way.
    """

    async def taken(self, paths: Sequence[str]) -> list[bool]:
        """Tell whether anything has each path, or is in the way of it."""
        ...

    async def has(self, path: str) -> bool:
        """Tell whether an ordinary file has the path."""
        ...

    async def sha256(self, path: str) -> str:
        """Return the hex SHA-256 of a file that is there."""
        ...

    async def write(self, path: str, pieces: AsyncIterator[bytes], check: Callable[[], None]) -> None:
        """Write a new file, which gets its name when it is whole and `check`, called then, has not raised."""
        ...

    async def write_whole(self, files: Sequence[tuple[str, bytes]]) -> list[OSError | ToldError | None]:
        """Write new files of a path and content each, in one turn of one thread; return what went wrong with each."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One upload that is to be exported: `sha256` is None where it is not recorded, or not that of the opened file."""

    id: str
    name: tuple[str, ...]
    path: str
    stored_bytes: int
    completed_at: datetime
    opened: bool
    sha256: str | None
    receipt: dict[str, Any] = field(repr=False)

    def row(self, path: str, size_bytes: int, sha256: str) -> ManifestRow:
        """Return the row of the manifest for it."""
        told = self.receipt
        times = (told["created_at"], told["completed_at"])
        return ManifestRow(self.id, path, size_bytes, *times, sha256, told["sender"], told["receipt"])


@dataclass(slots=True)
class Export:
    """The plan, and the result: `failed` are ids with the reason."""

    items: list[Item] = field(default_factory=list)
    paths: Paths = field(default_factory=lambda: Paths(MANIFEST_CSV, MANIFEST_JSON))
    failed: list[tuple[str, str]] = field(default_factory=list)
    rows: list[ManifestRow] = field(default_factory=list)
    kept: int = 0
    """How many of them were there already."""

    @property
    def stored_bytes(self) -> int:
        """How much there is to read."""
        return sum(item.stored_bytes for item in self.items)


class Counted:
    """Passes pieces on, and knows their size and SHA-256."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], advance: Advance) -> None:
        """Take the pieces."""
        self._pieces, self._advance, self._hash = pieces, advance, hashlib.sha256()
        self.size_bytes = 0

    async def all(self) -> AsyncGenerator[bytes, None]:
        """Go through them."""
        async with aclosing(self._pieces):
            async for piece in self._pieces:
                self._hash.update(piece)
                self.size_bytes += len(piece)
                self._advance(len(piece))
                yield piece

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of what has passed."""
        return self._hash.hexdigest()


class Exporter:
    """Exports drop-offs."""

    def __init__(
        self,
        store: ExportedUploads,
        catalog: ExportedRows,
        identities: Sequence[str] = (),
        opening: Open | None = None,
        act: Act = Act.UPLOAD_EXPORT,
    ) -> None:
        """Take the ports.

        Args:
            store: Where the bytes are.
            catalog: Knows which uploads there are, and records what leaves.
            identities: age identities that open what the server cannot.
            opening: Opens what a browser sealed; without it the age files are exported.
            act: How the audit calls it.
        """
        self._store, self._catalog, self._identities, self._opening = store, catalog, tuple(identities), opening
        self._act = act

    async def finished(self, drop_id: str) -> list[UploadRow]:
        """Return the finished uploads of a drop-off in the order of their completion."""
        rows = await self._catalog.uploads(drop_id=drop_id, states=(UploadState.COMPLETE,), partials=False)
        return sorted(rows, key=lambda row: (row.completed_at or row.created_at, row.id))

    async def plan(self, drop_id: str, since: datetime | None, begin: Begin) -> Export:
        """Give every finished upload of a drop-off its path, and say which are to be exported.

        Args:
            drop_id: The drop-off.
            since: Only what was completed at this time or later.
            begin: Gets the number of uploads to look at, and makes their counter.
        """
        rows, export = await self.finished(drop_id), Export()
        advance = begin(len(rows))
        async for items in self.planned(export, rows, since):
            export.items += items
            advance(_MOST_AT_ONCE)
        return export

    async def planned(
        self, export: Export, rows: Sequence[UploadRow], since: datetime | None
    ) -> AsyncGenerator[list[Item], None]:
        """Yield what `plan` plans, some at a time; what cannot be exported is noted in `export`."""
        for start in range(0, len(rows), _MOST_AT_ONCE):
            some, items = rows[start : start + _MOST_AT_ONCE], list[Item]()
            for row, seen in zip(some, await self._store.look([row.id for row in some], self._identities), strict=True):
                wanted, found = is_since(row, since), self._item(row, seen)
                if isinstance(found, Item):
                    # A path is given to what is left out too: so it is the same whatever is left out.
                    item = replace(found, path=export.paths.give(found.name))
                    items += [item] if wanted else []
                elif wanted:
                    export.failed.append((row.id, found))
            yield items

    def _item(self, row: UploadRow, seen: Seen) -> Item | str:
        """Return what is known of an upload, without its path; or why it cannot be exported."""
        stored, receipt = seen.stored, seen.receipt
        if stored is None:
            return str(seen.problem)
        if problem := disagreement(row, stored):
            return problem
        if stored.ended is not None or not stored.final:
            return "the store does not have it whole; run `dropoff-tus store check`"
        if receipt is None:
            if seen.problem is not None and not isinstance(seen.problem, KeyMissingError):
                return str(seen.problem)
            sealed = "it is sealed; give --identity FILE with a root identity"
            return f"its receipt cannot be read here ({sealed})" if self._identities else sealed
        by_browser = "sealed_by" in receipt
        opened = by_browser and self._opening is not None
        name = clean_path(told_path(receipt.get("relative_path"), receipt.get("path")), row.id)
        if by_browser and not opened:
            name = (*name[:-1], f"{name[-1]}.age")
        sha256 = None if opened else receipt.get("sha256")
        told = {member: receipt.get(member) for member in _KEPT}
        return Item(row.id, name, "", stored.offset, row.completed_at or row.created_at, opened, sha256, told)

    def read(self, item: Item) -> AsyncGenerator[bytes, None]:
        """Read an upload, opened if it is to be."""
        pieces = self._store.read(item.id, identities=self._identities)
        return self._opening(pieces) if item.opened and self._opening is not None else pieces

    async def record(self, items: Iterable[Item]) -> None:
        """Record that uploads leave, before their first byte does."""
        left = [Event(self._act, one.receipt["drop"], one.id, size_bytes=one.stored_bytes) for one in items]
        await self._catalog.record(*left)

    async def read_small(self, export: Export, items: Sequence[Item]) -> list[tuple[Item, bytes]]:
        """Record that these leave, and return those that verify with their bytes; why the others do not is noted."""
        whole: list[tuple[Item, bytes]] = []
        await self.record(items)
        contents = await self._store.read_whole([item.id for item in items], self._identities)
        for item, content in zip(items, contents, strict=True):
            try:
                if isinstance(content, DropoffError):
                    raise content
                check_content(item, hashlib.sha256(content).hexdigest())
                whole.append((item, content))
            except ToldError as error:
                export.failed.append((item.id, str(error)))
        return whole

    async def into_folder(self, export: Export, folder: Folder, advance: Advance) -> None:
        """Copy what is planned, several at a time.

        A file is there already if it has the path and the SHA-256; then it is left as it is. If it has the path and
        other content, another number is given, and it is left too.

        Raises:
            OSError: The disk takes no more; what was written until then is whole.
        """
        waiting = groups(export.items)
        out: list[OSError] = []

        def failed(item: Item, error: OSError | ToldError) -> None:
            if isinstance(error, OSError) and error.errno in _DISK_IS_OUT:
                out.append(error)
            why = f"cannot write {item.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            export.failed.append((item.id, why))

        async def work() -> None:
            for group in waiting:
                for item, error in await self._copy_group(export, group, folder, advance):
                    failed(item, error)
                if out:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(work())
        if out:
            raise out[0]

    async def _copy_group(
        self, export: Export, items: Sequence[Item], folder: Folder, advance: Advance
    ) -> list[tuple[Item, OSError | ToldError]]:
        """Copy some; return what could not be copied, but for what does not verify, which is noted."""
        failed: list[tuple[Item, OSError | ToldError]] = []
        fresh: list[Item] = []
        for item, taken in zip(items, await folder.taken([item.path for item in items]), strict=True):
            if not taken and is_small(item):
                fresh.append(item)
                continue
            try:
                export.rows.append(await self._copy(export, item, folder, advance))
            except (ToldError, OSError) as error:
                failed.append((item, error))
        try:
            whole = await self.read_small(export, fresh) if fresh else []
            written = await folder.write_whole([(item.path, content) for item, content in whole])
        except (ToldError, OSError) as error:
            return [*failed, *((item, error) for item in fresh)]
        for (item, content), problem in zip(whole, written, strict=True):
            if problem is None:
                export.rows.append(item.row(item.path, len(content), hashlib.sha256(content).hexdigest()))
                advance(len(content))
            else:
                failed.append((item, problem))
        return failed

    async def _copy(self, export: Export, item: Item, folder: Folder, advance: Advance) -> ManifestRow:
        path = item.path
        expected = item.sha256
        size_bytes = item.stored_bytes
        while await folder.has(path):
            if expected is None:
                counted = await self.count(item)
                expected, size_bytes = counted.sha256, counted.size_bytes
            if await folder.sha256(path) == expected:
                export.kept += 1
                advance(item.stored_bytes)
                return item.row(path, size_bytes, expected)
            path = export.paths.give(item.name)
        await self.record([item])
        counted = Counted(self.read(item), advance)
        await folder.write(path, counted.all(), lambda: check_content(item, counted.sha256))
        return item.row(path, counted.size_bytes, counted.sha256)

    async def count(self, item: Item) -> Counted:
        """Read an upload only for its size and SHA-256."""
        counted = Counted(self.read(item), lambda _count: None)
        async for _ in counted.all():
            pass
        return counted


def is_since(row: UploadRow, since: datetime | None) -> bool:
    """Tell whether an upload was completed, or if it is not was created, at a time or later."""
    return since is None or (row.completed_at or row.created_at) >= since


def is_small(item: Item) -> bool:
    """Tell whether an upload is read as a whole, and verified to its end before anything of it is written."""
    return not item.opened and item.stored_bytes <= _WHOLE_BYTES


def groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield what is to be copied at once, in order: several small ones, or one large."""
    group: list[Item] = []
    size_bytes = 0
    for item in items:
        size_bytes += item.stored_bytes
        if group and not (is_small(item) and len(group) < _MOST_AT_ONCE and size_bytes <= _MOST_BYTES_AT_ONCE):
            yield group
            group, size_bytes = [], item.stored_bytes
        group.append(item)
        if not is_small(item):
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def check_content(item: Item, sha256: str) -> None:
    """Compare what was read with the receipt.

    Raises:
        UploadDamagedError: It is something else.
    """
    if item.sha256 is not None and sha256 != item.sha256:
        raise UploadDamagedError(f"upload {item.id} does not verify: its bytes are not those of its receipt")
