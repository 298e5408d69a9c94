"""Signing checkpoints of the audit, and remembering the last one outside the database.

Somebody who can write to the database, without the key, can rewrite the rows and remove the checkpoints. So the last
one is remembered in a file beside the keys. Where the database does not have it, nothing is signed any more, until an
operator accepts what is there. Servers and commands on one store take turns, by a kernel lock on the file's folder.

A row may be committed behind others with greater numbers. A checkpoint goes as far as `audit_end` says: up to
there no row comes any more.

Order: the rows, the checkpoint in the database, then in the file. A crash before the last step leaves the file one
behind, which the next time sees and mends.

Source: docs/operate/audit.md.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from dropoff_tus.audit import AuditBrokenError, RowsHash
from dropoff_tus.errors import CatalogUnavailableError
from storage.catalog.verifier import Checkpoint, Verifier, next_checkpoint, read_checkpoint, sign_checkpoint
from storage.files.durable import Disk
from storage.files.locks import open_folder, try_lock
from storage.keyring.signing import SigningKey

PAGE_ROWS = 1000
_WAIT_SECONDS, _LOOK_SECONDS = 5.0, 0.05
_MOST_BYTES = 4096
_ACCEPT = "`dropoff-tus audit verify` says more, `audit accept` signs the rows as they are"


class _Audit(Protocol):
    """The part of a catalog that the audit is in."""

    async def audit_rows(self, after: int, to: int, most: int) -> list[tuple[int, str]]: ...
    async def audit_end(self) -> int: ...
    async def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]: ...
    async def last_checkpoint(self) -> tuple[int, str] | None: ...
    async def add_checkpoint(self, number: int, line: str) -> None: ...


async def rows_between(audit: _Audit, after: int, to: int) -> AsyncIterator[list[tuple[int, str]]]:
    """Yield the rows behind a number and up to another, some at a time."""
    while page := await audit.audit_rows(after, to, PAGE_ROWS):
        yield page
        after = page[-1][0]


async def checkpoints_after(audit: _Audit, number: int) -> AsyncIterator[tuple[int, str]]:
    """Yield the checkpoints behind a number, each one's number and line."""
    while page := await audit.checkpoints(number, PAGE_ROWS):
        for one in page:
            yield one
        number = page[-1][0]


