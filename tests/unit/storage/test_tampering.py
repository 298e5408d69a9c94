"""Change what is stored behind the server: every change is refused, by name, and nothing is truncated for it.

A sample of the single flips runs by default; the slow test does every byte of all logs, envelopes and headers.
"""

import asyncio
import base64
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from dropoff_tus.errors import DropoffError, UploadDamagedError
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Mode, Role
from storage.age import (
    CHUNK_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    Identity,
    KeyType,
    decrypt,
    encrypt,
    open_header,
    payload_key,
    sealed_size,
)
from storage.age.stream import ChunkSealer
from storage.keyring.checksum import Checksum
from storage.keyring.envelope import open_envelope
from storage.keyring.identities import parse_identities
from storage.keyring.lines import Record, sign_line
from storage.keyring.secretkey import SecretKey
from storage.keyring.signing import SigningKey
from storage.open import FileStore, StoreSettings
from storage.uploads.log import sign_receipt
from storage.uploads.maintenance.check import Depth, check_store
from storage.uploads.receipts import RECEIPT_HEAD
from tests.support import crash_scenarios
from tests.support.aio import async_test
from tests.support.crash_scenarios import Client
from tests.support.store_kit import BytesBody, StoreKit

Changes = dict[Path, bytes | None]


class Vault:
    """A store with an upload of each kind. `refused` applies changes, sees them refused, and takes them back."""

    def __init__(self, folder: Path) -> None:
        """Make keys."""
        self.kit = StoreKit(folder)
        self.client = Client(self.kit)
        self.finished = self.other = self.open = self.final = self.part = ""

    async def fill(self) -> None:
        """Upload."""
        client = self.client
        self.finished, self.other = await client.create(150_000), await client.create(150_000)
        for upload in (self.finished, self.other):
            await client.append(upload, 140_000)
            await client.append(upload, 150_000)
            await client.finish(upload)
        self.open = await client.create(5000)
        await client.append(self.open, 2000)
        await client.append(self.open, 4000)
        parts = [await client.create(size, role=Role.PARTIAL) for size in (3000, 500)]
        for part in parts:
            await client.append(part, len(client.sent[part].data))
            await client.finish(part)
        self.part, self.final = parts[0], await client.concatenate(parts)
        await self.kit.store.close()
        self.before = self._tree()

    def bytes_of(self, path: Path) -> bytes:
        """Return what a file held before any change."""
        return self.before[path]

    async def refused(self, upload: str, changes: Changes, *, by_check: bool = True) -> str | None:
        """Return None if the changes were refused as they must be, else what was wrong."""
        for path, content in changes.items():
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
        changed = self._tree()
        # With nothing remembered, as after a restart.
        settings = StoreSettings(
            self.kit.folder / "store", self.kit.folder / "keys", (self.kit.root,), free_space_floor_bytes=0
        )
        store = FileStore(settings, self.kit.store_keys)
        try:
            problem = await self._problem(store, upload, by_check=by_check)
        finally:
            await store.close()
        if problem is None and self._tree() != changed:
            problem = "files were changed"
        for path in changed.keys() - self.before.keys():
            path.unlink()
        for path in changes:
            path.write_bytes(self.before[path])
        return problem

    async def _problem(self, store: FileStore, upload: str, *, by_check: bool) -> str | None:
        findings = {one.upload_id: one.problem async for one in check_store(store, [upload])}
        if by_check and findings[upload] is None:
            return "store check finds nothing"
        sent = self.client.sent[upload]
        try:
            if upload == self.open:
                async with store.lease(upload, offset=sent.told.offset) as lease:
                    await lease.append(BytesBody(b"x"), AppendPlan(sent.told.offset, 1, 1), idle_timeout_seconds=5)
                return "it was appended to"
            if (await store.stat(upload)).length is not None and not (await store.stat(upload)).final:
                # An upload that lost its final record looks open: a next request must not cut the finished bytes.
                async with store.lease(upload):
                    return "it was taken over"
            pieces = [piece async for piece in store.read(upload, identities=self.kit.identities)]
        except DropoffError as error:
            named = upload in error.message or any(part in error.message for part in sent.parts)
            return None if named else f"the error names no upload: {error.message}"
        return "it was read" + ("" if b"".join(pieces) == sent.data else ", and wrong")

    def _tree(self) -> dict[Path, bytes]:
        roots = (self.kit.folder / "store", self.kit.folder / "keys")
        return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Fill one vault for the module; each case leaves it as it was."""
    made = Vault(tmp_path_factory.mktemp("vault"))
    with crash_scenarios.small_segments():
        asyncio.run(made.fill())
    return made


def _flips(vault: Vault) -> Iterator[tuple[str, Path, int]]:
    """Yield (upload, file, position) of every byte that is flipped. The check without keys sees each."""
    layout = vault.kit.store.layout
    for upload in (vault.finished, vault.open, vault.final):
        paths = layout.of(upload)
        for at in range(len(vault.bytes_of(paths.log))):
            yield upload, paths.log, at
        for at in range(len(vault.bytes_of(paths.root_envelope))):
            yield upload, paths.root_envelope, at
    paths = layout.of(vault.finished)
    for entry in _entries(vault.bytes_of(paths.log)):
        for at in range(entry["co"], entry["co"] + entry["hl"]):
            yield vault.finished, paths.data, at
    data = len(vault.bytes_of(paths.data))
    for at in random.Random(3).sample(range(data), 400):
        yield vault.finished, paths.data, at


def _entries(log: bytes) -> list[dict[str, int]]:
    records = [json.loads(line.rpartition(b" ")[0]) for line in log[:-1].split(b"\n")]
    return [entry for record in records for entry in record.get("segs", ())]


async def _flip_all(vault: Vault, masks: Callable[[int], list[int]], chosen: list[tuple[str, Path, int]]) -> int:
    count, missed = 0, []
    for upload, path, at in chosen:
        for mask in masks(at):
            raw = bytearray(vault.bytes_of(path))
            raw[at] ^= mask
            problem = await vault.refused(upload, {path: bytes(raw)})
            count += 1
            if problem is not None:
                missed.append(f"{path.name} byte {at} of {len(raw)} ^ {mask:#x}: {problem}")
    assert not missed, f"{len(missed)} of {count} undetected: " + "; ".join(missed[:20])
    return count


@async_test
async def test_tampering_flipped_bytes_of_a_sample_are_refused(vault: Vault) -> None:
    """One bit of a log, an envelope, a segment's header or its data is enough to be refused."""
    flips = list(_flips(vault))
    await _flip_all(vault, lambda at: [1 << at % 8], random.Random(11).sample(flips, 120))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_tampering_every_flipped_byte_is_refused(vault: Vault) -> None:
    """Every byte of the logs, envelopes and headers, in three bits each, one of which makes a NUL where one can."""

    def masks(at: int) -> list[int]:
        return sorted({1 << at % 8, 0x20, 0x80 >> at % 7})

    count = asyncio.run(_flip_all(vault, masks, list(_flips(vault))))
    print(f"{count} flips, all refused")  # noqa: T201 - the figure a long run is for
    assert count >= 5000


