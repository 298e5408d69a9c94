"""Two servers on one store ask each other, so a client that comes back to the other one waits for nothing."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.e2e.answers import assert_refused
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import RawConnection, TusSite

_SOON_SECONDS = 8.0
"""Far below what an idle body is given, and below what a lock is waited for."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Start two with one store and one catalog."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    with ServerProcess(first) as one, one.beside(second) as other:
        yield one, other


Sites = tuple[TusSite, TusSite]


@pytest.fixture
def sites(servers: tuple[ServerProcess, ServerProcess]) -> Sites:
    """Return a new drop-off as each of them serves it."""
    one, other = servers
    drop = one.create_drop()
    return drop.site, TusSite(drop.upload_url.replace(one.url, other.url), drop.code)


def _begin(site: TusSite, url: str, connection: RawConnection) -> None:
    """Send half of a body of ten bytes, and see that it has come."""
    connection.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
    deadline = time.monotonic() + 20
    while site.head(url).offset < 5:
        assert time.monotonic() < deadline


def test_writer_at_one_is_left_alone_by_a_hopeless_request_at_the_other(sites: Sites) -> None:
    """And HEAD at the other knows what it has."""
    site, other = sites
    url = site.create(10)
    with site.connect() as sending:
        _begin(site, url, sending)
        began = time.monotonic()
        assert_refused(other.patch(url, 0, b"helloworld"), 409)
        assert other.head(url).offset == 5
        assert time.monotonic() - began < _SOON_SECONDS
        sending.send(b"world")
        assert sending.read_response().status == 204
    assert other.head(url).offset == 10


def test_head_at_one_lets_a_quiet_writer_at_the_other_commit(sites: Sites) -> None:
    """As one server's own HEAD does."""
    site, other = sites
    url = site.create(10)
    with site.connect() as sending:
        sending.send(site.message("PATCH", url, site.patch_headers(0, {"Content-Length": "10"}), b"hello"))
        deadline = time.monotonic() + _SOON_SECONDS
        while other.head(url).offset < 5:
            assert time.monotonic() < deadline
        sending.send(b"world")
        assert sending.read_response().status == 204


def test_client_that_comes_back_at_the_other_takes_over_at_once(sites: Sites) -> None:
    """The dead connection at the first holds nothing up; what it had sent is kept."""
    site, other = sites
    url = site.create(10)
    with site.connect() as dead:
        _begin(site, url, dead)
        began = time.monotonic()
        assert other.patch(url, 5, b"world").status == 204
        assert time.monotonic() - began < _SOON_SECONDS
    assert site.head(url).offset == 10


def test_delete_at_the_other_ends_what_is_being_sent(sites: Sites) -> None:
    """At once."""
    site, other = sites
    url = site.create(10)
    with site.connect() as sending:
        _begin(site, url, sending)
        began = time.monotonic()
        assert other.delete(url).status == 204
        assert time.monotonic() - began < _SOON_SECONDS
        assert_refused(sending.read_response(), 410)


def test_nonsense_and_a_killed_neighbour_are_harmless(
    servers: tuple[ServerProcess, ServerProcess], sites: Sites
) -> None:
    """What is no question is dropped; the socket of a server that died is taken away by who meets it."""
    one, _ = servers
    folder = one.data / "store" / "servers"
    places = set(folder.iterdir())
    assert len(places) == 2
    assert folder.stat().st_mode & 0o77 == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for place in places:
            for text in (b"", b"{}", b"\xff", b"[]", b'{"from": "../x"}', b'{"answer": "done", "number": []}'):
                stranger.sendto(text, str(place))
            stranger.sendto(b'{"from": "0123456789abcdef", "number": "1", "ask": {"verb": "stop", "x": 1}}', str(place))
    site, other = sites
    one.kill9()
    url = other.create(10)
    time.sleep(1.1)  # so long a look into the folder is believed
    assert other.patch(url, 0, b"hello").status == 204
    assert other.head(url).offset == 5
    assert len(list(folder.iterdir())) == 1
    one.start()
    assert site.head(url).offset == 5
    assert len(list(folder.iterdir())) == 2
    assert all("Traceback" not in server.logged() for server in servers)
