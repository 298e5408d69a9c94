"""The engine against a model, on local folders and in memory: acknowledged bytes stay, and no nonce repeats."""

import asyncio
import hashlib
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dropoff_tus.checksum import ExpectedChecksum
from dropoff_tus.errors import (
    BodyCutError,
    ChecksumMismatchError,
    KeyMissingError,
    LengthFixedError,
    MismatchedOffsetError,
    UploadGoneError,
    UploadNotFoundError,
    UploadSizeExceededError,
)
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role
from dropoff_tus.states import UploadState
from storage.keyring.identities import generate_root_identity, read_identity_file
from storage.keyring.keys import load_server_keys
from storage.uploads.maintenance.check import check_store
from storage.uploads.maintenance.rotation import Outcome
from tests.support.nonce_spy import NonceSpy
from tests.support.store_kit import BytesBody, Kit, MemoryKit, StoreKit

T = TypeVar("T")
_Crash = Callable[[], None]

_EXAMPLES = int(os.environ.get("DROPOFF_TUS_TEST_EXAMPLES", "300"))
"""How many runs the slow test makes."""
_SECTOR_BYTES = 512
# Around the sizes of a chunk and of a body that is taken in one turn.
_SIZES = st.sampled_from([1, 2, 65_535, 65_536, 65_537, 131_072, 262_144, 262_145]) | st.integers(1, 3000)
_SEEDS = st.integers(0, 2**32)


@dataclass
class _Model:
    """The expected state of an upload."""

    id: str
    mode: Mode
    role: Role
    length: int | None
    content: bytes = b""
    finished: bool = False
    ended: UploadState | None = None
    parts: list["_Model"] = field(default_factory=list)
    claimed: bool = False

    @property
    def is_open(self) -> bool:
        return not self.finished and self.ended is None


K = TypeVar("K", bound=Kit[Any])


