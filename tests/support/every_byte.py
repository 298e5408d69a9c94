"""A small upload's store, killed after each byte it writes: `python -m tests.support.every_byte FOLDER [STEP [FIRST]]`.

For each byte a fork of this process creates an upload, appends twice and finishes, and dies at once after that byte.
Then the store is opened again: acknowledged bytes have to be there, the rest can be sent, and all of it is read back
with the root identity. Prints JSON: how many kills there were, and how many bytes are written without one.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from dropoff_tus.errors import UploadNotFoundError
from storage.files import durable
from tests.support.store_kit import StoreKit

DATA = bytes(range(100))
_FIRST_PART = 60


class _Dying(durable.Calls):
    """Writes so many bytes, in whatever files, and kills the process."""

    def __init__(self, left_bytes: int) -> None:
        self._left = left_bytes
        self.written = 0

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write what is left to be written."""
        count = super().pwrite(descriptor, data[: self._left] if self._left else data, offset)
        self.written += count
        if self._left:
            self._left -= count
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
        return count


async def _upload(kit: StoreKit, acknowledge: int) -> None:
    """Create, append, append, finish; write a line after each."""
    kit.open()
    _, upload = await kit.create(len(DATA))
    os.write(acknowledge, f"{upload.id}\n".encode())
    for start, stop in ((0, _FIRST_PART), (_FIRST_PART, len(DATA))):
        os.write(acknowledge, f"{await kit.append(upload.id, start, DATA[start:stop])}\n".encode())
    await kit.finish(upload.id)
    os.write(acknowledge, b"finished\n")


def _fork(work: Callable[[int], None]) -> tuple[list[str], int]:
    """Run work in a fork, with a descriptor to tell things by; return the lines it told, and its wait status.

    Nothing but this happens in the process that forks: threads, or what they leave behind, would be copied half alive.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(writing)
        except BaseException:  # noqa: BLE001 - the fork must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = lines.read().split()
    return told, os.waitpid(child, 0)[1]


def _die_after(kit: StoreKit, left_bytes: int) -> tuple[list[str], int]:
    """Upload in a fork that dies after so many bytes, 0 for never; return what it acknowledged, and what it wrote."""

    def work(acknowledge: int) -> None:
        calls = durable.calls = _Dying(left_bytes)
        asyncio.run(_upload(kit, acknowledge))
        os.write(acknowledge, f"{calls.written}\n".encode())

    told, status = _fork(work)
    lived = status == 0
    if not lived and not (left_bytes and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise RuntimeError(f"byte {left_bytes}: the upload ended with {status}")
    return (told[:-1], int(told[-1])) if lived else (told, 0)


def _ids_after(kit: StoreKit, before: set[str], acknowledged: list[str]) -> set[str]:
    """Check in a fork; return the ids in the store."""

    def work(answer: int) -> None:
        ids = asyncio.run(_check(kit, before, acknowledged))
        os.write(answer, "".join(f"{upload_id}\n" for upload_id in ids - before).encode())

    new, status = _fork(work)
    if status:
        raise RuntimeError("the store does not hold what was acknowledged")
    return before | set(new)


async def _check(kit: StoreKit, before: set[str], acknowledged: list[str]) -> set[str]:
    """Hold the store against what was acknowledged; return the ids it has now."""
    kit.open()
    ids = set(await kit.store.upload_ids())
    for upload_id in ids - before:
        promised = acknowledged[:1] == [upload_id]
        offsets = [int(text) for text in acknowledged[1:] if text.isdigit()]
        try:
            async with kit.store.lease(upload_id) as lease:
                stored = lease.upload
        except UploadNotFoundError:
            if promised:
                raise
            continue
        if stored.offset < max(offsets, default=0):
            raise AssertionError(f"{upload_id}: {stored.offset} of {offsets[-1]} acknowledged bytes are here")
        if "finished" in acknowledged and not stored.final:
            raise AssertionError(f"{upload_id}: was said to be finished")
        if not stored.final:
            if stored.offset < len(DATA):
                await kit.append(upload_id, stored.offset, DATA[stored.offset :])
            await kit.finish(upload_id)
        if await kit.read(upload_id) != DATA:
            raise AssertionError(f"{upload_id}: other bytes than were sent")
    if acknowledged and acknowledged[0] not in ids:
        raise AssertionError(f"{acknowledged[0]} is gone")
    await kit.store.close()
    return ids


def main() -> None:
    """Run."""
    folder, step, first = Path(sys.argv[1]), *(int(text) for text in (*sys.argv[2:], "1", "1")[:2])
    # A kill takes nothing from the kernel, so syncs would show nothing here; power cuts are tested apart.
    kit = StoreKit(folder, durability="os")
    told, whole_bytes = _die_after(kit, 0)
    ids = _ids_after(kit, set(), told)
    kills = 0
    for number in itertools.count(first, step):
        if number > whole_bytes:
            break
        told, lived_bytes = _die_after(kit, number)
        kills += not lived_bytes
        ids = _ids_after(kit, ids, told)
    sys.stdout.write(json.dumps({"kills": kills, "bytes": whole_bytes}) + "\n")


if __name__ == "__main__":
    main()
