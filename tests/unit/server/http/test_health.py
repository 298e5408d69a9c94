"""The checks of `/readyz`: beside the event loop, and not for ever."""

import asyncio
import threading

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.http import health
from server.http.health import Machine, Monitoring
from server.http.metrics import MachineView, Metrics
from tests.support.aio import async_test
from tests.unit.server.usecases.world import World


class _Volumes:
    """Volumes that answer when a test lets them."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()

    def shortages(self) -> list[str]:
        self.asked.set()
        assert self.answers.wait(30)
        return ["the volume of store.keys_dir is full", "the volume of catalog.url has no inodes left"]

    def view(self) -> MachineView:
        self.shortages()
        return MachineView((), 0, None)


def _app(volumes: _Volumes) -> web.Application:
    world = World()
    machine = Machine(volumes.shortages, volumes.view, lambda: (0, 0))
    return Monitoring(Metrics(), world.catalog, world.catalog.outbox, world.uploads, machine).app()


@async_test
async def test_volumes_that_do_not_answer_yet_hold_up_nothing_else() -> None:
    """A network share may hang for minutes; meanwhile the event loop serves."""
    volumes = _Volumes()
    async with TestClient(TestServer(_app(volumes))) as client:
        asked = asyncio.create_task(client.get("/readyz"))
        try:
            assert await asyncio.to_thread(volumes.asked.wait, 20)
            async with asyncio.timeout(20):
                assert (await client.get("/healthz")).status == 200
            assert not asked.done()
        finally:
            volumes.answers.set()
        answer = await asked
        assert answer.status == 503
        assert await answer.text() == (
            "not ready: the volume of store.keys_dir is full; the volume of catalog.url has no inodes left\n"
        )


@async_test
async def test_volumes_that_never_answer_are_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is answered."""
    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.1)
    volumes = _Volumes()
    async with TestClient(TestServer(_app(volumes))) as client:
        try:
            answer = await client.get("/readyz")
            assert (answer.status, await answer.text()) == (503, "not ready: the disk does not answer\n")
        finally:
            volumes.answers.set()


@async_test
async def test_metrics_are_shown_while_volumes_never_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those of the volumes, which is when they matter most."""
    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.1)
    volumes = _Volumes()
    async with TestClient(TestServer(_app(volumes))) as client:
        try:
            shown = await (await client.get("/metrics")).text()
        finally:
            volumes.answers.set()
    assert "dropoff_disk_up 0.0" in shown
    assert "dropoff_catalog_up 1.0" in shown
    assert "tusd_bytes_received 0.0" in shown
