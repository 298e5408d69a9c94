"""A client's acts, the answers it got, and the truths about both in any state that a crash has left."""

import dataclasses
import hashlib
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import BodyCutError, ChecksumMismatchError, UploadNotFoundError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from storage.uploads.maintenance.check import check_store
from tests.support.store_kit import BytesBody, StoreKit, make_roots

ROLL_BYTES = 64 << 10
_READ_BACK_BYTES = 1 << 30


@dataclass
class Told:
    """The answers that the client got for one upload, and its requests."""

    offset: int = 0
    finished: bool = False
    ending: bool = False
    ended: bool = False


@dataclass
class Sent:
    """One upload as the client sees it."""

    token: str
    data: bytes
    role: Role = Role.REGULAR
    parts: tuple[str, ...] = ()
    told: Told = field(default_factory=Told)


def copy_of(sent: dict[str, Sent]) -> dict[str, Sent]:
    """Return what was known at this moment."""
    return {key: dataclasses.replace(one, told=dataclasses.replace(one.told)) for key, one in sent.items()}


class Client:
    """Acts on a store, and remembers the answers. `note` is called with a copy of that after every answer."""

    def __init__(self, kit: StoreKit, note: Callable[[dict[str, Sent]], None] = lambda _: None) -> None:
        """Take the store and who is to know."""
        self.kit, self._note = kit, note
        self.sent: dict[str, Sent] = {}
        self._chance = random.Random(1)

    def noted(self) -> None:
        """Pass on what the client knows now."""
        self._note(
            {key: dataclasses.replace(sent, told=dataclasses.replace(sent.told)) for key, sent in self.sent.items()}
        )

    async def create(self, size: int, *, deferred: bool = False, role: Role = Role.REGULAR) -> str:
        """Create an upload of random content."""
        token, upload = await self.kit.create(None if deferred else size, role=role)
        self.sent[upload.id] = Sent(token, self._chance.randbytes(size), role)
        self.noted()
        return upload.id

    async def append(self, upload_id: str, stop: int, *, cut: bool = False, lie: bool = False) -> None:
        """Send from the known offset up to stop; with a lie the checksum is wrong."""
        sent = self.sent[upload_id]
        body = BytesBody(sent.data[sent.told.offset : stop], cut=cut)
        checksum = ExpectedChecksum("sha1", bytes(20)) if lie else None
        count = stop - sent.told.offset
        async with self.kit.store.lease(upload_id, offset=sent.told.offset) as lease:
            if lease.upload.length is None and stop == len(sent.data):
                await lease.declare_length(stop, datetime.now(UTC))
            plan = AppendPlan(sent.told.offset, count, None if cut else count, checksum=checksum)
            with suppress(BodyCutError, ChecksumMismatchError):
                await lease.append(body, plan, idle_timeout_seconds=5)
            sent.told.offset = lease.upload.offset
        self.noted()

    async def finish(self, upload_id: str) -> None:
        """Finish a whole upload."""
        sent = self.sent[upload_id]
        async with self.kit.store.lease(upload_id) as lease:
            # As the server does: nothing to check of a partial, nor of what an attempt before has sealed.
            sealed = lease.upload.final and await self.kit.store.metadata(upload_id) is None
            digests: dict[str, bytes] | None = {}
            if sent.role is not Role.PARTIAL and not sealed:
                digests = await lease.digests([], read_back_bytes=_READ_BACK_BYTES)
            await lease.complete(digests or {}, datetime.now(UTC))
        sent.told.finished = True
        self.noted()

    async def concatenate(self, parts: list[str]) -> str:
        """Make a final of finished parts."""
        token, upload = await self.kit.create(None, role=Role.FINAL, parts=parts)
        data = b"".join(self.sent[part].data for part in parts)
        self.sent[upload.id] = Sent(token, data, Role.FINAL, tuple(parts))
        self.noted()
        await self.finish(upload.id)
        return upload.id

    async def end(self, upload_id: str, state: UploadState) -> None:
        """End an upload, and its parts."""
        ended = [self.sent[one].told for one in (upload_id, *self.sent[upload_id].parts)]
        for told in ended:
            told.ending = True
        self.noted()
        async with self.kit.store.lease(upload_id) as lease:
            await lease.end(state, "test", datetime.now(UTC))
        for told in ended:
            told.ended = True
        self.noted()

    async def ask(self) -> None:
        """HEAD of every upload: the answer acknowledges its bytes."""
        for upload_id, sent in list(self.sent.items()):
            try:
                stored = await self.kit.store.stat(upload_id)
            except UploadNotFoundError:
                _expect(sent.told == Told(ending=sent.told.ending), upload_id, "an upload is gone", sent.told)
                del self.sent[upload_id]
                continue
            if stored.ended is not None:
                continue
            _expect(stored.offset >= sent.told.offset, upload_id, "the offset went back", stored, sent.told)
            if sent.role is not Role.FINAL:
                sent.told.offset = stored.offset
        self.noted()


