"""The endpoint of tusd's hooks: this product's inline checks, as an institute wrote them beside tusd before.

    BENCH_CODE=... python -m tests.bench.hooks PORT DATABASE

`pre-create` checks the code and reserves the length against the drop-off's quota; `post-finish` books the upload as
complete. Each is one durable SQLite transaction on a thread of its own.
"""

import asyncio
import hashlib
import hmac
import os
import sqlite3
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

_KEY = os.urandom(32)
_QUOTA_BYTES = 1 << 50
_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS dropoff (id INTEGER PRIMARY KEY, code BLOB, used_bytes INTEGER, uploads INTEGER);
CREATE TABLE IF NOT EXISTS upload (id TEXT PRIMARY KEY, dropoff INTEGER, state TEXT, length INTEGER, created_at TEXT);
"""


def _hash(code: str) -> bytes:
    return hmac.digest(_KEY, code.encode(), hashlib.sha256)


class Checks:
    """The database, used from one thread."""

    def __init__(self, path: str, code: str) -> None:
        """Open it and make the drop-off."""
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("INSERT OR REPLACE INTO dropoff VALUES (1, ?, 0, 0)", (_hash(code),))

    def create(self, code: str, length: int) -> str | None:
        """Reserve room for an upload; returns its id, or None if it may not start."""
        self._database.execute("BEGIN IMMEDIATE")
        expected, used = self._database.execute("SELECT code, used_bytes FROM dropoff WHERE id = 1").fetchone()
        if not hmac.compare_digest(_hash(code), expected) or used + length > _QUOTA_BYTES:
            self._database.execute("ROLLBACK")
            return None
        upload = uuid.uuid4().hex
        self._database.execute("INSERT INTO upload VALUES (?, 1, 'open', ?, datetime())", (upload, length))
        self._database.execute("UPDATE dropoff SET used_bytes = used_bytes + ?, uploads = uploads + 1", (length,))
        self._database.execute("COMMIT")
        return upload

    def finish(self, upload: str, size: int) -> None:
        """Book an upload as complete."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("UPDATE upload SET state = 'complete', length = ? WHERE id = ?", (size, upload))
        self._database.execute("COMMIT")


def main() -> None:
    """Serve until SIGTERM."""
    port, path = int(sys.argv[1]), sys.argv[2]
    thread = ThreadPoolExecutor(1)
    checks = thread.submit(Checks, path, os.environ["BENCH_CODE"]).result()

    async def hook(request: web.Request) -> web.Response:
        asked: dict[str, Any] = await request.json()
        loop, event = asyncio.get_running_loop(), asked["Event"]
        upload = event["Upload"]
        if asked["Type"] == "pre-create":
            code = request.headers.get("Dropoff-Code", "")
            made = await loop.run_in_executor(thread, checks.create, code, upload["Size"])
            if made is None:
                return web.json_response({"RejectUpload": True, "HTTPResponse": {"StatusCode": 403}})
            return web.json_response({"ChangeFileInfo": {"ID": made}})
        await loop.run_in_executor(thread, checks.finish, upload["ID"], upload["Size"])
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/", hook)
    web.run_app(app, host="127.0.0.1", port=port, print=lambda _: None, access_log=None)


if __name__ == "__main__":
    main()
