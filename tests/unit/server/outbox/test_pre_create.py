"""The question before an upload: the parts of an answer that count, and that a hostile one gains nothing."""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from aiohttp import web

from dropoff_tus.errors import DropoffError, RefusedBySiteError, SiteUnavailableError
from dropoff_tus.messages import Create
from dropoff_tus.model import Metadata, Role
from server.outbox.outbound import OutboundClient, OutboundError
from server.outbox.pre_create import PreCreate, PreCreateSettings
from server.settings.addresses import is_allowed
from tests.support.aio import async_test
from tests.support.fake_clock import FakeClock
from tests.support.hook_server import Handler, HookServer

_LOCAL = (ipaddress.ip_network("127.0.0.0/8"),)
_CREATE = Create(Role.REGULAR, 5, Metadata((("filename", b"name"), ("note", b"private"), ("sha256", b"0" * 64))))
_HEADERS = [("Cookie", "a=1"), ("cookie", "b=2"), ("Dropoff-Code", "code"), ("X-Other", "other")]
_SECONDS = 0.5
_LINK_LOCAL = "http://169.254.169.254/latest"


def _rejects(status: int, text: str) -> object:
    return {"RejectUpload": True, "HTTPResponse": {"StatusCode": status, "Body": text}}


@pytest.fixture(scope="module")
def site() -> Iterator[HookServer]:
    """Run one site."""
    with HookServer() as running:
        yield running


async def _ask(
    site: HookServer,
    answer: Handler,
    *,
    sent: Sequence[tuple[str, str]] = _HEADERS,
    **settings: Any,  # noqa: ANN401 - each has its type
) -> Create:
    site.received.clear()
    site.answer = answer
    client = OutboundClient(site.url, _LOCAL, _SECONDS)
    try:
        check = PreCreate(client, FakeClock(), PreCreateSettings(**settings))
        return await check.approve("drop", _CREATE, sent)
    finally:
        await client.close()


def _says(tree: object, status: int = 200) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(tree, status=status)

    return answer


@async_test
async def test_question_tells_what_is_listed_and_no_more(site: HookServer) -> None:
    """Neither a code nor what is not listed."""
    assert await _ask(site, _says({}), headers=("Cookie",), metadata=("filename",)) == _CREATE
    (got,) = site.received
    event = got.json["Event"]
    assert got.json["Type"] == "pre-create"
    assert event["HTTPRequest"] == {
        "Method": "POST",
        "URI": "/files/drop/",
        "RemoteAddr": "",
        "Header": {"Cookie": ["a=1", "b=2"]},
    }
    assert (event["Upload"]["ID"], event["Upload"]["Size"], event["Upload"]["MetaData"]) == (
        "",
        5,
        {"filename": "name"},
    )
    assert got.headers["Cookie"] == "a=1; b=2"
    for secret in (b"private", b'"code"', b"other"):
        assert secret not in got.body + repr(got.headers).encode()


@async_test
async def test_listed_headers_are_forwarded_as_headers_but_for_those_of_the_question(site: HookServer) -> None:
    """As tusd does, for sites that read a session there; none of them can pass for a signature, or part the request."""
    names = ("authorization", "host", "content-length", "webhook-signature", "hook-name", "x-odd")
    odd = [("Authorization", "Bearer x"), *((name, "1") for name in names[1:-1]), ("X-Odd", "a\udc80")]
    await _ask(site, _says({}), sent=odd, headers=names)
    (got,) = site.received
    assert got.headers["Authorization"] == "Bearer x"
    assert got.headers["Hook-Name"] == "pre-create"
    assert got.headers["Content-Length"] == str(len(got.body))
    assert got.headers["Host"].startswith("127.0.0.1:")
    assert not {name.lower() for name in got.headers} & {"webhook-signature", "x-odd"}