async def verify(client: Client) -> None:
    """Compare a fresh store with the client's answers, then resume, finish and read everything."""
    kit = client.kit
    make_roots(kit.store)
    problems = {found.upload_id: found.problem async for found in check_store(kit.store) if found.problem is not None}
    await client.ask()
    for upload_id, sent in list(client.sent.items()):
        stored = await kit.store.stat(upload_id)
        if stored.ended is not None:
            _expect(sent.told.ending, upload_id, "nobody asked to end it")
            left = [path.name for path in kit.store.layout.of(upload_id).key_files if path.exists()]
            _expect(not (sent.told.ended and left), upload_id, "keys came back after the end", left)
            problems.pop(upload_id, None)
            if sent.role is not Role.PARTIAL or not any(upload_id in other.parts for other in client.sent.values()):
                await client.end(upload_id, stored.ended)
            continue
        _expect(not sent.told.ended, upload_id, "the end was forgotten")
        if sent.told.finished:
            _expect(stored.final, upload_id, "the final record was lost")
            await _verify_finished(client, upload_id)
    _expect(not problems, "store check", problems)
    await _resume(client)
    await _verify_all(client)


async def _resume(client: Client) -> None:
    """Go on with everything that is not finished, parts first."""
    for upload_id, sent in sorted(client.sent.items(), key=lambda item: item[1].role is Role.FINAL):
        stored = await client.kit.store.stat(upload_id)
        if stored.ended is not None:
            continue
        if sent.role is not Role.FINAL and not stored.final:
            try:
                while sent.told.offset < len(sent.data):
                    await client.append(upload_id, len(sent.data))
            except UploadNotFoundError:
                # Only before the first commit may the keys be lost: then nothing was ever acknowledged.
                _expect(sent.told.offset == 0, upload_id, "the envelope of acknowledged bytes was lost")
                del client.sent[upload_id]
                continue
            if (await client.kit.store.stat(upload_id)).length is None:
                async with client.kit.store.lease(upload_id, offset=len(sent.data)) as lease:
                    await lease.declare_length(len(sent.data), datetime.now(UTC))
        await _finish_again(client, upload_id)


async def _finish_again(client: Client, upload_id: str) -> None:
    """Finish as the server does after a restart; a creation whose envelope was lost holds nothing."""
    sent = client.sent[upload_id]
    try:
        await client.finish(upload_id)
    except Exception:
        if sent.told.offset == 0 and not sent.told.finished and not (await client.kit.store.stat(upload_id)).final:
            del client.sent[upload_id]
            return
        raise


async def _verify_all(client: Client) -> None:
    for upload_id in client.sent:
        if (await client.kit.store.stat(upload_id)).ended is None:
            await _verify_finished(client, upload_id)
    problems = {f.upload_id: f.problem async for f in check_store(client.kit.store) if f.problem is not None}
    problems = {key: problem for key, problem in problems.items() if key in client.sent}
    _expect(not problems, "store check after resuming", problems)