def _lines(vault: Vault, upload: str) -> list[bytes]:
    return vault.bytes_of(vault.kit.store.layout.of(upload).log).splitlines(keepends=True)


def _log_cases(vault: Vault) -> dict[str, tuple[str, list[bytes]]]:
    """Return logs with records removed, swapped, doubled, replayed or signed for something else."""
    lines, other, opened = (_lines(vault, upload) for upload in (vault.finished, vault.other, vault.open))
    key = vault.kit.keys.signing
    last = json.loads(lines[-1].rpartition(b" ")[0])
    policy = sign_line(last, key, domain=b"dropoff-tus/policy/v1\n")
    cases = {
        "no create record": (vault.finished, lines[1:]),
        "two records swapped": (vault.finished, [lines[0], *reversed(lines[1:3]), *lines[3:]]),
        "a record twice": (vault.finished, [*lines, lines[-1]]),
        "another upload's last record": (vault.finished, [*lines[:-1], other[-1]]),
        "another upload's create record": (vault.finished, [other[0], *lines[1:]]),
        "another upload's log": (vault.finished, other),
        "a last record signed as a receipt": (vault.finished, [*lines[:-1], sign_receipt(last, key)]),
        "a last record signed as a policy": (vault.finished, [*lines[:-1], policy]),
        "a final record after the end": (vault.finished, [*lines, _next(lines, key, {"t": "segs", "segs": []})]),
        "totals that do not add up": (vault.finished, [*lines[:-1], _next(lines[:-1], key, {"tot": [9, 9, 9]}, last)]),
        "a finished upload without its final record": (vault.finished, lines[:-1]),
        "open: the first commit removed": (vault.open, [opened[0], *opened[2:]]),
        "open: another upload's last record": (vault.open, [*opened[:-1], other[-1]]),
        "open: commits swapped": (vault.open, [opened[0], *reversed(opened[1:])]),
        "open: a line of rubbish": (vault.open, [*opened, b"rubbish\n"]),
        "open: a line with one NUL": (vault.open, [*opened, b"rub\0bish\n"]),
        "final: its parts' record is another's": (vault.final, [*_lines(vault, vault.final)[:-1], lines[-1]]),
    }
    middle = range(1, len(lines) - 1)
    return cases | {f"record {i} removed": (vault.finished, lines[:i] + lines[i + 1 :]) for i in middle}


