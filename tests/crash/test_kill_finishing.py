"""Kill the real process at each step of finishing: one completion and one receipt follow."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.hook_server import HookServer
from tests.support.server_process import Drop, ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import ConnectionCutError, Response, TusSite, metadata

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

SEALED_STEPS = [
    "before-data-sync",
    "after-data-sync",
    "after-log-write",
    "after-log-sync",
    "before-receipt",
    "after-receipt",
    "before-seal-sync",
    "after-seal",
    "after-catalog-complete",
]
MANAGED_STEPS = [*SEALED_STEPS[:6], "after-catalog-complete"]
QUICK_STEPS = {"before-receipt", "after-seal", "after-catalog-complete", "after-shred-keys"}
REJECTING_STEPS = ["after-log-write", "after-log-sync", "before-shred", "after-shred-keys", "after-catalog-state"]
CONTENT = os.urandom(200_000)


def _steps(steps: list[str]) -> list[Any]:
    """Mark as slow all but a few: each costs two starts of the program."""
    return [pytest.param(step, marks=() if step in QUICK_STEPS else pytest.mark.slow) for step in steps]


@pytest.fixture(scope="module")
def hooks() -> Iterator[HookServer]:
    """Run one receiver of events."""
    with HookServer() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hooks: HookServer) -> Iterator[ServerProcess]:
    """Make one server, which each test starts, lets die, and starts again."""
    folder = tmp_path_factory.mktemp("dying")
    secret = folder / "webhook-secret"
    secret.write_text("a secret of the webhook, long enough")
    secret.chmod(0o600)
    settings = {
        "WEBHOOK__URL": hooks.url,
        "WEBHOOK__SECRET": str(secret),
        "WEBHOOK__TIMEOUT": "1s",
        "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
    }
    made = ServerProcess(folder, environment=settings)
    yield made
    made.close()


def _assert_told(hooks: HookServer, url: str, event: str) -> None:
    """See that an event came at least once, always with one id."""
    deadline = time.monotonic() + 20
    while not (found := _told(hooks, url)):
        assert time.monotonic() < deadline, "nothing was told"
        time.sleep(0.05)
    assert {name for name, _id in found} == {event}
    assert len(found) == 1


def _told(hooks: HookServer, url: str) -> set[tuple[str, str]]:
    rows = [got.json["Dropoff"] for got in list(hooks.received) if upload_id_of(url) in got.body.decode()]
    return {(row["Event"], row["EventID"]) for row in rows}


def _die(server: ServerProcess, site: TusSite, url: str, body: bytes = CONTENT) -> None:
    """Send the last bytes to a server that kills itself over them."""
    with pytest.raises((ConnectionCutError, OSError)):
        site.patch(url, 0, body)
    server.kill9()


def _settled(site: TusSite, url: str) -> Response:
    """Ask until the server has finished what it found."""
    deadline = time.monotonic() + 20
    while (answer := site.head(url)).status == 423:
        assert time.monotonic() < deadline, "it is not finished"
        time.sleep(0.1)
    return answer


def _final_records(server: ServerProcess, url: str) -> int:
    upload_id = upload_id_of(url)
    log = server.data / "store" / "uploads" / upload_id[:2] / upload_id / "log"
    records = [json.loads(line.rpartition(b" ")[0]) for line in log.read_bytes().splitlines()]
    return sum(record["t"] == "final" for record in records)


def _finish(server: ServerProcess, hooks: HookServer, drop: Drop, step: str) -> None:
    """Die at a step of finishing, start again, and find one completion and one receipt."""
    server.start(failpoint=f"{step}:1")
    url = drop.site.create(len(CONTENT), {"Upload-Metadata": metadata(filename="a name")})
    _die(server, drop.site, url)
    server.start()
    try:
        offset = _settled(drop.site, url).offset
        answer = drop.site.patch(url, offset, CONTENT[offset:])
        assert answer.status == 204
        assert answer.header("Dropoff-Receipt") == f"{url}/receipt"
        first = drop.site.request("GET", f"{url}/receipt", {})
        again = drop.site.request("GET", f"{url}/receipt", {})
        assert first.status == again.status == 200
        assert first.body == again.body
        receipt = json.loads(first.body.rpartition(b" ")[0])
        assert receipt["sha256"] == hashlib.sha256(CONTENT).hexdigest()
        assert receipt["path"] == "a name"
        row = server.row(url, drop)
        assert (row["state"], row["offset"], row["length"]) == ("complete", len(CONTENT), len(CONTENT))
        shown = server.cli_json("drop", "show", drop.id)
        assert (shown["uploads"], shown["bytes"]) == (1, len(CONTENT))
        assert _final_records(server, url) == 1
        keys = sorted(path.name.partition(".")[2] for path in (server.data / "keys").rglob(f"{upload_id_of(url)}*"))
        assert keys == ["age", "receipt"]
        _export(server, url)
        _assert_told(hooks, url, "upload.complete")
    finally:
        server.stop()


def _export(server: ServerProcess, url: str) -> None:
    output = server.folder / f"out-{token_of(url)}"
    identity = server.data / "root-identity.txt"
    server.cli("upload", "export", url, "--output", str(output), "--identity", str(identity))
    assert output.read_bytes() == CONTENT
    server.cli("store", "check", upload_id_of(url))


@pytest.mark.parametrize("step", _steps(SEALED_STEPS))
def test_kill_at_a_step_of_finishing_is_one_completion(server: ServerProcess, hooks: HookServer, step: str) -> None:
    """Sealed, which has every step: the server goes on by itself, and the client's repetition agrees."""
    _finish(server, hooks, server.create_drop("--sealed", name=step), step)


@pytest.mark.slow
@pytest.mark.parametrize("step", MANAGED_STEPS)
def test_kill_at_a_step_of_finishing_managed_is_one_completion(
    server: ServerProcess, hooks: HookServer, step: str
) -> None:
    """The same where the server keeps its envelope."""
    _finish(server, hooks, server.create_drop(name=step), step)


@pytest.mark.parametrize("step", _steps(REJECTING_STEPS))
def test_kill_at_a_step_of_rejecting_is_rejected(server: ServerProcess, hooks: HookServer, step: str) -> None:
    """After any answer before, nobody hears of success, and nothing of it is left but its end."""
    drop = server.create_drop(name=step)
    server.start(failpoint=f"{step}:1")
    digest = hashlib.sha256(b"another").hexdigest()
    url = drop.site.create(len(CONTENT), {"Upload-Metadata": metadata(sha256=digest)})
    _die(server, drop.site, url)
    server.start()
    try:
        answer = _settled(drop.site, url)
        if answer.status == 200:
            # It died before the bytes or their end were durable: the client goes on, and gets the answer.
            answer = drop.site.patch(url, answer.offset, CONTENT[answer.offset :])
            assert (answer.status, answer.error_code) == (422, "ERR_DIGEST_MISMATCH")
        assert drop.site.head(url).status == 410
        assert server.row(url, drop)["state"] == "rejected"
        assert not list((server.data / "keys").rglob(f"{upload_id_of(url)}*"))
        shown = server.cli_json("drop", "show", drop.id)
        assert (shown["uploads"], shown["bytes"]) == (0, 0)
        _assert_told(hooks, url, "upload.rejected")
    finally:
        server.stop()
