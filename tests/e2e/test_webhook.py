"""Webhooks of the real server at a real receiver: at least once with one id, signed, and with nothing confidential."""

import asyncio
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.e2e import needles
from tests.support.hook_server import HookServer
from tests.support.server_process import ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import metadata

_SECRET = "a secret of the webhook, long enough"
_NAME = "name-marker-5f2a91.txt"


@pytest.fixture(scope="module")
def hooks() -> Iterator[HookServer]:
    """Run one receiver."""
    with HookServer() as running:
        yield running


@pytest.fixture(scope="module")
def told(hooks: HookServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server that tells the receiver."""
    folder = tmp_path_factory.mktemp("told")
    secret = folder / "webhook-secret"
    secret.write_text(_SECRET)
    secret.chmod(0o600)
    settings = {
        "WEBHOOK__URL": hooks.url,
        "WEBHOOK__SECRET": str(secret),
        "WEBHOOK__TIMEOUT": "1s",
        "WEBHOOK__MAX_ATTEMPTS": "1",
        "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
    }
    with ServerProcess(folder, environment=settings) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_yet(hooks: HookServer) -> None:
    hooks.received.clear()
    hooks.answer = None


def _upload(server: ServerProcess, content: bytes = b"content", **more: str) -> str:
    sent = metadata(filename=_NAME, **more)
    answer = server.drop.site.post(
        {
            "Upload-Length": str(len(content)),
            "Upload-Metadata": sent,
            "Content-Type": "application/offset+octet-stream",
        },
        content,
    )
    url = answer.header("Location")
    return url or answer.body.decode()


def test_finished_upload_is_told_in_tusds_form_and_signed(told: ServerProcess, hooks: HookServer) -> None:
    """The id stands where tusd had it; neither token nor name nor code is sent."""
    url = _upload(told)
    (received,) = hooks.wait_for(1)
    received.verify(_SECRET.encode())
    got, found = received.json, upload_id_of(url)
    assert got["Type"] == "post-finish"
    assert received.headers["Hook-Name"] == "post-finish"
    upload = got["Event"]["Upload"]
    assert (upload["ID"], upload["Size"], upload["Offset"], upload["MetaData"]) == (found, 7, 7, {})
    assert got["Event"]["HTTPRequest"]["URI"] == f"/files/{told.drop.id}/{found}"
    assert got["Dropoff"]["Event"] == "upload.complete"
    everything = received.body + repr(received.headers).encode()
    for secret in (token_of(url), _NAME, told.drop.code or ""):
        assert not any(needle in everything for needle in needles.of_text(secret))


def test_rejected_upload_is_told(told: ServerProcess, hooks: HookServer) -> None:
    """It is the end that tusd calls terminated."""
    _upload(told, sha256="0" * 64)
    (received,) = hooks.wait_for(1)
    assert (received.json["Type"], received.json["Dropoff"]["Event"]) == ("post-terminate", "upload.rejected")


def test_offsets_are_those_that_tusd_tells(hooks: HookServer, tmp_path: Path) -> None:
    """0 for a new upload, whatever has come since; the arrived bytes for an ended one; and no place of storage."""
    secret = tmp_path / "webhook-secret"
    secret.write_text(_SECRET)
    secret.chmod(0o600)
    settings = {
        "WEBHOOK__URL": hooks.url,
        "WEBHOOK__SECRET": str(secret),
        "WEBHOOK__EVENTS": "upload.created,upload.complete,upload.terminated",
        "WEBHOOK__METADATA": "filename",
        "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
    }
    with ServerProcess(tmp_path, environment=settings) as server:
        site = server.drop.site
        url = site.create(5, {"Upload-Metadata": metadata(filename=_NAME)})
        assert site.patch(url, 0, b"hel").status == 204
        assert site.delete(url).status == 204
        _upload(server)
        part = site.upload(b"part", {"Upload-Concat": "partial"})
        assert site.post({"Upload-Concat": f"final;{part}"}).status == 201
        told = [received.json for received in hooks.wait_for(6)]
    # The order of deliveries is not promised.
    uploads = [(got["Type"], got["Event"]["Upload"]) for got in told]
    shown = [(type_, got["Size"], got["Offset"], got["SizeIsDeferred"], got["IsFinal"]) for type_, got in uploads]
    assert sorted(shown) == [
        ("post-create", 4, 0, False, True),
        ("post-create", 5, 0, False, False),
        ("post-create", 7, 0, False, False),
        ("post-finish", 4, 4, False, True),
        ("post-finish", 7, 7, False, False),
        ("post-terminate", 5, 3, False, False),
    ]
    assert {got["Storage"] for _, got in uploads} == {None}
    assert {got["IsPartial"] for _, got in uploads} == {False}
    (ended,) = [got for type_, got in uploads if type_ == "post-terminate"]
    assert ended["MetaData"] == {}


def test_event_given_up_is_listed_and_resent_with_the_same_id(told: ServerProcess, hooks: HookServer) -> None:
    """The operator sees why, and begins again."""

    async def fail(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="a secret of theirs")

    hooks.answer = fail
    found = upload_id_of(_upload(told))
    (first,) = hooks.wait_for(1)
    deadline = time.monotonic() + 20
    while not (rows := told.cli_json("outbox", "list", "--dead")):
        assert time.monotonic() < deadline
    assert [(row["upload_id"], row["state"], row["problem"]) for row in rows] == [(found, "dead", "status 500")]
    assert (
        b"WARNING outbox: 1 events for webhook were given up"
        in told.cli("doctor", "--size", "1MiB", check=False).stdout
    )
    metrics = _metrics(told)
    assert metrics['dropoff_outbox_dead{sink="webhook"}'] == 1
    assert metrics['dropoff_outbox_pending{sink="webhook"}'] == 0
    assert metrics['dropoff_outbox_deliveries_total{result="dead",sink="webhook"}'] == 1
    assert metrics['dropoff_outbox_deliveries_total{result="failed",sink="webhook"}'] == 1
    assert metrics['dropoff_outbox_deliveries_total{result="delivered",sink="webhook"}'] >= 1
    assert metrics["dropoff_catalog_up"] == 1
    hooks.answer = None
    assert told.cli_json("outbox", "resend", rows[0]["event_id"]) == {"resent": 1}
    second = hooks.wait_for(2)[1]
    assert second.headers["webhook-id"] == first.headers["webhook-id"] == rows[0]["event_id"]
    _until_nothing_waits(told)
    wrong = told.cli("outbox", "resend", "x", check=False)
    assert wrong.returncode == 1
    assert b"outbox list" in wrong.stderr


def test_killed_between_delivery_and_mark_delivers_again_with_the_same_id(
    told: ServerProcess, hooks: HookServer
) -> None:
    """The receiver has it, the server died before it knew; nothing is lost, and the id tells."""

    async def kill(_request: web.Request) -> web.StreamResponse:
        hooks.answer = None
        os.kill(told.pid, signal.SIGKILL)
        return web.Response()

    hooks.answer = kill
    _upload(told)
    hooks.wait_for(1)
    told.kill9()
    told.start()
    first, second = hooks.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    second.verify(_SECRET.encode())
    _until_nothing_waits(told)


def test_nothing_confidential_is_in_logs_or_catalog(told: ServerProcess, hooks: HookServer) -> None:
    """Neither what clients send, nor the webhook's secret, nor what a receiver answers."""
    url = _upload(told)
    hooks.wait_for(1)
    secrets = (_SECRET, _NAME, token_of(url), told.drop.code or "", "a secret of theirs")
    places: list[Path] = [*told.data.glob("catalog*"), *told.folder.glob("serve.*")]
    assert len(places) >= 3
    assert needles.find((needle for text in secrets for needle in needles.of_text(text)), places) == []


def test_metrics_tell_how_long_the_oldest_event_waits(told: ServerProcess, hooks: HookServer) -> None:
    """While a receiver takes its time."""

    async def wait(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.8)
        return web.Response()

    hooks.answer = wait
    _upload(told)
    hooks.wait_for(1)
    metrics = _metrics(told)
    assert metrics['dropoff_outbox_pending{sink="webhook"}'] == 1
    assert 0 < metrics['dropoff_outbox_oldest_seconds{sink="webhook"}'] < 10
    _until_nothing_waits(told)
    assert _metrics(told)['dropoff_outbox_oldest_seconds{sink="webhook"}'] == 0


def _metrics(server: ServerProcess) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 1}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def _until_nothing_waits(server: ServerProcess) -> None:
    deadline = time.monotonic() + 20
    while server.cli_json("outbox", "list"):
        assert time.monotonic() < deadline