def _next(lines: list[bytes], key: SigningKey, fields: Record, base: Record | None = None) -> bytes:
    """Sign, with the server's own key, a record that must not be there."""
    before = json.loads(lines[-1].rpartition(b" ")[0])
    record = {**(base or before), "prev": hashlib.sha256(lines[-1]).hexdigest(), **fields}
    return sign_line(record, key)


@async_test
async def test_tampering_with_records_is_refused(vault: Vault) -> None:
    """A log whose records are removed, moved, doubled, foreign or signed for another purpose is refused."""
    missed = {}
    for name, (upload, lines) in _log_cases(vault).items():
        log = vault.kit.store.layout.of(upload).log
        if (problem := await vault.refused(upload, {log: b"".join(lines)})) is not None:
            missed[name] = problem
    assert not missed


@async_test
async def test_tampering_with_chunks_is_refused(vault: Vault) -> None:
    """Chunks swapped, data cut at every border of a chunk, of a segment, or made longer, are refused."""
    paths = vault.kit.store.layout.of(vault.finished)
    data, entries = vault.bytes_of(paths.data), _entries(vault.bytes_of(paths.log))
    sealed = CHUNK_BYTES + TAG_BYTES
    borders = {at for e in entries for at in range(e["co"] + e["hl"], e["co"] + e["cl"], sealed)}
    borders |= {e["co"] for e in entries} | {e["co"] + e["hl"] - 16 for e in entries}
    cases = {f"cut at {at}": data[:at] for at in borders} | {"longer": data + b"x", "gone": b""}
    first = min(entry["co"] + entry["hl"] for entry in entries)
    second = next(e["co"] + e["hl"] for e in entries if e["i"] == 1)
    chunk, later = data[first : first + 1000], data[second : second + 1000]
    cases["parts of chunks swapped"] = (
        data[:first] + later + data[first + 1000 : second] + chunk + data[second + 1000 :]
    )
    one, two = entries[0], entries[1]
    whole_one, whole_two = (data[e["co"] : e["co"] + e["cl"]] for e in (one, two))
    cases["segments swapped"] = whole_two + whole_one + data[two["co"] + two["cl"] :]
    cases["another upload's data"] = vault.bytes_of(vault.kit.store.layout.of(vault.other).data)
    missed = {}
    for name, content in cases.items():
        if (problem := await vault.refused(vault.finished, {paths.data: content})) is not None:
            missed[name] = problem
    assert not missed


@async_test
async def test_tampering_by_whoever_has_the_uploads_identity_is_refused(vault: Vault) -> None:
    """A segment sealed again to U, or under the very file key, is not the one that was committed."""
    paths = vault.kit.store.layout.of(vault.finished)
    data, entry = vault.bytes_of(paths.data), _entries(vault.bytes_of(paths.log))[-1]
    envelope = decrypt(vault.bytes_of(paths.root_envelope), [Identity.parse(text) for text in vault.kit.identities])
    identity = Identity.parse(json.loads(envelope)["identity"])
    start, stop = entry["co"], entry["co"] + entry["cl"]
    plain = decrypt(data[start:stop], [identity])
    forged = encrypt(bytes(reversed(plain)), identity.recipient)
    assert len(forged) == stop - start
    assert await vault.refused(vault.finished, {paths.data: data[:start] + forged + data[stop:]}) is None
    # Only the hash of its header shows a part of a segment.
    paths.data.write_bytes(data[:start] + forged + data[stop:])
    store = vault.kit.open()
    part = store.read(vault.finished, start=149_990, stop=149_995, identities=vault.kit.identities)
    with pytest.raises(UploadDamagedError, match=f"{vault.finished} .* header of segment"):
        await anext(part)
    paths.data.write_bytes(data)
    await store.close()
    # The same header, so that only the hash of the whole segment tells.
    head = data[start : start + entry["hl"]]
    file_key = open_header(head[:-NONCE_BYTES], [identity])
    sealer, again = ChunkSealer(payload_key(file_key, head[-NONCE_BYTES:])), bytearray(sealed_size(len(plain)))
    backwards, whole = memoryview(bytes(reversed(plain))), (len(plain) - 1) // CHUNK_BYTES * CHUNK_BYTES
    used = sealer.seal_chunks(backwards[:whole], memoryview(again))
    sealer.seal_last(backwards[whole:], memoryview(again)[used:])
    assert decrypt(head + bytes(again), [identity]) == bytes(backwards)
    assert await vault.refused(vault.finished, {paths.data: data[:start] + head + again + data[stop:]}) is None