class StoreMachine(RuleBasedStateMachine, Generic[K]):
    """Requests, cuts, crashes and rotations in any order."""

    kit: K

    def make_kit(self) -> K:
        """Make the store."""
        raise NotImplementedError

    def crash_in(self, upload_id: str, how: str, chance: random.Random, data: st.DataObject) -> Callable[[], None]:
        """Return a function that turns a commit that follows into one that a crash cut off, or came after."""
        raise NotImplementedError

    def __init__(self) -> None:
        """Make a store of its own."""
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.spy = NonceSpy()
        self.stack = ExitStack()
        self.stack.enter_context(self.spy.watching())
        self.loop = asyncio.new_event_loop()
        self.kit = self.make_kit()
        self.uploads: list[_Model] = []
        self.rotations = 0
        self.appended = False
        """Whether there is something that a restart could lose: else most steps would be restarts."""
        self.kit.make_roots()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        return self.loop.run_until_complete(work)

    def pick(self, data: st.DataObject, uploads: list[_Model]) -> _Model:
        """Draw one upload."""
        return data.draw(st.sampled_from(uploads))

    def open_ones(self) -> list[_Model]:
        """Return the uploads that take bytes."""
        return [upload for upload in self.uploads if upload.is_open and upload.role is not Role.FINAL]

    async def read(self, upload: _Model, identities: list[str], start: int = 0, stop: int | None = None) -> bytes:
        """Return plain bytes."""
        pieces = self.kit.store.read(upload.id, start=start, stop=stop, identities=identities)
        return b"".join([piece async for piece in pieces])

    def room(self, upload: _Model, size: int) -> int:
        """Return how much of a body fits."""
        return size if upload.length is None else min(size, upload.length - len(upload.content))

    @initialize(mode=st.sampled_from(Mode), size=_SIZES, seed=_SEEDS)
    def begin(self, mode: Mode, size: int, seed: int) -> None:
        """Have some uploads from the start, one with bytes, since what happens to these is what counts."""
        self.create(mode, Role.REGULAR, None)
        self.create(mode, Role.PARTIAL, None)
        body = random.Random(seed).randbytes(size)
        self.do(self.kit.append(self.uploads[0].id, 0, body))
        self.uploads[0].content = body

    # ---- requests -------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.uploads) < 8)
    @rule(
        mode=st.sampled_from(Mode),
        role=st.sampled_from([Role.REGULAR, Role.PARTIAL]),
        length=st.none() | st.integers(0, 300_000),
    )
    def create(self, mode: Mode, role: Role, length: int | None) -> None:
        """POST."""
        self.kit.mode = mode
        _, stored = self.do(self.kit.create(length, role=role))
        self.uploads.append(_Model(stored.id, mode, role, length))

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), size=_SIZES, seed=_SEEDS, cut=st.booleans(), hold=st.booleans())
    def patch(self, data: st.DataObject, size: int, seed: int, cut: bool, hold: bool) -> None:
        """PATCH that ends well, or is cut anywhere; with its last commit held back as for a finish that never comes."""
        upload = self.pick(data, self.open_ones())
        body = random.Random(seed).randbytes(self.room(upload, size))
        offset = len(upload.content)
        expected = len(body) + 1 if cut else len(body)

        async def work() -> None:
            async with self.kit.store.lease(upload.id, offset=offset) as lease:
                plan = AppendPlan(offset, expected, expected)
                await lease.append(BytesBody(body, cut=cut), plan, idle_timeout_seconds=5, hold_last=hold)

        self.appended = True
        try:
            self.do(work())
            assert not cut
        except BodyCutError:
            assert cut
        upload.content += body

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), size=_SIZES, seed=_SEEDS, how=st.sampled_from(["right", "wrong", "cut"]))
    def patch_with_checksum(self, data: st.DataObject, size: int, seed: int, how: str) -> None:
        """PATCH with Upload-Checksum: all of it or nothing."""
        upload = self.pick(data, self.open_ones())
        body = random.Random(seed).randbytes(self.room(upload, size))
        offset = len(upload.content)
        digest = hashlib.sha256(body if how == "right" else b"other" + body).digest()
        plan = AppendPlan(offset, len(body) + 1, None, checksum=ExpectedChecksum("sha256", digest))

        async def work() -> None:
            async with self.kit.store.lease(upload.id, offset=offset) as lease:
                await lease.append(BytesBody(body, cut=how == "cut"), plan, idle_timeout_seconds=5)

        try:
            self.do(work())
            assert how == "right"
            upload.content += body
        except ChecksumMismatchError:
            assert how == "wrong"
        except BodyCutError:
            assert how == "cut"

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), size=_SIZES, seed=_SEEDS)
    def patch_past_the_limit(self, data: st.DataObject, size: int, seed: int) -> None:
        """Send a chunked body that goes on too long: the bytes that fit are kept."""
        upload = self.pick(data, self.open_ones())
        room = self.room(upload, size)
        body = random.Random(seed).randbytes(room + 5)
        offset = len(upload.content)

        async def work() -> None:
            async with self.kit.store.lease(upload.id, offset=offset) as lease:
                await lease.append(BytesBody(body), AppendPlan(offset, room, None), idle_timeout_seconds=5)

        with pytest.raises(UploadSizeExceededError):
            self.do(work())
        upload.content += body[:room]

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), by=st.sampled_from([-1, 1, 1000]))
    def patch_elsewhere(self, data: st.DataObject, by: int) -> None:
        """PATCH at another offset writes nothing."""
        upload = self.pick(data, self.open_ones())
        offset = max(0, len(upload.content) + by)
        if offset != len(upload.content):
            with pytest.raises(MismatchedOffsetError):
                self.do(self.kit.append(upload.id, offset, b"elsewhere"))

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), more=st.integers(0, 70_000))
    def declare(self, data: st.DataObject, more: int) -> None:
        """Declare a length; it stays."""
        upload = self.pick(data, self.open_ones())
        length = len(upload.content) + more

        async def work() -> None:
            async with self.kit.store.lease(upload.id) as lease:
                await lease.declare_length(length, datetime.now(UTC))

        try:
            self.do(work())
            assert upload.length in {None, length}
            upload.length = length
        except LengthFixedError:
            assert upload.length not in {None, length}

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), seed=_SEEDS, hold=st.booleans())
    def finish(self, data: st.DataObject, seed: int, hold: bool) -> None:
        """Send what is missing and finish, the last commit with the final record or before it."""
        upload = self.pick(data, self.open_ones())
        offset = len(upload.content)
        length = offset + 10 if upload.length is None else upload.length
        body = random.Random(seed).randbytes(length - offset)

        async def work() -> None:
            async with self.kit.store.lease(upload.id, offset=offset) as lease:
                await lease.declare_length(length, datetime.now(UTC))
                if body:
                    plan = AppendPlan(offset, len(body), len(body))
                    await lease.append(BytesBody(body), plan, idle_timeout_seconds=5, hold_last=hold)
                digests = await lease.digests([], read_back_bytes=1 << 30)
                assert digests is not None
                assert digests == {"sha256": hashlib.sha256(upload.content + body).digest()}
                await lease.complete(digests, datetime.now(UTC))

        self.do(work())
        upload.content += body
        upload.length, upload.finished = length, True

    def free_parts(self) -> list[_Model]:
        """Return the parts that no concatenation has yet."""
        return [u for u in self.uploads if u.role is Role.PARTIAL and u.finished and not u.ended and not u.claimed]

    @precondition(lambda self: self.free_parts())
    @rule(data=st.data())
    def concatenate(self, data: st.DataObject) -> None:
        """Make a final of some parts, in any order, all of one mode as in one drop-off."""
        first = self.pick(data, self.free_parts())
        same = [part for part in self.free_parts() if part.mode is first.mode]
        parts = data.draw(st.lists(st.sampled_from(same), min_size=1, unique_by=id))
        self.kit.mode = first.mode
        _, stored = self.do(self.kit.create(None, role=Role.FINAL, parts=[part.id for part in parts]))
        self.do(self.kit.finish(stored.id))
        content = b"".join(part.content for part in parts)
        self.uploads.append(
            _Model(stored.id, first.mode, Role.FINAL, len(content), content, finished=True, parts=parts)
        )
        for part in parts:
            part.claimed = True

    def endable(self) -> list[_Model]:
        """Return the uploads that may be ended: a claimed part ends only with its final."""
        return [upload for upload in self.uploads if upload.ended is None and not upload.claimed]

    @precondition(lambda self: self.endable())
    @rule(data=st.data(), state=st.sampled_from([UploadState.TERMINATED, UploadState.EXPIRED]))
    def end(self, data: st.DataObject, state: UploadState) -> None:
        """DELETE, or time: keys and bytes are gone."""
        upload = self.pick(data, self.endable())

        async def work() -> None:
            async with self.kit.store.lease(upload.id) as lease:
                await lease.end(state, "a test", datetime.now(UTC))

        self.do(work())
        for gone in (upload, *upload.parts):
            gone.ended = state
            assert self.kit.is_gone(gone.id)

    # ---- what happens to servers ----------------------------------------------------------------------------

    @precondition(lambda self: self.appended)
    @rule()
    def restart(self) -> None:
        """Begin a new process."""
        self.appended = False
        self.do(self.kit.store.close())
        self.kit.open()

    @precondition(lambda self: self.open_ones())
    @rule(data=st.data(), seed=_SEEDS, size=_SIZES, how=st.sampled_from(["cut", "sectors", "whole"]))
    def crash(self, data: st.DataObject, seed: int, size: int, how: str) -> None:
        """Die in a commit: the line may be torn, or have holes; of the data after it anything may be there.

        The rule of the order of writes: where the line is whole, so are the bytes it names.
        """
        upload = self.pick(data, self.open_ones())
        chance = random.Random(seed)
        body = chance.randbytes(self.room(upload, size))
        if not body:
            return
        crash = self.crash_in(upload.id, how, chance, data)
        self.appended = True
        self.do(self.kit.append(upload.id, len(upload.content), body))
        self.do(self.kit.store.close())
        crash()
        if how == "whole":
            upload.content += body
        self.kit.open()

    @precondition(lambda self: self.appended)
    @rule()
    def rotate_the_signing_key(self) -> None:
        """Hand over every log to a new key, with the server stopped."""
        self.appended = False
        self.do(self.kit.store.close())
        self.kit.rotate_signing_key()
        self.kit.keys = load_server_keys(self.kit.places)
        self.kit.open()

    @precondition(lambda self: self.appended)
    @rule(restart_first=st.booleans())
    def rotate_the_roots(self, restart_first: bool) -> None:
        """Wrap every envelope for a new root beside the server, and start it with that: the old one opens nothing."""
        self.appended = False
        if restart_first:
            self.do(self.kit.store.close())
            self.kit.open()
        self.rotations += 1
        file = self.folder / f"root-{self.rotations}.txt"
        root, before = generate_root_identity(file, "x25519"), self.kit.identities
        with self.kit.rewrapper(before) as rewrapper:
            for upload in self.uploads:
                done = rewrapper.rewrap(upload.id, [root])
                assert done.outcome is (Outcome.ENDED if upload.ended else Outcome.REWRAPPED), done
        self.do(self.kit.store.close())
        self.kit.roots, self.kit.identities = (root,), read_identity_file(file)
        self.kit.open()
        for upload in self.uploads:
            if upload.finished and not upload.ended:
                with pytest.raises(KeyMissingError):
                    self.do(self.read(upload, before))

    # ---- what must hold -------------------------------------------------------------------------------------

    @precondition(lambda self: any(upload.finished and not upload.ended for upload in self.uploads))
    @rule(data=st.data(), with_root=st.booleans())
    def read_a_range(self, data: st.DataObject, with_root: bool) -> None:
        """Any range of a finished upload is the slice of the sent bytes; a sealed one opens only with the root."""
        upload = self.pick(data, [upload for upload in self.uploads if upload.finished and not upload.ended])
        whole = upload.mode is Mode.SEALED and upload.role is not Role.PARTIAL
        if not with_root and (whole or upload.claimed):
            return
        start = data.draw(st.integers(0, len(upload.content)))
        stop = data.draw(st.integers(start, len(upload.content)))
        identities = self.kit.identities if with_root else []
        assert self.do(self.read(upload, identities, start, stop)) == upload.content[start:stop]

    @precondition(lambda self: any(not upload.finished or upload.ended for upload in self.uploads))
    @rule(data=st.data())
    def read_what_cannot_be_read(self, data: st.DataObject) -> None:
        """Refuse to read what is unfinished or gone."""
        upload = self.pick(data, [upload for upload in self.uploads if not upload.finished or upload.ended])
        with pytest.raises(UploadGoneError if upload.ended else UploadNotFoundError):
            self.do(self.kit.read(upload.id))

    @invariant()
    def offsets_are_what_was_acknowledged(self) -> None:
        """HEAD tells every acknowledged byte, and no other."""
        for upload in self.uploads:
            state = self.do(self.kit.store.stat(upload.id))
            assert (state.final and not state.ended) == (upload.finished and not upload.ended)
            assert state.ended == upload.ended
            if not upload.ended:
                assert (state.offset, state.length) == (len(upload.content), upload.length)

    def teardown(self) -> None:
        """Verify every byte with no key, and read everything once more with the root."""
        try:
            self._verify()
        finally:
            self.do(self.kit.store.close())
            self.loop.close()
            self.stack.close()
            shutil.rmtree(self.folder)

    def _verify(self) -> None:
        async def work() -> list[str | None]:
            return [finding.problem async for finding in check_store(self.kit.store)]

        # A torn tail is no finding: the next writer cuts it.
        assert set(self.do(work())) <= {None}
        for upload in self.uploads:
            if upload.finished and not upload.ended:
                assert self.do(self.kit.read(upload.id)) == upload.content
            elif upload.is_open and upload.role is not Role.FINAL:
                self._finish_and_read(upload)
        assert not self.uploads or self.spy.pairs

    def _finish_and_read(self, upload: _Model) -> None:
        """Acknowledged bytes of what is unfinished: finish it as it is."""

        async def work() -> None:
            async with self.kit.store.lease(upload.id) as lease:
                await lease.write_final(datetime.now(UTC))

        self.do(work())
        assert self.do(self.kit.read(upload.id)) == upload.content


