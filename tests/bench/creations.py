"""The cost of a creation in code check and catalog, and whether quotas stay exact when many come each second.

    python -m tests.bench.creations [--catalog sqlite,postgresql] [--count 4000] [--rate 1000] [--seconds 10]

The cost is processor time per creation, this process and PostgreSQL told apart; nothing of HTTP, the store or a client
is in it. Then several processes offer creations at a pace, in drop-offs that have room for about half of them; the
accepted ones have to fill exactly that room, by the counters and by the rows.
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from dropoff_tus import policy
from dropoff_tus.errors import DropoffError, DropoffFullError
from dropoff_tus.ids import normalise_code, upload_id
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Role, UploadRow, Usage
from dropoff_tus.states import UploadState
from server.usecases.auth import Auth
from server.usecases.wrong_credentials import WrongCredentials
from storage.catalog import SqlCatalog, migrate, open_catalog
from tests.bench import processes
from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess

_KEY = bytes(32)
_CODE = "0123-4567-89AB-CDEF"
_METADATA = Metadata((("filename", b"a.txt"),))
_SPACE = policy.Space(1 << 50)
_DROPS = 8
_PROCESSES = 2
_SIZE_BYTES = 10


def _mac(_drop_id: str, code: str) -> bytes:
    # As `storage.keyring.keys` does, which has no other way in than a folder of keys.
    return hmac.digest(_KEY, normalise_code(code).encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated catalog, and the processes that its work is billed to besides us."""

    url: str
    pids: tuple[int, ...] = ()


@contextlib.contextmanager
def database(kind: str) -> Iterator[Database]:
    """Make one, on a disk, with the settings that it ships with."""
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="creations-", dir=_below()))
            made = Database(f"sqlite:///{folder}/catalog.sqlite3")
        else:
            server = stack.enter_context(PostgresServer(("listen_addresses=''",)))
            server.sql("CREATE DATABASE bench")
            first_line = (server.folder / "data/postmaster.pid").read_text("ascii").splitlines()[0]
            made = Database(server.url("bench"), (int(first_line),))
        migrate(made.url)
        yield made


def _below() -> str | None:
    return os.environ.get("DROPOFF_TUS_BENCH_DIR")


def _drop(max_uploads: int = 0) -> Dropoff:
    terms = DropTerms("bench", max_uploads=max_uploads)
    return Dropoff(str(uuid.uuid4()), datetime.now(UTC), terms, _mac("", _CODE))


class Creations:
    """Checks codes and creates, as the server does."""

    def __init__(self, catalog: SqlCatalog) -> None:
        """Take the catalog."""
        self._catalog, self._auth = catalog, Auth(catalog, _mac, lambda *_: None, 0, WrongCredentials(catalog))

    async def create(self, drop_id: str) -> None:
        """Create one upload.

        Raises:
            DropoffError: It was refused.
        """
        drop = (await self._auth.grant_slowly(drop_id, _CODE, "192.0.2.1")).dropoff
        row = UploadRow(
            id=upload_id(os.urandom(16).hex()),
            drop_id=drop.id,
            role=Role.REGULAR,
            mode=drop.terms.mode,
            state=UploadState.OPEN,
            created_at=datetime.now(UTC),
            length=_SIZE_BYTES,
            reserved_bytes=_SIZE_BYTES,
        )
        asked = policy.Request(row.role, row.length, row.reserved_bytes, _METADATA)

        def decide(dropoff: Dropoff, usage: Usage) -> None:
            policy.admit(dropoff, usage, asked, now=row.created_at, server_max_bytes=0, space=_SPACE)

        await self._catalog.add_upload(row, decide)


async def _cost(made: Database, count: int, at_once: int) -> str:
    async with open_catalog(made.url) as catalog:
        drops = [_drop() for _ in range(_DROPS)]
        for drop in drops:
            await catalog.add_dropoff(drop)
        creations = Creations(catalog)

        async def create(number: int) -> None:
            for index in range(number, count, at_once):
                await creations.create(drops[index % _DROPS].id)

        await asyncio.gather(*(creations.create(drops[index % _DROPS].id) for index in range(200)))
        began, ours, theirs = time.monotonic(), time.process_time(), processes.cpu(made.pids)
        await asyncio.gather(*(create(number) for number in range(at_once)))
        seconds, ours = time.monotonic() - began, time.process_time() - ours
        spent = processes.cpu(made.pids) - theirs
        database = spent.user_seconds + spent.system_seconds
    more = f" + {database / count * 1000:.2f} in PostgreSQL" if made.pids else ""
    return f"{at_once:3} at once: {count / seconds:6.0f}/s, {ours / count * 1000:.2f} CPU-ms each{more}"


# ---- at a pace ------------------------------------------------------------------------------------------------