class Checkpoints:
    """Those of one store, in its catalog and in its folder of keys. `problem` is why none is signed, or None."""

    def __init__(self, audit: _Audit, key: SigningKey, keys_dir: Path) -> None:
        """Take where the rows are, what signs, and where the last one is remembered."""
        self._audit, self._key = audit, key
        self._folder, self._disk = keys_dir / "audit", Disk(sync=True, roots=(keys_dir,))
        self._file = self._folder / "last-checkpoint"
        self.problem: str | None = None

    def remembered(self) -> Checkpoint | None:
        """Return the last one that was signed, or None.

        Raises:
            AuditBrokenError: The file holds something else.
        """
        try:
            raw = self._disk.read_small(self._file, _MOST_BYTES)
        except FileNotFoundError:
            return None
        found = read_checkpoint(raw.decode("utf-8", "replace"), self._key)
        if found is None:
            raise AuditBrokenError(f"{self._file} holds no checkpoint that this server signed")
        return found

    async def sign(self) -> Checkpoint | None:
        """Sign the rows since the last checkpoint; return the newest one, None if there has never been a row.

        Raises:
            AuditBrokenError: The database does not have the checkpoint that is remembered. Nothing was signed.
            CatalogUnavailableError: The database does not answer, or another process has been signing for long.
            OSError: The file cannot be read or written.
        """
        try:
            async with self._alone():
                remembered = await asyncio.to_thread(self.remembered)
                last = await self._last(remembered)
                newest = await self._go_on(last, 1 if last is None else last.number + 1)
                if newest is not None and newest != remembered:
                    await asyncio.to_thread(self._remember, newest)
        except AuditBrokenError as error:
            self.problem = f"the audit differs from the signed one, so no checkpoint is signed: {error}; {_ACCEPT}"
            raise
        self.problem = None
        return newest

    async def accept(self) -> Checkpoint | None:
        """Sign all rows as they are, whatever was signed before; the audit begins there."""
        async with self._alone():
            numbers = [0]
            with contextlib.suppress(AuditBrokenError):
                numbers += [one.number for one in [await asyncio.to_thread(self.remembered)] if one is not None]
            numbers += [one[0] for one in [await self._audit.last_checkpoint()] if one is not None]
            newest = await self._go_on(None, max(numbers) + 1)
            if newest is not None:
                await asyncio.to_thread(self._remember, newest)
        return newest

    async def verify(
        self, verifier: Verifier, *anchors: tuple[str, Checkpoint]
    ) -> AsyncIterator[list[tuple[int, str]]]:
        """Follow all rows and checkpoints, and yield the rows. Anchors have a name, and must be among the checkpoints.

        Raises:
            AuditBrokenError: They are not what was written.
        """
        # In this order: the file's is in the database before, and so are all that end is behind.
        wanted = {one: f"the checkpoint of {name}" for name, one in anchors}
        remembered = await asyncio.to_thread(self.remembered)
        if remembered is not None:
            wanted[remembered] = "the last checkpoint that the server remembers"
        end = await self._audit.audit_end()
        async for number, line in checkpoints_after(self._audit, await self._beginning() - 1):
            expected = verifier.expect(number, line)
            async for page in rows_between(self._audit, verifier.seq, expected.to):
                verifier.follow(page)
                yield page
            verifier.meet(expected)
            wanted.pop(expected, None)
        async for page in rows_between(self._audit, verifier.seq, end):
            verifier.follow(page)
            yield page
        for missing, name in wanted.items():
            message = (
                f"{name} is number {missing.number}, of rows up to {missing.to}, and the database does not have it: "
                "rows were cut off, or rewritten"
            )
            raise AuditBrokenError(message)

    # ---- one step each ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self._disk.make_root, self._folder)
        descriptor = open_folder(self._folder)
        try:
            deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
            while not try_lock(descriptor):
                if asyncio.get_running_loop().time() > deadline:
                    raise CatalogUnavailableError("another process signs the audit; try again shortly")
                await asyncio.sleep(_LOOK_SECONDS)
            yield
        finally:
            os.close(descriptor)

    async def _last(self, remembered: Checkpoint | None) -> Checkpoint | None:
        """Return the database's last checkpoint, which is the one that is remembered, or comes behind it."""
        found = await self._audit.last_checkpoint()
        if remembered is None:
            return None if found is None else self._own(*found)
        last: Checkpoint | None = None
        async for number, line in checkpoints_after(self._audit, remembered.number - 1):
            if last is None and line != remembered.line:
                break
            last = remembered if last is None else next_checkpoint(last, number, line, self._key)
        if last is None:
            raise AuditBrokenError(f"the database does not have checkpoint {remembered.number}, the last one signed")
        return last

    def _own(self, number: int, line: str) -> Checkpoint:
        found = read_checkpoint(line, self._key)
        if found is None or found.number != number:
            raise AuditBrokenError(f"checkpoint {number} is none that this server signed")
        return found

    async def _go_on(self, before: Checkpoint | None, number: int) -> Checkpoint | None:
        """Sign what is behind a checkpoint, if there is anything."""
        after, end = 0 if before is None else before.to, await self._audit.audit_end()
        if end <= after:
            return before
        rows = RowsHash()
        async for page in rows_between(self._audit, after, end):
            for seq, text in page:
                rows.add(seq, text)
        signed = sign_checkpoint(number, before, end, rows, datetime.now(UTC), self._key)
        await self._audit.add_checkpoint(number, signed.line)
        return signed

    async def _beginning(self) -> int:
        """Return the number of the checkpoint with which the audit begins: an operator may have accepted another."""
        found = 1
        async for number, line in checkpoints_after(self._audit, 0):
            if '"after":0,' in line and read_checkpoint(line, self._key) is not None:
                found = number
        return found

    def _remember(self, checkpoint: Checkpoint) -> None:
        self._disk.replace(self._file, checkpoint.line.encode("ascii") + b"\n")
