"""Stores that are kept in the repository: every later version must read them for ever."""

import base64
import hashlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dropoff_tus.errors import (
    DropoffError,
    KeyMissingError,
    UploadDamagedError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.states import UploadState
from storage.keyring.keys import KeyPlaces
from storage.uploads.log import verify_receipt
from storage.uploads.maintenance.check import check_store
from tests.support.aio import async_test
from tests.vectors.store.stored import FOLDER, StoredServer, copy_secrets, load_uploads, plaintext

_UPLOADS = {row["name"]: row for row in load_uploads()}
_FINISHED = [name for name, row in _UPLOADS.items() if row["state"] == "finished" and row["role"] != "partial"]
_OPEN = [name for name, row in _UPLOADS.items() if row["state"] == "open"]
_VECTORS = sorted(path.stem for path in (FOLDER / "vectors").glob("*.json"))
_OUTCOMES = {
    UploadDamagedError: "damaged",
    UploadGoneError: "gone",
    UploadNotFoundError: "not found",
    KeyMissingError: "key missing",
}


def _content(row: dict[str, Any]) -> bytes:
    return row["text"].encode() if "text" in row else plaintext(row["offset"])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> KeyPlaces:
    """Copy the stored keys once."""
    return copy_secrets(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def server(tmp_path: Path, places: KeyPlaces) -> StoredServer:
    """Return the stored server, with none of its uploads yet."""
    return StoredServer(tmp_path, places)


def test_stored_uploads_are_of_all_kinds() -> None:
    """A finished and an unfinished upload for either mode and either type of key."""
    kinds = {(row["mode"], row["key_type"], row["state"]) for row in _UPLOADS.values()}
    assert {
        (m, k, s) for m in ("managed", "sealed") for k in ("x25519", "hybrid") for s in ("finished", "open")
    } <= kinds


@async_test
async def test_stored_uploads_are_clean(server: StoredServer) -> None:
    """Every signature, hash and ciphertext byte of the stored uploads verifies."""
    server.copy_uploads(*(row["id"] for row in _UPLOADS.values()))
    findings = {finding.upload_id: finding.problem async for finding in check_store(server.store)}
    assert findings == dict.fromkeys((row["id"] for row in _UPLOADS.values()), None)


@pytest.mark.parametrize("name", _FINISHED)
@async_test
async def test_stored_finished_upload_is_read_with_the_roots(server: StoredServer, name: str) -> None:
    """Content, metadata and the receipt come back, by the envelope and by the token."""
    row = _UPLOADS[name]
    server.copy_uploads(row["id"], *row["parts"])
    state = await server.store.stat(row["id"])
    assert (state.final, state.offset, state.mode, state.key_type) == (
        True,
        row["offset"],
        row["mode"],
        row["key_type"],
    )
    assert list(state.parts) == row["parts"]
    content = await server.read(row["id"])
    assert content == _content(row)
    receipt = await server.store.receipt(row["id"], server.identities)
    assert receipt is not None
    assert (receipt["upload"], receipt["length"], receipt["path"]) == (row["id"], row["offset"], "Prüfbericht 7.txt")
    assert receipt["sha256"] == hashlib.sha256(content).hexdigest()
    line = await server.store.url_receipt(row["id"], row["token"])
    assert line is not None
    assert verify_receipt(line, server.keys.signing) == receipt


@pytest.mark.parametrize("name", _FINISHED)
@async_test
async def test_stored_finished_upload_is_read_by_the_server_unless_sealed(server: StoredServer, name: str) -> None:
    """A managed upload opens with the server's keys of that time; a sealed one does not."""
    row = _UPLOADS[name]
    server.copy_uploads(row["id"], *row["parts"])
    if row["mode"] == "managed":
        assert await server.read(row["id"], with_roots=False) == _content(row)
        metadata = await server.store.metadata(row["id"])
        assert metadata is not None
        assert [[key, value.hex()] for key, value in metadata.pairs] == row["metadata"]
    else:
        assert await server.store.metadata(row["id"]) is None
        with pytest.raises(KeyMissingError):
            await server.read(row["id"], with_roots=False)


@pytest.mark.parametrize("name", _OPEN)
@async_test
async def test_stored_unfinished_upload_goes_on(server: StoredServer, name: str) -> None:
    """It stands where it stood, takes the rest, finishes, and reads back whole."""
    row = _UPLOADS[name]
    server.copy_uploads(row["id"], *row["parts"])
    state = await server.store.stat(row["id"])
    assert (state.final, state.offset, state.length) == (False, row["offset"], row["length"])
    whole = plaintext(row["length"])
    assert await server.append(row["id"], row["offset"], whole[row["offset"] :]) == row["length"]
    await server.finish(row["id"])
    assert await server.read(row["id"]) == whole
    assert [f.problem async for f in check_store(server.store, [row["id"]])] == [None]


@async_test
async def test_stored_tombstone_is_read(server: StoredServer) -> None:
    """What was ended stays ended, and why is known."""
    server.copy_uploads(_UPLOADS["terminated"]["id"])
    assert (await server.store.stat(_UPLOADS["terminated"]["id"])).ended is UploadState.TERMINATED


# ---- single uploads, changed -----------------------------------------------------------------------------------


async def _outcome(work: Callable[[], Coroutine[Any, Any, str]]) -> str:
    try:
        return await work()
    except DropoffError as error:
        return _OUTCOMES[type(error)]


def _lay_out(vector: dict[str, Any], server: StoredServer) -> None:
    paths = server.store.layout.of(vector["upload"])
    targets = {
        "log": paths.log,
        "data": paths.data,
        "envelope": paths.root_envelope,
        "receipt": paths.receipt,
    }
    paths.folder.mkdir(parents=True)
    paths.keys_folder.mkdir(parents=True)
    for name, text in vector["files"].items():
        targets[name].write_bytes(base64.b64decode(text))


@pytest.mark.parametrize("name", _VECTORS)
@async_test
async def test_vector_has_its_named_outcome(server: StoredServer, name: str) -> None:
    """Each upload of the vectors is told, checked, read and continued as it says; what is refused stays as it is."""
    vector = json.loads((FOLDER / "vectors" / f"{name}.json").read_text())
    expect, upload_id = vector["expect"], vector["upload"]
    _lay_out(vector, server)

    async def stat() -> str:
        state = await server.store.stat(upload_id)
        return state.ended.value if state.ended is not None else f"offset {state.offset}"

    async def check() -> str:
        (finding,) = [finding async for finding in check_store(server.store, [upload_id])]
        return "clean" if finding.problem is None else "finding"

    async def read() -> str:
        content = await server.read(upload_id)
        texts = {b"Hello, institute!\n": "plaintext", plaintext(1007): "plaintext"}
        return texts.get(content, "something else")

    async def receipt() -> str:
        return "none" if await server.store.receipt(upload_id) is None else "signed"

    async def append() -> str:
        # The last: it changes the upload. The server that is asked has seen nothing of it yet.
        server.reopen()
        before = _all_bytes(server.folder)
        offset = (await server.store.stat(upload_id)).offset if expect["stat"].startswith("offset") else 1007
        try:
            done = await server.append(upload_id, offset, b"!")
        except DropoffError:
            assert _all_bytes(server.folder) == before
            raise
        return "appended" if done == offset + 1 else "something else"

    tests = {"stat": stat, "check": check, "read": read, "receipt": receipt, "append": append}
    assert {what: await _outcome(tests[what]) for what in tests if what in expect} == expect


def _all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