async def _offer(url: str, drop_ids: list[str], rate: float, seconds: float) -> Counter[str]:
    """Offer creations at a pace, whether or not the earlier ones are done; return what came of them."""
    outcomes: Counter[str] = Counter()
    async with open_catalog(url) as catalog:
        creations = Creations(catalog)

        async def create(number: int) -> None:
            try:
                await creations.create(drop_ids[number % len(drop_ids)])
            except DropoffFullError:
                outcomes["refused"] += 1
            except DropoffError as error:
                outcomes[error.code] += 1
            else:
                outcomes["created"] += 1

        running: set[asyncio.Task[None]] = set()
        began, number = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while number < passed * rate:
                task = asyncio.ensure_future(create(number))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*running)
        outcomes["tenths of a second"] = round((time.monotonic() - began) * 10)
    return outcomes


async def _check(url: str, drops: list[Dropoff]) -> str:
    """Hold counters and rows against the limits."""
    wrong = unfilled = 0
    async with open_catalog(url) as catalog:
        for drop in drops:
            usage, rows = await catalog.usage(drop.id), await catalog.uploads(drop_id=drop.id)
            room, count = drop.terms.max_uploads, len(rows)
            wrong += not (usage.uploads == count <= room and usage.bytes == count * _SIZE_BYTES)
            unfilled += count < room
    if unfilled:
        return f"{unfilled} drop-offs were not filled, {wrong} counted wrong"
    return f"{wrong} QUOTAS WRONG" if wrong else "every quota exact"


async def _add(url: str, drops: list[Dropoff]) -> None:
    async with open_catalog(url) as catalog:
        for drop in drops:
            await catalog.add_dropoff(drop)


def _pace(made: Database, rate: float, seconds: float) -> str:
    drops = [_drop(max_uploads=int(rate * seconds / _DROPS / 2)) for _ in range(_DROPS)]
    uvloop.run(_add(made.url, drops))
    given = json.dumps([made.url, [drop.id for drop in drops], rate / _PROCESSES, seconds])
    command = [sys.executable, "-m", "tests.bench.creations", "--offer", given]
    offering = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(_PROCESSES)]
    outcomes: Counter[str] = Counter()
    longest = 0
    for process in offering:
        found = json.loads(process.communicate()[0])
        longest = max(longest, found.pop("tenths of a second"))
        outcomes.update(found)
    told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    return f"{rate:.0f}/s by {_PROCESSES} processes for {longest / 10} s: {told}; {uvloop.run(_check(made.url, drops))}"


# ---- over HTTP ------------------------------------------------------------------------------------------------


def _over_http(url: str, seconds: float, connections: int = 64) -> str:
    """Create at the real server as fast as it goes, all connections at once, in drop-offs with too little room."""
    with tempfile.TemporaryDirectory(prefix="creations-", dir=_below()) as folder:
        settings = {"LIMITS__CONNECTIONS_PER_ADDRESS": str(2 * connections)}
        options = () if url.startswith("sqlite") else ("--catalog-url", url)
        with ServerProcess(Path(folder), environment=settings, init_options=options, forked=False) as server:
            room = int(seconds * 20)
            drops = [server.create_drop("--max-uploads", str(room)) for _ in range(_DROPS)]
            sites = [drop.site for drop in drops]
            outcomes: Counter[int] = Counter()
            with contextlib.ExitStack() as stack:
                opened = [stack.enter_context(sites[0].connect(timeout_seconds=60)) for _ in range(connections)]
                began = time.monotonic()
                while time.monotonic() - began < seconds:
                    for number, connection in enumerate(opened):
                        site = sites[number % len(sites)]
                        headers = site.post_headers({"Upload-Length": str(_SIZE_BYTES)})
                        connection.send(site.message("POST", site.upload_url, headers))
                    outcomes.update(connection.read_response().status for connection in opened)
                passed = time.monotonic() - began
            shown = [server.cli_json("drop", "show", drop.id) for drop in drops]
            listed = [len(server.uploads(drop)) for drop in drops]
    counted = [one["uploads"] for one in shown]
    exact = counted == listed and max(counted) <= room and sum(counted) == outcomes[201]
    told = ", ".join(f"{count} x {status}" for status, count in sorted(outcomes.items()))
    return f"over HTTP {outcomes.total() / passed:.0f}/s: {told}; {'every quota exact' if exact else 'QUOTAS WRONG'}"


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.creations", description=__doc__)
    parser.add_argument("--catalog", default="sqlite,postgresql")
    parser.add_argument("--count", type=int, default=4000, help="creations for the cost (4000)")
    parser.add_argument("--at-once", default="1,16,64", help="so many callers (1,16,64)")
    parser.add_argument("--rate", type=float, default=1000.0, help="creations a second, offered (1000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for so long (10)")
    parser.add_argument("--http", action="store_true", help="also at the real server, as fast as it goes")
    parser.add_argument("--offer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.offer is not None:
        print(json.dumps(uvloop.run(_offer(*json.loads(given.offer)))))
        return 0
    for kind in given.catalog.split(","):
        with database(kind) as made:
            print(kind)
            for at_once in (int(text) for text in given.at_once.split(",") if text):
                print(" ", uvloop.run(_cost(made, given.count, at_once)), flush=True)
            if given.rate:
                print(" ", _pace(made, given.rate, given.seconds), flush=True)
        if given.http:
            with database(kind) as made:
                print(" ", _over_http(made.url, given.seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
