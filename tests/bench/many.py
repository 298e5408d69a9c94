"""A store with very many small uploads: how long an operator waits, and how much they take on the disk.

Part of the scenario `many`. The server is filled over HTTP; then each command runs once, as its own process, with
nothing else running. Processor time is the command's, so that a busy machine changes little of it.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.bench import processes
from tests.bench.contestants import Product

UPLOAD_BYTES = 10 << 10
CONNECTIONS = 16
_PAGES = 25
_PAGE_ROWS = 200


class Filled:
    """The space that uploads take: measured before and after them."""

    def __init__(self, product: Product) -> None:
        """Remember what is there before."""
        self._product = product
        self._before = self._taken()

    def told(self, uploads: int) -> str:
        """Say what so many uploads added."""
        files, kept, logged = (
            (after - before) / uploads for before, after in zip(self._before, self._taken(), strict=True)
        )
        return (
            f"each upload: {files:.1f} files and folders, {kept / 1024:.1f} KiB of disk with its row in the catalog, "
            f"{logged:.0f} bytes of the server's log"
        )

    def _taken(self) -> tuple[int, int, int]:
        """Return files, bytes of blocks below the data folder, and bytes of the server's log."""
        found = [Path(folder, name).lstat() for folder, _, names in os.walk(self._product.data) for name in names]
        folders = [Path(folder).lstat() for folder, _, _ in os.walk(self._product.data)]
        blocks = sum(one.st_blocks for one in (*found, *folders))
        return len(found) + len(folders), blocks * 512, (self._product.folder / "log").stat().st_size


def commands(product: Product, uploads: int) -> list[str]:
    """Run what an operator runs, and say how long each takes."""
    with tempfile.TemporaryDirectory(dir=product.folder) as exported:
        asked: list[Sequence[str]] = [
            ("upload", "list", "--json"),
            ("upload", "list", "--json", "--limit", str(_PAGE_ROWS)),
            ("store", "check", "--quick"),
            ("store", "sweep", "--dry-run"),
            ("drop", "export", product.drop_id, "--output", exported),
        ]
        return [_timed(product, words, uploads) for words in asked]


def _timed(product: Product, words: Sequence[str], uploads: int) -> str:
    took = processes.run([*product.command, *words, "--config", str(product.config)], product.environment())
    shown = " ".join(word if len(word) < len(product.drop_id) else "…" for word in words)
    return (
        f"`{shown}` of {uploads}: {took.wall_seconds:.1f} s, {took.cpu.user_seconds:.1f}+{took.cpu.system_seconds:.1f} "
        f"CPU-s, {took.peak_rss_bytes >> 20} MiB"
    )


def start(product: Product) -> str:
    """Stop the server and start it again."""
    began = time.monotonic()
    product.restart()
    took = time.monotonic() - began
    used = processes.cpu(product.pids)
    return f"a stop and a start: {took:.2f} s, {used.user_seconds + used.system_seconds:.2f} CPU-s until it answers"


def pages(product: Product) -> str:
    """List uploads through the API, a page after another from the oldest on."""
    words = ["token", "create", "--name", "bench", "--scope", "uploads:read", "--json", "--config", str(product.config)]
    done = subprocess.run([*product.command, *words], env=product.environment(), capture_output=True, check=True)
    token = json.loads(done.stdout)["token"]
    taken, cursor = list[float](), ""
    before = processes.cpu(product.pids)
    for _ in range(_PAGES):
        url = f"http://127.0.0.1:{product.port}/api/v1/uploads?limit={_PAGE_ROWS}{cursor}"
        began = time.monotonic()
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        ) as answer:
            page = json.load(answer)
        taken.append((time.monotonic() - began) * 1000)
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    used = processes.cpu(product.pids) - before
    cpu_ms = (used.user_seconds + used.system_seconds) / len(taken) * 1000
    return (
        f"an API page of {_PAGE_ROWS}: {statistics.median(taken):.0f} ms (most {max(taken):.0f}), {cpu_ms:.0f} CPU-ms, "
        f"of {len(taken)} pages"
    )
