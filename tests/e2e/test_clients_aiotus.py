"""aiotus: one file, many files concatenated, resuming, metadata."""

import asyncio
import io
import random

import aiohttp
import aiotus
import pytest
import yarl
from aiotus.core import ServerConfiguration
from aiotus.core import configuration as read_configuration

from tests.e2e.cutting_link import CuttingLink
from tests.e2e.received import assert_received
from tests.support.server_process import Drop, ServerProcess

_QUICK = aiotus.RetryConfiguration(retry_attempts=6, max_retry_period_seconds=0.5)


@pytest.mark.parametrize("chunk_size", [4 << 20, 300_001], ids=["one", "odd"])
def test_aiotus_upload_arrives_whole(server: ServerProcess, drop: Drop, chunk_size: int) -> None:
    """A file arrives whole, in one PATCH or many."""
    content = random.randbytes(1_000_000)
    url = asyncio.run(
        aiotus.upload(
            drop.upload_url,
            io.BytesIO(content),
            {"filename": "aiotus – ü.bin".encode()},
            config=_QUICK,
            headers=drop.headers,
            chunksize=chunk_size,
        )
    )
    assert_received(server, drop, str(url), content, filename="aiotus – ü.bin")


def test_aiotus_upload_of_empty_file_is_complete(server: ServerProcess, drop: Drop) -> None:
    """An empty file is complete, and the HEAD that aiotus sends afterwards says so."""
    url = asyncio.run(
        aiotus.upload(drop.upload_url, io.BytesIO(b""), {"name": b"empty"}, config=_QUICK, headers=drop.headers)
    )
    assert_received(server, drop, str(url), b"", filename="empty")


def test_aiotus_upload_multiple_concatenates_in_order(server: ServerProcess, drop: Drop) -> None:
    """Parts of different sizes, one of them empty, become one upload in the order given."""
    parts = [random.randbytes(length) for length in (300_000, 1, 0, 70_000, 65_536)]
    url = asyncio.run(
        aiotus.upload_multiple(
            drop.upload_url,
            [io.BytesIO(part) for part in parts],
            {"filename": b"joined.bin"},
            config=_QUICK,
            headers=drop.headers,
            chunksize=100_000,
        )
    )
    assert url is not None
    final = str(url.with_host("127.0.0.1").with_port(server.port) if url.host is None else url)
    assert_received(server, drop, final, b"".join(parts), filename="joined.bin")


def test_aiotus_metadata_reads_what_was_sent(drop: Drop) -> None:
    """The metadata come back in order, also empty, binary and missing values; the code does not."""
    sent: dict[str, bytes | None] = {
        "filename": b"m.bin",
        "binary": bytes(range(256)),
        "empty": b"",
        "flag": None,
        "code": (drop.code or "").encode(),
    }

    async def roundtrip() -> aiotus.Metadata | None:
        url = await aiotus.upload(drop.upload_url, io.BytesIO(b"x"), sent, config=_QUICK)
        assert url is not None
        return await aiotus.metadata(url, config=_QUICK)

    received = asyncio.run(roundtrip())
    assert received is not None
    assert list(received) == ["filename", "binary", "empty", "flag"]
    # tus makes no difference between an empty value and none, and clients read it either way.
    assert {key: value or b"" for key, value in received.items()} == {
        "filename": b"m.bin",
        "binary": bytes(range(256)),
        "empty": b"",
        "flag": b"",
    }


def test_aiotus_link_cut_inside_a_request_retries_by_itself(server: ServerProcess, drop: Drop) -> None:
    """After a cut inside a PATCH aiotus asks where it stands and goes on."""
    content = random.randbytes(3_000_000)

    async def upload(endpoint: str) -> str:
        return str(
            await aiotus.upload(
                endpoint,
                io.BytesIO(content),
                {"filename": b"cut.bin"},
                config=_QUICK,
                headers=drop.headers,
                chunksize=1_000_000,
            )
        )

    with CuttingLink(server.port, cut_after_bytes=1_500_000) as link:
        url = asyncio.run(upload(link.through(drop.upload_url)))
    assert link.cuts == 1
    assert_received(server, drop, url, content, filename="cut.bin")


def test_aiotus_uploads_side_by_side_do_not_mix(server: ServerProcess, drop: Drop) -> None:
    """Uploads that run at the same time each keep their own bytes and name."""
    contents = {f"side-{number}.bin": random.randbytes(150_000 + number) for number in range(6)}

    async def upload_all() -> list[str]:
        urls = await asyncio.gather(
            *(
                aiotus.upload(
                    drop.upload_url,
                    io.BytesIO(content),
                    {"filename": name.encode()},
                    config=_QUICK,
                    headers=drop.headers,
                    chunksize=40_000,
                )
                for name, content in contents.items()
            )
        )
        return [str(url) for url in urls]

    for (name, content), url in zip(contents.items(), asyncio.run(upload_all()), strict=True):
        assert_received(server, drop, url, content, filename=name)


def test_aiotus_server_names_its_extensions(drop: Drop) -> None:
    """OPTIONS lists the version and the extensions that aiotus looks for."""

    async def configuration() -> ServerConfiguration:
        async with aiohttp.ClientSession() as session:
            return await read_configuration(session, yarl.URL(drop.upload_url))

    found = asyncio.run(configuration())
    assert found.protocol_versions == ["1.0.0"]
    assert set(found.protocol_extensions) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "checksum",
        "expiration",
        "termination",
        "concatenation",
    }