class FileMachine(StoreMachine[StoreKit]):
    """On local folders: a crash is made by rewriting files."""

    def make_kit(self) -> StoreKit:
        """Sync nothing."""
        return StoreKit(self.folder, durability="os")

    def crash_in(self, upload_id: str, how: str, chance: random.Random, data: st.DataObject) -> Callable[[], None]:
        """Cut the line, or lose sectors of it; of the data after what was committed before anything may be there."""
        paths = self.kit.store.layout.of(upload_id)
        # Not the files' sizes: an earlier crash may have left a torn tail, which the append cuts.
        before = self.kit.store.load(upload_id)
        log_bytes, data_bytes = before.log_bytes, before.data_bytes

        def crash() -> None:
            log, stored = bytearray(paths.log.read_bytes()), bytearray(paths.data.read_bytes())
            if how == "whole":
                stored += chance.randbytes(chance.randrange(3000))
            else:
                if how == "cut":
                    del log[data.draw(st.integers(log_bytes, len(log) - 1)) :]
                else:
                    _lose_sectors(log, log_bytes, chance)
                del stored[data.draw(st.integers(data_bytes, len(stored))) :]
                _lose_sectors(stored, data_bytes, chance)
            paths.log.write_bytes(log)
            paths.data.write_bytes(stored)

        return crash


