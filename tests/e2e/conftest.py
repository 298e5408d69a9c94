"""One server for all tests that only upload; what changes its settings starts one of its own."""

from collections.abc import Iterator

import pytest

from tests.support.server_process import Drop, ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server with default settings for the whole session."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def drop(server: ServerProcess) -> Drop:
    """Return the drop-off that `init` made: managed, with a code."""
    return server.drop