def _collide(key: bytes, sealed: bytes) -> bytes:
    """Return another chunk with the same tag: whoever holds its key changes two blocks so that Poly1305 agrees."""
    prime = 2**130 - 5
    block = Cipher(ChaCha20(key, bytes(15) + b"\1"), None).encryptor().update(bytes(32))
    r = int.from_bytes(block[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    first, second = (int.from_bytes(sealed[at : at + 16], "little") for at in (0, 16))
    for other in range(1, 1 << 16):
        # The first block counts r times as much as the second.
        for shift in ((first - other) * r % prime, (first - other) * r % prime - prime):
            if 0 <= second + shift < 1 << 128:
                return other.to_bytes(16, "little") + (second + shift).to_bytes(16, "little") + sealed[32:]
    raise AssertionError


@async_test
async def test_tampering_under_the_same_tags_is_seen_by_the_digest_of_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who holds the segment's key: the checksum would agree too if they took the trouble, so here it always does."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(1000)
    await kit.append(upload.id, 0, bytes(1000))
    await kit.finish(upload.id)
    paths = kit.store.layout.of(upload.id)
    (entry,) = _entries(paths.log.read_bytes())
    identities = parse_identities(kit.identities)
    identity = open_envelope(paths.root_envelope.read_bytes(), identities, kit.store.load(upload.id)).identity
    data = paths.data.read_bytes()
    head, sealed = data[: entry["hl"]], data[entry["hl"] :]
    key = payload_key(open_header(head[:-NONCE_BYTES], [identity]), head[-NONCE_BYTES:])
    # The nonce of the only chunk is that of the last: its counter is 0, its flag 1.
    forged = head + _collide(key, sealed)
    assert forged != data
    assert decrypt(forged, [identity]) != bytes(1000)
    paths.data.write_bytes(forged)

    async def problem(*identities: str) -> str | None:
        (finding,) = [one async for one in check_store(kit.open(), [upload.id], Depth(identities=identities))]
        return finding.problem

    assert await problem() == "segment 0 is not the committed one"
    monkeypatch.setattr(Checksum, "hexdigest", lambda _checksum: entry["k"])
    assert await problem() is None
    assert await problem(*kit.identities) == "its sha256 is not the one of its receipt"


@async_test
async def test_tampering_with_envelopes_is_refused(vault: Vault) -> None:
    """Another upload's envelope, an empty one, none, or a forged one to the right recipients is refused."""
    layout = vault.kit.store.layout
    root = layout.of(vault.finished).root_envelope
    server = layout.of(vault.open).root_envelope
    identity = Identity.generate(KeyType.X25519)
    blob = vault.bytes_of(root)
    fields = json.loads(decrypt(blob, [Identity.parse(text) for text in vault.kit.identities]))
    roots = [Identity.parse(text).recipient for text in vault.kit.identities]
    own = json.dumps({**fields, "identity": identity.secret_text()}).encode()
    names = json.dumps({**fields, "metadata": [["filename", base64.b64encode(b"evil").decode()]]}).encode()
    cases: dict[str, tuple[str, Changes]] = {
        "another's": (vault.finished, {root: vault.bytes_of(layout.of(vault.other).root_envelope)}),
        "empty": (vault.finished, {root: b""}),
        "gone": (vault.finished, {root: None}),
        "with an identity of the attacker's": (vault.finished, {root: encrypt(own, *roots)}),
        "with other metadata": (vault.finished, {root: encrypt(names, *roots)}),
        "open: another's": (vault.open, {server: vault.bytes_of(layout.of(vault.other).root_envelope)}),
        "open: empty": (vault.open, {server: b""}),
        "open: gone": (vault.open, {server: None}),
    }
    missed = {}
    for name, (upload, changes) in cases.items():
        if (problem := await vault.refused(upload, changes)) is not None:
            missed[name] = problem
    assert not missed


@async_test
async def test_tampering_with_what_files_are_is_refused(vault: Vault) -> None:
    """Files that are gone, or in whose place stands a link to something else, a folder, a FIFO or a device."""
    paths = vault.kit.store.layout.of(vault.finished)
    opened = vault.kit.store.layout.of(vault.open)
    aside = vault.kit.folder / "aside"
    makers: dict[str, Callable[[Path], object]] = {
        "nothing": lambda _path: None,
        "a link": lambda path: path.symlink_to(aside),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": lambda path: path.mkdir(),
        "a FIFO": os.mkfifo,
    }
    missed = {}
    places = ((vault.finished, paths.data), (vault.finished, paths.root_envelope), (vault.finished, paths.log))
    for upload, path in (*places, (vault.open, opened.data), (vault.open, opened.root_envelope)):
        for name, make in makers.items():
            path.rename(aside)
            make(path)
            problem = await vault.refused(upload, {})
            if name != "nothing":
                (path.rmdir if path.is_dir() else path.unlink)()
            aside.rename(path)
            if problem is not None and not (path == paths.log and "names no upload" in problem):
                missed[f"{path.name}: {name}"] = problem
    assert not missed


@async_test
async def test_tampering_with_a_part_is_refused_by_its_final(vault: Vault) -> None:
    """A concatenation whose part was replaced, ended or lost its final record does not read."""
    layout = vault.kit.store.layout
    part, other = layout.of(vault.part), layout.of(vault.other)
    raw = bytearray(vault.bytes_of(part.data))
    raw[-1] ^= 4
    cases: dict[str, Changes] = {
        "a bit of its data": {part.data: bytes(raw)},
        "its log is another's": {part.log: vault.bytes_of(other.log), part.data: vault.bytes_of(other.data)},
        "its final record is gone": {part.log: b"".join(_lines(vault, vault.part)[:-1])},
        "its log is gone": {part.log: None},
    }
    missed = {}
    for name, changes in cases.items():
        # The check of a part reads its bytes; that of the final sees whether it is still the same part.
        if (problem := await vault.refused(vault.final, changes, by_check=part.log in changes)) is not None:
            missed[name] = problem
    assert not missed


@async_test
async def test_tampering_forged_receipts_are_refused(vault: Vault) -> None:
    """A receipt signed by another key, for another purpose, or of another upload is an error, not a receipt."""
    kit, upload = vault.kit, vault.finished
    kit.open()
    store, path = kit.store, kit.store.layout.of(upload).receipt
    honest = await store.receipt(upload, kit.identities)
    assert honest is not None
    stranger = StoreKit(kit.folder / "stranger")
    envelope = decrypt(
        vault.bytes_of(store.layout.of(upload).root_envelope), [Identity.parse(text) for text in kit.identities]
    )
    key = SecretKey(bytes.fromhex(json.loads(envelope)["receipt"]))
    unsigned, another = "is not signed by this server", "is of another upload"
    forged = {
        "by another key": (sign_receipt({**honest, "length": 1}, stranger.keys.signing), unsigned),
        "as a log record": (sign_line(honest, kit.keys.signing), unsigned),
        "of another upload": (sign_receipt({**honest, "upload": vault.other}, kit.keys.signing), another),
        "of another state": (sign_receipt({**honest, "final": "0" * 64}, kit.keys.signing), another),
    }
    for name, (line, why) in forged.items():
        path.write_bytes(RECEIPT_HEAD + key.seal(line))
        with pytest.raises(UploadDamagedError, match=f"{upload}.* {why}"):
            pytest.fail(f"{name}: {await store.receipt(upload, kit.identities)}")
    path.write_bytes(vault.bytes_of(path))
    assert await store.receipt(upload, kit.identities) == honest
    await store.close()
    await stranger.store.close()


@async_test
async def test_tampering_found_while_appending_leaves_the_offset(vault: Vault) -> None:
    """A changed open upload can be restored: nothing was cut, and it goes on."""
    kit = vault.kit
    paths = kit.store.layout.of(vault.open)
    raw = bytearray(vault.bytes_of(paths.log))
    raw[-2] ^= 1
    assert await vault.refused(vault.open, {paths.log: bytes(raw)}) is None
    kit.open()
    assert (await kit.store.stat(vault.open)).offset == 4000
    await kit.store.close()


@async_test
async def test_tampering_sealed_upload_does_not_become_managed(tmp_path: Path) -> None:
    """The mode is in the signed create record, so changed files cannot turn it."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    _, upload = await kit.create(100)
    await kit.append(upload.id, 0, bytes(100))
    await kit.finish(upload.id)
    paths = kit.store.layout.of(upload.id)
    paths.ingest_envelope.write_bytes(paths.root_envelope.read_bytes())
    kit.open()
    assert await kit.store.metadata(upload.id) is None
    assert datetime.now(UTC) > (await kit.store.stat(upload.id)).created_at
    await kit.store.close()
