"""How fast an upload of very many segments is: a start, HEAD, a takeover, the end, ranges, export and check.

    python -m tests.bench.segments [SEGMENTS] [--check]

One upload of pieces of one byte in a store of its own, at the real server. All commits but the first and the last ones
are written directly, as copies without real signatures; with `--check` all are signed, for `store check`.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from dropoff_tus import ids
from server.services import open_services
from server.settings.config import load_config
from tests.support.long_log import lengthen
from tests.support.server_process import ServerProcess, program
from tests.support.tus_raw import TusSite

_READERS = 20
_MOST_SECONDS = 3600


async def _lengthen(config: Path, upload_id: str, segments: int, *, sign_all: bool) -> int:
    async with open_services(load_config(config)) as services:
        lengthen(services.store, upload_id, segments, sign_all=sign_all)
        return services.store.base.log_bytes(upload_id)


@contextlib.contextmanager
def _timed(what: str, server: ServerProcess) -> Iterator[None]:
    began, used = time.monotonic(), _cpu_seconds(server)
    yield
    took, used = time.monotonic() - began, _cpu_seconds(server) - used
    print(f"{what}: {took:.3f} s, CPU {used:.2f} s, {server.rss_bytes() >> 20} MiB", flush=True)


def _cpu_seconds(server: ServerProcess) -> float:
    if not server.is_running:
        return 0
    fields = Path(f"/proc/{server.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _get(site: TusSite, url: str, at: int) -> None:
    with site.connect(timeout_seconds=_MOST_SECONDS) as connection:
        connection.send(site.message("GET", url, site.post_headers({"Range": f"bytes={at}-{at}"})))
        answer = connection.read_response()
    assert (answer.status, len(answer.body)) == (206, 1), answer


def _ranges(server: ServerProcess, url: str, segments: int) -> None:
    """Ask for many ranges at once, and look how long HEAD of another upload takes meanwhile."""
    site = server.drop.site
    other = site.create(10)
    readers = [
        threading.Thread(target=_get, args=(site, url, segments * number // _READERS)) for number in range(_READERS)
    ]
    times = []
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        began = time.monotonic()
        assert site.head(other).status == 200
        times.append(time.monotonic() - began)
        time.sleep(0.01)
    if times:
        print(f"  HEAD of another meanwhile: median {median(times) * 1000:.0f} ms, most {max(times) * 1000:.0f} ms")


def main(segments: int, *, check: bool) -> None:
    """Make the upload, and go through its life."""
    with tempfile.TemporaryDirectory(prefix="segments-", dir=os.environ.get("DROPOFF_TUS_BENCH_DIR")) as folder:
        environment = {"TUS__DOWNLOAD": "true", "STORE__DIGEST": "none", "LOG__LEVEL": "warning"}
        server = ServerProcess(Path(folder), environment=environment, forked=False)
        with _timed("start with nothing", server):
            server.start()
        try:
            site = server.drop.site
            url = site.create(segments + 2)
            assert site.patch(url, 0, b"x").status == 204
        finally:
            server.close()
        began = time.monotonic()
        upload_id = ids.upload_id(url.rpartition("/")[2])
        size = asyncio.run(_lengthen(server.config, upload_id, segments, sign_all=check))
        print(f"{segments} segments, a log of {size >> 20} MiB, made in {time.monotonic() - began:.1f} s", flush=True)
        with _timed("start", server):
            server.start()
        try:
            with _timed("HEAD", server):
                assert site.head(url).offset == segments
            for what in ("PATCH that takes it over", "next PATCH, the last one"):
                at = site.head(url).offset
                with _timed(what, server), site.connect(timeout_seconds=_MOST_SECONDS) as connection:
                    connection.send(site.message("PATCH", url, site.patch_headers(at), b"y"))
                    assert connection.read_response().status == 204
            with _timed("range of one byte", server):
                _get(site, url, segments // 2)
            server.stop()
            with _timed("start with it finished", server):
                server.start()
            for what in ("after the start", "again"):
                with _timed(f"{_READERS} ranges of one byte at once, {what}", server):
                    _ranges(server, url, segments)
        finally:
            server.close()
        _commands(server, upload_id, check=check)


def _commands(server: ServerProcess, upload_id: str, *, check: bool) -> None:
    """Export, and check, each in a process of its own, and report its memory."""
    check_store = ["store", "check"]
    runs = [("upload export", ["upload", "export", upload_id, "--output", str(server.folder / "out")])]
    if check:
        runs += [("store check --quick", [*check_store, "--quick"]), ("store check", check_store)]
    for what, arguments in runs:
        began = time.monotonic()
        process = subprocess.Popen(
            [*program(), *arguments, "--config", str(server.config)],
            env={**os.environ, "DROPOFF_TUS__STORE__DIGEST": "none"},
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        print(f"{what}: {time.monotonic() - began:.1f} s, status {status}, {used.ru_maxrss >> 10} MiB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.segments", description=__doc__)
    parser.add_argument("segments", nargs="?", type=int, default=1_000_000, help="how many (1000000)")
    parser.add_argument("--check", action="store_true", help="sign every record, and run `store check`")
    given = parser.parse_args()
    main(given.segments, check=given.check)
