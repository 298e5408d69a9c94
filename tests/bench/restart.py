"""How long a start takes with many uploads in progress; `serve` reads the last record of each.

    python -m tests.bench.restart [UPLOADS] [SEGMENTS]

The store is made at once: logs as they are, but with two real signatures each (what lies between is only read before a
byte is written), `data` of the right size without content, envelopes of one upload for all.
"""

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from dropoff_tus import ids
from dropoff_tus.messages import AppendPlan
from dropoff_tus.model import Metadata, Role, UploadRow
from dropoff_tus.ports.store import NewUpload
from dropoff_tus.states import UploadState
from server.services import Services, open_services
from server.settings.config import load_config
from storage.backing import SegmentEntry
from storage.files.layout import UploadPaths
from storage.keyring.lines import sign_line, verify_line
from storage.uploads.log import initial_state
from tests.support.long_log import commits
from tests.support.server_process import ServerProcess
from tests.support.store_kit import BytesBody

_SEGMENT_BYTES = 1


async def _one_real(services: Services, drop_id: str, length: int) -> str:
    """Make an upload with one segment, from which the others are copied."""
    dropoff = await services.catalog.dropoff(drop_id)
    assert dropoff is not None
    token = os.urandom(16).hex()
    made = NewUpload(
        id=ids.upload_id(token),
        token=token,
        drop=dropoff,
        role=Role.REGULAR,
        metadata=Metadata((("filename", b"x"),)),
        created_at=datetime.now(UTC),
        length=length,
    )
    await services.store.create(made)
    async with services.store.lease(made.id, offset=0) as lease:
        await lease.append(BytesBody(bytes(_SEGMENT_BYTES)), AppendPlan(0, 1, 1), idle_timeout_seconds=5)
    return made.id


def _log(services: Services, create: dict[str, object], upload_id: str, entry: SegmentEntry, segments: int) -> bytes:
    """Return a log of as many commits, the first and the last line really signed."""
    key = services.keys.signing
    line = sign_line({**create, "id": upload_id}, key)
    found = verify_line(line, key)
    assert found is not None
    return b"".join([line, *commits(initial_state(found[0], line), entry, segments, key)])


def _lay_out(paths: UploadPaths, log: bytes, data_bytes: int, like: UploadPaths) -> None:
    paths.folder.mkdir(mode=0o700, parents=True)
    paths.keys_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.log.write_bytes(log)
    with paths.data.open("wb") as data:
        data.truncate(data_bytes)
    paths.root_envelope.hardlink_to(like.root_envelope)


async def _fill(config: Path, drop_id: str, uploads: int, segments: int) -> None:
    async with open_services(load_config(config)) as services:
        like = await _one_real(services, drop_id, segments + 1)
        chain = services.store.chain(like)
        opened = services.store.base.chains.open(like)
        entry, at = next(chain.segments(opened)), chain.state.last_at
        opened.close()
        rows = []
        for _ in range(uploads):
            upload_id = os.urandom(16).hex()
            log = _log(services, chain.state.create, upload_id, entry, segments)
            _lay_out(
                services.store.layout.of(upload_id), log, segments * entry.data_length, services.store.layout.of(like)
            )
            rows.append(
                UploadRow(
                    upload_id, drop_id, Role.REGULAR, chain.state.mode, UploadState.OPEN, at, segments + 1, segments + 1
                )
            )
        await asyncio.gather(*(services.catalog.add_upload(row, lambda _drop, _usage: None) for row in rows))
        await services.store.forget(like)


def main(uploads: int, segments: int) -> None:
    """Make the store, and start on it: with the files in memory, and (as root) after they left it."""
    with tempfile.TemporaryDirectory(prefix="restart-", dir=os.environ.get("DROPOFF_TUS_BENCH_DIR")) as folder:
        server = ServerProcess(Path(folder), forked=False)
        began = time.monotonic()
        asyncio.run(_fill(server.config, server.drop.id, uploads, segments))
        print(f"{uploads} uploads of {segments} segments made in {time.monotonic() - began:.1f} s")
        for what in ("first", "again", "cold"):
            if what == "cold":
                os.sync()
                with contextlib.suppress(OSError):
                    Path("/proc/sys/vm/drop_caches").write_text("3")
            began = time.monotonic()
            server.start(timeout_seconds=600)
            print(f"start, {what}: {time.monotonic() - began:.2f} s, {server.rss_bytes() >> 20} MiB")
            server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restart", description=__doc__)
    parser.add_argument("uploads", nargs="?", type=int, default=10_000, help="in progress (10000)")
    parser.add_argument("segments", nargs="?", type=int, default=100, help="of each (100)")
    given = parser.parse_args()
    main(given.uploads, given.segments)