class MemoryMachine(StoreMachine[MemoryKit]):
    """On objects and chains in memory: a crash leaves objects that no line names."""

    def make_kit(self) -> MemoryKit:
        """Start empty."""
        return MemoryKit(self.folder)

    def crash_in(self, upload_id: str, how: str, chance: random.Random, data: st.DataObject) -> Callable[[], None]:
        """Take the line away, and some of the objects that it named; or leave an object of a commit that never came."""
        stored = self.kit.backing.of(upload_id)
        log, objects = stored.log, dict(stored.objects)

        def crash() -> None:
            if how == "whole":
                stored.objects["never named"] = (stored.data_bytes, chance.randbytes(3000))
                return
            stored.log = log
            for name in stored.objects.keys() - objects.keys():
                if data.draw(st.booleans()):
                    del stored.objects[name]

        return crash


def _lose_sectors(raw: bytearray, start: int, chance: random.Random) -> None:
    """Turn at least one of the sectors after `start` into NUL, if there are any."""
    edges = sorted({start, *range(start + -start % _SECTOR_BYTES, len(raw), _SECTOR_BYTES), len(raw)})
    sectors = list(itertools.pairwise(edges))
    for begin, end in chance.sample(sectors, chance.randint(min(1, len(sectors)), len(sectors))):
        raw[begin:end] = bytes(end - begin)


_BOTH = pytest.mark.parametrize("machine", [FileMachine, MemoryMachine])


def _run(machine: type[StoreMachine[Any]], examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=checks,
            database=None,
        ),
    )


@_BOTH
@pytest.mark.timeout(300)
def test_store_in_any_order_of_events_keeps_what_it_acknowledged(machine: type[StoreMachine[Any]]) -> None:
    """A few runs."""
    _run(machine, 8, 20)


@_BOTH
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_store_in_very_many_orders_of_events_keeps_what_it_acknowledged(machine: type[StoreMachine[Any]]) -> None:
    """Many long runs; DROPOFF_TUS_TEST_EXAMPLES says how many."""
    _run(machine, _EXAMPLES, 50)