async def _verify_finished(client: Client, upload_id: str) -> None:
    kit, sent = client.kit, client.sent[upload_id]
    _expect(await kit.read(upload_id) == sent.data, upload_id, "the content is not what was sent")
    if sent.role is Role.PARTIAL:
        return
    receipt = await kit.store.receipt(upload_id, kit.identities)
    if receipt is None:
        _expect(False, upload_id, "the receipt was lost")
        return
    _expect(receipt["upload"] == upload_id, upload_id, "the receipt is of another upload")
    if "sha256" in receipt:
        _expect(receipt["sha256"] == hashlib.sha256(sent.data).hexdigest(), upload_id, "the digest is wrong")
    _expect(await kit.store.url_receipt(upload_id, sent.token) is not None, upload_id, "the client's receipt is lost")
    if kit.mode is Mode.SEALED:
        for one in (upload_id, *sent.parts):
            _expect(not kit.store.layout.of(one).ingest_envelope.exists(), one, "the server's envelope came back")


def _expect(holds: bool, *what: object) -> None:
    if not holds:
        raise AssertionError(" ".join(map(str, what)))


# ---- scenarios -------------------------------------------------------------------------------------------------


async def small(client: Client) -> None:
    """Create, append, finish."""
    upload = await client.create(3000)
    await client.append(upload, 3000)
    await client.finish(upload)


async def rolling(client: Client) -> None:
    """Send several segments in one body, a cut, and a tiny last piece."""
    upload = await client.create(3 * ROLL_BYTES + 5000)
    await client.append(upload, 2 * ROLL_BYTES + 100)
    await client.append(upload, 2 * ROLL_BYTES + 3000, cut=True)
    await client.append(upload, 3 * ROLL_BYTES + 5000)
    await client.finish(upload)


async def checksum(client: Client) -> None:
    """Send a body that does not match its checksum, between two that count."""
    upload = await client.create(9000)
    await client.append(upload, 2500)
    await client.append(upload, 8000, lie=True)
    await client.append(upload, 9000)
    await client.finish(upload)


async def deferred(client: Client) -> None:
    """Declare the length with the last piece."""
    upload = await client.create(4000, deferred=True)
    await client.append(upload, 1500)
    await client.append(upload, 4000)
    await client.finish(upload)


async def empty(client: Client) -> None:
    """Send no byte."""
    upload = await client.create(0)
    await client.finish(upload)


async def concatenation(client: Client) -> None:
    """Join three parts, one of them empty, and end the final with all its parts."""
    parts = [await client.create(size, role=Role.PARTIAL) for size in (2000, 0, 700)]
    for part in parts:
        if client.sent[part].data:
            await client.append(part, len(client.sent[part].data))
        await client.finish(part)
    final = await client.concatenate(parts)
    await client.end(final, UploadState.DELETED)


async def terminate(client: Client) -> None:
    """End one upload in the middle and one that has no byte."""
    first, second = await client.create(3000), await client.create(10)
    await client.append(first, 2000)
    await client.end(first, UploadState.TERMINATED)
    await client.end(second, UploadState.EXPIRED)


async def two(client: Client) -> None:
    """Seal two uploads while both are in progress."""
    first, second = await client.create(1000), await client.create(5000)
    await client.append(second, 2000)
    await client.append(first, 1000)
    await client.finish(first)
    await client.append(second, 5000)
    await client.finish(second)


Scenario = Callable[[Client], Awaitable[None]]
MANAGED: dict[str, Scenario] = {
    one.__name__: one for one in (small, rolling, checksum, deferred, empty, concatenation, terminate)
}
SEALED: dict[str, Scenario] = {"sealed-" + one.__name__: one for one in (small, concatenation, two)}
SCENARIOS: dict[str, Scenario] = {**MANAGED, **SEALED}


def mode_of(name: str) -> Mode:
    """Return the mode a scenario is for."""
    return Mode.SEALED if name in SEALED else Mode.MANAGED


@contextmanager
def small_segments() -> Iterator[None]:
    """Roll over after 64 KiB instead of 64 MiB, wherever the size is used."""
    modules: list[Any] = [module for name, module in sys.modules.items() if name.startswith("storage.")]
    saved = [(module, module.ROLL_BYTES) for module in modules if hasattr(module, "ROLL_BYTES")]
    try:
        for module, _ in saved:
            module.ROLL_BYTES = ROLL_BYTES
        yield
    finally:
        for module, size in saved:
            module.ROLL_BYTES = size
