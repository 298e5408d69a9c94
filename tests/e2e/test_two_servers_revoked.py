"""Two servers on one store: a revocation holds at both when the command returns; quotas stay exact."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tests.e2e import test_two_servers
from tests.e2e.test_two_servers import _Pair
from tests.support.api_client import Api
from tests.support.server_process import upload_id_of
from tests.support.tus_raw import ConnectionCutError, chunked

pytestmark = pytest.mark.timeout(180)
pair = test_two_servers.pair
_MIB = 1 << 20


@contextmanager
def _asked_all_the_time(*asks: Callable[[], int]) -> Iterator[Callable[[], None]]:
    """Ask in threads; the callable says that from now on nothing may be let in, which is looked at after the block."""
    let_in: list[float] = []
    begun: list[float] = []
    revoked: list[float] = []
    stop = threading.Event()

    def run(ask: Callable[[], int]) -> None:
        while not stop.is_set():
            begin = time.monotonic()
            status = ask()
            begun.append(begin)
            if status < 300:
                let_in.append(begin)

    with ThreadPoolExecutor(len(asks)) as pool:
        running = [pool.submit(run, ask) for ask in asks]
        try:
            yield lambda: revoked.append(time.monotonic())
            seen = len(begun)
            deadline = time.monotonic() + 20
            while len(begun) < seen + 4 * len(asks):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            stop.set()
        for one in running:
            one.result()
    (since,) = revoked
    assert any(begin < since for begin in let_in)
    assert not [begin for begin in let_in if begin > since]


def test_token_and_code_are_good_at_neither_once_they_are_revoked(pair: _Pair) -> None:
    """Asked all the time: nothing that begins after the command has returned is let in."""
    made = pair.first.cli_json("token", "create", "--name", "x", "--scope", "uploads:read")
    apis = [Api(server, made["token"]) for server in pair.servers]
    with _asked_all_the_time(*(lambda api=api: api("GET", "/uploads").status for api in apis)) as is_revoked:
        time.sleep(0.3)
        pair.second.cli("token", "revoke", made["id"])
        is_revoked()
    drop = pair.first.create_drop()
    asks = [lambda site=site: site.post({"Upload-Length": "1"}).status for site in pair.sites(drop)]
    with _asked_all_the_time(*asks) as is_revoked:
        time.sleep(0.3)
        pair.second.cli("drop", "new-code", drop.id)
        is_revoked()


@pytest.mark.parametrize("command", [("close", "--now"), ("purge", "--yes")])
def test_nothing_goes_on_in_a_drop_off_that_is_ended(pair: _Pair, command: tuple[str, str]) -> None:
    """No creation at either, and what both receive for is ended."""
    drop = pair.first.create_drop()
    sites = pair.sites(drop)
    urls = [site.create(100) for site in sites]
    bodies = [site.connect() for site in sites]
    for site, url, body in zip(sites, urls, bodies, strict=True):
        body.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "100"}), b"hello"))
    asks = [lambda site=site: site.post({"Upload-Length": "1"}).status for site in sites]
    options = ("--output", str(pair.first.folder / "erasure.txt")) if command[0] == "purge" else ()
    with _asked_all_the_time(*asks) as is_revoked:
        time.sleep(0.3)
        pair.second.cli("drop", command[0], drop.id, command[1], *options)
        is_revoked()
    for site, url, body in zip(sites, urls, bodies, strict=True):
        deadline = time.monotonic() + 30
        while site.head(url).status != 410:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        body.close()
    deadline = time.monotonic() + 30
    while any(row["state"] == "open" for row in pair.first.uploads(drop)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_purge_beside_downloads_at_both(pair: _Pair) -> None:
    """A download of an upload that is shredded meanwhile is cut, never sent as if it were whole and different."""
    drop = pair.first.create_drop()
    content = bytes(range(256)) * (8 * _MIB // 256)
    upload = upload_id_of(drop.site.upload(content))
    token = pair.first.cli_json("token", "create", "--name", "x", "--scope", "uploads:download")["token"]
    sites = pair.sites(drop)
    connections = [site.connect() for site in sites]
    for site, connection in zip(sites, connections, strict=True):
        target = site.upload_url.partition("/files/")[0] + f"/api/v1/uploads/{upload}/content"
        connection.send(site.message("GET", target, {"Authorization": f"Bearer {token}"}))
    time.sleep(0.3)
    out = pair.first.folder / "erasure2.txt"
    pair.second.cli("drop", "purge", drop.id, "--yes", "--output", str(out))
    for connection in connections:
        with suppress(ConnectionCutError):
            assert connection.read_response().body == content
        connection.close()
    assert not list((pair.first.data / "keys").rglob(f"{upload}.*"))


def test_quota_is_exact_for_deferred_lengths_at_both(pair: _Pair) -> None:
    """Bodies of unknown size at the same moment: never more than there is room for, and once they end, all of it."""
    room = 4 * _MIB
    drop = pair.first.create_drop("--max-total-bytes", str(room))
    sites = pair.sites(drop)
    piece = bytes(64 << 10)

    def send(number: int) -> str:
        site = sites[number % 2]
        url = site.post({"Upload-Defer-Length": "1"}).needed("Location")
        body = chunked(*[piece] * (5 + number), end=True)
        assert site.patch(url, 0, body, {"Transfer-Encoding": "chunked"}).status in {204, 413}
        return url

    with ThreadPoolExecutor(12) as pool:
        urls = list(pool.map(send, range(12)))
    offsets = [sites[1 - number % 2].head(url).offset for number, url in enumerate(urls)]
    assert 0 < sum(offsets) <= room
    assert pair.second.cli_json("drop", "show", drop.id)["bytes"] <= room
    for number, (url, offset) in enumerate(zip(urls, offsets, strict=True)):
        site = sites[1 - number % 2]  # the other, which has not reserved for it
        assert site.patch(url, offset, b"", {"Upload-Length": str(offset)}).status == 204
    left = room - sum(offsets)
    assert pair.first.cli_json("drop", "show", drop.id)["bytes"] == sum(offsets)
    assert sites[1].post({"Upload-Length": str(left + 1)}).error_code == "ERR_QUOTA"
    assert sites[0].post({"Upload-Length": str(left)}).status == 201
