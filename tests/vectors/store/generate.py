"""Make the stored uploads of this format version anew, with new keys. What is checked in stays for ever.

    python -m tests.vectors.store.generate FOLDER

After a change of the format before 1.0: into a new folder, `v2.new`, which then takes the place of `v2`. From 1.0 on a
new version of the format gets a folder of its own beside it.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dropoff_tus import ids
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Mode, Role
from dropoff_tus.ports.store import NewUpload
from dropoff_tus.states import UploadState
from storage.keyring.identities import generate_root_identity
from storage.keyring.keys import generate_server_keys, load_server_keys
from storage.open import FileStore, StoreSettings
from tests.support.store_kit import BytesBody, make_roots
from tests.vectors.store import make_vectors
from tests.vectors.store.stored import plaintext

_DROP_ID = "5c3f1d0e-6f2a-4b6e-9a77-1d2b4c6d8e90"
_START = datetime(2026, 3, 1, 12, tzinfo=UTC)
_METADATA = Metadata((("filename", "Prüfbericht 7.txt".encode()), ("filetype", b"text/plain"), ("empty", b"")))
_EXAMPLE = (b"Hello, ", b"institute!\n")


class _Maker:
    """A server that is used once, on a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._moment = _START
        self.places = generate_server_keys(folder / "secrets")
        self.keys = load_server_keys(self.places)
        self._roots = {
            kind: generate_root_identity(folder / "secrets" / f"root-{kind}.txt", kind) for kind in ("x25519", "hybrid")
        }
        self.settings = StoreSettings(folder / "store", folder / "keys", tuple(self._roots.values())[:1])
        self.store = FileStore(self.settings, self.keys, self.now)
        self.uploads: list[dict[str, Any]] = []

    def now(self) -> datetime:
        self._moment += timedelta(milliseconds=125)
        return self._moment

    async def create(
        self,
        name: str,
        length: int | None,
        *,
        kind: str = "x25519",
        mode: Mode = Mode.MANAGED,
        role: Role = Role.REGULAR,
        parts: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        # A final's token is derived from its parts'; the others are fixed, so that names and folders stay.
        tokens = [part["token"] for part in parts]
        token = self.keys.final_token(tokens) if tokens else ids.upload_id("vector " + name)
        terms = DropTerms("vectors", mode=mode, recipients=() if kind == "x25519" else (self._roots[kind],))
        made = NewUpload(
            id=ids.upload_id(token),
            token=token,
            drop=self.keys.sign_terms(Dropoff(_DROP_ID, self.now(), terms)),
            role=role,
            metadata=Metadata() if role is Role.PARTIAL else _METADATA,
            created_at=self.now(),
            length=length,
            parts=tuple(part["id"] for part in parts),
        )
        await self.store.create(made)
        row = {
            "name": name,
            "id": made.id,
            "token": token,
            "mode": mode.value,
            "key_type": kind,
            "role": role.value,
            "metadata": [[key, value.hex()] for key, value in made.metadata.pairs],
            "length": length,
            "offset": 0,
            "state": "open",
            "parts": [part["id"] for part in parts],
        }
        self.uploads.append(row)
        return row

    async def append(self, row: dict[str, Any], *pieces: bytes) -> None:
        for piece in pieces:
            async with self.store.lease(row["id"], offset=row["offset"]) as lease:
                plan = AppendPlan(row["offset"], len(piece), len(piece))
                row["offset"] = await lease.append(BytesBody(piece), plan, idle_timeout_seconds=5)

    async def finish(self, row: dict[str, Any], last: bytes = b"") -> None:
        """Finish, with the last bytes committed by the final record if there are any."""
        async with self.store.lease(row["id"], offset=row["offset"]) as lease:
            if last:
                plan = AppendPlan(row["offset"], len(last), len(last))
                await lease.append(BytesBody(last), plan, idle_timeout_seconds=5, hold_last=True)
            digests = await lease.digests([], read_back_bytes=1 << 30)
            done = await lease.complete(digests or {}, self.now())
        row |= {"offset": done.size_bytes, "length": done.size_bytes, "state": "finished"}


async def _make(folder: Path) -> None:
    maker = _Maker(folder)
    make_roots(maker.store)
    row = await maker.create("example", len(b"".join(_EXAMPLE)))
    await maker.append(row, _EXAMPLE[0])
    await maker.finish(row, _EXAMPLE[1])
    row["text"] = b"".join(_EXAMPLE).decode()
    for mode in Mode:
        for kind in ("x25519", "hybrid"):
            content = plaintext(70_007 if (mode, kind) == (Mode.SEALED, "x25519") else 1007)
            row = await maker.create(f"{mode.value}-{kind}-finished", None, kind=kind, mode=mode)
            await maker.append(row, content[:1000], content[1000:-1], content[-1:])
            async with maker.store.lease(row["id"]) as lease:
                await lease.declare_length(len(content), maker.now())
            await maker.finish(row)
            row = await maker.create(f"{mode.value}-{kind}-unfinished", 2000, kind=kind, mode=mode)
            await maker.append(row, plaintext(1007)[:1000], plaintext(1007)[1000:])
    digesting, maker.store = maker.store, FileStore(replace(maker.settings, digest="none"), maker.keys, maker.now)
    row = await maker.create("without-digest-unfinished", 2000)
    await maker.append(row, plaintext(1007)[:1000], plaintext(1007)[1000:])
    await maker.store.close()
    maker.store = digesting
    row = await maker.create("empty", 0)
    await maker.finish(row)
    parts = []
    for number, size in enumerate((600, 407)):
        part = await maker.create(f"part-{number + 1}", size, role=Role.PARTIAL)
        await maker.append(part, plaintext(1007)[number * 600 : number * 600 + size])
        await maker.finish(part)
        parts.append(part)
    row = await maker.create("concatenation", None, role=Role.FINAL, parts=parts)
    await maker.finish(row)
    row = await maker.create("terminated", 100)
    await maker.append(row, b"gone")
    async with maker.store.lease(row["id"]) as lease:
        await lease.end(UploadState.TERMINATED, "terminated by the client", maker.now())
    row["state"] = "terminated"
    await maker.store.close()
    (folder / "uploads.json").write_text(json.dumps(maker.uploads, indent=1) + "\n")
    vectors = folder / "vectors"
    vectors.mkdir()
    for name, vector in make_vectors.make(folder, maker.keys, {row["name"]: row for row in maker.uploads}).items():
        (vectors / f"{name}.json").write_text(json.dumps(vector, indent=1) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    asyncio.run(_make(target))
