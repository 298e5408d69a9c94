"""The real server asks a real site before an upload begins."""

from collections.abc import Iterator

import pytest
from aiohttp import web

from tests.support.hook_server import HookServer
from tests.support.server_process import ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import metadata


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, HookServer]]:
    """Run one site and one server that asks it."""
    with HookServer() as site:
        settings = {
            "PRE_CREATE__WEBHOOK": site.url,
            "PRE_CREATE__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
            "PRE_CREATE__TIMEOUT": "1s",
        }
        with ServerProcess(tmp_path_factory.mktemp("asking"), environment=settings) as server:
            yield server, site


def test_site_refuses_renames_and_is_needed(asking: tuple[ServerProcess, HookServer]) -> None:
    """Its words reach the client, its metadata the operator; without it nothing begins, and nothing is left."""
    server, site = asking
    tree: object = {}

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(tree)

    site.answer = answer
    sent = {"Upload-Length": "0", "Upload-Metadata": metadata(filename="secret-name.txt")}
    tree = {"RejectUpload": True, "HTTPResponse": {"StatusCode": 403, "Body": "not\r\nyou"}}
    refused = server.drop.site.post(sent)
    assert (refused.status, refused.error_code) == (403, "ERR_REFUSED_BY_SITE")
    assert b"not you" in refused.body
    tree = []
    assert server.drop.site.post(sent).status == 503
    assert server.uploads() == []
    tree = {"ChangeFileInfo": {"ID": "../x", "MetaData": {"filename": "case-7.txt"}}}
    made = server.drop.site.post(sent)
    assert made.status == 201
    assert len(token_of(str(made.header("Location")))) == 32
    assert [row["filename"] for row in server.uploads()] == ["case-7.txt"]
    asked = len(site.received)
    wrong = server.drop.site.post({**sent, "Dropoff-Code": "WR0N-GC0D-EMRK-7Q2Z"})
    assert (wrong.status >= 400, len(site.received)) == (True, asked)
    assert "secret-name" not in server.logged() + repr(site.received)


def test_parts_and_their_whole_are_asked_for_as_tusd_does(asking: tuple[ServerProcess, HookServer]) -> None:
    """A part has a size and, from the usual clients, no metadata; the whole has both, and the ids of its parts."""
    server, site = asking
    drop = server.create_drop().site
    site.received.clear()

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    site.answer = answer
    parts = [drop.upload(piece, {"Upload-Concat": "partial"}) for piece in (b"one", b"three")]
    named = {"Upload-Metadata": metadata(filename="whole.txt")}
    whole = {"Upload-Concat": f"final;{' '.join(parts)}", **named}
    for _ in range(2):
        assert drop.post(whole).status == 201
    assert drop.post({**whole, "Upload-Concat": f"final;{drop.upload_url}{'0' * 32}"}).status == 404
    told = [received.json["Event"]["Upload"] for received in site.received]
    ids = [upload_id_of(part) for part in parts]
    usual = {"ID": "", "SizeIsDeferred": False, "Offset": 0, "MetaData": {}, "Storage": None}
    part = {**usual, "IsPartial": True, "IsFinal": False, "PartialUploads": None}
    final = {**usual, "IsPartial": False, "IsFinal": True, "PartialUploads": ids}
    assert told[:4] == [{**part, "Size": 3}, {**part, "Size": 5}, {**final, "Size": 8}, {**final, "Size": 8}]
    assert (told[4]["Size"], told[4]["IsFinal"]) == (0, True)