@async_test
async def test_name_that_leads_elsewhere_the_second_time_is_refused_there(
    site: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that is connected to is looked at each time, whatever was answered before."""
    site.received.clear()
    site.answer = None
    found = iter(("127.0.0.1", "127.0.0.2"))

    async def resolve(_host: object, port: int, **_options: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(found), port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    client = OutboundClient(f"http://rebound.example:{site.port}/", (ipaddress.ip_network("127.0.0.1"),), 5)
    assert (await client.post(b"{}", {}, most_bytes=10)).status == 200
    with pytest.raises(OutboundError, match="not allowed"):
        await client.post(b"{}", {}, most_bytes=10)
    await client.close()
    assert len(site.received) == 1


@async_test
async def test_metadata_of_the_site_takes_the_place_of_the_clients_but_for_digests(site: HookServer) -> None:
    """Its words on ids, places and headers count for nothing."""
    tree = {
        "HTTPResponse": {
            "StatusCode": 302,
            "Header": {"Location": _LINK_LOCAL, "X": "a\r\nSet-Cookie: b"},
        },
        "ChangeFileInfo": {
            "ID": "../../etc/passwd",
            "Storage": {"Path": "/etc/passwd"},
            "MetaData": {"case": "7", "SHA256": "f" * 64},
        },
    }
    made = await _ask(site, _says(tree))
    assert made.metadata.pairs == (("case", b"7"), ("sha256", b"0" * 64))
    assert (made.role, made.length, made.parts) == (_CREATE.role, _CREATE.length, _CREATE.parts)


@pytest.mark.parametrize(
    ("version", "tree", "sent", "status", "text"),
    [
        ("v2", _rejects(403, "no\r\nSet-Cookie: a\x1b[1m"), 200, 403, None),
        ("v2", _rejects(200, "x" * 9999), 200, 400, "x" * 500),
        ("v2", {"RejectUpload": True}, 200, 400, "the site behind this server does not take this upload"),
        ("v1", "no", 418, 418, '"no"'),
    ],
    ids=["words", "long", "bare", "v1"],
)
@async_test
async def test_refusal_is_told_as_one_plain_line(
    site: HookServer, version: str, tree: object, sent: int, status: int, text: str | None
) -> None:
    """With a status from 400 to 499, whatever the site wrote."""
    with pytest.raises(RefusedBySiteError) as caught:
        await _ask(site, _says(tree, sent), version=version)
    assert (caught.value.status, caught.value.message) == (status, text or "no Set-Cookie: a [1m")


async def _redirect(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": _LINK_LOCAL})


async def _redirect_to_itself(request: web.Request) -> web.StreamResponse:
    if request.path == "/again":
        return web.json_response({})
    return web.Response(status=307, headers={"Location": "/again"})


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(1 << 30)})
    await response.prepare(request)
    for _ in range(1 << 14):
        await response.write(bytes(1 << 16))
    return response


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b" ")
        await asyncio.sleep(_SECONDS / 5)
    return response


@async_test
async def test_endless_answer_in_the_first_form_lets_nothing_begin(site: HookServer) -> None:
    """Even with a good status: an answer that was not read to its end is none."""
    with pytest.raises(SiteUnavailableError):
        await _ask(site, _endless, version="v1")


@pytest.mark.parametrize(
    "answer",
    [
        _redirect,
        _redirect_to_itself,
        _endless,
        _drip,
        _says([]),
        _says({}, 500),
        _says({}, 404),
        _says({"RejectUpload": "no"}),
        _says({"ChangeFileInfo": {"MetaData": {"a b": "c"}}}),
        _says({"ChangeFileInfo": {"MetaData": {"a\r\nb": "c"}}}),
        _says({"ChangeFileInfo": {"MetaData": {"a": 1}}}),
        _says({"ChangeFileInfo": {"MetaData": {"a": "x" * 20000}}}),
        _says({"ChangeFileInfo": {"MetaData": {"Code": "x"}}}),
    ],
    ids=[
        "redirect",
        "redirect to itself",
        "1 GiB",
        "drip",
        "list",
        "500",
        "404",
        "text",
        "space",
        "crlf",
        "number",
        "large",
        "code",
    ],
)
@async_test
async def test_answer_that_is_none_lets_nothing_begin(site: HookServer, answer: Handler) -> None:
    """503, in bounded time, and nothing else is asked."""
    began = time.monotonic()
    with pytest.raises(SiteUnavailableError):
        await _ask(site, answer)
    assert time.monotonic() - began < 40 * _SECONDS  # of the 200 that the slowest answer takes
    assert len(site.received) == 1


@async_test
async def test_body_is_read_up_to_what_was_asked_for(site: HookServer) -> None:
    """One byte more, and none of it is kept; the rest of a long one never comes over."""
    sent: list[int] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(1 << 30)})
        await response.prepare(request)
        for _ in range(1 << 14):
            sent.append(1 << 16)
            await response.write(bytes(1 << 16))
        return response

    async def ten(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"0123456789")

    client = OutboundClient(site.url, _LOCAL, 10)
    site.answer = ten
    assert (await client.post(b"{}", {}, most_bytes=10)).body == b"0123456789"
    assert (await client.post(b"{}", {}, most_bytes=9)).body is None
    site.answer = endless
    assert (await client.post(b"{}", {}, most_bytes=1 << 16)).body is None
    await client.close()
    assert sum(sent) < 1 << 26


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10_000),
        (b"HTTP/1.1 200 OK\r\na: ", b"a" * 65536),
        (b"HTTP/1.1 ", b"2" * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 10_000),
    ],
    ids=["interim answers", "extension of a chunk", "headers", "header", "status", "trailers"],
)
@async_test
async def test_answer_without_end_is_read_so_far_and_no_further(start: bytes, more: bytes) -> None:
    """With any endless part: no receiver keeps the server busy until the time is over."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(start)
            while True:
                writer.write(more)
                sent += len(more)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(endless, "127.0.0.1", 0)
    client = OutboundClient(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", _LOCAL, 2)
    with pytest.raises(OutboundError, match=r"in time|cut off"):
        await client.post(b"{}", {}, most_bytes=1 << 16)
    await client.close()
    listener.close()
    assert sent < 16 << 20  # with what the kernel's buffers take


@pytest.mark.parametrize(
    ("url", "allowed", "phrase"),
    [
        ("http://127.0.0.1:{port}/", "10.0.0.0/8", "not allowed"),
        ("http://localhost:{port}/", "10.0.0.0/8", "not allowed"),
        ("https://localhost:{port}/", "10.0.0.0/8", "not allowed"),
        ("https://[::ffff:127.0.0.1]:{port}/", "10.0.0.0/8", "not allowed"),
        ("https://127.0.0.1:{port}/", "127.0.0.0/8", "cannot connect"),
        ("http://127.0.0.1:1/", "127.0.0.0/8", "cannot connect"),
    ],
    ids=["literal", "name", "name with TLS", "mapped", "no TLS there", "closed"],
)
@async_test
async def test_address_is_looked_at_where_the_socket_is_made(
    site: HookServer, url: str, allowed: str, phrase: str
) -> None:
    """A name that leads elsewhere than it did gains nothing: no byte is sent there."""
    site.received.clear()
    client = OutboundClient(url.format(port=site.port), (ipaddress.ip_network(allowed),), 5)
    with pytest.raises(OutboundError, match=phrase):
        await client.post(b"{}", {}, most_bytes=10)
    await client.close()
    assert site.received == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),  # noqa: S104 - to be refused
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:192.168.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("8.8.4.4", True),
        ("2002:808:808::1", False),
        ("64:ff9b::808:808", True),
        ("192.0.0.192", False),
        ("192.88.99.1", False),
        ("2002:c058:6301::", False),
        ("64:ff9b::c058:6301", False),
        ("64:ff9b:1::a00:1", False),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::127.0.0.1", False),
        ("::8.8.8.8", False),
        ("::ffff:0:127.0.0.1", False),
        ("100::1", False),
        ("100:0:0:1::1", False),
        ("2001::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("3fff:fff::1", False),
        ("5f00::1", False),
        ("4000::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
    ],
)
def test_only_public_addresses_are_allowed_unlisted(address: str, public: bool) -> None:
    """An IPv6 address counts as the IPv4 one that it stands for; without TLS all have to be listed."""
    one = ipaddress.ip_address(address)
    assert is_allowed(one, (), plain=False) is public
    assert not is_allowed(one, (), plain=True)
    assert is_allowed(one, (ipaddress.ip_network(address),), plain=True)
    assert issubclass(SiteUnavailableError, DropoffError)
