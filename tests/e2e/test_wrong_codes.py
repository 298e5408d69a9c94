"""Wrong codes at the real server: slowed per address and drop-off, and never in the way of a right one."""

import random
from collections.abc import Iterator

import pytest

from tests.e2e.answers import assert_refused
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import RawConnection, Response, TusSite

_LIMIT = 5
_FLOOD = 1500


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server behind a trusted proxy (us), with little patience."""
    settings = {"LIMITS__WRONG_CODES_PER_HOUR": str(_LIMIT), "SERVER__TRUSTED_PROXIES": "127.0.0.1"}
    with ServerProcess(tmp_path_factory.mktemp("wrong-codes"), environment=settings) as running:
        yield running


@pytest.fixture
def site(server: ServerProcess) -> TusSite:
    """Return a new drop-off."""
    return server.create_drop().site


@pytest.fixture(scope="module")
def others(server: ServerProcess) -> list[TusSite]:
    """Return as many drop-offs as one client may be wrong, and one more."""
    return [server.create_drop().site for _ in range(_LIMIT + 1)]


@pytest.fixture
def client() -> str:
    """Return an address that no other test uses."""
    return f"2001:db8:{random.getrandbits(16):x}:{random.getrandbits(16):x}::1"


def _post(site: TusSite, client: str, code: str | None) -> Response:
    return site.post({"Upload-Length": "5", "Dropoff-Code": code, "X-Forwarded-For": client})


def test_wrong_codes_answer_429_with_retry_after_and_the_right_one_is_let_in(site: TusSite, client: str) -> None:
    """After the limit wrong codes get a fixed text to wait, and the right code still creates."""
    for _ in range(_LIMIT):
        assert_refused(_post(site, client, "wrong"), 403, "ERR_ACCESS_DENIED")
    refused = [_post(site, client, code) for code in ("wrong", None, "0000-0000-0000-0000")]
    for answer in refused:
        assert_refused(answer, 429, "ERR_TOO_MANY_WRONG_CODES")
        assert 3600 / _LIMIT - 60 <= int(answer.needed("Retry-After")) <= 3600 / _LIMIT
        assert answer.body == refused[0].body
    created = _post(site, client, site.code)
    assert created.status == 201
    url = created.needed("Location")
    told = {"X-Forwarded-For": client}
    assert site.head(url, told).status == 200
    assert site.patch(url, 0, b"hello", told).status == 204


def test_wrong_codes_for_a_drop_off_that_does_not_exist_look_the_same(site: TusSite, client: str) -> None:
    """Neither the first answer nor the pace tells that there is no such drop-off."""
    nowhere = TusSite(site.upload_url[:-3] + ("0" * 2 if site.upload_url[-3:-1] != "00" else "11") + "/", "wrong")
    statuses = [_post(nowhere, client, "wrong").status for _ in range(_LIMIT + 1)]
    assert statuses == [403] * _LIMIT + [429]


def test_wrong_codes_at_the_page_are_slowed_with_those_at_creation(
    server: ServerProcess, site: TusSite, client: str
) -> None:
    """The page asks with the same code, so it is the same door."""
    page = f"{server.url}/d/{site.upload_url.rstrip('/').rpartition('/')[2]}/info"
    asked = [site.request("GET", page, {"Dropoff-Code": "x", "X-Forwarded-For": client}) for _ in range(_LIMIT + 1)]
    assert [answer.status for answer in asked] == [403] * _LIMIT + [429]
    assert int(asked[-1].needed("Retry-After")) > 0
    assert _post(site, client, "wrong").status == 429
    right = site.request("GET", page, {"Dropoff-Code": site.code, "X-Forwarded-For": client})
    assert right.status == 200


def test_wrong_codes_of_one_ipv6_customer_count_together(others: list[TusSite], client: str) -> None:
    """The last 64 bits of an address are free for anybody to change."""
    statuses = [_post(other, f"{client[:-1]}{number:x}", "wrong").status for number, other in enumerate(others)]
    assert statuses == [403] * _LIMIT + [429]


def test_address_that_a_stranger_invents_is_not_believed(others: list[TusSite], site: TusSite, client: str) -> None:
    """Entries left of the client's address in the chain are the client's own invention."""
    statuses = [_post(other, f"192.0.2.{number}, {client}", "wrong").status for number, other in enumerate(others)]
    assert statuses == [403] * _LIMIT + [429]
    assert _post(site, "192.0.2.1", "wrong").status == 403


@pytest.mark.parametrize("count", [_FLOOD, pytest.param(10_000, marks=pytest.mark.slow)])
def test_right_code_is_let_in_during_a_flood_from_many_addresses(site: TusSite, count: int) -> None:
    """Thousands of addresses guess at one drop-off, and each right code among them creates at once."""
    with site.connect() as connection:
        answers = [_answer(connection, site, number) for number in range(count)]
    right = [status for number, status in enumerate(answers) if number % 50 == 49]
    assert right == [201] * (count // 50)
    assert answers.count(403) == _LIMIT
    assert answers.count(429) == count - count // 50 - _LIMIT


def _answer(connection: RawConnection, site: TusSite, number: int) -> int:
    code = site.code if number % 50 == 49 else f"wrong {number}"
    headers = {
        "Upload-Length": "5",
        "Dropoff-Code": code,
        "X-Forwarded-For": f"10.{number % 7}.{number // 256}.{number % 256}",
    }
    connection.send(site.message("POST", site.upload_url, site.post_headers(headers)))
    return connection.read_response().status


def test_wrong_codes_at_a_download_are_slowed_with_those_at_creation(
    tmp_path_factory: pytest.TempPathFactory, client: str
) -> None:
    """GET asks for the code too, so it must not be the faster way to try some, whatever upload it names."""
    settings = {
        "LIMITS__WRONG_CODES_PER_HOUR": str(_LIMIT),
        "SERVER__TRUSTED_PROXIES": "127.0.0.1",
        "TUS__DOWNLOAD": "true",
    }
    with ServerProcess(tmp_path_factory.mktemp("downloads"), environment=settings) as server:
        site = server.drop.site
        url = site.upload(b"hello")

        def get(code: str | None, url: str = url) -> Response:
            return site.request("GET", url, {"Dropoff-Code": code, "X-Forwarded-For": client})

        unknown = site.upload_url + "0" * 32
        for number in range(_LIMIT):
            assert_refused(get("wrong", (url, unknown)[number % 2]), 403, "ERR_ACCESS_DENIED")
        assert_refused(get("wrong"), 429, "ERR_TOO_MANY_WRONG_CODES")
        assert_refused(get(None, unknown), 429, "ERR_TOO_MANY_WRONG_CODES")
        assert_refused(_post(site, client, "wrong"), 429, "ERR_TOO_MANY_WRONG_CODES")
        assert get(site.code).body == b"hello"
        assert_refused(get(site.code, unknown), 404)
