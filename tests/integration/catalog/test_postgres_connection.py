"""The files of a connection: nothing below HOME unless it is named; and a sentence for each mistake in it."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dropoff_tus.errors import CatalogUnavailableError
from storage.catalog import CatalogError, migrate, open_catalog
from tests.support.postgres import PostgresServer

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER")


def _refusal(url: str) -> str:
    with pytest.raises(CatalogError) as caught:
        migrate(url)
    return str(caught.value)


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    """Return the start of a URL with a port that is taken, and where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"postgresql://someone@127.0.0.1:{taken.getsockname()[1]}/catalog"


@pytest.mark.parametrize("mode", ["", "?sslmode=prefer", "?sslmode=require"])
@pytest.mark.parametrize("home", ["of strange files", "too long", "a file", "missing", "unset"])
def test_home_is_not_looked_at(
    nobody_listens: str, home: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any file there, or an unreadable one, the connection is tried."""
    folder = tmp_path / "home" / ".postgresql"
    folder.mkdir(parents=True)
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (folder / name).write_text("no certificate at all")
    (tmp_path / "file").touch()
    homes = {
        "of strange files": folder.parent,
        "too long": tmp_path / ("x" * 300),  # cannot be looked at, like one that is another user's
        "a file": tmp_path / "file",
        "missing": tmp_path / "missing",
    }
    if home == "unset":
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", str(homes[home]))
    assert _refusal(nobody_listens + mode).endswith("nothing listens there; is it running?")


def test_password_file_is_used_where_it_is_named(
    postgres: PostgresServer, password_role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the URL or its variable; one below HOME is not."""
    file = tmp_path / ".pgpass"
    file.write_text("*:*:*:visitor:hunter2\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"postgresql://{password_role}@/with_password?host={postgres.folder}"
    assert "refuses the user or the password" in _refusal(url)
    assert migrate(f"{url}&passfile={file}")
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert migrate(url) == []
    file.chmod(0o640)
    assert _refusal(url).endswith("others may read the file that PGPASSFILE names, so it is not used; chmod 600 it")


@pytest.mark.parametrize("option", ["passfile", "sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_file_that_is_named_and_missing_is_a_sentence(nobody_listens: str, option: str, tmp_path: Path) -> None:
    """It names the option: before, it was a socket that is missing, or nothing at all."""
    said = _refusal(f"{nobody_listens}?{option}={tmp_path}/none")
    assert said.endswith(f"the file that {option} names cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("?sslmode=require&sslrootcert={}", "TLS with it fails; look at sslmode"),
        ("?sslmode=require&sslcert={}", "TLS with it fails; look at sslmode"),
        ("?sslmode=verify-full", "or sslmode asks for sslrootcert"),
    ],
)
def test_certificates_that_cannot_be_used_are_a_sentence(
    nobody_listens: str, options: str, why: str, tmp_path: Path
) -> None:
    """None is called an error of the socket."""
    file = tmp_path / "file"
    file.write_text("no certificate at all")
    assert why in _refusal(nobody_listens + options.format(file))


def test_server_without_tls_is_a_sentence() -> None:
    """As one says no to it."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        await writer.drain()
        writer.close()

    async def attempt() -> str:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(_refusal, f"postgresql://someone@127.0.0.1:{port}/catalog?sslmode=require")

    assert "does not offer the TLS that sslmode asks for" in asyncio.run(attempt())


def test_user_id_without_a_name_is_a_sentence(nobody_listens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is given any user id; a user in the URL is enough."""
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    said = _refusal(nobody_listens.replace("someone@", ""))
    assert said.endswith("names no user, and user id 2147483641 has no name; write postgresql://USER@…")
    assert "nothing listens there" in _refusal(nobody_listens)


@pytest.mark.parametrize("port", ["many", "99999"])
def test_port_of_a_variable_that_does_not_exist_is_a_sentence(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver fails with errors of other kinds than its own."""
    monkeypatch.setenv("PGPORT", port)
    assert "a variable PG… is not understood" in _refusal("postgresql://someone@127.0.0.1/catalog")


def test_file_that_vanishes_while_the_server_runs_is_unavailable(
    postgres: PostgresServer, password_role: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no traceback, and the log says which."""
    file = tmp_path / "passwords"
    file.write_text("*:*:*:visitor:hunter2\n")
    file.chmod(0o600)
    url = f"postgresql://{password_role}@/with_password?host={postgres.folder}&passfile={file}"
    migrate(url)

    async def work() -> None:
        async with open_catalog(url) as catalog:
            file.unlink()
            with pytest.raises(CatalogUnavailableError):
                await catalog.dropoffs()

    asyncio.run(work())
    assert "the file that passfile names cannot be read" in caplog.text
