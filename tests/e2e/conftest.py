"""Servers that many modules share; tests that change settings or stop a server start one of their own."""

from collections.abc import Iterator

import pytest

from tests.support.server_process import Drop, ServerProcess
from tests.support.tus_raw import TusSite

LIMIT_BYTES = 50_000_000
DROP_LIMIT_BYTES = 100_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server with default settings for the whole session, started as an operator starts it."""
    with ServerProcess(tmp_path_factory.mktemp("server"), forked=False) as running:
        yield running


@pytest.fixture(scope="session")
def drop(server: ServerProcess) -> Drop:
    """Return the drop-off that `init` made: managed, with a code."""
    return server.drop


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server with a size limit, and patience with wrong codes, for the tests of what is refused."""
    settings = {"TUS__MAX_UPLOAD_BYTES": str(LIMIT_BYTES), "LIMITS__WRONG_CODES_PER_HOUR": "1000000"}
    with ServerProcess(tmp_path_factory.mktemp("limited"), environment=settings) as running:
        yield running


@pytest.fixture(scope="session")
def limited_drop(limited: ServerProcess) -> Drop:
    """Return the first drop-off of that server."""
    return limited.drop


@pytest.fixture(scope="session")
def site(limited_drop: Drop) -> TusSite:
    """Return that drop-off for the raw client."""
    return limited_drop.site


@pytest.fixture(scope="session")
def other_site(limited: ServerProcess) -> TusSite:
    """Return another drop-off of that server, with a smaller limit of its own."""
    return limited.create_drop("--max-upload-bytes", str(DROP_LIMIT_BYTES), name="other").site
