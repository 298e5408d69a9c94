"""tuspy, synchronous and asynchronous: chunks, checksums, resuming, empty files."""

import asyncio
import io
import random

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from tests.e2e.cutting_link import CuttingLink
from tests.e2e.received import assert_received
from tests.support.server_process import Drop, ServerProcess

# AsyncUploader passes ssl=None to aiohttp, which asks for True instead.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")


@pytest.fixture
def client(drop: Drop) -> TusClient:
    """Return a client with the code in its headers."""
    return TusClient(drop.upload_url, headers=dict(drop.headers))


@pytest.mark.parametrize("chunk_size", [None, 200_000, 333_333], ids=["one", "even", "odd"])
@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
def test_tuspy_upload_arrives_whole(
    server: ServerProcess, drop: Drop, client: TusClient, chunk_size: int | None, checksum: bool
) -> None:
    """A file arrives whole in one PATCH or many, with a SHA-1 of each or without."""
    content = random.randbytes(1_000_000)
    uploader = client.uploader(
        file_stream=io.BytesIO(content),
        metadata={"filename": "tuspy.bin"},
        upload_checksum=checksum,
        **({} if chunk_size is None else {"chunk_size": chunk_size}),
    )
    uploader.upload()
    assert uploader.offset == len(content)
    assert_received(server, drop, uploader.url, content, filename="tuspy.bin")


@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
def test_tuspy_async_upload_arrives_whole(server: ServerProcess, drop: Drop, client: TusClient, checksum: bool) -> None:
    """The asynchronous uploader, which speaks through aiohttp, arrives whole too."""
    content = random.randbytes(1_000_000)

    async def upload() -> str | None:
        uploader = client.async_uploader(
            file_stream=io.BytesIO(content),
            metadata={"filename": "async.bin"},
            upload_checksum=checksum,
            chunk_size=300_000,
        )
        await uploader.upload()
        return str(uploader.url)

    assert_received(server, drop, asyncio.run(upload()), content, filename="async.bin")


def test_tuspy_async_uploads_side_by_side_do_not_mix(server: ServerProcess, drop: Drop, client: TusClient) -> None:
    """Uploads that run at the same time each keep their own bytes and name."""
    contents = {f"side-{number}.bin": random.randbytes(200_000 + number) for number in range(8)}

    async def upload(name: str) -> str:
        uploader = client.async_uploader(
            file_stream=io.BytesIO(contents[name]), metadata={"filename": name}, chunk_size=50_000
        )
        await uploader.upload()
        return str(uploader.url)

    async def upload_all() -> list[str]:
        return list(await asyncio.gather(*map(upload, contents)))

    for (name, content), url in zip(contents.items(), asyncio.run(upload_all()), strict=True):
        assert_received(server, drop, url, content, filename=name)


def test_tuspy_empty_file_without_metadata_is_complete_at_once(
    server: ServerProcess, drop: Drop, client: TusClient
) -> None:
    """An empty file with tuspy's empty Upload-Metadata header is complete with its creation."""
    uploader = client.uploader(file_stream=io.BytesIO(b""))
    uploader.upload()
    assert_received(server, drop, uploader.url, b"", filename=None)


def test_tuspy_empty_metadata_value_is_kept(server: ServerProcess, drop: Drop, client: TusClient) -> None:
    """A key with an empty value (tuspy sends a space after the key) is an empty name, not a missing one."""
    uploader = client.uploader(file_stream=io.BytesIO(b"x"), metadata={"filename": "", "note": "é"})
    uploader.upload()
    assert_received(server, drop, uploader.url, b"x", filename="")


def test_tuspy_code_in_metadata_is_accepted(server: ServerProcess, drop: Drop) -> None:
    """A script that sends the code as metadata needs no header."""
    content = random.randbytes(1000)
    uploader = TusClient(drop.upload_url).uploader(
        file_stream=io.BytesIO(content), metadata={"filename": "code.bin", "code": drop.code}
    )
    uploader.upload()
    assert_received(server, drop, uploader.url, content, filename="code.bin")


def test_tuspy_resume_by_url_goes_on_at_offset(server: ServerProcess, drop: Drop, client: TusClient) -> None:
    """A second uploader that knows only the upload URL, and no code, sends the rest."""
    content = random.randbytes(500_000)
    first = client.uploader(file_stream=io.BytesIO(content), metadata={"filename": "resume.bin"}, chunk_size=100_000)
    first.upload(stop_at=200_000)
    second = TusClient(drop.upload_url).uploader(file_stream=io.BytesIO(content), url=first.url)
    assert second.offset == 200_000
    second.upload()
    assert_received(server, drop, first.url, content, filename="resume.bin")


@pytest.mark.parametrize("checksum", [False, True], ids=["plain", "checksum"])
def test_tuspy_link_cut_inside_a_request_retries_by_itself(
    server: ServerProcess, drop: Drop, client: TusClient, checksum: bool
) -> None:
    """After a cut the client goes on from what had arrived or, with a checksum, from the last whole chunk."""
    content = random.randbytes(3_000_000)
    with CuttingLink(server.port, cut_after_bytes=600_000) as link:
        uploader = client.uploader(
            file_stream=io.BytesIO(content),
            metadata={"filename": "cut.bin"},
            chunk_size=1_000_000,
            upload_checksum=checksum,
            retries=3,
            retry_delay=1,
            url=link.through(client.uploader(file_stream=io.BytesIO(content)).create_url()),
        )
        uploader.upload()
    assert link.cuts == 1
    assert_received(server, drop, uploader.url, content, filename=None)


def test_tuspy_wrong_code_is_refused(drop: Drop) -> None:
    """Without the right code tuspy reports the 403."""
    client = TusClient(drop.upload_url, headers={"Dropoff-Code": "0000-0000-0000-0000"})
    with pytest.raises(TusCommunicationError) as refused:
        client.uploader(file_stream=io.BytesIO(b"x")).upload()
    assert refused.value.status_code == 403
